"""What train.py does: read its flags, then train."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict

from drsformer_jax.checkpoints.hub import weights_argument
from drsformer_jax.cli.devices import check_devices
from drsformer_jax.cli.distributed import USAGE as DISTRIBUTED_USAGE
from drsformer_jax.cli.distributed import define_distributed, distributed_arguments, join_if_asked
from drsformer_jax.cli.experiment import checked, run_experiment
from drsformer_jax.cli.experiment_flags import USAGE, read_flags
from drsformer_jax.cli.output import quiet_orbax
from drsformer_jax.errors import UserError, in_one_line
from drsformer_jax.training.cpu import keep_cpu_memory, prepare_cpu, share_one_heap

if TYPE_CHECKING:
    from drsformer_jax.models.config import DRSformerConfig
    from drsformer_jax.models.drsformer import Params

TRAIN_USAGE = """
  --profile STEPS     traces so many steps, after two to warm up, into WORKDIR/profile, for
                      Perfetto and TensorBoard"""


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """A command line of train.py.

    config: the configuration with its changes.
    distributed: the arguments of `processes.join`, or None: this process is alone.
    """

    config: ConfigDict
    workdir: Path
    profile_steps: int
    distributed: dict[str, Any] | None


def run(argv: Sequence[str], description: str) -> int:
    """Trains as the flags of a command line say; returns the exit code (`run_experiment`)."""
    return run_experiment(argv[0], lambda: _train(argv, description))


def _train(argv: Sequence[str], description: str) -> None:
    given = parse_flags(argv, description)
    if given is None:
        return
    prepare_cpu()
    quiet_orbax()
    from drsformer_jax.processes import together

    join_if_asked(given.distributed)
    share_one_heap()
    check_devices()
    keep_cpu_memory()

    from drsformer_jax.data.configured import training_source, validation_source
    from drsformer_jax.training.config import training_options
    from drsformer_jax.training.loop import train
    from drsformer_jax.training.validation import Validator

    config = given.config
    with together():
        options = checked(lambda: training_options(config), "training options")
        initial = _initial_params(config, given.workdir, options.model)
        largest = max(stage.patch_size for stage in options.stages)
        source = checked(lambda: training_source(config.data, options.seed, largest), "data")
        validation = checked(lambda: validation_source(config.data), "data")
    validator = Validator(options.model, validation)
    values, workdir, profiled = config.to_dict(), given.workdir, given.profile_steps
    with _reported(workdir):
        train(values, options, source, workdir, validator, profiled, initial)


@contextlib.contextmanager
def _reported(workdir: Path) -> Iterator[None]:
    """Writes the report of a run when it ends, is stopped or diverges; that never fails."""
    from drsformer_jax.processes import is_first
    from drsformer_jax.training.run_report import write_run_report
    from drsformer_jax.training.stopping import Interrupted
    from drsformer_jax.training.workdir import TrainingDivergedError

    def write() -> None:
        if not is_first():
            return
        try:
            print(f"report: {write_run_report(workdir)}", flush=True)
        except Exception as error:
            print(f"note: no report was written ({in_one_line(error)})", flush=True)

    # Whatever else ends a run may mean that the folder is another one's.
    try:
        yield
    except (Interrupted, TrainingDivergedError):
        write()
        raise
    write()


def _initial_params(config: ConfigDict, workdir: Path, model: DRSformerConfig) -> Params | None:
    """The parameters that a new run starts from; None: random ones, or those of its checkpoint.

    Raises:
      UserError: the file is missing or broken, or its network is not the configuration's.
    """
    from drsformer_jax import load_weights
    from drsformer_jax.checkpoints.runs import DIRECTORY, whole_steps

    if not config.get("init"):
        return None
    path = weights_argument(str(config.init), "--config.init")
    if whole_steps(workdir / DIRECTORY):
        print(f"note: --config.init {path} is not read, for {workdir} holds a run", flush=True)
        return None
    try:
        weights = load_weights(path)
    except UserError as error:
        raise UserError(f"--config.init: {error}") from error
    there, here = weights.config.architecture(), model.architecture()
    if all(weights.config.hidden_channels(n) == model.hidden_channels(n) for n in model.channels):
        # All that counts of it, and all that a file of PyTorch tells.
        there.pop("ffn_expansion_factor")
    different = [key for key, value in there.items() if value != here[key]]
    if different:
        listed = ", ".join(
            f"config.model.{k} ({there[k]} there, {here[k]} here)" for k in different
        )
        raise UserError(
            f"--config.init: {path} holds another network than the configuration: {listed}; name "
            "other weights or set these keys"
        )
    for note in weights.notes:
        print(f"{path}: {note}", flush=True)
    print(f"starting from the parameters in {path}", flush=True)
    return weights.params


def parse_flags(argv: Sequence[str], description: str) -> TrainFlags | None:
    """What a command line says; None if only help was asked for.

    Raises:
      UserError: as `read_flags`.
    """
    help_text = f"{description.strip()}\n\n{USAGE}{TRAIN_USAGE}{DISTRIBUTED_USAGE}"
    if (found := read_flags(argv, help_text, _define)) is None:
        return None
    config, workdir, values = found
    others = distributed_arguments(values)
    return TrainFlags(config, workdir, values["profile"].value or 0, others)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_integer("profile", None, "steps to trace", lower_bound=1, flag_values=values)
    define_distributed(values)
