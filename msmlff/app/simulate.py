"""msmlff simulate: molecular dynamics of the frames of a file with a trained model."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
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
from msmlff.app.folder import CONFIG
from msmlff.app.guard import Job, note_exit, run_guarded
from msmlff.app.record import Record, now, read_record
from msmlff.app.runtime import (
    PeakMemory,
    command_line,
    device_name,
    git_revision,
    prepare,
    shown_path,
    versions,
)
from msmlff.app.simulate_folder import (
    LINE,
    PATTERNS,
    claim,
    is_mine,
    locked,
    resume_line,
    save_config,
    saved,
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
from msmlff.simulation.files import NO_ROOM, OutputError, explained
from msmlff.simulation.output import THERMO, Output
from msmlff.simulation.restart import RESTART, Restart, load_restart
from msmlff.simulation.thermo import read_thermo

HEAT = (
    ". A strained start can be relaxed first (msmlff relax); where such heat is meant, raise "
    "limits.max_temperature"
)
CELL = (
    ". Look at ensemble.pressure (GPa), ensemble.compressibility and ensemble.barostat_time; where such a "
    "change is meant, raise limits.volume"
)
ADVICE = {"temperature": HEAT, "volume": CELL}
UNWRITABLE = (*NO_ROOM, errno.EACCES, errno.EROFS)


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
    job = Job(folder, line, keep_going=sweep, ending=_ending(folder))

    def start(console: Console) -> None:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            claim(folder)
            save_config(plain, folder)
            run(plain, job, console)

    return _guarded(start, job)


def resume_job(folder: Path, steps: int | None) -> dict[str, Any]:
    """Continue the simulation in ``folder`` from its last save.

    Args:
        folder: of the simulation.
        steps: a new total of steps; None: that of its configuration.

    Raises:
        InputError: no simulation there, one that another process is at, nothing left to do, or nothing that
            could be continued.
    """
    folder = folder.resolve()
    if not (folder / CONFIG).is_file() or not is_mine(folder):
        raise InputError(f"resume={folder}: no simulation there; give the folder of one")
    with locked(folder):
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
        job = Job(folder, line, ending=_ending(folder))
        return _guarded(lambda console: run(config, job, console, restart), job)


def _guarded(work: Callable[[Console], None], job: Job) -> dict[str, Any]:
    try:
        return run_guarded(work, job)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        note_exit("failed")  # the message is out; it could not be put into the record
        return {"status": "failed"}


def _ending(folder: Path) -> Any:
    def ending(error: BaseException) -> tuple[str, str] | None:
        if isinstance(error, Interrupted):
            return "interrupted", f"{error}. Continue with: {resume_line(folder)}"
        if isinstance(error, KeyboardInterrupt):
            return "interrupted", f"stopped at once by Ctrl-C. {saved(folder)}"
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            advice = "Out of memory: simulate fewer replicas at a time, or a smaller system"
            return "failed", f"{error}\n{advice}. {saved(folder)}".lstrip()
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            room = error.errno in NO_ROOM
            why = " cannot be written: there is no room left for it" if room else f": {error.strerror}"
            error = OutputError(f"{error.filename or folder}{why}")
        if isinstance(error, OutputError):
            first = "make room" if "no room" in str(error) else "mend that"
            return "failed", f"{error}. {saved(folder, first)}"
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
    facts = {"command": job.command, "git_revision": git_revision(), "versions": versions()}
    record = Record(folder, facts)
    check_values(config)
    prepare(config.threads, config.seed, tf32=False)  # the calculator's numbers, on a GPU as well
    setup = prepare_simulation(config, None if restart is None else restart.starts)
    if restart is not None and restart.facts["models"] != setup.hashes:
        raise InputError(
            f"models={config.models}: the file changed since {shown_path(folder)} was saved: "
            "put it back, or start a new simulation"
        )
    save_config(config, folder)
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
        output.save(md)  # from now on there is something to go on from
        progress = RunProgress(console, output, setup.spec.steps, origins(output.latest))
        md.hooks.append(progress)
    with _signals() as signals:
        last = _Stop(signals, md.step)
        md.hooks.append(last)
        progress.start(md.step)
        if restart is None:
            progress.print_row(md)
        try:
            md.run(setup.spec.steps - md.step)
        except BaseException as error:
            if md.step == last.done:  # else the files may have half of that step
                with suppress(Exception):
                    output.save(md)
            error.add_note(saved(folder))
            raise
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
        atoms = {"atoms": list(failure.atoms[:16])} if failure.atoms else {}
        write_frames(folder / f"failed_{k}.extxyz", [replace(failure.frame, info=info | atoms)])
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
        if setup.spec.picture or setup.spec.report_run is not None:
            from msmlff.app.simulate_page import save_pictures  # matplotlib, plotly

            save_pictures(md, setup, folder, thermo, record.content, _title(setup))
        show_summary(found, speed, console, ramp=setup.ramps)
    names = sorted({path.relative_to(folder).parts[0] for p in PATTERNS for path in folder.glob(p)})
    show_files(folder, names, console)
    messages = [failure.message() for failure in md.failures.values()]
    reasons = {failure.reason for failure in md.failures.values()}
    if messages:
        messages[-1] += "".join(ADVICE[reason] for reason in ADVICE if reason in reasons)
    if not md.alive:
        frame = f"failed_{next(iter(md.failures))}.extxyz"
        kept = f"what came before is in {shown_path(folder)}, the frame in {frame}"
        raise DivergenceError("; ".join(messages[:3]) + f". {kept}")
    if md.stopped:
        raise Interrupted(f"{md.stopped} after step {md.step}")
    for text in messages:
        console.print(f"[yellow]failed:[/] {text}", highlight=False, soft_wrap=True)
    record.update(status="finished", finished=now())


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
    """The last hook; it stops the run after the step in which a signal came.

    Attributes:
        done: the last step of which all hooks have been called.
    """

    every, stress = 1, False

    def __init__(self, caught: list[int], done: int) -> None:
        self.caught, self.done = caught, done

    def __call__(self, md: MolecularDynamics) -> None:
        self.done = md.step
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
