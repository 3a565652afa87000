"""How the network is computed, apart from what it computes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

# JAX is imported where it is used: configurations are read, and files of weights, without it.
if TYPE_CHECKING:
    import jax

    from drsformer_jax.ops.rows import RowShards

CPU, GPU, TPU = "cpu", "gpu", "tpu"

DTYPES = ("float32", "bfloat16")
PLATFORMS = (None, CPU, GPU, TPU)
PRECISIONS = ("default", "high", "highest")
KERNELS = ("auto", "on", "off")


def target(platform: str | None) -> str:
    """`platform`, or where it is None the one that JAX runs on: "cpu", "gpu" or "tpu".

    Operations take another form on each. It is chosen when an operation is traced.
    `jax.lax.platform_dependent` would leave it to the lowering, but then every form is traced,
    differentiated and recomputed on the way there: nearly half of the time before the compiler
    gets a training step.
    """
    if platform is None:
        import jax

        return jax.default_backend()
    return platform


@dataclasses.dataclass(frozen=True)
class Execution:
    """One value for all modules, hashable: part of what programs are traced and kept by.

    Attributes:
      dtype: precision of the activations: "float32" (that of the parameters, so that float64
        parameters give a float64 network) or "bfloat16" (parameters stay float32, and so do
        LayerNorm statistics, L2 norms, attention logits, softmax and gate).
      precision: of matrix products and convolutions; "highest" for parity ("default" is TF32 on
        recent GPUs and bfloat16 on TPU).
      unroll: whether the blocks of a level are written out one after the other, each a call of one
        compiled function (fast on CPU), or run by one loop. None chooses by platform.
      remat: recompute the inside of each block in the backward pass instead of storing it. None:
        do. Storing takes less time on CPU where it fits in memory.
      platform: the one whose forms of modules and loops are taken ("cpu", "gpu" or "tpu"), where
        they differ. None: the one that JAX runs on; name it to compile for another one.
      rows: how the rows of the images are split over devices, see `ops.rows`; None: they are not.
      kernels: on TPU, whether modules that have a kernel of their own (`ops.tpu.forms`) are
        computed by it: "on", "off", or the names of such modules. "auto" is settled, to such
        names, by comparing kernels with the other forms on the TPU at hand (`models.kernels`);
        unsettled, kernels are taken where `platform` is named, for a TPU that is not there.
      vmem: MiB of fast memory of a TPU's core, by which kernels choose how much of an image they
        keep. None: that of the TPU that JAX runs on.

    Raises:
      ValueError: an option is out of its range.
    """

    dtype: str = "float32"
    precision: str = "default"
    unroll: bool | None = None
    remat: bool | None = None
    platform: str | None = None
    rows: RowShards | None = None
    kernels: str | tuple[str, ...] = "auto"
    vmem: int | None = None

    def __post_init__(self) -> None:
        check_choice(self, "dtype", DTYPES)
        check_choice(self, "precision", PRECISIONS)
        check_choice(self, "platform", PLATFORMS)
        for name in ("unroll", "remat"):
            check_choice(self, name, (None, False, True))
        if not isinstance(self.kernels, tuple):
            check_choice(self, "kernels", KERNELS)
        if self.rows is not None:
            from drsformer_jax.ops.rows import RowShards

            if not isinstance(self.rows, RowShards):
                raise ValueError(f"rows must be `RowShards` or None, not {self.rows!r}")

    @property
    def target(self) -> str:
        """The platform: "cpu", "gpu" or "tpu"."""
        return target(self.platform)

    @property
    def products(self) -> str | None:
        """The precision argument of products; None leaves it to JAX's own setting."""
        return None if self.precision == "default" else self.precision

    @property
    def is_unrolled(self) -> bool:
        """Whether blocks are written out; where it is left open, on CPU only."""
        return self.target == CPU if self.unroll is None else self.unroll

    @property
    def is_recomputed(self) -> bool:
        """Whether blocks are run again in the backward pass; left open, they are."""
        return self.remat is not False

    def takes_kernel(self, module: str) -> bool:
        """Whether a module, by its class, is computed by its kernel, where there is one."""
        if isinstance(self.kernels, tuple):
            return module in self.kernels
        return self.kernels == "on" or (self.kernels == "auto" and self.platform is not None)

    def matmul(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """A matrix product."""
        import jax.numpy as jnp

        return jnp.matmul(a, b, precision=self.products)

    def einsum(self, equation: str, *arrays: jax.Array) -> jax.Array:
        """`jnp.einsum` in the precision asked for."""
        import jax.numpy as jnp

        return jnp.einsum(equation, *arrays, precision=self.products)


def check_choice(options: Any, name: str, choices: tuple[str | bool | None, ...]) -> None:
    """Raises ValueError where the attribute of that name is none of the choices."""
    if getattr(options, name) not in choices:
        raise ValueError(f"{name} must be one of {choices}, not {getattr(options, name)!r}")
