"""The flags of eval.py, and what it does not write over."""

from __future__ import annotations

from pathlib import Path

import pytest

from drsformer_jax.cli import evaluate

CONFIG = f"--config={Path(__file__).resolve().parents[2] / 'configs' / 'demo.py'}"


def test_evaluation_has_no_steps_to_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["eval.py", CONFIG, f"--workdir={tmp_path}", "--profile=5"]
    assert evaluate.run(argv, "") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("linked", ["evaluation", "evaluation/restored", "evaluation/a/restored"])
@pytest.mark.parametrize("flag", ["--config.data.val=", "--set=a="])
def test_images_to_be_restored_stay(
    linked: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "data" / "input" / "1.png"
    image.parent.mkdir(parents=True)
    image.touch()
    link = tmp_path / "run" / linked
    link.parent.mkdir(parents=True)
    link.symlink_to(image.parent)
    argv = ["eval.py", CONFIG, f"--workdir={tmp_path / 'run'}", f"{flag}{tmp_path / 'data'}"]
    assert evaluate.run(argv, "") == 2
    assert "where results are written: move them elsewhere" in capsys.readouterr().err
    assert image.exists()


def test_evaluation_over_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["eval.py", CONFIG, f"--workdir={tmp_path}"]
    who = ["--coordinator_address=h:1", "--num_processes=2", "--process_id=1"]
    given = evaluate.parse_flags([*argv, "--distributed", *who], "")
    assert given is not None
    assert given.distributed == {
        "coordinator": "h:1", "processes": 2, "process": 1, "timeout": 300
    }  # fmt: skip
    assert evaluate.run([*argv, *who], "") == 2
    assert "--coordinator_address goes with --distributed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "orientations"),
    [
        ([], 1),
        (["--ensemble"], 8),
        (["--ensemble", "--config.data.augment=mirror"], 2),
        (["--config.data.augment=mirror"], 1),
    ],
)
def test_an_ensemble_is_over_what_training_drew_from(
    flags: list[str], orientations: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "drsformer_jax.evaluation.run.evaluate_workdir",
        lambda workdir, tasks, options, own: asked.append(options.orientations) or "",
    )
    monkeypatch.setattr(evaluate, "_tasks", lambda given: [])
    assert evaluate.run(["eval.py", CONFIG, f"--workdir={tmp_path}", *flags], "") == 0
    assert asked == [orientations]


def test_an_ensemble_of_unknown_orientations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["eval.py", CONFIG, f"--workdir={tmp_path}", "--config.data.augment=turns", "--ensemble"]
    assert evaluate.run(argv, "") == 2
    told = "eval.py: error: config.data.augment: must be dihedral or mirror, not 'turns'\n"
    assert capsys.readouterr().err == told
