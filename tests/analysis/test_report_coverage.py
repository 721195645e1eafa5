"""The report's section on the coverage of the selection: its numbers, old records, what distill writes."""

import json
import re

import numpy as np
import pytest
from fake_run import DENSITIES, fake_coverage, write_run
from test_report import page_of, plots

from msmlff.data.configuration import Configuration
from msmlff.data.store import FrameStore
from msmlff.distill.coverage import coverage
from msmlff.distill.coverage_table import coverage_table
from msmlff.distill.features import Features
from msmlff.distill.simple import RandomSelector

EVERY_FIGURE = {
    f"coverage-{name}" for name in ("groups", "tails", "elements", "components", "forces", "energies")
}


@pytest.fixture
def section_of(tmp_path):
    """section_of(coverage, **record) -> (text of the section, its figures by name) of a run with that
    record."""
    run = write_run(tmp_path / "run")
    path = run / "selection.json"
    original = path.read_text()

    def section(found, **changes):
        content = json.loads(original)
        content["record"] |= {"coverage": found, **changes}
        path.write_text(json.dumps(content))
        page = page_of(run)
        (text,) = re.findall(r'<section id="coverage">(.*?)</section>', page, flags=re.S)
        return text, plots(text)

    return section


def rows(text, title=""):
    """Cells of the body of the first table below ``title``."""
    table = text[text.index(title) :].split("<table", 1)[1].split("</table>")[0]
    return [
        re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", table) if "<td>" in row
    ]


def test_tables(section_of):
    text, _ = section_of(fake_coverage())
    short = dict(rows(text))
    assert short["frames near the selection"] == "92.7 % (random: 90.0 %)"
    assert short["least covered group"] == "0.98: 60.0 %"
    assert rows(text, "Distances</h3>") == [
        ["frames", "92.7 %", "3.88", "2.11", "5.11"],
        ["atomic environments", "91.1 %", "1.49", "0.705", "3.42"],
    ]
    assert "reference" not in text
    text, _ = section_of(fake_coverage(), reference=[3, 4])
    assert "one of the 2 frames of the reference" in text


def test_groups_and_elements_beside_random(section_of):
    _, figures = section_of(fake_coverage(("H", "O")))
    near, chosen, random = figures["coverage-groups"]["data"]
    assert near["x"] == chosen["x"] == DENSITIES
    assert near["y"][0] == pytest.approx(60)
    assert chosen["y"] == pytest.approx([36] * len(DENSITIES))
    assert random["name"] == "random: 90 % of the pool near"
    near, chosen, random = figures["coverage-elements"]["data"]
    assert near["x"] == ["H", "O"]
    assert near["y"] == pytest.approx([93, 73])
    assert chosen["y"] == pytest.approx([25, 25])
    assert figures["coverage-elements"]["layout"]["shapes"][0]["y0"] == pytest.approx(88)


def test_tails_beside_an_even_draw(section_of):
    _, figures = section_of(fake_coverage(), reference=[])
    near, chosen, random = figures["coverage-tails"]["data"]
    assert near["y"][0] == "atoms by force, 1 %"
    assert len(near["y"]) == 8
    assert near["x"][:2] == pytest.approx([75, 80])
    assert chosen["x"][:2] == pytest.approx([50, 25])
    assert random["x"][0] == pytest.approx(25)  # of the atoms
    assert random["x"][2] == pytest.approx(100 * 200 / 575)  # of the frames


def test_many_groups_show_the_least_covered(section_of):
    found = fake_coverage()
    found["groups"] = {f"g{i}": {"pool": 9, "chosen": 3, "share": 1 - i / 100} for i in range(90)}
    text, figures = section_of(found)
    assert set(figures["coverage-groups"]["data"][0]["x"]) == {f"g{i}" for i in range(30, 90)}
    assert "30 groups that are covered better are left out" in text


def test_records_that_hold_less(section_of):
    found = fake_coverage()
    text, figures = section_of({key: found[key] for key in ("frames", "environments", "groups")})
    assert set(figures) == {"coverage-groups"}
    assert len(figures["coverage-groups"]["data"]) == 2
    assert len(rows(text)) == 3
    text, figures = section_of(found, n_pool=None)
    assert figures["coverage-tails"]["data"][2]["x"][2] is None
    for nothing, reason in ((None, "used no descriptor"), ({}, "the same features")):
        text, figures = section_of(nothing)
        assert reason in text
        assert not figures


def test_numbers_that_are_not_known(section_of):
    """An element that is in no sampled environment, a selection without labels."""
    found = fake_coverage(("H", "Xe"))
    found["elements"]["Xe"]["share"] = None
    unknown = dict.fromkeys(("q50", "q95", "q99", "max"))
    found["labels"]["force"] |= {"selection": unknown, "ratio": unknown}
    found["labels"]["energy_per_atom"] |= {
        "selection": dict.fromkeys(("q05", "q50", "q95")),
        "span_ratio": None,
    }
    text, figures = section_of(found)
    assert figures["coverage-elements"]["data"][0]["y"] == [93.0, None]
    assert "median —" in text


def test_names_of_groups_are_escaped(section_of):
    found = fake_coverage()
    evil = "<img src=x onerror=alert(1)>"
    found["groups"] = {
        evil: {"pool": 9, "chosen": 3, "share": 0.5},
        "": {"pool": 9, "chosen": 3, "share": 0.6},
    }
    text, figures = section_of(found)
    assert evil not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in figures["coverage-groups"]["data"][0]["x"]
    assert "none" in figures["coverage-groups"]["data"][0]["x"]


def test_a_record_that_distill_wrote(section_of, tmp_path):
    """The invented record above has the keys of a real one, and the section shows all of it."""
    rng = np.random.default_rng(0)
    n, numbers = 40, np.array([1, 8])
    frames = [
        Configuration(
            numbers,
            rng.normal(size=(2, 3)),
            energy=float(i),
            forces=rng.normal(size=(2, 3)),
            group=f"{i % 2}",
        )
        for i in range(n)
    ]
    store = FrameStore.build(frames, tmp_path / "cache")
    features = Features(
        rng.normal(size=(2 * n, 6)), np.arange(0, 2 * n + 1, 2), np.tile(numbers, n), store.hash
    )
    selection = RandomSelector().select(features, 10, seed=0)
    found = coverage(features, selection, store.group, labels=store)
    text, figures = section_of(found, **{k: v for k, v in selection.record.items() if k != "coverage"})
    assert set(figures) == EVERY_FIGURE
    assert [len(row) for row in rows(text)] == [2] * len(coverage_table({"coverage": found}))
    invented = fake_coverage()
    assert found.keys() == invented.keys()
    for key in ("frames", "environments", "entropy", "random", "tails", "labels"):
        assert found[key].keys() == invented[key].keys(), key
