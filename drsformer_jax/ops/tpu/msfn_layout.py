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
from drsformer_jax.ops.tpu.lanes import DEFAULT_VMEM_MIB, MIB, PAD, SUBLANES, filled

# Kernels stand in frames of 5x5, the bias behind their taps.
SIZE = 5
REACH = SIZE // 2
TAPS = SIZE * SIZE + 1

# How paths may be put together: each alone, those of one second size, or all.
GROUPINGS = (((0,), (1,), (2,), (3,)), ((0, 1), (2, 3)), ((0, 1, 2, 3),))

# Beside arrays, a kernel has registers to spill.
SPARE_BYTES = 1 * MIB

# Taps that take as long as making strips, of which a kernel is given an array, and joining them.
COST_OF_STRIPS = 50


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
      itemsize: bytes of a number of the activations.
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
    itemsize: int
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
    def cores(self) -> int:
        """Of a device; those with two (v4, v5p) are those with less fast memory."""
        return 2 if self.vmem_bytes < DEFAULT_VMEM_MIB * MIB // 2 else 1

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
    def packing(self) -> lax.Precision:
        """Of the products that pack weights: exact, or closer than the activations are."""
        return lax.Precision.HIGHEST if self.itemsize > 2 else lax.Precision.HIGH

    @property
    def cost(self) -> float:
        """Work for each pixel of an image, in taps."""
        each = sum(
            2 * (first**2 * self.middle_rows + second**2 * self.rows)
            for first, second in self.kinds
        )
        copies = COST_OF_STRIPS if self.has_halo else 0
        return self.blocks * each / (self.rows * self.images) + copies

    @property
    def needed_bytes(self) -> int:
        """Fast memory of the gradient's kernel, which takes more than the forward one.

        What moves in and out while another image is computed is there twice.
        """
        frames = 2 * (self.input_rows + 2 * self.edge)
        frames += 2 * (self.input_rows + 4) + self.middle_rows + 4
        lanes, kinds = filled(self.inputs), len(self.kinds)
        image = self.images * self.width * lanes
        windows = self.itemsize * image * (2 * self.input_rows + self.rows)
        products = kinds * self.images * (2 * filled(self.inputs, SUBLANES) * LANES + LANES * lanes)
        taps = 2 * kinds * 2 * filled(TAPS, SUBLANES) * LANES
        return (
            4 * frames * (self.width + 2 * PAD) * LANES
            + 4 * image * self.input_rows
            + 2 * (windows + (self.itemsize + 4) * products + 8 * taps)
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
                itemsize=itemsize,
                precision=precision,
                vmem_bytes=vmem_bytes,
            )
            if layout.needed_bytes <= vmem_bytes:
                fitting.append(layout)
                break
    return min(fitting, key=lambda layout: layout.cost, default=None)


def packed(params: Mapping[str, Any], layout: Layout) -> Weights:
    """The weights of the kernel, float32, from the parameters of `models.feed_forward`."""
    paths = paths_of(params)
    kinds = [_merged([paths[i] for i in part]) for part in layout.grouping]
    each = [_packed_kind(path, layout) for path in kinds]
    return Weights(*(jnp.stack(arrays, axis=1) for arrays in zip(*each, strict=True)))


def weight_specs(weights: Weights) -> list[pl.BlockSpec]:
    """Those of one block; the blocks are the second axis of a kernel's grid."""
    return [
        pl.BlockSpec((1, *weight.shape[1:]), lambda _, g, *__, n=weight.ndim - 1: (g, *[0] * n))
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
    """Of one kind, without the axis of kinds.

    Members of a pair come apart, and images to their lanes, in products with zeros and ones: there
    are 256 columns at a time, and nothing is as slow on TPU as an axis of two.
    """
    images, share, blocks = layout.images, layout.share, layout.blocks

    def in_blocks(x: jax.Array, columns: int) -> jax.Array:
        """The last axis filled and split: ... blocks columns."""
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, blocks * columns - x.shape[-1])])
        return x.reshape(*x.shape[:-1], blocks, columns)

    def taps(layer: Layer) -> jax.Array:
        """SIZE SIZE ... -> TAPS ..., the bias behind; of two members it is the first one's."""
        kernel = framed(layer.kernel, SIZE)
        kernel = kernel.reshape(-1, *kernel.shape[2:])
        bias = jnp.zeros(kernel.shape[1:], kernel.dtype)
        if layer.bias is not None:
            bias = bias.at[(0,) * (bias.ndim - 1)].set(layer.bias)
        return jnp.concatenate([kernel, bias[None]])

    lane, column = jnp.arange(LANES), jnp.arange(2 * share)[:, None]

    def member(x: jax.Array, which: int, image: int | None = None) -> jax.Array:
        """blocks N 2*share -> blocks N LANES: one of each pair, in the lanes of an image."""
        chosen = column == 2 * (lane % share) + which
        if image is not None:
            chosen = chosen & (lane // share == image)
        return jnp.einsum("bnj,jl->bnl", x, chosen.astype(x.dtype), precision=layout.packing)

    expand = path.expand.kernel
    if path.expand.bias is not None:
        expand = jnp.concatenate([expand, path.expand.bias[None]])
    expand, first = (
        jnp.moveaxis(in_blocks(x, 2 * share), 1, 0) for x in (expand, taps(path.depthwise))
    )
    rows = jnp.moveaxis(in_blocks(path.project.T, share), 0, -1)  # blocks share D
    fills = [((0, 0), (i * share, LANES - (i + 1) * share), (0, 0)) for i in range(images)]
    second = jnp.transpose(in_blocks(taps(path.pairs), share), (2, 1, 0, 3))
    per_image = [
        jnp.stack([member(expand, which, i) for i in range(images)], axis=1) for which in range(2)
    ]
    return Weights(
        jnp.stack(per_image, axis=1),
        jnp.stack([member(first, which) for which in range(2)], axis=1),
        jnp.tile(second, (1, 1, 1, images)),
        jnp.stack([jnp.pad(rows, fill) for fill in fills], axis=1),
    )
