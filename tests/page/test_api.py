"""The API: the very pixels of `drsformer derain`, scores, limits and errors in words."""

from __future__ import annotations

import base64
import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import drsformer_jax

pytest.importorskip("starlette", reason="the extra serve is not installed")

from PIL import Image
from reference.page import Half, jpeg, make_client, pixels, png, saved
from starlette.testclient import TestClient

from drsformer_jax.cli.main import main
from drsformer_jax.data.decoding import decode_bytes, decode_image
from drsformer_jax.errors import UserError
from drsformer_jax.inference.derainer import Derainer
from drsformer_jax.page.evaluation import evaluated_sets


def tiff(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples)
    return file.getvalue()


def turned(samples: np.ndarray) -> bytes:
    """A JPEG that lies on its side, and says so."""
    file, block = io.BytesIO(), Image.Exif()
    block[0x0112] = 6
    Image.fromarray(samples).save(file, "JPEG", exif=block)
    return file.getvalue()


PICTURES = {
    "8 bits": png(pixels()),
    "16 bits": png(pixels(dtype=np.uint16)),
    "grey": png(pixels(1)),
    "16 bits, grey, alpha": png(pixels(2, np.uint16)),
    "alpha": png(pixels(4)),
    "JPEG": jpeg(pixels()),
    "JPEG, turned": turned(pixels()),
    "TIFF": tiff(pixels(dtype=np.uint16)),
}


def derain(client: TestClient, image: bytes, query: str = "", **more: Any) -> Any:
    files = {"image": ("a photo.jpg", image)} | more
    return client.post(f"/api/derain{query}", files=files)


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("tile", [None, 8])
def test_the_file_is_that_of_the_command_line(
    kind: str, tile: int | None, tmp_path: Path, half: Half, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Derainer, "load", staticmethod(lambda weights, devices: half))
    source = saved(tmp_path / "photo", PICTURES[kind])
    tiling = ["--tile", str(tile), "--overlap", "0"] if tile else []
    command = ["derain", str(source), "-o", str(tmp_path / "out.png"), "--no-metadata"]
    assert main([*command, *tiling]) == 0
    answer = derain(make_client(half, tile=tile, overlap=0), PICTURES[kind])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == (tmp_path / "out.png").read_bytes()
    restored, rainy = (
        decode_bytes(data, "").samples.astype(int) for data in (answer.content, PICTURES[kind])
    )
    assert (restored != rainy).any()


def test_the_result_is_told_in_a_header(client: TestClient) -> None:
    answer = derain(client, PICTURES["8 bits"])
    result = json.loads(answer.headers["x-result"])
    assert result.pop("seconds") >= 0
    assert result == {"name": "a photo.jpg", "width": 21, "height": 13, "notes": []}


def test_as_json(client: TestClient) -> None:
    answer = derain(client, PICTURES["8 bits"], "?format=json")
    document = answer.json()
    assert base64.b64decode(document.pop("png")) == derain(client, PICTURES["8 bits"]).content
    assert {"name", "width", "height", "seconds", "notes"} == document.keys()


