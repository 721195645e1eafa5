"""The work of a comparison's job: select, learn, measure; one JSON a cell."""

from __future__ import annotations

import hashlib
import json
import re
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from msmlff.analysis.errors import error_table
from msmlff.app.choose import build_descriptor
from msmlff.app.compare import CELLS, FULL
from msmlff.app.config import build, typed
from msmlff.app.prepare import DTYPES
from msmlff.app.record import write_json
from msmlff.app.runtime import keep_freed_memory, pick_device, prepare
from msmlff.data.pools import Pool, PoolSpec, load_pool
from msmlff.data.store import FrameStore
from msmlff.distill.budget import Budget
from msmlff.distill.coverage import coverage
from msmlff.distill.features import Features
from msmlff.distill.selection import Selection
from msmlff.distill.selector import Rules, Selector
from msmlff.errors import DivergenceError, InputError
from msmlff.training.learner import Learner, NetworkLearner
from msmlff.training.specs import TrainingSpec

FORMAT = 1
ERRORS = ("energy_rmse", "energy_mae", "force_rmse", "force_mae", "force_rmse_percent", "stress_rmse")


def network_learner(model: Any, training: Any, dtype: str) -> NetworkLearner:
    """The target of conf/learner/network.yaml."""
    if dtype not in DTYPES:
        raise InputError(f"learner.dtype={dtype}: write float32 or float64")
    spec = typed(TrainingSpec, OmegaConf.create(training), "learner.training")
    return NetworkLearner(model, spec, dtype=dtype)


@dataclass(frozen=True)
class Cell:
    """One selection and one seed of the learner."""

    label: str
    budget: float | None
    selection_seed: int
    init_seed: int

    def path(self, folder: Path) -> Path:
        """cells/LABEL-bBUDGET-sSEED-iSEED.json, with a hash where the label is no file name."""
        name = re.sub(r"[^\w.=-]+", "_", self.label)
        if name != self.label:
            name += "-" + hashlib.sha256(self.label.encode()).hexdigest()[:6]
        budget = "all" if self.budget is None else f"{self.budget:.12g}"
        return folder / CELLS / f"{name}-b{budget}-s{self.selection_seed}-i{self.init_seed}.json"

    def done(self, folder: Path) -> bool:
        """Whether it need not be made again: what failed may have been mended since."""
        path = self.path(folder)
        return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["status"] != "failed"


def run_job(config: DictConfig, folder: Path, label: str) -> str:
    """Do the cells of a selector and a selection seed that are not done yet; returns a line about them."""
    cells = [cell for cell in _cells(config, label) if not cell.done(folder)]
    if not cells:
        return ""
    (folder / CELLS).mkdir(exist_ok=True)
    started = time.perf_counter()
    device = pick_device(config.device)
    prepare(config.threads, 0)
    keep_freed_memory()
    pool = read_pool(typed(PoolSpec, config.pool, "pool"))
    learner: Learner = build(config.learner, "learner").on(device)
    failed = 0
    try:
        choices: Choices | InputError = Choices(config, pool, device)
    except InputError as error:  # this selector's own: the others go on
        choices = error
    for cell in cells:
        content = {**_facts(cell, pool, config, choices), **_measure(cell, pool, choices, learner)}
        failed += content["status"] != "finished"
        write_json(cell.path(folder), content)
    line = f"{len(cells)} cells in {time.perf_counter() - started:.0f} s"
    return line + (f", {failed} FAILED" if failed else "")


def _cells(config: DictConfig, label: str) -> Iterator[Cell]:
    """Seeds of the learner outside: a comparison that is stopped has whole curves."""
    budgets = [None] if label == FULL else list(config.budgets)
    for init_seed in config.init_seeds:
        for budget in budgets:
            yield Cell(label, budget, int(config.selection_seed), int(init_seed))


@lru_cache(maxsize=1)
def _load(key: str) -> Pool:
    return load_pool(_specs[key])


_specs: dict[str, PoolSpec] = {}


def read_pool(spec: PoolSpec) -> Pool:
    """Read once in a process, which does many jobs.

    Raises:
        InputError: it has no validation or test frames.
    """
    key = repr(spec)
    _specs[key] = spec
    pool = _load(key)
    if pool.val is None or pool.test is None:
        raise InputError("a comparison needs val and test frames: set pool.fractions, pool.val or pool.test")
    return pool


