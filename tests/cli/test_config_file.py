"""A configuration named by its path is loaded wherever it lies, and what it does wrong is told."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from drsformer_jax.cli.config_file import GROUPS, KINDS
from drsformer_jax.cli.experiment_flags import parse_config
from drsformer_jax.errors import UserError
from drsformer_jax.training.config import flatten

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

BASE = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"name": "base", "origin": __file__, "mesh": {"data": 1}})
"""
RECIPE = """
from configs import base
def get_config(name="recipe"):
    from configs import late
    config = base.get_config()
    config.name = name + late.SUFFIX
    return config
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout that Python does not search, beside an unrelated `configs` that it does."""
    folder = tmp_path / "checkout" / "configs"
    folder.mkdir(parents=True)
    for name, text in {"__init__": "", "base": BASE, "late": "SUFFIX = '!'", "x": RECIPE}.items():
        (folder / f"{name}.py").write_text(text)
    other = tmp_path / "other" / "configs"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("WHOSE = 'the user'")
    for name in [name for name in sys.modules if name.split(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(other.parent)
    monkeypatch.chdir(tmp_path)
    yield folder.parent
    for name in [name for name in sys.modules if name.split(".")[0] == "configs"]:
        del sys.modules[name]


def test_a_file_imports_its_neighbours_and_no_others(checkout: Path) -> None:
    def of_configs() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == "configs"]

    theirs = importlib.import_module("configs")
    before = list(sys.path), of_configs()
    config = parse_config([f"--config={checkout}/configs/x.py", "--config.mesh.data=2"])
    assert (config.name, config.mesh.data) == ("recipe!", 2)
    assert config.origin == str(checkout / "configs" / "base.py")
    assert sys.modules["configs"] is theirs
    assert (list(sys.path), of_configs()) == before
    # By a relative path, and with an argument for get_config.
    assert parse_config(["--config", "checkout/configs/x.py:mine"]).name == "mine!"


def test_a_package_that_is_loaded_from_there_is_the_one(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(checkout)
    package = importlib.import_module("configs")
    assert parse_config([f"--config={checkout}/configs/x.py"]).name == "recipe!"
    assert sys.modules["configs"] is package
    assert sys.modules["configs.late"].SUFFIX == "!"


def test_a_file_in_no_package_sees_its_folder_and_the_present_one_last(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "beside.py").write_text("NAME = 'beside'")
    (alone / "json.py").write_text("raise RuntimeError('not the one of Python')")
    (alone / "mine.py").write_text(
        "import json, beside\nfrom configs import base\n"
        "def get_config():\n  c = base.get_config()\n  c.name = beside.NAME\n  return c\n"
    )
    path = list(sys.path)
    with pytest.raises(UserError, match="cannot import name 'base' from 'configs'"):
        parse_config([f"--config={alone}/mine.py"])  # the user's own package comes first
    del sys.modules["configs"]
    sys.path.remove(str(tmp_path / "other"))
    monkeypatch.chdir(checkout)
    config = parse_config([f"--config={alone}/mine.py"])
    assert config.name == "beside"
    assert [folder for folder in path if "other" not in folder] == sys.path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nosuch", "No module named 'nosuch'; modules are found beside"),
        ("def get_config(:", "SyntaxError: invalid syntax"),
        ("", "bad.py: has no function get_config()"),
        ("def get_config(): return {}['rate']", "KeyError: 'rate'"),
        ("def get_config(): raise ValueError('it isn\\'t \"so\"')", 'ValueError: it isn\'t "so"'),
        ("def get_config(): open('/no/\"x\"')", "FileNotFoundError"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("def get_config(): return 3", "must return a ConfigDict"),
        (
            "from ml_collections import FrozenConfigDict as get_config",
            "must return a ConfigDict, which is not frozen",
        ),
        (
            "from ml_collections import ConfigDict\n"
            "def get_config(): return ConfigDict({'model': 1}).modell",
            'AttributeError: \'modell\' Did you mean "model" instead of "modell"?',
        ),
    ],
)
def test_what_a_file_does_wrong_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UserError) as caught:
        parse_config([f"--config={tmp_path}/bad.py"])
    message = str(caught.value)
    assert told in message
    assert str(tmp_path / "bad.py") in message
    assert "\n" not in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--config.modell=1", "no such key: modell (configs"),
        ("--config.seed='7", "--config.seed='7: must be a whole number"),
        ("--config.seed=x", "--config.seed=x: must be a whole number"),
        ("--confg=x", "Unknown command line flag 'confg'"),
    ],
)
def test_quotes_of_errors_are_whole(tmp_path: Path, flag: str, told: str) -> None:
    (tmp_path / "seed.py").write_text(
        "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'seed': 1})"
    )
    with pytest.raises(UserError) as caught:
        parse_config([f"--config={tmp_path}/seed.py", flag])
    assert told in str(caught.value)
    assert "\\" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            "{'model': None}",
            "config.model: must be a group of keys as in configs/base.py, not None",
        ),
        ("{'mesh': 3}", "config.mesh: must be a group of keys as in configs/base.py, not 3"),
        ("{'optimizer': 'x'}", "config.optimizer: must be a group of keys as in configs/base.py"),
        ("{'data': 5}", "config.data: must be a group of keys as in configs/base.py, not 5"),
        ("{'eval': [1]}", "config.eval: must be a group of keys as in configs/base.py, not [1]"),
        (
            "{'data': {'rain': 7}}",
            "config.data.rain: must be a group of keys as in configs/compact",
        ),
        ("{'data': {'rain': {'shares': []}}}", "config.data.rain.shares: must be a group of keys"),
        ("{'name': ['x']}", "config.name: must be text, not ['x']"),
        ("{'name': {'x': 1}}", "config.name: must be text, not x: 1"),
        ("{'mixup': 'false'}", "config.mixup: must be True or False, not 'false'"),
        ("{'eval': {'protocol': ['x']}}", "config.eval.protocol: must be text, not ['x']"),
        ("{'eval': {'batch_size': 'x'}}", "config.eval.batch_size: must be a whole number"),
        ("{'data': {'val': Path('x')}}", "config.data.val: must be text, a number, True, False"),
        ("{'progressive': [[1, Path('x')]]}", "config.progressive: must be text, a number"),
    ],
)
def test_values_of_other_kinds_are_named(tmp_path: Path, values: str, told: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from pathlib import Path\nfrom ml_collections import ConfigDict\n"
        f"def get_config(): return ConfigDict({values})\n"
    )
    with pytest.raises(UserError) as caught:
        parse_config([f"--config={file}", "--config.data.train=x"])
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--config.data={'rain': 5}", "config.data.rain: must be a group of keys"),
        ("--config.eval={'batch_size': {'a': 1}}", "config.eval.batch_size: must be a whole"),
    ],
)
def test_a_flag_that_sets_a_group(flag: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_config([f"--config={CONFIGS}/compact.py", flag])
    assert str(caught.value).startswith(told)


def test_what_is_not_set_is_of_no_kind(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(): return ConfigDict({'init': None, 'eval': {'batch_size': None}})\n"
    )
    assert parse_config([f"--config={file}"]).init is None


@pytest.mark.parametrize("name", ["base", "compact"])
def test_kinds_are_those_of_the_recipes(name: str) -> None:
    config = parse_config([f"--config={CONFIGS / name}.py"])
    groups = set(_groups(config))
    assert groups == {key for key, file in GROUPS.items() if name == "compact" or "base" in file}
    flat = flatten(config)
    for key, (kind, _) in KINDS.items():
        assert flat[key] is None or isinstance(flat[key], kind)


def _groups(group: ConfigDict, above: str = "") -> Iterator[str]:
    for name, value in group.items():
        if isinstance(value, ConfigDict):
            yield f"{above}{name}"
            yield from _groups(value, f"{above}{name}.")
