"""One of several processes of eval.py, for tests: `python several_evaluations.py JSON`.

The JSON document: process, processes, port, the command lines, one after the other, and whether
the network is a stand-in, images take no time, and an image of so many pixels is too large for one
device. The exit code is that of all command lines.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from training.several_processes import show_only_python_output

from drsformer_jax import processes
from drsformer_jax.cli import evaluate
from drsformer_jax.inference import memory
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.models.config import PRESETS, DRSformerConfig


def dimmed(params: dict, image: jax.Array) -> jax.Array:
    """In the place of the network: the darker, the further right and down in its view."""
    height, width = image.shape[1:3]
    ramp = jnp.linspace(1, 0.5, height)[:, None] * jnp.linspace(1, 0.7, width)
    return image * ramp[None, ..., None]


def stand_in(workdir: Path, devices: int = 1) -> Derainer:
    return Derainer(DRSformerConfig(), {}, restore=dimmed)


def for_sizes(self: Derainer, sizes: list[tuple[int, int]], **tiling: Any) -> Derainer:
    """Tells what the programs are chosen for."""
    print(sizes)
    return self


def main(given: dict[str, Any]) -> int:
    show_only_python_output()
    # Images take no time: seconds are all that two evaluations do not have in common.
    time.perf_counter = lambda: 0.0
    if given["stand_in"]:
        Derainer.load, Derainer.for_sizes = stand_in, for_sizes
    if given["largest"]:
        budget = memory.forward_bytes(PRESETS["tiny"], *given["largest"])
        memory.budget_bytes = lambda devices=1: budget
    others: list[str] = []
    if given["processes"] > 1:
        address = f"--coordinator_address=127.0.0.1:{given['port']}"
        count, own = given["processes"], given["process"]
        others = ["--distributed", address, f"--num_processes={count}", f"--process_id={own}"]
    code = 0
    for line in given["lines"]:
        code = max(code, evaluate.run(["eval.py", *line, *others], ""))
        others = []  # joined once
    return code


if __name__ == "__main__":
    processes.leave(main(json.loads(sys.argv[1])))
