"""msmlff evaluate model=RUN: the simulation before the observables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from msmlff.analysis.trajectory_files import replica_of
from msmlff.app.config import compose_run
from msmlff.app.folder import CONFIG
from msmlff.app.hydra_run import run_hydra
from msmlff.app.record import read_record
from msmlff.data.formats import read_frames
from msmlff.errors import InputError, MSMLFFError

SIMULATION = "simulation"  # folder of it, in that of the observables
LINE = "msmlff simulate"
RESTART = "restart.safetensors"
CONCLUDED = ("finished", "interrupted", "diverged")  # ends of a simulation after which its record is whole
DEFAULT = ("output.every=10",)  # motion is looked at: frames a few fs apart


def with_simulation_keys(arguments: list[str]) -> list[str]:
    """The arguments with simulate.KEY=VALUE collected in simulate=[...], and models= for model=."""
    own = [a for a in arguments if not a.startswith("simulate.")]
    keys = [a.removeprefix("simulate.") for a in arguments if a.startswith("simulate.")]
    if keys and any(a.startswith("simulate=") for a in own):
        raise InputError("simulate=[...] and simulate.KEY=... are given: write one of the two")
    if keys:
        quoted = ", ".join("'" + key.replace("'", "\\'") + "'" for key in (*DEFAULT, *keys))
        own.append(f"simulate=[{quoted}]")
    # model is a group of choices of what to train, so the configuration calls it models
    return [f"models={a.partition('=')[2]}" if a.startswith("model=") else a for a in own]


def simulate_first(arguments: list[str], check: Callable[[DictConfig], Any]) -> list[str]:
    """Run ``msmlff simulate`` into a folder of the evaluation's.

    Args:
        arguments: overrides of conf/evaluate.yaml with models=...
        check: raises InputError for a configuration that could not be evaluated afterwards.

    Returns:
        The arguments with the folder as ``out``.

    Raises:
        InputError: of ``check``; a sweep.
        MSMLFFError: the simulation ended before its first frame.
    """
    from msmlff.app import simulate

    if any(a.startswith("-") for a in arguments):
        raise InputError(
            "a sweep is over trajectories: simulate first (msmlff simulate -m ...), then evaluate"
        )
    try:
        config = merged(compose_run("evaluate", arguments)[1], {})
    finally:
        GlobalHydra.instance().clear()
    check(config)
    folder = Path(str(config.out)) / SIMULATION
    own = [a.partition("=")[2] for a in arguments if a.startswith("models=")]
    shared = [f"{key}={config[key]}" for key in ("threads",) if config[key] is not None]
    system = [a for a in arguments if a.startswith("system=")]
    keys = [f"models={own[-1]}", *system, *shared, *config.simulate, f"hydra.run.dir={folder}"]
    run_hydra("simulate", simulate.hydra_job, keys)
    if not any(folder.glob("trajectory*")):
        raise MSMLFFError(f"the simulation in {folder} left no frames: nothing to evaluate")
    return [*[a for a in arguments if not a.startswith("out=")], f"out={config.out}"]


def merged(config: DictConfig, changes: Mapping[str, Any]) -> DictConfig:
    """A copy of the configuration with other values, references resolved, Hydra's part left out."""
    names = [str(key) for key in config if key != "hydra"]
    with open_dict(config):
        plain = OmegaConf.to_container(OmegaConf.masked_copy(config, names), resolve=True)
    assert isinstance(plain, dict)
    return OmegaConf.create({**plain, **changes})


def failures(trajectory: Path, replica: int | None) -> tuple[str, ...]:
    """Why the engine stopped a replica of the simulation beside a trajectory; () where it did not.

    Of record.json; of the restart file, where the simulation was killed before it wrote that; should both be
    lost, of failed_K.extxyz.
    """
    folder = trajectory if trajectory.is_dir() else trajectory.parent
    record = read_record(folder)
    if replica is None or not str(record.get("command", LINE)).startswith(LINE):
        return ()
    messages = [str(text) for text in record.get("failures", ())]
    if record.get("status") not in CONCLUDED and (folder / RESTART).is_file():
        from msmlff.simulation.restart import load_restart  # torch

        with suppress(InputError):  # damaged: what the record says counts
            messages += [f.message() for f in load_restart(folder / RESTART).failures.values()]
    own = tuple(dict.fromkeys(text for text in messages if text.startswith(f"replica {replica} ")))
    if not own and (path := folder / f"failed_{replica}.extxyz").is_file():
        info = next(iter(read_frames(path))).info
        return (f"replica {replica}: {info.get('reason', 'stopped')} at {info.get('time_fs', '?')} fs",)
    return own


def check_one_state(runs: Sequence[tuple[str, int | None]]) -> None:
    """Whether trajectories were simulated alike, so that they have a mean.

    Args:
        runs: (path, replica) of each; None: the only one.

    Raises:
        InputError: their temperatures differ, by the config.yaml beside them.
    """
    first: dict[str, tuple[Any, str]] = {}
    for path, replica in runs:
        name = path if replica is None else f"{path}, replica {replica}"
        for key, kelvin in _bath(Path(path), replica).items():
            before, other = first.setdefault(key, (kelvin, name))
            if kelvin != before:
                raise InputError(
                    f"trajectory: simulated with {key}={before} ({other}) and {kelvin} ({name}), which have "
                    "no mean: write replica=K for one of them, replica=[K,L,...] for those of one state, or "
                    "trajectory=[...] of such files"
                )


def _bath(trajectory: Path, replica: int | None) -> dict[str, Any]:
    """Temperatures in K of a replica's bath, by key; those that are not known are left out."""
    folder = trajectory if trajectory.is_dir() else trajectory.parent
    if not (folder / CONFIG).is_file():
        return {}
    config = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    assert isinstance(config, dict)
    found = {key: config.get(key) for key in ("temperature", "temperature_end")}
    for key, kelvin in found.items():
        if isinstance(kelvin, list):
            number = replica_of(trajectory, replica)
            found[key] = kelvin[number] if number is not None and number < len(kelvin) else None
    return {key: kelvin for key, kelvin in found.items() if kelvin is not None}
