"""Where arrays live: the one device mesh, and the layout of every array on it.

The mesh has three axes. The images of a batch are split over "data" and "fsdp" together, the rows
of each image over "spatial"; parameters, their moving average and the optimiser's moments are split
over "fsdp" (each array along one of its axes) and are whole along the other two.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from drsformer_jax.data.pipeline import Stage
from drsformer_jax.errors import UserError
from drsformer_jax.models.drsformer import SIZE_MULTIPLE

DATA, FSDP, SPATIAL = "data", "fsdp", "spatial"
AXES = (DATA, FSDP, SPATIAL)
BATCH_AXES = (DATA, FSDP)
BATCH_SPEC = PartitionSpec(BATCH_AXES, SPATIAL)

# Arrays of fewer elements stay whole on every device: to gather one would cost more than it holds.
SMALLEST_SPLIT = 2**12


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """Devices along each axis of the mesh; one of them may be -1: all that are left.

    Raises:
      ValueError: a size is neither positive nor -1, or two are -1.
    """

    data: int = -1
    fsdp: int = 1
    spatial: int = 1

    def __post_init__(self) -> None:
        for axis in AXES:
            size = getattr(self, axis)
            if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
                raise ValueError(f"{axis} must be a positive number of devices or -1, not {size!r}")
        if [getattr(self, axis) for axis in AXES].count(-1) > 1:
            raise ValueError("only one axis can take the devices that are left (-1)")

    def sizes(self, devices: int) -> tuple[int, int, int]:
        """(data, fsdp, spatial) for so many devices.

        Raises:
          UserError: they do not make up the mesh.
        """
        named = [getattr(self, axis) for axis in AXES]
        fixed = math.prod(size for size in named if size != -1)
        sizes = [devices // fixed if size == -1 else size for size in named]
        if math.prod(sizes) != devices:
            wanted = " x ".join(f"{axis} {getattr(self, axis)}" for axis in AXES)
            raise UserError(f"config.mesh: {wanted} cannot be made of {devices} device(s)")
        return sizes[0], sizes[1], sizes[2]


def make_mesh(
    options: MeshOptions | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh of axes "data", "fsdp" and "spatial" over the devices of all processes.

    Args:
      options: sizes of the axes; by default all devices along "data".
      devices: other devices, such as those of a topology that is not there.

    Raises:
      UserError: the devices do not make up the mesh.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = (options or MeshOptions()).sizes(count)
    # Linen's modules need Auto axes: JAX's default, Explicit, rejects their reshapes.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Images B H W C: B over "data" and "fsdp", H over "spatial"."""
    return NamedSharding(mesh, BATCH_SPEC)


def split_axis(shape: Sequence[int], parts: int) -> int | None:
    """The axis along which an array of the training state is split over "fsdp", or None: whole.

    The longest one that divides, the last of equal ones. It depends on the shape alone, so that a
    parameter and its moments are split alike.
    """
    divisible = [axis for axis, size in enumerate(shape) if size and size % parts == 0]
    if parts == 1 or not divisible or math.prod(shape) < SMALLEST_SPLIT:
        return None
    return max(divisible, key=lambda axis: (shape[axis], axis))


def state_specs(tree: Any, mesh: Mesh) -> Any:
    """For each array (or shape) of parameters or of a training state, its PartitionSpec."""
    parts = mesh.shape[FSDP]

    def spec(leaf: Any) -> PartitionSpec:
        axis = split_axis(leaf.shape, parts)
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, FSDP)

    return jax.tree.map(spec, tree)


def spec_axis(spec: PartitionSpec) -> int | None:
    """The axis that a PartitionSpec of `state_specs` splits, or None."""
    return len(spec) - 1 if len(spec) else None


def state_sharding(tree: Any, mesh: Mesh) -> Any:
    """The same as NamedShardings."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        state_specs(tree, mesh),
        is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
    )


def check_divisible(stages: Sequence[Stage], accumulation_steps: int, mesh: Mesh) -> None:
    """That the devices get equal parts of every (micro)batch and of every image.

    Raises:
      UserError: a batch or patch size that the mesh does not divide.
    """
    images = mesh.shape[DATA] * mesh.shape[FSDP]
    for size in (stage.batch_size // accumulation_steps for stage in stages):
        if size % images:
            raise UserError(
                f"config.global_batch / config.accumulation_steps = {size} images at a time do not "
                f"divide over {images} devices (config.mesh.data x config.mesh.fsdp): choose a "
                f"multiple of {images}"
            )
    rows = mesh.shape[SPATIAL] * SIZE_MULTIPLE
    for size in (stage.patch_size for stage in stages):
        if size % rows:
            raise UserError(
                f"config.patch_size: {size} rows do not divide over config.mesh.spatial = "
                f"{mesh.shape[SPATIAL]} devices: choose a multiple of {rows}"
            )


def on_first_device(tree: Any, mesh: Mesh) -> Any:
    """Whole copies of arrays of the mesh on this process's first device.

    All processes must call it: parts that others hold are sent.
    """
    if mesh.shape[FSDP] > 1:
        tree = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def local_images(mesh: Mesh, global_batch: int) -> np.ndarray:
    """Which images of a global batch this process's devices hold, in rising order."""
    held: set[int] = set()
    indices: Mapping[Any, Any] = batch_sharding(mesh).devices_indices_map(
        (global_batch, mesh.shape[SPATIAL])
    )
    for device, index in indices.items():
        if index is not None and device.process_index == jax.process_index():
            held.update(range(*index[0].indices(global_batch)))
    return np.array(sorted(held))


def shard_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, global_batch: int | None = None
) -> dict[str, jax.Array]:
    """Puts this process's images on its devices; those of all processes are the global batch.

    Args:
      batch: B H W C arrays with the images that `local_images` names, in their whole height.
      global_batch: images of all processes; None: they are all here.
    """
    return {
        name: _distribute(array, mesh, global_batch or len(array)) for name, array in batch.items()
    }


def _distribute(array: np.ndarray, mesh: Mesh, global_batch: int) -> jax.Array:
    position = {int(image): i for i, image in enumerate(local_images(mesh, global_batch))}

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # as it is for a sharding of this mesh's devices
        first, after, _ = index[0].indices(global_batch)
        start = position[first]
        return array[(slice(start, start + after - first), *index[1:])]

    shape = (global_batch, *array.shape[1:])
    return jax.make_array_from_callback(shape, batch_sharding(mesh), part)
