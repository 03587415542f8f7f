"""Pages in a real browser: they open without errors, fetch nothing, run nothing foreign, draw, and fit a phone."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib import image

import equiv_probe as ep
from equiv_probe.report.formatting import shown
from equiv_probe.report.page import fragment, page
from equiv_probe.results.comparison import compare

from ..generative.samplers import quiet
from ..landscape.planted_losses import linear, perceptron
from ..landscape.test_landscape_pages import hostile_landscape
from ..page_reports import audit_report, gradients, measured, run_report, structure
from ..results.test_audit_pages import grid, hostile_grid, hostile_sampler, path
from ..voxels.test_grids_audit import gaussian
from .test_page import HOSTILE, hostile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # WebGL without a graphics card
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1000,800",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER) and not os.environ.get("CI"),
        reason="needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    assert CHROMIUM, "CI is set, and there is no Chromium"
    assert DRIVER, "CI is set, and there is no chromedriver"
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def opened(browser: Any, folder: Path, html: str) -> Any:
    """The browser with this page, its logs emptied before."""
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.as_uri())
    return browser


def errors(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def fetched(browser: Any) -> list[str]:
    """What was asked of the network, or of the disk, since the page was opened; the page itself comes first."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def within(seconds: float, condition: Any) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def pixels(browser: Any, css: str) -> Any:
    """What an element looks like, ``(H, W, 3)``."""
    png = browser.find_element("css selector", css).screenshot_as_png
    return image.imread(io.BytesIO(png), format="png")[..., :3]


def colours(picture: Any) -> int:
    return len(np.unique((picture.reshape(-1, 3) * 255).astype(int), axis=0))


def test_the_viewer_draws_and_a_click_on_a_worst_structure_shows_it(browser: Any, tmp_path: Path) -> None:
    sodium = structure("salt of <b>many</b> atoms", 30.0, symbols=["Na", "Cl"] * 3)
    report = audit_report(structures=[sodium, structure("water", 20.0)])
    opened(browser, tmp_path, page([report]))
    waiting = "return document.querySelector('.stage .waiting') === null"
    browser.execute_script("document.querySelector('.viewer').scrollIntoView()")
    assert within(90, lambda: browser.execute_script(waiting)), errors(browser)
    time.sleep(0.5)
    first = pixels(browser, "#r0-stage")
    assert colours(first) > 500  # shaded spheres and a colour bar; a blank canvas has a handful
    told = browser.find_element("id", "r0-shown")
    assert told.text == "Shown: salt of <b>many</b> atoms"

    browser.find_element("css selector", "button[data-structure='1']").click()
    assert within(30, lambda: told.text == "Shown: water")
    time.sleep(0.5)
    second = pixels(browser, "#r0-stage")
    assert colours(second) > 500
    assert float((np.abs(first - second).max(-1) > 0.1).mean()) > 0.01  # another picture
    pressed = browser.find_elements("css selector", "button[aria-pressed='true']")
    assert [button.text for button in pressed] == ["water"]

    browser.find_element("css selector", "button[data-structure='0']").click()
    assert within(30, lambda: told.text.startswith("Shown: salt"))
    time.sleep(0.5)
    again = pixels(browser, "#r0-stage")
    assert float((np.abs(first - again).max(-1) > 0.1).mean()) < 0.01  # negative control: the same picture as before

    assert errors(browser) == []
    assert len(fetched(browser)) == 1


@pytest.mark.parametrize("policy", [True, False], ids=["with its policy", "without"])
def test_hostile_names_do_nothing(browser: Any, tmp_path: Path, policy: bool) -> None:
    """Escaping alone suffices: also without the content security policy nothing runs."""
    html = page([hostile(text) for text in HOSTILE])
    if not policy:
        html = html.replace('http-equiv="Content-Security-Policy"', 'name="none"')
    opened(browser, tmp_path, html)
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.querySelectorAll('article').length") == len(HOSTILE)
    for key, text in enumerate(HOSTILE):
        heading = browser.find_element("css selector", f"#r{key} h1").get_attribute("textContent")
        assert heading == shown(text)
        button = browser.find_element("css selector", f"#r{key} button").get_attribute("textContent")
        assert button == shown(text)
    assert browser.execute_script("return getComputedStyle(document.body).display") != "none"
    assert errors(browser) == []
    assert len(fetched(browser)) == 1


