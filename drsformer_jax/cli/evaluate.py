"""What eval.py does: read its flags, then score the newest checkpoint of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict

from drsformer_jax.buckets import any_path, is_in_bucket, local_copy
from drsformer_jax.cli.devices import check_devices
from drsformer_jax.cli.distributed import USAGE as DISTRIBUTED_USAGE
from drsformer_jax.cli.distributed import define_distributed, distributed_arguments, join_if_asked
from drsformer_jax.cli.experiment import checked, run_experiment
from drsformer_jax.cli.experiment_flags import USAGE, read_flags
from drsformer_jax.errors import UserError
from drsformer_jax.paths import files_below, identity, local_path

if TYPE_CHECKING:
    from drsformer_jax.evaluation.run import Task

EVALUATION_USAGE = """
  --set NAME=FOLDER   scores this data set instead of config.data.val; may be given several times.
                      FOLDER holds test/, or input/ and target/, or was built by drsformer data
                      build. Of rain200l, rain200h, did, ddn, spa, rain100l, rain100h and rain800
                      the protocol is known; any other name is scored by config.eval.protocol
  --ensemble          averages over the orientations that training drew from
                      (config.data.augment): eight flips and rotations in eight times the time, or
                      the image and its mirror image in twice the time
  --tile SIZE         restores in tiles of so many pixels, a multiple of 8; --overlap PIXELS (32)"""


@dataclasses.dataclass(frozen=True)
class EvaluationFlags:
    """A command line of eval.py.

    config: the configuration with its changes.
    sets: names and folders of data sets to score; none: that of the configuration.
    restoring: tile and overlap, as far as given.
    ensemble: whether flips and rotations are averaged.
    distributed: the arguments of `processes.join`, or None: this process is alone.
    """

    config: ConfigDict
    workdir: Path
    sets: tuple[tuple[str, Path], ...]
    restoring: dict[str, Any]
    ensemble: bool
    distributed: dict[str, Any] | None


def run(argv: Sequence[str], description: str) -> int:
    """Scores as the flags of a command line say; returns the exit code (`run_experiment`)."""
    return run_experiment(argv[0], lambda: _evaluate(argv, description))


def _evaluate(argv: Sequence[str], description: str) -> None:
    given = parse_flags(argv, description)
    if given is None:
        return
    from drsformer_jax.evaluation.run import Options, evaluate_workdir
    from drsformer_jax.processes import is_first, together

    join_if_asked(given.distributed)
    check_devices()
    with together():
        _check_names(given)
        _check_inputs_stay(given)
        per_device = checked(lambda: given.config.eval.batch_size, "eval.batch_size")
        orientations = _orientations(given.config) if given.ensemble else 1
        options = Options(**given.restoring, orientations=orientations, per_device=per_device)
        tasks = _tasks(given)
    text = evaluate_workdir(given.workdir, tasks, options, own=not given.sets)
    if is_first():
        print(text)


def _orientations(config: ConfigDict) -> int:
    """How many flips and rotations of an image the network knows from its training.

    Raises:
      UserError: training knows none of that name.
    """
    from drsformer_jax.data.transforms import ORIENTATIONS
    from drsformer_jax.training.config import augment_of

    return ORIENTATIONS[checked(lambda: augment_of(config), "data")]


def _tasks(given: EvaluationFlags) -> list[Task]:
    """The data sets to score.

    Raises:
      UserError: one is missing or damaged, or is to be scored in a way that there is not.
    """
    from drsformer_jax.data.configured import validation_source
    from drsformer_jax.data.sets import SETS, get_set
    from drsformer_jax.data.splits import split_for_test
    from drsformer_jax.evaluation.run import Task

    config = given.config
    protocol = checked(lambda: config.eval.protocol, "eval.protocol")
    tasks = []
    for name, folder in given.sets:
        known = SETS.get(name)
        source = split_for_test(local_copy(folder), known)
        tasks.append(Task(name, source, known.protocol if known else protocol, known))
    if not tasks:
        source = checked(lambda: validation_source(config.data), "data")
        name = checked(lambda: config.eval.data_set, "eval.data_set")
        data_set = get_set(name) if name else None
        own = name or checked(lambda: config.name, "name")
        tasks.append(Task(own, source, protocol, data_set))
    return tasks


def _check_names(given: EvaluationFlags) -> None:
    """That every set can have a folder, which takes the place of no file that is written beside it.

    Raises:
      UserError: one would.
    """
    from drsformer_jax.evaluation.run import OF_A_SET, RESULTS

    for name, folder in given.sets:
        if not is_in_bucket(given.workdir):
            local_path(str(given.workdir / name), "--set")  # it may be too long
        if name.lower() in (*RESULTS, *OF_A_SET):
            raise UserError(
                f"--set {name}={folder}: {name} is what eval.py itself writes: give another name"
            )


def _check_inputs_stay(given: EvaluationFlags) -> None:
    """That no image to be read lies where restored ones are written, and older ones removed.

    Raises:
      UserError: one does.
    """
    from drsformer_jax.evaluation.run import DIRECTORY, RESTORED

    if is_in_bucket(given.workdir):
        return  # what is there is read from copies
    out = given.workdir / DIRECTORY
    written = {identity(path) for path in (out, *out.glob("*"), *out.glob(f"*/{RESTORED}"))}
    folders = [folder for _, folder in given.sets]
    if not folders and isinstance(given.config.get("data"), ConfigDict):
        folders = [any_path(str(given.config.data.get("val")))]
    for folder in folders:
        for place in {file.parent for file in files_below(folder)}:
            if identity(place) in written:
                raise UserError(
                    f"{place}: images to be restored lie in {out}, where results are written: "
                    "move them elsewhere"
                )


def parse_flags(argv: Sequence[str], description: str) -> EvaluationFlags | None:
    """What a command line says; None if only help was asked for.

    Raises:
      UserError: as `read_flags`.
    """
    help_text = f"{description.strip()}\n\n{USAGE}{EVALUATION_USAGE}{DISTRIBUTED_USAGE}"
    if (found := read_flags(argv, help_text, _define)) is None:
        return None
    config, workdir, values = found
    names = ("tile", "overlap")
    restoring = {name: values[name].value for name in names if values[name].present}
    others = distributed_arguments(values)
    ensemble = bool(values["ensemble"].value)
    return EvaluationFlags(config, workdir, _sets(values), restoring, ensemble, others)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_multi_string("set", [], "NAME=FOLDER", flag_values=values)
    flags.DEFINE_boolean("ensemble", False, "average over flips", flag_values=values)
    flags.DEFINE_integer("tile", None, "pixels", flag_values=values)
    flags.DEFINE_integer("overlap", None, "pixels", flag_values=values)
    define_distributed(values)


def _sets(values: flags.FlagValues) -> tuple[tuple[str, Path], ...]:
    """What --set says.

    Raises:
      UserError: it is not NAME=FOLDER, or a name comes twice or is no name of a folder.
    """
    found: dict[str, Path] = {}
    for text in values["set"].value or []:
        name, _, folder = text.partition("=")
        if not name or not folder or Path(name).name != name or name in (".", ".."):
            raise UserError(f"--set {text}: must be NAME=FOLDER, such as rain100l=/data/Rain100L")
        if name in found:
            raise UserError(f"--set {text}: {name} is there twice")
        found[name] = any_path(folder, "--set")
    return tuple(found.items())
