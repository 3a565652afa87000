"""`drsformer plan`: the plan it writes, and mistakes that it finds before it compiles."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from reference.programs import environment

from drsformer_jax.cli.main import main
from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import NormalisedFeedForward
from drsformer_jax.planning import planner
from drsformer_jax.training import kernel_trials
from drsformer_jax.training.kernel_trials import Case, Trial

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'base.py'}"
TINY = (CONFIG, "--config.model.preset=tiny", "--config.patch_size=16")
KEYS = [
    "topology", "chips", "global_batch", "bytes_per_chip", "hbm_bytes", "fits", "flops_per_chip",
    "collectives", "estimated_step_ms", "images_per_second", "largest_batch_per_chip",
]  # fmt: skip
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'drsformer_jax[tpu]'",
)

# One start of JAX for three plans. For the last one the network is replaced by a sum of all its
# parameters, which takes a tenth of the time to compile: communication does not depend on it.
EIGHT = """
import sys
import jax
from drsformer_jax.cli.main import main
common = ["plan", "--device=cpu", "--topology=8", *sys.argv[2:]]
assert main([*common, "--batch=12"]) == 2
assert main([*common, "--batch=32", f"--json={sys.argv[1]}/data.json"]) == 0
from drsformer_jax.planning import planner
from drsformer_jax.training import step
planner.training_flops = lambda *args, **settings: 0.0
step.restore = lambda config, params, x: x * sum(map(jax.numpy.sum, jax.tree.leaves(params)))
assert main([*common, "--config.mesh.fsdp=2", f"--json={sys.argv[1]}/fsdp.json"]) == 0
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A program of its own."""
    command = (sys.executable, *command)
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was planned for eight devices of the CPU: stdout, stderr, and JSON by mesh."""
    folder = tmp_path_factory.mktemp("plans")
    done = run("-c", EIGHT, str(folder), *TINY)
    assert done.returncode == 0, done.stderr
    plans = {mesh: json.loads((folder / f"{mesh}.json").read_text()) for mesh in ("data", "fsdp")}
    return {"stdout": done.stdout, "stderr": done.stderr, **plans}


def test_keys_and_what_they_say(eight: dict[str, Any]) -> None:
    found = eight["data"]
    assert list(found)[: len(KEYS)] == KEYS
    assert (found["topology"], found["chips"], found["global_batch"]) == ("8", 8, 32)
    assert found["bytes_per_chip"] > found["state_bytes"] > 3 * 4 * 200_000
    assert found["flops_per_chip"] > 1e8
    assert [found[key] for key in ("hbm_bytes", "fits", "estimated_step_ms")] == [None] * 3
    assert found["mesh"] == {"data": 8, "fsdp": 1, "spatial": 1}


def test_data_mesh_only_adds_gradients(eight: dict[str, Any]) -> None:
    assert eight["data"]["collectives"].keys() == {"all-reduce"}
    assert eight["data"]["collectives"]["all-reduce"]["count"] == 1


def test_fsdp_gathers_and_scatters(eight: dict[str, Any]) -> None:
    found = eight["fsdp"]
    assert found["collectives"].keys() == {"all-reduce", "all-gather", "reduce-scatter"}
    assert found["mesh"] == {"data": 4, "fsdp": 2, "spatial": 1}
    assert found["state_bytes"] < 0.7 * eight["data"]["state_bytes"]


def test_report_for_people(eight: dict[str, Any]) -> None:
    assert "8 device(s): data 8 x fsdp 1 x spatial 1" in eight["stdout"]
    assert "32 images 16x16, 4 a device" in eight["stdout"]
    assert "1 all-reduce of 1.1 MB together" in eight["stdout"]


