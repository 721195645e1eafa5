"""docs/survival.md from the runs of scripts/survival_study.sh: the share of simulations that stay whole.

    python scripts/survival_page.py OUT [--docs docs]

A replica that the simulation stopped (atoms that meet, temperature, forces that are not finite) has not
survived, by either definition; nor have those of a seed whose training diverged.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib import pyplot as plt
from omegaconf import DictConfig, OmegaConf

from msmlff.analysis.stability import EQUILIBRIUM_TOLERANCE, MEAN_TOLERANCE, bond_stability
from msmlff.analysis.trajectory import Trajectory
from msmlff.analysis.trajectory_files import read_trajectory
from msmlff.data.configuration import Configuration
from msmlff.data.formats import read_frames

#: Of the training data: name, colour and line.
ARMS = {
    "plain": ("sampled frames alone", "#1F2933", "-"),
    "stretched": ("half of them stretched", "#E8590C", "--"),
}
RULES = {
    "equilibrium": f"no bond {EQUILIBRIUM_TOLERANCE:g} Å from equilibrium",
    "mean": f"no bond {MEAN_TOLERANCE:g} Å from its mean",
}


@dataclass(frozen=True)
class Fate:
    """A replica.

    Attributes:
        temperature: K.
        until: fs, by definition, to which it was whole; inf where it was so to the end.
        reason: why the simulation stopped it; "" if it did not.
    """

    temperature: float
    until: dict[str, float]
    reason: str = ""


@dataclass(frozen=True)
class Run:
    """The replicas of one model.

    Attributes:
        arm, seed: of the model.
        errors: test errors by part ("sampled", "stretched"); {} where the training diverged.
        fates: of the replicas.
        length: fs, of the simulation.
    """

    arm: str
    seed: str
    errors: dict[str, dict[str, float]]
    fates: list[Fate]
    length: float

    def at(self, temperature: float) -> list[Fate]:
        """The replicas of a temperature; without a model, one that was never whole."""
        own = [fate for fate in self.fates if fate.temperature == temperature]
        return own if self.errors else [Fate(temperature, dict.fromkeys(RULES, 0.0), "no model")]

    def share(self, temperature: float, rule: str, time: float) -> float:
        """Of the replicas of a temperature that are whole at a time in fs."""
        own = self.at(temperature)
        return sum(fate.until[rule] > time for fate in own) / len(own)


@dataclass(frozen=True)
class Yardstick:
    """What bonds are compared with: a relaxed frame, and dynamics of the labels' method by temperature."""

    equilibrium: Configuration
    reference: dict[float, Trajectory]

    @classmethod
    def read(cls, folder: Path) -> Yardstick:
        paths = sorted(folder.glob("reference_*.extxyz"), key=lambda p: float(p.stem.split("_")[1]))
        return cls(
            next(iter(read_frames(folder / "equilibrium.extxyz"))),
            {float(path.stem.split("_")[1]): read_trajectory(path) for path in paths},
        )

    def largest(self) -> list[str]:
        """How far the references' bonds went from their means."""
        found = {t: bond_stability(r, r, MEAN_TOLERANCE).worst for t, r in self.reference.items()}
        return [f"{worst:.2f} Å at {t:g} K" for t, worst in found.items()]


def read_run(folder: Path, arm: str, seed: str, yardstick: Yardstick) -> Run | None:
    """A model and its simulation; None where it is not finished."""
    trained, simulated = folder / "runs" / arm / seed, folder / "md" / arm / seed
    status = _record(trained).get("status")
    if status == "diverged":
        return Run(arm, seed, {}, [], 0.0)
    if status != "finished" or _record(simulated).get("status") not in ("finished", "diverged"):
        return None
    test = json.loads((trained / "test_metrics.json").read_text())
    config = OmegaConf.load(simulated / "config.yaml")
    fates = []
    for k, temperature in enumerate(config.temperature):
        trajectory = read_trajectory(simulated, config.timestep * config.output.every, replica=k)
        fates.append(judged(trajectory, simulated / f"failed_{k}.extxyz", yardstick, float(temperature)))
    return Run(arm, seed, test["by_group"], fates, config.timestep * config.steps)


