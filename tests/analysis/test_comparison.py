"""From cells to tables: studies with known differences, failures, and studies that still run."""

import json
import math

import numpy as np
import pytest
from fake_study import FakeStudy

from msmlff.analysis.comparison import Bound, Comparison, common_seeds, median_saving
from msmlff.analysis.comparison_cells import base_of, grid, read_study
from msmlff.analysis.comparison_coverage import correlations, costs
from msmlff.errors import InputError

FORCE = "force_rmse"


def compare(tmp_path, study, cells=None):
    return Comparison(read_study(study.write(tmp_path / "study", cells)), FORCE)


def row_of(comparison, label, aware=False):
    return next(row for row in comparison.rows(aware) if row.label == label)


def test_ratio_is_the_effect_that_was_put_in(tmp_path):
    study = FakeStudy({"random": 0.0, "good": -0.2, "bad": 0.2, "same": 0.0}, selection_spread=0.01)
    rows = compare(tmp_path, study).rows(False)
    assert (rows[0].label, rows[-1].label) == ("good", "bad")
    by_label = {row.label: row.against for row in rows}
    assert by_label["random"] is None
    for label, effect, verdict in (("good", -0.2, "better"), ("bad", 0.2, "worse")):
        result = by_label[label]
        assert result.ratio.value == pytest.approx(math.exp(effect), rel=0.03)
        assert result.ratio.low < math.exp(effect) < result.ratio.high
        # frames of one size: atoms give the same area
        assert result.ratio_atoms.high == pytest.approx(result.ratio.high)
        assert result.verdict == verdict
        assert result.test.p == 2 / 1024
        assert result.p == result.smallest_p == 6 / 1024
    assert by_label["same"].verdict == "tie"
    assert by_label["same"].pairs == 10


def test_points_are_geometric_means_with_intervals(tmp_path):
    study = FakeStudy({"random": 0.0}, noise=0.0, init_spread=0.0, full=False)
    comparison = compare(tmp_path, study)
    point = comparison.points["random"][2]
    errors = [c["errors"][FORCE] for c in study.cells() if c["budget"] == 100]
    assert point.error.value == pytest.approx(float(np.exp(np.mean(np.log(errors)))))
    assert point.error.low < point.error.value < point.error.high
    assert (point.budget, point.frames, point.atoms, point.cells, point.failed) == (100, 100, 12800, 30, 0)


def test_selections_of_one_seed_are_a_pair():
    assert common_seeds([(1,), (2,), (3,)], [(2,), (3,), (4,)]) == [([1], [0]), ([2], [1])]
    # one selection against three, and a chain of equal selections on either side: one pair
    assert common_seeds([(1, 2, 3)], [(1,), (2,), (3,)]) == [([0], [0, 1, 2])]
    assert common_seeds([(1, 2), (3,), (4,)], [(1,), (2, 3), (4,)]) == [([0, 1], [0, 1]), ([2], [2])]
    assert common_seeds([(1,)], [(2,)]) == []


def test_what_the_parts_of_the_pool_share_cancels(tmp_path):
    """A seed whose part of the pool is bad for all selectors: the difference is found all the same."""
    study = FakeStudy({"random": 0.0, "good": -0.03}, selection_spread=0.005)
    cells = study.cells()
    shared = 0.3 * np.random.default_rng(1).normal(size=11)
    for cell in cells:
        if cell["selector"] != "full":
            cell["errors"][FORCE] *= math.exp(shared[cell["selection_seed"]])
    against = row_of(compare(tmp_path, study, cells), "good").against
    assert against.verdict == "better"
    assert against.ratio.value == pytest.approx(math.exp(-0.03), rel=0.01)
    assert against.ratio.high < 1


def test_a_selection_that_lacks_the_worst_weights_is_not_taken_for_better(tmp_path):
    study = FakeStudy({"random": 0.0, "same": 0.0}, init_spread=0.5, noise=0.001, selection_spread=0.001)
    cells = [
        c
        for c in study.cells()
        if not (c["selector"] == "same" and c["init_seed"] == 1 and c["selection_seed"] < 4)
    ]
    against = row_of(compare(tmp_path, study, cells), "same").against
    assert against.verdict == "tie"
    assert abs(against.test.difference) < 0.002


