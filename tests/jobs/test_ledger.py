"""What ledgers say, whatever has happened to them."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from reference.job_worker import ONCE, Texts

from drsformer_jax.errors import UserError
from drsformer_jax.jobs.engines import Inline
from drsformer_jax.jobs.folder import JOB_FILE, JobFolder
from drsformer_jax.jobs.ledger import BEGUN, DONE, FAILED, LEFT, Ledgers, opened, stamp_of
from drsformer_jax.jobs.status import status


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    made = Texts(tmp_path, 4)
    made.begin()
    return made


def left(texts: Texts) -> list[str]:
    ledgers = Ledgers(texts.folder)
    return [unit.name for unit in texts.units if not ledgers.done(unit)]


def ledger_of(texts: Texts, writer: str = "part-1-of-1") -> Path:
    return texts.folder.ledgers / f"{writer}.jsonl"


def test_a_torn_line_is_the_only_one_that_is_lost(texts: Texts) -> None:
    list(texts.run(Inline("part-1-of-1")))
    whole = ledger_of(texts).read_bytes()
    cut, without_end = whole[:-7], whole[:-1]
    damaged = whole.replace(b'"003.txt"', b"003", 2)
    # A unit whose row is torn is one whose worker has died.
    for torn, deaths in ((cut, 1), (without_end, 0), (damaged, 0)):
        ledger_of(texts).write_bytes(torn)
        # Its last byte may be all that is missing, and then nothing is.
        assert left(texts) == ([] if torn == without_end else ["003.txt"])
        list(texts.run(Inline("part-1-of-1")))
        assert left(texts) == []
        assert Ledgers(texts.folder).deaths["003.txt"] == deaths
        assert status(texts.out)[1]


def test_what_is_gone_or_changed_is_to_be_done(texts: Texts) -> None:
    list(texts.run(Inline("part-1-of-1")))
    (texts.out / "001.txt").unlink()
    Path(texts.units[2].sources[0]).write_text("another text")
    assert left(texts) == ["001.txt", "002.txt"]
    # By other writers, whose names come before and behind.
    list(texts.run(Inline("a")))
    Path(texts.units[2].sources[0]).write_text("a third text")
    list(texts.run(Inline("z")))
    assert left(texts) == []
    assert texts.written() == texts.expected()


def test_a_source_that_changes_while_it_is_read_is_done_again(
    texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(texts.units[0].sources[0])
    replace = os.replace

    def meanwhile(*paths: Path) -> None:
        replace(*paths)
        if source.read_text() == "text 0":
            source.write_text("replaced")

    monkeypatch.setattr(os, "replace", meanwhile)
    list(texts.run(Inline("part-1-of-1")))
    assert left(texts) == ["000.txt"]
    list(texts.run(Inline("part-1-of-1")))
    assert left(texts) == []
    assert (texts.out / "000.txt").read_text() == "REPLACED"


def test_rows_of_another_job_count_no_more(texts: Texts) -> None:
    list(texts.run(Inline("part-1-of-1")))
    folder = JobFolder(texts.out)
    with pytest.raises(UserError, match=r"\(not the same size\): .*--overwrite"):
        folder.begin({"command": "test", "size": 3}, overwrite=False)
    folder.begin({"command": "test", "size": 3}, overwrite=True)
    assert Ledgers(folder).seen == {}
    texts.folder.begin({"command": "test"}, overwrite=True)
    assert left(texts) == []


def test_deaths_are_counted_and_nothing_else(texts: Texts) -> None:
    with opened(texts.folder, "one", "") as ledger:
        for state in (BEGUN, LEFT, BEGUN, FAILED, BEGUN, BEGUN):
            ledger.write("000.txt", state)
        for state in (BEGUN, BEGUN, BEGUN):
            ledger.write("001.txt", state)
        for unit in texts.units[2:]:
            for state in (BEGUN, BEGUN, DONE):
                ledger.write(unit.name, state, input=stamp_of(unit))
    ledgers = Ledgers(texts.folder)
    assert dict(ledgers.deaths) == {"000.txt": 2, "001.txt": 3, "002.txt": 1, "003.txt": 1}
    assert [ledgers.is_poison(unit.name) for unit in texts.units] == [False, True, False, False]


def test_two_writers_of_one_name(texts: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    """By mistake, or because a scheduler took the first for dead: nothing is torn."""
    temporary = texts.out / ".drsformer.part-1-of-1.torn.txt"
    with opened(texts.folder, "part-1-of-1", "") as first:
        temporary.write_text("of the first")
        first.write("000.txt", BEGUN, at=[str(texts.out)])
        list(texts.run(Inline("part-1-of-1")))
        assert temporary.exists()
        first.write("000.txt", DONE, input=stamp_of(texts.units[0]))
    assert left(texts) == []
    assert Ledgers(texts.folder).torn == 0
    # Killed, it leaves what the next one of its name removes, and nobody else.
    with opened(texts.folder, "part-2-of-2", ""):
        assert temporary.exists()
    with opened(texts.folder, "part-1-of-1", ""):
        assert not temporary.exists()


def test_a_full_disk_ends_the_work_and_loses_none(
    texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: Path, destination: Path) -> None:
        if str(destination).endswith("002.txt"):
            raise OSError(28, "No space left on device")
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match=r"No space left .*: the same command goes on when"):
            list(texts.run(Inline("part-1-of-1")))
    assert sorted(path.name for path in texts.out.iterdir()) == [".drsformer", "000.txt", "001.txt"]
    assert not Ledgers(texts.folder).deaths
    assert len(list(texts.run(Inline("part-1-of-1")))) == 2
    assert left(texts) == []


@pytest.mark.parametrize("is_done", [False, True], ids=["not done", "done, and not told"])
def test_a_rename_that_fails_is_done_by_the_next_run(
    texts: Texts, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    """On NFS a request whose answer was lost is sent again, and then finds no file to rename."""
    replace = os.replace

    def failing(source: Path, destination: Path) -> None:
        if not str(destination).endswith("002.txt"):
            replace(source, destination)
        elif is_done:
            replace(source, destination)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        else:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        rows = list(texts.run(Inline("part-1-of-1")))
    (failed,) = [row for row in rows if row["status"] == FAILED]
    assert failed["id"] == "002.txt"
    assert "002.txt: cannot be written (" in failed["why"]
    assert not list(texts.out.glob(".drsformer.*"))
    assert left(texts) == ["002.txt"]
    assert len(list(texts.run(Inline("part-1-of-1")))) == 1
    assert left(texts) == []
    assert texts.written() == texts.expected()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_ledger_on_a_full_disk(texts: Texts) -> None:
    with opened(texts.folder, "one", "") as ledger:
        ledger._file = io.FileIO("/dev/full", "a")
        with pytest.raises(UserError, match=r"one\.jsonl: cannot be written \(No space left"):
            ledger.write("000.txt", DONE)


@pytest.mark.parametrize(
    "change",
    [
        {"id": ["003.txt"]},
        {"status": 5},
        {"at": 5, "status": "begun"},
        {"at": [5]},
        {"result": [1]},
    ],
)
def test_a_row_of_another_shape_is_none(texts: Texts, change: dict[str, Any]) -> None:
    list(texts.run(Inline("part-1-of-1")))
    lines = ledger_of(texts).read_text().splitlines()
    lines.append(json.dumps(json.loads(lines[-1]) | change))
    for more in ("5", "[" * 100_000):
        ledger_of(texts).write_text("\n".join([*lines, more]) + "\n")
        assert Ledgers(texts.folder).torn == 2
        list(texts.run(Inline("part-1-of-1")))
        assert left(texts) == []


@pytest.mark.parametrize(
    "line", ["", "{", "[5]", "[]", "{}", '["004.txt", 5]', '["004.txt", 5, "x"]', "[" * 100_000]
)
def test_a_damaged_list_is_named(texts: Texts, line: str) -> None:
    listing = next(texts.folder.path.glob("units-*"))
    listing.write_text(f"{listing.read_text()}{line}\n")
    for use in (lambda: status(texts.out), texts.begin):
        with pytest.raises(UserError, match=r"units-.*\.jsonl: is damaged: remove it, and"):
            use()
    listing.unlink()
    texts.begin()
    assert list(texts.folder.listed()) == [unit.name for unit in texts.units]


@pytest.mark.parametrize("about", [None, 5, {"files": 5}])
def test_a_job_that_says_nothing_of_itself_is_damaged(texts: Texts, about: Any) -> None:
    file = texts.folder.path / JOB_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"about": about}))
    for use in (lambda: status(texts.out), texts.begin):
        with pytest.raises(UserError, match=r"job\.json: is damaged: remove"):
            use()


def test_a_list_that_grows_is_kept(tmp_path: Path) -> None:
    texts = Texts(tmp_path, 3)
    texts.begin()
    listing = next(texts.folder.path.glob("units-*"))
    assert [json.loads(line) for line in listing.read_text().splitlines()] == [
        [unit.name] for unit in texts.units
    ]
    before = listing.stat()
    texts.folder.list(texts.units[:2], lambda unit: (1, 2))
    assert listing.stat() == before
    more = Texts(tmp_path, 5, {"004.txt": ONCE})
    more.begin()
    more.folder.list(more.units, lambda unit: (1, 2))
    assert list(more.folder.listed()) == [unit.name for unit in more.units]
