"""What train.py and eval.py do: read --config and --workdir, then one library call."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from drsformer_jax.cli.quiet import quiet_orbax
from drsformer_jax.errors import UserError

EXIT_FAILURE = 2
EXIT_INTERRUPTED = 130
SIGNAL_BASE = 128  # of the exit codes of programs that a signal ended

USAGE = """flags:
  --config FILE       configuration, such as configs/rain100l.py
  --config.KEY=VALUE  changes a key of it, such as --config.data.train=FOLDER
  --workdir FOLDER    of the run: checkpoints, logs, scores"""

TRAIN_USAGE = """
  --profile STEPS     traces so many steps, after two to warm up, into WORKDIR/profile, for
                      Perfetto and TensorBoard
  --distributed       one of several processes, started with the same flags on every host; who the
                      others are is found out on TPU pods, GKE, Slurm and Open MPI, or said by
  --coordinator_address HOST:PORT, --num_processes N, --process_id I
  --distributed_timeout SECONDS   to wait for the others (300)"""

# Seconds; machines of a pod do not all start at the same moment.
DISTRIBUTED_TIMEOUT = 300

# XLA's CPU compiler orders a program for concurrency and keeps every intermediate result alive:
# five times the memory and twice the time in a training step.
CPU_SCHEDULER_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"


def run_experiment(command: str, argv: Sequence[str], description: str) -> int:
    """Runs "train" or "evaluate" with the flags of a command line; returns the exit code.

    0: done. 2: the user's mistake, or diverged training, told in one line on stderr. 130, 143:
    stopped by SIGINT, SIGTERM, the state saved. 75: another process of the run was lost; start all
    of them again.
    """
    program = Path(argv[0]).name
    try:
        given = parse_flags(command, argv, description)
        if given is None:
            return 0
        _train(given) if command == "train" else _evaluate(given.config, given.workdir)
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt as request:
        number = getattr(request, "number", None)
        return EXIT_INTERRUPTED if number is None else SIGNAL_BASE + number
    except Exception as error:
        return _explain_loss(program, error)
    return 0


def _explain_loss(program: str, error: Exception) -> int:
    """The exit code after the error that another process's end has caused; raises all others."""
    from drsformer_jax.training.processes import EXIT_TRY_AGAIN, lost_another

    if not lost_another(error):
        raise error
    reason = str(error).strip().partition("\n")[0]
    print(
        f"{program}: error: another process of this run is gone ({reason}): start all of them "
        "again with the same flags, and they go on from the newest checkpoint",
        file=sys.stderr,
    )
    return EXIT_TRY_AGAIN


def end_program(code: int) -> NoReturn:
    """Ends the program with an exit code, together with the other processes of its run."""
    if "jax" in sys.modules:
        from drsformer_jax.training.processes import leave

        leave(code)
    sys.exit(code)


@dataclasses.dataclass(frozen=True)
class Flags:
    """A command line: the configuration with its changes, the workdir, and the flags of train.py.

    distributed: the arguments of `training.processes.join`, or None: this process is alone.
    """

    config: ConfigDict
    workdir: Path
    profile_steps: int = 0
    distributed: dict[str, Any] | None = None


def parse_flags(command: str, argv: Sequence[str], description: str) -> Flags | None:
    """What a command line says; None if only help was asked for.

    Raises:
      UserError: a flag is unknown, missing or out of its range, the file is not a configuration,
        or a key is not one of its keys.
    """
    values = flags.FlagValues()
    _define_config(values, argv)
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    if command == "train":
        _define_training_flags(values)
    if any(argument in ("-h", "--help", "-help") for argument in argv[1:]):
        usage = USAGE + (TRAIN_USAGE if command == "train" else "")
        print(f"{description.strip()}\n\n{usage}")
        return None
    config = _read_config(values, argv)
    if not values["workdir"].present:
        raise UserError("--workdir is missing")
    workdir = Path(str(values["workdir"].value))
    if command != "train":
        return Flags(config, workdir)
    return Flags(config, workdir, values["profile"].value or 0, _distributed(values))


def parse_config(arguments: Sequence[str]) -> ConfigDict:
    """The configuration that --config=FILE and --config.KEY=VALUE say, and nothing else.

    Raises:
      UserError: as `parse_flags`.
    """
    values = flags.FlagValues()
    argv = ["", *arguments]
    _define_config(values, argv)
    return _read_config(values, argv)


def _define_config(values: flags.FlagValues, argv: Sequence[str]) -> None:
    config_flags.DEFINE_config_file(
        "config", None, "configuration file", flag_values=values, sys_argv=list(argv)
    )


