"""Where the model of a run lies; imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

from msmlff.errors import InputError

MODEL = "model.safetensors"


def model_file(path: str | Path, key: str = "") -> Path:
    """The model file of a path that may be a run folder.

    Args:
        path: a run folder or a model file.
        key: of the configuration, to be named in the message.

    Raises:
        InputError: no such path, or a folder without a model; the message has the run's status.
    """
    path = Path(path)
    file = path / MODEL if path.is_dir() else path
    if file.is_file():
        return file
    shown = f"{key}={path}" if key else str(path)
    if not path.exists():
        raise InputError(f"{shown} does not exist: give the folder of a finished run or a model file")
    status = _status(path)
    why = (
        f"that run is {status}; wait for it, or resume it" if status else "it is no folder of a training run"
    )
    raise InputError(f"{shown} has no {MODEL} ({why}): give the folder of a finished run or a model file")


def _status(folder: Path) -> str | None:
    try:
        status = json.loads((folder / "record.json").read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(status)
