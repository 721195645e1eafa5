"""msmlff relax: structures of a file, or perfect crystals, relaxed with a model; what they are like then."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape

from msmlff import __version__
from msmlff.app import guard
from msmlff.app.config import check_values, typed
from msmlff.app.folder import CONFIG, OTHER, TakenFolderError
from msmlff.app.guard import Job, note_exit, run_guarded
from msmlff.app.hydra_run import run_hydra
from msmlff.app.record import RECORD, Record, now, read_record, write_json
from msmlff.app.relax_output import (
    FILES,
    FRAMES,
    Relaxed,
    crystal_table,
    elastic_table,
    frame_table,
    phonon_table,
    save_dispersions,
    save_frame,
)
from msmlff.app.runtime import (
    command_line,
    git_revision,
    keep_freed_memory,
    limit_threads,
    pick_device,
    shown_path,
)
from msmlff.data.constraints import constrained_frames
from msmlff.data.formats import read_frames
from msmlff.errors import InputError, MSMLFFError

T = TypeVar("T")
LINE = "msmlff relax"
PROPERTIES = ("elastic", "phonons")
EAM_FILES = (".fs", ".alloy", ".eam", ".adp")
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


@dataclass(frozen=True)
class ElasticSettings:
    """Keys of ``elastic``: see ``simulation.elastic.elastic_constants``."""

    strain: float = 0.002
    fmax: float = 1e-4
    steps: int = 500


class Structure(NamedTuple):
    """A relaxed structure, with what relaxed it."""

    name: str
    atoms: Atoms
    calculator: Calculator


def relax_command(arguments: list[str]) -> int:
    """Run ``msmlff relax``, or a sweep of it; returns the exit code."""
    # model is a group of choices of what to train, so the configuration calls it models
    arguments = [f"models={a.partition('=')[2]}" if a.startswith("model=") else a for a in arguments]
    run_hydra("relax", hydra_job, arguments)
    return guard.exit_code


def hydra_job(config: DictConfig) -> dict[str, Any]:
    """Hydra's task function of ``msmlff relax``."""
    hydra = HydraConfig.get()
    job = Job(
        Path(hydra.runtime.output_dir),
        command_line("relax", hydra.overrides.task),
        keep_going=hydra.mode == RunMode.MULTIRUN,
        ending=_ending(Path(hydra.runtime.output_dir)),
    )
    try:
        return run_guarded(lambda console: run(config, job, console), job)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        note_exit("failed")  # the message is out; it could not be put into the record
        return {"status": "failed"}


def _ending(folder: Path) -> guard.Ending:
    from msmlff.simulation.files import OutputError  # torch

    def ending(error: BaseException) -> tuple[str, str] | None:
        if isinstance(error, KeyboardInterrupt):
            return "interrupted", f"stopped by Ctrl-C. {kept()}"
        if isinstance(error, OutputError):
            return "failed", f"{error}. {kept()}"
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            why = error.strerror if error.errno in (errno.EACCES, errno.EROFS) else "there is no room left"
            return "failed", f"{error.filename or folder} cannot be written: {why}. {kept()}"
        return None

    def kept() -> str:
        path = folder / FRAMES
        frames = (
            [f.info["frame"] for f in read_frames(path)] if path.is_file() and path.stat().st_size else []
        )
        if not frames:
            return "No frame was done"
        return f"{shown_path(path)} has the frames that were done, {len(frames)} up to number {frames[-1]}"

    return ending


def run(config: DictConfig, job: Job, console: Console) -> None:
    """Relax what is asked for; write config.yaml, record.json, relaxed.extxyz, crystals.json, properties.json
    and pictures.

    Args:
        config: of conf/relax.yaml.
        job: folder and command line.
        console: where to show the result.

    Raises:
        InputError: nothing to relax, or settings that are refused.
        MSMLFFError: no structure could be relaxed, or no frame came to rest; what there is, is written.
    """
    from msmlff.simulation.files import write_whole  # torch

    claim(job.folder)
    record = Record(
        job.folder, {"command": job.command, "version": __version__, "git_revision": git_revision()}
    )
    write_whole(job.folder / CONFIG, OmegaConf.to_yaml(config, resolve=True).encode())
    check_values(config)
    _check(config)
    measure = _settings_of_properties(config)
    keep_freed_memory()
    limit_threads(config.threads)
    calculator = calculator_for(config.models, config)
    record.update(models=_names(config.models))
    frames = _relax_frames(config, calculator, job.folder, console) if config.system is not None else []
    structures = [
        *(Structure(f"frame {r.index}", r.relaxation.atoms, calculator) for r in frames if r.relaxation),
        *(_relax_crystals(config, calculator, job.folder, console) if config.crystals else []),
    ]
    if measure:
        _measure(structures, measure, job.folder, console)
    for name in FILES:
        if (job.folder / name).is_file():
            console.print(f"  {shown_path(job.folder / name)}", highlight=False, soft_wrap=True)
    if frames and not any(r.relaxation and r.relaxation.converged for r in frames):
        raise MSMLFFError(
            f"no frame of {config.system} came to rest in {config.steps} steps; {FRAMES} has them as they "
            "are. Write a larger steps=, or optimizer=fire, or look at the table"
        )
    record.update(status="finished", finished=now())


