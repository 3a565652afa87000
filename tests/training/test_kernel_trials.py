"""What is made of a kernel that agrees with the other form, differs, or does not run."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import pytest

from drsformer_jax.models.config import PRESETS, DRSformerConfig
from drsformer_jax.models.drsformer import NormalisedFeedForward
from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image
from drsformer_jax.ops.tpu import forms
from drsformer_jax.training import kernel_trials
from drsformer_jax.training.kernel_trials import Case, Trial, cases, settled, told, tried

NAME = "NormalisedFeedForward"
TINY = PRESETS["tiny"]
SMALL = dataclasses.replace(TINY, dim=2, heads=(1, 1, 1, 1))


def first_case() -> Case:
    return next(case for case in cases(SMALL, 1, 8, 8) if case.kernel == NAME)


def with_kernel(monkeypatch: pytest.MonkeyPatch, form: Any, why_not: Any = None) -> None:
    """Any function of (image, params, epsilon) in place of the kernel."""
    reason = why_not or (lambda image, params, epsilon: None)
    monkeypatch.setattr(forms, "kernels", lambda: {NAME: forms.Kernel(form, reason)})


def by_layers(image: Image, params: Any, epsilon: float) -> Image:
    """The other form: layer by layer, with MSFN's own in the middle."""
    off = dataclasses.replace(image.how, kernels="off")
    image = dataclasses.replace(image, how=off)
    return NormalisedFeedForward(SMALL).apply({"params": params}, image)


def almost(factor: float) -> Any:
    """The other form, the gradient of whose image is a little wrong."""

    def form(image: Image, params: Any, epsilon: float) -> Image:
        y = by_layers(image, params, epsilon)
        image = image.map(lambda x: x * (factor - 1))
        return y.map(lambda y: y + image.array - jax.lax.stop_gradient(image.array))

    return form


@pytest.mark.parametrize(("factor", "agrees"), [(1.0, True), (2.0, False), (float("nan"), False)])
def test_gradients_count_too(factor: float, agrees: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernel(monkeypatch, almost(factor))
    # In full precision those of a few numbers count as well.
    trial = tried(first_case(), Execution(platform="tpu", precision="highest"))
    assert trial.agrees is agrees
    names = {"norm2/scale", "norm2/bias", "ffn/project_in/kernel"}
    assert names | {"value", "image"} <= trial.differences.keys()
    assert all(trial.differences[name] == 0 for name in names) or factor != factor


def test_what_does_not_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(image: Image, params: Any, epsilon: float) -> Image:
        raise NotImplementedError("no such operation\nand more")

    with_kernel(monkeypatch, broken)
    trial = tried(first_case(), Execution(platform="tpu"))
    assert (trial.agrees, trial.reason) == (False, "NotImplementedError: no such operation")
    assert told([trial]) == f"kernels: {NAME} NotImplementedError: no such operation: not taken"
    # What a kernel cannot do is no fault: there the other form is taken.
    with_kernel(monkeypatch, broken, lambda image, params, epsilon: "too small")
    trial = tried(first_case(), Execution(platform="tpu"))
    assert (trial.agrees, trial.reason) == (True, "too small")


def test_settled_on_a_tpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = {"value": 1e-3}

    def pretended(case: Case, how: Any) -> Trial:
        return Trial(case, differences, {"value": 1e-2})

    monkeypatch.setattr(kernel_trials, "tried", pretended)
    assert settled(TINY, 4, 32, 32) == (TINY, [])  # on CPU
    planned = dataclasses.replace(TINY, platform="tpu")
    assert settled(planned, 4, 32, 32) == (planned, [])
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    for kernels in ("on", "off"):
        chosen = dataclasses.replace(TINY, kernels=kernels)
        assert settled(chosen, 4, 32, 32) == (chosen, [])
    found, trials = settled(TINY, 4, 32, 32)
    names = ("NormalisedAttention", NAME, "SparseTransformerBlock")
    assert found.kernels == names
    agrees = "agrees (largest difference 1.0e-03) and is taken"
    assert told(trials) == "kernels: " + "; ".join(f"{name} {agrees}" for name in names)
    differences["value"] = 1e-1
    found, trials = settled(TINY, 4, 32, 32)
    assert found.kernels == ()
    differs = "differs by 1.0e-01: not taken"
    assert told(trials) == "kernels: " + "; ".join(f"{name} {differs}" for name in names)


def test_every_size_of_the_network_is_tried() -> None:
    """Twice the channels leave level 1."""
    full = [(4, 48, 128, 128), (4, 96, 128, 128)]
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for case in cases(DRSformerConfig(), 4, 128, 128):
        shapes.setdefault(case.kernel, []).append(case.shape)
    blocks = [*full, (4, 96, 64, 64), (4, 192, 32, 32), (4, 384, 16, 16)]
    assert shapes == {
        "FeatureCompensator": full,
        "NormalisedAttention": blocks,
        NAME: blocks,
        "SparseTransformerBlock": blocks,
    }


@pytest.mark.parametrize(
    ("difference", "of_form", "agrees"),
    [(1e-1, 8e-2, True), (1e-1, 4e-2, False), (5e-5, None, True), (2e-4, None, False)],
)
def test_a_kernel_may_round_as_the_other_form_does(
    difference: float, of_form: float | None, agrees: bool
) -> None:
    rounded = {} if of_form is None else {"image": of_form}
    assert Trial(first_case(), {"value": 0.0, "image": difference}, rounded).agrees is agrees


def test_in_bfloat16_both_are_held_against_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernel(monkeypatch, by_layers)
    trial = tried(first_case(), Execution(dtype="bfloat16", platform="tpu"))
    assert trial.agrees
    assert 1e-3 < trial.differences["value"] == trial.of_form["value"] < 2e-2