def test_shared_initial_weights_do_not_widen_the_ratio(tmp_path):
    comparison = compare(tmp_path, FakeStudy(init_spread=0.3))
    result = row_of(comparison, "cpd").against
    point = comparison.points["cpd"][0].error
    assert math.log(result.ratio.high / result.ratio.low) < 0.5 * math.log(point.high / point.low)


def test_false_discoveries_are_rare_without_any_difference(tmp_path):
    found = 0
    for seed in range(20):
        study = FakeStudy(dict.fromkeys(["random", "a", "b", "c", "d"], 0.0), seed=seed, budgets=(25, 100))
        comparison = Comparison(read_study(study.write(tmp_path / str(seed))), FORCE)
        found += any(row.against and row.against.verdict != "tie" for row in comparison.rows(False))
    assert found <= 3


def test_a_failed_cell_is_counted_and_worse_than_any_other(tmp_path):
    study = FakeStudy({"random": 0.0, "shaky": -0.05}, selection_spread=0.03)
    cells = study.cells()
    clean = compare(tmp_path / "clean", study)
    for cell in cells:
        if cell["selector"] == "shaky" and cell["budget"] == 50 and cell["init_seed"] == 1:
            cell.update(status="diverged", message="loss is NaN", errors={})
    shaky = compare(tmp_path / "shaky", study, cells)
    row = row_of(shaky, "shaky")
    assert (row.failed, row.cells) == (10, 150)
    assert [p.failed for p in row.points] == [0, 10, 0, 0, 0]
    assert row.against.failed == 10
    assert row.against.test.difference > row_of(clean, "shaky").against.test.difference
    finite = shaky.grids["random"].log_error[:, 1].max()
    assert shaky.failed_value[1] >= finite + math.log(1.1) - 1e-12


def test_an_error_that_is_not_finite_is_a_failure(tmp_path):
    study = FakeStudy()
    cells = study.cells()
    first = next(c for c in cells if c["selector"] == "cpd")
    first["errors"][FORCE] = None
    assert row_of(compare(tmp_path, study, cells), "cpd").failed == 1


def test_a_selector_that_always_fails_is_worse(tmp_path):
    study = FakeStudy()
    cells = study.cells()
    for cell in cells:
        if cell["selector"] == "cpd":
            cell.update(status="failed", errors={}, message="no")
            # the selection itself failed: nothing was chosen
            del cell["frames"], cell["atoms"], cell["coverage"], cell["selection_hash"]
    row = row_of(compare(tmp_path, study, cells), "cpd")
    assert row.against.verdict == "worse"
    assert row.against.ratio is None
    assert all(point.error is None for point in row.points)
    assert row.saving is None


def test_equal_selections_are_one_unit(tmp_path):
    study = FakeStudy({"random": 0.0, "uniform": -0.3}, selection_spread=0.0)
    cells = study.cells()
    for cell in cells:
        if cell["selector"] == "uniform":
            cell["selection_hash"] = f"same-{cell['budget']}"
    comparison = compare(tmp_path, study, cells)
    assert comparison.grids["uniform"].seeds == (tuple(range(1, 11)),)
    result = row_of(comparison, "uniform").against
    assert result.pairs == 1
    assert result.test is None
    assert result.verdict == ""
    assert result.ratio.value == pytest.approx(math.exp(-0.3), rel=0.02)


def test_equal_budget_to_the_full_set(tmp_path):
    study = FakeStudy({"random": 0.0, "super": -0.6}, noise=0.001, selection_spread=0.001, init_spread=0.001)
    comparison = compare(tmp_path, study)
    # 575^-0.35 is reached by random at 575 / 1.05^(1/0.35) = 500, by super at 90
    assert row_of(comparison, "random").n_eq is None
    assert row_of(comparison, "super").n_eq == 100
    without = compare(tmp_path / "b", FakeStudy({"random": 0.0}, full=False))
    assert row_of(without, "random").n_eq is None


