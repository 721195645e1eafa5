"""The door of the data: every frame is checked when it comes in."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from msmlff.data.configuration import Configuration, is_isolated_atom, shape_problem
from msmlff.data.fingerprint import CopyFinder, FingerprintIndex, geometry_fingerprint, same_geometry
from msmlff.data.label_checks import MagnitudeCheck, WorkCheck
from msmlff.data.neighbors import edge_vectors, is_flat, neighbor_list
from msmlff.data.store import FrameStore
from msmlff.errors import InputError

DEFECTS = (
    "shape",
    "nan_geometry",
    "zero_volume",
    "unknown_species",
    "overlap",
    "missing_label",
    "nan_label",
    "large_force",
    "duplicate",
    "force_sign",
    "force_units",
)
"""Defects that are errors unless allowed or dropped."""

WARNINGS = ("net_force", "force_magnitude", "stress_without_volume")
"""Oddities that are counted and reported, never errors."""

_NO_VOLUME = "a stress label is left out: stress is defined where all three directions are periodic"
_UNUSABLE = ("shape", "nan_geometry", "zero_volume", "unknown_species")
_OF_THE_SET = ("force_sign", "force_units")


@dataclass
class DoorReport:
    """What the door saw.

    Attributes:
        frames: frames that came in.
        kept: frames that were let through.
        counts: number of frames (or, for force_sign, force_units and force_magnitude, of checks) with each
            defect that was allowed or dropped, and with each warning.
        examples: for each of them the first message, with file and frame index.
        not_checked: checks of the whole set that could not be made, with the reason.
    """

    frames: int = 0
    kept: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    not_checked: dict[str, str] = field(default_factory=dict)

    def add(self, defect: str, message: str) -> None:
        """Counts a defect; the first message of a kind is kept."""
        self.counts[defect] = self.counts.get(defect, 0) + 1
        self.examples.setdefault(defect, message)

    @property
    def summary(self) -> str:
        """One line."""
        found = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        skipped = "".join(f"; {name} not checked: {reason}" for name, reason in self.not_checked.items())
        return f"{self.kept} of {self.frames} frames kept; {found or 'nothing to report'}{skipped}"

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON-able dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DoorReport:
        """The inverse of ``to_dict``."""
        return cls(**data)


@dataclass(frozen=True)
class Door:
    """Checks of every frame that comes in.

    Attributes:
        atomic_numbers: elements the model knows; None: any. Isolated atoms may be of others.
        min_distance: Å, shortest allowed distance; None: half the sum of the covalent radii (H-H 0.31 Å).
        max_force: eV/Å, largest allowed force on an atom.
        require: labels every frame must have: "energy", "forces", "stress". An isolated atom needs its energy
            alone.
        allow: defects that are let through and counted.
        drop: defects whose frames are left out and counted.
    """

    atomic_numbers: tuple[int, ...] | None = None
    min_distance: float | None = None
    max_force: float = 100.0
    require: tuple[str, ...] = ("energy",)
    allow: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [d for d in (*self.allow, *self.drop) if d not in DEFECTS]
        if unknown:
            raise InputError(f"the door knows no defect {', '.join(unknown)}; it knows {', '.join(DEFECTS)}")
        unusable = [d for d in self.allow if d in _UNUSABLE]
        if unusable:
            raise InputError(f"frames with {', '.join(unusable)} cannot be used: write drop instead of allow")
        whole = [d for d in self.drop if d in _OF_THE_SET]
        if whole:
            raise InputError(
                f"{', '.join(whole)} is found for a whole set, not a frame: write allow, not drop"
            )
        labels = [name for name in self.require if name not in ("energy", "forces", "stress")]
        if labels:
            raise InputError(f"require={labels}: the labels are energy, forces, stress")

    def check(self, frames: Iterable[Configuration]) -> DoorReport:
        """Reads all frames. Raises InputError at the first defect that is not allowed or dropped."""
        report = DoorReport()
        for _ in self.watch(frames, report):
            pass
        return report

    def watch(self, frames: Iterable[Configuration], report: DoorReport) -> Iterator[Configuration]:
        """The frames that pass, while ``report`` is filled; nothing is held in memory but fingerprints.

        A stress label of a frame that is not periodic in all directions is taken away, and counted.

        Raises:
            InputError: at the first defect that is not allowed or dropped; the message names file and frame.
        """
        work, magnitude = WorkCheck(), MagnitudeCheck()
        with closing(CopyFinder()) as seen:
            for frame in frames:
                report.frames += 1
                if not np.all(frame.pbc) and frame.stress is not None and not np.isnan(frame.stress).all():
                    report.add("stress_without_volume", f"{frame.source}: {_NO_VOLUME}")
                    frame = replace(frame, stress=None)
                if not self._passes(frame, seen, report):
                    continue
                report.kept += 1
                work.add(frame)
                magnitude.add(frame)
                message = net_force(frame)
                if message:
                    report.add("net_force", message)
                yield frame
        defect, message = work.verdict()
        if defect == "not_checked":
            report.not_checked["forces against energies"] = message
        elif defect:
            self._judge(defect, message, report)
        for message in magnitude.verdict():
            report.add("force_magnitude", message)
        for defect, count in report.counts.items():
            warnings.warn(f"{defect} ({count}): {report.examples[defect]}", stacklevel=2)

    def _passes(self, frame: Configuration, seen: CopyFinder, report: DoorReport) -> bool:
        for defect, message in self._defects(frame, seen):
            if not self._judge(defect, f"{frame.source or f'frame {report.frames - 1}'}: {message}", report):
                return False
        return True

    def _judge(self, defect: str, message: str, report: DoorReport) -> bool:
        """Whether a frame with this defect stays in."""
        if defect not in self.allow and defect not in self.drop:
            remedy = (
                "drop" if defect in _UNUSABLE else "allow" if defect in _OF_THE_SET else "allow or pool.drop"
            )
            raise InputError(f"{message} (put {defect} into pool.{remedy} to go on)")
        report.add(defect, message)
        return defect not in self.drop

    def _defects(self, frame: Configuration, seen: CopyFinder) -> Iterator[tuple[str, str]]:
        """Defects of a frame; the later checks rely on the earlier ones having been passed."""
        problem = shape_problem(frame)
        if problem:
            yield "shape", problem
        for name in ("positions", "cell"):
            if not np.isfinite(getattr(frame, name)).all():
                yield "nan_geometry", f"NaN or infinite values in the {name}"
        if is_flat(frame.cell, frame.pbc):
            yield "zero_volume", "the frame is periodic but its cell has no volume"
        yield from self._species(frame)
        yield from self._labels(frame)
        yield from self._overlap(frame)
        if not is_isolated_atom(frame):
            copy = seen.earlier_copy(frame)
            if copy is not None:
                yield "duplicate", f"the same geometry as {copy or 'an earlier frame'}"

    def _species(self, frame: Configuration) -> Iterator[tuple[str, str]]:
        wrong = [int(z) for z in np.unique(frame.numbers) if not 1 <= z < len(chemical_symbols)]
        if wrong:
            yield "unknown_species", f"atomic numbers {wrong} do not exist"
        elif self.atomic_numbers is not None and not is_isolated_atom(frame):
            foreign = sorted(set(frame.numbers.tolist()) - set(self.atomic_numbers))
            if foreign:
                known = ", ".join(chemical_symbols[z] for z in self.atomic_numbers)
                names = ", ".join(chemical_symbols[z] for z in foreign)
                yield "unknown_species", f"{names} is unknown to the model, which knows {known}"

    def _labels(self, frame: Configuration) -> Iterator[tuple[str, str]]:
        alone = is_isolated_atom(frame)
        present = {
            "energy": not np.isnan(frame.energy),
            "forces": frame.forces is not None and not np.isnan(frame.forces).all(),
            "stress": frame.stress is not None and not np.isnan(frame.stress).all(),
        }
        for name in self.require:
            if not present[name] and (name == "energy" or not alone):
                yield "missing_label", f"the {name} is missing or NaN; pool.require asks for it"
        for name in ("energy", "forces", "stress"):
            label = getattr(frame, name)
            if label is not None and present[name] and not np.isfinite(label).all():
                yield "nan_label", f"NaN or infinite values in the {name}"
        if not np.isfinite(frame.weight) or frame.weight < 0:
            yield "nan_label", f"the weight is {frame.weight}"
        if frame.forces is not None and len(frame) > 0:
            size = np.nan_to_num(np.linalg.norm(frame.forces, axis=1))
            if size.max() > self.max_force:
                worst = f"the force on atom {size.argmax()} is {size.max():.1f} eV/Å"
                yield "large_force", f"{worst}, over max_force={self.max_force:g}"

    def _overlap(self, frame: Configuration) -> Iterator[tuple[str, str]]:
        radii = covalent_radii[frame.numbers]
        cutoff = radii.max() if self.min_distance is None else self.min_distance
        if not cutoff > 0:
            return
        near = neighbor_list(frame.positions, frame.cell, frame.pbc, cutoff)
        length = np.linalg.norm(edge_vectors(frame.positions, frame.cell, near), axis=1)
        least = 0.5 * (radii[near.sender] + radii[near.receiver]) if self.min_distance is None else cutoff
        close = np.flatnonzero(length < least)
        if len(close):
            worst = close[length[close].argmin()]
            i, j = sorted((int(near.sender[worst]), int(near.receiver[worst])))
            pair = f"{chemical_symbols[frame.numbers[i]]}{i} and {chemical_symbols[frame.numbers[j]]}{j}"
            yield "overlap", f"the atoms {pair} are {length[worst]:.3f} Å apart"


def net_force(frame: Configuration, tolerance: float = 0.1) -> str:
    """A message if the mean force is over ``tolerance`` times the RMS force: nothing pulls on the whole."""
    if frame.forces is None or len(frame) < 2 or not np.isfinite(frame.forces).all():
        return ""
    rms = float(np.sqrt(np.mean(np.sum(frame.forces**2, axis=1))))
    mean = float(np.linalg.norm(frame.forces.mean(axis=0)))
    if mean <= max(tolerance * rms, 1e-3):
        return ""
    return f"{frame.source}: the mean force is {mean:.3g} eV/Å beside an RMS of {rms:.3g}; it should vanish"


def check_shared(parts: Mapping[str, Sequence[Configuration]], allow: Sequence[str] = ()) -> dict[str, int]:
    """Frames that occur in more than one part of a split.

    Args:
        parts: stores or frames by name ("train", "val", "test").
        allow: with "shared", a counted warning instead of an error.

    Returns:
        Number of shared frames for each pair of parts that shares any, as {"train-test": 3}.

    Raises:
        InputError: naming the two files and frames, unless allowed.
    """
    index, where = FingerprintIndex(), list[tuple[str, int]]()
    counts: dict[str, int] = {}
    for part, frames in parts.items():
        alone, fingerprints = _isolated_and_fingerprints(frames)
        for i in np.flatnonzero(~alone).tolist():
            first = _first_copy(frames[i], fingerprints[i], index, where, parts)
            if first is None:
                where.append((part, i))
                index.add(fingerprints[i])
            elif first[0] != part:
                if "shared" not in allow:
                    raise InputError(
                        f"{frames[i].source or f'{part} frame {i}'} ({part}) is also in {first[0]} "
                        f"({first[0]} frame {first[1]}): a split must not share frames (put shared into "
                        "pool.allow to go on)"
                    )
                counts[f"{first[0]}-{part}"] = counts.get(f"{first[0]}-{part}", 0) + 1
    for pair, count in counts.items():
        warnings.warn(f"{count} frames are shared between {pair}", stacklevel=2)
    return counts


def _first_copy(
    frame: Configuration,
    fingerprint: np.ndarray,
    index: FingerprintIndex,
    where: Sequence[tuple[str, int]],
    parts: Mapping[str, Sequence[Configuration]],
) -> tuple[str, int] | None:
    """Part and index of the first frame with the geometry of ``frame``."""
    for candidate in index.candidates(fingerprint):
        part, i = where[candidate]
        if same_geometry(frame, parts[part][i]):
            return part, i
    return None


def _isolated_and_fingerprints(frames: Sequence[Configuration]) -> tuple[np.ndarray, np.ndarray]:
    """Which frames are isolated atoms, which may well occur twice; and all fingerprints."""
    if isinstance(frames, FrameStore):
        return frames.isolated, frames.fingerprints
    alone = [is_isolated_atom(f) for f in frames]
    return np.array(alone, bool), np.array([geometry_fingerprint(f) for f in frames])
