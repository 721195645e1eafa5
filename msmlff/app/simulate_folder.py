"""The folder of a simulation: whose it is, that one process writes to it, and from where it can go on."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from msmlff.app.folder import CONFIG, OTHER, TakenFolderError
from msmlff.app.record import RECORD, read_record
from msmlff.app.runtime import shown_path
from msmlff.errors import InputError
from msmlff.simulation.files import explained, write_whole
from msmlff.simulation.output import THERMO
from msmlff.simulation.restart import RESTART, load_restart
from msmlff.simulation.trajectory import CHUNKS, INDEX

LINE = "msmlff simulate"
LOCK = ".lock"
PICTURE, PAGE = "thermo.png", "simulation.html"
PATTERNS = (
    "trajectory*.extxyz",
    INDEX,
    f"{CHUNKS}/*.h5",
    THERMO,
    RESTART,
    "failed_*.extxyz",
    PICTURE,
    PAGE,
    CONFIG,
)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While this lasts, no other process simulates in the folder; the system ends it with the process.

    Raises:
        TakenFolderError: another one does; nothing was changed.
        OutputError: the folder cannot be written to.
    """
    path = folder / LOCK
    with explained(path):
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise TakenFolderError(
                    f"{shown_path(folder)}: another process simulates there; wait for its end or stop it, or "
                    f"{OTHER}"
                ) from None
            # a file system without locks: go on without
        yield


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
    if not is_mine(folder):
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


def is_mine(folder: Path) -> bool:
    """Whether the folder is a simulation's: by its record, or, should that be gone, by what can go on."""
    if (folder / CONFIG).is_file() and (folder / RESTART).is_file():
        return True
    try:
        record = read_record(folder)
    except InputError:
        return False
    return str(record.get("command", "")).startswith(LINE)


def save_config(config: DictConfig, folder: Path) -> None:
    """Write config.yaml where it says something else; a resumed simulation may have a new total of steps.

    Its paths hold from every working directory.

    Raises:
        OutputError: it cannot be written; an earlier one is as it was.
    """
    resolved = config.copy()
    for key in ("models", "system", "report_run"):
        resolved[key] = _resolved(OmegaConf.to_container(config)[key])  # type: ignore[index, call-overload]
    path, content = folder / CONFIG, OmegaConf.to_yaml(resolved).encode()
    if not path.is_file() or path.read_bytes() != content:
        write_whole(path, content)


def _resolved(paths: Any) -> Any:
    if isinstance(paths, list):
        return [_resolved(path) for path in paths]
    return str(Path(paths).resolve()) if isinstance(paths, str) else paths  # what else there is, is refused


def resume_line(folder: Path) -> str:
    """The command that goes on."""
    return f"{LINE} resume={shown_path(folder)}"


def saved(folder: Path, first: str = "") -> str:
    """From where a simulation that broke off can go on; ``first`` is to be done before, as "make room"."""
    try:
        step = load_restart(folder / RESTART).step
    except InputError:
        return "Nothing was saved before" + (f"; {first} and start again" if first else "")
    then = f"{first}, then continue" if first else "continue"
    return f"All up to step {step} is saved; {then} with: {resume_line(folder)}"
