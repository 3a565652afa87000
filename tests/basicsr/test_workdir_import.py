"""The authors' runs as workdirs: what becomes of them, and that training carries them on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from reference.toy_training import RandomPairs, options_of, small_config

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from reference.basicsr import AuthorsRun, saved_run  # noqa: E402

from drsformer_jax.basicsr.workdir_import import import_run  # noqa: E402
from drsformer_jax.checkpoints.names import from_tree, to_tree  # noqa: E402
from drsformer_jax.checkpoints.torch_names import torch_names  # noqa: E402
from drsformer_jax.checkpoints.weights import load_weights  # noqa: E402
from drsformer_jax.errors import UserError  # noqa: E402
from drsformer_jax.models.config import DRSformerConfig  # noqa: E402
from drsformer_jax.training.claim import LOCK_FILE  # noqa: E402
from drsformer_jax.training.loop import train  # noqa: E402
from drsformer_jax.training.optimizer import make_optimizer  # noqa: E402
from drsformer_jax.training.state import TrainState  # noqa: E402
from drsformer_jax.training.workdir_lock import WorkdirLock  # noqa: E402


def theirs(**changes: Any) -> ConfigDict:
    """A configuration with the settings of `AuthorsRun`."""
    settings = {
        "total_steps": 5,
        "optimizer__learning_rate": 3e-4,
        "optimizer__hold_steps": 4,
        "optimizer__decay_steps": 8,
    }
    return small_config(**settings | changes)


@pytest.fixture(autouse=True)
def cheap_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of two of the real parameters in the place of the network, which start at 0."""

    def zeros(config: DRSformerConfig, rng: jax.Array) -> Any:
        del rng
        specs = torch_names(config).items()
        return to_tree({name: np.zeros(spec.shape, np.float32) for name, spec in specs}, config)

    def restore(config: Any, params: Any, image: jax.Array) -> jax.Array:
        del config
        return image * params["output"]["kernel"].sum() + params["patch_embed"]["kernel"].mean()

    monkeypatch.setattr("drsformer_jax.training.state.init_params", zeros)
    monkeypatch.setattr("drsformer_jax.training.step.restore", restore)


def run(config: ConfigDict, workdir: Path) -> TrainState:
    return train(config.to_dict(), options_of(config), RandomPairs(), workdir)


def test_everything_arrives_to_the_bit(tmp_path: Path) -> None:
    authors = AuthorsRun(ema_decay=0.9)
    for _ in range(3):
        authors.step()
    path = authors.save(tmp_path)
    done = import_run(path, None, tmp_path / "run", force=False)
    assert (done.step, done.notes) == (3, [])
    assert done.network.ema is not None

    config = theirs(total_steps=3, ema_decay=0.9)
    state = run(config, tmp_path / "run")  # resumes, and has nothing to do
    assert int(state.step) == 3
    (adam,) = [
        part
        for part in jax.tree.leaves(
            state.opt_state, is_leaf=lambda part: isinstance(part, optax.ScaleByAdamState)
        )
        if isinstance(part, optax.ScaleByAdamState)
    ]
    assert int(adam.count) == 3
    structure = jax.tree.structure(make_optimizer(options_of(config).optimizer).init(state.params))
    assert jax.tree.structure(state.opt_state) == structure
    assert authors.ema is not None
    averages = {name: p.detach() for name, p in authors.ema.named_parameters()}
    moments = [authors.optimizer.state[p] for p in authors.module.parameters()]
    names = list(authors.parameters())
    for tree, expected in (
        (state.params, authors.parameters()),
        (state.ema_params, averages),
        (adam.mu, dict(zip(names, (m["exp_avg"] for m in moments), strict=True))),
        (adam.nu, dict(zip(names, (m["exp_avg_sq"] for m in moments), strict=True))),
    ):
        found = from_tree(tree, options_of(config).model)
        for name in names:
            np.testing.assert_array_equal(found[name], np.asarray(expected[name]))


