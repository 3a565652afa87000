"""The page in a real browser: photographs in, pictures compared and downloaded."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from reference.browser import Browser
from reference.page import Half, Live, jpeg, make_client, pixels, png, saved
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from drsformer_jax.data.decoding import decode_bytes
from drsformer_jax.inference.derainer import Derainer


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return saved(tmp_path / "rainy day.jpg", jpeg(pixels(size=(120, 160))))


def downloaded(browser: Browser, downloads: Path, name: str) -> bytes:
    path = downloads / name
    browser.until(path.is_file)
    data = path.read_bytes()
    path.unlink()
    return data


def test_from_the_file_to_the_download(
    live: Live, half: Half, browser: Browser, photo: Path, tmp_path: Path, downloads: Path,
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
    assert (
        downloaded(browser, downloads, "rainy day.png")
        == (tmp_path / "out/rainy day.png").read_bytes()
    )
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


def test_several_photographs_and_a_zip(
    live: Live, browser: Browser, tmp_path: Path, downloads: Path
) -> None:
    files = []
    for number, name in enumerate(("a.png", "b.jpg", "a.jpg")):
        make = png if name.endswith("png") else jpeg
        image = make(pixels(size=(20 + number, 30)))
        files.append(saved(tmp_path / name, image))
    browser.open(live, *files)
    browser.until_done(3)
    assert browser("#count").text == "3 of 3 done"
    browser("#zip").click()
    with zipfile.ZipFile(
        saved(tmp_path / "all.zip", downloaded(browser, downloads, "derained.zip"))
    ) as all_:
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
