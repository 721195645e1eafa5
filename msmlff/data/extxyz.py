"""Extended XYZ. ASE reads it too, but takes tens of times as long and moves labels into a calculator."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from msmlff.data.configuration import Configuration
from msmlff.data.labels import LabelKeys, labelled
from msmlff.errors import InputError

_PAIR = re.compile(
    r"""\s*(?P<key>"[^"]*"|[^\s=]+)
    (?:\s*=\s*(?P<value>
        "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | \{[^}]*\}
        | \[(?:[^\[\]]|\[[^\]]*\])*\] | [^\s"'\[{]\S*
    ))?""",
    re.VERBOSE,
)
_BOOLEANS = dict.fromkeys(("T", "true", "True", "TRUE"), True)
_BOOLEANS |= dict.fromkeys(("F", "false", "False", "FALSE"), False)
_TEXT_KEYS = ("Properties", "config_type", "group", "name")
_KINDS: dict[str, Any] = {"R": np.float64, "I": np.int64}


def read_extxyz(path: Path, keys: LabelKeys) -> Iterator[Configuration]:
    """Frames of an extended XYZ file (.gz too), one after the other.

    Raises:
        InputError: naming file and frame: text that does not follow the format, unknown elements, labels
            under another name or of a wrong shape.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as stream:
        index = 0
        while True:
            try:
                raw = _read_raw(stream, f"{path}:{index}")
            except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
                raise InputError(f"{path}:{index}: the file is torn or not text ({error})") from error
            if raw is None:
                break
            yield _frame(*raw, keys, f"{path}:{index}")
            index += 1
    if index == 0:
        raise InputError(f"{path}: the file holds no frames")


