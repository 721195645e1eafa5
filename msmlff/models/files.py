"""Model files: one .safetensors, what is not a tensor as JSON in its header. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import msmlff
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.models.build import model_from_config

FORMAT_VERSION = 3
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
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    try:
        header = json.loads(json.dumps(header))
    except TypeError as error:
        raise InputError(f"the record of {path} is not JSON: {error}") from error
    text = json.dumps({**header, "sha256": content_hash(header, tensors)})
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, partial, metadata={_KEY: text})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def content_hash(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a model file says: its JSON without ``sha256``, and every tensor, by its name.

    Args:
        header: as ``json.loads`` gives it.
        tensors: on the CPU; names, types, shapes and bytes count.
    """
    digest = hashlib.sha256()
    own = {key: value for key, value in header.items() if key != "sha256"}
    digest.update(json.dumps(own, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\0{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
        revision = (header.get("record") or {}).get("git_revision")
        wrote = f"MSMLFF {header.get('version')}" + (f" (revision {revision})" if revision else "")
        raise InputError(
            f"{path}: model format {version}, written by {wrote}; this is MSMLFF {msmlff.__version__}, which "
            f"reads format {FORMAT_VERSION}: use the version that wrote the file, or train the model again "
            "with this one"
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
        InputError: as ``read_header``; content that is not what was written; weights that do not fit the
            architecture the file names.
    """
    header = read_header(path)
    state = _checked_tensors(Path(path), header)
    try:
        model: ForceField = model_from_config(header.get("model") or {})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    try:
        stored = {value.dtype for value in state.values() if value.is_floating_point()}
        model.to(max(stored, key=lambda d: torch.finfo(d).bits))
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: damaged, its weights do not fit its architecture ({error})") from error
    return model.to(device=device, dtype=dtype).eval()


def _checked_tensors(path: Path, header: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of the file, after a comparison with its checksum: a changed byte gives wrong energies."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged, its weights cannot be read ({error})") from error
    if header.get("sha256") != content_hash(header, tensors):
        raise InputError(
            f"{path}: damaged, its content is not what was written (its SHA-256 differs): copy it again from "
            "where it was made, or train the model again"
        )
    return tensors
