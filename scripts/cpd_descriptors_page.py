"""docs/cpd_descriptors.md from the comparisons of scripts/cpd_descriptors.sh.

python scripts/cpd_descriptors_page.py OUT [--docs docs]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from msmlff.analysis.comparison import Against, Comparison
from msmlff.analysis.comparison_cells import Study, read_study
from msmlff.analysis.comparison_words import p_value, ratio

DESCRIPTORS = {
    "default": "`untrained_mace`, as it is (4 Å, 16 channels, two layers, seed 0)",
    "seed1": "other random weights (`descriptor.seed=1`)",
    "channels64": "`descriptor.channels=64`",
    "cutoff2.5": "`descriptor.cutoff=2.5`",
    "layers1": "`descriptor.layers=1`",
    "trained": "`descriptor=model`, trained on 25 random frames for 300 steps",
}
METRICS = {"force_rmse": "forces", "energy_rmse": "energies"}


def cells(found: Against | None) -> list[str]:
    """Ratio with its interval, p, verdict."""
    if found is None or found.ratio is None:
        return ["–", "–", "–"]
    return [ratio(found.ratio), p_value(found.p), found.verdict]


def table(first: str, rows: dict[str, list[Against | None]]) -> str:
    """Rows of ratios, of forces and of energies."""
    headings = [first]
    for name in METRICS.values():
        headings += [f"{name}, ratio [95 %]", "p", "verdict"]
    lines = [headings, ["---"] * len(headings)]
    lines += [[name, *(text for one in found for text in cells(one))] for name, found in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def against(study: Study, labels: list[str], other: str) -> dict[str, list[Against | None]]:
    """Of each label, a comparison a metric."""
    found = [Comparison(study, metric).against(labels, other) for metric in METRICS]
    return {label: [one[label] for one in found] for label in labels}


def section(folder: Path) -> list[str]:
    """Descriptors, then widths and neighbours, of one pool."""
    studies = {name: read_study(folder / name) for name in DESCRIPTORS}
    rows = {DESCRIPTORS[name]: against(study, ["cpd"], "random")["cpd"] for name, study in studies.items()}
    varied = [label for label in studies["default"].selectors if label.startswith("cpd ")]
    return [
        f"## {folder.name}",
        "CPD against random choice:",
        table("descriptor", rows),
        "Variations against CPD as it is, with the default descriptor:",
        table("variation", against(studies["default"], varied, "cpd")),
    ]


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs")
    arguments = parser.parse_args()
    pools, missing = [], []
    for path in sorted(path for path in arguments.folder.iterdir() if path.is_dir()):
        # what a comparison writes last
        done = all((path / name / "comparison.md").is_file() for name in DESCRIPTORS)
        (pools if done else missing).append(path)
    if not pools:
        raise SystemExit(f"{arguments.folder}: no pool below it has comparisons of all descriptors")
    if missing:
        print(f"not finished, and not on the page: {', '.join(path.name for path in missing)}")
    paragraphs = [
        "# CPD with other descriptors and density estimates",
        f"    POOLS={','.join(path.name for path in pools)} scripts/cpd_descriptors.sh DATA",
        "Beside the variations in [comparison.md](comparison.md): the descriptor, the width of the kernels "
        "and the number of neighbours are open in CPD, too. Protocol, pools, learner and tests are those of "
        "that page, at budgets of 25, 100 and 400 frames; 10 selections, 3 seeds of the learner. Ratios of "
        "errors below 1: CPD, or the variation, is better. p values are corrected over each column of a "
        "table of variations; those of the descriptors stand alone.",
    ]
    for pool in pools:
        paragraphs += section(pool)
    (arguments.docs / "cpd_descriptors.md").write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