@pytest.mark.parametrize("protocol", ["rain200", "did_ddn", "basicsr"])
def test_scores_are_those_of_the_command_line(
    protocol: str, tmp_path: Path, client: TestClient
) -> None:
    rainy, target = png(pixels(size=(40, 30))), png(pixels(size=(40, 30)) // 2 + 3)
    answer = derain(client, rainy, f"?protocol={protocol}", target=("t.png", target))
    result = json.loads(answer.headers["x-result"])
    saved(tmp_path / "target.png", target)
    assert result["protocol"] == protocol
    for prefix, data in (("input_", rainy), ("", answer.content)):
        saved(tmp_path / "picture.png", data)
        arguments = [str(tmp_path / "picture.png"), str(tmp_path / "target.png")]
        report = tmp_path / "report.json"
        assert main(["score", *arguments, "--protocol", protocol, "--json", str(report)]) == 0
        (image,) = json.loads(report.read_text())["images"]
        for metric in ("psnr", "ssim"):
            assert result[prefix + metric] == image[metric]


def test_an_infinite_score_is_a_word(client: TestClient) -> None:
    rainy = png(pixels())
    answer = derain(client, rainy, target=("t.png", derain(client, rainy).content))
    result = json.loads(answer.headers["x-result"])
    assert result["psnr"] == "inf"
    assert result["ssim"] == 1


def test_a_target_of_another_size_is_told_before_the_work(client: TestClient, half: Half) -> None:
    answer = derain(client, png(pixels()), target=("t.png", png(pixels(size=(20, 20)))))
    assert answer.status_code == 422
    assert "21 x 13 pixels, its target 20 x 20" in answer.json()["error"]
    assert half.most == 0


def test_what_is_no_image(client: TestClient) -> None:
    answer = derain(client, b"hello")
    assert answer.status_code == 422
    assert answer.json() == {"error": "a photo.jpg: not an image in a known format"}


def test_names_are_words_and_nothing_else(client: TestClient, tmp_path: Path) -> None:
    secret = saved(tmp_path / "secret.png", png(pixels()))
    for name in (str(secret), "../../etc/passwd", "..\\x", "a\nb\x1b[2J", "x" * 500):
        files = {"image": (name, b"hello")}
        answer = client.post("/api/derain", files=files)
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert error.isprintable()
        assert "/" not in error
        assert error.endswith("not an image in a known format")


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"files": {"photo": b"x"}}, 400, "'image'"),
        ({"files": {"image": b"x", "more": b"y"}}, 400, "'target'"),
        ({"files": {"image": b"x", "target": b"y", "a": b"z"}}, 400, "Too many files"),
        ({"data": {"image": "/etc/passwd"}, "files": {"target": b"x"}}, 400, "Too many fields"),
        ({"json": {"image": "/etc/passwd"}}, 415, "multipart/form-data"),
        ({"content": b"x"}, 415, "multipart/form-data"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        (
            {
                "content": b"--other\r\n",
                "headers": {"Content-Type": "multipart/form-data; boundary=b"},
            },
            400,
            "cannot be read",
        ),
        ({"files": {"image": b"x"}, "params": {"protocol": "ssim"}}, 400, "rain200"),
        ({"files": {"image": b"x"}, "params": {"format": "gif"}}, 400, "png or json"),
        ({"files": {"image": b"x"}, "headers": {"X-Job": "../x"}}, 400, "X-Job"),
    ],
)
def test_other_forms_are_refused(
    request_: dict[str, Any], status: int, words: str, client: TestClient
) -> None:
    answer = client.post("/api/derain", **request_)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_an_upload_that_says_it_is_too_large(client: TestClient) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": "1000001"}
    answer = client.post("/api/derain", content=iter([b"--b--"]), headers=headers)
    assert answer.status_code == 413
    assert "at most 1 MB" in answer.json()["error"]


def test_an_upload_that_does_not_say_how_large_it_is_is_cut_off(half: Half) -> None:
    client = make_client(half, max_bytes=5000)
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post("/api/derain", content=iter([head, *[bytes(1000)] * 9]), headers=headers)
    assert "content-length" not in answer.request.headers
    assert answer.status_code == 413


