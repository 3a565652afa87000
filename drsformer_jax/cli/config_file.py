"""Loading a configuration file by its path, whatever was started and wherever."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict

from drsformer_jax.errors import UserError, in_one_line
from drsformer_jax.paths import likelier, local_path

# Keys that are groups of keys, and the file that shows how.
GROUPS = {
    **dict.fromkeys(("model", "mesh", "optimizer", "data", "eval"), "configs/base.py"),
    **dict.fromkeys(("data.rain", "data.rain.shares"), "configs/compact.py"),
}
# Keys whose values nobody looks at more closely. Text such as "false" would count as true.
KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("name", "init", "eval.protocol", "eval.data_set"), (str, "text")),
    **dict.fromkeys(("mixup", "data.cache"), (bool, "True or False")),
    "eval.batch_size": (int, "a whole number"),
}
# All that a checkpoint can keep of a configuration, as JSON.
_KEPT = (str, int, float, type(None))


class ConfigFileParser(flags.ArgumentParser):
    """Reads FILE or FILE:ARGUMENT; the argument goes to the file's get_config."""

    def parse(self, argument: str) -> ConfigDict:
        """What get_config returns, locked.

        Raises:
          UserError: there is no such file here, it does not work, or what it returns is something
            else, or has values of other kinds.
        """
        local_path(argument, "--config")
        name, colon, rest = os.path.expanduser(argument).partition(":")
        file = Path(name)
        if not file.is_file():
            raise UserError(f"--config: no such file: {file}{likelier(file)}")
        try:
            with _own_package(file):
                module = _load(file)
                if not hasattr(module, "get_config"):
                    raise UserError(f"--config {file}: has no function get_config()")
                config = module.get_config(*([rest] if colon else []))
        except UserError:
            raise
        except ModuleNotFoundError as error:
            raise UserError(
                f"--config {file}: {error}; modules are found beside the file, in the folder you "
                "are in, and where they are installed"
            ) from error
        except (Exception, SystemExit) as error:  # whatever the file does wrong
            raise UserError(f"--config {file}: {in_one_line(error)}") from error
        if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
            raise UserError(
                f"--config: get_config() of {file} must return a ConfigDict, which is not frozen"
            )
        check_values(config)  # flags that set its keys find them where they must be
        return config.lock()


def check_values(group: ConfigDict, above: str = "") -> None:
    """That the values of a configuration are of the kinds that its keys have.

    Neither a file of one's own keeps them so, nor a flag that sets a whole group. A value of None
    is a key that is not set; whoever needs it says so.

    Raises:
      UserError: a part is no group of keys, or a value is of another kind, or none to be kept.
    """
    for name, value in group.items():
        key, is_group = f"{above}{name}", isinstance(value, ConfigDict)
        kind, words = KINDS.get(key, (object, ""))
        if is_group and key not in KINDS:
            check_values(value, f"{key}.")
            continue
        if key in GROUPS:
            wanted = f"a group of keys as in {GROUPS[key]}"
        elif value is not None and not isinstance(value, kind):
            wanted = words
        elif not _can_be_kept(value):
            wanted = "text, a number, True, False, None, a list of such or a group of keys"
        else:
            continue
        raise UserError(f"config.{key}: must be {wanted}, not {value!r}")


def _can_be_kept(value: Any) -> bool:
    """Whether JSON knows a value."""
    if isinstance(value, tuple | list):
        return all(map(_can_be_kept, value))
    return isinstance(value, _KEPT)


def _load(file: Path) -> ModuleType:
    """The module in a file, whatever its suffix."""
    loader = SourceFileLoader("config_config", str(file))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None  # there is a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


@contextlib.contextmanager
def _own_package(file: Path) -> Iterator[None]:
    """While the block runs, the package that a file lies in is imported from where the file lies.

    So `from configs import base` works in CHECKOUT/configs/NAME.py, and means the file beside it:
    in an installed program, too, which does not search the checkout, and where another `configs`
    would be found first. After the block, that other one is as it was. A file in no package may
    import what lies beside it or in the folder you are in, if nothing else has the name.
    """
    folder, package = file.absolute().parent, None
    while (folder / "__init__.py").is_file():
        package, folder = folder, folder.parent
    searched, put_aside = list(sys.path), None
    if package is None:
        sys.path += map(str, (folder, folder.parent, Path.cwd()))
    elif str(package) not in getattr(sys.modules.get(package.name), "__path__", ()):
        put_aside = _take_out(package.name)
        sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = searched
        if package is not None and put_aside is not None:
            _take_out(package.name)
            sys.modules.update(put_aside)


def _take_out(package: str) -> dict[str, ModuleType]:
    """Forgets a package and its modules; returns them."""
    names = [name for name in sys.modules if f"{name}.".startswith(f"{package}.")]
    return {name: sys.modules.pop(name) for name in names}
