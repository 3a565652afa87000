"""The numbers of the steps since the last report, while they are still on the devices."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

# Of what should change, so little does when the network has collapsed to output = input.
COLLAPSED_SHARE = 0.02


class NotFiniteError(Exception):
    """A number of a step is infinite or NaN; the message is the step and its numbers."""


@dataclasses.dataclass
class Window:
    """Metrics of the steps after `first_step`, and how many images they saw."""

    first_step: int
    metrics: list[dict[str, jax.Array]] = dataclasses.field(default_factory=list)
    images: int = 0

    @property
    def last_step(self) -> int:
        """Steps done after the newest of them."""
        return self.first_step + len(self.metrics)

    def add(self, metrics: dict[str, jax.Array], images: int) -> None:
        """One more step."""
        self.metrics.append(metrics)
        self.images += images

    def finite(self) -> list[dict[str, Any]]:
        """The numbers, once they are computed.

        Raises:
          NotFiniteError: one of them is not finite.
        """
        fetched = jax.device_get(self.metrics)
        for step, metrics in enumerate(fetched, start=self.first_step + 1):
            if not all(math.isfinite(value) for value in metrics.values()):
                numbers = ", ".join(f"{name} {float(value):.3g}" for name, value in metrics.items())
                raise NotFiniteError(f"step {step:,} ({numbers})")
        return fetched

    def means(self) -> dict[str, float]:
        """Means over the steps, and the last learning rate; raises as `finite`."""
        fetched = self.finite()
        means = {name: float(np.mean([m[name] for m in fetched])) for name in fetched[0]}
        means["learning_rate"] = float(fetched[-1]["learning_rate"])
        return means


def collapse_warning(means: dict[str, float]) -> str | None:
    """What to say where the network gives back its input, by the means of a window."""
    if means["output_change"] >= COLLAPSED_SHARE * means["target_change"]:
        return None
    return (
        f"warning: the network has collapsed to output = input (mean |output - input| "
        f"{means['output_change']:.2g}, mean |target - input| {means['target_change']:.2g}); it "
        "seldom recovers: start again from an earlier checkpoint, with another seed or a lower "
        "learning rate"
    )
