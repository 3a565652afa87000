"""Cycles of the kernels in a program, by compiling each of them once more, for its schedule.

The compiler writes schedules only if it is told so before it starts, and then of all that it
compiles, which takes three to five times as long: kernels alone are compiled so, in a process of
their own.

    python -m drsformer_jax.planning.kernel_cycles FOLDER TOPOLOGY

is that process: it compiles every `*.exported` in the folder.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.sharding import Mesh

from drsformer_jax.planning.chips import Chip
from drsformer_jax.planning.compiled_text import Operation
from drsformer_jax.planning.schedules import DUMP_FLAGS, schedule_of
from drsformer_jax.planning.topology import tpu_mesh
from drsformer_jax.training.sharding import replicated

_SUFFIX = ".exported"

# Numbers of a register's row, which the last axis of an array fills.
LANES = 128

# In the name that JAX gives an operation, perhaps behind what differentiated it.
_KERNEL = re.compile(r"(\w+)\)*/pallas_call\b")


def kernels_in(jaxpr: Any) -> dict[str, Any]:
    """The kernels that a traced program calls, one of each name: equations of its jaxpr."""
    return {equation.params["name"]: equation for equation in _kernel_calls(jaxpr)}


def _kernel_calls(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation
            continue
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _kernel_calls(inner)


def kernel_cycles(kernels: dict[str, Any], chip: Chip) -> dict[str, int]:
    """Estimated cycles of a run of each kernel.

    Args:
      kernels: of `kernels_in`.

    Raises:
      ValueError: the compiler wrote no schedule that can be read.
    """
    if not kernels:
        return {}
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, equation in kernels.items():
            (folder / f"{name}{_SUFFIX}").write_bytes(_exported(equation))
        flags = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {DUMP_FLAGS.format(folder=folder)}"
        environment = {
            **os.environ,
            "LIBTPU_INIT_ARGS": flags.strip(),
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",  # libtpu ends where it finds one that it does not know
        }
        command = [sys.executable, "-m", __name__, str(folder), chip.topology]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"compiling kernels for their schedules: {done.stderr[-500:]}")
        for name, equation in kernels.items():
            steps = math.prod(equation.params["grid_mapping"].grid)
            moved = sum(_bytes(variable.aval) for variable in (*equation.invars, *equation.outvars))
            found[name] = schedule_of(folder, name, steps).cycles(chip, moved)
    return found


def counted(found: list[Operation], cycles: dict[str, int]) -> list[Operation]:
    """Operations, those that are kernels with their cycles."""

    def with_cycles(operation: Operation) -> Operation:
        called = _KERNEL.search(operation.source)
        if called is None or called[1] not in cycles or operation.opcode != "custom-call":
            return operation
        return dataclasses.replace(operation, cycles=cycles[called[1]], is_kernel=True)

    return [with_cycles(operation) for operation in found]


def _exported(equation: Any) -> bytes:
    """The call of a kernel as a program of its own."""

    def call(*arguments: jax.Array) -> Any:
        return equation.primitive.bind(*arguments, **equation.params)

    call.__name__ = equation.params["name"]  # under which the compiler writes what it made
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
    return bytes(export.export(jax.jit(call), platforms=["tpu"])(*shapes).serialize())


def _bytes(value: Any) -> int:
    """Of an array in device memory."""
    *rows, last = value.shape or (1,)
    return math.prod(rows) * -(-last // LANES) * LANES * value.dtype.itemsize


def compile_all(folder: Path, topology: str) -> None:
    """Compiles every exported program in the folder for one chip."""
    on_chip = replicated(Mesh(tpu_mesh(topology).devices.reshape(-1)[:1], ("chip",)))
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        program = export.deserialize(bytearray(path.read_bytes()))
        jitted = jax.jit(program.call, in_shardings=on_chip, out_shardings=on_chip)
        jitted.lower(*program.in_avals).compile()


if __name__ == "__main__":
    compile_all(Path(sys.argv[1]), sys.argv[2])
    sys.stdout.flush()
    os._exit(0)  # libtpu's threads may abort a process that ends
