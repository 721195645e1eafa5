"""What the tables show in a terminal 100 columns wide."""

import dataclasses
import io

import numpy as np
import pytest
from fake_run import fake_predictions, fake_record
from rich.console import Console

from msmlff.analysis.errors import error_table
from msmlff.analysis.tables import error_table_view, figure, start_page


def shown(renderable, width: int = 100) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (0.0, "0"), (12.345, "12.3"), (0.01234, "0.0123"), (2626.4, "2626"), (-3.2, "-3.20"),
     (3.2e9, "3.20e+09"), (float("nan"), "nan")],
)  # fmt: skip
def test_figures_have_three_digits(value, text):
    assert figure(value) == text


def test_error_table_shows_model_beside_trivial_predictor():
    table = error_table(fake_predictions())
    text = shown(error_table_view(table, "test errors", "density g/cm³"))
    line = next(line for line in text.splitlines() if line.strip().startswith("forces"))
    overall = table["overall"]
    assert figure(overall["force_rmse"]) in line
    assert figure(overall["trivial"]["force_rmse"]) in line
    assert "1.41" in text
    assert "density g/cm³" in text
    assert max(map(len, text.splitlines())) <= 100


def test_error_table_leaves_out_what_has_no_label():
    text = shown(error_table_view(error_table(fake_predictions(stress=False, groups=[""]))))
    assert "forces" in text
    assert "stress" not in text
    assert "pressure" not in text


def test_many_groups_are_cut_to_the_worst():
    p = fake_predictions(groups=[f"g{i}" for i in range(50)], per_group=1)
    table = error_table(p)
    text = shown(error_table_view(table, max_groups=10))
    assert "40 groups" in text
    worst = sorted(table["by_group"], key=lambda g: table["by_group"][g]["force_rmse"])[-10:]
    listed = [line.split()[0] for line in text.splitlines() if line.strip().startswith("g")]
    assert sorted(set(listed) - {"group"}) == sorted(worst)


def test_predictions_that_are_not_finite_are_announced():
    p = fake_predictions()
    p.forces[0] = np.nan
    assert "1 of 92 frames" in shown(error_table_view(error_table(p)))


def test_group_names_are_not_markup():
    p = fake_predictions(per_group=1)
    p = dataclasses.replace(p, group=np.where(p.group == "1.41", "[red]x[/red]", p.group))
    assert "[red]x[/red]" in shown(error_table_view(error_table(p)))


def test_start_page_holds_what_a_run_begins_with():
    text = shown(start_page(fake_record(), notes=["2 duplicate frames left out"]))
    for piece in (
        "MS-MACE on dense_hydrogen", "575 frames", "200 frames (35 % of the pool)", "46 frames", "92 frames",
        "-13.012346 eV", "least squares", "151 meV/atom", "214,312", "below 3 Å", "32 channels, l ≤ 3",
        "34.2 neighbours per atom", "159 neighbours per atom", "CPU, 2 cores", "reference",
        "2 duplicate frames left out",
    ):  # fmt: skip
        assert piece in text
    assert max(map(len, text.splitlines())) <= 100


def test_start_page_of_a_record_that_has_just_begun():
    assert "force field" in shown(start_page({"command": "python train.py"}))


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_start_page_cuts_nothing_off(width):
    record = fake_record()
    device = "CPU, 2 threads (Intel(R) Xeon(R) Platinum 8581C CPU @ 2.30GHz)"
    source = "least squares over the labels of the 200 chosen frames of the pool, in float64"
    note = "train: duplicate 12 times, first: pool_1.02.extxyz:128 repeats frame 4 of the same file"
    record |= {"device": device, "data": {**record["data"], "e0_source": source}}
    lines = shown(start_page(record, notes=[note]), width).splitlines()
    assert max(map(len, lines)) <= width
    columns = [line.strip("│").split("│")[-1] for line in lines]
    words = " ".join(" ".join(columns).split())
    for piece in (device, note):
        assert piece in words
    left = [line.strip("│").split("│")[0] for line in lines]
    assert source in " ".join(" ".join(left).split())
    beside = any("Data" in line and "Model" in line for line in lines)
    assert beside == (width >= 100)


def test_groups_fit_into_80_columns():
    table = error_table(fake_predictions())
    assert "…" not in shown(error_table_view(table, "test errors", "density_g_cm3"), 80)
