"""The reader of what XLA says of programs too large, on its words and on programs refused here."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.errors import JaxRuntimeError

from drsformer_jax.planning.ahead_of_time import usable_memory
from drsformer_jax.planning.out_of_memory import bytes_available, bytes_needed, is_out_of_memory
from drsformer_jax.planning.topology import tpu_mesh
from drsformer_jax.training.sharding import replicated

GIB = 2**30
LATE = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.31G of 15.75G hbm. Exce"
EARLY = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries (1.5T) exceeds available HBM (31.24G). HLO module: jit_train_step"
)
pytestmark = pytest.mark.usefixtures("no_flags")
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'drsformer_jax[tpu]'",
)


@pytest.mark.parametrize(
    ("message", "needed", "available"),
    [(LATE, 20.31, 15.75), (EARLY, 1536, 31.24)],
)
def test_both_forms(message: str, needed: float, available: float) -> None:
    assert is_out_of_memory(message)
    assert bytes_needed(message) == int(needed * GIB)
    assert bytes_available(message) == int(available * GIB)


def test_what_is_not_said_is_unknown() -> None:
    assert is_out_of_memory("RESOURCE_EXHAUSTED")
    assert bytes_needed("RESOURCE_EXHAUSTED") is None
    assert bytes_available("RESOURCE_EXHAUSTED") is None
    assert not is_out_of_memory("INVALID_ARGUMENT")


@needs_libtpu
@pytest.mark.parametrize(
    ("topology", "chips", "gib"),
    [
        ("v4:2x2x1", 4, 30.75),
        ("v5e:16x16", 256, 15.75),
        ("v5p:2x2x1", 4, 95.73),
        ("v6e:4x4", 16, 31.24),
    ],
)
def test_memory_of_chips(topology: str, chips: int, gib: float) -> None:
    mesh = tpu_mesh(topology)
    assert mesh.size == chips
    assert usable_memory(mesh) == int(gib * GIB)


@needs_libtpu
def test_arguments_and_results_are_counted() -> None:
    """10 GiB of arguments, as much again of results, and no scratch: 20 GiB, not 30 or 40."""
    mesh = tpu_mesh("v5e:2x2")
    program = jax.jit(
        lambda arrays: [x * 2 for x in arrays],
        in_shardings=replicated(mesh),
        out_shardings=replicated(mesh),
    )
    arrays = [jax.ShapeDtypeStruct((2**14, 2**14), jnp.float32)] * 10
    with pytest.raises(JaxRuntimeError) as refused:
        program.lower(arrays).compile()
    assert bytes_needed(str(refused.value)) == 20 * GIB
