"""msmlff simulate: molecular dynamics of the frames of a file with a trained model."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from msmlff.app.config import check_values
from msmlff.app.folder import CONFIG, OTHER, TakenFolderError
from msmlff.app.guard import Job, note_exit, run_guarded
from msmlff.app.record import RECORD, Record, now, read_record
from msmlff.app.runtime import (
    PeakMemory,
    command_line,
    device_name,
    git_revision,
    prepare,
    shown_path,
    versions,
)
from msmlff.app.simulate_setup import Setup, prepare_simulation
from msmlff.app.simulate_show import RunProgress, origins, show_files, show_summary, summary
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.formats import write_frames
from msmlff.data.neighbors import neighbor_list
from msmlff.errors import DivergenceError, InputError, MSMLFFError
from msmlff.models.backend import choose_backend
from msmlff.nn.ops import check_backend, set_backend
from msmlff.simulation import NPT, MolecularDynamics
from msmlff.simulation.chunks import sample_of
from msmlff.simulation.files import NO_ROOM, OutputError, write_whole
from msmlff.simulation.output import THERMO, Output
from msmlff.simulation.restart import RESTART, Restart, load_restart
from msmlff.simulation.thermo import read_thermo
from msmlff.simulation.trajectory import CHUNKS, INDEX

PICTURE = "thermo.png"
LINE = "msmlff simulate"
HEAT = (
    ". A strained start can be relaxed first (msmlff relax); where such heat is meant, raise "
    "limits.max_temperature"
)
PATTERNS = (
    "trajectory*.extxyz",
    INDEX,
    f"{CHUNKS}/*.h5",
    THERMO,
    RESTART,
    "failed_*.extxyz",
    PICTURE,
    CONFIG,
)


class Interrupted(MSMLFFError):  # noqa: N818 (not an error: the run was told to stop)
    """The run was told to stop and has saved everything."""


def hydra_job(config: DictConfig) -> dict[str, Any]:
    """One job of a run or a sweep."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    plain = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert isinstance(plain, DictConfig)
    line = command_line("simulate", hydra.overrides.task)
    sweep = hydra.mode == RunMode.MULTIRUN
    return _guarded(Job(folder, line, keep_going=sweep, ending=_ending(folder)), plain, None)


def resume_job(folder: Path, steps: int | None) -> dict[str, Any]:
    """Continue the simulation in ``folder`` from its last save.

    Args:
        folder: of the simulation.
        steps: a new total of steps; None: that of its configuration.

    Raises:
        InputError: no simulation there, nothing left to do, or nothing that could be continued.
    """
    folder = folder.resolve()
    if not (folder / CONFIG).is_file() or not _is_mine(folder):
        raise InputError(f"resume={folder}: no simulation there; give the folder of one")
    config = OmegaConf.load(folder / CONFIG)
    assert isinstance(config, DictConfig)
    restart = load_restart(folder / RESTART)
    if not restart.state["index"].numel():
        raise InputError(
            f"resume={folder}: all replicas of that simulation have failed; "
            f"{next(iter(restart.failures.values())).message()}"
        )
    if steps is not None:
        config.steps = steps
    if restart.step >= config.steps:
        raise InputError(
            f"resume={folder}: that simulation has done all of its {restart.step} steps; to go on, write "
            f"resume={shown_path(folder)} steps={2 * restart.step} (the new total)"
        )
    line = str(read_record(folder).get("command", LINE))
    return _guarded(Job(folder, line, ending=_ending(folder)), config, restart)


def _guarded(job: Job, config: DictConfig, restart: Restart | None) -> dict[str, Any]:
    try:
        return run_guarded(lambda console: run(config, job, console, restart), job)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        note_exit("failed")  # the message is out; there was no room to put it into the record
        return {"status": "failed"}


def _ending(folder: Path) -> Any:
    def ending(error: BaseException) -> tuple[str, str] | None:
        resume = f"msmlff simulate resume={shown_path(folder)}"
        if isinstance(error, Interrupted):
            return "interrupted", f"{error}. Continue with: {resume}"
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return "failed", f"{error}\nOut of memory: simulate fewer replicas at a time, or a smaller system"
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            error = OutputError(f"{error.filename or folder} cannot be written: there is no room left for it")
        if isinstance(error, OutputError):
            if not (folder / RESTART).is_file():
                return "failed", f"{error}. Nothing was saved before; make room and start again"
            step = load_restart(folder / RESTART).step
            text = f"{error}. All up to step {step} is saved; make room, then continue with: {resume}"
            return "failed", text
        return None

    return ending


