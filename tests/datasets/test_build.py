"""Data sets into ArrayRecord files, and out of them again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from reference.miniature_sets import MINIATURES, clean, rain200, save

from drsformer_jax.data import sets
from drsformer_jax.data.pipeline import Stage, training_batches
from drsformer_jax.data.records import RecordedPairs
from drsformer_jax.data.sources import PairedFolder
from drsformer_jax.data.splits import find_splits, open_split
from drsformer_jax.datasets.build import build
from drsformer_jax.errors import UserError


def test_every_set_has_a_miniature() -> None:
    assert MINIATURES.keys() == sets.SETS.keys()


@pytest.mark.parametrize("name", MINIATURES)
def test_what_comes_out_is_what_went_in(name: str, tmp_path: Path) -> None:
    make, counts = MINIATURES[name]
    make(tmp_path / "unpacked")
    splits = find_splits(tmp_path / "unpacked", halves=sets.get_set(name).halves)
    for form in ("encoded", "raw"):
        written = build(name, tmp_path / "unpacked", tmp_path / "sets", form=form, partial=True)
        assert written == tmp_path / "sets" / name / form / "1.0.0"
        for split, count in counts.items():
            source, read = open_split(splits[split], verify=False), RecordedPairs(written, split)
            assert len(read) == len(source) == count
            for index in range(count):
                for side in ("input", "target"):
                    np.testing.assert_array_equal(read[index][side], source[index][side])
                assert read[index]["name"] == source[index]["name"]
    # Given the folder of the set, the form that is read faster.
    assert RecordedPairs(tmp_path / "sets" / name, "train").root.parent.name == "raw"


def test_files_are_kept_as_they_are(tmp_path: Path) -> None:
    rain200(tmp_path / "unpacked")
    written = build("rain200h", tmp_path / "unpacked", tmp_path / "sets", partial=True)
    data = b"".join(path.read_bytes() for path in written.glob("*train*"))
    assert (tmp_path / "unpacked/train/input/1.png").read_bytes()[100:900] in data


def test_names_that_are_no_text(tmp_path: Path) -> None:
    rain200(tmp_path / "unpacked")
    name = os.fsdecode(b"Stra\xdfe")
    for side in ("input", "target"):
        folder = tmp_path / "unpacked" / "test" / side
        first = min(folder.iterdir())
        first.rename(folder / f"{name}{first.suffix}")
    written = build("rain200h", tmp_path / "unpacked", tmp_path / "sets", partial=True)
    names = [pair["name"] for pair in map(RecordedPairs(written, "test").__getitem__, range(2))]
    assert "Stra\\udcdfe" in names
    with pytest.raises(UserError, match="whose name is UTF-8"):
        build("rain200h", tmp_path / "unpacked", tmp_path / name, partial=True)
    assert not (tmp_path / name).exists()


def test_counts_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rain200(tmp_path / "unpacked")
    with pytest.raises(UserError, match=r"4 pairs in train, not 1,800; 2 pairs in test, not 200"):
        build("rain200h", tmp_path / "unpacked", tmp_path / "sets")
    assert not (tmp_path / "sets").exists()
    small = sets.DataSet(**{**vars(sets.SETS["rain200h"]), "pairs": {"train": 4, "test": 2}})
    monkeypatch.setattr(sets, "SETS", {**sets.SETS, "rain200h": small})
    assert build("rain200h", tmp_path / "unpacked", tmp_path / "sets").is_dir()


def test_faults_leave_nothing_behind(tmp_path: Path) -> None:
    rain200(tmp_path / "unpacked")
    broken = tmp_path / "unpacked/test/input/1.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    (tmp_path / "unpacked/test/target/2.png").unlink()
    with pytest.raises(UserError, match=r"2/?.*test.*input/2\.png: no partner.*1\.png: cannot be"):
        build("rain200h", tmp_path / "unpacked", tmp_path / "sets", partial=True)
    assert not (tmp_path / "sets").exists()
    with pytest.raises(UserError, match="nowhere: no such folder"):
        build("rain200h", tmp_path / "nowhere", tmp_path / "sets")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: is empty: name the folder that the set was unpack"):
        build("rain200h", tmp_path / "empty", tmp_path / "sets")
    with pytest.raises(UserError, match="unknown data set 'rain2000': known are rain200l"):
        build("rain2000", tmp_path / "unpacked", tmp_path / "sets")
    (tmp_path / "file").touch()
    rain200(tmp_path / "good")
    with pytest.raises(UserError, match="file: cannot be written"):
        build("rain200h", tmp_path / "good", tmp_path / "file", partial=True)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ArrayRecord tells it."""
    import tensorflow_datasets as tfds

    def full(*args: object, **kwargs: object) -> None:
        (tmp_path / "sets/rain200h/.config").mkdir(parents=True)
        raise RuntimeError("Failed to finalize: write() failed: No space left on device;\nat byte")

    monkeypatch.setattr(tfds.core.GeneratorBasedBuilder, "download_and_prepare", full)
    rain200(tmp_path / "unpacked")
    with pytest.raises(UserError, match=r"sets: cannot be written .*No space left") as caught:
        build("rain200h", tmp_path / "unpacked", tmp_path / "sets", partial=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sets").exists()


def test_built_twice(tmp_path: Path) -> None:
    rain200(tmp_path / "unpacked")
    build("rain200h", tmp_path / "unpacked", tmp_path / "sets", partial=True)
    with pytest.raises(UserError, match=r"rain200h/encoded/1\.0\.0: is there already"):
        build("rain200h", tmp_path / "unpacked", tmp_path / "sets", partial=True)
    assert len(RecordedPairs(tmp_path / "sets/rain200h", "test")) == 2


@pytest.mark.parametrize("form", ["encoded", "raw"])
def test_tensorflow_datasets_reads_them_by_name(form: str, tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    MINIATURES["spa"][0](tmp_path / "unpacked")
    build("spa", tmp_path / "unpacked", tmp_path / "sets", form=form, partial=True)
    for split, count in MINIATURES["spa"][1].items():
        source = PairedFolder(tmp_path / "unpacked" / split)
        pairs = tfds.data_source(f"spa/{form}", data_dir=tmp_path / "sets", split=split)
        assert len(pairs) == count
        for pair, expected in zip(pairs, source, strict=True):
            np.testing.assert_array_equal(pair["input"], expected["input"])
            np.testing.assert_array_equal(pair["target"], expected["target"])


def test_training_sees_the_same_batches_as_from_the_folder(tmp_path: Path) -> None:
    rain200(tmp_path / "unpacked")
    build("rain200h", tmp_path / "unpacked", tmp_path / "sets", form="raw", partial=True)
    sources = (
        PairedFolder(tmp_path / "unpacked" / "train"),
        RecordedPairs(tmp_path / "sets" / "rain200h", "train"),
    )
    folder, records = (
        training_batches(source, seed=3, stages=[Stage(None, 3, 16)], num_threads=2)
        for source in sources
    )
    for _ in range(4):
        ours, theirs = next(folder), next(records)
        for side in ("input", "target"):
            np.testing.assert_array_equal(ours[side], theirs[side])


def test_records_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data set was built here"):
        RecordedPairs(tmp_path, "train")
    save(tmp_path / "unpacked/train/input/1.png", clean(0))
    save(tmp_path / "unpacked/train/target/1.png", clean(1))
    build("rain200l", tmp_path / "unpacked", tmp_path, partial=True)
    with pytest.raises(UserError, match="has no split 'test', only train"):
        RecordedPairs(tmp_path / "rain200l", "test")


def test_the_cache_reads_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rain200(tmp_path / "unpacked")
    build("rain200l", tmp_path / "unpacked", tmp_path, form="raw", partial=True)
    for cache, expected in ((True, 4), (False, 8)):
        pairs = RecordedPairs(tmp_path / "rain200l", "train", cache=cache)
        reads: list[int] = []
        read = pairs._records.__getitem__

        class Counted:
            def __getitem__(self, index: int, read=read, reads=reads):  # type: ignore[no-untyped-def]
                reads.append(index)
                return read(index)

        pairs._records = Counted()
        for _ in range(2):
            for index in range(4):
                with pytest.raises(ValueError, match="read-only"):
                    pairs[index]["input"][0, 0] = 0
        assert len(reads) == expected


def test_a_folder_that_is_one_split(tmp_path: Path) -> None:
    rain200(tmp_path / "unpacked")
    with pytest.raises(UserError, match=r"train: is one split.*put it into a folder train/ or"):
        build("rain200h", tmp_path / "unpacked" / "train", tmp_path / "sets", partial=True)
    assert not (tmp_path / "sets").exists()


def test_nothing_is_left_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rain200(tmp_path / "unpacked")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    written = build("rain200h", tmp_path / "unpacked", tmp_path / "sets", partial=True)
    RecordedPairs(written, "test")[0]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("form", ["encoded", "raw"])
def test_damaged_records_are_named(form: str, tmp_path: Path) -> None:
    rain200(tmp_path / "unpacked")
    written = build("rain200h", tmp_path / "unpacked", tmp_path / "sets", form=form, partial=True)
    (file,) = written.glob("*train*")
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], bytes(len(whole)), None):
        file.unlink() if damaged is None else file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"1\.0\.0: pair 0 of train cannot be read .*anew"):
            RecordedPairs(written, "train")[0]


@pytest.mark.parametrize("name", ["../away", "/tmp/away", "a/b", ""])
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    rain200(tmp_path / "unpacked")
    written = build("rain200h", tmp_path / "unpacked", tmp_path / "sets", partial=True)
    pairs = RecordedPairs(written, "test")
    pairs._records = [pairs._records[0] | {"name": name.encode()}]
    with pytest.raises(UserError, match=r"pair 0 of test cannot be read .* is no name of a file"):
        pairs[0]
