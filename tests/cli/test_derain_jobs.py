"""Which file is written for which image, and that no file of the user is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drsformer_jax.cli import derain_checks
from drsformer_jax.cli.derain_jobs import plan_jobs
from drsformer_jax.errors import UserError


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(path: str) -> Path:
    """A file of its own content: planning does not decode."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(path)
    return file


def linked(path: str, target: str) -> Path:
    """A link to a path that is named from here."""
    link = Path(path)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))
    return link


def planned(*inputs: str, output: str) -> dict[str, str]:
    jobs = plan_jobs([Path(given) for given in inputs], Path(output))
    return {str(job.source): str(job.destination) for job in jobs}


def refused(*inputs: str, output: str) -> str:
    with pytest.raises(UserError) as caught:
        plan_jobs([Path(given) for given in inputs], Path(output))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestNothingIsOverwritten:
    def test_beside_the_place_where_the_input_was_named(self) -> None:
        made("store/blob")
        made("d/photo.png")
        linked("d/photo.jpg", "store/blob")
        assert "d/photo.png exists beside its input" in refused("d/photo.jpg", output="d")

    def test_beside_the_place_where_the_input_lies(self) -> None:
        made("store/photo.jpg")
        made("store/a.png")
        linked("d/a.jpg", "store/photo.jpg")
        assert "store/a.png exists beside" in refused("d/a.jpg", output="store")

    def test_beside_a_link_on_the_way(self) -> None:
        made("store/blob")
        made("half/a.png")
        linked("half/blob", "store/blob")
        linked("d/a.jpg", "half/blob")
        assert "half/a.png exists beside" in refused("d/a.jpg", output="half")

    @pytest.mark.parametrize("source", ["d/a.jpg", "link/a.jpg", "link", "link/../d/a.jpg"])
    @pytest.mark.parametrize("output", ["d", "link", "link/.", "d/a.png", "link/a.png"])
    def test_through_linked_folders(self, source: str, output: str) -> None:
        made("d/a.jpg")
        # To nothing, or the folder would hold two images of one name.
        linked("d/a.png", "not_fetched")
        linked("link", "d")
        assert "a.png exists beside its input" in refused(source, output=output)

    def test_beside_another_input(self) -> None:
        made("a/1.jpg")
        made("b/2.jpg")
        made("b/1.png")
        assert "b/1.png exists beside its input b/2.jpg" in refused(
            "a/1.jpg", "b/2.jpg", output="b"
        )

    def test_beside_the_second_name_of_an_input(self) -> None:
        made("store/blob")
        for folder in ("a", "b"):
            linked(f"{folder}/photo.jpg", "store/blob")
        made("b/photo.png")
        inputs = ("a/photo.jpg", "b/photo.jpg")
        assert "b/photo.png exists beside its input b/photo.jpg" in refused(*inputs, output="b")

    def test_a_link_to_nothing_is_the_users_too(self) -> None:
        made("d/a.jpg")
        linked("d/a.png", "not_fetched")
        assert "d/a.png exists beside" in refused("d/a.jpg", output="d")

    @pytest.mark.parametrize("hard", [False, True])
    def test_an_input_under_another_name(self, hard: bool) -> None:
        made("in/photo.png")
        Path("out").mkdir()
        if hard:
            Path("out/photo.png").hardlink_to("in/photo.png")
        else:
            linked("out/photo.png", "in/photo.png")
        assert "would overwrite an input (in/photo.png)" in refused("in/photo.png", output="out")
        assert "would overwrite" in refused("in/photo.png", output="out/photo.png")

    def test_the_link_that_names_the_input(self) -> None:
        made("store/blob")
        linked("d/photo.png", "store/blob")
        assert "would overwrite an input" in refused("d/photo.png", output="d")

    def test_all_are_named(self) -> None:
        for name in "abc":
            made(f"d/{name}.jpg")
            made(f"d/{name}.png")
        message = refused("d/a.jpg", "d/b.jpg", "d/c.jpg", output="d")
        assert all(f"d/{name}.png exists" in message for name in "abc")

    def test_earlier_results_are_replaced(self) -> None:
        made("in/photo.jpg")
        made("out/photo.png")
        assert planned("in", output="out") == {"in/photo.jpg": "out/photo.png"}
        assert planned("in", output="out/photo.png") == {"in/photo.jpg": "out/photo.png"}


