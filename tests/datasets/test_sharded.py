"""Data sets built by several parts: the bytes of one build, or a line that says what is missing."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from reference.miniature_sets import MINIATURES, rain200

from drsformer_jax.cli.main import main
from drsformer_jax.datasets import sharded
from drsformer_jax.datasets.build import build
from drsformer_jax.errors import UserError


@pytest.fixture(autouse=True)
def _few_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small sets have several units."""
    monkeypatch.setattr(sharded, "MOST_TOGETHER", 2)


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def build_part(part: str, name: str, source: Path, out: Path, *flags: str) -> int:
    paths = [str(source), str(out)]
    return main(["data", "build", name, *paths, "--partial", "--shard", part, *flags])


@pytest.mark.parametrize(("name", "form"), [("spa", "raw"), ("ddn", "encoded"), ("rain800", "raw")])
def test_parts_make_the_set_of_one_build(name: str, form: str, tmp_path: Path) -> None:
    MINIATURES[name][0](tmp_path / "set")
    build(name, tmp_path / "set", tmp_path / "plain", form=form, partial=True)
    out = tmp_path / "out"
    for part in ("2/3", "1/3", "3/3"):
        assert build_part(part, name, tmp_path / "set", out, "--form", form) == 0
    assert main(["data", "build", "--status", str(out)]) == 0
    assert main(["data", "merge", str(out)]) == 0
    assert files(out) == files(tmp_path / "plain")


def test_what_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rain200(tmp_path / "set")
    out = tmp_path / "out"
    part = functools.partial(build_part, name="rain200h", source=tmp_path / "set", out=out)
    assert main(["data", "merge", str(out)]) == 2
    assert "no job was begun here" in capsys.readouterr().err
    broken = tmp_path / "set/test/input/1.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-40])
    assert part("1/1") == 1
    capsys.readouterr()
    assert main(["data", "merge", str(out)]) == 2
    told = capsys.readouterr().err
    assert "not all of it is done: done 2; failed 1; " in told
    assert f"{broken}: cannot be decoded" in told
    assert told.count("\n") == 1
    with pytest.raises(UserError, match="not the same form"):
        sharded.begin("rain200h", tmp_path / "set", out, form="raw", partial=True, overwrite=False)
    broken.write_bytes(whole)
    assert part("1/1") == 0
    assert main(["data", "merge", str(out)]) == 0
    assert not (out / ".drsformer").exists()
    capsys.readouterr()
    assert part("1/1") == 2
    assert "encoded/1.0.0: is there already" in capsys.readouterr().err


def test_counts_are_checked_before_the_work(tmp_path: Path) -> None:
    rain200(tmp_path / "set")
    with pytest.raises(UserError, match="4 pairs in train, not 1,800"):
        sharded.begin(
            "rain200h", tmp_path / "set", tmp_path / "out",
            form="raw", partial=False, overwrite=False,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_record_is_the_same_in_each_process(tmp_path: Path) -> None:
    """Else no parts could make the set of one build. Its fields are a map, which has no order."""
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    rain200(tmp_path / "set")
    written = build("rain200h", tmp_path / "set", tmp_path / "out", form="raw", partial=True)
    for file in written.glob("*array_record*"):
        for record in array_record_module.ArrayRecordReader(str(file)).read_all():
            fields = tf_example_pb2.Example.FromString(record)
            assert record == fields.SerializeToString(deterministic=True)