def test_batch_that_the_devices_do_not_divide(eight: dict[str, Any]) -> None:
    (told,) = [line for line in eight["stderr"].splitlines() if "error" in line]
    assert "12 images at a time do not divide over 8 devices" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--json=/nowhere/plan.json", "--topology=v5e:2x2"], "there is no folder /nowhere"),
        (["--json=/proc/plan.json", "--topology=v5e:2x2"], "cannot be written"),
        ([], "--topology is missing"),
        (["--device=cpu", "--topology=v5e:2x2"], "it is a number of devices"),
        (["--device=cpu", f"--topology={'9' * 5000}"], "it is a number of devices"),
        (["--topology=v5e:2x2", "--config.no_such_key=1"], "no_such_key"),
        (["--topology=v5e:2x2", "--bathc=3"], "bathc"),
    ],
)
def test_mistakes_are_found_before_the_work(
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(planner, "make_plan", lambda *args: pytest.fail("compiled"))
    assert main(["plan", *TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error


def test_missing_compiler_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["plan", *TINY, "--topology=v5e:2x2"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'drsformer_jax[tpu]'" in error


def test_other_commands_take_no_changes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "a", "b", "--protocol=rain200", "--config.seed=1"]) == 2
    assert "unrecognized arguments: --config.seed=1" in capsys.readouterr().err


@needs_libtpu
def test_cache_that_cannot_be_read_is_not_written() -> None:
    program = "from drsformer_jax.cli import plan; plan._prepare('tpu', 'v5e:2x2'); import jax"
    done = run("-c", f"{program}; print(jax.config.jax_enable_compilation_cache)")
    assert (done.stdout, done.stderr) == ("False\n", "")


@needs_libtpu
def test_real_plan(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    done = run(
        "-m", "drsformer_jax.cli.main", "plan", *TINY, "--topology=v5e:2x2", f"--json={file}"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert (found["chips"], found["hbm_bytes"], found["fits"]) == (4, int(15.75 * 2**30), True)
    assert found["collectives"].keys() == {"all-reduce"}
    assert found["estimated_step_ms"] > found["estimated_communication_ms"] > 0
    assert found["larger"]["bytes_per_chip"] > found["hbm_bytes"]
    assert 4 < found["largest_batch_per_chip"] < found["larger"]["batch_per_chip"]
    assert "fits" in done.stdout


def test_a_plan_is_not_written_over_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.py"
    config.write_text((ROOT / "configs" / "demo.py").read_text())
    before = config.read_bytes()
    (tmp_path / "linked").symlink_to(".")
    report = tmp_path / "linked" / "mine.py"
    assert main(["plan", f"--config={config}", "--device=cpu", f"--json={report}"]) == 2
    assert f"--json {report}: would overwrite an input" in capsys.readouterr().err
    assert config.read_bytes() == before


def test_selfcheck_tells_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table, the document, and the exit code; what is computed is in test_kernel_trials.py."""
    module = NormalisedFeedForward(PRESETS["tiny"])
    case = Case("NormalisedFeedForward", module, (2, 4, 8, 8))
    good = Trial(case, {"value": 1e-6}, milliseconds=(1.0, 3.0))
    bad = Trial(case, {"value": 1e-6, "image": 2e-1}, {"value": 1e-3, "image": 5e-2})
    broken = Trial(case, {}, reason="ValueError: no", failed=True)
    for trials, code in (([good], 0), ([good, bad, broken], 1)):
        monkeypatch.setattr(kernel_trials, "all_tried", lambda trials=trials: trials)
        file = tmp_path / "selfcheck.json"
        assert main(["plan", "--selfcheck", f"--json={file}"]) == code
        found = json.loads(file.read_text())
        assert found["agrees"] is (code == 0)
        assert [one["agrees"] for one in found["trials"]] == [one is good for one in trials]
    told = capsys.readouterr().out
    assert "2x4x8x8             1.0e-06             -       1.00           3.00  agrees" in told
    assert "2.0e-01       5.0e-02          -              -  DIFFERS" in told
    assert "ValueError: no" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--selfcheck", "--topology=v5e:2x2"], "--selfcheck plans nothing: leave --topology out"),
        (
            ["--selfcheck", "--config.seed=1"],
            "--selfcheck plans nothing: leave --config.seed=1 out",
        ),
        (["--selfcheck", "--json=/nowhere/a.json"], "there is no folder /nowhere"),
        (["--topology=v5e:2x2"], "--config is missing"),
    ],
)
def test_mistakes_about_what_is_to_be_done(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) == 2
    assert told in capsys.readouterr().err
