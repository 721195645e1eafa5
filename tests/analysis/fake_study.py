"""Folders as `msmlff compare` writes them, of invented errors with known differences between selectors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BUDGETS = (25, 50, 100, 200, 400)


@dataclass
class FakeStudy:
    """log error = log(scale) - slope log(budget) + effect(selector) + selection + weights + noise.

    effects: selector -> its log error over that of random; a tuple: at the smallest and the largest budget.
    """

    effects: dict[str, Any] = field(default_factory=lambda: {"random": 0.0, "cpd": -0.1, "fps": 0.1})
    aware: tuple[str, ...] = ()
    budgets: tuple[int, ...] = BUDGETS
    seeds: int = 10
    inits: int = 3
    slope: float = 0.35
    selection_spread: float = 0.02
    init_spread: float = 0.05
    noise: float = 0.01
    atoms: int = 128
    full: bool = True
    seed: int = 0

    def cells(self) -> list[dict[str, Any]]:
        """All cells of a finished study."""
        rng = np.random.default_rng(self.seed)
        weights = self.init_spread * rng.normal(size=self.inits)
        cells = []
        for selector, effect in self.effects.items():
            first, last = effect if isinstance(effect, tuple) else (effect, effect)
            for s in range(self.seeds):
                own = self.selection_spread * rng.normal()
                for b, share in zip(self.budgets, np.linspace(0, 1, len(self.budgets)), strict=True):
                    typical = (1 - share) * first + share * last + own
                    coverage = {
                        "environment_share": float(1 - 0.4 * np.exp(typical) * (25 / b) ** 0.3),
                        "mean_distance": float(np.exp(typical + 0.02 * rng.normal()) * b**-0.2),
                        "dh_mean": float(rng.normal()),
                    }
                    for i in range(self.inits):
                        log = -self.slope * np.log(b) + typical + weights[i] + self.noise * rng.normal()
                        cell = self.cell(selector, b, s + 1, i + 1, float(log))
                        cells.append(cell | {"coverage": coverage})
        if self.full:
            for i in range(self.inits):
                log = -self.slope * np.log(575) + weights[i] + self.noise * rng.normal()
                cells.append(self.cell("full", None, 1, i + 1, float(log)))
        return cells

    def cell(self, selector: str, budget: int | None, seed: int, init: int, log: float) -> dict[str, Any]:
        """One finished cell with the force error 800 exp(log)."""
        frames = budget or 575
        force = float(800 * np.exp(log))
        errors = {"energy_rmse": 0.02 * force, "energy_mae": 0.015 * force, "force_rmse": force}
        return {
            "format": 1, "pool": "fake_hydrogen", "selector": selector, "label_aware": selector in self.aware,
            "budget": budget, "frames": frames, "atoms": frames * self.atoms, "n_pool": 575,
            "selection_seed": seed, "init_seed": init, "status": "finished", "message": "",
            "errors": errors | {"force_mae": 0.7 * force, "force_rmse_percent": force / 9.75},
            "seconds_selection": 0.02 + 0.001 * frames, "seconds_training": 60.0,
            "selection_hash": f"{selector}-{budget}-{seed}",
        }  # fmt: skip

    def write(self, folder: Path, cells: list[dict[str, Any]] | None = None) -> Path:
        """The folder with all cells, or those given."""
        (folder / "cells").mkdir(parents=True)
        for k, cell in enumerate(self.cells() if cells is None else cells):
            (folder / "cells" / f"{k:05d}.json").write_text(json.dumps(cell))
        settings = {
            "pool": "fake_hydrogen", "level": "frames", "subpool": 0.9, "hardware": "2 cores x86-64",
            "model": {"name": "msmace", "channels": 16, "parameters": 12345},
            "training": {"steps": 500, "learning_rate": 0.01, "batch": 4},
            "descriptor": {"name": "mace_random", "seed": 0},
            "command": "msmlff compare pool=fake_hydrogen", "started": "2026-01-01T00:00:00+00:00",
            "versions": {"msmlff": "0.1.0", "torch": "2.13.0"},
        }  # fmt: skip
        (folder / "settings.json").write_text(json.dumps(settings))
        return folder
