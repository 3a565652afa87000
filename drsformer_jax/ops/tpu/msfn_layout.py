"""How the mixed-scale feed-forward network (MSFN) lies in the lanes of a TPU's kernel.

Its four paths (`ops.tpu.feed_forward`) become kinds of blocks of 128 outputs each, by the sizes of
their two convolutions. Where a path has fewer outputs, either several images share the lanes or
several paths do, the smaller kernels in the middle of larger ones: whatever takes fewest taps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.feed_forward import HALO, Layer, Path, framed, joined, paths_of
from drsformer_jax.ops.tpu.lanes import MIB, PAD, filled

# Kernels stand in frames of 5x5, the bias behind their taps.
SIZE = 5
REACH = SIZE // 2
TAPS = SIZE * SIZE + 1

# How paths may be put together: each alone, those of one second size, or all.
GROUPINGS = (((0,), (1,), (2,), (3,)), ((0, 1), (2, 3)), ((0, 1, 2, 3),))

# Beside arrays, a kernel has registers to spill.
SPARE_BYTES = 2 * MIB


class Weights(NamedTuple):
    """What the kernel multiplies with, or its gradients.

    Attributes:
      expand: blocks kinds 2 images inputs LANES, the two members of each pair apart; the last input
        is the bias, if there is one.
      first, second: kernels of the convolutions, blocks kinds 2 TAPS LANES.
      project: blocks kinds images LANES channels.
    """

    expand: jax.Array
    first: jax.Array
    second: jax.Array
    project: jax.Array


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a kernel is made for; hashable.

    Attributes:
      kinds: sizes of the two convolutions of each kind of blocks.
      grouping: which paths each kind is made of.
      blocks: of each kind.
      images: that share the lanes.
      rows: of the image that are computed at a time.
      has_halo: whether the array holds HALO rows more above and below, which may lie outside of the
        image: it is a strip, or of one of several devices.
      width: columns.
      channels: of the image; with biases one more, that is 1 in the image.
      has_biases: of the convolutions.
      precision: of products.
      vmem_bytes: of fast memory that a kernel may have.
    """

    kinds: tuple[tuple[int, int], ...]
    grouping: tuple[tuple[int, ...], ...]
    blocks: int
    images: int
    rows: int
    has_halo: bool
    width: int
    channels: int
    has_biases: bool
    precision: lax.Precision
    vmem_bytes: int

    @property
    def input_rows(self) -> int:
        """Rows of the array."""
        return self.rows + 2 * HALO * self.has_halo

    @property
    def middle_rows(self) -> int:
        """Rows between the two convolutions."""
        return self.rows + HALO * self.has_halo

    @property
    def edge(self) -> int:
        """Rows of zeros that stand in for a halo."""
        return 0 if self.has_halo else REACH

    @property
    def share(self) -> int:
        """Lanes of an image."""
        return LANES // self.images

    @property
    def inputs(self) -> int:
        """Channels of the array."""
        return self.channels + self.has_biases

    @property
    def name(self) -> str:
        """Of its kernel, another one for another layout."""
        sizes = "_".join(f"{a}{b}" for a, b in self.kinds)
        halo = "h" if self.has_halo else ""
        lanes = f"{self.blocks}x{self.images}"
        return f"msfn_{self.inputs}_{self.rows}{halo}x{self.width}_{sizes}_{lanes}"

    @property
    def taps(self) -> float:
        """Of both convolutions, for each pixel of an image."""
        each = sum(
            2 * (first**2 * self.middle_rows + second**2 * self.rows)
            for first, second in self.kinds
        )
        return self.blocks * each / (self.rows * self.images)

    def needed_bytes(self, itemsize: int) -> int:
        """Fast memory of the gradient's kernel, which needs more than the forward one."""
        pixels = self.width + 2 * PAD
        frames = 2 * (self.input_rows + 4) + 3 * (self.middle_rows + 8)
        lanes = filled(self.inputs)
        image = self.images * self.width * lanes
        windows = 2 * itemsize * image * (2 * self.input_rows + self.rows)
        weights = len(self.kinds) * self.images * (6 * filled(self.inputs, 8) + 3 * lanes) * LANES
        gradients = len(self.kinds) * (self.images * 3 * lanes + 4 * 32) * LANES
        return (
            4 * frames * pixels * LANES
            + 4 * image * self.input_rows
            + windows
            + 2 * (itemsize * weights + 4 * gradients)
            + SPARE_BYTES
        )