def run(config: DictConfig, job: Job, console: Console, restart: Restart | None = None) -> None:
    """Simulate; write trajectory, thermo.csv, restart.safetensors, thermo.png and record.json.

    Args:
        config: of conf/simulate.yaml, resolved.
        job: folder and command line.
        console: where to show it.
        restart: where to go on; None: from the start.

    Raises:
        InputError: whatever of the configuration or the files it names cannot be used.
        DivergenceError: all replicas left the physical range.
        Interrupted: told to stop; everything is saved.
        OutputError: a file could not be written.
    """
    folder = job.folder
    folder.mkdir(parents=True, exist_ok=True)
    if restart is None:
        claim(folder)
        _save_config(config, folder)
    facts = {"command": job.command, "git_revision": git_revision(), "versions": versions()}
    record = Record(folder, facts)
    check_values(config)
    prepare(config.threads, config.seed)
    setup = prepare_simulation(config, None if restart is None else restart.starts)
    if restart is not None and restart.facts["models"] != setup.hashes:
        raise InputError(
            f"models={config.models}: the file changed since {shown_path(folder)} was saved: "
            "put it back, or start a new simulation"
        )
    _save_config(config, folder)
    memory = PeakMemory(setup.forces.device.type)
    backend = _backend(config, setup, record.content.get("backend"))
    record.update(**_facts(setup), **backend, device=device_name(setup.forces.device.type))
    console.print(_title(setup), highlight=False, soft_wrap=True)
    set_backend(backend["backend"])
    try:
        _simulate(setup, folder, record, console, restart)
    finally:
        set_backend(None)
        record.update(peak_memory_mb=memory.mb())


def _save_config(config: DictConfig, folder: Path) -> None:
    """Write config.yaml where it says something else; a resumed simulation may have a new total of steps."""
    path, content = folder / CONFIG, OmegaConf.to_yaml(config).encode()
    if not path.is_file() or path.read_bytes() != content:
        write_whole(path, content)


def _simulate(setup: Setup, folder: Path, record: Record, console: Console, restart: Restart | None) -> None:
    """The run itself, and what is shown and written after it."""
    output = Output(folder, setup.output, setup.starts, {"models": setup.hashes})
    md = MolecularDynamics(setup.forces, setup.starts, setup.ensemble, setup.settings)
    if restart is not None:
        md.restore(restart.state, restart.step, restart.failures)
        output.restore(restart)
        thermo = read_thermo(folder / THERMO)
        progress = RunProgress(
            console, output, setup.spec.steps, {k: float(c["conserved_eV"][0]) for k, c in thermo.items()}
        )
        md.hooks = [*output.hooks, progress]
    else:
        md.hooks = list(output.hooks)
        md.call_hooks()
        progress = RunProgress(console, output, setup.spec.steps, origins(output.latest))
        md.hooks.append(progress)
    with _signals() as signals:
        md.hooks.append(_Stop(signals))
        progress.start(md.step)
        if restart is None:
            progress.print_row(md)
        try:
            md.run(setup.spec.steps - md.step)
        finally:
            progress.stop()
        output.save(md)
    _finish(md, setup, folder, record, console)
    speed = {
        "ns_per_day": progress.ns_per_day(md),
        "atom_steps_per_second": progress.atom_steps_per_second,
    }
    _conclude(md, setup, folder, record, console, speed)


def _finish(md: MolecularDynamics, setup: Setup, folder: Path, record: Record, console: Console) -> None:
    """The frames that failed, in files and in the record."""
    for k, failure in md.failures.items():
        info = {"step": failure.step, "time_fs": failure.time_fs, "reason": failure.reason}
        frame = replace(failure.frame, info=info | {"atoms": list(failure.atoms[:16])})
        write_frames(folder / f"failed_{k}.extxyz", [frame])
    record.update(
        steps_done=md.step, time_fs=md.time_fs, failures=[f.message() for f in md.failures.values()]
    )


def _conclude(
    md: MolecularDynamics,
    setup: Setup,
    folder: Path,
    record: Record,
    console: Console,
    speed: dict[str, float],
) -> None:
    """Averages, picture, and how it ended."""
    thermo, atoms = read_thermo(folder / THERMO), [len(f) for f in setup.starts]
    if thermo:
        found = summary(thermo, atoms)
        record.update(summary=found, **{k: float(f"{v:.4g}") for k, v in speed.items()})
        if setup.spec.picture:
            from msmlff.app.simulate_figure import save_thermo_figure  # matplotlib

            save_thermo_figure(thermo, atoms, setup.spec.bath(), folder / PICTURE, _title(setup))
        show_summary(found, speed, console, ramp=setup.ramps)
    names = sorted({path.relative_to(folder).parts[0] for p in PATTERNS for path in folder.glob(p)})
    show_files(folder, names, console)
    messages = [failure.message() for failure in md.failures.values()]
    if any(failure.reason == "temperature" for failure in md.failures.values()):
        messages[-1] += HEAT
    if not md.alive:
        frame = f"failed_{next(iter(md.failures))}.extxyz"
        kept = f"what came before is in {shown_path(folder)}, the frame in {frame}"
        raise DivergenceError("; ".join(messages[:3]) + f". {kept}")
    if md.stopped:
        raise Interrupted(f"{md.stopped} after step {md.step}")
    for text in messages:
        console.print(f"[yellow]failed:[/] {text}", highlight=False, soft_wrap=True)
    record.update(status="finished", finished=now())


