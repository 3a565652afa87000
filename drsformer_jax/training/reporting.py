"""What a training run says: console, metrics.jsonl and, where installed, TensorBoard."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from drsformer_jax.files import atomic_path
from drsformer_jax.training.sessions import note_end, note_start
from drsformer_jax.training.tensorboard import open_writer

METRICS_FILE = "metrics.jsonl"
PARAMETERS_FILE = "parameters.txt"

# What validation saw last, as JPEG, at most so wide.
PICTURES = "validation"
_PICTURE_WIDTH = 1800

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


@dataclasses.dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
      scores: by name, for the logs.
      summary: one line for the console.
      pictures: by name, uint8 H W 3.
      rainy: one of the images that were restored, uint8 H W 3.
    """

    scores: Mapping[str, float]
    summary: str
    pictures: Mapping[str, np.ndarray]
    rainy: np.ndarray | None = None


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, for people."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class Reporter:
    """Writes a run's numbers to the console, to WORKDIR/metrics.jsonl and to TensorBoard."""

    def __init__(
        self,
        workdir: Path,
        total_steps: int,
        first_step: int,
        silent: bool = False,
        named: Path | None = None,
    ) -> None:
        """Carries on the logs of a run that is resumed after `first_step` steps.

        Records of later steps, from a run that was killed after its last checkpoint, are dropped:
        those steps come again.

        Args:
          silent: another process of the run reports; this one writes and says nothing.
          named: what the workdir is called in what is said.
        """
        self.total_steps = total_steps
        self._workdir, self._path = workdir, workdir / METRICS_FILE
        self._silent, self._done = silent, first_step
        self._named = named or workdir
        if not silent:
            note_start(workdir, first_step, self._path)
            self._drop_records_after(first_step)
        self._file = open(os.devnull if silent else self._path, "a")  # noqa: SIM115
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            unit="step",
            disable=silent or not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        self._last_step, self._last_time = first_step, time.perf_counter()
        self._tensorboard = None
        if not silent:
            self._tensorboard, told = open_writer(workdir)
            self.say(told)

    def _drop_records_after(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):
                # Half a line, from a run that was killed while writing, or no record of ours.
                continue
        with atomic_path(self._path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def restart_clock(self) -> None:
        """Leaves the time since the last report out of the speed: compilation, evaluation."""
        self._last_time = time.perf_counter()

    def say(self, message: str) -> None:
        """A line on the console, above the progress bar if there is one."""
        if self._silent:
            return
        message = message.replace(str(self._workdir), str(self._named))
        if self._bar.disable:
            print(message, flush=True)
        else:
            self._bar.write(message)

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        self._done = step
        self._bar.update(step - self._bar.n)

    def training(self, window: Window) -> None:
        """Reports the means of the steps since the last report; raises as `Window.finite`."""
        metrics, step, now = window.means(), window.last_step, time.perf_counter()
        seconds = max(now - self._last_time, 1e-9)
        per_step = seconds / max(step - self._last_step, 1)
        self._last_step, self._last_time = step, now
        record = {**metrics, "images_per_second": window.images / seconds}
        self._write(step, record)
        remaining = duration((self.total_steps - step) * per_step)
        self.say(
            f"step {step:,}/{self.total_steps:,}  loss {metrics['loss']:.5f}"
            f"  lr {metrics['learning_rate']:.2e}  grad {metrics['gradient_norm']:.3g}"
            f"  |out-in| {metrics['output_change']:.4f}"
            f"  {record['images_per_second']:.1f} images/s  ETA {remaining}"
        )
        if warning := collapse_warning(metrics):
            self.say(warning)

    def validation(self, step: int, found: Validation) -> None:
        """Reports what the validation after a step found."""
        self._write(step, found.scores)
        if self._tensorboard is not None:
            self._tensorboard.write_images(
                step, {name: picture[None] for name, picture in found.pictures.items()}
            )
        self._keep_pictures(found.pictures)
        self.say(f"step {step:,}  {found.summary}")
        self.restart_clock()

    def parameters(self, overview: str) -> None:
        """Keeps the table of the network's parameters."""
        if self._silent:
            return
        with atomic_path(self._path.with_name(PARAMETERS_FILE)) as temporary:
            temporary.write_text(f"{overview}\n")
        if self._tensorboard is not None:
            # Markdown: indented, the table stays one.
            text = "".join(f"    {line}\n" for line in overview.splitlines())
            self._tensorboard.write_texts(0, {"parameters": text})

    def learned(self, step: int, values: Callable[[], Mapping[str, float]]) -> None:
        """What the network has learned to look at, computed where it is written only."""
        if self._tensorboard is not None:
            self._tensorboard.write_scalars(step, values())

    def _keep_pictures(self, pictures: Mapping[str, np.ndarray]) -> None:
        """Writes them for the report, which goes without where they cannot be written."""
        if self._silent:
            return
        folder = self._workdir / PICTURES
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            for name, picture in pictures.items():
                image = Image.fromarray(picture)
                image.thumbnail((_PICTURE_WIDTH, image.height))
                with atomic_path(folder / f"{name}.jpg") as temporary:
                    image.save(temporary, quality=90, subsampling=0)

    def _write(self, step: int, record: Mapping[str, float]) -> None:
        """Adds one record to the files."""
        values = {name: float(value) for name, value in record.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            self._tensorboard.write_scalars(step, values)

    def close(self) -> None:
        """Finishes the logs."""
        if not self._silent:
            note_end(self._workdir, self._done)
        self._bar.close()
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
