"""What train.py and eval.py do: read --config and --workdir, then one library call."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from drsformer_jax.errors import UserError

EXIT_FAILURE = 2
EXIT_INTERRUPTED = 130

USAGE = """flags:
  --config FILE       configuration, such as configs/rain100l.py
  --config.KEY=VALUE  changes a key of it, such as --config.data.train=FOLDER
  --workdir FOLDER    of the run: checkpoints, logs, scores"""

TRAIN_USAGE = """
  --profile STEPS     traces so many steps, after two to warm up, into WORKDIR/profile, for
                      Perfetto and TensorBoard"""

# XLA's CPU compiler orders a program for concurrency and keeps every intermediate result alive:
# five times the memory and twice the time in a training step.
CPU_SCHEDULER_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"


def run_experiment(command: str, argv: Sequence[str], description: str) -> int:
    """Runs "train" or "evaluate" with the flags of a command line; returns the exit code.

    0: done. 2: the user's mistake, or diverged training, told in one line on stderr. 130: stopped
    by a signal, the state saved.
    """
    try:
        given = parse_flags(command, argv, description)
        if given is None:
            return 0
        _train(given) if command == "train" else _evaluate(given.config, given.workdir)
    except UserError as error:
        print(f"{Path(argv[0]).name}: error: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


@dataclasses.dataclass(frozen=True)
class Flags:
    """A command line: the configuration with its changes, the workdir, and steps to trace."""

    config: ConfigDict
    workdir: Path
    profile_steps: int = 0


def parse_flags(command: str, argv: Sequence[str], description: str) -> Flags | None:
    """What a command line says; None if only help was asked for.

    Raises:
      UserError: a flag is unknown, missing or out of its range, the file is not a configuration,
        or a key is not one of its keys.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "configuration file",
        flag_values=values,
        sys_argv=list(argv),
    )
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    if command == "train":
        flags.DEFINE_integer("profile", None, "steps to trace", lower_bound=1, flag_values=values)
    if any(argument in ("-h", "--help", "-help") for argument in argv[1:]):
        usage = USAGE + (TRAIN_USAGE if command == "train" else "")
        print(f"{description.strip()}\n\n{usage}")
        return None
    try:
        rest = values(list(argv))[1:]
        config = values["config"].value
    except Exception as error:
        # Whatever the file does wrong, and absl's own errors; some hold the repr of another's text.
        text = str(error).replace("\\n", " ").replace("\\'", "'").strip("'\"")
        raise UserError(" ".join(text.split()) or type(error).__name__) from error
    if rest:
        raise UserError(f"unexpected arguments: {' '.join(rest)}")
    for name in ("config", "workdir"):
        if not values[name].present:
            raise UserError(f"--{name} is missing")
    if not isinstance(config, ConfigDict):
        path = config_flags.get_config_filename(values["config"])
        if not Path(str(path)).is_file():
            raise UserError(f"--config: no such file: {path}")
        raise UserError(f"--config: get_config() of {path} must return a ConfigDict")
    profile_steps = values["profile"].value if "profile" in values else None
    return Flags(config, Path(str(values["workdir"].value)), profile_steps or 0)


def prepare_cpu() -> None:
    """Sets XLA's flag for training on CPU where the user has not, and says so."""
    if CPU_SCHEDULER_FLAG not in os.environ.get("XLA_FLAGS", ""):
        setting = f"{CPU_SCHEDULER_FLAG}=false"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {setting}".strip()
        print(f"added to XLA_FLAGS: {setting} (less memory and time on CPU)", flush=True)


def _checked(build: Callable[[], Any], what: str) -> Any:
    """The result of `build`, a missing key of the configuration being the user's mistake."""
    try:
        return build()
    except (KeyError, AttributeError) as error:
        raise UserError(f"--config: {what}: missing key: {error}") from error


def _train(given: Flags) -> None:
    prepare_cpu()
    from drsformer_jax.data.configured import training_source, validation_source
    from drsformer_jax.evaluation.validation import Validator
    from drsformer_jax.training.loop import train
    from drsformer_jax.training.options import training_options

    config = given.config
    options = _checked(lambda: training_options(config), "training options")
    largest = max(stage.patch_size for stage in options.stages)
    source = _checked(lambda: training_source(config.data, options.seed, largest), "data")
    validator = Validator(options.model, _checked(lambda: validation_source(config.data), "data"))
    train(config.to_dict(), options, source, given.workdir, validator, given.profile_steps)


def _evaluate(config: ConfigDict, workdir: Path) -> None:
    from drsformer_jax.data.configured import validation_source
    from drsformer_jax.evaluation.run import evaluate_workdir

    source = _checked(lambda: validation_source(config.data), "data")
    protocol = _checked(lambda: config.eval.protocol, "eval.protocol")
    print(evaluate_workdir(workdir, source, protocol))
