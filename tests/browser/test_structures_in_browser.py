"""The viewer of structures opened from disk: it draws atoms, changes them on a click, fetches nothing."""

import numpy as np
import pytest
from browser_page import Page
from fake_run import write_run
from test_observe import salt

from msmlff.analysis.observables_folder import ObservablesFolder, describe, save_observables
from msmlff.analysis.observables_page import write_observables_page
from msmlff.analysis.observe import observe
from msmlff.analysis.observed import ObserveSettings, Subject
from msmlff.analysis.report import write_report

pytestmark = pytest.mark.browser


def picture(page: Page, name: str) -> np.ndarray:
    """[height, width, 3] the viewer as it is on the screen."""
    import io

    from PIL import Image

    content = page.tab.locator(f"#{name}").screenshot()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def drawn(page: Page, name: str) -> str:
    """The label of the structure in the viewer, once it is drawn."""
    page.tab.locator(f"#{name}").scroll_into_view_if_needed()
    page.tab.wait_for_selector(f"#{name}[data-drawn]", timeout=60_000)
    page.tab.wait_for_timeout(300)
    return page.tab.locator(f"#{name}").get_attribute("data-drawn")


def complaints(page: Page) -> list[str]:
    """Without what a software renderer says of its own speed."""
    return [text for text in page.complaints if "GL Driver Message (OpenGL, Performance" not in text]


@pytest.fixture(scope="module")
def report(browser, tmp_path_factory):
    page = Page(browser, write_report(write_run(tmp_path_factory.mktemp("worst") / "run")))
    yield page
    page.tab.close()


def test_worst_frames_are_drawn_in_the_colours_of_their_errors(report):
    assert drawn(report, "worst-frames").startswith("frame ")
    image = picture(report, "worst-frames")
    marked = image[np.ptp(image, axis=2) > 60]  # colours of cividis, from blue to yellow
    assert len(marked) > 500
    assert (marked[:, 2] > marked[:, 0] + 20).any()
    assert (marked[:, 0] > marked[:, 2] + 40).any()
    assert "meV/Å error of the force" in report.tab.locator("#worst-frames-legend").inner_text()
    assert complaints(report) == []
    assert [url for url in report.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_a_button_shows_another_frame(report):
    first = drawn(report, "worst-frames")
    before = picture(report, "worst-frames")
    buttons = report.tab.locator('[data-viewer="worst-frames"]')
    assert buttons.count() == 8
    buttons.nth(3).click()
    report.tab.wait_for_timeout(500)
    assert drawn(report, "worst-frames") == buttons.nth(3).inner_text() != first
    assert buttons.nth(3).get_attribute("aria-pressed") == "true"
    assert np.abs(picture(report, "worst-frames") - before).max() > 60
    assert complaints(report) == []


def test_dragging_turns_the_structure(report):
    drawn(report, "worst-frames")
    before = picture(report, "worst-frames")
    box = report.tab.locator("#worst-frames").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    report.tab.mouse.move(x, y)
    report.tab.mouse.down()
    report.tab.mouse.move(x + 120, y + 40, steps=4)
    report.tab.mouse.up()
    report.tab.wait_for_timeout(500)
    assert np.abs(picture(report, "worst-frames") - before).max() > 60


@pytest.fixture(scope="module")
def observables(tmp_path_factory):
    """A page of observables, and what is on it."""
    folder = tmp_path_factory.mktemp("observables")
    t = salt()
    found, missing = observe(Subject(t, ObserveSettings(rdf_window_fs=100.0)))
    structures = [t.frames()[0], t.frames()[-1]]
    save_observables(ObservablesFolder(describe(t), found, missing=missing, structures=structures), folder)
    return write_observables_page(folder, "msmlff evaluate trajectory=salt.extxyz"), found


@pytest.mark.parametrize("width", [390, 1200])
def test_page_of_observables(browser, observables, width):
    path, found = observables
    page = Page(browser, path, width)
    assert page.count(".plot") == sum(bool(o.curves) for o in found.values())
    empty = "Array.from(document.querySelectorAll('.plot')).filter(p => !p.querySelector('.js-line')).length"
    assert page.tab.evaluate(empty) == 0
    drawn(page, "structures")
    assert (np.ptp(picture(page, "structures"), axis=2) > 60).sum() > 500
    assert page.tab.locator("#structures-legend").inner_text().split() == ["Na", "Cl"]
    assert complaints(page) == []
    assert len([url for url in page.requests if url.startswith("file:")]) == 1
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
    page.tab.close()


def test_without_webgl_the_page_says_so(browser, observables):
    tab = browser.new_page()
    tab.add_init_script(
        """for (const canvas of [HTMLCanvasElement, OffscreenCanvas]) {
            const get = canvas.prototype.getContext;
            canvas.prototype.getContext = function (kind, ...more) {
                return kind.includes("webgl") ? null : get.call(this, kind, ...more);
            };
        }"""
    )
    tab.goto(observables[0].as_uri())
    tab.locator("#structures").scroll_into_view_if_needed()
    tab.wait_for_selector("#structures[data-drawn=nothing]", timeout=60_000)
    assert "need WebGL" in tab.locator("#structures").inner_text()
    assert tab.locator(".plot .js-line").count() > 0
    tab.close()
