"""docs/metals.md from the runs of scripts/metals_study.sh: crystals of models beside their EAM and the paper.

python scripts/metals_page.py OUT [--docs docs]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

from msmlff.data.formats import read_frames

METALS = {"nickel": "Ni", "aluminium": "Al"}
HELD = "hcp, c/a = √3"
STRUCTURES = ("fcc", "bcc", HELD, "hcp")
#: Å and eV per atom of arXiv 2311.05407: its EAM, and its network (aluminium: translated). Its hcp is of a
#: 48-atom cell at c/a = sqrt(3); it has no row for relaxed hcp.
PAPER = {
    "nickel": {
        "EAM": {"fcc": (2.49, -4.876), "bcc": (2.41, -4.833), HELD: (2.44, -4.847)},
        "network": {"fcc": (2.50, -4.875), "bcc": (2.41, -4.812), HELD: (2.46, -4.835)},
    },
    "aluminium": {
        "EAM": {"fcc": (2.86, -3.411), "bcc": (2.80, -3.309), HELD: (2.82, -3.380)},
        "network": {"fcc": (2.87, -3.407), "bcc": (2.82, -3.333), HELD: (2.81, -3.385)},
    },
}
BLACK, BLUE, ORANGE = "#1F2933", "#1B6CA8", "#E8590C"


@dataclass(frozen=True)
class Metal:
    """What was found for one metal.

    Attributes:
        name: of its folder.
        eam: (Å, eV per atom) of each structure, by the EAM.
        seeds: the same of each model by its seed; without the structures that have no minimum.
        errors: test errors of each model, as in test_metrics.json.
        lost: seeds without a model or without a table of crystals.
        frames: of the pool, by group.
        tested: frames of the test part.
        steps: of the training.
    """

    name: str
    eam: dict[str, tuple[float, float, bool]]
    seeds: dict[str, dict[str, tuple[float, float, bool]]]
    errors: dict[str, dict[str, Any]]
    lost: list[str]
    frames: Counter[str]
    tested: int
    steps: int

    def figures(self, structure: str, column: int) -> list[float]:
        """Bond lengths (column 0), energies (1) or holes (2), a value a seed that has the minimum."""
        return [rows[structure][column] for rows in self.seeds.values() if structure in rows]


def crystals(folder: Path) -> dict[str, tuple[float, float, bool]] | None:
    """Bond length, energy, and whether the energy is lower at another bond length, of a crystals.json; None
    where there is none."""
    path = folder / "crystals.json"
    if not path.is_file():
        return None
    ((_, sources),) = json.loads(path.read_text()).items()
    return {
        row["structure"]: (row["bond_A"], row["energy_eV"], "lower_at_A" in row)
        for row in sources["model"]
        if "problem" not in row
    }


def read_metal(folder: Path, name: str) -> Metal | None:
    """None where nothing was calculated yet."""
    eam = crystals(folder / "crystals" / name / "eam")
    runs = sorted((folder / "runs" / name).glob("seed*"))
    found = {run.name: crystals(folder / "crystals" / name / run.name) for run in runs}
    errors, steps = {}, 0
    for run in runs:
        if (run / "test_metrics.json").is_file():
            errors[run.name] = json.loads((run / "test_metrics.json").read_text())
            steps = json.loads((run / "record.json").read_text())["steps"]
    if eam is None or not errors:
        return None
    pool = folder / "pools" / name
    return Metal(
        name,
        eam,
        {seed: rows for seed, rows in found.items() if rows is not None},
        errors,
        [seed for seed, rows in found.items() if rows is None],
        Counter(frame.group for frame in read_frames(pool / "pool.extxyz.gz")),
        sum(1 for _ in read_frames(pool / "test.extxyz.gz")),
        steps,
    )


def picture(metals: Sequence[Metal], path: Path) -> None:
    """Energies above the EAM's fcc, and bond lengths less the EAM's, by structure."""
    figure, panels = plt.subplots(2, len(metals), figsize=(4.8 * len(metals), 6.0), squeeze=False)
    for column, metal in enumerate(metals):
        top, bottom = panels[:, column]
        zero = metal.eam["fcc"][1]
        for k, structure in enumerate(STRUCTURES):
            reference = metal.eam[structure]
            top.hlines(1e3 * (reference[1] - zero), k - 0.35, k + 0.35, color=BLACK, linewidth=2)
            bottom.hlines(0.0, k - 0.35, k + 0.35, color=BLACK, linewidth=2)
            paper = PAPER[metal.name]["network"].get(structure)
            if paper is not None:
                top.plot(k - 0.18, 1e3 * (paper[1] - zero), "D", color=BLUE, markersize=5)
                shift, rounded = 1e3 * (paper[0] - reference[0]), 5.0  # mÅ: two decimals of Å
                bottom.errorbar(k - 0.18, shift, rounded, fmt="D", color=BLUE, markersize=5, capsize=2)
            for i, value in enumerate(metal.figures(structure, 1)):
                top.plot(k + 0.1 + 0.08 * i, 1e3 * (value - zero), "o", color=ORANGE, markersize=5)
            for i, value in enumerate(metal.figures(structure, 0)):
                bottom.plot(k + 0.1 + 0.08 * i, 1e3 * (value - reference[0]), "o", color=ORANGE, markersize=5)
        top.set(title=metal.name, ylabel="meV/atom above the EAM's fcc")
        bottom.set(ylabel="bond length minus the EAM's, mÅ")
        for axes in (top, bottom):
            axes.set_xticks(range(len(STRUCTURES)), ["fcc", "bcc", "hcp\nc/a = √3", "hcp\nrelaxed"])
            axes.grid(axis="y", color="#E4E7EB", linewidth=0.6)
            axes.set_axisbelow(True)
    handles = [
        plt.Line2D([], [], color=BLACK, linewidth=2, label="EAM"),
        plt.Line2D([], [], color=ORANGE, marker="o", linestyle="", label="MS-MACE, each seed"),
        plt.Line2D(
            [], [], color=BLUE, marker="D", linestyle="", label="network of arXiv 2311.05407 (bar: rounding)"
        ),
    ]
    figure.legend(handles=handles, frameon=False, ncols=3, loc="lower center")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=150)


def said(values: Sequence[float], digits: int) -> str:
    """mean ± standard deviation"""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "–"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def crystal_table(metal: Metal) -> list[str]:
    """A row a structure: bond length and energy of the EAM, of the models, and of the paper."""
    headings = [METALS[metal.name], "EAM", "models", "seeds", "lower elsewhere", "paper's EAM"]
    headings.append("paper's network")
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    for structure in STRUCTURES:
        bond, energy, _ = metal.eam[structure]
        name = "hcp, relaxed" if structure == "hcp" else structure
        ours = [metal.figures(structure, 0), metal.figures(structure, 1)]
        cells = [name, f"{bond:.3f}, {energy:.4f}", f"{said(ours[0], 3)}, {said(ours[1], 4)}"]
        cells.append(f"{len(ours[0])} of {len(metal.seeds) + len(metal.lost)}")
        cells.append(f"{sum(metal.figures(structure, 2)):.0f}")
        for source in ("EAM", "network"):
            value = PAPER[metal.name][source].get(structure)
            cells.append("" if value is None else f"{value[0]:.2f}, {value[1]:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def error_table(metal: Metal) -> list[str]:
    """A row a group of test frames: errors over the seeds, with their largest and smallest."""
    headings = ["test frames", "number", "energy, meV/atom", "forces, meV/Å", "stress, meV/Å³"]
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    tables = [{"all": found["overall"]} | found["by_group"] for found in metal.errors.values()]
    for group in tables[0]:
        cells = [group, str(tables[0][group]["frames"])]
        for key, digits in (("energy_rmse", 1), ("force_rmse", 0), ("stress_rmse", 2)):
            cells.append(said([table[group][key] for table in tables], digits))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def section(metal: Metal) -> str:
    """Of one metal."""
    paragraphs = [f"## {metal.name.capitalize()}"]
    own = f"{metal.tested} frames of liquid and solid {metal.name} in dynamics with its own EAM"
    if metal.name == "aluminium":
        paragraphs.append(
            "Translation: the cells of the nickel pool, scaled by 4.05/3.52 and labelled with the aluminium "
            f"EAM, train the models; they are tested on {own}."
        )
    else:
        counts = ", ".join(f"{n} {group}" for group, n in sorted(metal.frames.items()))
        paragraphs.append(
            f"The pool by kind, or by what a cell began as, and atoms: {counts}. The models are tested on "
            f"{own}."
        )
    paragraphs += ["\n".join(crystal_table(metal)), "\n".join(error_table(metal))]
    if metal.lost:
        paragraphs.append(f"Without a result: {', '.join(metal.lost)}.")
    return "\n\n".join(paragraphs)


def introduction(steps: Sequence[int]) -> list[str]:
    """Models, frames, and what is in the tables."""
    return [
        f"MS-MACE with 16 channels and scales of 3.6 and 5.1 Å, trained for {', '.join(map(str, steps))} "
        "steps of two frames, the stress with a weight of 3000 in the loss, on EAM labels (nickel: Zhang et "
        "al., J. Chem. Phys. 145, 204505 (2016); aluminium: Mendelev et al., Phil. Mag. 88, 1723 (2008)). "
        "The pool is of molecular dynamics with the EAM: liquid and solid cells of 32 and 108 atoms at 2000 "
        "K and no pressure, and fcc, bcc and hcp cells strained by up to 6 % in every length, "
        "sheared and heated to 300, 1000 and 1700 K. That takes the place of the multicanonical sampling and "
        "the distillation of "
        "[arXiv 2311.05407](https://arxiv.org/abs/2311.05407), whose numbers stand beside: the comparison "
        "is of what models know of crystals, not of how the frames were chosen.",
        "Bond length (nearest neighbours, Å) and energy (eV per atom) at the minimum, by "
        "[`msmlff relax crystals=[Ni]`](relax.md#crystals); models: mean ± standard deviation over seeds. "
        "hcp by both conventions: c/a held at √3 with the size relaxed, which is the paper's 48-atom cell, "
        "and c/a relaxed; the paper's lengths have two decimals. The minimum is the one nearest to the "
        'metal\'s density; "lower elsewhere" counts models whose energy is lower still at some bond length '
        "between 0.75 and 1.3 of that, which no training frame is near to. Errors are root mean squares over "
        "test frames.",
    ]


def main() -> None:
    """Writes the page and its picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs")
    arguments = parser.parse_args()
    metals = [m for name in METALS if (m := read_metal(arguments.folder, name)) is not None]
    if not metals:
        raise SystemExit(f"{arguments.folder}: no finished run in runs/METAL/SEED below it")
    (arguments.docs / "pictures").mkdir(exist_ok=True)
    picture(metals, arguments.docs / "pictures" / "metals.png")
    paragraphs = [
        "# Crystals of nickel and aluminium",
        "    scripts/metals_study.sh DATA",
        *introduction(sorted({metal.steps for metal in metals})),
        "![energies and bond lengths of crystals](pictures/metals.png)",
        *[section(metal) for metal in metals],
    ]
    (arguments.docs / "metals.md").write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
