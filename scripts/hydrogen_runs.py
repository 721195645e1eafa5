"""The runs of scripts/hydrogen_study.sh as numbers: errors, observables by density, failures."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from hydrogen_observe import LABELS, OBSERVED
from omegaconf import OmegaConf

from msmlff.analysis.observable_errors import rdf_error

FULL = "full"
ORDER = ("cpd", "direct", "random", FULL)
NO_MODEL = "no model"


@dataclass(frozen=True)
class Cell:
    """A model and its dynamics.

    Attributes:
        name, seed: of the training set, of the run.
        training: record.json of the training; {} where there is none.
        errors: overall test errors; {} where the training failed.
        dynamics: observed.json; {} where there is no model.
    """

    name: str
    seed: int
    training: dict[str, Any]
    errors: dict[str, float]
    dynamics: dict[str, Any]

    @property
    def replicas(self) -> list[dict[str, Any]]:
        return list(self.dynamics.get("replicas", []))

    def value(self, key: str, density: float) -> float:
        """Mean over the runs at a density that did not fail; NaN where all did."""
        rows = [r for r in self.replicas if r["density"] == density and r["failure"] is None]
        values = [r[key][0] if isinstance(r[key], list) else r[key] for r in rows]
        return float(np.mean(values)) if values else math.nan

    def g(self, density: float) -> np.ndarray | None:
        """[bins] g(r), mean over those runs."""
        rows = [r["g"] for r in self.replicas if r["density"] == density and r["failure"] is None]
        return np.mean(rows, axis=0) if rows else None


@dataclass(frozen=True)
class Study:
    """All cells of a pool.

    Attributes:
        pool: its name.
        labels: labels.json.
        cells: by training set, then seed.
        config: config.yaml of a training, as a plain dictionary.
    """

    pool: str
    labels: dict[str, Any]
    cells: list[Cell]
    config: dict[str, Any]

    @cached_property
    def names(self) -> list[str]:
        """Training sets, in a fixed order, the full set last."""
        found = {cell.name for cell in self.cells}
        return sorted(found, key=lambda n: (ORDER.index(n.split("_")[0]), n))

    @cached_property
    def densities(self) -> list[float]:
        return [float(row["density"]) for row in self.labels["densities"]]

    @cached_property
    def r_s(self) -> np.ndarray:
        """[densities] bohr."""
        return np.array([row["r_s"] for row in self.labels["densities"]])

    @cached_property
    def starts(self) -> int:
        """Runs of a model at a density."""
        return max(len(cell.replicas) for cell in self.cells) // len(self.densities)

    def of(self, name: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.name == name]

    def label(self, key: str) -> np.ndarray:
        """[densities] value of the test frames themselves, NaN where they do not say."""
        return np.array([row[key][0] if row[key] else math.nan for row in self.labels["densities"]])

    @cached_property
    def passes(self) -> int:
        """Of the source over the densities, as far as the pool holds them; 0 where that is not known."""
        return min(len(row["passes"]) for row in self.labels["densities"])

    def label_of_pass(self, k: int, key: str) -> np.ndarray:
        """[densities] value of the pool's frames of a pass; of its energies the means, eV/atom."""
        values = [row["passes"][k][key] for row in self.labels["densities"]]
        return np.array([v[0] if isinstance(v, list) else math.nan if v is None else v for v in values])

    def g_error(self, name: str, k: int | None) -> np.ndarray:
        """[seeds] mean over the densities of the error of g(r), %, beside a pass (None: the test frames)."""
        found = []
        for cell in self.of(name):
            errors = []
            for row in self.labels["densities"]:
                label, g = row if k is None else row["passes"][k], cell.g(row["density"])
                if g is not None:
                    errors.append(rdf_error(np.array(label["r"]), np.array(label["g"]), g))
            found.append(np.mean(errors) if errors else math.nan)
        return np.array(found)

    def table(self, name: str, key: str) -> np.ndarray:
        """[seeds, densities] of an observable, NaN where all runs failed."""
        return np.array([[cell.value(key, d) for d in self.densities] for cell in self.of(name)])

    def failed(self, name: str, reason: str | None = None) -> np.ndarray:
        """[densities] failed runs; those of a model that does not exist all failed."""
        counts = np.zeros(len(self.densities), dtype=int)
        for cell in self.of(name):
            if not cell.errors:
                counts += self.starts if reason in (None, NO_MODEL) else 0
            for row in cell.replicas:
                if row["failure"] is not None and reason in (None, row["failure"]):
                    counts[self.densities.index(row["density"])] += 1
        return counts

    def from_labels(self, name: str, key: str) -> np.ndarray:
        """[seeds] mean over the densities of the absolute difference from the test frames."""
        return absolute(self.table(name, key) - self.label(key))

    def from_full(self, name: str, key: str, relative: bool = False) -> np.ndarray:
        """[seeds] mean over the densities of the absolute difference from the full set's models.

        Theirs is the mean over the other seeds: for the full set itself that is how far equal models differ.
        """
        full, seeds = self.table(FULL, key), [cell.seed for cell in self.of(FULL)]
        out = []
        for cell, row in zip(self.of(name), self.table(name, key), strict=True):
            others = full[[seed != cell.seed for seed in seeds]]
            reference = mean_over_seeds(others)[0]
            out.append(absolute((row - reference) / (reference if relative else 1.0))[()])
        return np.array(out)


def absolute(differences: np.ndarray) -> np.ndarray:
    """[...] mean of the absolute values along the last axis, over those that there are."""
    known = np.isfinite(differences)
    total = np.where(known, np.abs(differences), 0.0).sum(axis=-1)
    count = known.sum(axis=-1)
    return np.asarray(np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0))


def mean_over_seeds(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard error) along the first axis, over the values that there are; NaN of none, of one."""
    known = np.isfinite(table)
    count = known.sum(axis=0)
    nothing = np.full(count.shape, np.nan)
    mean = np.divide(np.where(known, table, 0.0).sum(axis=0), count, out=nothing.copy(), where=count > 0)
    squares = np.where(known, (table - mean) ** 2, 0.0).sum(axis=0)
    return mean, np.sqrt(np.divide(squares, count * (count - 1), out=nothing, where=count > 1))


def read_study(folder: Path) -> Study:
    """The cells of OUT/POOL.

    Raises:
        SystemExit: dynamics that are not there yet.
    """
    cells, config = [], {}
    for run in sorted(folder.glob("models/*/seed*")):
        training = _json(run / "record.json")
        dynamics = _json(folder / "md" / run.parent.name / run.name / OBSERVED)
        trained = (run / "model.safetensors").is_file()
        if trained and not dynamics:
            raise SystemExit(f"{run} has no dynamics yet: run scripts/hydrogen_study.sh again")
        errors = _json(run / "test_metrics.json").get("overall", {}) if trained else {}
        seed = int(run.name.removeprefix("seed"))
        cells.append(Cell(run.parent.name, seed, training, errors, dynamics))
        if trained:
            plain = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
            assert isinstance(plain, dict)
            config = {str(key): value for key, value in plain.items()}
    if not config:
        raise SystemExit(f"{folder}: no trained model in models/NAME/SEED below it")
    return Study(folder.name, _json(folder / LABELS), cells, config)


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