class Choices:
    """The selections of one selector and selection seed, made when they are asked for."""

    def __init__(self, config: DictConfig, pool: Pool, device: str) -> None:
        self.selector: Selector = build(config.selector, "selector")
        self.label_aware = self.selector.uses_labels or _reads_trained_model(config)
        self.pool, self.seed = pool.train, int(config.selection_seed)
        self.budgets = sorted(config.budgets)
        self.unit, self.exponent = str(config.unit), float(config.cost_exponent)
        self.forbidden = _hidden(pool.train, float(config.subpool), self.seed)
        self.features: Features = build_descriptor(config.descriptor, device)(pool.train)
        self._made: dict[float, tuple[Selection, float | None, dict[str, float]]] = {}

    def of(self, budget: float | None) -> tuple[np.ndarray, dict[str, Any]]:
        """Chosen frames, and facts of the choice for the cell."""
        if budget is None:
            return np.arange(len(self.pool)), {"selection_hash": "full", "coverage": {}}
        if budget not in self._made:
            selection, seconds = self._select(budget)
            covered = _flat(coverage(self.features, selection, self.pool.group))
            self._made[budget] = (selection, seconds, covered)
        selection, seconds, covered = self._made[budget]
        digest = hashlib.sha256(np.sort(selection.ids).tobytes()).hexdigest()[:16]
        return selection.ids, {
            "selection_hash": digest,
            "coverage": covered,
            "seconds_selection": seconds,
        }

    def _select(self, budget: float) -> tuple[Selection, float | None]:
        """The selection, and the seconds it took: None for the beginning of a larger one."""
        room = len(self.pool) - len(self.forbidden)
        largest = max((b for b in self.budgets if b <= room), default=budget)
        if budget < largest and self.unit == "frames" and self.selector.nested:
            if largest not in self._made:
                self.of(largest)
            return self._made[largest][0].first(int(budget)), None
        started = time.perf_counter()
        selection = self.selector.select(
            self.features,
            Budget(budget, self.unit, self.exponent),
            frames=self.pool,
            groups=self.pool.group,
            rules=Rules(forbidden=self.forbidden),
            seed=self.seed,
        )
        return selection, time.perf_counter() - started


def seen_frames(pool: FrameStore, share: float) -> int:
    """Frames that every selection seed sees."""
    return round(share * len(pool))


def _hidden(pool: FrameStore, share: float, seed: int) -> list[int]:
    """Frames that this selection seed does not see."""
    order = np.random.default_rng([seed, 7]).permutation(len(pool))
    return sorted(order[seen_frames(pool, share) :].tolist())


def _facts(cell: Cell, pool: Pool, config: DictConfig, choices: Choices | InputError) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "pool": pool.name,
        "selector": cell.label,
        "label_aware": isinstance(choices, Choices) and choices.label_aware,
        "budget": cell.budget,
        "unit": config.unit,
        "n_pool": len(pool.train),
        "selection_seed": cell.selection_seed,
        "init_seed": cell.init_seed,
    }


def _reads_trained_model(config: DictConfig) -> bool:
    """A descriptor from a file was made by a model that was trained on labels."""
    return any(key in config.descriptor for key in ("path", "paths"))


def _measure(cell: Cell, pool: Pool, choices: Choices | InputError, learner: Learner) -> dict[str, Any]:
    """The outcome of a cell; what goes wrong is an outcome, too."""
    content: dict[str, Any] = {}
    try:
        if isinstance(choices, InputError):
            raise choices
        ids, facts = choices.of(cell.budget)
        content |= {"frames": len(ids), "atoms": int(pool.train.num_atoms[ids].sum()), **facts}
        started = time.perf_counter()
        table = error_table(learner.predictions(pool, ids, cell.init_seed))
        overall, by_group = table["overall"], table.get("by_group") or {}
        if overall["force_rmse"] is None and overall["energy_rmse"] is None:
            raise DivergenceError("the predictions are not finite")
        return content | {
            "status": "finished",
            "message": "",
            "errors": {name: overall.get(name) for name in ERRORS},
            "groups": {g: {n: row.get(n) for n in ERRORS[:3:2]} for g, row in by_group.items()},
            "seconds_training": time.perf_counter() - started,
        }
    except DivergenceError as error:
        return content | {"status": "diverged", "message": str(error)}
    except InputError as error:
        return content | {"status": "failed", "message": str(error)}
    except Exception:
        return content | {"status": "failed", "message": traceback.format_exc()}


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of the coverage's summaries, without its lists by group, element and component."""
    flat: dict[str, float] = {}
    for name, value in node.items():
        if name in ("groups", "elements", "components", "random", "tails", "labels"):
            continue
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}_")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{name}"] = float(value)
    return flat
