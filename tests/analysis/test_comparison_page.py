"""The page of a comparison: what it says, and that it is whole."""

import json
import re

import numpy as np
import pytest
from fake_study import FakeStudy

from msmlff.analysis.comparison import Bound, Comparison
from msmlff.analysis.comparison_cells import read_study
from msmlff.analysis.comparison_figures import FORCE, round_numbers
from msmlff.analysis.comparison_method import PROBE
from msmlff.analysis.comparison_page import study_page, write_comparison
from msmlff.analysis.comparison_words import findings, p_value, percent, seconds
from msmlff.errors import InputError
from msmlff.training.probe import RidgeProbe

EFFECTS = {"random": 0.0, "fps": 0.1, "cpd": -0.1, "set_cover": -0.25, "lcmd": -0.2, "cpd density=knn": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    study = FakeStudy(EFFECTS, aware=("lcmd",))
    cells = study.cells()
    next(c for c in cells if c["selector"] == "fps").update(
        status="diverged", message="loss is <NaN> | at step 7", errors={}
    )
    return study.write(tmp_path_factory.mktemp("page") / "study", cells)


@pytest.fixture(scope="module")
def page(folder):
    return write_comparison(folder).read_text(encoding="utf-8")


def words(tmp_path, effects, **settings):
    study = FakeStudy(effects, **settings)
    return " ".join(findings(Comparison(read_study(study.write(tmp_path / "s")), FORCE.key), FORCE, False))


def test_files_and_pictures(folder, page):
    for name in ("error_forces", "error_energy", "auc", "coverage", "sensitivity_cpd"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "<NaN>" not in page


def test_markdown_has_whole_tables(folder, page):
    text = (folder / "comparison.md").read_text(encoding="utf-8")
    assert "![" in text
    for table in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
    assert "1 of 150" in text
    assert "diverged" in text
    assert "density=knn" in text
    main = text[text.index("Label-free selectors: area") : text.index("Label-free selectors: force")]
    assert "density=knn" not in main
    assert "lcmd" not in main
    assert "†" in main


def test_cpd_that_does_not_win_is_said_so(folder, page):
    assert "set_cover has the lowest force RMSE" in page
    assert "CPD does not win: it is number 2 of 3" in page


def test_cpd_that_wins(tmp_path):
    text = words(tmp_path, {"random": 0.0, "cpd": -0.2, "fps": 0.1})
    assert "CPD has the lowest error (0.8" in text
    assert "does not win" not in text
    assert "Better than random: cpd; worse than random: fps." in text


def test_nobody_wins(tmp_path):
    text = words(tmp_path, {"random": 0.0, "cpd": -0.001, "fps": 0.0}, selection_spread=0.05)
    assert "No selector is better than random." in text
    assert "a tie with random" in text
    assert "CPD has the lowest error but does not win" in text or "CPD does not win" in text


def test_too_few_selections_are_said_to_decide_nothing(tmp_path):
    text = words(tmp_path, {"random": 0.0, "cpd": -0.3, "fps": 0.3}, seeds=2)
    assert "too few for any difference from random" in text


@pytest.mark.parametrize("count", [1, 3, 40, 150])
def test_a_study_that_still_runs_has_a_page(tmp_path, count):
    study = FakeStudy(EFFECTS, aware=("lcmd",), budgets=(25, 100))
    cells = study.cells()
    np.random.default_rng(count).shuffle(cells)
    html = write_comparison(study.write(tmp_path / "study", cells[:count]))
    assert "</html>" in html.read_text(encoding="utf-8")


def test_only_failures(tmp_path):
    study = FakeStudy()
    cells = [c | {"status": "failed", "errors": {}, "message": "no"} for c in study.cells()]
    text = write_comparison(study.write(tmp_path / "study", cells)).read_text(encoding="utf-8")
    assert "No training has finished" in text


def test_only_the_baseline(tmp_path):
    text = write_comparison(FakeStudy({"random": 0.0}).write(tmp_path / "study")).read_text(encoding="utf-8")
    assert "No label-free selector" in text or "baseline" in text


def test_page_of_several_pools(tmp_path):
    first = FakeStudy(EFFECTS, aware=("lcmd",)).write(tmp_path / "a")
    second = FakeStudy({"random": 0.0, "cpd": -0.2}, seed=3).write(tmp_path / "b")
    path = study_page({"dense hydrogen": first, "organics": second}, tmp_path / "docs" / "comparison.md")
    text = path.read_text(encoding="utf-8")
    assert "| selector | mean place | dense hydrogen | organics |" in text
    line = next(line for line in text.splitlines() if line.startswith("| cpd | 1.5 | 2. "))
    assert line.endswith("better |")
    for picture in re.findall(r"\]\((.*?\.png)\)", text):
        assert (path.parent / picture).is_file()
    assert text.count("## How the figures are made") == 1


def test_page_of_several_pools_says_which_model_learned(tmp_path):
    folders = {name: FakeStudy({"random": 0.0, "cpd": -0.2}).write(tmp_path / name) for name in "ab"}

    def page(*learners):
        for folder, learner in zip(folders.values(), learners, strict=True):
            settings = json.loads((folder / "settings.json").read_text())
            settings["settings"] = {"learner._target_": learner}
            (folder / "settings.json").write_text(json.dumps(settings))
        return study_page(folders, tmp_path / "docs" / "comparison.md").read_text(encoding="utf-8")

    target = f"{RidgeProbe.__module__}.{RidgeProbe.__qualname__}"
    assert page(target, target).startswith(f"# Selectors compared\n\n## All pools\n\n{PROBE}\n")
    assert PROBE not in page(target, "msmlff.app.compare_jobs.network_learner")


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match="msmlff compare"):
        write_comparison(tmp_path / "nowhere")


def test_numbers_in_words():
    assert (p_value(None), p_value(0.0004), p_value(0.0321), p_value(0.321)) == (
        "—",
        "< 0.001",
        "0.032",
        "0.32",
    )
    assert percent(Bound(-0.126)) == "−13 %"
    assert percent(Bound(0.4, ">")) == "> 40 %"
    assert percent(Bound(-0.14, to=-0.12)) == "−14 to −12 %"
    assert percent(Bound(0.276, to=0.284)) == "28 %"
    assert (seconds(0.012), seconds(2.0), seconds(300.0)) == ("12 ms", "2.00 s", "5.00 min")


def test_ticks_are_round_and_few():
    assert round_numbers(80, 320) == [100, 150, 200, 300]
    assert 3 <= len(round_numbers(1, 1000)) <= 7
    assert round_numbers(95, 130)
