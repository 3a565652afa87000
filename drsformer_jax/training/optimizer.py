"""The authors' optimiser: held then cosine learning rate, clipped gradients, AdamW."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

# torch.nn.utils.clip_grad_norm_ adds it to the norm that it divides by.
TORCH_CLIP_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """Settings of AdamW, its schedule (in steps) and the clipping; names as in configs/base.py."""

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
        for name in ("learning_rate", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        not_negative = ("final_learning_rate", "warmup_steps", "hold_steps", "decay_steps")
        for name in (*not_negative, "weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
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
    """Clipping, then AdamW with decoupled weight decay on every parameter."""
    adamw = optax.adamw(
        learning_rate_schedule(options),
        b1=options.b1,
        b2=options.b2,
        eps=options.eps,
        weight_decay=options.weight_decay,
    )
    if options.clip_norm == 0:
        return optax.chain(optax.identity(), adamw)
    return optax.chain(clip_by_global_norm(options.clip_norm), adamw)
