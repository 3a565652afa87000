"""What methods are called, and that they cover the same images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from drsformer_jax.data.pairing import NamedPair
from drsformer_jax.errors import UserError
from drsformer_jax.evaluation.comparison import Method
from drsformer_jax.evaluation.methods import (
    named_methods,
    pair_folders,
    paired_with_targets,
    without_targets,
)


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (2, 2)).save(path / name)
    return path


def names_of(*paths: object) -> list[str]:
    return [method.name for method in named_methods([str(path) for path in paths])]


def test_a_method_is_called_like_its_folder(tmp_path: Path) -> None:
    folder_of(tmp_path / "mprnet")
    folder_of(tmp_path / "drs.v2")
    assert names_of(tmp_path / "mprnet", tmp_path / "drs.v2") == ["mprnet", "drs.v2"]
    assert names_of(f"{tmp_path / 'mprnet'}/") == ["mprnet"]


def test_a_folder_is_called_by_its_name_from_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder_of(tmp_path / "mine"))
    assert names_of(".") == ["mine"]


def test_names_that_agree_are_told_apart_by_the_folders_above(tmp_path: Path) -> None:
    paths = [tmp_path / end for end in ("a/x/out", "b/x/out", "c/out", "other")]
    for path in paths:
        folder_of(path)
    assert names_of(*paths) == ["a/x/out", "b/x/out", "c/out", "other"]
    assert names_of(paths[0], paths[0], paths[2]) == ["out (1)", "out (2)", "c/out"]
    # A chosen name is nobody else's.
    assert names_of(f"out={paths[3]}", paths[2]) == ["out", "c/out"]


def test_chosen_names(tmp_path: Path) -> None:
    results = folder_of(tmp_path / "results")
    assert named_methods([f"ours={results}", str(results)]) == [
        Method("ours", results),
        Method("results", results),
    ]
    equals = folder_of(tmp_path / "lr=3e-4")
    assert names_of(equals) == ["lr=3e-4"]
    assert names_of(f"best={equals}") == ["best"]


def test_names_that_cannot_be(tmp_path: Path) -> None:
    results = folder_of(tmp_path / "results")
    for arguments, complaint in [
        ([f"={results}"], "a name is missing before '='"),
        (["ours="], "ours=: a folder is missing behind '='"),
        ([f"a={results}", f"a={results}"], "a: more than one method has this name"),
        ([f"ours={tmp_path / 'nowhere'}"], "nowhere: no such file or folder"),
        ([str(tmp_path / "nowhere")], "nowhere: no such file or folder"),
    ]:
        with pytest.raises(UserError, match=complaint):
            named_methods(arguments)


def test_all_methods_have_the_same_images_in_the_same_order(tmp_path: Path) -> None:
    targets = folder_of(tmp_path / "targets", "1.png", "2.png", "10.png")
    methods = [
        Method("a", folder_of(tmp_path / "a", "10.png", "2.png", "1.png")),
        Method("b", folder_of(tmp_path / "b", "1.bmp", "2.jpg", "10.png")),
    ]
    a, b = paired_with_targets(methods, targets)
    assert [pair.name for pair in a] == [pair.name for pair in b]
    assert [pair.target for pair in a] == [pair.target for pair in b]
    assert all(pair.input.stem == pair.target.stem for pair in [*a, *b])
    assert {pair.input.parent.name for pair in b} == {"b"}

    a, b = without_targets(methods)
    assert [pair.name for pair in a] == [pair.input.stem for pair in a]
    assert [pair.target for pair in b] == [pair.input for pair in a]
    assert [pair.input.stem for pair in b] == [pair.name for pair in a]


def test_images_that_a_method_lacks_are_named_for_all_methods(tmp_path: Path) -> None:
    targets = folder_of(tmp_path / "targets", "1.png", "2.png")
    methods = [
        Method("a", folder_of(tmp_path / "a", "1.png")),
        Method("b", folder_of(tmp_path / "b", "2.png")),
        Method("c", folder_of(tmp_path / "c", "1.png", "2.png")),
    ]
    with pytest.raises(UserError) as caught:
        paired_with_targets(methods, targets)
    message = str(caught.value)
    assert f"{methods[0].path} has no partner for 2" in message
    assert f"{methods[1].path} has no partner for 1" in message
    assert "c has" not in message
    assert "\n" not in message
    with pytest.raises(UserError, match=r"b has no partner for 1 and .*a has no partner for 2"):
        without_targets(methods)


def test_a_pairing_that_leaves_images_out_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However names are paired: a mean over other images is not compared."""
    targets = folder_of(tmp_path / "targets", "1.png", "2.png")
    methods = [Method(name, folder_of(tmp_path / name)) for name in ("a", "b")]

    def some(results: Path, targets: Path) -> list[NamedPair]:
        names = ["1", "2"] if results.name == "a" else ["2"]
        return [NamedPair(name, results / name, targets / f"{name}.png") for name in names]

    monkeypatch.setattr("drsformer_jax.evaluation.methods.pair_folders", some)
    with pytest.raises(UserError, match="b: 1 missing, which other methods have"):
        paired_with_targets(methods, targets)