def claim(folder: Path) -> None:
    """Take away what a simulation that came to nothing left.

    Raises:
        TakenFolderError: a simulation that is finished or can be continued, or somebody else's files, are
            there; nothing was changed.
    """
    shown = shown_path(folder)
    found = [path for pattern in (*PATTERNS, RECORD) for path in sorted(folder.glob(pattern))]
    if not found:
        return
    if not _is_mine(folder):
        raise TakenFolderError(f"{shown} is no folder of simulate and has {found[0].name}: {OTHER}")
    status = None
    with suppress(InputError):  # damaged: what it was, the restart file says
        status = read_record(folder).get("status")
    if status == "finished":
        raise TakenFolderError(f"{shown} holds a finished simulation: {OTHER}, or delete this one")
    if (folder / RESTART).exists():
        state = status or f"its {RECORD} is absent or damaged"
        raise TakenFolderError(
            f"{shown} holds an unfinished simulation ({state}): continue it with resume={shown}, or "
            f"delete it, or {OTHER}"
        )
    for path in found:
        path.unlink()


def _is_mine(folder: Path) -> bool:
    """Whether the folder is a simulation's: by its record, or, should that be gone, by what can go on."""
    if (folder / CONFIG).is_file() and (folder / RESTART).is_file():
        return True
    try:
        record = read_record(folder)
    except InputError:
        return False
    return str(record.get("command", "")).startswith(LINE)


def _backend(config: DictConfig, setup: Setup, earlier: str | None) -> dict[str, Any]:
    """Entries of the record: the backend, and what each took where that was measured."""
    device = setup.forces.device
    if config.ops.backend != "auto":
        check_backend(config.ops.backend, device.type)
        return {"backend": config.ops.backend}
    if earlier is not None:  # another would not give the same bits
        return {"backend": earlier}
    frame: Configuration = max(setup.starts, key=len)
    found = neighbor_list(frame.positions, frame.cell, frame.pbc, setup.forces.cutoff + setup.spec.skin)
    model = setup.models[0]
    batch = sample_of(model, collate([frame], [found], model.atomic_numbers).to(device))
    choice = choose_backend(model, batch, training=False)
    return {"backend": choice.name, "backend_ms": choice.milliseconds}


def _facts(setup: Setup) -> dict[str, Any]:
    spec = setup.spec
    return {
        "models": setup.hashes,
        "system": spec.system,
        "replicas": len(setup.starts),
        "atoms": [len(f) for f in setup.starts] if len(setup.starts) <= 100 else None,
        "ensemble": {"kind": type(setup.ensemble).__name__, **vars(setup.ensemble)},
        "temperature": spec.temperature,
        **({"temperature_end": spec.temperature_end} if spec.temperature_end is not None else {}),
        **({"ramp_steps": spec.ramp_steps} if setup.ramps else {}),
        "timestep_fs": spec.timestep,
        "steps": spec.steps,
    }


def _title(setup: Setup) -> str:
    spec, counts = setup.spec, {len(f) for f in setup.starts}
    atoms = f"{min(counts)} atoms" if len(counts) == 1 else f"{min(counts)} to {max(counts)} atoms"
    replicas = f"{len(setup.starts)} replicas of " if len(setup.starts) > 1 else ""
    kind = type(setup.ensemble).__name__
    pressure = ""
    if isinstance(setup.ensemble, NPT):
        ends = [p for p in (setup.ensemble.pressure, setup.ensemble.pressure_end) if p is not None]
        pressure = f", {' to '.join(f'{p:g}' for p in ends)} GPa"
    what = f"{kind} of {replicas}{Path(spec.system).name}"
    return f"{what}: {atoms}, {spec.kelvin}{pressure}, {spec.timestep:g} fs a step"


class _Stop:
    """A hook that stops the run after the step in which a signal came."""

    every, stress = 1, False

    def __init__(self, caught: list[int]) -> None:
        self.caught = caught

    def __call__(self, md: MolecularDynamics) -> None:
        if self.caught:
            md.stop(f"stopped by {signal.Signals(self.caught[0]).name}")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGTERM and SIGINT are noted, not obeyed; a second Ctrl-C stops at once."""
    caught: list[int] = []

    def note(number: int, _: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
