"""The page of one photograph before and after, in a real browser and from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from reference.browser import Browser
from reference.page import pixels
from selenium.webdriver.common.keys import Keys

from drsformer_jax.data.decoding import Decoded
from drsformer_jax.page.before_after import write_comparison


def test_the_line_moves_in_a_file_by_itself(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "a & b.html"
    write_comparison(
        page, "a & b.jpg", Decoded(pixels(size=(90, 160))), Decoded(pixels(size=(90, 160)))
    )
    browser.driver.get(page.as_uri())
    browser.until(lambda: browser.shown("before") and browser.shown("after"))
    assert browser("h1").text == "a & b.jpg"
    assert browser.line() == pytest.approx(0.5, abs=0.01)
    browser("input[type=range]").send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 20)
    assert browser.line() == pytest.approx(0.1, abs=0.01)
    browser.size(360, 740, touch=True)
    assert browser.script("return document.documentElement.scrollWidth") <= 360
