"""The network's forward, compiled; on several devices, each with a band of the image's rows."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from drsformer_jax.errors import UserError
from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.models.drsformer import restore
from drsformer_jax.ops.rows import RowShards

AXIS = "rows"
# Parts of one CPU take turns, and those that are ahead wait for as long as the others compute on a
# large image. XLA takes a wait of 40 seconds for a hang, and ends the process.
PATIENCE_SECONDS = 24 * 3600
_PATIENCE = "xla_cpu_collective_call_terminate_timeout_seconds"
_WHOLE, _BANDS = PartitionSpec(), PartitionSpec(None, AXIS)


def compiled_for_inference(restore: Callable[..., Any]) -> Any:
    """jit of a function of (params, image), and perhaps its extent.

    On CPU with LLVM's first level of optimisation: it vectorises what higher ones do, and the
    network runs as fast after compiling for a shorter time (benchmarks/README.md).
    """
    on_cpu = jax.default_backend() == "cpu"
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "1"} if on_cpu else {}
    return jax.jit(restore, compiler_options=options)


# Traced and compiled programs are kept with the function: those of networks used before are let go.
@functools.lru_cache(maxsize=4)
def compiled_network(restore: Callable[..., Any], config: DRSformerConfig) -> Any:
    """`compiled_for_inference` of `restore` of a network; all that restore by it share programs."""
    return compiled_for_inference(functools.partial(restore, config))


def make_cpu_devices(count: int) -> None:
    """Lets JAX, where it computes on CPU, take the CPU for so many devices.

    It has to come before JAX is first used; later, there are those that there are.
    """
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    flags = os.environ.get("XLA_FLAGS", "")
    if _PATIENCE not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{_PATIENCE}={PATIENCE_SECONDS}".strip()


def first_devices(count: int) -> list[jax.Device]:
    """The first of this process's devices.

    Raises:
      UserError: it has fewer; the message names the flag.
    """
    if count < 1:
        raise UserError(f"--devices must be positive, not {count}")
    devices = jax.local_devices()
    if count > len(devices):
        raise UserError(
            f"--devices {count}: there are only {len(devices)} ({devices[0].platform}); "
            "choose no more"
        )
    return devices[:count]


class SplitForward:
    """The network's forward of (params, image), the rows of the image over several devices.

    One program is compiled for each size of the image.
    """

    def __init__(self, config: DRSformerConfig, devices: int) -> None:
        """Takes the first `devices` ones.

        Raises:
          UserError: there are fewer.
        """
        self._config = config
        self._mesh = Mesh(np.array(first_devices(devices)), (AXIS,))
        self._programs: dict[RowShards, Any] = {}

    @property
    def params_sharding(self) -> NamedSharding:
        """Where the parameters have to be: whole on each of the devices."""
        return NamedSharding(self._mesh, _WHOLE)

    def __call__(self, params: Any, image: np.ndarray) -> np.ndarray:
        """float32 B H W C, H and W multiples of 8, to the same."""
        rows = self.rows(image)
        if rows not in self._programs:
            self._programs[rows] = self.program(rows)
        return np.asarray(self._programs[rows](params, self.bands(image)))[:, : rows.height]

    def rows(self, image: np.ndarray) -> RowShards:
        """How those of B H W C are split."""
        return RowShards(AXIS, self._mesh.size, image.shape[1])

    def bands(self, image: np.ndarray) -> jax.Array:
        """B H W C -> B `rows.padded_height` W C, on each device the rows that are its own."""
        rows = self.rows(image)
        padding = (0, rows.padded_height - rows.height)
        padded = np.pad(image, ((0, 0), padding, (0, 0), (0, 0)))
        return jax.device_put(padded, NamedSharding(self._mesh, _BANDS))

    def program(self, rows: RowShards) -> Any:
        """The jitted function of parameters and bands."""
        return compiled_for_inference(
            jax.shard_map(
                functools.partial(restore, dataclasses.replace(self._config, rows=rows)),
                mesh=self._mesh,
                in_specs=(_WHOLE, _BANDS),
                out_specs=_BANDS,
                check_vma=False,
            )
        )
