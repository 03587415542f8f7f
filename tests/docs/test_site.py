"""The site: public names are documented; of what is built no link is broken, and a browser shows it as it should."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "_build" / "html"
MODULES = (
    *("equiv_probe", "equiv_probe.analysis", "equiv_probe.scaling", "equiv_probe.testing"),
    *("equiv_probe_ase", "equiv_probe_lightning", "equiv_probe_pyg", "equiv_probe_schnetpack"),
)
SUBMODULES = {"analysis", "scaling", "testing"}
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
OPENED = (
    *("index.html", "how-to/index.html", "how-to/read-a-report.html", "explanation/estimator.html"),
    *("reference/probe.html", "reference/command-line.html", "reference/file-formats.html", "gallery/index.html"),
    *("gallery/benchmarks.html", "generated/tutorials/index.html", "generated/tutorials/1_force_field.html"),
)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_documented(module: str) -> None:
    written = "\n".join(page.read_text("utf-8") for page in (ROOT / "docs" / "reference").glob("*.rst"))
    documented = set(re.findall(rf"^\.\. (?:auto\w+|py:data):: {re.escape(module)}\.(\w+)$", written, re.MULTILINE))
    assert documented == set(import_module(module).__all__) - SUBMODULES


@pytest.fixture(scope="module")
def site() -> Path:
    if not (SITE / "index.html").exists():
        if os.environ.get("CI"):
            pytest.fail("CI is set, and the site is not built: make docs")
        pytest.skip("the site is not built: make docs")
    return SITE


class Page(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.places.update(found[name] or "" for name in ("id", "name") if name in found)
        self.links += [link for name in ("href", "src") if (link := found.get(name))]


def broken_links(site: Path) -> list[str]:
    """Links to files, and to places in pages, that are not there."""
    pages = {path: Page(path) for path in site.resolve().rglob("*.html") if "_static" not in path.parts}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            known = pages[target].places | {""} if target in pages else {place}
            if not target.exists() or (target.suffix == ".html" and place not in known):
                broken.append(f"{path.name}: {link}")
    return broken


def test_no_link_of_the_site_is_broken(site: Path) -> None:
    assert broken_links(site) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<p id="here"><a href="b.html">1</a><a href="#here">2</a><a href="#there">3</a>')
    (tmp_path / "b.html").write_text('<img src="c.png"><a href="a.html#here">4</a><a href="https://example.org">5</a>')
    assert sorted(broken_links(tmp_path)) == ["a.html: #there", "b.html: c.png"]


def test_every_public_name_has_a_place_in_the_site(site: Path) -> None:
    places = {place for path in (site / "reference").glob("*.html") for place in Page(path).places}
    names = {f"{module}.{name}" for module in MODULES for name in set(import_module(module).__all__) - SUBMODULES}
    assert names <= places


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        if "_static" not in path.parts:
            fetched = re.findall(
                r"""<(?:script|img|link|iframe)[^>]+(?:src|href)=["'](?:https?:)?//[^"']+""", path.read_text("utf-8")
            )
            assert fetched == [], path


def test_schemas_describe_the_stored_results(site: Path) -> None:
    for path in (ROOT / "docs" / "stored").glob("*.json"):
        kind = json.loads(path.read_text("utf-8"))["kind"]
        schema = json.loads((site / "schemas" / f"{kind}.json").read_text("utf-8"))
        assert schema["$schema"].startswith("https://json-schema.org/")


SAID = {
    "1_force_field": ["Yes: the model does not respect rotation.", "broken; share of the loss 2"],
    "2_lightning": ["of the loss is there only because the model does not respect rotation", "augmented: L_mean 0.0"],
    "3_schnetpack": ["No: what there is of it is no more than rounding.", "of the loss is there only because"],
    "4_pyg": ["RandomRotation(): L_total", "looks like three uniform Euler angles", "is stale"],
    "5_flow": ["where the noise rotates, the samples do not rotate with it", "with 12 rotations a step"],
    "6_voxels": ["rotations by right angles, which interpolate nothing, already show it"],
    "7_dynamics": ["Yes: the model does not respect rotation.", "not explained by it"],
    "8_test_suite": ["order of axes:", "1 failed, 2 passed"],
}


@pytest.mark.parametrize("name", SAID)
def test_a_tutorial_ran_and_said_what_its_text_builds_on(site: Path, name: str) -> None:
    text = (site / "generated" / "tutorials" / f"{name}.html").read_text("utf-8")
    shown = html.unescape(re.sub(r"<[^>]+>", "", text))
    for said in SAID[name]:
        assert said in shown, said


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not (CHROMIUM and DRIVER) and not os.environ.get("CI"):
        pytest.skip("needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    assert CHROMIUM, "CI is set, and there is no Chromium"
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", profile):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def opened(browser: Any, page: Path, width: int, scheme: str) -> Any:
    for log in ("browser", "performance"):
        browser.get_log(log)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())
    return browser


@pytest.mark.slow
@pytest.mark.parametrize("name", OPENED)
def test_a_page_opens_in_a_browser(browser: Any, site: Path, name: str) -> None:
    """Without errors, from the disk alone, within the width of a screen and of a phone, dark where it is asked for."""
    for width, scheme in ((1280, "light"), (390, "dark")):
        opened(browser, site / name, width, scheme)
        severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert severe == []
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert [url for url in urls if not url.startswith(("file:", "data:", "blob:", "chrome:"))] == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script("return document.querySelector('h1').getBoundingClientRect().width") > 100
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3
        assert (brightness < 80) == (scheme == "dark"), colour


@pytest.mark.slow
def test_formulas_are_drawn_without_scripts(browser: Any, site: Path) -> None:
    opened(browser, site / "explanation" / "estimator.html", 1280, "light")
    heights = browser.execute_script(
        "return [...document.querySelectorAll('.formula math')].map(one => one.getBoundingClientRect().height)"
    )
    assert len(heights) >= 2
    assert min(heights) > 25  # a fraction, not a line of source
    assert browser.execute_script("return document.querySelectorAll('mfrac').length") > 3


@pytest.mark.slow
def test_search_finds_a_public_name(browser: Any, site: Path) -> None:
    opened(browser, site / "search.html", 1280, "light")
    browser.get((site / "search.html").as_uri() + "?q=TwirledCalculator")
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(lambda it: "TwirledCalculator" in it.find_element("id", "search-results").text)