def test_the_policy_stops_what_would_slip_through(browser: Any, tmp_path: Path) -> None:
    """Negative control of both tests: an injected script is found by them, and the policy refuses it."""
    html = page([run_report()])
    injected = html.replace("</main>", "<script>window.hacked=1</script><img src='http://127.0.0.1:9/x.png'></main>")
    opened(browser, tmp_path, injected)
    assert browser.execute_script("return window.hacked") is None
    assert len(errors(browser)) >= 2
    opened(browser, tmp_path, injected.replace('http-equiv="Content-Security-Policy"', 'name="none"'))
    assert browser.execute_script("return window.hacked") == 1
    assert within(10, lambda: any("127.0.0.1" in url for url in fetched(browser)))


@pytest.fixture(scope="module")
def audits() -> list[Any]:
    """Of a sampler and of a model of grids; a curvature and a line."""
    landscape = (
        ep.analysis.curvature([perceptron(), perceptron()], progress=False, losses=("mean", "equiv")),
        ep.analysis.along_line(linear(), seed=3, progress=False),
    )
    audited = (quiet(path, (4, 3, 3), path=True), grid(gaussian(0.5, 1.2, 1.2), labels=True))
    return [*audited, *landscape]


def test_pages_of_audits_open_fit_and_fetch_nothing(browser: Any, tmp_path: Path, audits: list[Any]) -> None:
    """Nor do names in them do anything, also without the policy."""
    makers = (hostile_sampler, hostile_grid, hostile_landscape, hostile_landscape)
    hacked = page([make(audit, text) for text in HOSTILE for make, audit in zip(makers, audits, strict=True)])
    for html in (page(audits), hacked.replace('http-equiv="Content-Security-Policy"', 'name="none"')):
        for width in (360, 1280):
            size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            try:
                opened(browser, tmp_path, html)
                assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            finally:
                browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            assert browser.execute_script("return window.hacked") is None
            assert browser.execute_script("return getComputedStyle(document.body).display") != "none"
            assert browser.execute_script("return document.querySelectorAll('figure svg').length") >= 7
            assert errors(browser) == []
            assert len(fetched(browser)) == 1


def test_pages_of_audits_print_whole(browser: Any, tmp_path: Path, audits: list[Any]) -> None:
    import pypdfium2

    opened(browser, tmp_path, page(audits))
    file = tmp_path / "page.pdf"
    file.write_bytes(base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]))
    sheets = list(pypdfium2.PdfDocument(file))
    pages = [" ".join(sheet.get_textpage().get_text_range().split()) for sheet in sheets]
    for title, label in (
        ("Along the path: end points", "step of the path, the noise first"),
        ("Over samples: end points", "deviation of end points, Å"),
        ("Beside their floors", "√L_equiv, unit of the output"),
        ("Against the angle", "angle of the rotation, degrees"),
        ("Ratio of condition numbers", "κ(L_mean) / κ(L_equiv)"),
        ("Away from where it is", "|L(t) − L(0)|"),
    ):  # the first and the last line of a figure, on one sheet
        assert any(title in text and label in text for text in pages), title
    for sheet in sheets:
        words = sheet.get_textpage()
        for place in range(words.count_chars()):
            left, _, right, _ = words.get_charbox(place)
            assert -1 <= left <= right <= sheet.get_width() + 1