def claim(folder: Path) -> None:
    """Take away what a relaxation that came to nothing left.

    Raises:
        TakenFolderError: a finished relaxation or somebody else's files are there; nothing was changed.
    """
    shown, record = shown_path(folder), read_record(folder)
    mine = str(record.get("command", "")).startswith(LINE)
    found = [name for name in (*FILES, CONFIG, RECORD) if (folder / name).exists()]
    if found and (not mine or record.get("status") == "finished"):
        what = "holds a finished relaxation" if mine else f"is no folder of relax and has {found[0]}"
        raise TakenFolderError(f"{shown} {what}: {OTHER}")
    for name in found:
        (folder / name).unlink()


def calculator_for(given: Any, config: DictConfig) -> Calculator:
    """The calculator of one or several models, or of an EAM file.

    Args:
        given: a path or a list of them: ``models`` or ``reference``.
        config: for dtype, device and ``ops.backend``.

    Raises:
        InputError: what the calculator refuses; an EAM file that is absent or cannot be read.
    """
    names = _names(given)
    if len(names) == 1 and Path(names[0]).name.lower().endswith(EAM_FILES):
        return _eam(Path(names[0]))
    from msmlff.simulation.calculator import MSMLFFCalculator  # torch

    return MSMLFFCalculator(
        names, dtype=config.dtype, device=pick_device(config.device), backend=config.ops.backend
    )


def _names(given: Any) -> list[str]:
    content = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    return [str(name) for name in content] if isinstance(content, list) else [str(content)]


def _eam(path: Path) -> Calculator:
    from ase.calculators.eam import EAM

    if not path.is_file():
        raise InputError(f"there is no file {path}: give an EAM file in LAMMPS' format")
    try:
        return EAM(potential=str(path))
    except (ValueError, IndexError, RuntimeError, KeyError) as error:
        raise InputError(f"{path}: not an EAM file in LAMMPS' format ({error})") from error


def _check(config: DictConfig) -> None:
    """Raises InputError for keys that stand for themselves."""
    if config.system is None and not config.crystals:
        raise InputError("nothing to relax: write system=FILE or crystals=[Ni]")
    for key, example in (("crystals", "Ni, Al"), ("properties", "elastic")):
        if not OmegaConf.is_list(config[key]) or not all(isinstance(v, str) for v in config[key]):
            raise InputError(f"{key}={config[key]}: write a list, as [{example}]")
    unknown = [name for name in config.properties if name not in PROPERTIES]
    if unknown:
        raise InputError(f"properties has {unknown[0]!r}: write any of {', '.join(PROPERTIES)}")
    if config.reference is not None and not config.crystals:
        raise InputError("reference is for crystals alone: write crystals=[ELEMENT], or leave it out")
    if config.bond is not None and not (isinstance(config.bond, int | float) and config.bond > 0):
        raise InputError(f"bond={config.bond!r}: write a positive number of Å, or null")


def _settings(cls: type[T], config: DictConfig) -> T:
    """A dataclass from the keys of the same names at the top of the configuration."""
    content = {field.name: config[field.name] for field in fields(cls)}  # type: ignore[arg-type]
    try:
        return TypeAdapter(cls).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        text = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        raise InputError(f"{first['loc'][0]}={first['input']!r}: {text}") from None


def _relax_frames(
    config: DictConfig, calculator: Calculator, folder: Path, console: Console
) -> list[Relaxed]:
    """Relax every frame of the file and write it when it is done; one that fails does not stop the others."""
    from msmlff.simulation.files import GrowingFile
    from msmlff.simulation.relax import RelaxSettings, relax

    path, settings = Path(config.system), _settings(RelaxSettings, config)
    if not path.is_file():
        raise InputError(f"system={path}: there is no such file")
    _warn_of_constraints(path, console)
    done: list[Relaxed] = []
    file = GrowingFile(folder / FRAMES)
    for index, frame in enumerate(read_frames(path)):
        with console.status(f"relaxing frame {index} of {path}"):
            start = frame.to_ase()
            start.calc = None
            try:
                _check_elements(start.symbols.species(), calculator, "model")
                done.append(Relaxed(index, frame, relax(start, calculator, settings)))
            except (MSMLFFError, PropertyNotImplementedError) as error:
                done.append(Relaxed(index, frame, None, str(error)))
            except Exception as error:  # of linear algebra, memory, a calculator: the others may be well
                done.append(Relaxed(index, frame, None, f"{type(error).__name__}: {error}"))
        if done[-1].relaxation is not None:
            save_frame(done[-1], file)
    console.print(frame_table(done))
    if all(r.relaxation is None for r in done):
        raise MSMLFFError(f"{path}: no frame could be relaxed; the first says: {done[0].message}")
    return done


