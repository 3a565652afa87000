"""One of several processes of a training run, for tests: `python several_processes.py JSON`.

The JSON document: process, processes, port, network ("toy", or the real one), float64, the runs,
one after the other (workdir, and changes of the configuration as in `small_config`), and for each
of them its fault: what goes wrong in process 1. The exit code is that of all runs.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sys
from typing import Any

import jax
import numpy as np
from reference.toy_training import (
    RandomPairs,
    options_of,
    small_config,
    toy_init_params,
    toy_restore,
)

from drsformer_jax import processes
from drsformer_jax.buckets import any_path
from drsformer_jax.cli.output import quiet_orbax
from drsformer_jax.errors import UserError
from drsformer_jax.files import write_whole
from drsformer_jax.training import bucket_lock, loop, state, step
from drsformer_jax.training.stopping import Interrupted


def show_only_python_output() -> None:
    """Drops what C++ libraries print: Gloo's threads write into each other's lines."""
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def in_float64() -> None:
    """Float64 parameters, and images."""
    jax.config.update("jax_enable_x64", True)
    init, shard = state.init_params, loop.shard_batch

    def init_params(config: Any, rng: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype("float64"), init(config, rng))

    def shard_batch(batch: Any, *rest: Any) -> Any:
        return shard({name: array.astype("float64") for name, array in batch.items()}, *rest)

    state.init_params, loop.shard_batch = init_params, shard_batch


class StopsProcessOne(RandomPairs):
    """A source that sends its process SIGTERM after some images."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.asked = getattr(self, "asked", 0) + 1
        if self.asked == 20 and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


def validate(params: Any, attempt: Any) -> loop.Validation:
    total = attempt(lambda: float(sum(np.sum(leaf) for leaf in jax.tree.leaves(params))))
    return loop.Validation({"psnr": total}, f"sum {total:.6f}", {})


def train(run: dict[str, Any], fault: str | None) -> int:
    """One run, and its exit code."""
    fault_here = fault if jax.process_index() == 1 else None
    workdir = any_path(run["workdir"])
    if fault_here == "other folder":
        workdir = workdir.with_name("elsewhere")
    try:
        with processes.together():
            if fault_here == "mistake":
                raise UserError("pair.png: vanished")
        config = small_config(**run["changes"])
        source = StopsProcessOne() if fault == "SIGTERM" else RandomPairs()
        final = loop.train(config.to_dict(), options_of(config), source, workdir, validate)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as request:
        return 128 + request.number
    mesh = loop.make_mesh(options_of(config).mesh)
    params = jax.device_get(loop.on_first_device(final.params, mesh))
    if processes.is_first():
        file = io.BytesIO()
        np.savez(file, *jax.tree.leaves(params))
        write_whole(workdir / "final.npz", file.getvalue())
    return 0


def main(given: dict[str, Any]) -> int:
    show_only_python_output()
    quiet_orbax()
    if given["processes"] > 1:
        processes.join(f"127.0.0.1:{given['port']}", given["processes"], given["process"], 60)
    if given["network"] == "toy":
        state.init_params, step.restore = toy_init_params, toy_restore
    if given["float64"]:
        in_float64()
    # Of a killed run.
    bucket_lock.SILENCE_SECONDS, bucket_lock.POLL_SECONDS = 0.5, 0.1
    if given["faults"] == ["no room"]:
        # A write beyond this size fails as one to a full disk does.
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, resource.RLIM_INFINITY))
    codes = {train(*each) for each in zip(given["runs"], given["faults"], strict=True)}
    return codes.pop() if len(codes) == 1 else 99


if __name__ == "__main__":
    processes.leave(main(json.loads(sys.argv[1])))
