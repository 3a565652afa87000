"""Validation counts each image once, however many processes and devices share the images."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from reference.programs import environment

# A network of one number, so that nothing takes time to compile. Prints what validation finds:
# whole, and with process 1 asked to stop before it has its scores.
PROGRAM = """
import json, sys
import numpy as np
import drsformer_jax.models.drsformer as network
from drsformer_jax.processes import join, leave

network.restore = lambda config, params, image: image * params["gain"]
process, processes, port = map(int, sys.argv[1:])
if processes > 1:
    join(f"127.0.0.1:{port}", processes, process, 60)

from drsformer_jax.training.validation import Validator
from drsformer_jax.models.config import PRESETS

class Images:
    def __len__(self):
        return 7

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        shape = (24, 40, 3) if index % 3 else (40, 24, 3)
        target = rng.integers(0, 256, shape, dtype=np.uint8)
        asked.append(index)
        return {"input": target // 2, "target": target, "name": str(index)}

asked = []
validator = Validator(PRESETS["tiny"], Images())
params = {"gain": np.float32(1.5)}
found = validator(params, lambda work: work())
again = validator({"gain": np.float32(1.0)}, lambda work: work())
stopped = validator(params, lambda work: None if process == processes - 1 else work())
print(json.dumps({
    "scores": found.scores, "again": again.scores, "summary": found.summary,
    "pictures": list(found.pictures), "asked": sorted(set(asked)), "stopped": stopped is None,
}), flush=True)
leave(0)
"""


def validate(processes: int, devices: int) -> list[dict[str, Any]]:
    """What each process finds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(i), str(processes), str(port)],
            env=environment(devices),
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return validate(1, 1)[0]


def test_the_scores_are_those_of_the_images(alone: dict[str, Any]) -> None:
    assert "over 7 images" in alone["summary"]
    assert alone["scores"]["psnr"] > alone["scores"]["input_psnr"] + 3
    # The second call restores with its own parameters.
    np.testing.assert_allclose(alone["again"]["psnr"], alone["scores"]["input_psnr"], rtol=1e-12)
    assert alone["stopped"]


@pytest.mark.parametrize(("processes", "devices"), [(1, 4), (2, 2)])
def test_sharing_the_images_changes_nothing(
    alone: dict[str, Any], processes: int, devices: int
) -> None:
    found = validate(processes, devices)
    for process, result in enumerate(found):
        # To the last bit: every image is restored as if it were alone.
        assert result["scores"] == alone["scores"]
        assert result["again"] == alone["again"]
        # An image is decoded by one process, and stopping one of them stops the validation.
        assert result["asked"] == list(range(process, 7, processes))
        pictures = [f"rainy_restored_target{number}" for number in ("", "_2", "_3")]
        assert sorted(result["pictures"]) == (pictures if process == 0 else [])
        assert result["stopped"]