def _warn_of_constraints(path: Path, console: Console) -> None:
    found = constrained_frames(path)
    if found:
        first, kinds = next(iter(found.items()))
        which = f"frame {first}" if len(found) == 1 else f"{len(found)} frames, the first of them {first},"
        verb = "holds" if len(found) == 1 else "hold"
        console.print(
            f"[yellow]warning:[/] {escape(str(path))}: {which} {verb} atoms ({', '.join(kinds)}), which "
            "relax does not: all atoms move. In Python, msmlff.simulation.relax.relax keeps constraints",
            highlight=False,
            soft_wrap=True,
        )


def _relax_crystals(
    config: DictConfig, calculator: Calculator, folder: Path, console: Console
) -> list[Structure]:
    """Tables of fcc, bcc and hcp of the model, and of the reference beside it."""
    from msmlff.simulation.crystals import Crystal, relaxed_crystals

    sources = {"model": calculator}
    if config.reference is not None:
        sources["reference"] = calculator_for(config.reference, config)
    for source, its in sources.items():
        _check_elements(config.crystals, its, source)
    found: dict[str, dict[str, list[Crystal]]] = {element: {} for element in config.crystals}
    for element, of in found.items():
        for source, its in sources.items():
            with console.status(f"{element}: crystals of the {source}"):
                of[source] = relaxed_crystals(element, its, config.bond)
        console.print(crystal_table(element, of))
    content = {e: {s: [c.as_json() for c in rows] for s, rows in of.items()} for e, of in found.items()}
    write_json(folder / "crystals.json", content)
    return [
        Structure(f"{element} {crystal.structure} ({source})", crystal.atoms, sources[source])
        for element, of in found.items()
        for source, rows in of.items()
        for crystal in rows
        if not (crystal.held or crystal.problem)  # at a c/a that is held it is under stress
    ]


def _check_elements(elements: Iterable[str], calculator: Calculator, source: str) -> None:
    """Raises InputError, before anything is calculated, where an EAM file lacks an element."""
    known: Sequence[str] | None = getattr(calculator, "elements", None)  # of ASE's EAM
    missing = [element for element in elements if known is not None and element not in known]
    if missing:
        raise InputError(f"there is no {missing[0]} in the {source}, which has {', '.join(known or ())}")


def _settings_of_properties(config: DictConfig) -> dict[str, Any]:
    """The settings of each property that is asked for.

    Raises:
        InputError: settings that are refused; phonons without phonopy.
    """
    from msmlff.simulation.phonons import PhononSettings, check_phonopy

    settings = {
        "elastic": typed(ElasticSettings, config.elastic, "elastic"),
        "phonons": typed(PhononSettings, config.phonons, "phonons"),
    }
    if "phonons" in config.properties:
        check_phonopy()
    return {name: settings[name] for name in config.properties}


def _measure(structures: list[Structure], settings: dict[str, Any], folder: Path, console: Console) -> None:
    """Write properties of relaxed structures to properties.json, show them, and draw the phonons."""
    from msmlff.simulation.elastic import Elastic, elastic_constants
    from msmlff.simulation.phonons import Phonons, phonons

    elastic: dict[str, Elastic] = {}
    dispersions: dict[str, Phonons] = {}
    content: dict[str, Any] = {}
    for name, atoms, calculator in structures:
        of = content[name] = {}
        try:
            with console.status(f"{name}: {', '.join(settings)}"):
                if "elastic" in settings:
                    elastic[name] = elastic_constants(atoms, calculator, **asdict(settings["elastic"]))
                    of["elastic"] = elastic[name].as_json()
                if "phonons" in settings:
                    dispersions[name] = phonons(atoms, calculator, settings["phonons"])
                    of["phonons"] = dispersions[name].as_json()
        except MSMLFFError as error:
            of["error"] = str(error)
            console.print(f"{name}: {error}", highlight=False, soft_wrap=True, markup=False)
    write_json(folder / "properties.json", content)
    if elastic:
        console.print(elastic_table(elastic))
    if dispersions:
        console.print(phonon_table(dispersions))
        save_dispersions(dispersions, folder / "phonons.png")
