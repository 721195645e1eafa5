"""Pools: named sets of labelled frames with their validation and test parts."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np

from msmlff.data import store as store_module
from msmlff.data.array_folder import default_cache_dir, file_sha256
from msmlff.data.configuration import Configuration
from msmlff.data.door import DEFECTS, Door, DoorReport, check_shared
from msmlff.data.formats import LabelKeys, read_frames
from msmlff.data.reference_energies import isolated_energies
from msmlff.data.splits import split_by_group, split_in_blocks
from msmlff.data.store import FrameStore, Progress
from msmlff.errors import InputError

READER_VERSION = 6
"""Part of the key under which parsed files are cached: raise it when a reader or a check changes."""

RACY_NS = 2_000_000_000  # two seconds: the coarsest clock of a file system in use (FAT)

_PARTS: dict[str, tuple[str, ...]] = {"train": ("pool", "train"), "val": ("val", "valid"), "test": ("test",)}
_SUFFIXES = (".extxyz", ".xyz", ".extxyz.gz", ".xyz.gz", ".db", ".json", ".data", ".xml")
_EMBEDDED = "embedded:"


@dataclass(frozen=True)
class PoolSpec:
    """Where a pool is and how to read it.

    Attributes:
        name: for messages and records.
        path: a folder, one file, or "embedded:NAME" for a pool that comes with the package.
        train: files of the pool itself, relative to ``path``; empty: the file of the folder whose name starts
            with pool or train.
        val: files of the validation part; empty: one whose name starts with val, else split from the pool.
        test: likewise, with test.
        keys: names of the labels and of the group.
        e0s: source of the reference energies (see ``reference_energies``).
        fractions: shares of the pool that become "val" and "test" where there is no such file.
        split: "blocks": within each group the parts are consecutive blocks in file order; "groups": whole
            groups go to one part.
        gap: frames left out at each seam between blocks.
        seed: of a split by groups.
        require: labels every frame must have.
        allow: defects that are let through and counted (see ``door.DEFECTS``, and "shared").
        drop: defects whose frames are left out and counted.
        min_distance: Å, see ``Door``.
        max_force: eV/Å, see ``Door``.
        level: level of theory of the labels, for records and model files.
        group_label: what the groups are, in tables and pictures; empty: the key that names them.
    """

    name: str
    path: str
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    keys: LabelKeys = field(default_factory=LabelKeys)
    e0s: str | Mapping[str, float] = "auto"
    fractions: Mapping[str, float] = field(default_factory=lambda: {"val": 0.1, "test": 0.1})
    split: str = "blocks"
    gap: int = 1
    seed: int = 0
    require: tuple[str, ...] = ("energy", "forces")
    allow: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    min_distance: float | None = None
    max_force: float = 100.0
    level: str = ""
    group_label: str = ""

    def __post_init__(self) -> None:
        if self.split not in ("blocks", "groups"):
            raise InputError(f"pool.split={self.split} is unknown: write blocks or groups")
        strange = set(self.fractions) - {"val", "test"}
        if strange:
            raise InputError(f"pool.fractions has {', '.join(sorted(strange))}; it takes val and test")
        unknown = [name for name in self.allow if name not in (*DEFECTS, "shared")]
        if unknown:
            raise InputError(f"pool.allow={unknown}: the defects are {', '.join((*DEFECTS, 'shared'))}")


@dataclass(frozen=True)
class Pool:
    """A pool that passed the door.

    Attributes:
        name: of the pool.
        train: the pool itself.
        val, test: the other parts; None where there is none.
        isolated: the isolated atoms of all files, left out of the parts; None where there are none.
        reports: what the door saw, by part.
        shared: frames that two parts share, where allowed, by pair of parts: {"train-test": 3}.
        spec: how it was read.
    """

    name: str
    train: FrameStore
    val: FrameStore | None
    test: FrameStore | None
    isolated: FrameStore | None
    reports: dict[str, DoorReport]
    shared: dict[str, int]
    spec: PoolSpec

    @property
    def parts(self) -> dict[str, FrameStore]:
        """The parts that there are, by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """Elements of all parts, ascending."""
        return tuple(sorted({z for part in self.parts.values() for z in part.atomic_numbers}))