class TestEveryImageIsAJob:
    def test_two_links_to_one_file(self) -> None:
        made("store/blob")
        linked("s/001.png", "store/blob")
        linked("s/002.png", "store/blob")
        expected = {"s/001.png": "out/001.png", "s/002.png": "out/002.png"}
        assert planned("s", output="out") == expected
        assert planned("s/001.png", "s/002.png", output="out") == expected

    def test_one_file_given_twice(self) -> None:
        made("s/a.png")
        linked("link", "s")
        again = ("s/a.png", "s", "./s/a.png", "link/a.png", str(Path("s/a.png").absolute()))
        assert planned(*again, output="out") == {"s/a.png": "out/a.png"}


class TestClashes:
    def test_all_are_named_with_a_way_on(self) -> None:
        for name in "123":
            made(f"c/{name}.jpg")
            made(f"c/{name}.png")
        message = refused("c", output="out")
        assert message.startswith("3 files would be written more than once: ")
        for name in "123":
            assert f"c/{name}.jpg and c/{name}.png to out/{name}.png" in message
        assert "each with an -o folder of its own" in message
        assert not Path("out").exists()

    def test_two_cameras(self) -> None:
        for number in range(30):
            made(f"card1/DSC{number:02}.jpg")
            made(f"card2/DSC{number:02}.jpg")
        message = refused("card1", "card2", output="out")
        assert message.startswith("30 files")
        assert "card1/DSC00.jpg and card2/DSC00.jpg" in message
        assert "; and 10 more" in message

    @pytest.mark.parametrize("ignores", [False, True])
    def test_names_that_differ_by_case(self, ignores: bool, monkeypatch) -> None:
        monkeypatch.setattr(derain_checks, "ignores_case", lambda folder: ignores)
        made("a/IMG.jpg")
        made("b/img.jpg")
        if ignores:
            assert "a/IMG.jpg and b/img.jpg" in refused("a", "b", output="out/below")
        else:
            assert len(planned("a", "b", output="out/below")) == 2


class TestOneFile:
    @pytest.mark.parametrize("output", ["result.png", "sub/Result.PNG"])
    def test_is_written_for_one_image(self, output: str) -> None:
        made("photo.jpg")
        assert planned("photo.jpg", output=output) == {"photo.jpg": output}

    def test_is_not_for_several(self) -> None:
        made("s/a.jpg")
        made("s/b.jpg")
        message = "-o result.png: is one file, for 2 images: name a folder"
        assert refused("s", output="result.png") == message
        linked("c.jpg", "s/a.jpg")
        assert refused("s/a.jpg", "c.jpg", output="result.png") == message

    def test_a_folder_is_a_folder_whatever_its_name(self) -> None:
        made("photo.jpg")
        Path("result.png").mkdir()
        Path("results.v2").mkdir()
        assert planned("photo.jpg", output="result.png") == {"photo.jpg": "result.png/photo.png"}
        for output in ("results.v2", "results.v3"):
            assert planned("photo.jpg", output=output) == {"photo.jpg": f"{output}/photo.png"}

    def test_is_of_a_kind_that_is_written(self) -> None:
        made("photo.jpg")
        message = "-o result.GIF: derain writes png, jpg, webp, avif, tiff: name such a file"
        assert message in refused("photo.jpg", output="result.GIF")
        assert "photo.jpg would overwrite an input" in refused("photo.jpg", output="photo.jpg")
