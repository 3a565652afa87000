"""`drsformer models`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from drsformer_jax.checkpoints.catalogue import AUTHORS, packaged
from drsformer_jax.cli import main as cli


def test_what_is_known_of_all_weights_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "models.json"
    assert cli.main(["models", "--json", str(report)]) == 0
    printed = capsys.readouterr().out
    models = {model["name"]: model for model in json.loads(report.read_text())["models"]}
    assert list(models) == [*packaged(), *AUTHORS]
    for name, path in packaged().items():
        model = models[name]
        assert model["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert model["bytes"] == path.stat().st_size >= 4 * model["parameters"]
        # 188 thousand a padded pixel of `small`, and nothing of ours is a hundred times that.
        assert 1 < model["gflops"] < 3_000
        assert "seconds" not in model
        for shown in (model["sha256"], model["score"], model["data"], f"{model['parameters']:,}"):
            assert shown in printed
    assert "32.17 dB / 0.9326" in models["authors-rain200h"]["score"]
    assert models["authors-rain200h"]["get"] in printed
    assert printed.count("(default)") == 1
    assert printed.splitlines()[0].endswith("(default)")
