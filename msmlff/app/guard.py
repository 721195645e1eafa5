"""How a job ends: what it raises becomes a message, a status in its record and an exit code."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from msmlff.app.folder import TakenFolderError
from msmlff.app.record import RECORD, read_record, write_json
from msmlff.errors import DivergenceError, InputError, MSMLFFError

EXIT = {"finished": 0, "skipped": 0, "failed": 1, "diverged": 1, "input": 2, "interrupted": 130}
exit_code = 0  # the worst of this process's jobs; Hydra does not hand back what a job returns

Ending = Callable[[BaseException], tuple[str, str] | None]


@dataclass(frozen=True)
class Job:
    """What a guarded job is.

    Attributes:
        folder: the run folder.
        command: the line that does it, for the record.
        keep_going: an unexpected exception is reported, not raised.
        ending: status and message of an exception that this command alone knows, else None.
        after_failure: called with the folder when a failure was put into its record.
    """

    folder: Path
    command: str
    keep_going: bool = False
    ending: Ending = lambda error: None
    after_failure: Callable[[Path], None] = lambda folder: None


def note_exit(status: str) -> None:
    """Let the process end with the exit code of ``status`` if no job ended worse."""
    global exit_code
    exit_code = max(exit_code, EXIT[status])


def run_guarded(work: Callable[[Console], None], job: Job) -> dict[str, Any]:
    """Run ``work``; turn what it raises into a message, a status in the record and an exit code."""
    status, message = "finished", ""
    try:
        work(Console())
    except BaseException as error:
        known = job.ending(error) or _ending(error)
        if known is None:
            _note_end(job, "failed", f"{type(error).__name__}: {error}")
            if not (job.keep_going and isinstance(error, Exception)):
                raise
            known = "failed", traceback.format_exc()
        status, message = known
        Console(stderr=True).print(
            f"[bold red]{status}:[/] {escape(message)}", highlight=False, soft_wrap=True
        )
        if not isinstance(error, TakenFolderError):
            _note_end(job, "failed" if status == "input" else status, message)
    note_exit(status)
    if status == "interrupted" and job.keep_going:
        raise SystemExit(EXIT[status])
    return {"status": status}


def _ending(error: BaseException) -> tuple[str, str] | None:
    if isinstance(error, DivergenceError):
        return "diverged", str(error)
    if isinstance(error, InputError):
        return "input", str(error)
    return ("failed", str(error)) if isinstance(error, MSMLFFError) else None


def _note_end(job: Job, status: str, message: str) -> None:
    """Put the end into the record, also where the run failed before it had one; report what there is."""
    if not job.folder.is_dir() or read_record(job.folder).get("status") == "finished":
        return  # the message is about that run, which stays as it is
    record = {"command": job.command, **read_record(job.folder)}
    write_json(job.folder / RECORD, {**record, "status": status, "stop_reason": message})
    job.after_failure(job.folder)
