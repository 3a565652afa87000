"""The flags of eval.py, and what it does not write over."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

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


def test_a_set_whose_name_is_too_long_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    sets = [f"--set={name}={tmp_path}" for name in ("a", "x" * 256)]
    assert evaluate.run(["eval.py", CONFIG, f"--workdir={tmp_path / 'run'}", *sets], "") == 2
    told = f"eval.py: error: --set {tmp_path / 'run' / ('x' * 256)}: File name too long\n"
    assert capsys.readouterr().err == told


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


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("del config.name", "--config: name: missing key: 'name'"),
        ("del config.eval", "--config: eval.batch_size: missing key: 'eval'"),
        ("config.eval.batch_size = None", "config.eval.batch_size: must be at least 1, not None"),
    ],
)
def test_keys_that_a_file_of_ones_own_lacks(
    change: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("input", "target"):
        (tmp_path / part).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / part / "1.png")
    data = {"kind": "folder", "val": str(tmp_path)}
    scored = {"protocol": "rain200", "data_set": "", "batch_size": 1}
    values = {"name": "own", "data": data, "eval": scored}
    (tmp_path / "own.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        f"    config = ConfigDict({values})\n"
        f"    {change}\n"
        "    return config\n"
    )
    flags = [f"--config={tmp_path / 'own.py'}", f"--workdir={tmp_path / 'run'}"]
    assert evaluate.run(["eval.py", *flags], "") == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"eval.py: error: {told}")
    assert errors.count("\n") == 1
