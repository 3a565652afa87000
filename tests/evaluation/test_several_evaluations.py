"""Evaluation over several processes gives what one process gives, byte for byte."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest
from reference.miniature_sets import clean, rain200, rainy, save
from reference.several import run_together

from drsformer_jax.checkpoints.weights import Weights, save_weights
from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import init_params

PROGRAM = Path(__file__).with_name("several_evaluations.py")
CONFIG = f"--config={PROGRAM.parents[2] / 'configs' / 'rain200h.py'}"


def written(workdir: Path) -> dict[str, bytes]:
    folder = workdir / "evaluation"
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def evaluate(
    workdir: Path, *lines: list[str], processes: int = 1, devices: int = 1, **options: object
) -> list[tuple[int, str, str]]:
    lines = tuple([CONFIG, f"--workdir={workdir}", *line] for line in lines)
    given = {"lines": lines, "stand_in": True, "largest": None} | options
    return run_together(PROGRAM, given, processes, devices)


def test_two_processes_score_as_one_does(tmp_path: Path) -> None:
    """And what one of them cannot score ends both, with a line each."""
    rain200(tmp_path / "h")
    sets = [f"--set=rain200h={tmp_path / 'h'}", f"--set=mine={tmp_path / 'h/train'}"]
    workdir = tmp_path / "run"
    workdir.mkdir()
    ((code, table, _),) = evaluate(workdir, sets)
    assert code == 0
    alone = written(workdir)
    assert {"results.json", "results.md", "mine/scores.csv", "mine/best.png"} <= alone.keys()
    # Of another data set: it has to go, whoever had written it.
    (workdir / "evaluation/mine/restored/stale.png").touch()
    small = tmp_path / "small"
    for name, side in (("a", 16), ("b", 8)):
        for part in ("input", "target"):
            save(small / "test" / part / f"{name}.png", clean(0, side, side))
    results = evaluate(workdir, sets, [f"--set=small={small}"], processes=2)
    assert [code for code, _, _ in results] == [2, 2], results
    tables, programs = (output.splitlines() for _, output, _ in results)
    assert tables[: len(table.splitlines())] == table.splitlines()
    # The other one tells what it compiles, and nothing else.
    assert len(programs) == 3
    assert set(programs) <= set(tables)
    for (_, _, errors), process in zip(results, ("process 1: ", ""), strict=True):
        (line,) = [line for line in errors.splitlines() if "error:" in line]
        assert line.startswith(f"eval.py: error: {process}b: ")
    together = {name: data for name, data in written(workdir).items() if "small" not in name}
    assert together == alone


@pytest.mark.slow
def test_four_processes_of_two_devices_score_as_one_does(tmp_path: Path) -> None:
    """With the network itself; the large image goes over the rows of both devices."""
    for name, height in (("1", 33), ("2", 49), ("3", 33), ("4", 96), ("5", 33), ("6", 49)):
        image = clean(int(name), height)
        save(tmp_path / "set/test/target" / f"{name}.png", image)
        save(tmp_path / "set/test/input" / f"{name}.png", rainy(image, int(name)))
    tiny, workdir = PRESETS["tiny"], tmp_path / "run"
    save_weights(workdir, Weights(tiny, init_params(tiny, jax.random.key(0))))
    line = [f"--set=mine={tmp_path / 'set'}"]
    options: dict = {"devices": 2, "stand_in": False, "largest": (80, 56)}
    ((code, _, errors),) = evaluate(workdir, line, **options)
    assert code == 0, errors
    assert "in tiles" not in errors
    alone = written(workdir)
    results = evaluate(workdir, line, processes=4, **options)
    assert [code for code, _, _ in results] == [0] * 4, results
    assert written(workdir) == alone
