"""A model, or a committee of models, as an ASE calculator."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.data import chemical_symbols
from ase.outputs import Properties, all_outputs
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from msmlff.data.array_folder import file_sha256
from msmlff.data.batch import Batch
from msmlff.data.model_path import model_file
from msmlff.data.neighbors import check_crowding
from msmlff.errors import DivergenceError, InputError
from msmlff.models.backend import choose_backend
from msmlff.models.base import ForceField, Prediction
from msmlff.models.files import load_model
from msmlff.nn.ops import check_backend, use_backend
from msmlff.simulation.chunks import ChunkedEvaluator, sample_of
from msmlff.simulation.skin_edges import SkinEdges

#: Å; no atoms come so close, and no model means anything by that.
OVERLAP = 0.4
#: eV; the electrons of the heaviest atoms are bound by less.
MOST_ENERGY = 1e6
#: How many times the edges make another measurement of the backends worth its time.
_MUCH_LARGER = 8
_DTYPES = {"float32": torch.float32, "float64": torch.float64}

Model = ForceField | str | Path


class MSMLFFCalculator(Calculator):
    """Energy, forces, stress and atomic energies of a model in ASE's units and signs (eV, Å).

    ``results`` hold energy, free_energy (the same), energies [atoms] (E0 included), forces [atoms, 3] and,
    where the cell is periodic in all directions, stress [6]. Of several models they hold the mean, and the
    standard deviations over the models (the root of the mean square):

        energy_std      eV
        energies_std    [atoms] eV, of the atomic energies
        forces_std      [atoms] eV/Å, of the force vectors: sqrt(mean |F - mean F|²)
        forces_std_max  eV/Å, the largest of them
        stress_std      [6] eV/Å³

    Args:
        models: a run folder, a model file or a model; or several of them, which makes a committee. A model
            is put into evaluation mode.
        dtype: "float32" or "float64", of the network; None: as each model is.
        device: "cpu", "cuda", "cuda:1", ...; None: where a model is, and a GPU for a file if there is one.
        backend: of the operations: a name of ``msmlff.nn.ops.available_backends``; "auto" measures them at
            the first calculation, and again when frames are much larger, and takes the fastest (kept in
            ``fastest``); None: the first that can run, compiled ones before.
        skin: Å, the neighbour list reaches so far beyond the cutoff and is searched again only when atoms or
            cell moved out of it; the results, bit for bit, are the same for any.
        memory_gib: GiB that an evaluation may take; a larger system goes through in pieces. None: half of
            what is free.
        note_deviations: write a committee's energy_std and forces_std_max into ``atoms.info`` and forces_std
            into ``atoms.arrays`` at each calculation, so that trajectories keep them.
        min_distance: Å, atoms closer than this overlap; None: any distance is calculated.

    Raises:
        InputError: no model, a file that is absent, damaged or of another version, the same model twice, or
            a value that is none of the above. While calculating: an element a model never saw, atoms that
            overlap, positions that are not finite, a periodic direction without a lattice vector, a cell so
            small that it is none in Å.
        DivergenceError: while calculating: the energy or a force is not finite, or is one that no atom has.
        PropertyNotImplementedError: stress, where the cell is not periodic in all directions.
    """

    implemented_properties: list[str] = [
        "energy", "free_energy", "energies", "forces", "stress",
        "energy_std", "energies_std", "forces_std", "forces_std_max", "stress_std",
    ]  # fmt: skip
    ignored_changes: set[str] = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        models: Model | Sequence[Model],
        *,
        dtype: str | None = None,
        device: str | None = None,
        backend: str | None = None,
        skin: float = 1.0,
        memory_gib: float | None = None,
        note_deviations: bool = False,
        min_distance: float | None = OVERLAP,
    ) -> None:
        super().__init__()
        given = [models] if isinstance(models, ForceField | str | Path) else list(models)
        if not 0 <= skin < float("inf"):
            raise InputError(f"skin is {skin}; write 0 Å or more")
        if min_distance is not None and not 0 <= min_distance < float("inf"):
            raise InputError(f"min_distance is {min_distance}; write 0 Å or more, or None")
        if dtype is not None and dtype not in _DTYPES:
            raise InputError(f"dtype is {dtype!r}; write float32 or float64")
        self.device = _device(given, device)
        if backend not in (None, "auto"):
            check_backend(str(backend), self.device.type)
        _check_distinct(given)
        kind = None if dtype is None else _DTYPES[dtype]
        self.models = [_loaded(m, kind, self.device) for m in given]
        self._evaluators = [ChunkedEvaluator(m, memory_gib=memory_gib) for m in self.models]
        self.backend, self.note_deviations, self.min_distance = backend, note_deviations, min_distance
        self.fastest, self._measured_edges = "", 0
        self.edges = SkinEdges(max(m.cutoff for m in self.models), float(skin), self.device)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] | None = None,
    ) -> None:
        """Fill ``results`` for ``atoms``; the class says with what, and what it refuses."""
        super().calculate(atoms, properties or ["energy"], system_changes or all_changes)
        assert self.atoms is not None  # set by ASE just before
        if len(self.atoms) == 0:
            raise InputError("there are no atoms to calculate")
        periodic = bool(self.atoms.pbc.all())
        self.results = {}
        self._check_properties(properties or [], periodic)
        species = [self._species(m) for m in self.models]
        system = self.atoms
        check_crowding(len(system), system.cell.array, system.pbc, self.edges.cutoff + self.edges.skin)
        batch = self.edges.batch(system.positions, system.cell.array, system.pbc, species[0])
        self._check_overlap(batch)
        predictions = []
        with self._backend_in_use(batch):
            for evaluator, z in zip(self._evaluators, species, strict=True):
                predictions.append(evaluator.of_batch(replace(batch, species=z), stress=periodic))
        self.results = _mean(predictions)
        if len(self.models) > 1:
            self.results |= _deviations(predictions)
            if self.note_deviations and atoms is not None:
                atoms.info |= {k: self.results[k] for k in ("energy_std", "forces_std_max")}
                atoms.arrays["forces_std"] = self.results["forces_std"].copy()
        self._check_finite()

    def export_properties(self) -> Properties:
        """The results that ASE has a name for: without the deviations of a committee."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def _check_properties(self, wanted: list[str], periodic: bool) -> None:
        assert self.atoms is not None
        if not periodic and {"stress", "stress_std"} & set(wanted):
            raise PropertyNotImplementedError(
                f"stress is defined for a cell that is periodic in all directions; pbc is "
                f"{self.atoms.pbc.tolist()}. A slab has energy and forces; relax it at a fixed cell"
            )
        deviations = [name for name in wanted if "_std" in name]
        if deviations and len(self.models) == 1:
            raise PropertyNotImplementedError(f"{deviations[0]} needs a committee: give two models or more")

    def _species(self, model: ForceField) -> Tensor:
        """[atoms] long, index of each atom's element among the model's."""
        assert self.atoms is not None
        numbers = self.atoms.numbers
        known = np.asarray(model.atomic_numbers)
        unknown = sorted(set(numbers.tolist()) - set(known.tolist()))
        if unknown:
            have = ", ".join(chemical_symbols[z] for z in known)
            raise InputError(
                f"the model never saw {', '.join(chemical_symbols[z] for z in unknown)}, it knows {have}: "
                "use a model trained on these elements"
            )
        return torch.from_numpy(np.searchsorted(known, numbers)).to(self.device)

    def _check_overlap(self, batch: Batch) -> None:
        if self.min_distance is None:
            return
        i, j, distance = self.edges.closest(batch)
        if distance < self.min_distance:
            what = f"atoms {i} and {j} are" if i != j else f"atom {i} and its own image are"
            raise InputError(
                f"{what} {distance:.2g} Å apart: they overlap. Move them apart (msmlff relax does that), or "
                f"set min_distance ({self.min_distance:g} Å) lower if that is meant"
            )

    def _check_finite(self) -> None:
        energies, forces = self.results["energies"], self.results["forces"]
        largest = int(np.argmax(np.abs(energies)))
        if not (np.isfinite(self.results["energy"]) and np.isfinite(forces).all()):
            worst = int(np.argmin(np.isfinite(forces).all(axis=1)))
            what = f"energy or forces are not finite (first at atom {worst})"
        elif abs(energies[largest]) > MOST_ENERGY:
            what = f"energy of atom {largest} is {energies[largest]:.3g} eV, which no atom has"
        else:
            return
        self.results = {}
        raise DivergenceError(f"the model's {what}: the structure is far from those it was trained on")

    def _backend_in_use(self, batch: Batch) -> AbstractContextManager[None]:
        """The backend for a calculation; measured, where it is "auto", again once frames are much larger."""
        if self.backend != "auto":
            return nullcontext() if self.backend is None else use_backend(self.backend)
        if not self.fastest or batch.num_edges > _MUCH_LARGER * self._measured_edges:
            self.fastest = choose_backend(
                self.models[0], sample_of(self.models[0], batch), training=False
            ).name
            self._measured_edges = max(1, batch.num_edges)
        return use_backend(self.fastest)