def test_data_saving_is_that_of_the_power_law(tmp_path):
    quiet = {"noise": 0.0, "selection_spread": 0.0, "init_spread": 0.0}
    study = FakeStudy({"random": 0.0, "half": 0.35 * math.log(0.5), "double": 0.35 * math.log(2)}, **quiet)
    comparison = compare(tmp_path, study)
    saved = row_of(comparison, "half").savings
    assert saved[50].value == pytest.approx(0.5)
    assert saved[50].sign == ""
    assert (saved[400].value, saved[400].sign) == (pytest.approx(0.0), ">")
    assert row_of(comparison, "half").saving.value == pytest.approx(0.5)
    wasted = row_of(comparison, "double").savings
    assert wasted[100].value == pytest.approx(-1.0)
    assert (wasted[25].value, wasted[25].sign) == (pytest.approx(0.0), "<")


def test_median_saving_keeps_the_sign_of_a_bound():
    assert median_saving({}) is None
    assert median_saving({1: Bound(0.1), 2: Bound(0.5, ">"), 3: Bound(0.7, ">")}) == Bound(0.5, ">")
    assert median_saving({1: Bound(0.25), 2: Bound(0.75, ">")}) == Bound(0.5, ">")
    # bounds at the edges leave the middle known
    assert median_saving({1: Bound(0.0, "<"), 2: Bound(0.2), 3: Bound(0.3, ">")}) == Bound(0.2)
    assert median_saving({1: Bound(0.0, "<"), 2: Bound(-0.2, "<"), 3: Bound(0.3)}) == Bound(0.0, "<")
    assert median_saving({1: Bound(0.0, "<"), 2: Bound(0.0, ">")}) is None


def test_atoms_as_budget_differ_where_frames_differ_in_size(tmp_path):
    study = FakeStudy({"random": 0.0, "large": -0.1}, noise=0.0, selection_spread=0.0)
    cells = study.cells()
    for cell in cells:
        if cell["selector"] == "large":
            cell["atoms"] *= 2
    result = row_of(compare(tmp_path, study, cells), "large").against
    assert result.ratio.value == pytest.approx(math.exp(-0.1))
    assert result.ratio_atoms.value == pytest.approx(math.exp(-0.1 + 0.35 * math.log(2)), rel=1e-3)


def test_label_aware_selectors_have_a_table_of_their_own(tmp_path):
    study = FakeStudy({"random": 0.0, "cpd": -0.1, "lcmd": -0.2}, aware=("lcmd",))
    comparison = compare(tmp_path, study)
    assert [row.label for row in comparison.rows(False)] == ["cpd", "random"]
    assert [row.label for row in comparison.rows(True)] == ["lcmd", "random"]
    # one test in each table: nothing to correct for
    assert row_of(comparison, "lcmd", True).against.p == 2 / 1024
    assert compare(tmp_path / "b", FakeStudy()).rows(True) == []


def test_variations_are_compared_with_their_base(tmp_path):
    study = FakeStudy({"random": 0.0, "cpd": -0.1, "cpd density=knn": -0.3, "cpd central=0": 0.3})
    comparison = compare(tmp_path, study)
    assert [row.label for row in comparison.rows(False)] == ["cpd", "random"]
    results = comparison.variations()["cpd"]
    assert results["cpd density=knn"].ratio.value == pytest.approx(math.exp(-0.2), rel=0.05)
    assert results["cpd density=knn"].verdict == "better"
    assert results["cpd central=0"].verdict == "worse"
    assert results["cpd central=0"].smallest_p == pytest.approx(2 * 2 / 1024)
    assert base_of("cpd density=knn") == "cpd"
    assert base_of("force weighted fps") is None


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_a_study_that_still_runs_gives_what_it_can(tmp_path, share, seed):
    study = FakeStudy(
        {"random": 0.0, "cpd": -0.1, "fps": 0.1, "cpd density=knn": 0.0, "lcmd": -0.1}, ("lcmd",)
    )
    cells = study.cells()
    rng = np.random.default_rng(seed)
    done = [cell for cell in cells if rng.random() < share] or cells[:1]
    comparison = compare(tmp_path, study, done)
    rows = comparison.rows(False) + comparison.rows(True)
    comparison.variations()
    correlations(comparison)
    costs(comparison.study)
    for row in rows:
        if row.against and row.against.ratio:
            assert 0.7 < row.against.ratio.value < 1.4


