"""The same training on one device and on several: CPU devices in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsformer_jax.training.sharding import MeshOptions, split_axis

HERE = Path(__file__).resolve().parent

# The toy network, for the loop and the layout of arrays are what is tested here.
PROGRAM = """
import json, sys
from pathlib import Path
import jax, numpy as np
import drsformer_jax.training.state as state
import drsformer_jax.training.step as step
from drsformer_jax.errors import UserError
from drsformer_jax.training.loop import train
from reference.toy_training import (
    RandomPairs,
    options_of,
    small_config,
    toy_init_params,
    toy_restore,
)

state.init_params, step.restore = toy_init_params, toy_restore
out = sys.argv[1]
config = small_config(**json.loads(sys.argv[2]))
try:
    final = train(config.to_dict(), options_of(config), RandomPairs(), Path(out), None)
except UserError as error:
    sys.exit(str(error))
moments = final.opt_state[1][0].mu["table"]
parts = [x.addressable_shards[0].data.shape for x in (final.params["table"], moments)]
np.savez(Path(out) / "final.npz", devices=jax.device_count(), parts=parts, **final.params)
"""


def train_on(devices: int, out: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parents[1])]),
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out), json.dumps(changes)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("one")
    done = train_on(1, out, global_batch=8, ema_decay=0.9)
    assert done.returncode == 0, done.stderr
    return np.load(out / "final.npz")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, [64, 64]),
        ({"accumulation_steps": 2}, [64, 64]),
        ({"mesh__fsdp": 4}, [64, 16]),
        ({"mesh__fsdp": 2, "accumulation_steps": 2}, [64, 32]),
    ],
)
def test_four_devices_train_as_one(
    tmp_path: Path, one: Any, changes: dict[str, Any], parts: list[int]
) -> None:
    done = train_on(4, tmp_path, global_batch=8, ema_decay=0.9, **changes)
    assert done.returncode == 0, done.stderr
    four = np.load(tmp_path / "final.npz")
    assert (one["devices"], four["devices"]) == (1, 4)
    # Of parameters and moments each device holds no more than its part.
    assert four["parts"].tolist() == [parts, parts]
    for name in ("mix", "offset", "table"):
        np.testing.assert_allclose(four[name], one[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch": 6}, "do not divide over 4 devices"),
        ({"mesh__fsdp": 3}, "cannot be made of 4 device"),
        ({"mesh__spatial": 4}, "config.patch_size: 8 rows do not divide over config.mesh.spatial"),
    ],
)
def test_what_the_devices_do_not_divide_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    done = train_on(4, tmp_path / "run", **changes)
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "devices", "sizes"),
    [
        ({}, 8, (8, 1, 1)),
        ({"fsdp": 4}, 8, (2, 4, 1)),
        ({"data": 1, "fsdp": -1, "spatial": 2}, 8, (1, 4, 2)),
        ({"data": 2, "fsdp": 2, "spatial": 2}, 8, (2, 2, 2)),
    ],
)
def test_sizes_of_the_mesh(
    options: dict[str, int], devices: int, sizes: tuple[int, int, int]
) -> None:
    assert MeshOptions(**options).sizes(devices) == sizes


@pytest.mark.parametrize("options", [{"data": 0}, {"fsdp": -2}, {"data": -1, "fsdp": -1}])
def test_impossible_meshes_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be a positive number|only one axis"):
        MeshOptions(**options)


def test_arrays_are_split_along_their_longest_axis_that_divides() -> None:
    assert split_axis((3, 3, 64, 192), 4) == 3
    assert split_axis((6, 96, 510), 4) == 1
    assert split_axis((64, 64), 4) == 1
    assert split_axis((64, 64), 1) is None
    assert split_axis((63, 255), 2) is None
    assert split_axis((4, 16), 4) is None
    assert split_axis((), 4) is None
