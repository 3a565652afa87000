"""The authors' optimiser (held then cosine learning rate, clipped gradients, AdamW), and Muon."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import optax

# torch.nn.utils.clip_grad_norm_ adds it to the norm that it divides by.
TORCH_CLIP_EPSILON = 1e-6

# Steps are counted in int32.
MOST_STEPS = 2**31 - 1

ADAMW, MUON = "adamw", "muon"
# Root mean square of Muon's update in units of the learning rate: about that of Adam, so that the
# rates of the one serve the other (Liu et al., "Muon is Scalable for LLM Training", 2025).
MUON_RMS = 0.2
# Where the image comes in and goes out a kernel maps to or from 3 channels: no matrix to speak of.
_FIRST_AND_LAST = ("patch_embed", "output")
_MOST_IN_A_GROUP = 2  # channels that a grouped convolution reads at once


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """Settings of the optimiser, its schedule (in steps) and the clipping; as in configs/base.py.

    Attributes:
      name: "adamw", the authors' choice, or "muon" (see `make_optimizer`). Muon's momentum is
        0.95, whatever `b1`.
    """

    name: str = ADAMW
    learning_rate: float = 3e-4
    final_learning_rate: float = 1e-6
    warmup_steps: int = 0
    hold_steps: int = 92_000
    decay_steps: int = 208_000
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-4
    clip_norm: float = 0.01

    def __post_init__(self) -> None:
        if self.name not in (ADAMW, MUON):
            raise ValueError(f"name must be {ADAMW} or {MUON}, not {self.name!r}")
        for name in (field.name for field in dataclasses.fields(self) if field.name != "name"):
            if not isinstance(getattr(self, name), numbers.Real):
                raise ValueError(f"{name} must be a number, not {getattr(self, name)!r}")
        for name in ("learning_rate", "eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("final_learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not self.clip_norm >= 0:  # an infinite one clips nothing
            raise ValueError(f"clip_norm must not be negative, not {self.clip_norm}")
        for name in ("warmup_steps", "hold_steps", "decay_steps"):
            if not 0 <= getattr(self, name) <= MOST_STEPS:
                raise ValueError(f"{name} must be 0 to {MOST_STEPS}, not {getattr(self, name)}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")


def learning_rate_schedule(options: OptimizerOptions) -> optax.Schedule:
    """The learning rate of the step that follows `count` finished ones.

    Held for `hold_steps`, then half a cosine to the final rate over `decay_steps`, then held there.
    Warm-up: step number n (from 1) below `warmup_steps` takes n / warmup_steps of the rate.
    """

    def schedule(count: jax.Array | int) -> jax.Array:
        count = jnp.asarray(count, jnp.result_type(float))
        done = jnp.clip((count - options.hold_steps) / max(options.decay_steps, 1), 0, 1)
        span = options.learning_rate - options.final_learning_rate
        rate = options.final_learning_rate + span * 0.5 * (1 + jnp.cos(jnp.pi * done))
        warm = options.learning_rate * (count + 1) / max(options.warmup_steps, 1)
        return jnp.where(count + 1 < options.warmup_steps, warm, rate)

    return schedule


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales the gradient by min(1, max_norm / (norm + 1e-6)), as PyTorch does.

    optax.clip_by_global_norm divides by the norm itself: at this recipe's 0.01 the difference is
    one in ten thousand of every update.
    """

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params
        scale = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + TORCH_CLIP_EPSILON))
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(options: OptimizerOptions) -> optax.GradientTransformation:
    """Clipping, then AdamW or Muon, with decoupled weight decay on every parameter.

    Muon (Jordan et al., 2024) makes each update of a matrix orthogonal. Here matrices are the
    kernels of 1x1 convolutions and of those 3x3 ones that mix channels, all taps of an input
    together; depthwise kernels, the first and the last convolution, LayerNorm and scalars are left
    to Adam with Nesterov's momentum.
    """
    rate = learning_rate_schedule(options)
    decay = options.weight_decay
    if options.name == MUON:
        from optax import contrib

        method = contrib.muon(
            rate,
            eps=options.eps,
            weight_decay=decay,
            adam_b1=options.b1,
            adam_b2=options.b2,
            adam_weight_decay=decay,
            consistent_rms=MUON_RMS,
            muon_weight_dimension_numbers=_matrices,
        )
    else:
        method = optax.adamw(
            rate, b1=options.b1, b2=options.b2, eps=options.eps, weight_decay=decay
        )
    if options.clip_norm == 0:
        return optax.chain(optax.identity(), method)
    return optax.chain(clip_by_global_norm(options.clip_norm), method)


def _matrices(params: optax.Params) -> Any:
    """For each parameter the axes of the matrix that it is (or of each, of equal blocks), or None.

    Kernels are `height width in out`; those of equal blocks are stacked in front.
    """
    from optax import contrib

    def axes(path: tuple[Any, ...], value: Any) -> contrib.MuonDimensionNumbers | None:
        *modules, parameter = (str(key.key) for key in path)
        if parameter != "kernel" or modules[-1] in _FIRST_AND_LAST:
            return None
        if value.shape[-2] <= _MOST_IN_A_GROUP:
            return None
        reduced = tuple(range(-min(value.ndim, 4), -1))  # a linear layer's has two axes
        return contrib.MuonDimensionNumbers(reduction_axis=reduced, output_axis=-1)

    return jax.tree_util.tree_map_with_path(axes, params)
