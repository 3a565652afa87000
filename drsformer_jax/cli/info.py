"""`drsformer info`: what is in a file or folder of weights."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drsformer_jax.buckets import is_in_bucket
from drsformer_jax.checkpoints.hub import fetch, is_address, weights_argument
from drsformer_jax.cli.reports import check_destination, weights_read, write_report
from drsformer_jax.errors import one_line
from drsformer_jax.files import write_json
from drsformer_jax.paths import files_below, local_path
from drsformer_jax.tables import aligned

if TYPE_CHECKING:
    from drsformer_jax.checkpoints.weights import Weights

# What the files of training programs hold beside the network, by the beginnings of the keys.
_OF_TRAINING = ("optim", "sched", "lr_sched", "epoch", "iter", "step", "global_step")

PYTORCH = "PyTorch file"

# A note of more letters is shortened; --json has all of it.
_LONGEST_NOTE = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Tell what is in weights of any form: network, parameters by module, dtype, size, "
        "checksums, step and score, and what is noted of recipe, data and licence. The network is "
        "not run."
    )
    parser.add_argument(
        "weights",
        nargs="?",
        type=weights_argument,
        metavar="W",
        help="what derain takes as --weights (default: those that come with the package)",
    )
    parser.add_argument(
        "--arrays", action="store_true", help="list every array, with its mean and deviation"
    )
    parser.add_argument("--json", type=local_path, metavar="FILE", help="writes it as JSON, too")


def run(args: argparse.Namespace) -> int:
    """Prints what there is; returns 0."""
    from clu import parameter_overview

    from drsformer_jax.checkpoints.catalogue import by_name, default_weights
    from drsformer_jax.checkpoints.in_bucket import fetch_weights
    from drsformer_jax.checkpoints.weights import load_weights
    from drsformer_jax.cli.devices import check_devices

    given = args.weights or default_weights()
    check_destination("--json", args.json, weights_read(given))
    check_devices()
    weights = load_weights(given)
    if is_address(given):
        path = fetch(str(given))[0]
    else:
        path = fetch_weights(given)[0] if is_in_bucket(given) else by_name(given)
    found = _description(path, weights)
    write_report("--json", args.json, lambda file: write_json(file, found))
    print("\n".join(aligned(_rows(weights, found), left=(0, 1))))
    if args.arrays:
        print(parameter_overview.get_parameter_overview(weights.params))
    else:
        total, modules = found["parameters"], found["modules"]
        rows = [(name, f"{count:,}", f"{count / total:.1%}") for name, count in modules.items()]
        print("\n".join(["", *aligned([("module", "parameters", "share"), *rows])]))
    return 0


def _description(path: Path, weights: Weights) -> dict[str, Any]:
    """All that is known, as JSON has it."""
    from clu import parameter_overview

    from drsformer_jax.checkpoints.fingerprint import fingerprint
    from drsformer_jax.checkpoints.runs import DIRECTORY
    from drsformer_jax.checkpoints.torch_names import torch_names

    step = path
    if (path / DIRECTORY).is_dir():
        step = path / DIRECTORY / weights.metadata["step"]
    files = list(files_below(step)) if step.is_dir() else [path]
    modules = {
        # In the order of the network.
        spec.path[0]: int(parameter_overview.count_parameters(weights.params[spec.path[0]]))
        for spec in torch_names(weights.config).values()
    }
    form = _form(path, step)
    return {
        "path": str(path),
        "form": form,
        "architecture": weights.config.architecture(),
        "parameters": sum(modules.values()),
        "modules": modules,
        "dtypes": sorted(weights.dtypes),
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None,
        "fingerprint": fingerprint(weights.params),
        "metadata": weights.metadata | _of_run(step),
        "beside": _beside(path, weights) if form == PYTORCH else [],
        "notes": list(weights.notes),
    }


def _form(path: Path, step: Path) -> str:
    from drsformer_jax.checkpoints.contents import kind_of

    if not path.is_dir():
        return "safetensors file" if kind_of(path) == "safetensors" else PYTORCH
    if step != path:
        return "training workdir"
    return "step of a training workdir" if (path / "state").is_dir() else "converted checkpoint"


def _of_run(step: Path) -> dict[str, str]:
    """What a training run has noted of a step: recipe and validation score."""
    from drsformer_jax.checkpoints.orbax_folder import read_item
    from drsformer_jax.checkpoints.runs import SCORE

    if not (step / "state").is_dir():
        return {}
    noted = {"recipe": json.dumps(read_item(step / "config"))}
    if (step / "metrics").is_dir():
        score = read_item(step / "metrics", "metrics").get(SCORE)
        if isinstance(score, int | float):
            noted["score"] = f"{score:.2f} dB in validation"
    return noted


def _beside(path: Path, weights: Weights) -> list[str]:
    """The other keys of a file of PyTorch: of a training state, or other weights."""
    from drsformer_jax.checkpoints.foreign_names import BARE
    from drsformer_jax.checkpoints.pytorch_file import load_file

    container = weights.metadata["container"]
    if container == BARE:
        return []
    return [str(key) for key in load_file(path) if str(key) != container.partition(".")[0]]


def _rows(weights: Weights, found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is printed: name and value."""
    yield "path", one_line(found["path"])
    yield "form", found["form"]
    yield "network", weights.config.summary()
    metadata = dict(found["metadata"])
    which = metadata.pop("parameters", None)
    average = ", averaged" if which == "ema_params" else ""
    yield "parameters", f"{found['parameters']:,} of {', '.join(found['dtypes'])}{average}"
    yield "bytes", f"{found['bytes']:,}"
    if found["sha256"]:
        yield "sha256", found["sha256"]
    # Whatever form they are converted to, it stays.
    yield "fingerprint", found["fingerprint"]
    if beside := found["beside"]:
        training = any(key.lower().startswith(_OF_TRAINING) for key in beside)
        told = "a training state: " if training else ""
        yield "beside", one_line(f"{told}it also has {', '.join(beside)}")
    for key, value in sorted(metadata.items()):
        yield one_line(key), _shortened(_name_of(value) if key == "recipe" else value)
    for note in found["notes"]:
        yield "note", one_line(note)


def _name_of(recipe: str) -> str:
    """Of a recipe that is a configuration as JSON, its name and length."""
    try:
        config = json.loads(recipe)
        return f"{config['name']}, {config['total_steps']:,} steps"
    except (ValueError, KeyError, TypeError):
        return recipe


def _shortened(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= _LONGEST_NOTE else f"{text[:_LONGEST_NOTE]}..."
