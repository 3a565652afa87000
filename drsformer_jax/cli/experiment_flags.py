"""The flags that train.py and eval.py share: --config, the keys of it, and --workdir."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from drsformer_jax.buckets import any_path, is_in_bucket
from drsformer_jax.checkpoints.hub import weights_argument
from drsformer_jax.cli.config_file import ConfigFileParser, check_values
from drsformer_jax.errors import UserError, words_of
from drsformer_jax.paths import require_text

USAGE = """flags:
  --config FILE       configuration, such as configs/rain100l.py
  --config.KEY=VALUE  changes a key of it, such as --config.data.train=FOLDER
  --workdir FOLDER    of the run: checkpoints, logs, scores; it, and folders of data, may be in a
                      bucket, gs://BUCKET/NAME"""

# How absl says that a value is of another type than its flag, and what it is to be.
_WRONG_VALUES = {
    "Non-boolean argument": "true or false",
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
}


def read_flags(
    argv: Sequence[str], help_text: str, define: Callable[[flags.FlagValues], None]
) -> tuple[ConfigDict, Path, flags.FlagValues] | None:
    """What a command line says; None if only help was asked for, which is printed.

    Args:
      argv: the program and its arguments.
      help_text: of the program and its own flags; those shared are put between.
      define: defines the program's own flags.

    Returns:
      The configuration with its changes, the workdir and the flags.

    Raises:
      UserError: a flag is unknown, missing or out of its range, the file is not a configuration,
        or a key is not one of its keys.
    """
    values = _config_flags(argv)
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    define(values)
    if any(argument in ("-h", "--help", "-help") for argument in argv[1:]):
        print(help_text)
        return None
    config = _read_config(values, argv)
    if not values["workdir"].present:
        raise UserError("--workdir is missing")
    workdir = any_path(str(values["workdir"].value), "--workdir")
    if not is_in_bucket(workdir):
        require_text(workdir)
    return config, workdir, values


def parse_config(arguments: Sequence[str]) -> ConfigDict:
    """The configuration that --config=FILE and --config.KEY=VALUE say, and nothing else.

    Raises:
      UserError: as `read_flags`.
    """
    argv = ["", *arguments]
    return _read_config(_config_flags(argv), argv)


def _config_flags(argv: Sequence[str]) -> flags.FlagValues:
    """--config and, as far as `argv` sets them, its keys."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "configuration file", flag_values=values, sys_argv=list(argv)
    )
    values["config"].parser = ConfigFileParser()
    return values


def _read_config(values: flags.FlagValues, argv: Sequence[str]) -> ConfigDict:
    """Reads all flags that are defined, and returns the configuration."""
    from drsformer_jax.data.configured import named_folders

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
    check_values(config)  # again: a flag can set a whole group
    if isinstance(config.get("data"), ConfigDict):
        for key, folder in named_folders(config.data):
            any_path(folder, f"--config.data.{key}")
    if config.get("init"):
        weights_argument(str(config.init), "--config.init")
    return config
