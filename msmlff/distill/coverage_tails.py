"""What a selection keeps of the extremes of energy and force. Labels are reported, and have no say in a
choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from msmlff.distill.features import Features

if TYPE_CHECKING:
    from msmlff.data.store import FrameStore

TAILS = (0.01, 0.05)
ATOMS = 400  # atoms of a tail whose environments are compared with the selection, at most
QUANTILES = (0.5, 0.95, 0.99, 1.0)


class _Near(Protocol):
    def near(self, rows: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Chosen:
    """ids: of the chosen frames; looked: ascending ids of the frames that are looked at; near: [looked] bool,
    within the radius of a chosen one."""

    ids: np.ndarray
    looked: np.ndarray
    near: np.ndarray


def tails(labels: FrameStore, features: Features, chosen: Chosen, environments: _Near) -> dict[str, Any]:
    """Tails and quantiles of what labels there are.

    Returns:
        {"tails": {quantity: {"1 %": {"count", "chosen", "near"}, "5 %": ...}}, "labels": {...}}. Quantities:
        "energy_low", "energy_high" (frames by energy per atom), "frame_force" (frames by their largest
        force),
        "atom_force" (atoms by force); "chosen": share of the tail in the selection, "near": share within the
        radius of it. labels: "force" {"pool", "selection": {"q50", "q95", "q99", "max"} in eV/Å, "ratio"} and
        "energy_per_atom" {"pool", "selection": {"q05", "q50", "q95"} in eV, "span_ratio": of q95 - q05};
        empty without labels. Energies are compared as they are: where compositions differ, so do they.
    """
    looked = chosen.looked
    is_chosen = np.isin(looked, chosen.ids)
    per_atom = labels.energy[looked] / features.num_atoms[looked]
    forces = _forces(labels, looked)
    largest = np.array([f.max() if f is not None else np.nan for f in forces])
    result: dict[str, Any] = {}
    for name, values in (("energy_low", -per_atom), ("energy_high", per_atom), ("frame_force", largest)):
        if np.isfinite(values).any():
            result[name] = _frame_tail(values, is_chosen, chosen.near)
    quantities: dict[str, Any] = {}
    if np.isfinite(per_atom).any():
        quantities["energy_per_atom"] = _energies(per_atom, is_chosen)
    if np.isfinite(largest).any():
        atoms = _Atoms.of(features, looked, forces, is_chosen)
        result["atom_force"] = _atom_tail(atoms, environments)
        quantities["force"] = _force_quantiles(atoms)
    return {"tails": result, "labels": quantities} if quantities else {}


@dataclass(frozen=True, eq=False)
class _Atoms:
    """rows, force [atoms] eV/Å, chosen [atoms] bool, of all atoms with a force."""

    rows: np.ndarray
    force: np.ndarray
    chosen: np.ndarray

    @staticmethod
    def of(
        features: Features, looked: np.ndarray, forces: list[np.ndarray | None], is_chosen: np.ndarray
    ) -> _Atoms:
        known = [i for i, f in enumerate(forces) if f is not None]
        starts, counts = features.offsets[looked[known]], features.num_atoms[looked[known]]
        rows = np.concatenate([np.arange(a, a + n) for a, n in zip(starts, counts, strict=True)])
        force = np.concatenate([f for f in forces if f is not None])
        return _Atoms(rows, force, np.repeat(is_chosen[known], counts))


def _forces(labels: FrameStore, looked: np.ndarray) -> list[np.ndarray | None]:
    """Of each frame, the magnitudes of its forces [atoms] in eV/Å, None where it has none, or not all."""
    result: list[np.ndarray | None] = []
    for i in looked.tolist():
        forces = labels.forces(i)
        size = None if forces is None else np.sqrt((forces**2).sum(axis=1))
        result.append(size if size is not None and np.isfinite(size).all() else None)
    return result


def _top(values: np.ndarray, share: float) -> np.ndarray:
    """Indices of the largest ``share`` of the known values, at least one."""
    known = np.flatnonzero(np.isfinite(values))
    count = max(1, int(np.ceil(share * len(known) - 1e-9)))
    top: np.ndarray = known[np.argsort(-values[known], kind="stable")[:count]]
    return top


def _frame_tail(values: np.ndarray, is_chosen: np.ndarray, near: np.ndarray) -> dict[str, Any]:
    result = {}
    for share in TAILS:
        top = _top(values, share)
        shares = {"chosen": float(is_chosen[top].mean()), "near": float(near[top].mean())}
        result[f"{100 * share:g} %"] = {"count": len(top), **shares}
    return result


def _atom_tail(atoms: _Atoms, environments: _Near) -> dict[str, Any]:
    result = {}
    for share in TAILS:
        top = _top(atoms.force, share)
        some = top[np.linspace(0, len(top) - 1, min(len(top), ATOMS)).astype(np.int64)]
        near = float(environments.near(np.sort(atoms.rows[some])).mean())
        chosen = float(atoms.chosen[top].mean())
        result[f"{100 * share:g} %"] = {"count": len(top), "chosen": chosen, "near": near}
    return result


def _force_quantiles(atoms: _Atoms) -> dict[str, Any]:
    names = [f"q{100 * q:g}" if q < 1 else "max" for q in QUANTILES]
    pool = np.quantile(atoms.force, QUANTILES)
    kept = np.quantile(atoms.force[atoms.chosen], QUANTILES) if atoms.chosen.any() else pool * np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = kept / pool
    columns = {"pool": pool, "selection": kept, "ratio": ratio}
    return {key: dict(zip(names, _numbers(values), strict=True)) for key, values in columns.items()}


def _energies(per_atom: np.ndarray, is_chosen: np.ndarray) -> dict[str, Any]:
    names, shares = ("q05", "q50", "q95"), (0.05, 0.5, 0.95)
    known = np.isfinite(per_atom)
    pool = np.quantile(per_atom[known], shares)
    inside = per_atom[known & is_chosen]
    kept = np.quantile(inside, shares) if len(inside) else pool * np.nan
    span = pool[2] - pool[0]
    return {
        "pool": dict(zip(names, _numbers(pool), strict=True)),
        "selection": dict(zip(names, _numbers(kept), strict=True)),
        "span_ratio": _numbers(np.array([(kept[2] - kept[0]) / span if span > 0 else np.nan]))[0],
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    """NaN is null in a record."""
    return [float(v) if np.isfinite(v) else None for v in values]