def candidates(
    path_outputs: Sequence[int], sizes: Sequence[tuple[int, int]], batch: int
) -> list[dict[str, Any]]:
    """The ways to lie in the lanes: fields of a `Layout`.

    Args:
      path_outputs: outputs of the second convolution, of each path.
      sizes: of its convolutions.
    """
    found = []
    for grouping in GROUPINGS:
        parts = [tuple(i for i in part if i < len(sizes)) for part in grouping]
        parts = [part for part in parts if part]
        outputs = [sum(path_outputs[i] for i in part) for part in parts]
        kinds = tuple(
            (max(sizes[i][0] for i in part), max(sizes[i][1] for i in part)) for part in parts
        )
        for images in (n for n in (1, 2, 4, 8) if batch % n == 0):
            if images == 1 or max(outputs) * images <= LANES:
                blocks = -(-max(outputs) // (LANES // images))
                found.append(
                    {"grouping": tuple(parts), "kinds": kinds, "blocks": blocks, "images": images}
                )
    return found


def best_layout(
    params: Mapping[str, Any],
    shape: tuple[int, int, int, int],
    *,
    has_halo: bool,
    itemsize: int,
    precision: lax.Precision,
    vmem_bytes: int,
) -> Layout | None:
    """The layout with fewest taps of those that fit in fast memory; None where none does.

    Args:
      params: of `models.feed_forward`.
      shape: B H W C, H without a halo.
      has_halo: whether rows beyond the image are there already.
    """
    batch, height, width, channels = shape
    paths = jax.eval_shape(paths_of, dict(params))
    sizes = [(path.depthwise.kernel.shape[0], path.pairs.kernel.shape[0]) for path in paths]
    outputs = [path.project.shape[0] for path in paths]
    fitting = []
    for way in candidates(outputs, sizes, batch):
        for strips in range(1, -(-height // HALO) + 1):
            layout = Layout(
                **way,
                rows=-(-height // strips),
                has_halo=has_halo or strips > 1,
                width=width,
                channels=channels,
                has_biases="bias" in params["project_in"],
                precision=precision,
                vmem_bytes=vmem_bytes,
            )
            if layout.needed_bytes(itemsize) <= vmem_bytes:
                fitting.append(layout)
                break
    return min(fitting, key=lambda layout: layout.taps, default=None)


def packed(params: Mapping[str, Any], layout: Layout) -> Weights:
    """The weights of the kernel, float32, from the parameters of `models.feed_forward`."""
    paths = paths_of(params)
    kinds = [_merged([paths[i] for i in part]) for part in layout.grouping]
    each = [_packed_kind(path, layout) for path in kinds]
    return Weights(*(jnp.stack(arrays, axis=1) for arrays in zip(*each, strict=True)))


def weight_specs(weights: Weights) -> list[pl.BlockSpec]:
    """Of a grid of images and blocks: the weights of one block."""
    return [
        pl.BlockSpec((1, *weight.shape[1:]), lambda _, g, n=weight.ndim - 1: (g, *[0] * n))
        for weight in weights
    ]


def _merged(paths: list[Path]) -> Path:
    """One path of all outputs."""
    first = paths[0]
    for path in paths[1:]:
        first = Path(
            joined(first.expand, path.expand),
            joined(_framed(first.depthwise), _framed(path.depthwise)),
            joined(_framed(first.pairs), _framed(path.pairs)),
            jnp.concatenate([first.project, path.project]),
        )
    return first


def _framed(layer: Layer) -> Layer:
    return layer._replace(kernel=framed(layer.kernel, SIZE))


def _packed_kind(path: Path, layout: Layout) -> Weights:
    """Of one kind, without the axis of kinds."""
    outputs = path.project.shape[0]
    images, share, blocks = layout.images, layout.share, layout.blocks

    def in_blocks(x: jax.Array, axis: int) -> jax.Array:
        """The axis of outputs filled and split: blocks on a new first axis, share on the last."""
        x = jnp.moveaxis(x, axis, -1)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, blocks * share - outputs)])
        return jnp.moveaxis(x.reshape(*x.shape[:-1], blocks, share), -2, 0)

    def per_image(x: jax.Array, axis: int) -> jax.Array:
        """... share ... -> images on axis 1, each with its own lanes, zero in the others."""
        fill = [[(0, 0)] * x.ndim for _ in range(images)]
        for i in range(images):
            fill[i][axis] = (i * share, LANES - (i + 1) * share)
        return jnp.stack([jnp.pad(x, one) for one in fill], axis=1)

    def members(kernel: jax.Array) -> jax.Array:
        """... 2 outputs, pairs side by side -> ... outputs 2."""
        return kernel.reshape(*kernel.shape[:-1], outputs, 2)

    def taps(layer: Layer) -> jax.Array:
        """SIZE SIZE ... -> TAPS ..., the bias behind."""
        kernel = framed(layer.kernel, SIZE)
        kernel = kernel.reshape(-1, *kernel.shape[2:])
        bias = jnp.zeros(kernel.shape[1:], kernel.dtype)
        if layer.bias is not None:
            bias = layer.bias if layer.bias.shape == bias.shape else jnp.stack([layer.bias, bias[1]])
        return jnp.concatenate([kernel, bias[None]])

    expand = path.expand.kernel
    if path.expand.bias is not None:
        expand = jnp.concatenate([expand, path.expand.bias[None]])
    # C outputs 2 -> blocks images C 2 LANES -> blocks 2 images C LANES
    expand = per_image(in_blocks(members(expand), 1), 3)
    expand = jnp.transpose(expand, (0, 3, 1, 2, 4))
    lanes = [1] * 3 + [images]
    first = in_blocks(members(taps(path.depthwise)), 1)  # blocks TAPS 2 share
    first = jnp.tile(jnp.swapaxes(first, 1, 2), lanes)
    second = in_blocks(taps(path.pairs), 2)  # blocks TAPS 2 share
    second = jnp.tile(jnp.swapaxes(second, 1, 2), lanes)
    project = in_blocks(path.project, 0)  # blocks D share
    project = jnp.swapaxes(per_image(project, 2), 2, 3)
    return Weights(expand, first, second, project)

