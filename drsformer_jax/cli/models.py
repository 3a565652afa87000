"""`drsformer models`: which weights there are by name, and what they can do."""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drsformer_jax.cli.reports import check_destination, write_report
from drsformer_jax.files import write_json
from drsformer_jax.paths import local_path
from drsformer_jax.tables import aligned

if TYPE_CHECKING:
    from drsformer_jax.checkpoints.weights import Weights

# Of the test sets' photographs, height and width; the network takes multiples of 8.
PICTURE = (321, 481)
PADDED = (328, 488)

NOT_STATED = "not stated"
TIMED_RUNS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List the weights that every command takes by name (--weights NAME): those that come with "
        "the package, with what they were trained on and how they score, and the authors', with "
        "what to download by hand and the paper's score to expect."
    )
    parser.add_argument(
        "--time",
        action="store_true",
        help=f"measure the seconds that a photograph of {PICTURE[1]}x{PICTURE[0]} takes here, "
        f"after compilation: the fastest of {TIMED_RUNS} runs",
    )
    parser.add_argument(
        "--json", type=local_path, metavar="FILE", help="writes the list as JSON, too"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the list; returns 0."""
    from drsformer_jax.checkpoints.catalogue import AUTHORS, packaged

    check_destination("--json", args.json)
    ours = [_packaged(name, path, args.time) for name, path in packaged().items()]
    theirs = [_authors(name) for name in AUTHORS]
    write_report("--json", args.json, lambda path: write_json(path, {"models": ours + theirs}))
    default = ours[0]["name"] if ours else None
    for model in (*ours, *theirs):
        print(f"{model['name']}{'  (default)' if model['name'] == default else ''}")
        for line in _lines(model):
            print(f"  {line}")
    return 0


def _packaged(name: str, path: Path, timed: bool) -> dict[str, Any]:
    """What is known of weights that are here."""
    import jax

    from drsformer_jax.checkpoints.weights import load_weights

    weights = load_weights(path)
    content = path.read_bytes()
    model = {
        "name": name,
        "packaged": True,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(weights.params)),
        "bytes": len(content),
        "gflops": _gflops(weights),
        "data": weights.metadata.get("data", NOT_STATED),
        "score": weights.metadata.get("score", NOT_STATED),
        "licence": weights.metadata.get("licence", NOT_STATED),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return model | ({"seconds": _seconds(path)} if timed else {})


def _authors(name: str) -> dict[str, Any]:
    """What is known of weights that one downloads."""
    from drsformer_jax.checkpoints.catalogue import AUTHORS
    from drsformer_jax.data.sets import SETS

    weights = AUTHORS[name]
    data_set = SETS[weights.data_set]
    assert data_set.published is not None  # the paper's five sets are
    psnr, ssim = data_set.published
    return {
        "name": name,
        "packaged": False,
        "preset": weights.preset,
        "data": f"{data_set.title}, {data_set.pairs['train']:,} training pairs",
        "score": f"{psnr:.2f} dB / {ssim:.4f} on its test set, protocol {data_set.protocol} "
        "(the paper's table 1)",
        "licence": "the authors'; data: " + data_set.licence,
        "get": weights.how_to_get,
    }


def _lines(model: dict[str, Any]) -> list[str]:
    """The list's lines for one model."""
    if not model["packaged"]:
        keys = ("data", "score", "licence", "get")
        rows = [("network", model["preset"]), *((key, model[key]) for key in keys)]
        return aligned(rows, left=(0, 1))
    height, width = PICTURE
    cost = f"{model['gflops']:.1f} GFLOP for a photograph of {width}x{height}"
    if "seconds" in model:
        cost += f", {model['seconds']:.2f} s here"
    return [
        f"{model['parameters']:,} parameters, {model['bytes'] / 1e6:.1f} MB; {cost}",
        *aligned(
            [(key, model[key]) for key in ("data", "score", "licence", "sha256")], left=(0, 1)
        ),
    ]


def _gflops(weights: Weights) -> float:
    """Billions of operations of one forward, by XLA's count of the program before compilation."""
    import functools

    import jax
    import jax.numpy as jnp

    from drsformer_jax.models.drsformer import restore

    image = jax.ShapeDtypeStruct((1, *PADDED, weights.config.in_channels), jnp.float32)
    forward = jax.jit(functools.partial(restore, weights.config))
    cost = forward.lower(weights.params, image).cost_analysis() or {}
    return float(cost["flops"]) / 1e9


def _seconds(path: Path) -> float:
    import numpy as np

    from drsformer_jax.inference.derainer import Derainer

    derain = Derainer.load(path)
    image = np.zeros((*PICTURE, derain.config.in_channels), np.uint8)
    derain(image)  # compiles
    runs = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        derain(image)
        runs.append(time.perf_counter() - start)
    return min(runs)
