"""report.html as a file: what it says of complete, partial and odd runs (tests/browser opens it)."""

import base64
import dataclasses
import html
import json
import re

import numpy as np
import pytest
from fake_run import DENSITIES, fake_predictions, fake_record, write_metrics, write_run, write_selection

from msmlff.analysis.errors import error_table, save_error_table
from msmlff.analysis.report import write_report
from msmlff.analysis.tables import figure
from msmlff.errors import InputError


def page_of(run) -> str:
    """The report without plotly.js and the words for readers without JavaScript."""
    text = write_report(run).read_text(encoding="utf-8")
    text = re.sub(r"<script>/\*.*?plotly\.js.*?</script>", "", text, flags=re.S)
    return re.sub(r"<noscript>.*?</noscript>", "", text, flags=re.S)


def plots(page: str) -> dict[str, dict]:
    found = re.findall(
        r'<script type="application/json" data-plot="([\w-]+)">(.*?)</script>', page, flags=re.S
    )
    return {name: json.loads(text) for name, text in found}


def test_complete_run(tmp_path):
    run = write_run(tmp_path / "run")
    page = page_of(run)
    assert "<title>MS-MACE on dense_hydrogen · CPD 200</title>" in page
    assert "200 of 575 frames of dense_hydrogen, chosen by CPD; tested on 92 other frames" in page
    assert "python train.py model=msmace data=cpd_200 seed=1" in page
    overall = json.loads((run / "test_metrics.json").read_text())["overall"]
    for name in ("energy", "force", "stress"):
        assert f"<b>{figure(overall[f'{name}_rmse'])}</b>" in page
        assert f"({figure(overall['trivial'][f'{name}_rmse'])})" in page
    assert set(plots(page)) == {
        "pool-map", "chosen-by-group",
        "coverage-groups", "coverage-tails", "coverage-components", "coverage-forces", "coverage-energies",
        "learning-loss", "learning-energy", "learning-force", "learning-stress",
        "parity-energy", "parity-forces", "parity-pressure",
        "histogram-energy", "histogram-force", "histogram-pressure",
        "group-energy", "group-force", "group-stress",
        "force-size", "force-size-relative", "force-direction",
    }  # fmt: skip
    for text in ("share of forces", "97.2 %", "11.3 %", "sends no messages"):
        assert text in page
    assert 'class="notice' not in page
    assert re.search(r"labels</t[hd]>\s*<td[^>]*>PBE<", page)
    assert "duplicate, 3 times" in page
    assert "pool.xyz:7: twice" in page
    assert "shared, 2 frames" in page
    assert "_target_: msmlff.models.msmace.MSMACE" in page


