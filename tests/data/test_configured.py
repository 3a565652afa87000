"""The folders that a configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest
from ml_collections import ConfigDict
from reference.miniature_sets import clean, rain200, save

from configs import base, compact
from drsformer_jax.data.configured import named_folders, training_source, validation_source
from drsformer_jax.errors import UserError


def data_of(kind: str, folder: str | Path) -> ConfigDict:
    data = base.get_config().data
    data.kind = kind
    data.train = data.val = str(folder)
    return data


def test_home_is_where_the_tilde_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    rain200(tmp_path / "set")
    assert len(training_source(data_of("folder", "~/set/train"), 0, 8)) == 4
    assert len(validation_source(data_of("folder", "~/set/test"))) == 2
    with pytest.raises(UserError, match=f"no such folder: {tmp_path}/none "):
        training_source(data_of("synthetic", "~/none"), 0, 8)


@pytest.mark.parametrize("kind", ["folder", "synthetic"])
def test_the_root_of_a_set_is_not_its_part(kind: str, tmp_path: Path) -> None:
    rain200(tmp_path)
    data = data_of(kind, tmp_path)
    with pytest.raises(UserError, match=rf"config.data.train: .*train/ .*={tmp_path}/train\)"):
        training_source(data, 0, 8)
    with pytest.raises(UserError, match=rf"config.data.val: .*test/ .*={tmp_path}/test\)"):
        validation_source(data)


def test_every_folder_of_mixed_rain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    rain200(tmp_path / "set")
    data = compact.get_config().data
    data.train = ("~/set/train", "~/set/test")
    data.rain.light = data.rain.heavy = data.rain.pairs = ("~/set/train",)
    data.rain.streaks = ("~/set/train/input",)
    assert len(training_source(data, 0, 8)) == 6 * data.rain_versions
    assert {key for key, _ in named_folders(data)} == {
        *("train", "val", "rain.light", "rain.heavy", "rain.streaks", "rain.pairs")
    }
    for place, key in ((data, "train"), (data.rain, "heavy")):
        before, place[key] = place[key], ("~/set/train", "~/set")
        with pytest.raises(UserError, match=rf"{key}: .* is a whole set: .*={tmp_path}/set/train"):
            training_source(data, 0, 8)
        place[key] = before


def test_photographs_beside_such_a_folder(tmp_path: Path) -> None:
    save(tmp_path / "1.png", clean(1))
    (tmp_path / "train").mkdir()
    assert len(training_source(data_of("synthetic", tmp_path), 0, 8)) == 64
