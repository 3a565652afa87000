"""Where arrays live: the one device mesh and the layouts on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from drsformer_jax.errors import UserError

DATA_AXIS = "data"


def make_mesh() -> Mesh:
    """All devices of all processes along one axis, "data"."""
    # Linen's modules need Auto axes: JAX's default, Explicit, rejects their reshapes.
    return jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device: parameters and optimiser state."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices: batches."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def check_divisible(batch_sizes: Iterable[int], mesh: Mesh) -> None:
    """That the devices get equal parts of every (micro)batch.

    Raises:
      UserError: a batch size that the number of devices does not divide.
    """
    devices = mesh.shape[DATA_AXIS]
    for size in batch_sizes:
        if size % devices:
            raise UserError(
                f"config.global_batch / config.accumulation_steps = {size} images at a time do not "
                f"divide over {devices} devices: choose a multiple of {devices}"
            )


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's share of a batch on its devices; together they are the global batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
