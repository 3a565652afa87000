"""The flags of train.py."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from drsformer_jax.cli import train
from drsformer_jax.errors import UserError
from drsformer_jax.training.stopping import Interrupted
from drsformer_jax.training.workdir import TrainingDivergedError

CONFIG = f"--config={Path(__file__).resolve().parents[2] / 'configs' / 'demo.py'}"


def test_flags_of_training() -> None:
    argv = ["train.py", CONFIG, "--workdir=runs/x", "--config.seed=7"]
    given = train.parse_flags(argv, "")
    assert given is not None
    assert (given.workdir, given.config.seed, given.profile_steps) == (Path("runs/x"), 7, 0)
    profiled = train.parse_flags([*argv, "--profile=5"], "")
    assert profiled is not None
    assert profiled.profile_steps == 5


@pytest.mark.parametrize("value", ["=0", "=-3", "=few", ""])
def test_steps_to_trace_must_be_a_positive_number(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train.py", CONFIG, f"--workdir={tmp_path / 'run'}", f"--profile{value}"]
    assert train.run(argv, "") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "profile" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], None),
        (["--distributed"], (None, None, None, 300)),
        (["--distributed", "--distributed_timeout=7"], (None, None, None, 7)),
        (
            [
                "--distributed",
                "--coordinator_address=[::1]:80",
                "--num_processes=2",
                "--process_id=1",
            ],
            ("[::1]:80", 2, 1, 300),
        ),
    ],
)
def test_who_the_other_processes_are(
    flags: list[str], expected: tuple[str | None, int | None, int | None, int] | None
) -> None:
    given = train.parse_flags(["train.py", CONFIG, "--workdir=runs/x", *flags], "")
    assert given is not None
    names = ("coordinator", "processes", "process", "timeout")
    wanted = None if expected is None else dict(zip(names, expected, strict=True))
    assert given.distributed == wanted


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=2"], "--num_processes goes with --distributed"),
        (["--distributed", "--process_id=0"], "--coordinator_address and --num_processes missing"),
        (
            [
                "--distributed",
                f"--coordinator_address=h:{'9' * 5000}",
                "--num_processes=2",
                "--process_id=1",
            ],
            "must be HOST:PORT",
        ),
        (["--distributed", "--distributed_timeout=0"], "distributed_timeout"),
        (
            ["--distributed", "--coordinator_address=h", "--num_processes=2", "--process_id=1"],
            "--coordinator_address=h: must be HOST:PORT",
        ),
        (
            ["--distributed", "--coordinator_address=h:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2: must be below --num_processes=2",
        ),
        (["--config.mesh.width=2"], "no such key: width"),
        (["--config.mesh.fsdp=0"], "config.mesh: fsdp must be a positive number of devices or -1"),
    ],
)
def test_mistaken_flags_are_told_in_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train.py", CONFIG, f"--workdir={tmp_path / 'run'}", *flags]
    assert train.run(argv, "") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert message in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--distributed=maybe", "true or false"),
        ("--config.data.cache=maybe", "true or false"),
        ("--config.total_steps=1.5", "a whole number"),
        ("--config.optimizer.learning_rate=fast", "a number"),
    ],
)
def test_values_of_another_type(
    flag: str, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = ["train.py", CONFIG, f"--workdir={tmp_path / 'run'}", flag]
    assert train.run(argv, "") == 2
    assert capsys.readouterr().err == f"train.py: error: {flag}: must be {told}\n"


@pytest.mark.parametrize("ending", [None, Interrupted(15), TrainingDivergedError("at step 3")])
def test_a_run_ends_with_its_report(
    ending: BaseException | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with contextlib.suppress(Interrupted, TrainingDivergedError), train._reported(tmp_path):
        if ending:
            raise ending
    assert capsys.readouterr().out == f"report: {tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").is_file()


def test_a_report_that_fails_is_a_note_and_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with train._reported(tmp_path):
        pass
    told = capsys.readouterr().out
    assert told.startswith("note: no report was written (")
    assert told.count("\n") == 1


def test_a_folder_that_may_be_another_runs_gets_no_report(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="in use"), train._reported(tmp_path):
        raise UserError("in use by another run")
    assert not (tmp_path / "report.html").exists()
