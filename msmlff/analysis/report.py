"""report.html: everything about a run in one file that opens from disk, without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.analysis import report_error_figures, report_figures
from msmlff.analysis.errors import Predictions, sort_groups
from msmlff.analysis.figure_style import MOST_GROUPS
from msmlff.analysis.observables_page import observables_section
from msmlff.analysis.page import write_page
from msmlff.analysis.report_blocks import Section, TableBlock, Tile
from msmlff.analysis.report_coverage import coverage_section
from msmlff.analysis.run_folder import RunFolder, group_label, model_label, read_run
from msmlff.analysis.simulation_page import simulation_section
from msmlff.analysis.tables import NOTHING
from msmlff.analysis.tables import figure as number
from msmlff.analysis.worst_frames import worst_table, worst_viewer


def write_report(run_dir: str | Path, ended: Mapping[str, Any] | None = None) -> Path:
    """Write ``report.html`` into a run folder from whatever files of a run are there.

    Sections whose files are absent say so, so an interrupted or diverged run has a report as well. Frame
    numbers are those of the pool (map, selection) or of the test set (errors).

    Args:
        run_dir: the run folder.
        ended: entries that go before those of record.json, for a run that is about to be called finished.

    Returns:
        The path of the report.

    Raises:
        InputError: the folder does not exist.
    """
    run = read_run(run_dir)
    run = replace(run, record={**run.record, **(ended or {})})
    group_name = group_label(run.record.get("data", {}).get("group_name"))
    sections = [
        _selection_section(run, group_name),
        coverage_section(run, group_name),
        _learning_section(run),
        _parity_section(run, group_name),
        _slices_section(run, group_name),
        _data_section(run),
        _model_section(run),
        _machine_section(run),
    ]
    for section in (simulation_section(run.path), observables_section(run.path)):
        if section is not None:
            sections.insert(-3, section)
    return write_page(
        run.path / "report.html",
        "report.html.j2",
        sections,
        title=run.title,
        summary=_summary(run),
        status=_status(run),
        tiles=_tiles(run),
        command=run.record.get("command"),
        facts=_facts(run),
        problems=[f"{name} could not be read: {why}" for name, why in run.problems.items()],
        config=run.config,
        files=sorted(_files(run.path)),
    )


def _files(folder: Path) -> list[str]:
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    names = [p.relative_to(folder).as_posix() for p in found]
    return [name for name in names if name != "report.html"][:60]


# --- headline


def _status(run: RunFolder) -> dict[str, str]:
    status = run.record.get("status")
    reason = str(run.record.get("stop_reason") or "")
    words = {
        "finished": ("finished", "good"),
        "interrupted": ("interrupted", "warn"),
        "diverged": ("diverged", "bad"),
        "failed": ("failed", "bad"),
    }
    label, kind = words.get(str(status), ("not finished", "warn"))
    if status not in words:
        reason = "record.json names no end: the run is still going, or was killed."
    return {"label": label, "kind": kind, "reason": reason}


def _summary(run: RunFolder) -> str:
    model, data = run.record.get("model", {}), run.record.get("data", {})
    if not model and not data:
        return "This folder holds no record of a run (record.json); what other files tell is below."
    scales = " and ".join(f"{scale['cutoff']:g} Å" for scale in model.get("scales", ()))
    parameters = f"{model['parameters']:,} parameters" if "parameters" in model else ""
    inside = ", ".join(x for x in (parameters, f"cutoff {scales}" if scales else "") if x)
    text = model_label(str(model.get("name", "The model"))) + (f" ({inside})" if inside else "")
    text += f", trained for {run.record['steps']:,} steps on " if run.record.get("steps") else ", trained on "
    n_train, n_pool = data.get("n_train", "?"), data.get("n_pool", "?")
    everything = n_train == n_pool
    text += f"all {n_pool} frames" if everything else f"{n_train} of {n_pool} frames"
    text += f" of {data.get('pool', 'the pool')}"
    if run.selection and not everything:
        text += f", chosen by {run.selection_label.rsplit(' ', 1)[0]}"
    if run.errors:
        text += f"; tested on {run.errors['frames']} other frames"
    return text + "."


def _tiles(run: RunFolder) -> list[Tile]:
    tiles = []
    overall = (run.errors or {}).get("overall", {})
    for name, label, unit in (
        ("energy", "Energy RMSE", "meV/atom"),
        ("force", "Force RMSE", "meV/Å"),
        ("stress", "Stress RMSE", "meV/Å³"),
    ):
        value = overall.get(f"{name}_rmse")
        if value is None:
            continue
        trivial = overall["trivial"][f"{name}_rmse"]
        note = f"{100 * value / trivial:.1f} % of trivial ({number(trivial)})" if trivial else ""
        tiles.append(Tile(label, number(value), unit, note))
    seconds = run.record.get("seconds_training")
    if seconds is not None:
        rate = run.record.get("atoms_per_second")
        note = f"{rate:,.0f} atoms/s" if rate else ""
        tiles.append(Tile("Training time", *_duration(seconds), note))
    return tiles


def _duration(seconds: float) -> tuple[str, str]:
    if seconds < 100:
        return f"{seconds:.0f}", "s"
    if seconds < 6000:
        return f"{seconds / 60:.1f}", "min"
    return f"{seconds / 3600:.1f}", "h"


def _facts(run: RunFolder) -> str:
    """One line: when, where, which revision."""
    record = run.record
    revision = str(record.get("git_revision") or "")[:12]
    parts = [
        str(record.get("started") or "").replace("T", " ").replace("+00:00", " UTC"),
        str(record.get("device") or ""),
        f"msmlff {record['version']}" if record.get("version") else "",
        f"revision {revision}" if revision else "",
    ]
    return " · ".join(part for part in parts if part)


# --- sections


def _selection_section(run: RunFolder, group_name: str) -> Section:
    section = Section("selection", "Selection")
    if run.pool_map is None:
        section.missing.append(
            "No map of the pool (pool_map.npz): the selection used no descriptor, or did not finish."
        )
    else:
        section.figures.append(report_figures.pool_map(run, group_name))
        groups = sort_groups(run.pool_map["group"])
        if 1 < len(groups) <= MOST_GROUPS:
            section.figures.append(report_figures.chosen_by_group(run, groups, group_name))
    if run.selection is None:
        section.missing.append("No record of the selection (selection.json).")
        return section
    record = run.selection.get("record", {})
    rows = [("frames chosen", str(len(run.selection.get("ids", ()))))]
    for key in (
        "selector",
        "descriptor",
        "parameters",
        "seed",
        "nested",
        "n_pool",
        "pool_hash",
        "details",
    ):
        if record.get(key) is not None:
            rows.append((key.replace("_", " "), _plain(record[key])))
    section.tables.append(TableBlock(rows, title="Record"))
    return section


def _plain(value: Any) -> str:
    """A JSON value as a reader would write it."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            name = str(value["_target_"]).rsplit(".", 1)[-1]
            return f"{name}({_plain({key: item for key, item in value.items() if key != '_target_'})})"
        return ", ".join(f"{key} = {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _learning_section(run: RunFolder) -> Section:
    curves = report_figures.learning_curves(run.metrics, run.record.get("best_step"))
    section = Section("learning", "Learning curves", figures=curves)
    if not section.figures:
        section.missing.append("No logged steps (metrics.csv): training had not begun, or logged nothing.")
    elif not any(block.name != "learning-loss" for block in section.figures):
        section.missing.append("No validation had been done.")
    return section


def _parity_section(run: RunFolder, group_name: str) -> Section:
    section = Section("parity", "Predictions against labels")
    predictions, split = _shown_predictions(run)
    if predictions is None:
        section.missing.append(
            "No predictions (predictions_test.npz, predictions_val.npz): the run was not tested."
        )
        return section
    section.text = f"{len(predictions)} frames of the {split} set."
    if split == "validation":
        section.missing.append("The test set was not predicted: these are the validation frames.")
    if not np.isfinite(predictions.stress_label).any():
        section.missing.append("The labels hold no stress.")
    elif not np.isfinite(predictions.stress).any():
        section.missing.append("The model predicted no stress.")
    section.figures = report_error_figures.parity_figures(
        predictions, group_name
    ) + report_error_figures.error_histograms(predictions)
    if not section.figures:
        section.missing.append("No prediction is finite.")
    section.tables.append(worst_table(predictions, group_name))
    if (viewer := worst_viewer(predictions, run.worst)) is not None:
        section.viewers.append(viewer)
    return section


def _shown_predictions(run: RunFolder) -> tuple[Predictions | None, str]:
    if "test" in run.predictions:
        return run.predictions["test"], "test"
    return run.predictions.get("val"), "validation"


def _slices_section(run: RunFolder, group_name: str) -> Section:
    section = Section("slices", "Where the errors are")
    table = run.errors
    if table is None:
        section.missing.append("No test errors (test_metrics.json): the run was not tested.")
        return section
    if table["nonfinite_frames"]:
        bad = f"{table['nonfinite_frames']} of {table['frames']} frames have predictions that are not finite."
        section.missing.append(bad)
    section.lead.append(_overall_table(table))
    if len(table["by_group"]) > 1:
        section.figures += report_error_figures.errors_by_group(table, group_name)
    else:
        section.missing.append("The frames have no groups to tell apart.")
    if any(row["force_rmse"] is not None for row in table["by_force"]):
        section.figures += report_error_figures.errors_by_force_size(table["by_force"])
    if len(table["by_element"]) > 1:
        section.lead.append(_element_table(table))
    section.text = (
        "The trivial predictor is the best constant one: an energy per element fitted to these very labels, "
        "no forces, the mean stress."
    )
    return section


def _overall_table(table: Mapping[str, Any]) -> TableBlock:
    overall = table["overall"]
    rows = []
    for name, unit in table["units"].items():
        if overall[f"{name}_mae"] is None:
            continue
        trivial = overall["trivial"]
        cells = [
            overall[f"{name}_mae"],
            overall[f"{name}_rmse"],
            trivial[f"{name}_mae"],
            trivial[f"{name}_rmse"],
        ]
        rows.append((f"{name} / {unit}", *(number(cell) for cell in cells)))
    caption = ""
    if overall["force_cosine"] is not None:
        caption = (
            f"Force RMSE is {number(overall['force_rmse_percent'])} % of the forces' RMS "
            f"({number(overall['force_rms'])} meV/Å); mean cosine {overall['force_cosine']:.4f}."
        )
    headings = ("", "MAE", "RMSE", "trivial MAE", "trivial RMSE")
    return TableBlock(rows, headings, title=f"Test errors, {table['frames']} frames", caption=caption)


def _element_table(table: Mapping[str, Any]) -> TableBlock:
    keys = ("force_mae", "force_rmse", "force_rms", "force_rmse_percent", "force_cosine")
    rows = [
        (symbol, f"{errors['atoms']:,}", *(number(errors[key]) for key in keys))
        for symbol, errors in table["by_element"].items()
    ]
    headings = ("element", "atoms", "MAE / meV/Å", "RMSE / meV/Å", "force RMS / meV/Å", "RMSE / %", "cosine")
    return TableBlock(rows, headings, title="Force errors by element")


def _data_section(run: RunFolder) -> Section:
    section = Section("data", "Data")
    data = run.record.get("data", {})
    if not data:
        section.missing.append("record.json says nothing of the data.")
        return section
    rows = [
        ("pool", _plain(data.get("pool"))),
        ("content hash", _plain(data.get("pool_hash"))),
        ("frames in the pool", _plain(data.get("n_pool"))),
        ("training", _plain(data.get("n_train"))),
        ("validation", _plain(data.get("n_val"))),
        ("test", _plain(data.get("n_test"))),
        ("elements", " ".join(data.get("species", ())) or NOTHING),
        ("labels", data.get("label") or NOTHING),
        ("groups by", group_label(data["group_name"]) if data.get("group_name") else NOTHING),
    ]
    section.tables.append(TableBlock(rows))
    section.tables += _door_table(data)
    if data.get("e0s"):
        residual = data.get("e0_residual_rmse")
        caption = f"Taken from: {data.get('e0_source', 'unknown')}."
        if residual is not None:
            caption += f" What they leave for the model: RMSE {number(1e3 * residual)} meV/atom."
        e0s = [(symbol, f"{energy:.6f}") for symbol, energy in data["e0s"].items()]
        section.tables.append(TableBlock(e0s, ("element", "E0 / eV"), "Reference energies", caption))
    return section


def _door_table(data: Mapping[str, Any]) -> list[TableBlock]:
    """What the checks of the frames let through, left out or could not see, if anything."""
    rows = []
    for part, report in data.get("door", {}).items():
        for defect, count in report.get("counts", {}).items():
            rows.append((part, f"{defect}, {count} times", report.get("examples", {}).get(defect, "")))
        for check, reason in report.get("not_checked", {}).items():
            rows.append((part, f"{check} not checked", reason))
    for pair, count in data.get("shared", {}).items():
        rows.append((pair, f"shared, {count} frames", "the same geometry in both parts"))
    return [TableBlock(rows, ("part", "found", "first, or why"), "Checks of the frames")] if rows else []


def _model_section(run: RunFolder) -> Section:
    section = Section("model", "Model")
    model = run.record.get("model", {})
    if not model:
        section.missing.append("record.json says nothing of the model.")
        return section
    columns = {
        "cutoff": "cutoff / Å",
        "channels": "channels",
        "l_max": "l max",
        "functions": "symmetry functions",
        "neighbors": "neighbours per atom",
    }
    scales = model.get("scales", ())
    columns = {key: name for key, name in columns.items() if any(key in scale for scale in scales)}
    rows = [tuple(_plain(scale.get(key)) for key in columns) for scale in scales]
    headings = tuple(columns.values())
    note = ""
    shares = run.record.get("scale_shares", ())
    if len(shares) == len(rows):
        headings += ("share of energies", "share of forces")
        rows = [
            (*row, f"{100 * share['energy']:.1f} %", f"{100 * share['forces']:.1f} %")
            for row, share in zip(rows, shares, strict=True)
        ]
        note = "A share is what changes in the predictions when the scale sends no messages."
    section.text = (
        f"{model_label(str(model.get('name', 'Model')))}, {model.get('parameters', 0):,} parameters."
    )
    section.tables.append(TableBlock(rows, headings, title="Scales", caption=note))
    return section


def _machine_section(run: RunFolder) -> Section:
    section = Section("machine", "Throughput and memory")
    record = run.record
    formats: dict[str, tuple[str, Callable[[Any], str]]] = {
        "device": ("device", str),
        "backend": ("backend", str),
        "steps": ("steps", lambda v: f"{v:,}"),
        "epochs": ("epochs", lambda v: f"{v:,}"),
        "seconds_training": ("training time", lambda v: " ".join(_duration(v))),
        "seconds_total": ("total time", lambda v: " ".join(_duration(v))),
        "atoms_per_second": ("atoms per second", lambda v: f"{v:,.0f}"),
        "data_wait_share": ("time spent waiting for data", lambda v: f"{100 * v:.1f} %"),
        "peak_memory_mb": ("peak memory", lambda v: f"{v:,.0f} MB"),
    }
    rows = [
        (label, form(record[key])) for key, (label, form) in formats.items() if record.get(key) is not None
    ]
    if record.get("seconds_training") and record.get("steps"):
        rows.insert(5, ("time per step", f"{1e3 * record['seconds_training'] / record['steps']:.0f} ms"))
    if not rows:
        section.missing.append("record.json says nothing of the machine.")
        return section
    section.tables.append(TableBlock(rows))
    if record.get("versions"):
        section.tables.append(
            TableBlock([(k, str(v)) for k, v in record["versions"].items()], title="Versions")
        )
    return section
