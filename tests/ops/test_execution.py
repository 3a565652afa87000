"""How the network is computed: what is chosen where it is left open."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from drsformer_jax.ops.execution import Execution


@pytest.mark.parametrize(("backend", "expected"), [("cpu", True), ("gpu", False), ("tpu", False)])
def test_blocks_are_written_out_on_cpu_unless_told(
    monkeypatch: pytest.MonkeyPatch, backend: str, expected: bool
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert Execution().is_unrolled is expected
    assert Execution(unroll=not expected).is_unrolled is not expected
    assert Execution(platform=backend).is_unrolled is expected


def test_blocks_are_recomputed_unless_told() -> None:
    assert Execution().is_recomputed
    assert Execution(remat=True).is_recomputed
    assert not Execution(remat=False).is_recomputed


@pytest.mark.parametrize("option", ["dtype", "precision", "platform", "kernels"])
def test_other_choices_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be one of .*, not 'x'"):
        Execution(**{option: "x"})
    with pytest.raises(ValueError, match="rows must be `RowShards` or None, not 4"):
        Execution(rows=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["default", "highest"])
def test_products_have_the_precision(precision: str) -> None:
    how = Execution(precision=precision)
    a = jnp.ones((2, 2))
    for product in (how.matmul, functools.partial(how.einsum, "ij,jk->ik")):
        program = str(jax.make_jaxpr(product)(a, a))
        assert ("HIGHEST" in program) == (precision == "highest")


def test_it_can_be_part_of_a_type() -> None:
    how = Execution(platform="gpu")
    assert how == dataclasses.replace(Execution(), platform="gpu")
    assert hash(how) == hash(dataclasses.replace(Execution(), platform="gpu"))
