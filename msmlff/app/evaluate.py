"""msmlff evaluate: observables of a trajectory, beside those of a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from msmlff.analysis.observables_folder import ObservablesFolder, describe, save_observables
from msmlff.analysis.observables_page import (
    ERROR_NAMES,
    has_replicas,
    summary_rows,
    write_observables_page,
)
from msmlff.analysis.observe import check_names, observe
from msmlff.analysis.observe_replicas import ended_early, mean_errors, observe_replicas, volume_notes
from msmlff.analysis.observed import Observed, ObserveSettings, Subject
from msmlff.analysis.tables import figure as number
from msmlff.analysis.trajectory import Trajectory
from msmlff.analysis.trajectory_files import (
    NoFramesError,
    find_trajectory,
    read_trajectory,
    replica_of,
    replicas_in,
)
from msmlff.app import guard
from msmlff.app.config import typed
from msmlff.app.evaluate_model import (
    SIMULATION,
    check_one_state,
    failures,
    merged,
    simulate_first,
    with_simulation_keys,
)
from msmlff.app.folder import is_of
from msmlff.app.hydra_run import run_hydra
from msmlff.app.runtime import command_line, limit_threads, shown_path
from msmlff.data.configuration import Configuration
from msmlff.data.formats import read_frames
from msmlff.errors import InputError, MSMLFFError


def evaluate_command(arguments: list[str]) -> int:
    """Run the command with Hydra's overrides, a simulation before it where a model is given.

    Returns:
        The exit code.
    """
    arguments = with_simulation_keys(arguments)
    if any(a.startswith("models=") for a in arguments) and not {"--help", "-h", "--cfg", "-c"} & set(
        arguments
    ):
        arguments = simulate_first(arguments, check)
    run_hydra("evaluate", hydra_job, arguments)
    return guard.exit_code


def hydra_job(config: DictConfig) -> None:
    """Hydra's task function. A folder of another command keeps its record: none is written here."""
    hydra = HydraConfig.get()
    try:
        run(
            config,
            Path(hydra.runtime.output_dir),
            command_line("evaluate", hydra.overrides.task),
            Console(),
        )
    except MSMLFFError as error:
        Console(stderr=True).print(
            f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        guard.note_exit("input" if isinstance(error, InputError) else "failed")


def run(config: DictConfig, folder: Path, command: str, console: Console) -> None:
    """Evaluate; write observables.json, observables/ and a page, or the report of a training run.

    Args:
        config: of conf/evaluate.yaml.
        folder: where.
        command: the line that does this, for the page.
        console: where to show the result.

    Raises:
        InputError: see ``observe`` and ``read_trajectory``.
    """
    settings, names = check(config)
    if config.trajectory is None and config.models is not None:
        config = merged(config, {"trajectory": str(folder / SIMULATION)})
    limit_threads(config.threads)
    reference = None
    if config.reference is not None:
        reference = _read(config, "reference", str(config.reference), None)
    subjects, absent = _subjects(config, settings, reference)
    with console.status(f"evaluating {sum(len(s.trajectory) for s in subjects.values())} frames"):
        content = _evaluated(subjects, names, absent)
    save_observables(content, folder)
    if is_of("train", folder):
        from msmlff.analysis.report import write_report

        page = write_report(folder)
    else:
        page = write_observables_page(folder, command)
    _show(content, console)
    for label, path in (("page", page), ("numbers", folder / "observables.json")):
        console.print(f"{label:>8}  {shown_path(path)}", highlight=False, soft_wrap=True)


def check(config: DictConfig) -> tuple[ObserveSettings, Sequence[str] | None]:
    """Settings and names of observables of a configuration.

    Raises:
        InputError: a key that is not right; nothing, or both of a trajectory and a model, to evaluate.
    """
    settings = typed(ObserveSettings, config.settings, "settings")
    given = [key for key in ("trajectory", "models") if config[key] is not None]
    if len(given) != 1:
        raise InputError("write trajectory=FILE, or model=RUN system=FILE" + (", not both" if given else ""))
    if (config.models is None) != (config.system is None):
        raise InputError(
            "model=RUN and system=FILE go together: the simulation starts from the file's frames"
        )
    for name in ("interval_fs", "reference_interval_fs"):
        if config[name] is not None and not (isinstance(config[name], int | float) and config[name] > 0):
            raise InputError(f"{name}={config[name]}: write a positive number of fs, or null")
    if config.trajectory is not None:
        paths(config.trajectory)
    for name, least in (("first", 0), ("every", 1), ("last", 1)):
        absent = config[name] is None and name == "last"
        if not absent and not (isinstance(config[name], int) and config[name] >= least):
            raise InputError(f"{name}={config[name]}: write a whole number >= {least}")
    return settings, _names(config)


def _names(config: DictConfig) -> Sequence[str] | None:
    if config.observables is None:
        return None
    chosen = OmegaConf.to_container(config.observables) if OmegaConf.is_config(config.observables) else None
    if not isinstance(chosen, list):
        raise InputError(f"observables={config.observables}: write a list, as [rdf, msd], or null for all")
    return check_names([str(name) for name in chosen])


def _read(config: DictConfig, key: str, path: str, replica: int | None) -> Trajectory:
    kept = slice(config.first, config.last, config.every) if key == "trajectory" else slice(None)
    interval_fs = config.interval_fs if key == "trajectory" else config.reference_interval_fs
    try:
        return read_trajectory(path, interval_fs, kept, replica)
    except NoFramesError:
        raise
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


def _subjects(
    config: DictConfig, settings: ObserveSettings, reference: Trajectory | None
) -> tuple[dict[str, Subject], dict[str, str]]:
    """All trajectories that are given by what notes call them; and why others are left out.

    A replica that ended before ``first`` is left out where others are not.
    """
    subjects: dict[str, Subject] = {}
    absent: dict[str, str] = {}
    equilibrium = _equilibrium(config.equilibrium)
    for path, replica in _runs(config):
        label = path if replica is None else f"replica {replica} of {path}"
        try:
            trajectory = _read(config, "trajectory", path, replica)
        except NoFramesError as error:
            absent[label] = str(error)
            continue
        number = replica_of(Path(path), replica)
        subjects[label] = Subject(
            trajectory, settings, reference, equilibrium,
            _thermo(config, path, trajectory, number), failures(Path(path), number),
        )  # fmt: skip
    if not subjects:
        raise InputError(f"trajectory: {next(iter(absent.values()))}")
    return subjects, absent


def _runs(config: DictConfig) -> list[tuple[str, int | None]]:
    """Paths and replicas of the trajectories: the one that is named, or all there are.

    Raises:
        InputError: nothing there, or replicas that were simulated at different temperatures.
    """
    found: list[tuple[str, int | None]] = []
    for path in paths(config.trajectory):
        try:
            own = [config.replica] if config.replica is not None else replicas_in(path)
        except InputError as error:
            raise InputError(f"trajectory: {error}") from None
        found += [(path, replica) for replica in own]
    check_one_state(found)
    return found


def paths(given: Any) -> list[str]:
    """What ``trajectory`` names: one path, or a list of them.

    Raises:
        InputError: something else, or one that is given twice.
    """
    content = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    names = [str(name) for name in (content if isinstance(content, list) else [content])]
    if not names or len(set(names)) < len(names):
        raise InputError(f"trajectory={content}: write FILE, or [A,B] for the mean over several, each once")
    return names


def _equilibrium(path: str | None) -> Configuration | None:
    return None if path is None else next(iter(read_frames(path)))


def _thermo(
    config: DictConfig, given: str, trajectory: Trajectory, replica: int | None
) -> dict[str, np.ndarray] | None:
    """The replica's rows of the thermo.csv beside the trajectory of ``msmlff simulate``, of its frames' time.

    None where there is none, or where it is not known which replica the trajectory is of.
    """
    path = find_trajectory(Path(given), replica).parent / "thermo.csv"
    if replica is None or not path.is_file() or trajectory.interval_fs is None:
        return None
    from msmlff.simulation.thermo import read_thermo  # torch

    columns = read_thermo(path).get(replica)
    if columns is None:
        return None
    since = columns["time_fs"] - columns["time_fs"][0]
    interval = trajectory.interval_fs / config.every
    end = config.last * interval if config.last is not None else math.inf
    kept = (since >= config.first * interval) & (since < end)
    return {name: values[kept] for name, values in columns.items()}


def _evaluated(
    subjects: dict[str, Subject], names: Sequence[str] | None, absent: dict[str, str]
) -> ObservablesFolder:
    """Observables of the trajectories, those of the reference that they have, and what lies between them."""
    label, subject = next(iter(subjects.items()))
    trajectory, reference = subject.trajectory, subject.reference
    found, missing = observe_replicas(subjects, names)
    notes = [f"Without {name}: {reason}" for name, reason in absent.items()] + volume_notes(subjects)
    if notes and found:
        first = next(iter(found))
        found[first] = replace(found[first], notes=(*notes, *found[first].notes))
    errors: dict[str, float] = {}
    theirs: dict[str, Observed] = {}
    about: dict[str, Any] = {}
    if reference is not None:
        from msmlff.analysis.observable_errors import trajectory_errors

        about = describe(reference)
        other = Subject(reference, subject.settings)
        for name in found.keys() - {"stability"}:
            with suppress(InputError):  # the reference may hold less than the trajectory
                theirs |= observe(other, [name])[0]
        try:
            early = ended_early(subjects)
            late = [s.trajectory for name, s in subjects.items() if name not in early]
            errors = mean_errors([trajectory_errors(reference, one) for one in late])
        except InputError as error:
            missing["errors against the reference"] = str(error)
    of = f" of {label}" if len(subjects) > 1 else ""
    ends = {f"first frame{of}": 0, f"last frame{of}": len(trajectory) - 1}
    frames = trajectory.frames()
    return ObservablesFolder(
        about=describe(trajectory, *[s.trajectory for s in subjects.values()][1:]),
        found=found,
        reference=theirs,
        about_reference=about,
        errors=errors,
        missing=missing,
        settings=asdict(subject.settings),
        structures=[replace(frames[i], info={"label": label}) for label, i in ends.items()],
    )


def _show(content: ObservablesFolder, console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("observable", ""):
        table.add_column(heading)
    table.add_column("value", justify="right", no_wrap=True)
    replicas = has_replicas(content.found)
    if replicas:
        table.add_column("± replicas", justify="right", no_wrap=True)
    if content.reference:
        table.add_column("reference", justify="right", style="dim", no_wrap=True)
    table.add_column("unit", style="dim", no_wrap=True)
    before = ""
    for name, label, value, scatter, theirs, unit in summary_rows(content.found, content.reference):
        cells = [value, *([scatter] if replicas else []), *([theirs] if content.reference else [])]
        table.add_row(Text(name if name != before else ""), Text(label), *map(Text, cells), unit)
        before = name
    for key, size in content.errors.items():
        label, unit = ERROR_NAMES[key]
        blank = [""] * (replicas + bool(content.reference))
        first = "against the reference" if key == next(iter(content.errors)) else ""
        table.add_row(first, Text(label), number(size), *blank, unit)
    console.print(table)
    for name, reason in content.missing.items():
        console.print(f"[dim]no {escape(name)}: {escape(reason)}[/]", highlight=False, soft_wrap=True)
