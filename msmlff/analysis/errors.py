"""Errors of predicted energies, forces and stresses, sliced by group, element and force size."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa

from msmlff.errors import InputError

FORCE_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)

UNITS = {"energy": "meV/atom", "force": "meV/Å", "stress": "meV/Å³", "pressure": "GPa"}


@dataclass(frozen=True)
class Predictions:
    """Labels and predictions of a set of frames, atoms of all frames one after another.

    Attributes:
        frame_id: [frames] int, index of each frame in its store.
        num_atoms: [frames] int.
        group: [frames] str, "" where there is none.
        energy_label: [frames] eV, NaN where there is no label; the same holds for the other labels.
        energy: [frames] eV.
        e0_energy: [frames] eV, the sum of the reference energies of a frame's atoms.
        numbers: [atoms] int, atomic numbers.
        forces_label, forces: [atoms, 3] eV/Å.
        stress_label, stress: [frames, 3, 3] eV/Å³; predictions are NaN where the model gave none.
    """

    frame_id: np.ndarray
    num_atoms: np.ndarray
    group: np.ndarray
    energy_label: np.ndarray
    energy: np.ndarray
    e0_energy: np.ndarray
    numbers: np.ndarray
    forces_label: np.ndarray
    forces: np.ndarray
    stress_label: np.ndarray
    stress: np.ndarray

    def __post_init__(self) -> None:
        frames, atoms = len(self.num_atoms), int(np.sum(self.num_atoms))
        shapes: dict[str, tuple[int, ...]] = {"numbers": (atoms,)}
        shapes |= dict.fromkeys(("frame_id", "group", "energy_label", "energy", "e0_energy"), (frames,))
        shapes |= dict.fromkeys(("forces_label", "forces"), (atoms, 3))
        shapes |= dict.fromkeys(("stress_label", "stress"), (frames, 3, 3))
        for name, shape in shapes.items():
            found = np.shape(getattr(self, name))
            if found != shape:
                raise InputError(f"predictions: {name} has shape {found}; {frames} frames need {shape}")

    def __len__(self) -> int:
        return len(self.num_atoms)

    @property
    def frame_of_atom(self) -> np.ndarray:
        """[atoms] int, the row of the frame each atom belongs to."""
        return np.repeat(np.arange(len(self)), self.num_atoms)

    def save(self, path: str | Path) -> None:
        """Write a compressed .npz; the file appears whole or not at all."""
        path = Path(path)
        arrays: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        arrays["group"] = arrays["group"].astype(str)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
        try:
            np.savez_compressed(temporary, **arrays)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Predictions:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is absent, is no .npz, lacks an array or has one of a wrong shape.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {f.name: file[f.name] for f in fields(cls)}
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file of predictions") from error
        except KeyError as error:
            raise InputError(f"{path}: not a file of predictions: {error.args[0]}") from error
        except (ValueError, OSError, EOFError, BadZipFile) as error:
            raise InputError(f"{path}: cannot be read as .npz ({error})") from error
        return cls(**arrays)


def sort_groups(groups: np.ndarray | list[str]) -> list[str]:
    """The distinct groups, sorted as numbers if all are numbers, else with the digits in them as numbers."""
    distinct = sorted({str(group) for group in groups})
    try:
        return sorted(distinct, key=float)
    except ValueError:
        return sorted(distinct, key=_natural_key)


def _natural_key(text: str) -> list[tuple[int, float, str]]:
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts) if p]


def error_table(predictions: Predictions) -> dict[str, Any]:
    """All errors of a set of predictions, beside those of a trivial predictor, as a JSON-able dictionary.

    Returns:
        ``{"units", "frames", "atoms", "nonfinite_frames", "overall", "by_group", "by_element", "by_force"}``.

        ``overall`` and each entry of ``by_group`` (in the order of ``sort_groups``) hold ``frames``,
        ``atoms``, ``energy_mae``, ``energy_rmse`` (meV/atom), ``force_mae``, ``force_rmse`` (meV/Å, over
        components), ``force_rms`` (of the labels, meV/Å), ``force_rmse_percent`` (RMSE in percent of that),
        ``force_cosine`` (mean over atoms), ``stress_mae``, ``stress_rmse`` (meV/Å³, over all nine
        components), ``pressure_mae``, ``pressure_rmse`` (GPa), and ``trivial`` with the MAEs and RMSEs of the
        trivial predictor. ``by_element`` has the force errors by chemical symbol; ``by_force`` is a list over
        quantiles of the label's force magnitude, with ``quantiles``, ``low`` and ``high`` (eV/Å).

        A figure is None where nothing is labelled, the model predicted nothing, or a prediction is not
        finite; frames with such energies or forces are counted in ``nonfinite_frames``.

    The trivial predictor is the best constant one: an energy per element, fitted by least squares to these
    very labels (the E0s where there are no more labelled frames than elements), no forces, the mean stress.
    """
    residuals = _Residuals.of(predictions)
    everything = np.ones(len(predictions), dtype=bool)
    groups = np.asarray(predictions.group).astype(str)
    by_group = {}
    if len(predictions) and any(groups != ""):
        by_group = {group: residuals.metrics(groups == group) for group in sort_groups(groups)}
    by_element = {
        chemical_symbols[z]: residuals.force_metrics(predictions.numbers == z)
        for z in sorted({int(z) for z in predictions.numbers})
    }
    return {
        "units": UNITS,
        "frames": len(predictions),
        "atoms": len(predictions.numbers),
        "nonfinite_frames": residuals.nonfinite_frames,
        "overall": residuals.metrics(everything),
        "by_group": by_group,
        "by_element": by_element,
        "by_force": residuals.by_force_size(),
    }


def parity_pairs(p: Predictions) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Label and prediction of every target, NaN where there is none.

    Returns:
        "energy" [frames] eV/atom less the E0s; "force" [3 atoms] eV/Å, components; "pressure" [frames] GPa,
        of the stress alone.
    """
    to_pressure = -1.0 / 3.0 / GPa
    return {
        "energy": ((p.energy_label - p.e0_energy) / p.num_atoms, (p.energy - p.e0_energy) / p.num_atoms),
        "force": (p.forces_label.ravel(), p.forces.ravel()),
        "pressure": (
            to_pressure * np.trace(p.stress_label, axis1=1, axis2=2),
            to_pressure * np.trace(p.stress, axis1=1, axis2=2),
        ),
    }