def _device(given: Sequence[Model], device: str | None) -> torch.device:
    """Where to calculate: as asked, where the given models are, or the best there is.

    Raises:
        InputError: no model, no device of that name, or none that torch can use.
    """
    if not given:
        raise InputError("a calculator needs a model: give a run folder, a model file or a model")
    if device is None:
        here = [next(m.parameters()).device for m in given if isinstance(m, ForceField)]
        device = str(here[0]) if here else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device is {device!r}; write cpu, cuda or cuda:NUMBER") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {device}, but torch sees no CUDA GPU; write cpu")
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return chosen


def _check_distinct(given: Sequence[Model]) -> None:
    """Raises InputError where a model is given twice: it would always agree with itself."""
    keys = [m if isinstance(m, ForceField) else file_sha256(model_file(m)) for m in given]
    for i, key in enumerate(keys):
        if key in keys[:i]:
            first = given[keys.index(key)]
            names = "two of the models" if isinstance(first, ForceField) else f"{first} and {given[i]}"
            raise InputError(f"{names} are the same model, which always agrees with itself: give each once")


def _loaded(model: Model, dtype: torch.dtype | None, device: torch.device) -> ForceField:
    """The model, ready; a given one is left as it is and copied where another dtype or device is wanted."""
    if not isinstance(model, ForceField):
        return load_model(model_file(model), dtype, device).requires_grad_(False)
    here = next(model.parameters())
    if here.device == device and dtype in (None, here.dtype):
        return model.eval()
    return copy.deepcopy(model).to(device=device, dtype=dtype).eval()