def test_only_budgets_that_both_have_are_compared(tmp_path):
    study = FakeStudy({"random": 0.0, "cpd": -0.2})
    cells = [c for c in study.cells() if not (c["selector"] == "cpd" and c["budget"] in (200, 400))]
    cells = [
        c for c in cells if not (c["selector"] == "cpd" and c["selection_seed"] == 5 and c["budget"] == 50)
    ]
    result = row_of(compare(tmp_path, study, cells), "cpd").against
    assert result.budgets == (25, 50, 100)
    assert result.pairs == 9
    assert result.ratio.value == pytest.approx(math.exp(-0.2), rel=0.05)


def test_without_a_baseline_there_is_no_verdict(tmp_path):
    comparison = compare(tmp_path, FakeStudy({"cpd": -0.1, "fps": 0.0}))
    assert all(row.against is None and row.savings == {} for row in comparison.rows(False))


def test_coverage_that_rules_the_error_correlates(tmp_path):
    effects = {"random": 0.0} | {f"s{i}": 0.05 * i for i in range(-4, 5)}
    found = correlations(compare(tmp_path, FakeStudy(effects)))
    by_name = {c.name: c for c in found}
    assert by_name["environment_share"].mean.value < -0.9
    assert by_name["mean_distance"].mean.value > 0.9
    assert abs(by_name["dh_mean"].mean.value) < 0.3
    assert by_name["dh_mean"].mean.low < 0 < by_name["dh_mean"].mean.high
    assert found[-1].name == "dh_mean"
    assert set(by_name["dh_mean"].by_budget) == {25, 50, 100, 200, 400}


def test_costs_are_of_the_largest_budget_that_was_selected_alone(tmp_path):
    cells = FakeStudy().cells()
    for cell in cells:
        if cell["selector"] == "fps" and cell["budget"] == 400:
            cell["seconds_selection"] = None
    found = costs(read_study(FakeStudy().write(tmp_path / "study", cells)))
    assert found["cpd"]["selection"] == pytest.approx((0.42, 0.42, 0.42))
    assert found["fps"]["selection"] == pytest.approx((0.22, 0.22, 0.22))
    assert found["cpd"]["training"] == (60.0, 60.0, 60.0)
    assert set(found["full"]) == {"training"}


def test_budgets_may_be_label_costs(tmp_path):
    study = FakeStudy({"random": 0.0, "cpd": -0.2}, budgets=(0.5, 1.25, 3))
    comparison = compare(tmp_path, study)
    assert comparison.budgets == [0.5, 1.25, 3]
    assert row_of(comparison, "cpd").against.verdict == "better"


def test_unreadable_cells_are_named_and_the_rest_counts(tmp_path):
    folder = FakeStudy().write(tmp_path / "study")
    (folder / "cells" / "zz1.json").write_text('{"selector": "cpd"')
    (folder / "cells" / "zz2.json").write_text('{"selector": "cpd"}')
    (folder / "cells" / "zz3.json").write_text("[1]")
    copy = json.loads((folder / "cells" / "00000.json").read_text())
    (folder / "cells" / "zz4.json").write_text(json.dumps(copy))
    (folder / "cells" / "zz5.json").write_text(json.dumps(copy | {"budget": None}))
    (folder / "settings.json").write_text("{")
    study = read_study(folder)
    assert len(study.problems) == 6
    assert study.pool == "fake_hydrogen"
    assert grid(study, "random", FORCE).cells.sum() == 150


def test_a_folder_without_cells_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no cells"):
        read_study(tmp_path)
