"""A run of the authors' program as its files see it: network, AdamW, schedule, iterations.

Nothing is trained: the gradients are given, or random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drsformer_jax.models.config import DRSformerConfig
from drsformer_jax.parity.torch_drsformer import network
from reference.perturbed import perturb

# One block a level and few channels: quick to write.
SMALLEST = DRSformerConfig(dim=8, num_blocks=(1, 1, 1, 1), heads=(1, 2, 2, 4), use_mefc=False)


class CyclicCosine(torch.optim.lr_scheduler.LRScheduler):
    """Half a cosine for each of several periods: their CosineAnnealingRestartCyclicLR.

    The attributes have their names, because the state_dict is all attributes.
    """

    def __init__(self, optimizer: Any, periods: Any, restart_weights: Any, eta_mins: Any):
        self.periods = list(periods)
        self.restart_weights = list(restart_weights)
        self.eta_mins = list(eta_mins)
        self.cumulative_period = [sum(periods[: i + 1]) for i in range(len(periods))]
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        ends = self.cumulative_period
        period = next(i for i, end in enumerate(ends) if self.last_epoch <= end)
        start = ends[period - 1] if period else 0
        done = (self.last_epoch - start) / self.periods[period]
        lowest, weight = self.eta_mins[period], self.restart_weights[period]
        return [
            lowest + weight * 0.5 * (base - lowest) * (1 + math.cos(math.pi * done))
            for base in self.base_lrs
        ]


class AuthorsRun:
    """Iterations in their order: schedule (from the second on), gradients, clipping, AdamW."""

    def __init__(
        self,
        config: DRSformerConfig = SMALLEST,
        *,
        periods: tuple[int, ...] = (4, 8),
        ema_decay: float = 0.0,
        **adamw: Any,
    ):
        settings = {"lr": 3e-4, "betas": (0.9, 0.999), "weight_decay": 1e-4} | adamw
        self.module = perturb(network(config), seed=0)
        self.ema = perturb(network(config), seed=0) if ema_decay else None
        self.ema_decay = ema_decay
        self.optimizer = torch.optim.AdamW(self.module.parameters(), **settings)
        lowest = [*[settings["lr"]] * (len(periods) - 1), 1e-6]
        self.schedule = CyclicCosine(self.optimizer, periods, [1] * len(periods), lowest)
        self.iteration = 0
        self._random = torch.Generator().manual_seed(1)

    def step(self, gradients: Mapping[str, np.ndarray] | None = None) -> None:
        """One iteration with these gradients, or random ones that the clipping shortens."""
        self.iteration += 1
        if self.iteration > 1:
            self.schedule.step()
        for name, parameter in self.module.named_parameters():
            if gradients is None:
                parameter.grad = torch.randn(parameter.shape, generator=self._random)
            else:
                parameter.grad = torch.from_numpy(np.array(gradients[name]))
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 0.01)
        self.optimizer.step()
        if self.ema is not None:
            pairs = zip(self.ema.parameters(), self.module.parameters(), strict=True)
            for average, parameter in pairs:
                average.data.mul_(self.ema_decay).add_(parameter.data, alpha=1 - self.ema_decay)

    def parameters(self) -> dict[str, np.ndarray]:
        return {name: p.detach().numpy() for name, p in self.module.named_parameters()}

    def content(self) -> dict[str, Any]:
        """What their program saves as a training state."""
        return {
            "epoch": 3,
            "iter": self.iteration,
            "optimizers": [self.optimizer.state_dict()],
            "schedulers": [self.schedule.state_dict()],
        }

    def save(self, folder: Path) -> Path:
        """Writes training_states/N.state, whose path is returned, and models/net_g_N.pth."""
        networks = {"params": self.module.state_dict()}
        if self.ema is not None:
            networks["params_ema"] = self.ema.state_dict()
        for name in ("training_states", "models"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        torch.save(networks, folder / "models" / f"net_g_{self.iteration}.pth")
        path = folder / "training_states" / f"{self.iteration}.state"
        torch.save(self.content(), path)
        return path

    def load(self, state_path: Path, network_path: Path) -> None:
        """Resumes, as their program does."""
        content = torch.load(state_path, weights_only=True)
        networks = torch.load(network_path, weights_only=True)
        self.module.load_state_dict(networks["params"], strict=True)
        if self.ema is not None:
            self.ema.load_state_dict(networks["params_ema"], strict=True)
        self.optimizer.load_state_dict(content["optimizers"][0])
        self.schedule.load_state_dict(content["schedulers"][0])
        self.iteration = content["iter"]


def saved_run(folder: Path, iterations: int = 3, **options: Any) -> Path:
    """The training state of a run after so many iterations; its network lies in its place."""
    run = AuthorsRun(**options)
    for _ in range(iterations):
        run.step()
    return run.save(folder)


def assert_equal(actual: Any, expected: Any, place: str = "file") -> None:
    """The same values of the same types in the same containers, tensors to the bit."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(actual, torch.Tensor), place
        assert actual.dtype == expected.dtype, place
        assert actual.shape == expected.shape, place
        assert torch.equal(actual, expected), place
    elif isinstance(expected, Mapping):
        assert list(actual) == list(expected), place
        for key in expected:
            assert_equal(actual[key], expected[key], f"{place}.{key}")
    elif isinstance(expected, list | tuple):
        assert type(actual) is type(expected), place
        assert len(actual) == len(expected), place
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_equal(a, b, f"{place}[{i}]")
    else:
        assert type(actual) is type(expected), place
        assert actual == expected, place
