"""Energies of isolated atoms (E0s), subtracted before anything is learned."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import atomic_numbers as number_of_symbol
from ase.data import chemical_symbols

from msmlff.data.configuration import Configuration, is_isolated_atom
from msmlff.data.store import FrameStore
from msmlff.errors import InputError


@dataclass(frozen=True)
class ReferenceEnergies:
    """E0 of every element of a training set.

    Attributes:
        values: eV per atomic number.
        source: "isolated atoms", "given", "least squares" or "least squares, minimum norm".
        residual_rmse: eV/atom, root mean square of (energy - sum of E0s) / atoms over the labelled frames of
            more than one atom: what is left for the model. NaN if there is none.
        residual_mean: eV/atom, the mean of the same.
        isolated_ids: frames of the store that hold a single isolated atom; leave them out of training.
    """

    values: dict[int, float]
    source: str
    residual_rmse: float = float("nan")
    residual_mean: float = float("nan")
    isolated_ids: tuple[int, ...] = field(default=())

    def by_symbol(self) -> dict[str, float]:
        """The values by chemical symbol."""
        return {chemical_symbols[z]: value for z, value in sorted(self.values.items())}

    def sum(self, numbers: np.ndarray) -> float:
        """Sum of the E0s of atoms with these numbers, eV."""
        return float(sum(self.values[int(z)] for z in numbers))


def reference_energies(
    store: FrameStore,
    source: str | Mapping[Any, float] = "auto",
    isolated: FrameStore | None = None,
    must_cover: Iterable[int] = (),
) -> ReferenceEnergies:
    """The E0s of a store, in float64.

    Args:
        store: labelled frames.
        source: ``{"H": -13.6}`` or ``{1: -13.6}`` for given values; "isolated" for the store's single-atom
            frames; "least_squares" for the fit of energies to compositions; "zero"; "auto" takes the isolated
            atoms if there is one of every element, else least squares.
        isolated: frames of isolated atoms kept apart from ``store`` (``Pool.isolated``).
        must_cover: further atomic numbers that need a value (elements of validation and test sets).

    Raises:
        InputError: an element without a value, two isolated atoms of one element that disagree, no labelled
            energies to fit, an unknown source.
    """
    elements = sorted(set(store.atomic_numbers) | set(must_cover))
    in_store = isolated_energies(store)
    kept_apart = isolated_energies(isolated) if isolated is not None else {}
    found = {z: energy for z, (energy, _) in (kept_apart | in_store).items()}
    if isinstance(source, Mapping):
        values, name = _given(source), "given"
    elif source == "isolated" or (source == "auto" and set(found) >= set(elements)):
        values, name = found, "isolated atoms"
    elif source in ("auto", "least_squares"):
        values, name = _least_squares(store)
    elif source == "zero":
        values, name = dict.fromkeys(elements, 0.0), "given"
    else:
        raise InputError(
            f"e0s={source!r} is unknown: write auto, isolated, least_squares, zero or values ({{H: -13.6}})"
        )
    lacking = [chemical_symbols[z] for z in elements if z not in values]
    if lacking:
        raise InputError(
            f"no reference energy ({name}) for {', '.join(lacking)}: give e0s={{{lacking[0]}: -13.6, ...}}"
        )
    values = {z: values[z] for z in elements}
    ids = tuple(i for _, group in in_store.values() for i in group)
    residual = _residuals(store, values, ids)
    rmse = float(np.sqrt(np.mean(residual**2))) if len(residual) else float("nan")
    mean = float(residual.mean()) if len(residual) else float("nan")
    return ReferenceEnergies(values, name, rmse, mean, tuple(sorted(ids)))


def isolated_energies(frames: Sequence[Configuration]) -> dict[int, tuple[float, list[int]]]:
    """Energy (eV) of the labelled isolated atoms and their places in ``frames``, by atomic number.

    Raises:
        InputError: two atoms of one element that differ by more than 1 meV.
    """
    atoms: dict[int, tuple[float, list[int]]] = {}
    alone = frames.isolated if isinstance(frames, FrameStore) else [is_isolated_atom(f) for f in frames]
    for i in np.flatnonzero(alone).tolist():
        frame = frames[i]
        if not np.isfinite(frame.energy):
            continue
        z = int(frame.numbers[0])
        energy, ids = atoms.setdefault(z, (frame.energy, []))
        if abs(frame.energy - energy) > 1e-3:
            raise InputError(
                f"{frame.source}: the isolated {chemical_symbols[z]} atom has {frame.energy:.6f} eV, another "
                f"has {energy:.6f} eV ({frames[ids[0]].source}): keep one"
            )
        ids.append(i)
    return atoms


def _given(source: Mapping[Any, float]) -> dict[int, float]:
    values = {}
    for key, value in source.items():
        z = number_of_symbol.get(key) if isinstance(key, str) and not key.isdigit() else int(key)
        if z is None:
            raise InputError(f"e0s: {key!r} is no chemical symbol")
        values[z] = float(value)
    return values


def _least_squares(store: FrameStore) -> tuple[dict[int, float], str]:
    """Energies as a sum over atoms, all labelled frames with equal weight per atom."""
    labelled = np.isfinite(store.energy)
    if not labelled.any():
        raise InputError("no frame has an energy to fit reference energies to: give e0s={H: ...}")
    numbers = np.array(store.atomic_numbers)
    counts = store.composition[labelled][:, numbers].astype(np.float64)
    atoms = store.num_atoms[labelled].astype(np.float64)
    fit, _, rank, _ = np.linalg.lstsq(counts / atoms[:, None], store.energy[labelled] / atoms, rcond=1e-8)
    name = "least squares"
    if rank < len(numbers):
        name += ", minimum norm"
        symbols = ", ".join(chemical_symbols[z] for z in numbers)
        warnings.warn(
            f"the compositions of {labelled.sum()} frames determine {rank} combinations of the "
            f"{len(numbers)} reference energies of {symbols}; the solution of least norm is taken. Single "
            "energies have no meaning: give e0s or isolated atoms if other compositions shall be seen",
            stacklevel=3,
        )
    return {int(z): float(e) for z, e in zip(numbers, fit, strict=True)}, name


def _residuals(store: FrameStore, values: Mapping[int, float], isolated: tuple[int, ...]) -> np.ndarray:
    """(energy - sum of E0s) / atoms of the labelled frames that are no isolated atoms, eV."""
    use = np.isfinite(store.energy)
    use[list(isolated)] = False
    table = np.zeros(store.composition.shape[1])
    for z, value in values.items():
        table[z] = value
    return (store.energy[use] - store.composition[use] @ table) / store.num_atoms[use]
