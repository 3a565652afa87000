"""Mixture-of-experts feature compensator (MEFC; CVPR 2023, section 3.4)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from drsformer_jax.models.layers import (
    STACKED,
    Convolution,
    DepthwiseConvolution,
    at_least_float32,
    block_params,
    is_watched,
    uniform_fan_in,
    uniform_within,
)
from drsformer_jax.ops.block_convolution import blocks_to_space, space_to_blocks
from drsformer_jax.ops.depthwise import Borders, depthwise_conv
from drsformer_jax.ops.mixture_by_blocks import PHASES, mixture_by_blocks
from drsformer_jax.ops.outlining import outlined
from drsformer_jax.ops.platform import TPU, target
from drsformer_jax.ops.pointwise import pointwise_conv
from drsformer_jax.ops.rows import (
    RowShards,
    clear_outside,
    clear_padding,
    global_sum,
    positions,
    with_neighbours,
)

STEPS = 4
SEPARABLE_KERNELS = (1, 3, 5, 7)
DILATED_KERNELS = (3, 5, 7)
DILATION = 2
# The farthest that a kernel of a step reaches; a separable expert's two together not farther.
REACH = DILATED_KERNELS[-1] // 2 * DILATION
EXPERTS = len(SEPARABLE_KERNELS) + len(DILATED_KERNELS) + 1  # the last one is the average pool
GATE_WIDTH = 64


def average_pool(
    x: jax.Array, rows: RowShards | None = None, platform: str | None = None
) -> jax.Array:
    """3x3 mean, stride 1, over the pixels inside the image only; B C H W -> B C H W.

    With `rows`, x is a band between `REACH` rows of its neighbours, which the result has not.
    """
    channels, height, width = x.shape[1:]
    kernel = jnp.ones((3, 3, channels), x.dtype)
    borders = Borders(0 if rows is None else REACH, 0)
    total = depthwise_conv(
        at_least_float32(x),
        at_least_float32(kernel),
        borders=borders,
        padding=REACH,
        has_halo=rows is not None,
        platform=platform,
    )

    def inside(position: jax.Array, size: int) -> jax.Array:
        """How many of three neighbouring positions lie inside, for each position."""
        return 1 + (position > 0).astype(total.dtype) + (position < size - 1).astype(total.dtype)

    if rows is None:
        row_counts = inside(jnp.arange(height), height)[:, None]
    else:
        band = total.shape[2]
        row_counts = inside(positions(rows, band), rows.level_height(band))[:, None]
    return (total / (row_counts * inside(jnp.arange(width), width))).astype(x.dtype)


class Gate(nn.Module):
    """Softmax weights of the experts for each step, from the mean of the image."""

    precision: lax.PrecisionLike = None
    rows: RowShards | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """B C H W -> B steps experts, in at least float32."""
        if self.rows is None:
            pooled = jnp.mean(at_least_float32(x), axis=(2, 3))
        else:
            band, width = x.shape[2:]
            total = jnp.sum(at_least_float32(clear_padding(x, self.rows)), axis=(2, 3))
            pooled = global_sum(total, self.rows) / (self.rows.level_height(band) * width)
        hidden = nn.relu(Dense(GATE_WIDTH, self.precision, name="dense0")(pooled))
        logits = Dense(STEPS * EXPERTS, self.precision, name="dense1")(hidden)
        logits = rearrange(logits, "b (step expert) -> b step expert", step=STEPS)
        return nn.softmax(logits, axis=-1)


class Dense(nn.Module):
    """x @ kernel + bias with PyTorch's initialisation."""

    features: int
    precision: lax.PrecisionLike = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", uniform_fan_in, shape, jnp.float32)

        bias = self.param("bias", uniform_within(shape[0]), (self.features,), jnp.float32)
        y = jnp.matmul(x, kernel.astype(x.dtype), precision=self.precision)
        return y + bias.astype(x.dtype)


class Expert(nn.Module):
    """One convolutional expert up to, but without, its last 1x1 convolution.

    Returns the features and the kernel (C x C) of that convolution, which is merged with the one
    behind the concatenation of all experts.

    rows: x is a band between `REACH` rows of its neighbours, which the features have not.
    platform: that the program is for, see `ops.platform`.
    """

    kernel_size: int
    separable: bool
    precision: lax.PrecisionLike = None
    rows: RowShards | None = None
    platform: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        channels = x.shape[1]
        dilation = 1 if self.separable else DILATION
        options: dict[str, Any] = {"precision": self.precision, "platform": self.platform}
        rows, has_halo = self.rows, self.rows is not None
        # What the second convolution needs of the neighbours' rows, the first one computes.
        halo = self.kernel_size // 2 if has_halo and self.separable else 0
        x = DepthwiseConvolution(self.kernel_size, dilation, **options, name="depthwise0")(
            x, Borders(REACH if has_halo else 0, halo), padding=REACH, has_halo=has_halo
        )
        if self.separable:
            x = nn.relu(Convolution(channels, 1, **options, name="pointwise0")(x))
            if rows is not None:
                x = clear_outside(x, rows, halo)
            x = DepthwiseConvolution(self.kernel_size, **options, name="depthwise1")(
                x, Borders(halo, 0), has_halo=has_halo
            )
        last = PointwiseKernel(channels, name="pointwise1" if self.separable else "pointwise0")
        return x, last(channels)