def test_map_shows_every_frame_and_names_the_chosen_ones(tmp_path):
    run = write_run(tmp_path / "run")
    pool, chosen = plots(page_of(run))["pool-map"]["data"]
    assert len(pool["text"]) == 375
    assert len(chosen["text"]) == 200
    first = json.loads((run / "selection.json").read_text())["ids"][0]
    (hover,) = [text for text in chosen["text"] if text.startswith(f"<b>frame {first}</b>")]
    group = DENSITIES[first // 25]
    assert f"density g/cm³: {group}<br>" in hover
    assert hover.endswith("chosen as number 1")
    assert all("not chosen" in text for text in pool["text"])


def test_stability_is_drawn_where_it_was_validated(tmp_path):
    run = write_run(tmp_path / "run")
    write_metrics(run / "metrics.csv", until=600, stability=True)
    time, share = plots(page_of(run))["learning-stability"]["data"]
    steps = np.array([200, 400, 600])  # not at each validation
    values = 1 - (1 + steps / 40) ** -0.9
    for curve, expected in ((time, 1000 * values), (share, values)):
        found = [np.frombuffer(base64.b64decode(curve[key]["bdata"]), curve[key]["dtype"]) for key in "xy"]
        np.testing.assert_allclose(found, [steps, expected], rtol=1e-4)
    assert share["yaxis"] == "y2"


def test_nothing_is_fetched_from_elsewhere(tmp_path):
    page = page_of(write_run(tmp_path / "run"))
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)""", page)
    assert "@import" not in page
    assert "url(" not in page


def test_size_of_a_large_test_set(tmp_path):
    run = write_run(tmp_path / "run")
    big = fake_predictions(per_group=60, atoms=128)
    big.save(run / "predictions_test.npz")
    assert write_report(run).stat().st_size < 7e6


def test_large_pool_is_thinned_but_keeps_the_chosen(tmp_path):
    run = write_run(tmp_path / "run")
    rng = np.random.default_rng(0)
    n = 40_000
    chosen = np.zeros(n, dtype=bool)
    chosen[rng.permutation(n)[:300]] = True
    arrays = {"frame_id": np.arange(n), "pca": rng.normal(size=(n, 2)), "log_density": rng.normal(size=n)}
    np.savez(run / "pool_map.npz", **arrays, band=np.full(n, "middle"), chosen=chosen, group=np.full(n, ""))
    page = page_of(run)
    pool, kept = plots(page)["pool-map"]["data"]
    assert len(kept["text"]) == 300
    assert 3000 < len(pool["text"]) <= 5700
    assert "of 40000 frames are drawn" in page


def test_diverged_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_metrics(run / "metrics.csv", until=300)
    write_selection(run)
    reason = "the loss is 3.2e9 at step 305: lower training.optimizer.lr"
    (run / "record.json").write_text(json.dumps(fake_record(status="diverged", stop_reason=reason)))
    page = page_of(run)
    assert '<span class="badge bad">diverged</span>' in page
    assert reason in page
    assert "learning-force" in plots(page)
    assert "the run was not tested" in page


def test_empty_folder_and_folder_that_is_not_there(tmp_path):
    page = page_of(tmp_path)
    assert plots(page) == {}
    for line in ("metrics.csv", "selection.json", "predictions_test.npz", "record.json", "config.yaml"):
        assert line in page
    with pytest.raises(InputError, match="no such run folder"):
        write_report(tmp_path / "absent")


def test_broken_files_are_named_and_the_rest_is_shown(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "predictions_test.npz").write_bytes(b"PK torn")
    (run / "selection.json").write_text("{torn")
    text = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(text[: len(text) // 2] + "\n17,6")
    page = page_of(run)
    assert "predictions_test.npz could not be read" in page
    assert "selection.json could not be read" in page
    assert "these are the validation frames" in page
    assert {"parity-energy", "pool-map", "learning-loss", "group-force"} <= set(plots(page))


def test_errors_are_worked_out_where_only_predictions_exist(tmp_path):
    run = write_run(tmp_path / "run")
    expected = page_of(run)
    (run / "test_metrics.json").unlink()
    tiles = r'<div class="tile">.*?</div>'
    assert re.findall(tiles, page_of(run), flags=re.S) == re.findall(tiles, expected, flags=re.S)


def test_run_without_stress_groups_or_selector(tmp_path):
    run = write_run(tmp_path / "run", stress=False, selector="FullSelector")
    (run / "pool_map.npz").unlink()
    p = fake_predictions(groups=[""], per_group=40, stress=False)
    p.save(run / "predictions_test.npz")
    save_error_table(error_table(p), run / "test_metrics.json")
    page = page_of(run)
    assert "all 575 frames of dense_hydrogen; tested on 40 other frames" in page
    assert "dense_hydrogen · full 575" in page
    assert "The labels hold no stress." in page
    assert "no groups to tell apart" in page
    drawn = plots(page)
    assert {"parity-forces", "force-size"} <= set(drawn)
    assert not any("stress" in name or "pressure" in name or "group" in name for name in drawn)


def test_predictions_without_a_finite_number(tmp_path):
    run = write_run(tmp_path / "run")
    p = fake_predictions()
    for array in (p.energy, p.forces, p.stress):
        array[:] = np.nan
    p.save(run / "predictions_test.npz")
    save_error_table(error_table(p), run / "test_metrics.json")
    page = page_of(run)
    assert "92 of 92 frames have predictions that are not finite" in page
    assert "No prediction is finite." in page


def test_names_from_outside_are_escaped(tmp_path):
    evil = "</script><script>alert(1)</script>"
    run = write_run(
        tmp_path / "run", pool=evil, command=f"python train.py {evil}", group_name=evil, device=evil
    )
    p = fake_predictions(per_group=2)
    p = dataclasses.replace(p, group=np.where(p.group == "1.41", evil, p.group))
    p.save(run / "predictions_test.npz")
    save_error_table(error_table(p), run / "test_metrics.json")
    with np.load(run / "pool_map.npz") as file:
        arrays = dict(file)
    arrays["group"] = np.where(arrays["group"] == "1.41", evil, arrays["group"].astype("<U60"))
    np.savez(run / "pool_map.npz", **arrays)
    (run / "config.yaml").write_text(f"pool: {evil}\n")
    page = page_of(run)
    assert "alert(1)</script>" not in page
    assert html.escape(evil) in page
    titles = json.dumps(plots(page))
    # plotly reads a little HTML in its texts: they are escaped once more than JSON needs
    assert "<script" not in titles
    assert "&lt;script" in titles