def test_training_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_run(saved_run(tmp_path, 3), None, tmp_path / "run", force=False)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved.keys() == {"architecture", "optimizer", "imported"}
    state = run(theirs(seed=7, total_steps=6, log_every=1), tmp_path / "run")
    assert "resuming after step 3" in capsys.readouterr().out
    assert int(state.step) == 6
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    # Steps 4 and 5 take the held rate at 3 and 4, step 6 the cosine's at 1 of 8.
    cosine = 1e-6 + (3e-4 - 1e-6) * 0.5 * (1 + np.cos(np.pi / 8))
    rates = [json.loads(line)["learning_rate"] for line in lines]
    np.testing.assert_allclose(rates, [3e-4, 3e-4, cosine], rtol=1e-6)
    # From its first checkpoint on it is a run like any other.
    with pytest.raises(UserError, match=r"of another configuration: config\.seed \(7 there, 8"):
        run(theirs(seed=8, total_steps=6), tmp_path / "run")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir that tests leave as it is."""
    folder = tmp_path_factory.mktemp("imported")
    import_run(saved_run(folder), None, folder / "run", force=False)
    return folder / "run"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer__b1": 0.8}, r"config\.optimizer\.b1 \(0\.9 there, 0\.8 here\); choose"),
        (
            {"optimizer__hold_steps": 9, "optimizer__weight_decay": 0.0},
            r"hold_steps \(4 there, 9 here\), config\.optimizer\.weight_decay \(0\.0001 there",
        ),
        ({"model__dim": 16}, r"config\.model\.dim \(8 there, 16 here\); choose"),
        ({"ema_decay": 0.9}, r"config\.ema_decay \(no moving average there, 0\.9 here\)"),
    ],
)
def test_a_configuration_that_contradicts_the_files(
    imported: Path, changes: dict[str, Any], message: str
) -> None:
    before = (imported / "config.json").read_text()
    with pytest.raises(UserError, match=rf"imported from 3\.state, .*: .*{message}"):
        run(theirs(**changes), imported)
    assert (imported / "config.json").read_text() == before


def test_the_weights_of_an_imported_workdir(imported: Path) -> None:
    network = load_weights(imported.parent / "models" / "net_g_3.pth")
    jax.tree.map(np.testing.assert_array_equal, load_weights(imported).params, network.params)


def test_adam_may_have_counted_otherwise(tmp_path: Path) -> None:
    authors = AuthorsRun()
    authors.step()
    for entry in authors.optimizer.state.values():
        entry["step"] = torch.tensor(7.0)
    done = import_run(authors.save(tmp_path), None, tmp_path / "run", force=False)
    assert done.notes == [
        "AdamW has made 7 updates in 1 iterations; its bias correction goes on from there"
    ]


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path, workdir = saved_run(tmp_path), tmp_path / "run"
    import_run(path, None, workdir, force=False)
    for name in ("metrics.jsonl", "sessions.jsonl", "report.html", "parameters.txt"):
        (workdir / name).write_text("old\n")
    (workdir / "validation").mkdir()
    before = listing(tmp_path)
    with pytest.raises(UserError, match=r"run holds a run: give another name, or --force"):
        import_run(path, None, workdir, force=False)
    assert listing(tmp_path) == before
    import_run(path, None, workdir, force=True)
    assert not (workdir / "metrics.jsonl").exists()
    (workdir / "thesis.tex").write_text("mine")
    for force in (True, False):
        with pytest.raises(UserError, match=r"not only a workdir \(thesis\.tex\)"):
            import_run(path, None, workdir, force)
    (tmp_path / "empty").mkdir()
    import_run(path, None, tmp_path / "empty", force=False)
    assert (tmp_path / "empty" / "checkpoints" / "3").is_dir()


@pytest.mark.parametrize("place", ["no/run", "file"])
def test_impossible_places(tmp_path: Path, place: str) -> None:
    path = saved_run(tmp_path)
    (tmp_path / "file").touch()
    before = listing(tmp_path)
    with pytest.raises(UserError, match=r"there is no folder|is a file"):
        import_run(path, None, tmp_path / place, force=True)
    assert listing(tmp_path) == before


def test_files_that_do_not_belong_together_write_nothing(tmp_path: Path) -> None:
    path = saved_run(tmp_path)
    network = tmp_path / "models" / "net_g_3.pth"
    content = torch.load(network, weights_only=True)
    wide = {name: torch.cat([t, t]) for name, t in content["params"].items() if "attn1" in name}
    torch.save({"params": content["params"] | wide}, network)
    before = listing(tmp_path)
    with pytest.raises(UserError, match=r"net_g_3\.pth \(params\) does not fit"):
        import_run(path, None, tmp_path / "run", force=False)
    assert listing(tmp_path) == before


def test_a_run_that_trains_is_not_replaced(tmp_path: Path) -> None:
    path, workdir = saved_run(tmp_path), tmp_path / "run"
    import_run(path, None, workdir, force=False)
    before = listing(tmp_path)
    lock = WorkdirLock(workdir)
    with pytest.raises(UserError, match="run is in use by another run"):
        import_run(path, None, workdir, force=True)
    lock.release()
    assert listing(tmp_path) == before
    (workdir / LOCK_FILE).write_text("")  # of a run that was killed
    import_run(path, None, workdir, force=True)
    assert not (workdir / LOCK_FILE).exists()


def test_a_crash_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, workdir = saved_run(tmp_path), tmp_path / "run"
    import_run(path, None, workdir, force=False)
    before = listing(tmp_path)

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("drsformer_jax.basicsr.workdir_import.TrainingCheckpoints.save", fail)
    with pytest.raises(UserError, match=r"run cannot be written: No space left on device"):
        import_run(path, None, workdir, force=True)
    assert listing(tmp_path) == before