def write_extxyz(path: Path, frames: Iterable[Configuration], digits: int = 8) -> int:
    """Writes frames with their labels under the default keys; the file appears whole or not at all.

    Args:
        path: a name ending in .gz is compressed; equal frames make equal files.
        frames: read once.
        digits: decimals of positions and forces; energies and stresses are written in full.

    Returns:
        The number of frames written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    try:
        with temporary.open("wb") as raw:
            # No name and no time in the gzip header, so equal content gives equal bytes.
            packed = gzip.GzipFile("", "wb", 9, raw, mtime=0) if path.suffix == ".gz" else raw
            with io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text:
                for frame in frames:
                    text.write(_text_of(frame, digits))
                    count += 1
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def parse_comment(line: str) -> dict[str, Any]:
    """The key=value pairs of a comment line; a key alone is True.

    Values become numbers, booleans, arrays of them or JSON where they can, else text.
    """
    found: dict[str, Any] = {}
    for match in _PAIR.finditer(line.strip()):
        key, value = match["key"].strip('"'), match["value"]
        found[key] = True if value is None else _value(key, value)
    return found


def _value(key: str, text: str) -> Any:
    if text[0] == "[" and text.startswith("[["):
        return np.array(json.loads(text))
    if text[0] in "\"'{[":
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    if key in _TEXT_KEYS:
        return text
    if text.startswith("_JSON "):
        return json.loads(text[6:])
    words = re.findall(r"[^\s,]+", text)
    if words and all(word in _BOOLEANS for word in words):
        flags = [_BOOLEANS[word] for word in words]
        return flags[0] if len(flags) == 1 else flags
    for kind in (np.int64, np.float64):
        try:
            numbers = np.array(words, dtype=kind)
        except (ValueError, OverflowError):
            continue
        if len(words) > 0:
            return numbers[0] if len(words) == 1 else numbers
    return text


def _read_raw(stream: TextIO, source: str) -> tuple[str, list[str]] | None:
    """Comment line and atom lines of the next frame; None at the end of the file."""
    line = stream.readline()
    while line and not line.strip():
        line = stream.readline()
    if not line:
        return None
    try:
        count = int(line)
    except ValueError as error:
        raise InputError(f"{source}: expected the number of atoms, found {line.strip()[:60]!r}") from error
    comment = stream.readline()
    lines = [stream.readline() for _ in range(count)]
    if count < 1 or not lines[-1].strip():
        raise InputError(f"{source}: the frame announces {count} atoms, the file has fewer lines")
    return comment, lines


def _frame(comment: str, lines: list[str], keys: LabelKeys, source: str) -> Configuration:
    try:
        info = parse_comment(comment)
    except ValueError as error:
        raise InputError(f"{source}: the comment line cannot be read ({error})") from error
    columns = _columns(str(info.pop("Properties", "species:S:1:pos:R:3")), lines, source)
    numbers = _numbers(columns, source)
    positions = columns.pop("pos", None)
    if positions is None or positions.shape != (len(lines), 3):
        raise InputError(f"{source}: Properties has no pos:R:3")
    cell = np.zeros((3, 3))
    lattice = info.pop("Lattice", None)
    if lattice is not None:
        if np.size(lattice) != 9 or np.asarray(lattice).dtype.kind not in "if":
            raise InputError(f"{source}: Lattice must hold 9 numbers, it is {lattice!r}")
        cell = np.asarray(lattice, dtype=np.float64).reshape(3, 3)
    pbc = np.asarray(info.pop("pbc", lattice is not None))
    if pbc.dtype.kind not in "bi" or pbc.size not in (1, 3):
        raise InputError(f'{source}: pbc must be written as pbc="T T F"')
    bare = Configuration(
        numbers, positions, cell, np.broadcast_to(pbc.astype(bool), (3,)).copy(), source=source
    )
    return labelled(bare, info, columns, keys)


def _columns(properties: str, lines: list[str], source: str) -> dict[str, np.ndarray]:
    """The per-atom columns that ``properties`` names: [atoms, width], or [atoms] for width 1."""
    fields = properties.split(":")
    try:
        layout = [(fields[i], fields[i + 1], int(fields[i + 2])) for i in range(0, len(fields), 3)]
    except (IndexError, ValueError) as error:
        raise InputError(f"{source}: Properties={properties} is not name:type:width:...") from error
    width = sum(w for _, _, w in layout)
    rows = [line.split() for line in lines]
    uneven = next((i for i, row in enumerate(rows) if len(row) < width), None)
    if uneven is not None:
        raise InputError(
            f"{source}: atom line {uneven} has {len(rows[uneven])} columns, Properties={properties} asks "
            f"for {width}"
        )
    table = np.array([row[:width] for row in rows])
    columns, start = {}, 0
    for name, kind, size in layout:
        part = table[:, start : start + size]
        start += size
        if kind in _KINDS:
            try:
                part = part.astype(_KINDS[kind])
            except ValueError as error:
                raise InputError(f"{source}: the column {name} holds text: {error}") from error
        columns[name] = part[:, 0] if size == 1 else part
    return columns


def _numbers(columns: dict[str, np.ndarray], source: str) -> np.ndarray:
    """Atomic numbers from the column species, or Z or numbers where there is none; all are removed."""
    species = columns.pop("species", None)
    for name in ("Z", "numbers"):
        column = columns.pop(name, None)
        species = column if species is None else species
    if species is None:
        raise InputError(f"{source}: Properties has no species:S:1")
    if species.dtype.kind in "if":
        return species.astype(np.int64)
    names, inverse = np.unique(species, return_inverse=True)
    unknown = [str(name) for name in names if str(name) not in atomic_numbers]
    if unknown:
        raise InputError(f"{source}: {', '.join(unknown)} is no chemical symbol")
    return np.array([atomic_numbers[str(name)] for name in names], dtype=np.int64)[inverse]


def _text_of(frame: Configuration, digits: int) -> str:
    items: dict[str, str] = {}
    if np.any(frame.cell):
        items["Lattice"] = _joined(frame.cell)
    items["Properties"] = "species:S:1:pos:R:3" + ("" if frame.forces is None else ":forces:R:3")
    if not np.isnan(frame.energy):
        items["energy"] = repr(float(frame.energy))
    if frame.stress is not None:
        items["stress"] = _joined(frame.stress)
    if frame.weight != 1.0:
        items["weight"] = repr(float(frame.weight))
    if frame.group:
        items["group"] = frame.group
    for key, value in frame.info.items():
        items.setdefault(key, _written(value))
    items["pbc"] = " ".join("T" if p else "F" for p in frame.pbc)
    comment = " ".join(f"{_quoted(key)}={_quoted(value)}" for key, value in items.items())
    table = frame.positions if frame.forces is None else np.hstack([frame.positions, frame.forces])
    template = "%-2s" + f" %{digits + 8}.{digits}f" * table.shape[1]
    symbols = [chemical_symbols[z] for z in frame.numbers.tolist()]
    body = [template % (symbol, *row) for symbol, row in zip(symbols, table.tolist(), strict=True)]
    return "\n".join([str(len(frame)), comment, *body, ""])


def _joined(array: np.ndarray) -> str:
    return " ".join(repr(float(v)) for v in array.reshape(-1))


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, int | float):
        return repr(value)
    return "_JSON " + json.dumps(value)


def _quoted(text: str) -> str:
    if text and not re.search(r"""[\s"'=\[\]{}\\,]""", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
