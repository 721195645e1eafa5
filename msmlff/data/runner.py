"""RuNNer and n2p2's input.data, in atomic units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.units import Bohr, Hartree

from msmlff.data.configuration import Configuration
from msmlff.data.labels import LabelKeys, labelled
from msmlff.errors import InputError

_WORDS = ("begin", "comment", "lattice", "atom", "energy", "charge", "end")


def read_runner(path: Path, keys: LabelKeys) -> Iterator[Configuration]:
    """Frames of an input.data file; bohr, hartree and hartree/bohr become Å, eV and eV/Å.

    Energies and forces are there under the keys "energy" and "forces"; info has "comment" and "charge" (e).
    A frame with a lattice is periodic in all directions.

    Raises:
        InputError: naming file, frame and line of what does not follow the format.
    """
    with path.open() as stream:
        index = 0
        for block in _blocks(stream, path):
            yield _frame(block, keys, f"{path}:{index}")
            index += 1
    if index == 0:
        raise InputError(f"{path}: the file holds no frames")


def write_runner(path: Path, frames: Iterable[Configuration]) -> None:
    """Writes frames as input.data in atomic units; stress, weight and group have no place there."""
    with path.open("w") as stream:
        for frame in frames:
            stream.write(f"begin\ncomment {frame.info.get('comment', frame.source)}\n")
            if np.any(frame.cell):
                for row in frame.cell / Bohr:
                    stream.write("lattice {:.12f} {:.12f} {:.12f}\n".format(*row))
            forces = np.zeros_like(frame.positions) if frame.forces is None else frame.forces
            forces = forces / Hartree * Bohr
            for z, place, pull in zip(frame.numbers, frame.positions / Bohr, forces, strict=True):
                numbers = [" ".join(f"{v:.12f}" for v in vector) for vector in (place, pull)]
                stream.write(f"atom {numbers[0]} {chemical_symbols[z]} 0 0 {numbers[1]}\n")
            stream.write(f"energy {frame.energy / Hartree:.12f}\ncharge 0\nend\n")


def _blocks(stream: TextIO, path: Path) -> Iterator[list[tuple[int, list[str]]]]:
    """The lines between begin and end, split into words, with their line numbers."""
    block: list[tuple[int, list[str]]] | None = None
    for number, line in enumerate(stream, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        word = words[0].lower()
        if word not in _WORDS:
            raise InputError(
                f"{path}: line {number} starts with {words[0]!r}, which input.data does not know"
            )
        if (word == "begin") == (block is not None):
            raise InputError(
                f"{path}: line {number}: {word!r} " + ("inside a frame" if block else "outside a frame")
            )
        if word == "begin":
            block = []
        elif word == "end" and block is not None:
            yield block
            block = None
        elif block is not None:
            block.append((number, words))
    if block is not None:
        raise InputError(f"{path}: the last frame has no end: the file is torn")


def _frame(block: list[tuple[int, list[str]]], keys: LabelKeys, source: str) -> Configuration:
    symbols: list[str] = []
    rows: list[list[float]] = []
    lattice: list[list[float]] = []
    info: dict[str, object] = {}
    for number, (word, *rest) in block:
        try:
            if word == "atom":
                symbols.append(rest[3])
                rows.append([float(rest[k]) for k in (0, 1, 2, 6, 7, 8)])
            elif word == "lattice":
                lattice.append([float(v) for v in rest[:3]])
            elif word == "comment":
                info["comment"] = " ".join(rest)
            else:
                info[word] = float(rest[0])
        except (IndexError, ValueError) as error:
            raise InputError(
                f"{source}: line {number} ({word}) cannot be read: {' '.join(rest)[:80]!r}"
            ) from error
    if not rows or len(lattice) not in (0, 3):
        raise InputError(
            f"{source}: {len(rows)} atoms and {len(lattice)} lattice vectors (0 or 3 are possible)"
        )
    unknown = sorted({s for s in symbols if s not in atomic_numbers})
    if unknown:
        raise InputError(f"{source}: {', '.join(unknown)} is no chemical symbol")
    table = np.array(rows)
    if "energy" in info:
        info["energy"] = float(info["energy"]) * Hartree  # type: ignore[arg-type]
    bare = Configuration(
        numbers=np.array([atomic_numbers[s] for s in symbols]),
        positions=table[:, :3] * Bohr,
        cell=np.array(lattice) * Bohr if lattice else np.zeros((3, 3)),
        pbc=np.full(3, bool(lattice)),
        source=source,
    )
    return labelled(bare, info, {"forces": table[:, 3:] * (Hartree / Bohr)}, keys)