def load_pool(spec: PoolSpec, cache_dir: Path | str | None = None, progress: Progress | None = None) -> Pool:
    """Reads, checks and stores a pool, or opens what was stored before.

    Files are known by their content: one that was read before with the same keys and checks is not read
    again. A damaged store is built again.

    Args:
        spec: where and how.
        cache_dir: default MSMLFF_CACHE or ~/.cache/msmlff.
        progress: called as progress(done, None) while a file is read.

    Raises:
        InputError: files that are absent or cannot be read, defects that the door finds, a group key that no
            frame has, elements of val or test that the pool lacks, frames shared between parts, isolated
            atoms of one element with different energies.
    """
    cache = default_cache_dir() if cache_dir is None else Path(cache_dir)
    sources = _sources(spec)
    reports: dict[str, DoorReport] = {}
    stores: dict[str, FrameStore] = {}
    isolated: list[Configuration] = []
    for part in ("train", "val", "test"):
        if not sources[part]:
            continue
        door = _door(spec, stores["train"].atomic_numbers if part != "train" else None)
        whole, reports[part] = _stored(sources[part], spec.keys, door, cache, progress)
        alone = whole.isolated
        isolated += whole.subset(np.flatnonzero(alone))
        stores[part] = whole.subset(np.flatnonzero(~alone)) if alone.any() else whole
        if len(stores[part]) == 0:
            raise InputError(f"{sources[part][0]}: the file holds isolated atoms only")
    isolated_energies(isolated)  # raises where they disagree
    _check_groups(spec, stores["train"])
    stores = _with_missing_parts(spec, stores)
    shared = check_shared(stores, spec.allow)
    return Pool(
        name=spec.name,
        train=stores["train"],
        val=stores.get("val"),
        test=stores.get("test"),
        isolated=FrameStore.build(isolated, cache) if isolated else None,
        reports=reports,
        shared=shared,
        spec=spec,
    )


def embedded_pools() -> list[str]:
    """Names of the pools that come with the package."""
    folder = Path(str(files("msmlff.data"))) / "pools"
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _door(spec: PoolSpec, atomic_numbers: tuple[int, ...] | None) -> Door:
    return Door(
        atomic_numbers=atomic_numbers,
        min_distance=spec.min_distance,
        max_force=spec.max_force,
        require=spec.require,
        allow=tuple(name for name in spec.allow if name != "shared"),
        drop=spec.drop,
    )


def _sources(spec: PoolSpec) -> dict[str, list[Path]]:
    """The files of each part."""
    path = _root(spec)
    if path.is_file():
        folder, found = path.parent, {"train": [path], "val": [], "test": []}
    else:
        folder, found = path, {part: _by_prefix(path, part, spec) for part in _PARTS}
    for part in _PARTS:
        names: tuple[str, ...] = getattr(spec, part)
        if names:
            found[part] = [folder / name for name in names]
        for file in found[part]:
            if not file.is_file():
                raise InputError(
                    f"pool {spec.name}: there is no file {file}: correct pool.{part} or pool.path=FOLDER"
                )
    if not found["train"]:
        raise InputError(f"pool {spec.name}: {path} has no file named pool* or train*: set pool.train=[FILE]")
    return found


def _root(spec: PoolSpec) -> Path:
    if spec.path.startswith(_EMBEDDED):
        name = spec.path.removeprefix(_EMBEDDED)
        path = Path(str(files("msmlff.data"))) / "pools" / name
        if not path.is_dir():
            known = ", ".join(embedded_pools()) or "none"
            raise InputError(
                f"no pool {name!r} comes with the package (there are: {known}): set pool.path=FOLDER"
            )
        return path
    path = Path(spec.path).expanduser()
    if not spec.path or not path.exists():
        raise InputError(f"pool {spec.name}: there is no {spec.path or 'path'}: set pool.path=FOLDER")
    return path


