"""`drsformer convert`: weights, and runs of training, from one form into another."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_jax.checkpoints.hub import weights_argument
from drsformer_jax.cli.devices import check_devices
from drsformer_jax.cli.output import quiet_orbax
from drsformer_jax.errors import UserError, one_line
from drsformer_jax.paths import is_one_of, local_path, require_text

if TYPE_CHECKING:
    from drsformer_jax.basicsr.network import Network
    from drsformer_jax.basicsr.workdir_import import Conversion
    from drsformer_jax.checkpoints.weights import Weights

STATE_SUFFIX = ".state"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `drsformer convert`."""
    parser.add_argument(
        "source",
        metavar="SRC",
        type=weights_argument,
        help="weights: a PyTorch or safetensors file of any name (.pth, .ckpt, .bin, ...), a "
        "checkpoint folder, a training workdir (its newest checkpoint) or hf://ORG/NAME; or a run: "
        "the authors' training state (.state), or a workdir or WORKDIR/checkpoints/STEP if DST "
        "ends in .state",
    )
    parser.add_argument(
        "destination",
        metavar="DST",
        type=local_path,
        help="what to write: NAME.pth or NAME.pt (PyTorch), NAME.safetensors, or NAME without a "
        "suffix (checkpoint folder; from a .state a workdir, which train.py resumes); NAME.state: "
        "the authors' training state with its network file",
    )
    parser.add_argument(
        "--network",
        metavar="FILE",
        type=local_path,
        help="the network file (.pth) of a .state; default: net_g_ITERATION.pth in ../models "
        "where the .state lies in training_states, else beside the .state",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace DST if it is there (never a foreign folder), and the network file",
    )


def run(args: argparse.Namespace) -> int:
    """Converts and says what was converted. Returns 0 or raises UserError, nothing written."""
    weights_at = args.source
    args.source = Path(weights_at)  # of an address on the hub, no path that is anything here
    _check_sources_stay(args)
    quiet_orbax()
    states = [path.suffix.lower() == STATE_SUFFIX for path in (args.source, args.destination)]
    if any(states) or args.source.is_dir() or not args.destination.suffix:
        check_devices()  # of Orbax, which reads and writes folders
    if any(states):
        _convert_run(args, importing=states[0], exporting=states[1])
        return 0
    if args.network is not None:
        raise UserError("--network goes with a training state: neither SRC nor DST ends in .state")
    from drsformer_jax.checkpoints.weights import load_weights, save_weights

    _check_destination(args.destination, args.force)
    weights = load_weights(weights_at)
    save_weights(args.destination, weights)
    print(_report(weights_at, args.destination, weights))
    return 0


def _convert_run(args: argparse.Namespace, *, importing: bool, exporting: bool) -> None:
    """A training state into a workdir or back, each with its network."""
    network, form = args.network, args.destination.suffix.lower()
    if importing and exporting:
        raise UserError("SRC and DST both end in .state: one of them must be a workdir")
    if importing and form in (".pth", ".pt", ".safetensors"):
        raise UserError(
            f"{args.destination}: a training state becomes a workdir: name a folder (its weights "
            "alone are in its network file, net_g_*.pth)"
        )
    if exporting and network is not None and network.suffix.lower() not in (".pth", ".pt"):
        raise UserError(f"--network {network}: the network of a training state is a .pth file")
    if importing:
        from drsformer_jax.basicsr.workdir_import import import_run

        require_text(args.destination)
        done = import_run(args.source, network, args.destination, args.force)
        print(_run_report(done, args.destination))
    else:
        from drsformer_jax.basicsr.workdir_export import export_run

        print(_run_report(export_run(args.source, args.destination, network, args.force)))


def _check_sources_stay(args: argparse.Namespace) -> None:
    """That DST is neither what is read, under another name, nor a folder around it.

    Under the same name --force says that it may be.
    """
    destination = args.destination.resolve()
    for source in filter(None, (args.source, args.network)):
        if os.path.abspath(source) == os.path.abspath(args.destination):
            continue
        if is_one_of(destination, [source]) or source.resolve().is_relative_to(destination):
            raise UserError(f"{args.destination}: would overwrite {source}: give another name")


def _check_destination(path: Path, force: bool) -> None:
    """Finds before the work what would make writing fail after it."""
    from drsformer_jax.checkpoints.pytorch_file import require_torch
    from drsformer_jax.checkpoints.weights import form_of

    form = form_of(path)
    if form == "pytorch":
        require_torch(f"writing {path}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}, make it first")
    if not path.exists():
        return
    if not force:
        raise UserError(f"{path} exists: give another name, or --force to replace it")
    if path.is_dir() and form != "directory":
        raise UserError(f"{path} is a folder: give a file name")
    if form == "directory":
        from drsformer_jax.checkpoints.orbax_folder import check_replaceable

        check_replaceable(path)


def _report(source: Path | str, destination: Path, weights: Weights) -> str:
    metadata = weights.metadata
    # The strings stay with the weights: those of an earlier conversion are not about this source.
    keys = ("container", "step", "parameters")
    fresh = metadata.get("source") == Path(source).absolute().name
    origin = ", ".join(f"{key} {metadata[key]}" for key in keys if fresh and key in metadata)
    lines = [
        f"{source}" + (f" ({origin})" if origin else ""),
        *_network_lines(weights),
    ]
    kept = metadata.get("notes", "")
    notes = [kept, *(note for note in weights.notes if note not in kept)]
    if any(notes):
        lines.append(f"  note: {'; '.join(filter(None, notes))}")
    lines.append(f"-> {destination}")
    return "\n".join(map(one_line, lines))


def _run_report(done: Conversion, workdir: Path | None = None) -> str:
    average = "without" if done.network.ema is None else "with"
    lines = [
        done.source,
        *_network_lines(done.network),
        f"  step {done.step:,}: parameters and AdamW's moments, {average} a moving average",
        *(f"  note: {note}" for note in done.notes),
        f"-> {done.destination}",
    ]
    if workdir is not None:
        lines.append(f"   python train.py --config CONFIG --workdir {workdir} carries it on")
    return "\n".join(map(one_line, lines))


def _network_lines(network: Weights | Network) -> list[str]:
    from drsformer_jax.checkpoints.names import sizes_of

    tensors, parameters = sizes_of(network.params)
    return [f"  {network.config.summary()}", f"  {tensors} tensors, {parameters:,} parameters"]