def judged(trajectory: Trajectory, failed: Path, yardstick: Yardstick, temperature: float) -> Fate:
    """How long a replica was whole, its failure included."""
    stop, reason = math.inf, ""
    if failed.is_file():
        info = next(iter(read_frames(failed))).info
        stop, reason = float(info["time_fs"]), str(info["reason"])
    found = {
        "equilibrium": bond_stability(trajectory, yardstick.equilibrium, EQUILIBRIUM_TOLERANCE),
        "mean": bond_stability(trajectory, yardstick.reference[temperature], MEAN_TOLERANCE),
    }
    until = {rule: stop if s.stable else min(stop, s.time_fs) for rule, s in found.items()}
    return Fate(temperature, until, reason)


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "record.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def picture(runs: Sequence[Run], temperatures: Sequence[float], path: Path) -> None:
    """Share of whole replicas against time, by definition and temperature: mean over seeds, and each seed."""
    shape = (len(temperatures), len(RULES))
    figure, panels = plt.subplots(
        *shape, figsize=(4.6 * shape[1], 0.6 + 2.7 * shape[0]), sharex=True, sharey=True, squeeze=False
    )
    grid = np.linspace(0.0, max(run.length for run in runs), 1001)
    for row, temperature in zip(panels, temperatures, strict=True):
        for axes, (rule, title) in zip(row, RULES.items(), strict=True):
            for arm, (label, colour, style) in ARMS.items():
                own = [[r.share(temperature, rule, t) for t in grid] for r in runs if r.arm == arm]
                for shares in own:
                    axes.plot(grid / 1000, shares, style, color=colour, linewidth=0.7, alpha=0.45)
                if own:
                    means = np.mean(own, axis=0)
                    axes.plot(grid / 1000, means, style, color=colour, linewidth=2.2, label=label)
            axes.set_title(f"{temperature:g} K, {title}", fontsize=10)
            axes.set_ylim(-0.03, 1.05)
            axes.grid(color="#E4E7EB", linewidth=0.6)
        row[0].set_ylabel("share of replicas\nthat are whole")
    for axes in panels[-1]:
        axes.set_xlabel("time / ps")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=2, loc="lower center", title="training data")
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=150)