def _read_config(values: flags.FlagValues, argv: Sequence[str]) -> ConfigDict:
    """Reads all flags that are defined, and returns the configuration."""
    try:
        rest = values(list(argv))[1:]
        config = values["config"].value
    except Exception as error:
        # Whatever the file does wrong, and absl's own errors; some hold the repr of another's text.
        text = str(error).replace("\\n", " ").replace("\\'", "'").strip("'\"")
        if isinstance(error, KeyError | AttributeError):
            text = f"--config: no such key: {text} (configs/base.py lists all of them)"
        raise UserError(" ".join(text.split()) or type(error).__name__) from error
    if rest:
        raise UserError(f"unexpected arguments: {' '.join(rest)}")
    if not values["config"].present:
        raise UserError("--config is missing")
    if not isinstance(config, ConfigDict):
        path = config_flags.get_config_filename(values["config"])
        if not Path(str(path)).is_file():
            raise UserError(f"--config: no such file: {path}")
        raise UserError(f"--config: get_config() of {path} must return a ConfigDict")
    return config


def _define_training_flags(values: flags.FlagValues) -> None:
    def integer(name: str, text: str, least: int) -> None:
        flags.DEFINE_integer(name, None, text, lower_bound=least, flag_values=values)

    integer("profile", "steps to trace", 1)
    flags.DEFINE_boolean("distributed", False, "one of several processes", flag_values=values)
    flags.DEFINE_string("coordinator_address", None, "of process 0", flag_values=values)
    integer("num_processes", "of the run", 1)
    integer("process_id", "of this process", 0)
    integer("distributed_timeout", "seconds", 1)


def _distributed(values: flags.FlagValues) -> dict[str, Any] | None:
    """What the flags say of the other processes.

    Raises:
      UserError: some of the flags that belong together are missing.
    """
    names = ("coordinator_address", "num_processes", "process_id")
    said = {name: values[name].value for name in names}
    given = [name for name in (*names, "distributed_timeout") if values[name].present]
    if not values["distributed"].value:
        if given:
            raise UserError(f"--{given[0]} goes with --distributed, which is missing")
        return None
    missing = [f"--{name}" for name, value in said.items() if value is None]
    if missing and len(missing) < len(names):
        raise UserError(f"{' and '.join(missing)} missing: the three go together")
    address, processes, process = said.values()
    if address is not None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise UserError(f"--coordinator_address={address}: must be HOST:PORT")
        if process is not None and processes is not None and process >= processes:
            raise UserError(f"--process_id={process}: must be below --num_processes={processes}")
    timeout = values["distributed_timeout"].value or DISTRIBUTED_TIMEOUT
    return {
        "coordinator": address, "processes": processes, "process": process, "timeout": timeout,
    }  # fmt: skip


def prepare_cpu() -> None:
    """Sets XLA's flag for training on CPU where the user has not, and says so."""
    if CPU_SCHEDULER_FLAG not in os.environ.get("XLA_FLAGS", ""):
        setting = f"{CPU_SCHEDULER_FLAG}=false"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {setting}".strip()
        print(f"added to XLA_FLAGS: {setting} (less memory and time on CPU)", flush=True)


def checked(build: Callable[[], Any], what: str) -> Any:
    """The result of `build`, a missing key of the configuration being the user's mistake."""
    try:
        return build()
    except (KeyError, AttributeError) as error:
        raise UserError(f"--config: {what}: missing key: {error}") from error


def _train(given: Flags) -> None:
    prepare_cpu()
    quiet_orbax()
    from drsformer_jax.training.processes import join, together

    if given.distributed is not None:
        join(**given.distributed)

    from drsformer_jax.data.configured import training_source, validation_source
    from drsformer_jax.evaluation.validation import Validator
    from drsformer_jax.training.loop import train
    from drsformer_jax.training.options import training_options

    config = given.config
    with together():
        options = checked(lambda: training_options(config), "training options")
        largest = max(stage.patch_size for stage in options.stages)
        source = checked(lambda: training_source(config.data, options.seed, largest), "data")
        validation = checked(lambda: validation_source(config.data), "data")
    validator = Validator(options.model, validation)
    train(config.to_dict(), options, source, given.workdir, validator, given.profile_steps)


def _evaluate(config: ConfigDict, workdir: Path) -> None:
    from drsformer_jax.data.configured import validation_source
    from drsformer_jax.evaluation.run import evaluate_workdir

    source = checked(lambda: validation_source(config.data), "data")
    protocol = checked(lambda: config.eval.protocol, "eval.protocol")
    print(evaluate_workdir(workdir, source, protocol))