def save_error_table(table: dict[str, Any], path: str | Path) -> None:
    """Write an error table as strict JSON."""
    Path(path).write_text(
        json.dumps(table, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
    )


@dataclass(frozen=True)
class _Residuals:
    """Predicted minus label in the table's units, NaN without a label; of the trivial predictor as well."""

    frame_of_atom: np.ndarray
    energy: np.ndarray
    force: np.ndarray
    stress: np.ndarray
    trivial_energy: np.ndarray
    trivial_stress: np.ndarray
    labelled: dict[str, np.ndarray]
    force_label: np.ndarray
    force_predicted: np.ndarray

    @classmethod
    def of(cls, p: Predictions) -> _Residuals:
        stress_label = 1e3 * p.stress_label.reshape(len(p), 9)
        trivial_stress = np.full_like(stress_label, np.nan)
        has_stress = np.asarray(np.isfinite(stress_label).all(axis=1))
        if has_stress.sum() > 1:
            trivial_stress[has_stress] = stress_label[has_stress].mean(axis=0) - stress_label[has_stress]
        return cls(
            frame_of_atom=p.frame_of_atom,
            energy=1e3 * (p.energy - p.energy_label) / p.num_atoms,
            force=1e3 * (p.forces - p.forces_label),
            stress=1e3 * p.stress.reshape(len(p), 9) - stress_label,
            trivial_energy=1e3 * (_constant_energies(p) - p.energy_label) / p.num_atoms,
            trivial_stress=trivial_stress,
            labelled={
                "energy": np.isfinite(p.energy_label),
                "force": np.isfinite(p.forces_label).all(axis=1),
                "stress": has_stress,
            },
            force_label=1e3 * p.forces_label,
            force_predicted=1e3 * p.forces,
        )

    @property
    def nonfinite_frames(self) -> int:
        bad = self.labelled["energy"] & ~np.isfinite(self.energy)
        bad_atoms = self.labelled["force"] & ~np.isfinite(self.force).all(axis=1)
        bad[self.frame_of_atom[bad_atoms]] = True
        return int(bad.sum())

    def metrics(self, frames: np.ndarray) -> dict[str, Any]:
        """Every figure of the frames where the mask [frames] is true."""
        atoms = frames[self.frame_of_atom]
        energy = frames & self.labelled["energy"]
        stress = frames & self.labelled["stress"]
        force = self.force_metrics(atoms)
        trivial = _mae_rmse("energy", self.trivial_energy[energy]) | force.pop("trivial")
        trivial |= _stress_figures(self.trivial_stress[stress])
        own = {"frames": int(frames.sum())} | _mae_rmse("energy", self.energy[energy]) | force
        return own | _stress_figures(self.stress[stress]) | {"trivial": trivial}

    def force_metrics(self, atoms: np.ndarray) -> dict[str, Any]:
        """Force errors of the atoms where the mask [atoms] is true and there is a label."""
        count = int(atoms.sum())
        atoms = atoms & self.labelled["force"]
        label, predicted = self.force_label[atoms], self.force_predicted[atoms]
        trivial = _mae_rmse("force", -label)
        figures: dict[str, Any] = {"atoms": count} | _mae_rmse("force", self.force[atoms])
        rms, rmse = trivial["force_rmse"], figures["force_rmse"]
        figures["force_rms"] = rms
        figures["force_rmse_percent"] = 100 * rmse / rms if rms and rmse is not None else None
        figures["force_cosine"] = _mean_cosine(label, predicted)
        return figures | {"trivial": trivial}

    def by_force_size(self) -> list[dict[str, Any]]:
        """Force errors between the quantiles FORCE_QUANTILES of the magnitude of the label."""
        labelled = self.labelled["force"]
        if not labelled.any():
            return []
        size = np.linalg.norm(self.force_label, axis=1) / 1e3
        edges = np.quantile(size[labelled], FORCE_QUANTILES)
        # the index of an atom's slice; a value equal to an inner edge belongs to the slice above
        slice_of = np.searchsorted(edges[1:-1], np.where(labelled, size, 0.0), side="right")
        rows = []
        for i in range(len(edges) - 1):
            atoms = labelled & (slice_of == i)
            if atoms.any():
                where = {
                    "quantiles": list(FORCE_QUANTILES[i : i + 2]),
                    "low": edges[i].item(),
                    "high": edges[i + 1].item(),
                }
                rows.append(where | self.force_metrics(atoms))
        return rows


def _constant_energies(p: Predictions) -> np.ndarray:
    """[frames] eV, energies of the best constant energy per element, or of the E0s where labels are few."""
    labelled = np.isfinite(p.energy_label)
    elements = np.unique(p.numbers)
    if labelled.sum() <= len(elements):
        return np.asarray(p.e0_energy, dtype=float)
    counts = np.zeros((len(p), len(elements)))
    np.add.at(counts, (p.frame_of_atom, np.searchsorted(elements, p.numbers)), 1.0)
    per_atom = counts / p.num_atoms[:, None]
    target = (p.energy_label - p.e0_energy) / p.num_atoms
    shift = np.linalg.lstsq(per_atom[labelled], target[labelled], rcond=None)[0]
    return p.e0_energy + counts @ shift


def _mae_rmse(name: str, residual: np.ndarray) -> dict[str, float | None]:
    if residual.size == 0 or not np.isfinite(residual).all():
        return {f"{name}_mae": None, f"{name}_rmse": None}
    return {
        f"{name}_mae": float(np.abs(residual).mean()),
        f"{name}_rmse": float(np.sqrt(np.square(residual).mean())),
    }


def _stress_figures(residual: np.ndarray) -> dict[str, float | None]:
    """Errors of stresses [frames, 9] in meV/Å³ and of the pressures they contain in GPa."""
    pressure = -residual[:, [0, 4, 8]].mean(axis=1) * 1e-3 / GPa
    return _mae_rmse("stress", residual) | _mae_rmse("pressure", pressure)


def _mean_cosine(label: np.ndarray, predicted: np.ndarray) -> float | None:
    """Mean cosine of the angle between forces, over atoms on which neither is zero."""
    if not np.isfinite(predicted).all():
        return None
    norms = np.linalg.norm(label, axis=1) * np.linalg.norm(predicted, axis=1)
    counted = norms > 0
    if not counted.any():
        return None
    return float(np.mean(np.sum(label * predicted, axis=1)[counted] / norms[counted]))