def test_several_images_of_one_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in DID-Data: then the name tells which is which."""
    targets = folder_of(tmp_path / "targets", "1.png")
    methods = [Method(name, folder_of(tmp_path / name)) for name in ("a", "b")]

    def several(results: Path, targets: Path) -> list[NamedPair]:
        order = "xy" if results.name == "a" else "yx"
        return [NamedPair(f"1_{c}", results / f"1_{c}.png", targets / "1.png") for c in order]

    monkeypatch.setattr("drsformer_jax.evaluation.methods.pair_folders", several)
    for pairs in paired_with_targets(methods, targets):
        assert [pair.input.name for pair in pairs] == ["1_x.png", "1_y.png"]


def test_files_and_folders_do_not_mix(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "folder", "1.png")
    file = folder / "1.png"
    for methods, targets in [((folder, folder), file), ((file, folder), folder)]:
        with pytest.raises(UserError, match=r"all folders or all images, but .*folder is a folder"):
            paired_with_targets([Method("m", path) for path in methods], targets)
    with pytest.raises(UserError, match="RESULTS must be all folders or all images"):
        without_targets([Method("a", folder), Method("b", file)])
    pairs = paired_with_targets([Method("a", file), Method("b", file)], file)
    assert [[pair.name for pair in own] for own in pairs] == [["1"], ["1"]]


def test_one_folder_without_targets(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", "1.png", "2.png")
    assert [pair.name for pair in without_targets([Method("a", folder)])[0]] == ["1", "2"]
    Image.new("RGB", (2, 2)).save(folder / "1.bmp")
    names = [pair.name for pair in without_targets([Method("a", folder)])[0]]
    assert names == ["1.bmp", "1.png", "2.png"]
    with pytest.raises(UserError, match="empty: no images in this folder"):
        without_targets([Method("b", folder_of(tmp_path / "empty"))])


def test_pairs_by_name_whatever_the_suffix(tmp_path: Path) -> None:
    results = folder_of(tmp_path / "results", "b.png", "a.png", "c.1.png")
    targets = folder_of(tmp_path / "targets", "c.1.bmp", "a.jpg", "b.png")
    (results / "scores.txt").write_text("not an image")
    pairs = pair_folders(results, targets)
    assert [(pair.name, pair.input.name, pair.target.name) for pair in pairs] == [
        ("a", "a.png", "a.jpg"),
        ("b", "b.png", "b.png"),
        ("c.1", "c.1.png", "c.1.bmp"),
    ]
    assert all(p.input.parent == results and p.target.parent == targets for p in pairs)


def test_all_missing_partners_are_named_at_once(tmp_path: Path) -> None:
    results = folder_of(tmp_path / "results", "1.png", "2.png", "3.png")
    targets = folder_of(tmp_path / "targets", "3.png", "4.png", "5.png", "6.png")
    with pytest.raises(UserError) as caught:
        pair_folders(results, targets)
    message = str(caught.value)
    assert f"{results} has no partner for 4, 5, 6" in message
    assert f"{targets} has no partner for 1, 2" in message
    assert "\n" not in message


def test_a_name_twice(tmp_path: Path) -> None:
    results = folder_of(tmp_path / "results", "1.png", "1.jpg")
    targets = folder_of(tmp_path / "targets", "1.png")
    with pytest.raises(UserError, match=r"results/1\.png: 1\.jpg has the same name"):
        pair_folders(results, targets)


def test_no_folder_and_empty_folder(tmp_path: Path) -> None:
    targets = folder_of(tmp_path / "targets", "1.png")
    with pytest.raises(UserError, match="nowhere"):
        pair_folders(tmp_path / "nowhere", targets)
    with pytest.raises(UserError, match="empty: no images in this folder"):
        pair_folders(folder_of(tmp_path / "empty"), targets)


def test_schemes_of_the_data_sets(tmp_path: Path) -> None:
    results = folder_of(tmp_path / "results", "9_1.png", "9_2.png", "10_1.png")
    targets = folder_of(tmp_path / "targets", "9.jpg", "10.jpg")
    pairs = pair_folders(results, targets)
    assert [(p.name, p.target.name) for p in pairs] == [
        ("10_1", "10.jpg"), ("9_1", "9.jpg"), ("9_2", "9.jpg"),
    ]  # fmt: skip
