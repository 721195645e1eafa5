"""The report opened from disk in a browser: it draws, it is silent, it fetches nothing."""

import dataclasses
import json

import numpy as np
import pytest
from browser_page import Page
from fake_run import fake_predictions, fake_record, write_metrics, write_run, write_selection

from msmlff.analysis.errors import error_table, save_error_table
from msmlff.analysis.report import write_report

pytestmark = pytest.mark.browser

SECTIONS = ["selection", "coverage", "learning", "parity", "slices", "data", "model", "machine", "config"]


@pytest.fixture(scope="module")
def complete(browser, tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("complete") / "run")
    page = Page(browser, write_report(run))
    yield page
    page.tab.close()


def test_draws_everything_without_network_or_complaint(complete):
    assert complete.complaints == []
    assert [url for url in complete.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in complete.requests if url.startswith("file:")]) == 1
    assert complete.count(".plot") == 23
    # every plot has marks on it, inside its own frame
    empty = """Array.from(document.querySelectorAll('.plot')).filter(
        p => p.querySelectorAll('.points path, .point path, .js-line').length === 0).map(p => p.id)"""
    assert complete.tab.evaluate(empty) == []


def test_sections_are_present_and_visible(complete):
    assert [complete.count(f"section#{name}") for name in SECTIONS] == [1] * len(SECTIONS)
    assert complete.tab.locator("h1").inner_text().startswith("MS-MACE on dense_hydrogen · CPD 200")
    assert complete.tab.locator(".tile").count() == 4


def test_hover_over_the_map_names_the_frame(complete):
    tab = complete.tab
    tab.locator("#pool-map").scroll_into_view_if_needed()
    where = """() => { const g = document.getElementById('pool-map'), t = g.data[1], l = g._fullLayout;
        const b = g.getBoundingClientRect(), full = g._fullData[1];
        const x = l.xaxis._offset + l.xaxis.l2p(full.x[0]), y = l.yaxis._offset + l.yaxis.l2p(full.y[0]);
        return {x: b.x + x, y: b.y + y, text: t.text[0]}; }"""
    point = tab.evaluate(where)
    tab.mouse.move(point["x"], point["y"])
    tab.wait_for_selector("#pool-map .hoverlayer .hovertext")
    shown = tab.locator("#pool-map .hoverlayer .hovertext").text_content()
    frame = point["text"].split("</b>")[0].removeprefix("<b>")
    assert frame in shown
    assert "log density" in shown
    assert "chosen as number" in shown


def test_configuration_opens_on_a_click(complete):
    config = complete.tab.locator("#config pre")
    assert not config.is_visible()
    complete.tab.locator("#config summary").click()
    assert "budget: 200" in config.inner_text()


@pytest.mark.parametrize("width", [390, 1200])
def test_no_sideways_scrolling(browser, complete, tmp_path, width):
    page = Page(browser, write_report(write_run(tmp_path / "run")), width)
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
    plots = (
        "Array.from(document.querySelectorAll('.plot .main-svg')).map(s => s.getBoundingClientRect().right)"
    )
    assert max(page.tab.evaluate(plots)) <= width
    page.tab.close()


def test_diverged_run_opens(browser, tmp_path):
    write_metrics(tmp_path / "metrics.csv", until=300)
    write_selection(tmp_path)
    (tmp_path / "record.json").write_text(json.dumps(fake_record(status="diverged", stop_reason="loss 1e9")))
    page = Page(browser, write_report(tmp_path))
    assert page.complaints == []
    assert page.tab.locator(".badge").inner_text() == "diverged"
    assert page.count(".plot") == 11
    page.tab.close()


def test_names_from_outside_run_nothing(browser, tmp_path):
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    run = write_run(tmp_path / "run", pool=evil, group_name=evil, command=evil)
    p = fake_predictions(per_group=2)
    p = dataclasses.replace(p, group=np.where(p.group == "1.41", evil, p.group))
    p.save(run / "predictions_test.npz")
    save_error_table(error_table(p), run / "test_metrics.json")
    page = Page(browser, write_report(run))
    assert page.complaints == []
    assert page.count("img") == 0
    assert [url for url in page.requests if not url.startswith("data:")] == [(run / "report.html").as_uri()]
    page.tab.close()
