"""msmlff compare: selectors x budgets x seeds as a sweep of jobs, each cell a file, one page at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from msmlff.app.config import check_values, config_folder
from msmlff.app.record import now, write_json
from msmlff.app.runtime import command_line, cpu_model, device_name, pick_device, shown_path, versions
from msmlff.app.settings import deciding
from msmlff.errors import InputError

SETTINGS = "settings.json"
CELLS = "cells"
FULL = "full"
# what may differ between jobs of one comparison, or is only about where it runs
_FREE = ("selector", "budgets", "selection_seed", "init_seeds", "descriptor.device")

exit_code = 0


def hydra_job(config: DictConfig) -> dict[str, Any]:
    """One job: a selector and a selection seed, all budgets and seeds of the learner."""
    hydra = HydraConfig.get()
    folder = Path(hydra.sweep.dir).absolute()
    plain = _plain(config)
    label = selector_label(str(hydra.runtime.choices["selector"]), hydra.overrides.task)
    if label == FULL and plain.selection_seed != 1:
        return {"status": "skipped"}
    from msmlff.app.compare_jobs import run_job

    line = run_job(plain, folder, label)
    if line:
        console = Console()
        console.print(f"{label}, seed {plain.selection_seed}: {line}", highlight=False, soft_wrap=True)
    return {"status": "finished"}


def check_settings(arguments: Sequence[str]) -> None:
    """Before any job starts: what the jobs need is there, and the folder is new or holds a comparison of the
    same frames with the same settings.

    Raises:
        InputError: what ``check_study`` and ``keep_settings`` raise, or a sweep of something else than
            selectors, their parameters and selection seeds.
    """
    overrides = [a for a in arguments if not a.startswith("-")]
    swept = [o for o in OverridesParser.create().parse_overrides(overrides) if o.is_sweep_override()]
    for override in swept:
        if not _of_a_job(override.key_or_group):
            raise InputError(
                f"{override.input_line}: a comparison sweeps selectors, their parameters and selection_seed. "
                f"Compare other choices in folders of their own: {override.key_or_group}=... "
                "hydra.sweep.dir=FOLDER"
            )
    common = [o for o in overrides if not _of_a_job(o.split("=")[0])]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("compare", common, return_hydra_config=True)
    # the sweep's folder names choices, which resolve through Hydra's own singleton alone
    HydraConfig.instance().set_config(config)
    folder = Path(config.hydra.sweep.dir).absolute()
    with open_dict(config):
        del config["hydra"]
    plain = _plain(config)
    check_values(plain)
    from msmlff.app.compare_check import check_study

    keep_settings(folder, plain, check_study(plain), overrides)


def selector_label(choice: str, overrides: Sequence[str]) -> str:
    """The selector as the page calls it: its choice and what was changed of it, "cpd density=knn"."""
    changed = [
        o.lstrip("+").removeprefix("selector.") for o in overrides if o.lstrip("+").startswith("selector.")
    ]
    return " ".join([choice, *sorted(changed)])


def _plain(config: DictConfig) -> DictConfig:
    plain = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert isinstance(plain, DictConfig)
    return plain


def _of_a_job(key: str) -> bool:
    return key.lstrip("+~").split(".")[0] in ("selector", "selection_seed")


def keep_settings(
    folder: Path, config: DictConfig, content: dict[str, str], overrides: Sequence[str]
) -> None:
    """Write settings.json, or compare with the one that is there and add the command to it.

    Args:
        content: hashes of what the settings name: frames, descriptor.

    Raises:
        InputError: the folder holds a comparison with other settings or frames; the message names them.
    """
    path = folder / SETTINGS
    free = tuple(f"{key}." for key in _FREE)
    decides = {k: v for k, v in deciding(config).items() if not f"{k}.".startswith(free)}
    decides = json.loads(json.dumps({**decides, **content}))
    kept: dict[str, Any] = {
        "pool": config.pool.name,
        "level": config.pool.level,
        "commands": [],
        "started": now(),
        "versions": versions(),
        "hardware": _hardware(pick_device(config.device)),
        "settings": decides,
    }
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
    before = kept["settings"]
    changed = sorted(k for k in {**before, **decides} if before.get(k) != decides.get(k))
    if changed:
        listed = ", ".join(f"{k}={decides.get(k)} (there: {before.get(k)})" for k in changed[:4])
        raise InputError(
            f"{shown_path(folder)} holds a comparison with other settings: {listed}. Give this one a folder "
            "of its own: hydra.sweep.dir=FOLDER"
        )
    command = command_line("compare", overrides)
    if command not in kept["commands"]:
        kept["commands"].append(command)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, kept)


def _hardware(device: str) -> str:
    cores = f"{cpu_model()}, {os.cpu_count()} cores"
    return cores if device == "cpu" else f"{cores}; {device_name(device)}"


class ComparisonPage(Callback):
    """Hydra callback: the page over all cells in the sweep's folder, of earlier sweeps as well."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and name the page; the exit code is 1 where no training has finished."""
        from msmlff.analysis.comparison_cells import read_study
        from msmlff.analysis.comparison_page import write_comparison

        folder = Path(config.hydra.sweep.dir).absolute()
        global exit_code
        exit_code = 1
        if any((folder / CELLS).glob("*.json")):
            page = write_comparison(folder)
            exit_code = int(all(cell.status != "finished" for cell in read_study(folder).cells))
            Console().print(f"page  {shown_path(page)}", highlight=False, soft_wrap=True)
