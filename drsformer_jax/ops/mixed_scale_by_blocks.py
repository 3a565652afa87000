"""The mixed-scale feed-forward network (MSFN) in the form for TPU's matrix unit.

An output channel of the second pair of convolutions reads two channels of the first pair, and these
one channel of the expansion each. So the network falls apart into four paths, one for each pair of
kernel sizes (3 or 5, then 3 or 5),

    x -> 1x1 -> depthwise -> ReLU -> two channels to one -> ReLU -> 1x1,

and a path into blocks of 128 channels: no concatenation, no strided slice of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from drsformer_jax.ops.block_convolution import (
    LANES,
    block_convolution,
    blocks_to_space,
    diagonal_kernel,
    from_blocks,
    into_blocks,
    mix_blocks,
    pair_kernel,
    space_to_blocks,
    to_blocks,
)


class Layer(NamedTuple):
    """Kernel and bias (or None) of a convolution, outputs on the last axis of both."""

    kernel: jax.Array
    bias: jax.Array | None

    def part(self, start: int, stop: int) -> Layer:
        """Some of the output channels."""
        bias = None if self.bias is None else self.bias[start:stop]
        return Layer(self.kernel[..., start:stop], bias)


class Path(NamedTuple):
    """The layers of one path; the last one is a part of the inputs of project_out, G L D."""

    expand: Layer
    depthwise: Layer
    pairs: Layer
    project: jax.Array


def mixed_scale_by_blocks(
    x: jax.Array,
    params: Mapping[str, Any],
    precision: lax.PrecisionLike = None,
    *,
    phases: int = 1,
    size: int = LANES,
) -> jax.Array:
    """MSFN of B C H W with the parameters of `models.feed_forward`, B C H W.

    Args:
      phases: p, for squares of p x p pixels in a block; divides H and W.
      size: channels of a block, the pixels of a square counted.
    """
    image = jnp.moveaxis(x, 1, -1)
    inputs = image if phases == 1 else space_to_blocks(image, phases, size)
    total = sum(_follow(path, inputs, size, phases, precision) for path in _paths(params))
    if phases > 1:
        total = blocks_to_space(total.astype(x.dtype), phases, x.shape[1])
    bias = params["project_out"].get("bias")
    if bias is not None:
        total = total + bias.astype(total.dtype)
    return jnp.moveaxis(total.astype(x.dtype), -1, 1)


def _paths(params: Mapping[str, Any]) -> list[Path]:
    layers = {name: Layer(value["kernel"], value.get("bias")) for name, value in params.items()}
    layers = {name: _squeezed(layer) for name, layer in layers.items()}
    hidden = layers["dwconv3x3_1"].kernel.shape[-1]
    paths = []
    for half, second in enumerate((layers["dwconv3x3_1"], layers["dwconv5x5_1"])):
        start, stop = half * hidden, (half + 1) * hidden
        project = layers["project_out"].kernel[start:stop]
        fine, coarse = (layers[name].part(start, stop) for name in ("dwconv3x3", "dwconv5x5"))
        expand = layers["project_in"].part(start, stop)
        # An odd number leaves one pair of a fine and a coarse channel: the path of coarse ones
        # takes it, with the fine kernel inside a coarse one.
        even, seam = hidden - hidden % 2, hidden // 2
        fine_first = fine.part(0, even), expand.part(0, even)
        coarse_first = coarse, expand
        if hidden % 2:
            last = fine.part(even, hidden)
            framed = last._replace(kernel=jnp.pad(last.kernel, ((1, 1), (1, 1), (0, 0))))
            coarse_first = _joined(framed, coarse), _joined(expand.part(even, hidden), expand)
        for (depthwise, inputs), first, end in (
            (fine_first, 0, seam),
            (coarse_first, seam, hidden),
        ):
            if end > first:
                pairs = second.part(first, end)
                paths.append(Path(inputs, depthwise, pairs, project[first:end]))
    return paths


def _squeezed(layer: Layer) -> Layer:
    """1 1 C D -> C D and kh kw 1 C -> kh kw C; kh kw 2 G stays."""
    kernel = layer.kernel
    if kernel.shape[:2] == (1, 1):
        return layer._replace(kernel=kernel[0, 0])
    return layer._replace(kernel=kernel[:, :, 0]) if kernel.shape[2] == 1 else layer


def _joined(one: Layer, other: Layer) -> Layer:
    bias = None
    if one.bias is not None and other.bias is not None:
        bias = jnp.concatenate([one.bias, other.bias])
    return Layer(jnp.concatenate([one.kernel, other.kernel], axis=-1), bias)


def _follow(
    path: Path, x: jax.Array, size: int, phases: int, precision: lax.PrecisionLike
) -> jax.Array:
    """What one path adds: B H W C -> B H W D, or in blocks of squares where there are phases."""
    channels = size // phases**2
    if phases == 1:
        y = to_blocks(x, into_blocks(path.expand.kernel, size), precision)
    else:
        y = mix_blocks(x, path.expand.kernel, phases, precision).astype(x.dtype)
    y = _add(y, path.expand.bias, channels, phases)
    kernel = diagonal_kernel(into_blocks(path.depthwise.kernel, channels), 1, phases)
    y = block_convolution(y, kernel, precision=precision)
    y = jax.nn.relu(_add(y, path.depthwise.bias, channels, phases))
    kernel = pair_kernel(into_blocks(path.pairs.kernel, channels // 2), phases)
    y = block_convolution(y, kernel, precision=precision)
    y = jax.nn.relu(_add(y, path.pairs.bias, channels // 2, phases))
    rows = into_blocks(path.project.T, channels // 2)
    rows = jnp.pad(rows, ((0, 0), (0, 0), (0, channels - channels // 2)))
    project = rows.reshape(path.project.shape[-1], -1).T
    if phases == 1:
        return from_blocks(y, project, precision)
    return mix_blocks(y, project, phases, precision)


def _add(x: jax.Array, bias: jax.Array | None, channels: int, phases: int) -> jax.Array:
    """B H W G L and the bias of so many channels a block; the others get none."""
    if bias is None:
        return x
    blocks = into_blocks(bias, channels)
    filled = jnp.pad(blocks, ((0, 0), (0, x.shape[-1] // phases**2 - channels)))
    return x + jnp.tile(filled, phases**2).astype(x.dtype)