def _array(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return np.asarray(tensor.detach().cpu().numpy())


def _mean(predictions: list[Prediction]) -> dict[str, Any]:
    """ASE's results, averaged over the models."""
    energy = float(np.mean([_array(p.energy)[0] for p in predictions]))
    results: dict[str, Any] = {"energy": energy, "free_energy": energy}
    results["energies"] = np.mean([_array(p.atomic_energies) for p in predictions], axis=0)
    results["forces"] = np.mean([_array(p.forces) for p in predictions], axis=0)
    if predictions[0].stress is not None:
        results["stress"] = np.mean(_stresses(predictions), axis=0)
    return results


def _deviations(predictions: list[Prediction]) -> dict[str, Any]:
    """Standard deviations over the models; ``MSMLFFCalculator`` says of what."""
    forces = np.array([_array(p.forces) for p in predictions])
    per_atom = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
    found: dict[str, Any] = {
        "energy_std": float(np.std([_array(p.energy)[0] for p in predictions])),
        "energies_std": np.std([_array(p.atomic_energies) for p in predictions], axis=0),
        "forces_std": per_atom,
        "forces_std_max": float(per_atom.max(initial=0.0)),
    }
    if predictions[0].stress is not None:
        found["stress_std"] = np.std(_stresses(predictions), axis=0)
    return found


def _stresses(predictions: list[Prediction]) -> list[np.ndarray]:
    """[6] eV/Å³ of each model, in Voigt's order."""
    return [full_3x3_to_voigt_6_stress(_array(p.stress)[0]) for p in predictions]
