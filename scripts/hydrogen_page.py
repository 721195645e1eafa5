"""docs/hydrogen.md from the runs of scripts/hydrogen_study.sh: dense hydrogen at 1000 K with models of few
frames and of all.

    python scripts/hydrogen_page.py OUT [--docs docs]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hydrogen_observe import FAILURES, R_MAX, STUCK
from hydrogen_pictures import draw_rdfs, draw_states, title_of
from hydrogen_runs import FULL, NO_MODEL, Study, absolute, mean_over_seeds, read_study

COMMAND = "scripts/hydrogen_study.sh DATA OUT"

ABOUT = {"dense_hydrogen": "the embedded pool, GFN1-xTB", "dense_hydrogen_pbe": "PBE"}

CAVEATS = {
    "dense_hydrogen": """
The test frames (10 a density, 20 fs apart) come from dynamics of another model, not of GFN1-xTB itself
([how](dense_hydrogen.md)): their pressures are GFN1-xTB's at these configurations, but their molecular
fraction and g(r) are only near those of the method. A model that is true to GFN1-xTB may differ from
them.""",
    "dense_hydrogen_pbe": """
The test frames (5 to 13 a density) are of Cheng et al., Nature 585, 217 (2020), who sampled them with a
model of theirs (the files do not say at which temperature) and labelled them with PBE: energies and
forces, no stress. So there is no pressure of the labels to compare with, and no stress was trained on: the
models' pressure is the derivative of their energy.""",
}

OPENING = f"""
`{COMMAND}` trains models on 200 frames chosen by CPD, by DIRECT and at random, and on all, runs molecular
dynamics with each over the densities of the pool, and wrote this page: the check of arXiv 2604.03027
(pressure, molecular fraction, g(r) and motion with models of few frames), at a size for two CPU cores."""

FAILED = f"""
A run has failed when it exploded (`limits` of `msmlff simulate`), is stuck (the mean squared displacement
grows with an exponent below {STUCK:g}) or has lost its structure (∫|g − g_test| dr up to {R_MAX:g} Å is
no less than ∫|g_test − 1| dr). Failed runs are counted, and left out of the means."""

CARE = """
To be read with care: models this small and trainings this short bound what any choice of frames can show.
Runs of this length have statistical errors, which the spread over the seeds contains (each has velocities
of its own), but all begin at the same frames: slow changes, such as molecules that form or break, are
seen only in part. Diffusion coefficients are those of a small periodic cell and one short fit, for
comparison between models alone. The nuclei are classical."""

NOISE = """
Last row of the columns "from full set": each of its models against the others, which is what seeds and short
runs alone make. g(r): ∫|g − g_test| dr as a percentage of ∫|g_test − 1| dr."""


PASSES = """
The test frames are not of the same state as most of the pool. By their places in the source, the pool's
frames are of two passes over the densities, the test frames of a third, which is hotter by its energies
(the files name no temperatures). The models, which run at 1000 K, are near the passes that they were
trained on (so this shows no skill in new states) and far from the test frames, whatever they were
trained on."""


def flat(text: str) -> str:
    """A paragraph on one line."""
    return " ".join(text.split())


def said(values: Sequence[float] | np.ndarray, digits: int = 3) -> str:
    """mean ± standard error over the seeds, of those that are known"""
    mean, error = (float(v) for v in mean_over_seeds(np.asarray(values, dtype=float)))
    if not math.isfinite(mean):
        return "–"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(mean) or 1.0)))
    return f"{mean:.{decimals}f}" + (f" ± {error:.{decimals}f}" if math.isfinite(error) else "")