def _by_prefix(folder: Path, part: str, spec: PoolSpec) -> list[Path]:
    matches = [
        file
        for file in sorted(folder.iterdir())
        if file.name.lower().startswith(_PARTS[part]) and file.name.lower().endswith(_SUFFIXES)
    ]
    if len(matches) > 1 and not getattr(spec, part):
        names = ", ".join(file.name for file in matches)
        raise InputError(
            f"pool {spec.name}: {folder} has several files for {part} ({names}): set pool.{part}=[FILE]"
        )
    return matches


def _stored(
    sources: list[Path], keys: LabelKeys, door: Door, cache: Path, progress: Progress | None
) -> tuple[FrameStore, DoorReport]:
    """The store of some files: the one made before if it is sound, else a new one."""
    key = {
        "reader": READER_VERSION,
        "store": store_module.FORMAT,
        "files": [(str(file), _known_sha256(file, cache)) for file in sources],
        "keys": asdict(keys),
        "door": asdict(door),
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    index = cache / f"source-{name}.json"
    known = _indexed(index, cache)
    if known is not None:
        return known
    report = DoorReport()
    frames = (frame for file in sources for frame in read_frames(file, keys))
    store = FrameStore.build(door.watch(frames, report), cache, progress)
    temporary = index.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"store": store.directory.name, "report": report.to_dict()}))
    temporary.replace(index)
    return store, report


def _known_sha256(file: Path, cache: Path) -> str:
    """The file's SHA-256: the one noted in the cache while size, inode and both times of the file are those
    that it had then, else computed.

    A file that was changed less than ``RACY_NS`` before is not noted: another change in the same tick of the
    file system's clock would not show.
    """
    path = file.resolve()
    note = cache / f"sha256-{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    state = _file_state(path)
    with suppress(OSError, ValueError, KeyError, TypeError):  # no note, or a torn one
        entry = json.loads(note.read_text())
        if entry["state"] == state:
            return str(entry["sha256"])
    started = time.time_ns()
    digest = file_sha256(path)
    settled = started - max(state["mtime_ns"], state["ctime_ns"]) > RACY_NS
    if settled and _file_state(path) == state:
        with suppress(OSError):  # a cache that is only read serves all the same
            cache.mkdir(parents=True, exist_ok=True)
            temporary = note.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps({"file": str(path), "state": state, "sha256": digest}))
            temporary.replace(note)
    return digest


def _file_state(path: Path) -> dict[str, int]:
    """What changes when a file is written or replaced; ctime also where mtime was put back."""
    stat = path.stat()
    return {name: getattr(stat, f"st_{name}") for name in ("size", "ino", "dev", "mtime_ns", "ctime_ns")}


def _indexed(index: Path, cache: Path) -> tuple[FrameStore, DoorReport] | None:
    """What the index points to; None if there is nothing, or nothing sound."""
    try:
        entry = json.loads(index.read_text())
        return FrameStore.open(cache / entry["store"]), DoorReport.from_dict(entry["report"])
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None


def _check_groups(spec: PoolSpec, train: FrameStore) -> None:
    if spec.keys.group not in (None, LabelKeys().group) and not (train.group != "").any():
        keys = ", ".join(sorted(train[0].info)) or "none"
        raise InputError(
            f"pool {spec.name}: no frame has the group key {spec.keys.group!r} (keys of the first frame: "
            f"{keys}): set pool.keys.group"
        )


def _with_missing_parts(spec: PoolSpec, stores: dict[str, FrameStore]) -> dict[str, FrameStore]:
    """Splits validation and test parts from the pool where they have no files."""
    shares = {p: s for p, s in spec.fractions.items() if p not in stores and s > 0}
    if not shares:
        return stores
    whole = stores["train"]
    fractions = {"train": 1 - sum(shares.values()), **shares}
    ids = (
        split_by_group(whole.group, fractions, spec.seed)
        if spec.split == "groups"
        else split_in_blocks(whole.group, fractions, spec.gap)
    )
    return {**stores, **{part: whole.subset(chosen) for part, chosen in ids.items()}}