def table(runs: Sequence[Run], temperature: float) -> list[str]:
    """A row a model, then a row an arm."""
    headings = ["training data", "seed", *RULES.values(), "stopped by the simulation", "first loss, ps"]
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    for run in runs:
        fates = run.at(temperature)
        whole = [f"{sum(math.isinf(f.until[r]) for f in fates)} of {len(fates)}" for r in RULES]
        reasons = Counter(fate.reason for fate in fates if fate.reason)
        stopped = ", ".join(f"{n} ({reason})" for reason, n in reasons.items()) or "0"
        first = min(min(fate.until.values()) for fate in fates)
        cells = [run.arm, run.seed.removeprefix("seed"), *whole, stopped]
        cells.append("–" if math.isinf(first) else f"{first / 1000:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    for arm in ARMS:
        own = [run for run in runs if run.arm == arm]
        if own:
            shares = [[100 * run.share(temperature, rule, run.length) for run in own] for rule in RULES]
            stopped = str(sum(bool(fate.reason) for run in own for fate in run.at(temperature)))
            cells = [f"**{arm}**", "all", *[f"{said(values, 0)} %" for values in shares], stopped, ""]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def error_table(runs: Sequence[Run]) -> list[str]:
    """A row an arm: test errors of forces, by part."""
    lines = ["| training data | forces, sampled frames, meV/Å | forces, stretched frames, meV/Å | models |"]
    lines.append("| --- | --- | --- | --- |")
    for arm in ARMS:
        errors = [run.errors for run in runs if run.arm == arm and run.errors]
        cells = [said([e[part]["force_rmse"] for e in errors], 0) for part in ("sampled", "stretched")]
        lines.append(f"| {arm} | {' | '.join(cells)} | {len(errors)} |")
    return lines


def said(values: Sequence[float], digits: int) -> str:
    """mean ± standard error"""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "–"
    return f"{mean(values):.{digits}f} ± {stdev(values) / math.sqrt(len(values)):.{digits}f}"


def page(folder: Path, runs: Sequence[Run], missing: Sequence[str], yardstick: Yardstick) -> str:
    """The text."""
    config = OmegaConf.load(next(folder.glob("md/*/*/config.yaml")))
    length = {t.time_fs[-1] / 1000 for t in yardstick.reference.values()}
    paragraphs = [
        "# Survival in hot dynamics, with and without bond stretching",
        f"    {command(folder, config, yardstick)}",
        f"{training(folder)} {dynamics(config, yardstick)}",
        "![share of replicas that are whole against time](pictures/survival.png)",
        "Thick: mean over the seeds; thin: each seed. Bonds are those of the relaxed cluster, seen every "
        f"{config.timestep * config.output.every:g} fs. Their equilibrium lengths are GFN2-xTB's, their "
        f"means of {max(length):g} ps of Langevin dynamics with GFN2-xTB itself at the same temperature, in "
        f"which bonds went up to {' and '.join(yardstick.largest())} from their means. A replica that the "
        "simulation stopped counts as lost by both definitions; ± is the standard error over seeds.",
    ]
    for temperature in yardstick.reference:
        paragraphs += [f"## {temperature:g} K", "\n".join(table(runs, temperature))]
    paragraphs += ["## Errors of the models", "\n".join(error_table(runs))]
    paragraphs += [f"Not finished, and not counted: {', '.join(missing)}."] if missing else []
    return "\n\n".join(paragraphs) + "\n"


def command(folder: Path, config: DictConfig, yardstick: Yardstick) -> str:
    """The line that makes such a folder: what differs from the defaults of the script, and its name."""
    script = Path(__file__).with_name("survival_study.sh")
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", script.read_text(encoding="utf-8")))
    trained = OmegaConf.load(next(folder.glob("runs/*/seed*/config.yaml")))
    kelvin = sorted({float(t) for t in config.temperature})
    seeds = sorted({int(path.name.removeprefix("seed")) for path in folder.glob("runs/*/seed*")})
    reference = next(iter(yardstick.reference.values()))
    settings = {
        "SEEDS": ",".join(map(str, seeds)),
        "FRAMES": json.loads((folder / "start" / "prepare.json").read_text())["plain"] // 2,
        "STEPS": trained.training.steps,
        "ZBL": str(trained.model.zbl).lower(),
        "TEMPERATURES": " ".join(f"{t:g}" for t in kelvin),
        "REPLICAS": len(config.temperature) // len(kelvin),
        "MD_STEPS": config.steps,
        "REFERENCE_STEPS": round(reference.time_fs[-1] / config.timestep),
    }
    given = [f"{name}={shlex.quote(str(v))}" for name, v in settings.items() if str(v) != defaults[name]]
    return " ".join([*given, "scripts/survival_study.sh DATA"])


def training(folder: Path) -> str:
    """What the models learned from."""
    counts = json.loads((folder / "start" / "prepare.json").read_text())
    steps = sorted({_record(p.parent)["steps"] for p in folder.glob("runs/*/*/test_metrics.json")})
    labels = ", ".join(f"{n} {status}" for status, n in counts["labels"].items())
    zbl = OmegaConf.load(next(folder.glob("runs/*/seed*/config.yaml"))).model.zbl
    repulsion = " and the repulsion of the cores (ZBL)" if zbl else ""
    return (
        f"MS-MACE with 16 channels, scales of 3 and 5 Å{repulsion}, trained for "
        f"{', '.join(map(str, steps))} steps of two frames: on {counts['plain']} clusters of carbonate "
        f"molecules with GFN2-xTB labels (plain), or on {counts['stretched']} frames, half of these clusters "
        "and a copy of each in which a "
        "random bond was multiplied by a factor between 0.85 and 2 (stretched; "
        f"[bond stretching](observe.md#bond-stretching), labels of the copies: {labels})."
    )


def dynamics(config: DictConfig, yardstick: Yardstick) -> str:
    """What the models were asked to do."""
    kelvin = Counter(float(t) for t in config.temperature)
    replicas = ", ".join(f"{n} at {t:g} K" for t, n in kelvin.items())
    return (
        f"Each model moves replicas of three molecules of dimethyl carbonate ({len(yardstick.equilibrium)} "
        f"atoms, no cell; {replicas}) for {config.steps:,} Langevin steps of {config.timestep:g} fs with a "
        f"friction of 1 / ({config.ensemble.thermostat_time:g} fs). 800 K is the protocol of "
        "[arXiv 2312.09490](https://arxiv.org/abs/2312.09490); what is hotter is a harder test. In vacuum "
        "the molecules part, so it is a test of their bonds."
    )


def main() -> None:
    """Writes the page and its picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs")
    arguments = parser.parse_args()
    folder = arguments.folder
    yardstick = Yardstick.read(folder / "start")
    runs, missing = [], []
    for arm in ARMS:
        for path in sorted((folder / "runs" / arm).glob("seed*")):
            run = read_run(folder, arm, path.name, yardstick)
            if run is None:
                missing.append(f"{arm} {path.name}")
            else:
                runs.append(run)
    if not any(run.length for run in runs):
        raise SystemExit(f"{folder}: no finished simulation in md/ARM/SEED below it")
    (arguments.docs / "pictures").mkdir(exist_ok=True)
    picture(runs, list(yardstick.reference), arguments.docs / "pictures" / "survival.png")
    text = page(folder, runs, missing, yardstick)
    (arguments.docs / "survival.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
