"""Files of frames: which reader a file needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from msmlff.data.configuration import Configuration
from msmlff.data.extxyz import read_extxyz, write_extxyz
from msmlff.data.labels import LabelKeys, labelled
from msmlff.data.runner import read_runner
from msmlff.errors import InputError

__all__ = ["LabelKeys", "from_ase", "read_frames", "write_frames"]


def read_frames(path: Path | str, keys: LabelKeys | None = None) -> Iterator[Configuration]:
    """The frames of a file, in order, in eV and Å.

    Extended XYZ (.xyz, .extxyz, each also .gz), ASE databases (.db, .json), vasprun.xml, OUTCAR, RuNNer and
    n2p2 input.data (atomic units), and whatever else ``ase.io`` recognises. From VASP the energy is the free
    energy, the one whose derivative the forces are.

    Args:
        path: the file.
        keys: names of the labels; the defaults fit what ``write_frames`` and ASE write.

    Raises:
        InputError: naming file and frame: a file that is absent or cannot be read, labels under another name
            or of a wrong shape.
    """
    path, keys = Path(path), keys or LabelKeys()
    if not path.is_file():
        raise InputError(f"there is no file {path}: set pool.path=FOLDER or the file's name")
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    if plain.endswith((".xyz", ".extxyz")):
        return read_extxyz(path, keys)
    if name.endswith((".db", ".json")):
        return _read_database(path, keys)
    if plain.endswith(".data") or plain.startswith("input.data"):
        return read_runner(path, keys)
    if plain.startswith("outcar"):
        return _read_ase(path, keys, "vasp-out")
    if plain.startswith("vasprun") or plain.endswith(".xml"):
        return _read_ase(path, keys, "vasp-xml")
    return _read_ase(path, keys, None)


def write_frames(path: Path | str, frames: Iterable[Configuration], digits: int = 8) -> int:
    """Writes extended XYZ, compressed where the name ends in .gz; returns the number of frames.

    Labels go under the default ``LabelKeys``. The file appears whole or not at all; equal frames make equal
    bytes. ``digits`` are the decimals of positions (Å) and forces (eV/Å).
    """
    return write_extxyz(Path(path), frames, digits)


def from_ase(
    atoms: Atoms, keys: LabelKeys | None = None, source: str = "", force_consistent: bool = False
) -> Configuration:
    """A frame from ase.Atoms; labels from its calculator's results, its info or its arrays.

    Args:
        atoms: with a SinglePointCalculator, or any that has results.
        keys: names of the labels.
        source: for messages.
        force_consistent: the free energy stands for the energy where there is one.
    """
    results: dict[str, Any] = dict(getattr(atoms.calc, "results", None) or {})
    if force_consistent and "free_energy" in results:
        results["energy"] = results["free_energy"]
    info, columns = dict(atoms.info), dict(atoms.arrays)
    for name, value in results.items():
        per_atom = (
            np.ndim(value) >= 1 and np.shape(value)[0] == len(atoms) and name not in ("stress", "dipole")
        )
        (columns if per_atom else info)[name] = value
    bare = Configuration(
        numbers=columns.pop("numbers").astype(np.int64),
        positions=columns.pop("positions").astype(np.float64),
        cell=np.array(atoms.cell.array, dtype=np.float64),
        pbc=np.array(atoms.pbc, dtype=bool),
        source=source,
    )
    frame = labelled(bare, info, columns, keys or LabelKeys())
    kept = {key: value for key, value in frame.info.items() if key not in results or key in atoms.info}
    return replace(frame, info=kept)


def _read_ase(path: Path, keys: LabelKeys, file_format: str | None) -> Iterator[Configuration]:
    from ase.io import iread  # half a second that extended XYZ and stored frames do not need

    index = 0
    images = _guarded(iread(path, index=":", format=file_format), path)
    for atoms in images:
        vasp = file_format in ("vasp-out", "vasp-xml")
        yield from_ase(atoms, keys, f"{path}:{index}", force_consistent=vasp)
        index += 1
    if index == 0:
        raise InputError(f"{path}: the file holds no frames")


def _read_database(path: Path, keys: LabelKeys) -> Iterator[Configuration]:
    from ase.db import connect

    index = 0
    for row in _guarded(connect(path).select(), path):
        atoms = row.toatoms()
        atoms.info.update(row.key_value_pairs)
        atoms.info.update(row.data)
        yield from_ase(atoms, keys, f"{path}:{index}")
        index += 1
    if index == 0:
        raise InputError(f"{path}: the database holds no rows")


def _guarded(items: Iterator[Any], path: Path) -> Iterator[Any]:
    """The items, with whatever a foreign parser raises turned into a message with file and frame."""
    index = 0
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except Exception as error:  # ASE's parsers raise all kinds on bad files
            raise InputError(
                f"{path}:{index}: ASE cannot read the frame ({type(error).__name__}: {error})"
            ) from error
        yield item
        index += 1
