"""msmlff compare: selectors x budgets x seeds as a sweep of jobs, each cell a file, one page at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from msmlff.app.config import check_values, config_folder
from msmlff.app.record import now, write_json
from msmlff.app.runtime import command_line, shown_path, versions
from msmlff.app.settings import deciding
from msmlff.errors import InputError

SETTINGS = "settings.json"
CELLS = "cells"
BASELINE, FULL = "random", "full"
# what may differ between jobs of one comparison, or is only about where it runs
_FREE = (
    "selector",
    "budgets",
    "selection_seed",
    "seeds",
    "baseline_seeds",
    "init_seeds",
    "descriptor.device",
)

exit_code = 0


def hydra_job(config: DictConfig) -> dict[str, Any]:
    """One job: a selector and a selection seed, all budgets and seeds of the learner."""
    hydra = HydraConfig.get()
    folder = Path(hydra.sweep.dir).absolute()
    plain = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert isinstance(plain, DictConfig)
    label = selector_label(str(hydra.runtime.choices["selector"]), hydra.overrides.task)
    if plain.selection_seed > _seeds(plain, label):
        return {"status": "skipped"}
    from msmlff.app.compare_jobs import run_job

    line = run_job(plain, folder, label)
    if line:
        console = Console()
        console.print(f"{label}, seed {plain.selection_seed}: {line}", highlight=False, soft_wrap=True)
    return {"status": "finished"}


def check_settings(arguments: Sequence[str]) -> None:
    """Before any job starts: the folder is new, or holds a comparison with the same settings.

    Raises:
        InputError: what ``keep_settings`` raises.
    """
    overrides = [o for o in arguments if not o.startswith("-") and not _swept(o)]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("compare", overrides, return_hydra_config=True)
    # the sweep's folder names choices, which resolve through Hydra's own singleton alone
    HydraConfig.instance().set_config(config)
    folder = Path(config.hydra.sweep.dir).absolute()
    with open_dict(config):
        del config["hydra"]
    plain = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert isinstance(plain, DictConfig)
    check_values(plain)
    keep_settings(folder, plain, overrides)


def selector_label(choice: str, overrides: Sequence[str]) -> str:
    """The selector as the page calls it: its choice and what was changed of it, "cpd density=knn"."""
    changed = [
        o.lstrip("+").removeprefix("selector.") for o in overrides if o.lstrip("+").startswith("selector.")
    ]
    return " ".join([choice, *sorted(changed)])


def _seeds(config: DictConfig, label: str) -> int:
    if label == FULL:
        return 1
    return int(config.baseline_seeds if label == BASELINE else config.seeds)


def keep_settings(folder: Path, config: DictConfig, overrides: Sequence[str]) -> None:
    """Write settings.json, or compare with the one that is there.

    Raises:
        InputError: the folder holds a comparison with other settings; the message names them.
    """
    path = folder / SETTINGS
    free = tuple(f"{key}." for key in _FREE)
    decides = {k: v for k, v in deciding(config).items() if not f"{k}.".startswith(free)}
    decides = json.loads(json.dumps(decides))
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "command": command_line("compare", list(overrides)),
            "started": now(),
            "versions": versions(),
            "hardware": f"{os.cpu_count()} CPU cores",
            "level": config.pool.level,
            "pool": config.pool.name,
            "settings": decides,
        }
        write_json(path, content)
    before = json.loads(path.read_text(encoding="utf-8"))["settings"]
    changed = sorted(k for k in {**before, **decides} if before.get(k) != decides.get(k))
    if changed:
        listed = ", ".join(f"{k}={decides.get(k)} (there: {before.get(k)})" for k in changed[:4])
        raise InputError(
            f"{shown_path(folder)} holds a comparison with other settings: {listed}. Give this one a folder "
            "of its own: hydra.sweep.dir=FOLDER"
        )


def _swept(override: str) -> bool:
    return override.split("=")[0].lstrip("+").split(".")[0] in ("selector", "selection_seed")


class ComparisonPage(Callback):
    """Hydra callback: the page over all cells in the sweep's folder, of earlier sweeps as well."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and name the page."""
        from msmlff.analysis.comparison_page import write_comparison

        folder = Path(config.hydra.sweep.dir).absolute()
        global exit_code
        if not any((folder / CELLS).glob("*.json")):
            exit_code = 1
            return
        page = write_comparison(folder)
        Console().print(f"page  {shown_path(page)}", highlight=False, soft_wrap=True)
