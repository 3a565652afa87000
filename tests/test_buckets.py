"""Buckets: what is written appears whole, what is read is copied, and faults take one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from reference.buckets import Buckets
from reference.miniature_sets import clean, rain200, save

from drsformer_jax.buckets import any_path, fetch, filesystem, local_copy, objects_below
from drsformer_jax.checkpoints.weights import Weights, load_weights, save_weights
from drsformer_jax.cli import evaluate
from drsformer_jax.cli import main as cli
from drsformer_jax.errors import UserError
from drsformer_jax.files import atomic_path, write_text
from drsformer_jax.models.config import PRESETS
from drsformer_jax.models.drsformer import init_params

TINY = PRESETS["tiny"]
CONFIG = f"--config={Path(__file__).resolve().parents[1] / 'configs' / 'rain200h.py'}"


def some_params() -> dict:
    """Of the tiny network; drawing real ones would be compiled."""
    shapes = jax.eval_shape(lambda: init_params(TINY, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def put_folder(buckets: Buckets, folder: Path, name: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            buckets.put("bkt", f"{name}/{path.relative_to(folder)}", path.read_bytes())


@pytest.mark.usefixtures("buckets")
@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "s3://bucket/x",
            "--workdir s3://bucket/x: is an address; only files and folders of this ",
        ),
        ("https://host/x", "and in buckets of Google Cloud (gs://BUCKET/NAME), are read and"),
        ("gs://", "--workdir gs://: addresses in buckets look like gs://BUCKET/NAME"),
        ("gs:///x", "addresses in buckets look like"),
        ("gs://bkt//x", "addresses in buckets look like"),
        ("gs:/bkt/x", "is an address"),
    ],
)
def test_what_is_no_address_in_a_bucket(typed: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        any_path(typed, "--workdir")
    assert told in str(error.value)


def test_without_gcsfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs gcsfs, which is not installed: pip install 'drs"):
        any_path("gs://bkt/x")


def test_an_object_appears_whole_by_one_upload(buckets: Buckets) -> None:
    path = any_path("gs://bkt/a/b.txt")
    write_text(path, "eins")
    assert buckets.content("bkt", "a/b.txt") == b"eins"
    assert sum(method == "POST" for method, _ in buckets.requests) == 1
    with contextlib.suppress(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("zwei")
        raise ZeroDivisionError
    assert buckets.content("bkt", "a/b.txt") == b"eins"
    # Of a large one, the parts: none of them is seen.
    seen = []
    buckets.watch = lambda method, address: seen.append(buckets.names_in("bkt", "a/large"))
    with atomic_path(any_path("gs://bkt/a/large")) as temporary:
        temporary.write_bytes(bytes(6_000_000))
    assert seen == [[], []]
    assert len(buckets.content("bkt", "a/large")) == 6_000_000


def test_copies_follow_the_bucket(buckets: Buckets, tmp_path: Path) -> None:
    for name, content in (("set/a/1.png", b"1"), ("set/a/2.png", b"2"), ("settled", b"3")):
        buckets.put("bkt", name, content)
    folder = local_copy(any_path("gs://bkt/set/"))

    def there() -> dict[str, bytes]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    assert there() == {"a/1.png": b"1", "a/2.png": b"2"}
    buckets.requests.clear()
    assert local_copy(any_path("gs://bkt/set")) == folder
    assert not [address for _, address in buckets.requests if "media" in address]
    buckets.put("bkt", "set/a/1.png", b"9")
    del buckets.objects["bkt", "set/a/2.png"]
    buckets.put("bkt", "set/c/3.png", b"3")
    local_copy(any_path("gs://bkt/set"))
    assert there() == {"a/1.png": b"9", "c/3.png": b"3"}
    # Of one object, its file.
    assert local_copy(any_path("gs://bkt/settled")).read_bytes() == b"3"
    with pytest.raises(UserError, match="gs://bkt/none: there is nothing under this address"):
        local_copy(any_path("gs://bkt/none"))
    assert local_copy(tmp_path) == tmp_path


def test_a_copy_that_breaks_off_leaves_no_half_file(
    buckets: Buckets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets.put("bkt", "set/a.png", bytes(100))

    def half(names: list[str], parts: list[str]) -> None:
        Path(parts[0]).write_bytes(bytes(50))
        raise OSError("Forbidden: set/a.png")

    path = any_path("gs://bkt/set")
    monkeypatch.setattr(filesystem(), "get", half)
    with pytest.raises(UserError, match="gs://bkt/set: permission denied: give this account"):
        fetch(path, tmp_path / "set")
    assert list(tmp_path.rglob("*")) == [tmp_path / "set"]


def test_names_that_lead_out_of_the_folder(buckets: Buckets, tmp_path: Path) -> None:
    buckets.put("bkt", "set/../../outside.png", b"x")
    buckets.put("bkt", "set/inside.png", b"x")
    fetch(any_path("gs://bkt/set"), tmp_path / "one/set")
    assert [path.name for path in tmp_path.rglob("*.png")] == ["inside.png"]


FAULTS = {
    403: "permission denied: give this account the roles Storage Object User and",
    401: "there are no credentials that the bucket takes: run `gcloud auth",
    503: "the bucket cannot be reached: look at the network",
}


@pytest.mark.parametrize("status", FAULTS)
@pytest.mark.parametrize("work", [objects_below, lambda path: write_text(path / "x", "x")])
def test_faults(
    status: int, work: Callable, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: -1.0)  # of gcsfs, seconds between tries
    monkeypatch.setattr("asyncio.sleep", at_once)
    buckets.watch = lambda method, address: status
    with pytest.raises(UserError) as error:
        work(any_path("gs://bkt/a"))
    assert str(error.value).startswith("gs://bkt/a")
    assert FAULTS[status] in str(error.value)
    assert not buckets.objects


async def at_once(seconds: float) -> None:
    pass


@pytest.mark.usefixtures("buckets")
def test_no_such_bucket() -> None:
    with pytest.raises(UserError, match="gs://other/x: there is no such bucket"):
        write_text(any_path("gs://other/x"), "x")


@pytest.mark.parametrize("name", ["w.safetensors", "w"])
def test_weights(name: str, buckets: Buckets, tmp_path: Path) -> None:
    params = some_params()
    save_weights(tmp_path / name, Weights(TINY, params, {"note": "n"}))
    if (tmp_path / name).is_dir():
        put_folder(buckets, tmp_path / name, name)
    else:
        buckets.put("bkt", name, (tmp_path / name).read_bytes())
    loaded = load_weights(f"gs://bkt/{name}")
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_weights(buckets: Buckets, capsys: pytest.CaptureFixture[str]) -> None:
    buckets.put("bkt", "w.pth", b"<!doctype html>")
    for name, told in (("w.pth", "is a web page"), ("w.safetensors", "there is nothing")):
        assert cli.main(["info", f"gs://bkt/{name}"]) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert told in printed


def test_results_of_derain_and_score(
    buckets: Buckets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in/a.png", clean(0))
    save(tmp_path / "in/b.png", clean(1))
    monkeypatch.setattr(
        "drsformer_jax.inference.derainer.Derainer.restore_float", lambda self, image, **_: image
    )
    line = ["derain", "in", "-o", "gs://bkt/out", "--no-cache"]
    assert cli.main(line) == 0
    assert buckets.names_in("bkt") == ["out/a.png", "out/b.png"]
    assert cli.main([*line, "--skip-existing"]) == 0
    assert "2 of 2 images are there already" in caplog.text
    capsys.readouterr()
    # One that cannot be written does not stop the others.
    buckets.watch = lambda method, address: (
        403 if address.endswith("out/a.png") and method == "POST" else None
    )
    buckets.objects.clear()
    assert cli.main(line) == 1
    assert buckets.names_in("bkt") == ["out/b.png"]
    assert "gs://bkt/out/a.png: permission denied" in capsys.readouterr().err
    buckets.watch = lambda method, address: 403
    assert cli.main(line) == 2
    assert capsys.readouterr().err.startswith("drsformer: error: gs://bkt/out: permission denied")
    buckets.watch = lambda method, address: None
    score = ["score", "in", "in", "--protocol", "rain200"]
    files = ["--json=gs://bkt/s/scores.json", "--csv=gs://bkt/s/scores.csv"]
    assert cli.main([*score, *files]) == 0
    assert cli.main([*score, f"--json={tmp_path}/scores.json"]) == 0
    assert buckets.content("bkt", "s/scores.json") == (tmp_path / "scores.json").read_bytes()
    assert buckets.content("bkt", "s/scores.csv").startswith(b"name,")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "scores.json"]


def test_evaluation(buckets: Buckets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run in a bucket, on data in a bucket: the files are those on a disk."""
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    monkeypatch.setattr(
        "drsformer_jax.inference.derainer.Derainer.restore_float", lambda self, image, **_: image
    )
    rain200(tmp_path / "set")
    put_folder(buckets, tmp_path / "set", "set")
    workdir = tmp_path / "run"
    save_weights(workdir, Weights(TINY, some_params()))
    put_folder(buckets, workdir, "run")
    buckets.put("bkt", "run/evaluation/restored/stale.png", b"")
    assert (
        evaluate.run(
            ["eval.py", CONFIG, "--workdir=gs://bkt/run", "--config.data.val=gs://bkt/set/test"], ""
        )
        == 0
    )
    assert (
        evaluate.run(
            ["eval.py", CONFIG, f"--workdir={workdir}", f"--config.data.val={tmp_path}/set/test"],
            "",
        )
        == 0
    )
    here = {
        str(path.relative_to(workdir)): path
        for path in (workdir / "evaluation").rglob("*")
        if path.is_file()
    }
    assert {
        name.removeprefix("run/") for name in buckets.names_in("bkt", "run/evaluation/")
    } == here.keys()
    for name, path in here.items():
        there = buckets.content("bkt", f"run/{name}").replace(
            b"gs://bkt/run", str(workdir).encode()
        )
        assert there == path.read_bytes(), name
