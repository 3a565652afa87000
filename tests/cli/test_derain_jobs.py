"""Which file is written for which image, and that no file of the user is lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from drsformer_jax.cli import derain_checks
from drsformer_jax.cli.derain_jobs import STANDARD, Naming, plan_jobs
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


def planned(*inputs: str, output: str, **naming: Any) -> dict[str, str]:
    jobs = plan_jobs([Path(given) for given in inputs], Path(output), Naming(**naming))
    return {str(job.source): str(job.destination) for job in jobs}


def refused(*inputs: str, output: str, **naming: Any) -> str:
    with pytest.raises(UserError) as caught:
        plan_jobs([Path(given) for given in inputs], Path(output), Naming(**naming))
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

    @pytest.mark.skipif(os.name != "posix", reason="no pipes among files")
    def test_a_pipe_in_the_way(self) -> None:
        made("in/photo.png")
        Path("out").mkdir()
        os.mkfifo("out/photo.png")
        assert "out/photo.png is a device, a pipe or" in refused("in/photo.png", output="out")

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

    def test_has_the_format_of_its_suffix_and_the_name_it_was_given(self) -> None:
        made("photo.jpg")
        for name, form in (("a.JPG", "JPEG"), ("a.tif", "TIFF"), ("a.avif", "AVIF")):
            (job,) = plan_jobs([Path("photo.jpg")], Path(name))
            assert job.form.name == form
        assert planned("photo.jpg", output="a.jpeg", ext="jpg") == {"photo.jpg": "a.jpeg"}
        for ext in ("png", "auto"):
            message = f"-o a.webp: is another format than --ext {ext}"
            assert message in refused("photo.jpg", output="a.webp", ext=ext)
        assert "--suffix _dry" in refused("photo.jpg", output="a.webp", suffix="_dry")


class TestNames:
    def test_each_image_keeps_its_kind(self) -> None:
        inputs = ("a.jpg", "a.JPEG", "a.bmp", "a.tif", "b.heic")
        for name in inputs:
            made(name)
        assert planned(*inputs, output="out", ext="auto", suffix="_dry") == {
            "a.jpg": "out/a_dry.jpg",
            "a.JPEG": "out/a_dry.JPEG",
            "a.bmp": "out/a_dry.png",
            "a.tif": "out/a_dry.tif",
            "b.heic": "out/b_dry.jpg",
        }

    def test_two_that_become_one_are_refused(self) -> None:
        made("d/a.jpg")
        made("e/a.heic")
        message = "d/a.jpg and e/a.heic to out/a.jpg"
        assert message in refused("d", "e/a.heic", output="out", ext="auto")
        made("f/a_dry.png")
        assert "overwrite an input" in refused("d", "f", output="f", suffix="_dry")

    def test_a_suffix_is_part_of_a_name(self) -> None:
        made("a.jpg")
        for suffix in ("/x", "x/", "../x"):
            assert "--suffix" in refused("a.jpg", output="out", suffix=suffix)

    def test_standard_input_has_no_kind(self) -> None:
        (job,) = plan_jobs([STANDARD], Path("out"), Naming(ext="webp", suffix="_dry"))
        assert str(job.destination) == "out/stdin_dry.webp"
        with pytest.raises(UserError, match="--ext auto: standard input has no suffix"):
            plan_jobs([STANDARD], STANDARD, Naming(ext="auto"))
        made("-")
        assert planned("-", output="out") == {"-": "out/-.png"}


class TestFoldersBelow:
    def test_structure_is_kept(self) -> None:
        for path in ("d/1.jpg", "d/b/1.jpg", "d/b/c/2.png", "d/.hidden/3.jpg", "d/b/.4.jpg"):
            made(path)
        made("other/b/5.jpg")
        linked("d/a", "d/b")  # seen after what it leads to
        linked("d/b/c/up", "d")
        linked("d/z", "other")
        assert planned("d", output="out", recursive=True) == {
            "d/1.jpg": "out/1.png",
            "d/b/1.jpg": "out/b/1.png",
            "d/b/c/2.png": "out/b/c/2.png",
            "d/z/b/5.jpg": "out/z/b/5.png",
        }
        assert planned("d", output="out") == {"d/1.jpg": "out/1.png"}

    def test_the_results_are_no_inputs(self) -> None:
        made("d/1.jpg")
        made("d/dry/1.png")
        assert planned("d", output="d/dry", recursive=True) == {"d/1.jpg": "d/dry/1.png"}
        # The folder itself may be that of the results: then all is looked at.
        assert "overwrite an input (d/dry/1.png)" in refused("d", output="d", recursive=True)

    def test_the_other_folders_are_not_told(self, caplog: pytest.LogCaptureFixture) -> None:
        made("d/b/1.jpg")
        made("d/b/notes.txt")
        planned("d", output="out", recursive=True)
        assert caplog.messages == ["d/b: 1 left out that cannot be read as images: notes.txt"]
        Path("empty/below").mkdir(parents=True)
        message = "empty: no images in this folder or below it"
        assert refused("empty", output="out", recursive=True) == message

    def test_one_that_cannot_be_listed_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made("d/b/1.jpg")
        scan = os.scandir

        def refuse(path: Any) -> Any:
            if str(path).endswith("b"):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
        message = "d/b: cannot be listed (Permission denied)"
        assert refused("d", output="out", recursive=True) == message

    @pytest.mark.parametrize("ignores", [False, True])
    def test_folders_that_differ_by_case(self, ignores: bool, monkeypatch) -> None:
        monkeypatch.setattr(derain_checks, "ignores_case", lambda folder: ignores)
        made("d/A/1.jpg")
        made("d/a/1.jpg")
        if ignores:
            assert "1 file would be" in refused("d", output="out", recursive=True)
        else:
            assert len(planned("d", output="out", recursive=True)) == 2


class TestSkipExisting:
    def test_what_is_there_is_left_alone(self, caplog: pytest.LogCaptureFixture) -> None:
        made("d/1.jpg")
        made("d/2.jpg")
        made("out/1.png")
        linked("out/2.png", "nowhere")
        assert planned("d", output="out", skip_existing=True) == {"d/2.jpg": "out/2.png"}
        assert caplog.messages == ["1 of 2 images are there already"]

    def test_results_beside_their_inputs_are_no_inputs(self) -> None:
        made("d/1.jpg")
        made("d/2.jpg")
        made("d/1_dry.png")
        again = planned("d", output="d", suffix="_dry", skip_existing=True)
        assert again == {"d/2.jpg": "d/2_dry.png"}

    def test_an_image_is_not_its_own_result(self) -> None:
        made("d/1.png")
        assert "overwrite an input" in refused("d", output="d", skip_existing=True)

    def test_a_page_that_is_missing_is_made(self) -> None:
        for name in ("d/1.jpg", "d/2.jpg", "out/1.png", "out/2.png", "out/2.png.html"):
            made(name)
        left = planned("d", output="out", skip_existing=True, pages=True)
        assert left == {"d/1.jpg": "out/1.png"}
