"""The authors' training loop in plain PyTorch: the yardstick for the course of training.

What it does at each iteration is that of their program (CVPR 2023, section 4.1; the options and
the loop they released): the rate of the schedule, L1 loss, gradient clipped by
`torch.nn.utils.clip_grad_norm_`, AdamW. Only PyTorch's own parts are used. The schedule is written
here a second time, so that an error in ours is not compared with itself.

It imports PyTorch: import it late. JAX is not imported, so that a process that measures PyTorch's
memory holds PyTorch alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.torch_drsformer import network
from drsformer_jax.parity.trajectory_report import Batch, Dtype, TrainingRecord

if TYPE_CHECKING:
    from drsformer_jax.training.optimizer import OptimizerOptions

_DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


def initial_tensors(config: DRSformerConfig, seed: int) -> dict[str, np.ndarray]:
    """A network as PyTorch initialises it: float32 tensors by name. No global state is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = network(config)
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def adamw(module: nn.Module, options: OptimizerOptions) -> torch.optim.AdamW:
    """AdamW on every parameter."""
    return torch.optim.AdamW(
        module.parameters(),
        lr=options.learning_rate,
        betas=(options.b1, options.b2),
        eps=options.eps,
        weight_decay=options.weight_decay,
    )


def update(
    network: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    rainy: Tensor,
    clean: Tensor,
    clip_norm: float,
) -> tuple[Tensor, Tensor]:
    """L1 loss, its gradient, clipped, and a step of the optimizer.

    Args:
      network: its parameters are the optimizer's.
      rainy, clean: B C H W in [0, 1].
      clip_norm: of the gradient over all parameters; 0: no clipping.

    Returns:
      The loss before the step, and the gradient's norm before clipping.
    """
    optimizer.zero_grad()
    loss = F.l1_loss(network(rainy), clean)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm or math.inf)
    optimizer.step()
    return loss.detach(), norm


def held_then_cosine(
    optimizer: torch.optim.Optimizer, options: OptimizerOptions
) -> torch.optim.lr_scheduler.LambdaLR:
    """The recipe's schedule: held for `hold_steps`, then half a cosine over `decay_steps`."""
    lowest = options.final_learning_rate / options.learning_rate

    def factor(steps_taken: int) -> float:
        decayed = steps_taken - options.hold_steps
        if decayed <= 0:
            return 1.0
        if decayed >= options.decay_steps:
            return lowest
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * decayed / options.decay_steps)) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def torch_trajectory(
    config: DRSformerConfig,
    options: OptimizerOptions,
    tensors: Mapping[str, np.ndarray],
    batches: Iterable[Batch],
    dtype: Dtype,
) -> Iterator[TrainingRecord]:
    """Trains from `tensors`, one iteration a batch, and yields what each one left behind.

    Args:
      config: the network; its execution options mean nothing here.
      options: of optimiser and schedule.
      tensors: initial parameters by PyTorch's names; cast to `dtype`.
      batches: as for `trajectory.jax_trajectory`.
      dtype: of parameters, activations and optimiser state.
    """
    with torch.random.fork_rng(devices=[]):  # its own initialisation, which is overwritten
        module = network(config).to(_DTYPES[dtype])
    module.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()})
    optimizer = adamw(module, options)
    scheduler = held_then_cosine(optimizer, options)

    def channels_first(images: np.ndarray) -> Tensor:
        return torch.from_numpy(images).to(_DTYPES[dtype]).permute(0, 3, 1, 2).contiguous()

    for iteration, batch in enumerate(batches, start=1):
        # In the authors' order: the first iteration uses the schedule at 0, iteration i at i - 1,
        # and a warm-up replaces the schedule's rate below its last iteration.
        if iteration > 1:
            scheduler.step()
        if iteration < options.warmup_steps:
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate / options.warmup_steps * iteration
        loss, norm = update(
            module,
            optimizer,
            channels_first(batch["input"]),
            channels_first(batch["target"]),
            options.clip_norm,
        )
        yield TrainingRecord(
            loss=loss.item(),
            gradient_norm=norm.item(),
            learning_rate=float(optimizer.param_groups[0]["lr"]),
            tensors={
                name: parameter.detach().clone().numpy()
                for name, parameter in module.named_parameters()
            },
        )


class Decisions(TorchFunctionMode):
    """Notes which logits `topk` keeps and which values ReLUs let through, or repeats them.

    These decisions are all at which the network or its gradient jumps. Where two logits, or a value
    and zero, agree to rounding, they fall by chance. (So does the sign of output - target in the
    loss, which is not noted.)

    Attributes:
      kept: the noted decisions, in the order of the calls; the one who follows takes them away.
    """

    def __init__(self, follow: Decisions | None = None) -> None:
        """Notes decisions, or repeats those that `follow` noted."""
        super().__init__()
        self.kept: list[Tensor] = []
        self._follow = follow

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.topk:
            if self._follow is not None:
                return SimpleNamespace(indices=self._follow.kept.pop(0))
            result = func(*args, **kwargs)
            self.kept.append(result.indices)
            return result
        if func in (torch.relu, Tensor.relu, F.relu):
            if self._follow is not None:
                return args[0] * self._follow.kept.pop(0)
            self.kept.append(args[0].detach() > 0)
        return func(*args, **kwargs)


def within(mode: Decisions, records: Iterator[TrainingRecord]) -> Iterator[TrainingRecord]:
    """The same records; each step is made within `mode`, and nothing between two steps is."""
    while True:
        with mode:
            record = next(records, None)
        if record is None:
            return
        yield record
