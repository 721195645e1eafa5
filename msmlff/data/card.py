"""The data card: what a set of frames holds and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from ase.units import GPa

from msmlff import __version__
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError

GRAM_PER_CM3 = 1.66053906660
"""One amu per Å³ in g/cm³."""


@dataclass(frozen=True)
class GroupRow:
    """One state point or trajectory.

    Attributes:
        group: its name.
        frames: number of frames.
        atoms: atoms of all its frames.
        energy_mean: eV/atom; NaN without labels, as the three below.
        energy_std: eV/atom, between frames.
        force_rms: eV/Å, of the components.
        pressure: GPa, mean of minus a third of the stress's trace (without the kinetic part).
        density: g/cm³, mean over periodic frames; NaN without a cell.
    """

    group: str
    frames: int
    atoms: int
    energy_mean: float
    energy_std: float
    force_rms: float
    pressure: float
    density: float


@dataclass(frozen=True)
class DataCard:
    """What a set of frames holds.

    Attributes:
        name: of the set.
        frames: number of frames.
        atoms: atoms of all frames.
        min_atoms, max_atoms: in a frame.
        periodic: frames with periodic directions.
        composition: atoms of each element, by symbol.
        labels: number of frames with each label.
        groups: one row a group, in order of first appearance.
        level: level of theory.
        sources: where the data comes from.
        versions: of the programs that made it.
        notes: further remarks.
    """

    name: str
    frames: int
    atoms: int
    min_atoms: int
    max_atoms: int
    periodic: int
    composition: dict[str, int]
    labels: dict[str, int]
    groups: list[GroupRow]
    level: str = ""
    sources: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        name: str,
        frames: Iterable[Configuration],
        level: str = "",
        sources: Iterable[str] = (),
        versions: Mapping[str, str] | None = None,
        notes: Iterable[str] = (),
    ) -> DataCard:
        """The card of some frames, read once. Raises InputError if there are none."""
        groups: dict[str, _Group] = {}
        total = _Group()
        for frame in frames:
            total.add(frame)
            groups.setdefault(frame.group, _Group()).add(frame)
        if not total.sizes:
            raise InputError(f"{name}: there are no frames to describe")
        return cls(
            name=name,
            frames=len(total.sizes),
            atoms=sum(total.sizes),
            min_atoms=min(total.sizes),
            max_atoms=max(total.sizes),
            periodic=len(total.densities),
            composition={chemical_symbols[z]: n for z, n in sorted(total.elements.items())},
            labels={
                "energy": len(total.energies),
                "forces": total.with_forces,
                "stress": len(total.pressures),
            },
            groups=[group.row(label) for label, group in groups.items()],
            level=level,
            sources=list(sources),
            versions=dict(
                versions or {"msmlff": __version__, "numpy": version("numpy"), "ase": version("ase")}
            ),
            notes=list(notes),
        )

    def write(self, path: Path | str) -> None:
        """Writes the card as JSON; absent numbers are null."""
        content = _without_nan(asdict(self))
        Path(path).write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path | str) -> DataCard:
        """The inverse of ``write``. Raises InputError if the file is no data card."""
        try:
            content = json.loads(Path(path).read_text())
            rows = [_with_nan(row) for row in content.pop("groups")]
            return cls(groups=[GroupRow(**row) for row in rows], **content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no data card: {error}") from error


def data_card_markdown(card: DataCard) -> str:
    """The card as Markdown: facts, a table by group, sources and versions."""
    labels = ", ".join(f"{name} {count}" for name, count in card.labels.items() if count) or "none"
    elements = ", ".join(f"{symbol} {count}" for symbol, count in card.composition.items())
    sizes = (
        f"{card.min_atoms}" if card.min_atoms == card.max_atoms else f"{card.min_atoms} to {card.max_atoms}"
    )
    lines = [
        f"# {card.name}",
        "",
        f"- {card.frames} frames, {card.atoms} atoms ({sizes} a frame), {card.periodic} frames periodic",
        f"- elements: {elements}",
        f"- labels (frames): {labels}" + (f"; level of theory: {card.level}" if card.level else ""),
        "- units: eV, Å, eV/Å; force RMS of the components; pressure without its kinetic part",
        "",
        "| group | frames | atoms | E/atom (eV) | std (eV) | F (eV/Å) | P (GPa) | density (g/cm³) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in card.groups:
        numbers = [
            _cell(row.energy_mean, 4),
            _cell(row.energy_std, 4),
            _cell(row.force_rms, 3),
            _cell(row.pressure, 2),
            _cell(row.density, 4),
        ]
        lines.append(f"| {row.group or '(none)'} | {row.frames} | {row.atoms} | {' | '.join(numbers)} |")
    for title, items in (
        ("Sources", card.sources),
        ("Versions", [f"{name} {number}" for name, number in card.versions.items()]),
        ("Notes", card.notes),
    ):
        if items:
            lines += ["", f"## {title}", "", *(f"- {item}" for item in items)]
    return "\n".join(lines) + "\n"


def mass_density(frame: Configuration) -> float:
    """g/cm³; NaN for a frame that is not periodic in all directions."""
    if not np.all(frame.pbc) or frame.volume == 0:
        return float("nan")
    return float(atomic_masses[frame.numbers].sum() / frame.volume * GRAM_PER_CM3)


class _Group:
    """Sums over the frames of a group."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.energies: list[float] = []
        self.pressures: list[float] = []
        self.densities: list[float] = []
        self.elements: dict[int, int] = {}
        self.with_forces = 0
        self._squares = 0.0
        self._components = 0

    def add(self, frame: Configuration) -> None:
        self.sizes.append(len(frame))
        for z, count in zip(*np.unique(frame.numbers, return_counts=True), strict=True):
            self.elements[int(z)] = self.elements.get(int(z), 0) + int(count)
        if np.isfinite(frame.energy):
            self.energies.append(frame.energy / len(frame))
        if frame.stress is not None:
            self.pressures.append(float(-np.trace(frame.stress) / 3 / GPa))
        if np.any(frame.pbc):
            self.densities.append(mass_density(frame))
        if frame.forces is not None:
            finite = frame.forces[np.isfinite(frame.forces)]
            self.with_forces += 1
            self._squares += float(finite @ finite)
            self._components += finite.size

    def row(self, name: str) -> GroupRow:
        nan = float("nan")
        return GroupRow(
            group=name,
            frames=len(self.sizes),
            atoms=sum(self.sizes),
            energy_mean=float(np.mean(self.energies)) if self.energies else nan,
            energy_std=float(np.std(self.energies)) if self.energies else nan,
            force_rms=float(np.sqrt(self._squares / self._components)) if self._components else nan,
            pressure=float(np.mean(self.pressures)) if self.pressures else nan,
            density=float(np.mean(self.densities)) if self.densities else nan,
        )


def _cell(value: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float("nan") if value is None else value for key, value in row.items()}
