"""Headless Chromium, driven by Selenium: a module that imports this skips where one is missing.

`make browser-test` installs both where there is apt; DRSFORMER_BROWSER=required makes their
absence a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reference.page import PATIENCE, Live

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def _missing() -> str:
    if not CHROMIUM or not DRIVER:
        return "Chromium and its driver are not installed: make browser-test"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "Selenium is not installed: pip install 'drsformer_jax[dev]'"
    return ""


if reason := _missing():
    if os.environ.get("DRSFORMER_BROWSER") == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402


class Browser:
    """A window, and what a test does in it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def __call__(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def until(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, PATIENCE, 0.05).until(lambda _: condition())

    def size(self, width: int, height: int, *, touch: bool = False) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch},
        )
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": touch})

    def open(self, live: Live, *photographs: Path) -> None:
        self.driver.get(live.address)
        self.until(lambda: "half" in self("#about").text)
        if photographs:
            self("#files").send_keys("\n".join(map(str, photographs)))

    def states(self) -> list[str]:
        return [item.get_attribute("class") or "" for item in self.all("#queue li")]

    def until_done(self, number: int = 1) -> None:
        self.until(lambda: self.states().count("done") == number)
        self.until(lambda: self.shown("after"))

    def shown(self, label: str) -> bool:
        """Whether a picture of that label is there, and loaded."""
        return bool(
            self.script(
                "return [...document.querySelectorAll('#compare img')]"
                ".some(i => i.alt === arguments[0] && i.complete && i.naturalWidth > 0)",
                label,
            )
        )

    def line(self) -> float:
        """Where the line lies, from 0 to 1 of the picture; the left picture ends there."""
        place, clipped = self.script(
            "const box = document.querySelector('#compare .pictures').getBoundingClientRect();"
            "const line = document.querySelector('#compare .line').getBoundingClientRect();"
            "const clip = document.querySelector('#compare img.left').style.clipPath;"
            "return [(line.left + line.width / 2 - box.left) / box.width,"
            " 1 - parseFloat(clip.split(' ')[1] ?? 0) / box.width]"
        )
        assert place == pytest.approx(clipped, abs=0.01)
        return float(place)

    def faults(self) -> list[str]:
        """What the console has, without answers that are errors by design."""
        log = self.driver.get_log("browser")
        return [one["message"] for one in log if "responded with a status" not in one["message"]]


def start_chromium(downloads: Path) -> webdriver.Chrome:
    """A browser without a window, which keeps downloads in that folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
