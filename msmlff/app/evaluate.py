"""msmlff evaluate: observables of a trajectory, beside those of a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from msmlff.analysis.observables_folder import ObservablesFolder, describe, save_observables
from msmlff.analysis.observables_page import write_observables_page
from msmlff.analysis.observe import check_names
from msmlff.analysis.observe_motion import FAILED
from msmlff.analysis.observe_replicas import observe_replicas, volume_notes
from msmlff.analysis.observe_state import kinetic_temperature
from msmlff.analysis.observed import ObserveSettings, Subject
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
from msmlff.app.evaluate_reference import Beside, beside_reference
from msmlff.app.evaluate_show import show
from msmlff.app.folder import is_of
from msmlff.app.hydra_run import run_hydra
from msmlff.app.runtime import command_line, limit_threads
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
        reference = _reference(config, settings)
    found = _subjects(config, settings, reference)
    with console.status(f"evaluating {sum(len(s.trajectory) for s in found.subjects.values())} frames"):
        content = _evaluated(found, names, reference)
    save_observables(content, folder)
    if is_of("train", folder):
        from msmlff.analysis.report import write_report

        page = write_report(folder)
    else:
        page = write_observables_page(folder, command)
    show(content, page, folder / "observables.json", console)


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
    chosen_replicas(config.replica)
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


def _reference(config: DictConfig, settings: ObserveSettings) -> Subject:
    path = str(config.reference)
    trajectory = _read(config, "reference", path, None)
    thermo = _thermo(path, trajectory, replica_of(Path(path)), slice(None))
    return Subject(trajectory, settings, thermo=thermo)


@dataclass
class _Found:
    """The trajectories that are given, by what notes call them.

    Attributes:
        subjects: those with frames to look at.
        absent: why others have none: they ended before ``first``.
        lost: those of ``absent`` that the engine stopped.
    """

    subjects: dict[str, Subject] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def _subjects(config: DictConfig, settings: ObserveSettings, reference: Subject | None) -> _Found:
    """All trajectories that are given; one of them has frames, or InputError is raised."""
    found = _Found()
    equilibrium = _equilibrium(config.equilibrium)
    lent = None if reference is None else kinetic_temperature(reference)
    runs = _runs(config)
    of = "" if len({path for path, _ in runs}) == 1 else " of {}"
    for path, replica in runs:
        label = path if replica is None else f"replica {replica}{of.format(path)}"
        number = replica_of(Path(path), replica)
        stopped = failures(Path(path), number)
        try:
            trajectory = _read(config, "trajectory", path, replica)
        except NoFramesError as error:
            found.absent[label] = str(error)
            found.lost += [label] * bool(stopped)
            continue
        kept = slice(config.first, config.last, config.every)
        found.subjects[label] = Subject(
            trajectory, settings, None if reference is None else reference.trajectory, equilibrium,
            _thermo(path, trajectory, number, kept), stopped, lent_temperature=lent,
        )  # fmt: skip
    if not found.subjects:
        raise InputError(f"trajectory: {next(iter(found.absent.values()))}")
    return found


def _runs(config: DictConfig) -> list[tuple[str, int | None]]:
    """Paths and replicas of the trajectories: those that are named, or all there are.

    Raises:
        InputError: nothing there, or replicas that were simulated at different temperatures.
    """
    found: list[tuple[str, int | None]] = []
    wanted = chosen_replicas(config.replica)
    for path in paths(config.trajectory):
        try:
            there = replicas_in(path)
            own = replica_of(Path(path), there[0])
        except InputError as error:
            raise InputError(f"trajectory: {error}") from None
        known = [own] if there == [None] else there
        if strange := [replica for replica in wanted if replica not in known]:
            what = "one trajectory without a number"
            if known[0] is not None:
                what = f"replica {known[0]}" if len(known) == 1 else f"replicas {known[0]} to {known[-1]}"
            raise InputError(
                f"replica={strange[0]}: {path} holds {what}; leave replica out for all of it, or write one "
                "or several that it holds, as [0, 2]"
            )
        found += [(path, replica) for replica in (wanted if there != [None] and wanted else there)]
    check_one_state(found)
    return found


def chosen_replicas(given: Any) -> list[int]:
    """What ``replica`` names: one, a list of them, or none: all.

    Raises:
        InputError: something else than whole numbers, none, or one that is given twice.
    """
    content: Any = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    if content is None:
        return []
    numbers: list[Any] = content if isinstance(content, list) else [content]
    right = all(isinstance(k, int) and not isinstance(k, bool) and k >= 0 for k in numbers)
    if not numbers or not right or len(set(numbers)) < len(numbers):
        raise InputError(
            f"replica={content}: write the number of one, as 0, or a list as [0, 2], each once; null: all"
        )
    return numbers


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
    given: str, trajectory: Trajectory, replica: int | None, kept: slice
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
    interval = trajectory.interval_fs / (kept.step or 1)
    end = kept.stop * interval if kept.stop is not None else math.inf
    rows = (since >= (kept.start or 0) * interval) & (since < end)
    return {name: values[rows] for name, values in columns.items()}


def _evaluated(given: _Found, names: Sequence[str] | None, reference: Subject | None) -> ObservablesFolder:
    """Observables of the trajectories, those of the reference that they have, and what lies between them."""
    subjects = given.subjects
    label, subject = next(iter(subjects.items()))
    trajectory = subject.trajectory
    found, missing = observe_replicas(subjects, names, given.lost)
    notes = [f"Without {name}: {reason}" for name, reason in given.absent.items()] + volume_notes(subjects)
    if "stability" not in found:
        notes += _failure_notes(subjects)
    if notes and found:
        first = next(iter(found))
        found[first] = replace(found[first], notes=(*notes, *found[first].notes))
    beside = Beside() if reference is None else beside_reference(reference, subjects, list(found))
    of = f" of {label}" if len(subjects) > 1 else ""
    ends = {f"first frame{of}": 0, f"last frame{of}": len(trajectory) - 1}
    frames = trajectory.frames()
    return ObservablesFolder(
        about=describe(trajectory, *[s.trajectory for s in subjects.values()][1:]),
        found=found,
        reference=beside.found,
        about_reference=beside.about,
        errors=beside.errors,
        missing={**missing, **beside.missing},
        settings=asdict(subject.settings),
        structures=[replace(frames[i], info={"label": label}) for label, i in ends.items()],
    )


def _failure_notes(subjects: Mapping[str, Subject]) -> list[str]:
    several = len(subjects) > 1
    return [
        f"{f'{label}: ' if several else ''}{FAILED}: {message}"
        for label, subject in subjects.items()
        for message in subject.failures
    ]
