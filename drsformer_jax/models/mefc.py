"""Mixture-of-experts feature compensator (MEFC; CVPR 2023, section 3.4)."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from drsformer_jax.models.layers import (
    Convolution,
    DepthwiseConvolution,
    bias_of,
    form_of,
    kernel_of,
)
from drsformer_jax.models.repeated import repeated
from drsformer_jax.ops.execution import Execution
from drsformer_jax.ops.image import Image, average_pool, mixed, relu

STEPS = 4
SEPARABLE_KERNELS = (1, 3, 5, 7)
DILATED_KERNELS = (3, 5, 7)
DILATION = 2
# The farthest that a kernel of a step reaches; a separable expert's two together not farther.
REACH = DILATED_KERNELS[-1] // 2 * DILATION
EXPERT_NAMES = (
    *(f"separable{size}x{size}" for size in SEPARABLE_KERNELS),
    *(f"dilated{size}x{size}" for size in DILATED_KERNELS),
    "average_pool",
)
EXPERTS = len(EXPERT_NAMES)
GATE_WIDTH = 64


class FeatureCompensator(nn.Module):
    """Gate, 1x1 convolution, and four steps of the mixture."""

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """B C H W -> B C H W."""
        weights = Gate(name="gate")(x)
        state = relu(Convolution(x.channels, 1, name="preprocess")(x))
        if form := form_of(self, x):
            return form(state, weights, self.variables["params"]["steps"])
        return repeated(self, "steps", STEPS, MixtureStep)(state, weights)


class Gate(nn.Module):
    """Softmax weights of the experts for each step, from the mean of the image."""

    @nn.compact
    def __call__(self, x: Image) -> jax.Array:
        """B C H W -> B steps experts, in at least float32."""
        hidden = nn.relu(Dense(GATE_WIDTH, name="dense0")(x.mean(), x.how))
        logits = Dense(STEPS * EXPERTS, name="dense1")(hidden, x.how)
        logits = rearrange(logits, "b (step expert) -> b step expert", step=STEPS)
        return nn.softmax(logits, axis=-1)


class Dense(nn.Module):
    """x @ kernel + bias with PyTorch's initialisation."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, how: Execution) -> jax.Array:
        """B C -> B features."""
        kernel = kernel_of(self, x.shape[-1], self.features)
        bias = bias_of(self, kernel)
        return how.matmul(x, kernel.astype(x.dtype)) + bias.astype(x.dtype)


class MixtureStep(nn.Module):
    """One step: s <- ReLU(ReLU(conv1x1(concat_i(w_i expert_i(s)))) + s).

    An expert's last 1x1 convolution, its weight w_i and the 1x1 convolution behind the
    concatenation are linear: their product is a C x C matrix an expert and image, formed first.
    """

    @nn.compact
    def __call__(self, state: Image, weights: jax.Array) -> tuple[Image, None]:
        """state B C H W, weights B experts -> the next state (and nothing, for the scan)."""
        kinds = [(size, True) for size in SEPARABLE_KERNELS]
        kinds += [(size, False) for size in DILATED_KERNELS]
        out = PointwiseKernel(state.channels, name="out")(state.channels * EXPERTS)
        *outs, out_of_pool = jnp.split(out, EXPERTS)
        wide = state.look_around(REACH)  # all experts at once
        features, matrices = [], []
        for i, (size, separable) in enumerate(kinds):
            feature, last = Expert(size, separable, name=f"expert{i}")(wide)
            features.append(feature)
            matrices.append(state.how.matmul(last, outs[i]))
        features.append(average_pool(wide))
        matrices.append(out_of_pool)
        update = self.mix(features, matrices, weights)
        return relu(relu(update) + state), None

    def mix(
        self, features: Sequence[Image], matrices: Sequence[jax.Array], weights: jax.Array
    ) -> Image:
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
            parts.append(mixed(feature, weighted))
        return functools.reduce(operator.add, parts)


class Expert(nn.Module):
    """One convolutional expert up to, but without, its last 1x1 convolution.

    Returns the features and the kernel (C x C) of that convolution, which is merged with the one
    behind the concatenation of all experts.
    """

    kernel_size: int
    separable: bool

    @nn.compact
    def __call__(self, x: Image) -> tuple[Image, jax.Array]:
        channels, size = x.channels, self.kernel_size
        if not self.separable:
            x = DepthwiseConvolution(size, dilation=DILATION, name="depthwise0")(x)
            return x, PointwiseKernel(channels, name="pointwise0")(channels)
        x = DepthwiseConvolution(size, name="depthwise0")(x, keep=size // 2)
        x = relu(Convolution(channels, 1, name="pointwise0")(x))
        x = DepthwiseConvolution(size, name="depthwise1")(x)
        return x, PointwiseKernel(channels, name="pointwise1")(channels)


class PointwiseKernel(nn.Module):
    """The kernel 1 1 C D of a 1x1 convolution that somebody else applies, as a C x D matrix."""

    features: int

    @nn.compact
    def __call__(self, channels: int) -> jax.Array:
        return kernel_of(self, 1, 1, channels, self.features)[0, 0]
