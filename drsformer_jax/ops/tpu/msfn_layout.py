"""How the mixed-scale feed-forward network (MSFN) lies in the lanes of a TPU's kernel.

Its four paths (`ops.tpu.feed_forward`) become kinds of blocks of 128 outputs each, by the sizes of
their two convolutions. Where a path has fewer outputs, either several images share the lanes or
several paths do, the smaller kernels in the middle of larger ones: whatever takes fewest taps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import lax

from drsformer_jax.ops.tpu.block_convolution import LANES
from drsformer_jax.ops.tpu.feed_forward import HALO, paths_of
from drsformer_jax.ops.tpu.lanes import DEFAULT_VMEM_MIB, MIB, PAD, SUBLANES, filled
from drsformer_jax.ops.tpu.layer_norm import LayerNorm

# Kernels stand in frames of 5x5. Behind their taps is the bias, and behind that of the first
# convolution the one of the expansion.
SIZE = 5
REACH = SIZE // 2
BIAS = SIZE * SIZE
EXPANSION_BIAS = BIAS + 1
TAPS = EXPANSION_BIAS + 1

# How paths may be put together: each alone, those of one second size, or all.
GROUPINGS = (((0,), (1,), (2,), (3,)), ((0, 1), (2, 3)), ((0, 1, 2, 3),))

# Rows of so many pixels are one product.
PIXELS_OF_A_PRODUCT = 512

# Beside arrays, a kernel has registers to spill.
SPARE_BYTES = 1 * MIB

# Taps that take as long as making strips, of which a kernel is given an array, and joining them.
COST_OF_STRIPS = 50


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
      channels: of the image.
      values: lanes of those that attention adds to the image; 0 where it adds nothing.
      norm: LayerNorm in front.
      has_biases: whether the convolutions have them.
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
    values: int
    norm: LayerNorm
    has_biases: bool
    itemsize: int
    precision: lax.Precision
    vmem_bytes: int

    @property
    def input_rows(self) -> int:
        """Rows of the array."""
        return self.rows + 2 * self.halo

    @property
    def middle_rows(self) -> int:
        """Rows between the two convolutions."""
        return self.rows + self.halo

    @property
    def halo(self) -> int:
        """Rows of the array above and below those that are computed."""
        return HALO * self.has_halo

    @property
    def edge(self) -> int:
        """Rows of zeros that stand in for a halo."""
        return 0 if self.has_halo else REACH

    @property
    def rows_of_a_product(self) -> int:
        """The most rows that are one product."""
        return max(PIXELS_OF_A_PRODUCT // self.width, 1)

    @property
    def cores(self) -> int:
        """Of a device; those with two (v4, v5p) are those with less fast memory."""
        return 2 if self.vmem_bytes < DEFAULT_VMEM_MIB * MIB // 2 else 1

    @property
    def share(self) -> int:
        """Lanes of an image."""
        return LANES // self.images

    @property
    def name(self) -> str:
        """Of its kernel, another one for another layout."""
        sizes = "_".join(f"{a}{b}" for a, b in self.kinds)
        halo = "h" if self.has_halo else ""
        lanes = f"{self.blocks}x{self.images}"
        of = f"{self.channels}v{self.values}" if self.values else f"{self.channels}"
        return f"msfn_{of}_{self.rows}{halo}x{self.width}_{sizes}_{lanes}"

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
        """Fast memory of the kernel or of its gradient, whichever takes more.

        What moves in and out while another image is computed is there twice.
        """
        kinds, lanes = len(self.kinds), filled(self.channels)
        image = self.images * self.width * lanes
        row = 4 * (self.width + 2 * PAD) * LANES
        first = 2 * (self.input_rows + 2 * self.edge)
        inputs = filled(self.channels, SUBLANES)
        products = kinds * self.images * (2 * inputs * LANES + LANES * lanes)
        taps = 4 * 2 * kinds * 2 * filled(TAPS, SUBLANES) * LANES
        weights = 2 * (self.itemsize * products + taps)
        streamed = 2 * self.itemsize * self.images * self.values
        streamed *= self.rows_of_a_product * self.width + inputs
        forward = (
            row * (first + 2 * (self.middle_rows + 2 * self.edge))
            + self.itemsize * kinds * self.rows * self.width * LANES
            + image * (self.itemsize * self.input_rows + 4 * self.rows * (self.blocks > 1))
            + 2 * self.itemsize * image * (self.input_rows + self.rows)
            + streamed
        )
        gradient = (
            row * (first + 2 * (self.input_rows + 4) + self.middle_rows + 4)
            + 4 * image * self.input_rows
            + 2 * self.itemsize * image * (2 * self.input_rows + self.rows)
            + self.blocks * (4 * products + taps)
            + 2 * streamed
            + 8 * self.images * self.values * inputs
        )
        return max(forward, gradient) + weights + SPARE_BYTES


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
    norm: LayerNorm,
    *,
    values: int,
    has_halo: bool,
    itemsize: int,
    precision: lax.Precision,
    vmem_bytes: int,
) -> Layout | None:
    """The layout with fewest taps of those that fit in fast memory; None where none does.

    Args:
      params: of `models.feed_forward`.
      shape: B H W C, H without a halo.
      values: lanes of what attention adds, or 0.
      has_halo: whether rows beyond the image are there already.
    """
    batch, height, width, channels = shape
    paths = jax.eval_shape(paths_of, dict(params))
    sizes = [(path.depthwise.kernel.shape[0], path.pairs.kernel.shape[0]) for path in paths]
    outputs = [path.project.shape[0] for path in paths]
    fitting = []
    for way in candidates(outputs, sizes, batch):
        # To cut values into strips takes longer than what XLA does with them otherwise.
        most = 1 if values else max(height // HALO, 1)
        for strips in range(1, most + 1):
            if has_halo and height % strips:
                continue
            layout = Layout(
                **way,
                rows=-(-height // strips),
                has_halo=has_halo or strips > 1,
                width=width,
                channels=channels,
                values=values,
                norm=norm,
                has_biases="bias" in params["project_in"],
                itemsize=itemsize,
                precision=precision,
                vmem_bytes=vmem_bytes,
            )
            if layout.needed_bytes <= vmem_bytes:
                fitting.append(layout)
                break
    return min(fitting, key=lambda layout: layout.cost, default=None)
