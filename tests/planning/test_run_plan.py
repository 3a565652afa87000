"""What a plan makes of the compiler's numbers."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from configs import base
from drsformer_jax.errors import UserError
from drsformer_jax.planning import planner
from drsformer_jax.planning.ahead_of_time import Program
from drsformer_jax.planning.chips import CHIPS, GIB, chip_of, communication_seconds
from drsformer_jax.planning.compiled_text import Operation
from drsformer_jax.planning.plan import Target, largest_batch
from drsformer_jax.planning.plan_report import document, text
from drsformer_jax.planning.planner import make_plan, planned_options, target_of
from drsformer_jax.training.sharding import make_mesh

# Both as libtpu says it.
ALL = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.31G of 15.75G hbm. Exce"
SCRATCH = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries (1.5T) exceeds available HBM (15.75G). HLO module: jit_train_step"
)


def config(**changes: Any) -> dict[str, Any]:
    found = base.get_config()
    found.model.preset = "tiny"
    return {**found.to_dict(), **changes}


def one_chip(monkeypatch: pytest.MonkeyPatch, compiled: Any) -> Target:
    """A v5e whose compiler gives `compiled`, or raises it.

    It refuses a larger batch, too, which would need 1 GiB and three 16ths for every image, and
    another quarter of a GiB if blocks are not computed again.
    """
    planned: list[int] = []

    def compile_training(model: Any, mesh: Any, batch: int, *args: Any, **kwargs: Any) -> Program:
        planned.append(batch)
        if batch > planned[0]:
            image = 3 / 16 if model.remat is None else 7 / 16
            needed = SCRATCH.replace("1.5T", f"{1 + batch * image}G")
            raise jax.errors.JaxRuntimeError(needed)
        if isinstance(compiled, Exception):
            raise compiled
        return compiled

    monkeypatch.setattr(planner, "compile_training", compile_training)
    monkeypatch.setattr(planner, "training_flops", lambda *args, **settings: 2e12)
    monkeypatch.setattr(planner, "model_flops", lambda *args: 1.5e12)
    mesh = make_mesh(devices=jax.devices()[:1])
    return Target("v5e:1x1", "tpu", mesh, int(15.75 * GIB), chip_of("v5e:1x1"))


def test_estimates_of_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Operation("work", "fusion", "", 3, 8 * 10**7, 4)
    kernel = Operation("kernel", "custom-call", "", 2, 3 * 10**7, 4, is_kernel=True)
    program = Program([work, kernel], GIB, GIB, GIB, 3 * GIB, 0, 1.0, 1.0, 1.0)
    planned = make_plan(planned_options(config(), None), one_chip(monkeypatch, program))
    found = document(planned)
    assert (found["bytes_per_chip"], found["fits"]) == (4 * GIB, True)
    assert found["estimated_step_ms"] == pytest.approx(200)  # 3e8 cycles at 1.5 GHz
    assert found["images_per_second"] == pytest.approx(16 / 0.2)
    assert found["estimated_kernel_megacycles"] == 60
    assert "40.0 of them kernels by their schedules" in text(planned)
    # Of the 197 TFLOP/s of a v5e; what is computed again does not count.
    assert found["share_of_peak"] == pytest.approx(1.5 / (0.2 * 197))
    assert "3.8% of 197 TFLOP/s" in text(planned)
    # By proportion 63 images would seem to fit.
    assert found["larger"] == {"batch_per_chip": 192, "bytes_per_chip": 37 * GIB}
    assert found["largest_batch_per_chip"] == int((15.75 - 1) * 16 / 3)


@pytest.mark.parametrize(("images", "gib", "needed"), [(16, 8, False), (64, 20, True)])
def test_whether_recomputation_is_needed(
    images: int, gib: int, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program([], GIB, GIB, GIB, 3 * GIB, 0, 1.0, 1.0, 1.0)
    options = planned_options(config(global_batch=images), None)
    planned = make_plan(options, one_chip(monkeypatch, program))
    found = document(planned)
    # A quarter of a GiB more an image.
    assert found["bytes_without_remat"] == gib * GIB
    assert found["remat_needed"] is needed
    assert f"without it about {gib}.00 GiB a device (estimate): {'' if needed else 'not '}" in text(
        planned
    )


def test_recomputation_that_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program([], GIB, GIB, GIB, 3 * GIB, 0, 1.0, 1.0, 1.0)
    settings = config()
    settings["model"]["remat"] = False
    options = planned_options(settings, None)
    found = document(make_plan(options, one_chip(monkeypatch, program)))
    assert (found["recomputed"], found["remat_needed"]) == (False, False)
    refused = make_plan(options, one_chip(monkeypatch, jax.errors.JaxRuntimeError(ALL)))
    assert document(refused)["remat_needed"] is None
    assert "--config.model.remat=True" in text(refused)


def test_a_large_program_does_not_hide_how_little_an_image_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = Program([], GIB, GIB, GIB, GIB, 2 * GIB, 1.0, 1.0, 1.0)
    found = document(make_plan(planned_options(config(), None), one_chip(monkeypatch, program)))
    # 110 images seem to fit, where 16 add 2 GiB to the program's 2; thrice that, in whole batches.
    assert found["larger"]["batch_per_chip"] == 336


@pytest.mark.parametrize(("message", "gib"), [(ALL, 20.31), (SCRATCH, 1536)])
def test_program_that_does_not_fit(
    message: str, gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = one_chip(monkeypatch, jax.errors.JaxRuntimeError(message))
    planned = make_plan(planned_options(config(), None), target)
    found = document(planned)
    assert found["fits"] is False
    assert found["bytes_per_chip"] / GIB == pytest.approx(gib, rel=1e-6)
    assert found["collectives"] == {}
    assert [found["estimated_step_ms"], found["images_per_second"]] == [None, None]
    assert found["largest_batch_per_chip"] == int(15.75 * 16 / gib)
    assert "DOES NOT FIT" in text(planned)


def test_other_errors_of_the_compiler_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    target = one_chip(monkeypatch, jax.errors.JaxRuntimeError("INTERNAL: what is this"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="what is this"):
        make_plan(planned_options(config(), None), target)


def test_largest_batch() -> None:
    assert largest_batch(126, (0, 16), (4, 36)) == 22
    assert largest_batch(5, (0, 10), (4, 30)) == 0


def test_rings() -> None:
    chip, size = CHIPS["v5e"], 10**9
    of_bytes = 8 / chip.link_bits_per_second
    for kind, devices, fsdp, sent in (
        ("all-reduce", 4, 1, 1.5e9),
        ("all-gather", 8, 2, 0.5e9),
        ("reduce-scatter", 8, 2, 1e9),
        ("collective-permute", 8, 2, 1e9),
    ):
        seconds = communication_seconds({kind: (1, size)}, chip, devices, fsdp)
        assert seconds == pytest.approx(sent * of_bytes), kind


def test_stage_with_most_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program([], 0, 0, 0, GIB, 0, 1.0, 1.0, 1.0)
    target = one_chip(monkeypatch, program)
    settings = config(progressive=[(10, 8, 64), (10, 4, 128), (10, 2, 160)])
    planned = make_plan(planned_options(settings, None), target)
    assert (planned.stage.batch_size, planned.stage.patch_size) == (4, 128)
    assert "of 3 stages" in text(planned)
    planned = make_plan(planned_options(settings, 6), target)
    assert (planned.stage.batch_size, planned.stage.patch_size) == (6, 160)


def test_batch_is_checked_like_that_of_a_configuration() -> None:
    with pytest.raises(UserError, match="--batch 0"):
        planned_options(config(), 0)
    with pytest.raises(UserError, match=r"config\.accumulation_steps: must divide .* of 6"):
        planned_options(config(accumulation_steps=4), 6)


def test_unknown_chip_and_absent_devices() -> None:
    options = planned_options(config(), None)
    with pytest.raises(UserError, match="'v0' is none of v4, v5e"):
        target_of("v0:1x1", "tpu", options)
    with pytest.raises(UserError, match=r"--topology 4096: this machine has \d+ cpu"):
        target_of("4096", "cpu", options)
    if not any(device.platform == "gpu" for device in jax.devices()):
        with pytest.raises(UserError, match="--device gpu: JAX has no such device"):
            target_of("1", "gpu", options)
