"""The same training on one device and on several: CPU devices in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.programs import environment

from drsformer_jax.training.sharding import MeshOptions, split_axis

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
refused = {}
for name, changes in json.loads(sys.argv[2]).items():
    out = Path(sys.argv[1]) / name
    config = small_config(**changes)
    try:
        final = train(config.to_dict(), options_of(config), RandomPairs(), out, None)
    except UserError as error:
        refused[name] = str(error)
        continue
    arrays = {**final.params, "table": final.params["table"]["kernel"]}
    moments = next(x for x in jax.tree.leaves(final.opt_state) if x.shape == (64, 64))
    parts = [x.addressable_shards[0].data.shape for x in (arrays["table"], moments)]
    np.savez(out / "final.npz", devices=jax.device_count(), parts=parts, **arrays)
Path(sys.argv[1], "refused.json").write_text(json.dumps(refused))
"""

# Changes of the configuration, and what each of four devices then holds of the table.
DIVIDED: dict[str, tuple[dict[str, Any], list[int]]] = {
    "data": ({}, [64, 64]),
    "accumulated": ({"accumulation_steps": 2}, [64, 64]),
    "fsdp": ({"mesh__fsdp": 4}, [64, 16]),
    "fsdp, accumulated": ({"mesh__fsdp": 2, "accumulation_steps": 2}, [64, 32]),
    "muon": ({"optimizer__name": "muon"}, [64, 64]),
    "fsdp, muon": ({"mesh__fsdp": 4, "optimizer__name": "muon"}, [64, 16]),
}
# And what is said of them.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "batch": ({"global_batch": 6}, "do not divide over 4 devices"),
    "mesh": ({"mesh__fsdp": 3}, "cannot be made of 4 device"),
    "rows": (
        {"mesh__spatial": 4},
        "config.patch_size: 8 rows do not divide over config.mesh.spatial",
    ),
}
BASE = {"global_batch": 8, "ema_decay": 0.9}


def train_on(devices: int, out: Path, cases: dict[str, dict[str, Any]]) -> Path:
    """The folder with a workdir for each case; JAX starts once."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out), json.dumps(cases)],
        env=environment(devices),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cases = {name: {**BASE, "optimizer__name": name} for name in ("adamw", "muon")}
    return train_on(1, tmp_path_factory.mktemp("one"), cases)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cases = {name: BASE | changes for name, (changes, _) in DIVIDED.items()}
    cases |= {name: changes for name, (changes, _) in REFUSED.items()}
    return train_on(4, tmp_path_factory.mktemp("four"), cases)


@pytest.mark.parametrize("name", DIVIDED)
def test_four_devices_train_as_one(one: Path, four: Path, name: str) -> None:
    changes, parts = DIVIDED[name]
    found = np.load(four / name / "final.npz")
    alone = np.load(one / changes.get("optimizer__name", "adamw") / "final.npz")
    assert (alone["devices"], found["devices"]) == (1, 4)
    # Of parameters and moments each device holds no more than its part.
    assert found["parts"].tolist() == [parts, parts]
    for array in ("mix", "offset", "table"):
        np.testing.assert_allclose(found[array], alone[array], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_devices_do_not_divide_is_refused(four: Path, name: str) -> None:
    refused = json.loads((four / "refused.json").read_text())
    assert refused.keys() == REFUSED.keys()
    assert REFUSED[name][1] in refused[name]
    assert not (four / name).exists()


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
