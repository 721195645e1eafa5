"""The cells of a comparison: one training each, read from a folder and laid out on a grid."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.errors import InputError

BASELINE, FULL = "random", "full"


@dataclass(frozen=True)
class Cell:
    """One selection with one training and its test errors, as the runner wrote it.

    Attributes:
        selector: label shown; "NAME KEY=VALUE" is a variation of NAME.
        label_aware: the selector read energies or forces.
        budget: frames, atoms or label cost; None for the full pool.
        frames, atoms: what was chosen; NaN where the selection itself failed.
        status: "finished", "diverged" or "failed".
        errors: metric -> value, meV/atom, meV/Å; values may be None.
        coverage: name -> number, of the selection.
        seconds: "selection", "training" -> s, as far as known: the beginning of a larger selection took no
            time of its own.
        selection_hash: equal for equal selections; "" where unknown.
    """

    selector: str
    label_aware: bool
    budget: float | None
    frames: float
    atoms: float
    selection_seed: int
    init_seed: int
    status: str
    message: str = ""
    errors: dict[str, float | None] = field(default_factory=dict)
    coverage: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    selection_hash: str = ""

    @property
    def key(self) -> tuple[str, float | None, int, int]:
        """What tells the cell from the others of its study."""
        return self.selector, self.budget, self.selection_seed, self.init_seed

    def log_error(self, metric: str) -> float:
        """Logarithm of an error; NaN unless the cell finished with a positive, finite one."""
        value = self.errors.get(metric)
        if self.status != "finished" or value is None or not (math.isfinite(value) and value > 0):
            return float("nan")
        return math.log(value)

    @classmethod
    def of(cls, data: dict[str, Any]) -> Cell:
        """From the JSON of a cell.

        Raises:
            KeyError, TypeError, ValueError: an entry is missing or of a wrong kind.
        """
        budget = data["budget"]
        return cls(
            selector=str(data["selector"]),
            label_aware=bool(data.get("label_aware", False)),
            budget=None if budget is None else _whole(float(budget)),
            frames=_size(data, "frames"),
            atoms=_size(data, "atoms"),
            selection_seed=int(data["selection_seed"]),
            init_seed=int(data["init_seed"]),
            status=str(data["status"]),
            message=str(data.get("message") or ""),
            errors=dict(data.get("errors") or {}),
            coverage=_numbers(data.get("coverage") or {}),
            seconds=_numbers(
                {k: data.get(f"seconds_{k}") for k in ("selection", "training")},
            ),
            selection_hash=str(data.get("selection_hash") or ""),
        )


def _whole(number: float) -> float:
    """An int where it is one: 25 is shown as 25."""
    return int(number) if number.is_integer() else number


def _size(data: dict[str, Any], key: str) -> float:
    """Size of the selection; a cell that failed may have none."""
    return float(data[key] if data["status"] == "finished" else data.get(key) or "nan")


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    kept = {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: float(v) for k, v in kept.items() if math.isfinite(v)}


@dataclass(frozen=True)
class Study:
    """All cells of one pool so far.

    Attributes:
        settings: settings.json, {} where there is none.
        problems: files that could not be read, with the reason.
    """

    folder: Path
    settings: dict[str, Any]
    cells: tuple[Cell, ...]
    problems: tuple[str, ...]
    pool: str

    @property
    def selectors(self) -> list[str]:
        """Labels in alphabetic order, the baseline first, without the full set."""
        names = {cell.selector for cell in self.cells} - {FULL}
        return sorted(names, key=lambda name: (name != BASELINE, name))

    @property
    def budgets(self) -> list[float]:
        """Budgets of any selector, ascending."""
        return sorted({c.budget for c in self.cells if c.budget is not None and c.selector != FULL})

    @property
    def init_seeds(self) -> list[int]:
        """Seeds of initial weights, ascending."""
        return sorted({c.init_seed for c in self.cells})


def base_of(selector: str) -> str | None:
    """ "cpd" for the variation "cpd density=knn", None for a selector of its own."""
    name, _, changes = selector.partition(" ")
    return name if "=" in changes else None


def read_study(folder: str | Path) -> Study:
    """Read ``cells/*.json`` and ``settings.json``; a file that cannot be read is named, the others count.

    Raises:
        InputError: no such folder, or no cell in it.
    """
    folder = Path(folder)
    files = sorted((folder / "cells").glob("*.json"))
    if not files:
        raise InputError(
            f"{folder}: no cells/*.json here; give the folder that msmlff compare wrote, or run it first"
        )
    cells: dict[tuple[str, float | None, int, int], Cell] = {}
    problems, pools = [], []
    for file in files:
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            cell = Cell.of(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"cells/{file.name}: {type(error).__name__}: {error}")
            continue
        if cell.budget is None and cell.selector != FULL:
            problems.append(f"cells/{file.name}: no budget, though the selector is {cell.selector}")
            continue
        if cell.key in cells:
            problems.append(f"cells/{file.name}: the same cell as another file; this one is counted")
        cells[cell.key] = cell
        pools.append(str(data.get("pool", "")))
    settings = _settings(folder / "settings.json", problems)
    pool = next(filter(None, [str(settings.get("pool", "")), *pools]), folder.name)
    return Study(folder, settings, tuple(cells.values()), tuple(problems), pool)


def _settings(file: Path, problems: list[str]) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        problems.append(f"settings.json: {error}")
        return {}
    return settings if isinstance(settings, dict) else {}


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of one selector and one metric.

    A row is one selection: seeds that chose the same frames at every budget are one row, since they are no
    independent repetitions (a deterministic selector on one pool).

    Attributes:
        seeds: selection seeds of each row.
        log_error: [rows, budgets, inits], NaN where the cell is absent or did not finish.
        present: [rows, budgets, inits] bool, the cell has ended, in whatever way.
        cells, failed: [budgets] int, cells that ended, and those of them that did not finish.
        frames, atoms: [budgets] mean size of the selections, NaN where there are none.
        coverage: name -> [rows, budgets], NaN where unknown.
    """

    label: str
    label_aware: bool
    seeds: tuple[tuple[int, ...], ...]
    log_error: np.ndarray
    present: np.ndarray
    cells: np.ndarray
    failed: np.ndarray
    frames: np.ndarray
    atoms: np.ndarray
    coverage: dict[str, np.ndarray]

    @property
    def means(self) -> np.ndarray:
        """[budgets] mean log error over the finished cells, NaN where there are none."""
        return masked_mean(self.log_error, (0, 2))


def masked_mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean of what is not NaN; NaN, without a warning, of nothing."""
    good = np.isfinite(values)
    counts = np.asarray(good.sum(axis=axis), dtype=float)
    sums = np.asarray(np.where(good, values, 0.0).sum(axis=axis))
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def grid(study: Study, label: str, metric: str) -> Grid:
    """Lay out the cells of a selector; those of "full" have one budget, the pool."""
    own = [cell for cell in study.cells if cell.selector == label]
    budgets: Sequence[float | None] = [None] if label == FULL else study.budgets
    inits = study.init_seeds
    seeds = sorted({cell.selection_seed for cell in own})
    place = {
        c.key: (seeds.index(c.selection_seed), budgets.index(c.budget), inits.index(c.init_seed)) for c in own
    }
    shape = (len(seeds), len(budgets), len(inits))
    present = np.zeros(shape, dtype=bool)
    log_error = np.full(shape, np.nan)
    for cell in own:
        present[place[cell.key]] = True
        log_error[place[cell.key]] = cell.log_error(metric)
    rows = _distinct(own, seeds, budgets)

    def per_budget(value: Callable[[Cell], float]) -> np.ndarray:
        table = np.full(shape, np.nan)
        for cell in own:
            table[place[cell.key]] = value(cell)
        return masked_mean(table, (0, 2))

    return Grid(
        label=label,
        label_aware=any(cell.label_aware for cell in own),
        seeds=tuple(tuple(seeds[i] for i in row) for row in rows),
        log_error=np.stack([masked_mean(log_error[row], 0) for row in rows]),
        present=np.stack([present[row].any(axis=0) for row in rows]),
        cells=present.sum(axis=(0, 2)),
        failed=(present & np.isnan(log_error)).sum(axis=(0, 2)),
        frames=per_budget(lambda cell: cell.frames),
        atoms=per_budget(lambda cell: cell.atoms),
        coverage=_coverage(own, place, shape, rows),
    )


def _distinct(own: Iterable[Cell], seeds: list[int], budgets: Sequence[float | None]) -> list[list[int]]:
    """Indices of the seeds of each row: seeds of equal, known selections at all budgets stand together."""
    hashes: dict[int, list[str]] = {seed: [""] * len(budgets) for seed in seeds}
    for cell in own:
        hashes[cell.selection_seed][budgets.index(cell.budget)] = cell.selection_hash
    rows: dict[tuple[Any, ...], list[int]] = {}
    for i, seed in enumerate(seeds):
        chosen = hashes[seed]
        rows.setdefault(tuple(chosen) if any(chosen) else ("seed", seed), []).append(i)
    return list(rows.values())


def _coverage(
    own: Sequence[Cell],
    place: dict[Any, tuple[int, int, int]],
    shape: tuple[int, int, int],
    rows: list[list[int]],
) -> dict[str, np.ndarray]:
    tables = {}
    for name in dict.fromkeys(name for cell in own for name in cell.coverage):
        table = np.full(shape, np.nan)
        for cell in own:
            table[place[cell.key]] = cell.coverage.get(name, np.nan)
        per_seed = masked_mean(table, 2)
        tables[name] = np.stack([masked_mean(per_seed[row], 0) for row in rows])
    return tables
