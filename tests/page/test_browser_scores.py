"""The page's second view in a real browser: scores image by image, the worst first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from reference.browser import Browser
from reference.page import Live, pixels, png, saved

EVALUATION = {
    "protocol": "rain200",
    "images": [
        {"name": "good", "psnr": 35.5, "ssim": 0.97, "input_psnr": 27.25, "input_ssim": 0.8},
        {"name": "same", "psnr": "inf", "ssim": 1.0, "input_psnr": 30.0, "input_ssim": 0.9},
        {"name": "bad", "psnr": 25.0, "ssim": 0.9, "input_psnr": 26.0, "input_ssim": 0.7},
    ],
}
COMPARISON = {
    "score": ["niqe"],
    "protocol": None,
    "methods": [
        {"name": "ours", "images": [{"name": "x", "niqe": 3.0}, {"name": "y", "niqe": 4.5}]},
        {"name": "other", "images": [{"name": "x", "niqe": 5.0}, {"name": "y", "niqe": 4.0}]},
    ],
}
DEMO = {
    "protocol": "rain200",
    "scores": {
        "a": {"rainy": {"psnr": 27.0, "ssim": 0.8}, "demo": {"psnr": 30.0, "ssim": 0.9}},
        "mean": {"rainy": {"psnr": 27.0, "ssim": 0.8}, "demo": {"psnr": 30.0, "ssim": 0.9}},
    },
}


def open_scores(browser: Browser, path: Path) -> list[list[str]]:
    """The table's rows after a file was opened."""
    browser("nav a[href='#scores']").click()
    browser("#scores-file").send_keys(str(path))
    browser.until(lambda: path.name in browser("#scores-message").text)
    return rows_of(browser)


def rows_of(browser: Browser) -> list[list[str]]:
    rows: list[list[str]] = browser.script(
        "return [...document.querySelectorAll('#scores-table tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.innerText))"
    )
    return rows


def test_scores_image_by_image(live: Live, browser: Browser, tmp_path: Path) -> None:
    browser.open(live)
    path = saved(tmp_path / "scores.json", json.dumps(EVALUATION).encode())
    rows = open_scores(browser, path)
    assert rows == [
        ["bad", "26.00", "25.00", "0.7000", "0.9000"],
        ["good", "27.25", "35.50", "0.8000", "0.9700"],
        ["same", "30.00", "identical", "0.9000", "1.0000"],
    ]
    assert [cell.text for cell in browser.all("#scores-table .best")] == [
        "26.00", "0.9000", "35.50", "0.9700", "identical", "1.0000"
    ]  # fmt: skip
    assert browser("#scores-table tfoot").text.split() == [
        "mean", "27.75", "identical", "0.8000", "0.9567"
    ]  # fmt: skip
    browser.all("#scores-table thead button")[0].click()
    assert [row[0] for row in rows_of(browser)] == ["bad", "good", "same"]
    browser.all("#scores-table thead button")[0].click()
    assert [row[0] for row in rows_of(browser)] == ["same", "good", "bad"]
    assert browser("[aria-sort]").get_attribute("aria-sort") == "descending"


def test_scores_of_several_methods(live: Live, browser: Browser, tmp_path: Path) -> None:
    browser.open(live)
    rows = open_scores(browser, saved(tmp_path / "c.json", json.dumps(COMPARISON).encode()))
    # Lower is better: the worst first is the highest.
    assert rows == [["x", "3.000", "5.000"], ["y", "4.500", "4.000"]]
    assert [cell.text for cell in browser.all("#scores-table .best")] == ["3.000", "4.000"]
    rows = open_scores(browser, saved(tmp_path / "demo.json", json.dumps(DEMO).encode()))
    assert rows == [["a", "27.00", "30.00", "0.8000", "0.9000"]]
    for text in (b"{", b'{"a": 1}', b"[]", b"null", b'{"methods": []}'):
        open_scores(browser, saved(tmp_path / "bad.json", text))
        assert "error" in (browser("#scores-message").get_attribute("class") or "")


def test_pictures_beside_the_scores(live: Live, browser: Browser, tmp_path: Path) -> None:
    for folder in ("evaluation/restored", "rainy"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("good", "bad"):
            saved(tmp_path / folder / f"{name}.png", png(pixels()))
    saved(tmp_path / "evaluation" / "scores.json", json.dumps(EVALUATION).encode())
    browser.open(live)
    browser("nav a[href='#scores']").click()
    browser("#scores-folder").send_keys(str(tmp_path / "evaluation"))
    browser.until(lambda: "2 of 3 images have pictures" in browser("#scores-message").text)
    browser("#scores-folder").send_keys(str(tmp_path / "rainy"))
    browser.until(lambda: len(browser.all("#scores-compare select.right option")) == 2)
    assert browser("#scores-shown").text == "bad"
    browser.all("#scores-table tbody button")[1].click()
    assert browser("#scores-shown").text == "good"
    labels = [browser(f"#scores-compare .tag.{side}").text for side in ("left", "right")]
    assert labels == ["restored", "rainy"]
