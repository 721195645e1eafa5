"""The table over a sweep's runs."""

import csv
import io
import json

import numpy as np
import pytest
from fake_run import fake_predictions, fake_record
from rich.console import Console

from msmlff.analysis.errors import error_table, save_error_table
from msmlff.analysis.sweep import sweep_table
from msmlff.errors import InputError


@pytest.fixture
def runs(tmp_path):
    """Two settings with two seeds each, the last diverged, and a job that died before it wrote anything."""
    folders = []
    for i, (budget, seed) in enumerate([(50, 1), (50, 2), (200, 1), (200, 2)]):
        folder = tmp_path / f"job{i}"
        folder.mkdir()
        command = f"python train.py -m training.steps=500 data=cpd_{budget} seed={seed}"
        diverged = i == 3
        record = fake_record(
            command=command, seconds_total=60.0 * (i + 1), status="diverged" if diverged else "finished"
        )
        (folder / "record.json").write_text(json.dumps(record))
        if not diverged:
            save_error_table(error_table(fake_predictions(seed=i)), folder / "test_metrics.json")
        folders.append(folder)
    dead = tmp_path / "job4"
    dead.mkdir()
    return [*folders, dead]


def test_a_row_for_each_job_failures_included(runs):
    rows = list(csv.DictReader(io.StringIO(sweep_table(runs).csv)))
    assert [row["status"] for row in rows] == ["finished", "finished", "finished", "diverged", "failed"]
    assert [row["seed"] for row in rows] == ["1", "2", "1", "2", ""]
    expected = error_table(fake_predictions(seed=1))["overall"]["force_rmse"]
    assert float(rows[1]["force_rmse_mev_a"]) == pytest.approx(expected)
    assert rows[3]["force_rmse_mev_a"] == ""
    assert float(rows[2]["minutes"]) == pytest.approx(3.0)
    assert rows[0]["overrides"] == "training.steps=500 data=cpd_50"


def test_mean_and_spread_over_seeds(runs):
    text = sweep_table(runs).markdown
    values = [error_table(fake_predictions(seed=i))["overall"]["energy_rmse"] for i in (0, 1)]
    means = text[text.index("| settings |") :]
    line = next(line for line in means.splitlines() if line.startswith("| data=cpd_50 | 2 |"))
    assert f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2g}" in line
    failed = next(line for line in text.splitlines() if "1 of 2, 1 did not finish" in line)
    assert failed.startswith("| data=cpd_200 |")
    assert "±" not in failed


def test_what_all_jobs_share_is_said_once(runs):
    text = sweep_table(runs).markdown
    assert text.count("training.steps=500") == 1


def test_overrides_of_the_record_go_before_the_command(runs):
    record = json.loads((runs[0] / "record.json").read_text())
    command = "python train.py -m data=cpd_50,cpd_200 seed=1,2"
    record |= {"command": command, "overrides": ["data=cpd_50", "seed=7"]}
    (runs[0] / "record.json").write_text(json.dumps(record))
    job = sweep_table(runs[:1]).jobs[0]
    assert (job.overrides, job.seed) == (("data=cpd_50",), "7")


def test_view(runs):
    table = sweep_table(runs)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(table.view)
    text = console.export_text()
    assert "diverged" in text
    assert "job4" in text


def test_absent_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        sweep_table([tmp_path / "nowhere"])