class PointwiseKernel(nn.Module):
    """The kernel 1 1 C D of a 1x1 convolution that somebody else applies, as a C x D matrix."""

    features: int

    @nn.compact
    def __call__(self, channels: int) -> jax.Array:
        shape = (1, 1, channels, self.features)
        return self.param("kernel", uniform_fan_in, shape, jnp.float32)[0, 0]


class MixtureStep(nn.Module):
    """One step: s <- ReLU(ReLU(conv1x1(concat_i(w_i expert_i(s)))) + s).

    An expert's last 1x1 convolution, its weight w_i and the 1x1 convolution behind the
    concatenation are linear: their product is a C x C matrix an expert and image, formed first.
    """

    precision: lax.PrecisionLike = None
    by_blocks: bool = False
    rows: RowShards | None = None
    platform: str | None = None

    @nn.compact
    def __call__(self, state: jax.Array, weights: jax.Array) -> tuple[jax.Array, None]:
        """state B C H W, weights B experts -> the next state (and nothing, for the scan).

        by_blocks: the state is in blocks of squares, B H/2 W/2 G L.
        """
        kinds = [(size, True) for size in SEPARABLE_KERNELS]
        kinds += [(size, False) for size in DILATED_KERNELS]
        if self.by_blocks:
            dilations = [1 if separable else DILATION for _, separable in kinds]
            params = self.variables["params"]
            update = mixture_by_blocks(state, weights, params, dilations, self.precision, self.rows)
            return update, None
        channels = state.shape[1]
        features, matrices = [], []
        out = PointwiseKernel(channels, name="out")(channels * EXPERTS)
        out_parts = jnp.split(out, EXPERTS)
        # All experts share one exchange with the neighbours.
        wide = state if self.rows is None else with_neighbours(state, REACH, self.rows)
        for i, (size, separable) in enumerate(kinds):
            expert = Expert(
                size, separable, self.precision, self.rows, self.platform, name=f"expert{i}"
            )
            feature, last = expert(wide)
            features.append(feature)
            matrices.append(jnp.matmul(last, out_parts[i], precision=self.precision))
        features.append(average_pool(wide, self.rows, self.platform))
        matrices.append(out_parts[-1])
        update = self.mix(features, matrices, weights)
        return nn.relu(nn.relu(update) + state), None

    def mix(
        self, features: Sequence[jax.Array], matrices: Sequence[jax.Array], weights: jax.Array
    ) -> jax.Array:
        """What the experts add, before its ReLU. Parity checks watch it.

        One product an expert: to concatenate their features for a single one, they would have to
        be copied, which takes longer than the sum.

        Args:
          features: B C H W, one an expert.
          matrices: C C, one an expert.
          weights: B experts.

        Returns:
          B C H W.
        """
        parts = []
        for i, (feature, matrix) in enumerate(zip(features, matrices, strict=True)):
            weighted = weights[:, i, None, None] * matrix.astype(weights.dtype)
            parts.append(pointwise_conv(feature, weighted, self.precision))
        return functools.reduce(jnp.add, parts)


@functools.lru_cache(maxsize=8)
def _outlined_step(
    precision: lax.PrecisionLike, rows: RowShards | None, platform: str
) -> Callable[..., jax.Array]:
    """A step as a function of its parameters, state and weights: each use is a call."""
    step = MixtureStep(precision, rows=rows, platform=platform)
    return outlined(
        lambda params, state, weights: step.apply({"params": params}, state, weights)[0]
    )


class FeatureCompensator(nn.Module):
    """Gate, 1x1 convolution, and four steps of the mixture.

    rows: how the rows of the image are split over devices; None: they are not.
    platform: that the program is for, see `ops.platform`. In the form for TPU an expert is no
    module: while the values of modules are captured, it is not taken.
    """

    unroll: bool = True
    remat: bool = False
    precision: lax.PrecisionLike = None
    rows: RowShards | None = None
    platform: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """B C H W -> B C H W."""
        platform = target(self.platform)
        weights = Gate(self.precision, self.rows, name="gate")(x)
        state = nn.relu(Convolution(x.shape[1], 1, precision=self.precision, name="preprocess")(x))
        if self.unroll and platform != TPU and not self.is_initializing():
            outlined_step = _outlined_step(self.precision, self.rows, platform)
            stacked = self.variables["params"]["steps"]
            for i in range(STEPS):
                state = outlined_step(block_params(stacked, i), state, weights[:, i])
            return state
        # Inside a loop nothing can be merged across iterations.
        step = nn.remat(MixtureStep, prevent_cse=False) if self.remat else MixtureStep
        steps = nn.scan(
            step,
            variable_axes=STACKED,
            split_rngs={"params": True},
            in_axes=1,
            length=STEPS,
        )
        options: dict[str, Any] = {"rows": self.rows, "platform": platform, "name": "steps"}
        if is_watched(self) or platform != TPU:
            state, _ = steps(self.precision, **options)(state, weights)
            return state
        blocks = space_to_blocks(jnp.moveaxis(state, 1, -1), PHASES)
        blocks, _ = steps(self.precision, by_blocks=True, **options)(blocks, weights)
        return jnp.moveaxis(blocks_to_space(blocks, PHASES, state.shape[1]), -1, 1)