@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_screen(browser: Any, tmp_path: Path, width: int) -> None:
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    long = "a/very/long/path/without/any/space/to/break/it/" * 3
    reports = [audit_report(model=long, source=long), run_report(gradients=gradients(groups=(long, "head")))]
    try:
        for html in (page(reports), page([compare([reports[0], reports[0]], [long, "b"])])):
            opened(browser, tmp_path, html)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            for box in browser.execute_script(
                "return [...document.querySelectorAll('figure svg')].map((one) => one.getBoundingClientRect().toJSON())"
            ):
                assert box["right"] <= width
                assert box["width"] > 0.7 * min(width, 450)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_on_a_phone_every_number_and_verdict_lies_on_the_screen(browser: Any, tmp_path: Path) -> None:
    """Only the table of structures, which is long, may be scrolled sideways."""
    size = {"width": 390, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(browser, tmp_path, page([audit_report()]))
        ends = browser.execute_script(
            "return [...document.querySelectorAll('.cards td, .cards th[scope=row]')]"
            ".map((one) => [one.dataset.label ?? '', one.innerText, one.getBoundingClientRect().right])"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert {"√L_equiv", "verdict", "share of the loss"} <= {label for label, _, _ in ends}
    assert max(right for _, text, right in ends if text) <= 390


def test_it_is_dark_where_that_is_wished_and_light_on_paper(browser: Any, tmp_path: Path) -> None:
    opened(browser, tmp_path, page([run_report(gradients=gradients(groups=("encoder", "head")))]))
    brightness = """
        return getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])
            .match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 765
    """

    def bright(css: str, what: str) -> float:
        return float(browser.execute_script(brightness, css, what))

    seen = {}
    for name, media in {
        "light": {"features": [{"name": "prefers-color-scheme", "value": "light"}]},
        "dark": {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
        "paper": {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    }.items():
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        seen[name] = (bright("body", "background-color"), bright("body", "color"), bright("figure svg text", "fill"))
        inks = browser.execute_script(
            "return [...document.querySelectorAll('figure svg text, figure svg [style*=\"var(--ink\"]')]"
            ".map((one) => getComputedStyle(one)).map((s) => s.stroke === 'none' ? s.fill : s.stroke)"
        )
        assert len(inks) > 100
        assert len(set(inks)) == 1  # labels, error bars and markers alike
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    for name, (ground, text, label) in seen.items():
        assert (ground > 0.9) == (name != "dark")
        assert abs(ground - text) > 0.6, name
        assert abs(ground - label) > 0.6, name
    assert errors(browser) == []


def test_two_reports_in_a_notebook_leave_each_other_and_the_notebook_alone(browser: Any, tmp_path: Path) -> None:
    """Neither styles nor ids of a report's cell reach anything outside of it."""
    around = (
        "<table id=own><tr><td>1<td class=text>2</table><p class=caption>a</p><ul class=broken><li>b</ul>"
        "<svg id=drawn viewBox='0 0 9 9'><path d='M0 0L9 9' stroke='red'/></svg>"
    )
    looks = """
        return [...document.querySelectorAll('#own, #own *, .caption, body > ul, #drawn, #drawn *')]
            .filter((one) => !one.closest('.equiv-probe'))
            .map((one) => [...getComputedStyle(one)].map((key) => getComputedStyle(one).getPropertyValue(key)).join())
    """
    opened(browser, tmp_path, f"<!doctype html>{around}")
    before = browser.execute_script(looks)
    cells = [fragment(report) for report in (audit_report(), run_report())]
    opened(browser, tmp_path, f"<!doctype html>{around}<div>{cells[0]}</div><div>{cells[1]}</div>")
    after = browser.execute_script(looks)
    assert len(before) > 5
    assert after == before
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    assert errors(browser) == []
    assert all(len(cell) < 60_000 for cell in cells)
    # Negative control: Matplotlib's own style is for every element of the document.
    leaking = cells[0].replace(" *{", ",*{")
    opened(browser, tmp_path, f"<!doctype html>{around}<div>{leaking}</div>")
    assert browser.execute_script(looks) != before


def test_printed_it_has_all_sections_and_whole_figures(browser: Any, tmp_path: Path) -> None:
    """The PDF: every section and what is folded up on the screen, no figure over the edge or over two sheets."""
    import pypdfium2

    reports = [audit_report(measured=[measured(), measured("dipole", "e·Å")]), run_report()]
    opened(browser, tmp_path, page(reports))
    path = tmp_path / "page.pdf"
    path.write_bytes(base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]))
    sheets = [sheet.get_textpage() for sheet in pypdfium2.PdfDocument(path)]
    text = " ".join(" ".join(one.get_text_range() for one in sheets).split())
    for heading in (
        "Is it broken?", "How much of the loss is it?", "Where is it?", "What kind is it?", "Over time",
        "How was it measured?", "What can it not tell?", "Against the angle: dipole", "KeyError: 'Xe'",
    ):  # fmt: skip
        assert heading in text, heading
    assert "ARISING IN ANY WAY" not in text  # the viewer's licence is no part of what is printed
    figures = (
        ("Parts of the loss", "part of the loss L_total, %"),
        ("Over structures: forces", "√L_equiv of a structure's forces, meV/Å"),
        ("By element: forces", "√L_equiv of forces, meV/Å"),
        ("Angular spectrum: forces", "angular degree l"),
        ("Against the angle: forces", "angle between two orientations, degrees"),
        ("Share of the loss over the run", "training step"),
    )
    for title, label in figures:  # the first and the last line of a figure, on one sheet
        both = [all(part in " ".join(one.get_text_range().split()) for part in (title, label)) for one in sheets]
        assert any(both), title
    for sheet in pypdfium2.PdfDocument(path):
        words = sheet.get_textpage()
        for place in range(words.count_chars()):
            left, _, right, _ = words.get_charbox(place)
            assert -1 <= left <= right <= sheet.get_width() + 1