@pytest.mark.parametrize("field", ["image", "target"])
@pytest.mark.parametrize("make", [png, tiff])
def test_too_many_pixels_are_refused_before_they_are_decoded(
    make: Any, field: str, half: Half
) -> None:
    files = {"image": png(pixels()), "target": png(pixels())}
    files[field] = make(np.zeros((20, 20, 3), np.uint8))
    answer = make_client(half, max_pixels=399).post("/api/derain", files=files)
    assert answer.status_code == 422
    assert "20 x 20 pixels are more than the 399 allowed" in answer.json()["error"]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError("no memory for 9 x 9"), 413, "no memory for 9 x 9"),
        (FloatingPointError("not finite"), 500, "not finite"),
        (RuntimeError("a bug"), 500, "a fault of this program"),
    ],
)
def test_what_fails_inside(
    error: Exception, status: int, words: str, half: Half, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(half, "_restore_tile", fail)
    answer = derain(make_client(half), png(pixels()))
    assert answer.status_code == status
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/derain", 405), ("DELETE", "/", 405), ("PUT", "/api/info", 405),
     ("TRACE", "/", 405), ("POST", "/page.js", 405), ("GET", "/api/nothing", 404),
     ("GET", "/server.py", 404), ("GET", "/..%2Fserver.py", 404), ("GET", "/%2e%2e/x", 404),
     ("GET", "/static/page.js", 404), ("GET", "/api/evaluation/0/0", 404)],
)  # fmt: skip
def test_other_addresses_and_methods(
    method: str, path: str, status: int, client: TestClient
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_the_files_of_the_page(client: TestClient) -> None:
    home = client.get("/")
    assert home.headers["content-type"].startswith("text/html")
    for name, kind in (("page.js", "javascript"), ("page.css", "css"), ("icon.svg", "svg")):
        assert f'"{name}"' in home.text
        assert kind in client.get(f"/{name}").headers["content-type"]
    # Neither of which the policy lets in.
    assert "style=" not in home.text
    assert "onclick" not in home.text


def test_info(client: TestClient, half: Half) -> None:
    assert client.get("/api/info").json() == {
        "version": drsformer_jax.__version__,
        "weights": "half",
        "network": half.config.summary(),
        "protocols": ["rain200", "did_ddn", "basicsr"],
        "max_bytes": 1_000_000,
        "max_pixels": 100_000,
        "evaluation": False,
    }


def test_the_preview_is_the_photograph_itself(client: TestClient, half: Half) -> None:
    samples = pixels(dtype=np.uint16)
    answer = client.post("/api/preview", files={"image": tiff(samples)})
    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(decode_bytes(answer.content, "").samples, samples)
    assert half.most == 0
    assert client.post("/api/preview", files={"image": b"x"}).status_code == 422


def test_one_forward_at_a_time_and_the_place_in_the_queue(client: TestClient, half: Half) -> None:
    half.gate.clear()
    statuses: dict[str, int] = {}

    def ask(name: str) -> None:
        answer = client.post("/api/derain", files={"image": png(pixels())}, headers={"X-Job": name})
        statuses[name] = answer.status_code

    def told(name: str) -> dict[str, Any]:
        document: dict[str, Any] = client.get(f"/api/jobs/{name}").json()
        return document

    threads = []
    for number in range(3):
        name = f"job-number-{number}"
        assert told(name) == {"state": "unknown"}
        threads.append(threading.Thread(target=ask, args=[name]))
        threads[-1].start()
        while told(name)["state"] == "unknown":
            pass
    assert half.begun.acquire(timeout=10)
    assert told("job-number-0") == {"state": "working", "ahead": 0, "tile": 1, "tiles": 1}
    assert told("job-number-2") == {"state": "waiting", "ahead": 2, "tile": 0, "tiles": 0}
    again = client.post(
        "/api/derain", files={"image": png(pixels())}, headers={"X-Job": "job-number-1"}
    )
    assert again.status_code == 409
    half.gate.set()
    for thread in threads:
        thread.join()
    assert set(statuses.values()) == {200}
    assert half.most == 1


def test_a_queue_that_is_full_refuses(half: Half, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drsformer_jax.page.server.CAPACITY", 0)
    answer = derain(make_client(half), png(pixels()))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")


def evaluation(folder: Path, *names: str) -> Path:
    (folder / "restored").mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps({"images": [{"name": n} for n in names]}))
    for name in names:
        saved(folder / "restored" / f"{name}.png", png(pixels()))
    return folder


@pytest.mark.parametrize("text", ["", "[" * 100_000])
def test_damaged_scores_are_told(text: str, tmp_path: Path) -> None:
    (one,) = evaluated_sets(evaluation(tmp_path / "evaluation"))
    one.scores.write_text(text)
    with pytest.raises(UserError, match=r"scores\.json of evaluation: cannot be read"):
        one.document()


def test_an_evaluation_is_shown_by_numbers(tmp_path: Path, half: Half) -> None:
    folder = evaluation(tmp_path / "evaluation", "b", "a")
    evaluation(folder / "other", "c")
    client = make_client(half, evaluation=evaluated_sets(folder))
    assert client.get("/api/info").json()["evaluation"] is True
    sets = client.get("/api/evaluation").json()["sets"]
    assert [(one["name"], one["pictures"]) for one in sets] == [
        ("evaluation", ["a", "b"]), ("other", ["c"])
    ]  # fmt: skip
    assert [image["name"] for image in sets[0]["scores"]["images"]] == ["b", "a"]
    answer = client.get("/api/evaluation/1/0")
    assert answer.content == (folder / "other" / "restored" / "c.png").read_bytes()
    for path in ("0/2", "2/0", "0/-1", "-1/0", "0/%2e%2e", "0/a.png", "0/99999999999999999999"):
        assert client.get(f"/api/evaluation/{path}").status_code == 404, path
    decoded = decode_image(folder / "other" / "restored" / "c.png").samples
    with Image.open(io.BytesIO(answer.content)) as image:
        np.testing.assert_array_equal(np.asarray(image), decoded)
    # What is gone or damaged is told in words.
    (folder / "other" / "restored" / "c.png").unlink()
    assert "no longer" in client.get("/api/evaluation/1/0").json()["error"]
    (folder / "scores.json").write_text("{")
    broken = client.get("/api/evaluation")
    assert broken.status_code == 422
    assert "scores.json of evaluation" in broken.json()["error"]
