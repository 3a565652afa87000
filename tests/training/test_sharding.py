"""The same training on one device and on several: CPU devices in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent

# The toy network, for the loop and the layout of arrays are what is tested here.
PROGRAM = """
import sys
from pathlib import Path
import jax, numpy as np
import drsformer_jax.training.state as state
import drsformer_jax.training.step as step
from drsformer_jax.errors import UserError
from drsformer_jax.training.loop import train
from toy_training import RandomPairs, options_of, small_config, toy_init_params, toy_restore

state.init_params, step.restore = toy_init_params, toy_restore
out, batch, accumulation = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config = small_config(global_batch=batch, accumulation_steps=accumulation)
try:
    final = train(config.to_dict(), options_of(config), RandomPairs(), Path(out), None)
except UserError as error:
    sys.exit(str(error))
np.savez(Path(out) / "final.npz", devices=jax.device_count(), **final.params)
"""


def train_on(
    devices: int, out: Path, batch: int = 8, accumulation: int = 1
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out), str(batch), str(accumulation)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_four_devices_train_as_one(tmp_path: Path, accumulation: int) -> None:
    results = []
    for devices in (1, 4):
        out = tmp_path / str(devices)
        done = train_on(devices, out, accumulation=accumulation)
        assert done.returncode == 0, done.stderr
        results.append(np.load(out / "final.npz"))
    one, four = results
    assert (one["devices"], four["devices"]) == (1, 4)
    for name in ("mix", "offset"):
        np.testing.assert_allclose(four[name], one[name], rtol=0, atol=1e-6)


def test_a_batch_that_the_devices_do_not_divide_is_refused(tmp_path: Path) -> None:
    done = train_on(4, tmp_path / "run", batch=6)
    assert "do not divide over 4 devices" in done.stderr
    assert not (tmp_path / "run").exists()
