"""The flags of train.py and eval.py: --config, --workdir, and those of each."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from drsformer_jax.cli.config_file import ConfigFileParser
from drsformer_jax.errors import UserError, words_of
from drsformer_jax.paths import local_path, require_text

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

EVALUATION_USAGE = """
  --set NAME=FOLDER   scores this data set instead of config.data.val; may be given several times.
                      FOLDER holds test/, or input/ and target/, or was built by drsformer data
                      build. Of rain200l, rain200h, did, ddn, spa, rain100l, rain100h and rain800
                      the protocol is known; any other name is scored by config.eval.protocol
  --ensemble          averages over eight flips and rotations, in eight times the time
  --tile SIZE         restores in tiles of so many pixels, a multiple of 8; --overlap PIXELS (32)"""

# How absl says that a value is of another type than its flag, and what it is to be.
_WRONG_VALUES = {
    "Non-boolean argument": "true or false",
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
}

# Seconds; machines of a pod do not all start at the same moment.
DISTRIBUTED_TIMEOUT = 300


@dataclasses.dataclass(frozen=True)
class Flags:
    """A command line: the configuration with its changes, the workdir, and the flags of train.py.

    distributed: the arguments of `training.processes.join`, or None: this process is alone.
    sets: names and folders of data sets to score; none: that of the configuration.
    restoring: ensemble, tile and overlap, as far as given.
    """

    config: ConfigDict
    workdir: Path
    profile_steps: int = 0
    distributed: dict[str, Any] | None = None
    sets: tuple[tuple[str, Path], ...] = ()
    restoring: dict[str, Any] = dataclasses.field(default_factory=dict)


def parse_flags(command: str, argv: Sequence[str], description: str) -> Flags | None:
    """What a command line says; None if only help was asked for.

    Raises:
      UserError: a flag is unknown, missing or out of its range, the file is not a configuration,
        or a key is not one of its keys.
    """
    values = flags.FlagValues()
    _define_config(values, argv)
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    _define_training_flags(values) if command == "train" else _define_evaluation_flags(values)
    if any(argument in ("-h", "--help", "-help") for argument in argv[1:]):
        usage = USAGE + (TRAIN_USAGE if command == "train" else EVALUATION_USAGE)
        print(f"{description.strip()}\n\n{usage}")
        return None
    config = _read_config(values, argv)
    if not values["workdir"].present:
        raise UserError("--workdir is missing")
    workdir = local_path(str(values["workdir"].value), "--workdir")
    require_text(workdir)
    if command != "train":
        names = ("ensemble", "tile", "overlap")
        restoring = {name: values[name].value for name in names if values[name].present}
        return Flags(config, workdir, sets=_sets(values), restoring=restoring)
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
    values["config"].parser = ConfigFileParser()


def _read_config(values: flags.FlagValues, argv: Sequence[str]) -> ConfigDict:
    """Reads all flags that are defined, and returns the configuration."""
    from drsformer_jax.data.configured import named_folders

    argv = _with_local_file(argv)
    try:
        rest = values(list(argv))[1:]
        config = values["config"].value
    except UserError:
        raise
    except (KeyError, AttributeError) as error:
        # Of ml_collections: the key in quotes, and what may have been meant.
        told = re.sub(r"^'([^']*)'", r"\1", words_of(error))
        raise UserError(
            f"--config: no such key: {told} (configs/base.py lists all of them)"
        ) from error
    except Exception as error:  # absl's own errors
        words = words_of(error) or type(error).__name__
        for theirs, ours in _WRONG_VALUES.items():
            words = re.sub(rf"(?s)^flag (-.*?): \(?'?{theirs}.*", rf"\1: must be {ours}", words)
        raise UserError(words) from error
    if rest:
        raise UserError(f"unexpected arguments: {' '.join(rest)}")
    if config is None:
        raise UserError("--config is missing")
    if isinstance(config.get("data"), ConfigDict):
        for key, folder in named_folders(config.data):
            local_path(folder, f"--config.data.{key}")
    if config.get("init"):
        local_path(str(config.init), "--config.init")
    return config


def _with_local_file(argv: Sequence[str]) -> list[str]:
    """The arguments, with ~ in the value of --config as the home folder.

    Raises:
      UserError: that value is an address.
    """
    found = list(argv)
    for index, argument in enumerate(found[1:], start=1):
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-config"):
            continue
        if equals:
            local_path(value, flag)
            found[index] = f"{flag}={os.path.expanduser(value)}"
        elif index + 1 < len(found):
            local_path(found[index + 1], flag)
            found[index + 1] = os.path.expanduser(found[index + 1])
    return found


def _define_training_flags(values: flags.FlagValues) -> None:
    def integer(name: str, text: str, least: int) -> None:
        flags.DEFINE_integer(name, None, text, lower_bound=least, flag_values=values)

    integer("profile", "steps to trace", 1)
    flags.DEFINE_boolean("distributed", False, "one of several processes", flag_values=values)
    flags.DEFINE_string("coordinator_address", None, "of process 0", flag_values=values)
    integer("num_processes", "of the run", 1)
    integer("process_id", "of this process", 0)
    integer("distributed_timeout", "seconds", 1)


def _define_evaluation_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_multi_string("set", [], "NAME=FOLDER", flag_values=values)
    flags.DEFINE_boolean("ensemble", False, "average over flips", flag_values=values)
    flags.DEFINE_integer("tile", None, "pixels", flag_values=values)
    flags.DEFINE_integer("overlap", None, "pixels", flag_values=values)


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
        found[name] = local_path(folder, "--set")
    return tuple(found.items())


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