def rows(headings: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [
        f"| {' | '.join(headings)} |",
        f"| {' | '.join('---' for _ in headings)} |",
        *(f"| {' | '.join(cells)} |" for cells in body),
    ]


def models_table(study: Study) -> list[str]:
    """Test errors and failures by training set."""
    kinds = [*FAILURES, NO_MODEL]
    keys = {"force_rmse": "forces meV/Å", "energy_rmse": "energy meV/atom", "stress_rmse": "stress meV/Å³"}
    known = [key for key in keys if any(math.isfinite(c.errors.get(key) or math.nan) for c in study.cells)]
    body = []
    for name in study.names:
        cells = [cell for cell in study.of(name) if cell.errors]
        errors = [said([cell.errors[key] for cell in cells]) for key in known]
        runs = study.starts * len(study.densities) * len(study.of(name))
        counts = [str(study.failed(name, kind).sum()) for kind in kinds]
        body.append([title_of(name), *errors, *counts, f"{study.failed(name).sum()} of {runs}"])
    return rows(["training frames", *(keys[k] for k in known), *kinds, "failed"], body)


def states_table(study: Study) -> list[str]:
    """How far the states are from the test frames', and from the full set's."""
    body = []
    for name in study.names:
        rdf = [np.nanmean(r) if np.isfinite(r).any() else math.nan for r in study.table(name, "rdf_error")]
        body.append(
            [
                title_of(name),
                said(study.from_labels(name, "pressure")),
                beside_full(study, name, "pressure"),
                said(study.from_labels(name, "molecular_fraction")),
                beside_full(study, name, "molecular_fraction"),
                said(rdf),
                beside_full(study, name, "diffusion"),
            ]
        )
    headings = ["training frames", "pressure, GPa, from test frames", "from full set"]
    headings += ["molecular fraction from test frames", "from full set"]
    headings += ["g(r) from test frames, %", "D from full set, %"]
    return rows(headings, body)


def passes_table(study: Study) -> list[str]:
    """How far the full set's models are from each pass of the source that the pool holds, and from the test
    frames."""
    energy = [study.label_of_pass(k, "energy") for k in range(study.passes)]
    tested = np.array([row["energy"] for row in study.labels["densities"]])
    fractions = study.table(FULL, "molecular_fraction")
    body = []
    for k in (*range(study.passes), None):
        rows_ = [row if k is None else row["passes"][k] for row in study.labels["densities"]]
        label = (
            study.label("molecular_fraction") if k is None else study.label_of_pass(k, "molecular_fraction")
        )
        body.append(
            [
                "test frames" if k is None else f"pool, pass {k + 1}",
                str(sum(row["frames"] for row in rows_)),
                f"{1e3 * float(np.mean((tested if k is None else energy[k]) - energy[0])):.0f}",
                said(absolute(fractions - label)),
                said(study.g_error(FULL, k)),
            ]
        )
    headings = ["frames", "number", "energy above the first, meV/atom"]
    return rows([*headings, "molecular fraction of the full set's models from them", "g(r), %"], body)


def verdict(study: Study) -> str:
    """What the dynamics say of the training sets, in words."""
    failed = {name: int(study.failed(name).sum()) for name in study.names}
    runs = {name: study.starts * len(study.densities) * len(study.of(name)) for name in study.names}
    total = sum(failed.values())
    counts = ", ".join(f"{title_of(n)} {failed[n]} of {runs[n]}" for n in study.names if failed[n])
    lost = f"No run of {sum(runs.values())} failed." if not total else f"Runs failed: {counts}."
    full = float(np.nanmean(study.from_full(FULL, "pressure")))
    others = [float(np.nanmean(study.from_full(n, "pressure"))) for n in study.names if n != FULL]
    return flat(f"""
{lost} Pressures of models of few frames are {min(others):.1f} to {max(others):.1f} GPa from those of the full
set's models, which are {full:.1f} GPa from each other. The paper's models of 200 frames failed at ten
(DIRECT) and five (random) points of the atomic phase; CPD's was as good as all frames'.""")


def beside_full(study: Study, name: str, key: str) -> str:
    """Difference from the full set's models; without an error for these, whose differences share models."""
    values = study.from_full(name, key, relative=key == "diffusion")
    values = 100.0 * values if key == "diffusion" else values
    return said([float(np.nanmean(values))] if name == FULL and np.isfinite(values).any() else values)


def settings(study: Study) -> str:
    """What was trained, and what was run."""
    config, model = study.config, study.config["model"]
    trained = [cell for cell in study.cells if cell.errors]
    dynamics = [cell.dynamics for cell in study.cells if cell.dynamics]
    first, ensemble = dynamics[0], dynamics[0]["ensemble"]
    scales = "; ".join(
        f"{s['cutoff']:g} Å, {s['channels']} channels, l ≤ {s['l_max']}" for s in model["scales"]
    )
    full = listed({cell.training["data"]["n_train"] for cell in trained if cell.name == FULL})
    test = listed({cell.training["data"]["n_test"] for cell in trained})
    length = listed({d["steps"] * d["timestep_fs"] / 1e3 for d in dynamics})
    starts = f"{study.starts} start" + "s" * (study.starts > 1)
    return flat(f"""
MS-MACE, scales {scales}; {model["channels"]} channels, hidden l ≤ {model["hidden_l_max"]}, correlation
{model["correlation"]}, {model["layers"]} layers. {config["training"]["steps"]} steps of
{config["training"]["batch"]["frames"]} frames for every training set (the full one has {full}), seeds
{listed({cell.seed for cell in study.cells})}, each with a selection and weights of its own; {test} test
frames. Dynamics: {study.labels["atoms"]} atoms, {len(study.densities)} densities from
{study.densities[0]:g} to {study.densities[-1]:g} g/cm³, {starts} a density from the test frames, {length}
ps at {first["temperature"]:g} K ({ensemble["kind"]}, {ensemble["thermostat"]},
{ensemble["thermostat_time"]:g} fs), {first["timestep_fs"]:g} fs a step; the first
{100 * first["skipped"]:g} % is not averaged over.""")


def listed(values: set[float]) -> str:
    """Numbers in order."""
    return ", ".join(f"{value:g}" for value in sorted(values))


def section(study: Study, pictures: Path) -> list[str]:
    """A pool's part of the page."""
    name = f"hydrogen_{study.pool}"
    draw_states(study, pictures / f"{name}.png")
    densities = listed(set(draw_rdfs(study, pictures / f"{name}_rdf.png")))
    return [
        "",
        f"## {study.pool}: {ABOUT[study.pool]}",
        "",
        settings(study),
        "",
        flat(CAVEATS[study.pool]),
        "",
        "**Models, and their failed runs**",
        "",
        *models_table(study),
        "",
        f"![states against r_s](pictures/{name}.png)",
        "",
        "*Mean and standard error over the seeds, of the runs that did not fail; crosses: the test frames"
        + (", tripods: the pool's.*" if study.passes else ".*"),
        "",
        "**Mean absolute difference over the densities**",
        "",
        *states_table(study),
        "",
        flat(NOISE),
        "",
        verdict(study),
        "",
        *([flat(PASSES), "", *passes_table(study), ""] if study.passes else []),
        f"![g(r)](pictures/{name}_rdf.png)",
        "",
        f"*g(r) at {densities} g/cm³; bands: standard error over the seeds.*",
    ]


def main() -> None:
    """Writes the page and its pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs")
    arguments = parser.parse_args()
    studies = [read_study(arguments.folder / pool) for pool in ABOUT if (arguments.folder / pool).is_dir()]
    if not studies:
        raise SystemExit(f"{arguments.folder}: none of {', '.join(ABOUT)} below it")
    pictures = arguments.docs / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    lines = ["# Dense hydrogen at 1000 K with few labels"]
    for text in (OPENING, FAILED, CARE):
        lines += ["", flat(text)]
    for study in studies:
        lines += section(study, pictures)
    (arguments.docs / "hydrogen.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
