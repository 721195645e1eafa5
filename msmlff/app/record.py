"""record.json: what a run was, what it did and how it ended."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msmlff.errors import InputError

RECORD = "record.json"


def now() -> str:
    """The time as ISO 8601 with seconds, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON; the file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run folder; {} where there is none yet.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}); delete it, then resume={folder} writes it anew"
        ) from None


class Record:
    """A run's record, written to disk at every change.

    Args:
        folder: the run folder.
        content: what is known at the start; kept entries of an earlier, interrupted run are updated by it.
    """

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.folder = folder
        earlier = read_record(folder)
        self.content: dict[str, Any] = {**earlier, **content}
        self.content.setdefault("started", now())
        self._before = float(earlier.get("seconds_total", 0.0))
        self._start = datetime.now(UTC)
        self.update(status="running", stop_reason=None)

    def update(self, **changes: Any) -> None:
        """Change entries and write the file."""
        self.content.update(changes)
        seconds = (datetime.now(UTC) - self._start).total_seconds()
        self.content["seconds_total"] = round(self._before + seconds, 2)
        write_json(self.folder / RECORD, self.content)
