"""The page in a real browser: headless Chromium, driven by Selenium.

`make browser-test` installs both where there is apt; DRSFORMER_BROWSER=required makes their
absence a failure.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from reference.page import PATIENCE, Half, Live, jpeg, make_client, pixels, png, saved

from drsformer_jax.data.decoding import decode_bytes
from drsformer_jax.inference.derainer import Derainer

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
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
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


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    folder = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    service = webdriver.ChromeService(str(DRIVER))
    started = webdriver.Chrome(options=options, service=service)
    started.downloads = folder  # type: ignore[attr-defined]
    yield started
    started.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome) -> Iterator[Browser]:
    window = Browser(driver)
    window.size(1280, 860)
    yield window
    assert window.faults() == []
    while len(driver.window_handles) > 1:
        driver.close()
        driver.switch_to.window(driver.window_handles[0])
    driver.get("about:blank")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return saved(tmp_path / "rainy day.jpg", jpeg(pixels(size=(120, 160))))


def downloaded(browser: Browser, name: str) -> bytes:
    path = browser.driver.downloads / name
    browser.until(path.is_file)
    data = path.read_bytes()
    path.unlink()
    return bytes(data)


def test_from_the_file_to_the_download(
    live: Live, half: Half, browser: Browser, photo: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from drsformer_jax.cli.main import main

    browser.open(live, photo)
    browser.until_done()
    assert "160 × 120" in browser("#queue .status").text
    assert browser.shown("before")
    browser("#download").click()
    monkeypatch.setattr(Derainer, "load", staticmethod(lambda weights, devices: half))
    assert main(["derain", str(photo), "-o", str(tmp_path / "out")]) == 0
    assert downloaded(browser, "rainy day.png") == (tmp_path / "out/rainy day.png").read_bytes()
    # Nothing was asked of anybody else.
    asked = browser.script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert len(asked) > 5
    assert all(name.startswith((live.address, f"blob:{live.address}")) for name in asked)


def test_the_line_by_mouse_and_by_keyboard(live: Live, browser: Browser, photo: Path) -> None:
    browser.open(live, photo)
    browser.until_done()
    assert browser.line() == pytest.approx(0.5, abs=0.01)
    # On the picture itself: where the mouse goes, the line goes.
    box = browser("#compare .pictures")
    quarter = box.size["width"] // 4
    ActionChains(browser.driver).move_to_element(browser("#compare .line span")).click_and_hold(
    ).move_by_offset(-quarter, 0).release().perform()  # fmt: skip
    assert browser.line() == pytest.approx(0.25, abs=0.02)
    ActionChains(browser.driver).move_to_element_with_offset(box, quarter, -60).click().perform()
    assert browser.line() == pytest.approx(0.75, abs=0.02)
    # And it stays there when the button is up.
    ActionChains(browser.driver).move_by_offset(-quarter, 0).perform()
    assert browser.line() == pytest.approx(0.75, abs=0.02)
    slider = browser("#compare input[type=range]")
    assert slider.get_attribute("aria-label") == "Line between before and after"
    slider.send_keys(Keys.HOME)
    assert browser.line() == pytest.approx(0, abs=0.01)
    slider.send_keys(Keys.END)
    assert browser.line() == pytest.approx(1, abs=0.01)
    slider.send_keys(*[Keys.ARROW_LEFT] * 20)
    assert browser.line() == pytest.approx(0.9, abs=0.01)
    assert slider.get_attribute("aria-valuetext") == "90 % from the left"


def test_all_by_the_keyboard(live: Live, browser: Browser, photo: Path) -> None:
    """What can be clicked can be reached with the tabulator, and is called something."""
    browser.open(live, photo)
    browser.until_done()
    reached = set()
    for _ in range(30):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        focused = "const e = document.activeElement; return e.id || e.className"
        reached.add(browser.script(focused))
    named = {"files", "split", "in", "out", "fit", "download", "target", "show", "remove"}
    assert named <= reached
    unnamed = browser.script(
        "return [...document.querySelectorAll('button, a, input, select')]"
        ".filter(e => e.checkVisibility())"
        ".filter(e => !(e.ariaLabel || e.innerText || e.labels?.[0]?.innerText))"
        ".map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_zoom(live: Live, browser: Browser, photo: Path) -> None:
    browser.open(live, photo)
    browser.until_done()
    assert browser("#compare output").text == "200 %"
    browser("#compare .in").click()
    browser("#compare .in").click()
    assert browser("#compare output").text == "800 %"
    assert browser.script("return document.querySelector('#compare .pictures').clientWidth") == 1280
    # The middle stays in the middle, and the line in the middle of what is seen.
    view = browser("#compare .scroll")
    middle = browser.script("return (arguments[0].scrollLeft + arguments[0].clientWidth / 2)", view)
    assert middle == pytest.approx(640, abs=2)
    assert browser.line() == pytest.approx(0.5, abs=0.01)
    # The mouse moves the picture now, and the handle the line.
    ActionChains(browser.driver).move_to_element_with_offset(view, -200, 50).click_and_hold(
    ).move_by_offset(-100, 0).release().perform()  # fmt: skip
    moved = browser.script("return arguments[0].scrollLeft + arguments[0].clientWidth / 2", view)
    assert moved == pytest.approx(740, abs=2)
    browser("#compare .fit").click()
    assert browser("#compare output").text == "200 %"


def test_several_photographs_and_a_zip(live: Live, browser: Browser, tmp_path: Path) -> None:
    files = []
    for number, name in enumerate(("a.png", "b.jpg", "a.jpg")):
        make = png if name.endswith("png") else jpeg
        image = make(pixels(size=(20 + number, 30)))
        files.append(saved(tmp_path / name, image))
    browser.open(live, *files)
    browser.until_done(3)
    assert browser("#count").text == "3 of 3 done"
    browser("#zip").click()
    with zipfile.ZipFile(saved(tmp_path / "all.zip", downloaded(browser, "derained.zip"))) as all_:
        assert all_.testzip() is None
        assert all_.namelist() == ["a.png", "b.png", "a-2.png"]
        sizes = [decode_bytes(all_.read(name), "").samples.shape for name in all_.namelist()]
    assert sizes == [(20, 30, 3), (21, 30, 3), (22, 30, 3)]
    browser.all("#queue .show")[1].click()
    assert browser("#shown").text == "b.jpg"
    browser.all("#queue .remove")[1].click()
    assert [name.text for name in browser.all("#queue .name")] == ["a.png", "a.jpg"]


@pytest.mark.parametrize(
    "event",
    [
        "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})",
        "new ClipboardEvent('paste', {clipboardData: data, bubbles: true})",
    ],
    ids=["drop", "paste"],
)
def test_dropped_and_pasted(event: str, live: Live, browser: Browser) -> None:
    browser.open(live)
    browser.script(
        "const data = new DataTransfer();"
        "data.items.add(new File([new Uint8Array(arguments[0])], 'given.png'));"
        f"document.body.dispatchEvent({event});",
        list(png(pixels())),
    )
    browser.until_done()
    assert browser("#shown").text == "given.png"


def test_files_that_cannot_be_restored(live: Live, browser: Browser, tmp_path: Path) -> None:
    browser.open(
        live,
        saved(tmp_path / "text.jpg", b"hello"),
        saved(tmp_path / "empty.png", b""),
        saved(tmp_path / "large.png", bytes(1_100_000)),
        saved(tmp_path / "many.png", png(np.zeros((400, 400, 3), np.uint8))),
        saved(tmp_path / "good.png", png(pixels())),
    )
    browser.until(lambda: browser.states() == ["failed"] * 4 + ["done"])
    told = [status.text for status in browser.all("#queue .status")]
    assert told[0] == "not an image in a known format"
    assert "empty" in told[1]
    assert "1 MB are more than the 1 allowed" in told[2]
    assert "400 x 400 pixels are more than the 100,000 allowed" in told[3]
    assert "good.png" in browser.script("return document.getElementById('news').textContent")


def test_a_program_that_has_ended_is_told(live: Live, browser: Browser, photo: Path) -> None:
    browser.open(live)
    live.server.should_exit = True
    browser.until(lambda: not browser.script("return fetch('api/info').then(() => 1, () => 0)"))
    browser("#files").send_keys(str(photo))
    browser.until(lambda: browser.states() == ["failed"])
    assert "is drsformer serve still running?" in browser("#queue .status").text
    browser.driver.get_log("browser")  # connections that were refused


def test_a_format_that_the_browser_does_not_know(
    live: Live, browser: Browser, tmp_path: Path
) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "deep.tif", pixels(dtype=np.uint16, size=(40, 60)))
    browser.open(live, tmp_path / "deep.tif")
    browser.until_done()
    assert browser.shown("before")


def test_scores_with_a_clean_picture(
    live: Live, half: Half, browser: Browser, photo: Path, tmp_path: Path
) -> None:
    clean = saved(tmp_path / "clean.png", png(pixels(size=(120, 160)) // 3))
    browser.open(live, photo)
    browser.until_done()
    browser("#target").send_keys(str(clean))
    browser.until(lambda: browser("#values").is_displayed())
    for protocol in ("rain200", "basicsr"):
        browser.script(
            "const e = document.getElementById('protocol'); e.value = arguments[0];"
            "e.dispatchEvent(new Event('change'))",
            protocol,
        )
        browser.until(
            lambda protocol=protocol: (
                browser.states() == ["done"] and protocol in browser("#values caption").text
            )
        )
        files = {"image": photo.read_bytes(), "target": clean.read_bytes()}
        answer = make_client(half).post(f"/api/derain?protocol={protocol}", files=files)
        result = json.loads(answer.headers["x-result"])
        for row, prefix in zip(browser.all("#values tbody tr"), ("input_", ""), strict=True):
            ssim = result[f"{prefix}ssim"]
            assert [cell.text for cell in row.find_elements(By.TAG_NAME, "td")] == [
                f"{result[f'{prefix}psnr']:.2f} dB",
                "–" if ssim is None else f"{ssim:.4f}",
            ]
    # Three pictures, of which any two can be compared.
    browser("#compare select.right").send_keys("clean")
    browser.until(lambda: browser.shown("clean"))


def test_progress_and_cancel(live: Live, half: Half, browser: Browser, tmp_path: Path) -> None:
    half.gate.clear()
    files = [saved(tmp_path / f"{i}.png", png(pixels())) for i in range(3)]
    browser.open(live, *files)
    browser.until(lambda: "restoring" in browser("#queue .status").text)
    assert browser("#queue progress").is_displayed()
    assert browser.states() == ["working", "waiting", "waiting"]
    browser.all("#queue .act")[1].click()
    browser.all("#queue .act")[0].click()
    browser.until(lambda: browser.states() == ["cancelled", "cancelled", "working"])
    half.gate.set()
    browser.until(lambda: browser.states() == ["cancelled", "cancelled", "done"])
    browser.all("#queue .act")[0].click()
    browser.until(lambda: browser.states() == ["done", "cancelled", "done"])


def test_two_tabs_share_one_queue(live: Live, half: Half, browser: Browser, photo: Path) -> None:
    half.gate.clear()
    browser.open(live, photo)
    browser.until(lambda: "restoring" in browser("#queue .status").text)
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    browser.open(live, photo)
    browser.until(lambda: "1 before it" in browser("#queue .status").text)
    half.gate.set()
    browser.until_done()
    browser.driver.switch_to.window(first)
    browser.until_done()
    assert half.most == 1


def test_on_a_phone(live: Live, browser: Browser, tmp_path: Path) -> None:
    browser.size(390, 844, touch=True)
    name = "a-photograph-with-a-very-long-name-that-nobody-would-break.png"
    browser.open(live, saved(tmp_path / name, png(pixels(size=(300, 200)))))
    browser.until_done()
    width = "return document.documentElement.scrollWidth"
    assert browser.script(width) == 390
    # Fingers need room.
    small = browser.script(
        "return [...document.querySelectorAll('button, .button, select, .drop, nav a')]"
        ".filter(e => e.checkVisibility()).map(e => [e.outerHTML, e.getBoundingClientRect()])"
        ".filter(([, r]) => r.height < 36 || r.width < 36).map(([html]) => html)"
    )
    assert small == []
    box = browser("#compare .pictures").rect
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    y -= browser.script("return scrollY")
    touch(browser, "touchStart", x, y)
    for step in (10, 20, 30):
        touch(browser, "touchMove", x + step * box["width"] / 100, y)
    browser.driver.execute_cdp_cmd(
        "Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []}
    )
    assert browser.line() == pytest.approx(0.8, abs=0.02)
    browser.script("location.hash = '#scores'")
    assert browser.script(width) == 390
    browser.size(1280, 860)


def touch(browser: Browser, kind: str, x: float, y: float) -> None:
    browser.driver.execute_cdp_cmd(
        "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]}
    )


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


def test_light_and_dark(live: Live, browser: Browser) -> None:
    """The page follows the system."""
    browser.open(live)
    colours = []
    for scheme in ("light", "dark"):
        browser.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        script = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        colours.append([sum(map(int, c[4:-1].split(","))) for c in browser.script(script)])
    (light_ground, light_ink), (dark_ground, dark_ink) = colours
    assert light_ground - light_ink > 500
    assert dark_ink - dark_ground > 500
