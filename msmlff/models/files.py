"""Model files: one .safetensors, what is not a tensor as JSON in its header. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import msmlff
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.models.build import model_from_config

FORMAT_VERSION = 2
_KEY = "msmlff"
_UNITS = {"energy": "eV", "length": "angstrom", "force": "eV/angstrom", "stress": "eV/angstrom^3"}


def save_model(model: ForceField, path: str | Path, record: Mapping[str, Any]) -> Path:
    """Writes ``model`` atomically.

    Args:
        model: its weights are stored in their dtype.
        path: the file; its folder must exist.
        record: JSON-able facts of its making, such as label_level, data_hash, git_revision.

    Raises:
        InputError: a record that is not JSON, or a folder that does not exist.
    """
    path = Path(path)
    header = {
        "format_version": FORMAT_VERSION,
        "version": msmlff.__version__,
        "model": model.config(),
        "species": list(model.atomic_numbers),
        "e0s": dict(zip(map(str, model.atomic_numbers), model.e0s, strict=True)),
        "cutoffs": list(model.scale_cutoffs),
        "units": _UNITS,
        "record": dict(record),
    }
    try:
        text = json.dumps(header)
    except TypeError as error:
        raise InputError(f"the record of {path} is not JSON: {error}") from error
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, partial, metadata={_KEY: text})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON of a model file: model, species, e0s (eV), cutoffs (Å), units, version, record.

    Raises:
        InputError: no such file, not a model file of this package, or one of another format version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a readable model file ({error}); give the model.safetensors of a run, or convert a "
            "mace-torch checkpoint with `msmlff import-mace`"
        ) from error
    try:
        header = json.loads(metadata[_KEY])
        version = header["format_version"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: a safetensors file, but not one of a MSMLFF model") from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: model format {version}, written by MSMLFF {header.get('version')}; this is MSMLFF "
            f"{msmlff.__version__}, which reads format {FORMAT_VERSION}: use the version that wrote the file"
        )
    return dict(header)


def load_model(
    path: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> ForceField:
    """The model of a file, in evaluation mode.

    Args:
        path: written by ``save_model``.
        dtype: of its weights; default: as stored.
        device: where to put it.

    Raises:
        InputError: as ``read_header``; or weights that do not fit the architecture the file names.
    """
    header = read_header(path)
    try:
        model: ForceField = model_from_config(header.get("model") or {})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        stored = {value.dtype for value in state.values() if value.is_floating_point()}
        model.to(max(stored, key=lambda d: torch.finfo(d).bits))
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise InputError(f"{path}: damaged, its weights do not fit its architecture ({error})") from error
    return model.to(device=device, dtype=dtype).eval()
