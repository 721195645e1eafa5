"""Writes tests/models/reference/nequip_*.npz: random nequip models in float64, and what they predict.

Needs an environment of its own, for nequip wants another e3nn than mace-torch (any folder will do):

    python -m venv NEQUIP && NEQUIP/bin/pip install torch==2.13.0 numpy nequip==0.19.1 e3nn==0.6.0
    NEQUIP/bin/python scripts/make_nequip_reference.py

A file holds `settings` (JSON: arguments of nequip's NequIPGNNModel), each of the model's weights as
`weight:NAME`, and for frame i `numbers_i`, `positions_i` (Å), `cell_i` (Å), `pbc_i`, `energy_i` (eV),
`forces_i` (eV/Å) and, for a periodic one, `stress_i` (eV/Å³).
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "models" / "reference"


def ethanol() -> Atoms:
    """A distorted molecule of H, C, O."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.08, seed=0)
    return atoms


def crystal() -> Atoms:
    """A distorted, sheared cell of 8 atoms C, O, smaller than the cutoff."""
    atoms = bulk("CO", "rocksalt", a=4.1, cubic=True)
    atoms.set_cell(atoms.cell.array + np.array([[0, 0.3, 0], [0, 0, 0.1], [0.2, 0, 0]]), scale_atoms=True)
    atoms.rattle(0.1, seed=0)
    return atoms


def hydrogen() -> Atoms:
    """A distorted lattice of 12 hydrogen atoms in a periodic box."""
    atoms = bulk("H", "hcp", a=1.6, c=2.5, orthorhombic=True) * (3, 1, 1)
    atoms.rattle(0.15, seed=0)
    return atoms


CASES: dict[str, tuple[dict[str, Any], list[Atoms]]] = {
    "one_layer": (
        {"num_layers": 1, "l_max": 1, "num_features": 5, "r_max": 3.0, "radial_mlp_width": 6},
        [hydrogen()],
    ),
    "two_layers": (
        {
            "num_layers": 2, "l_max": 2, "num_features": 4, "r_max": 4.0, "radial_mlp_depth": 2,
            "radial_mlp_width": 7, "num_bessels": 6,
        },
        [ethanol(), crystal()],
    ),
    "three_layers": (
        {
            "num_layers": 3, "l_max": 2, "num_features": 4, "r_max": 3.6, "radial_mlp_width": 8,
            "polynomial_cutoff_p": 5, "readout_mlp_hidden_layers_depth": 1,
            "readout_mlp_hidden_layers_width": 3,
        },
        [ethanol(), crystal()],
    ),
    "scalars": (
        {"num_layers": 2, "l_max": 0, "num_features": 6, "r_max": 4.0, "radial_mlp_width": 6},
        [crystal()],
    ),
}  # fmt: skip


def predict(model: torch.nn.Module, atoms: Atoms, names: list[str], cutoff: float) -> dict[str, np.ndarray]:
    """The frame and the model's energy, forces and stress."""
    data = NeighborListTransform(r_max=cutoff)(ChemicalSpeciesToAtomTypeMapper(names)(from_ase(atoms)))
    out = model(AtomicDataDict.batched_from_list([data]))
    result = {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "energy": out["total_energy"].detach().numpy().reshape(()),
        "forces": out["forces"].detach().numpy(),
    }
    if atoms.pbc.all():
        result["stress"] = out["stress"].detach().numpy().reshape(3, 3)
    return result


def main() -> None:
    """Write every case."""
    set_global_state()
    warnings.simplefilter("ignore")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed, (name, (settings, frames)) in enumerate(CASES.items()):
        symbols = {s for atoms in frames for s in atoms.get_chemical_symbols()}
        names = sorted(symbols, key=lambda s: Atoms(s).numbers[0])
        settings = {
            **settings,
            "parity": False,
            "type_names": names,
            "avg_num_neighbors": 5.0,
            "per_type_energy_scales": 1.3,
            "per_type_energy_shifts": {s: -3.0 - i for i, s in enumerate(names)},
        }
        model = NequIPGNNModel(seed=seed, model_dtype="float64", **settings).eval()
        content: dict[str, np.ndarray] = {
            f"weight:{key}": value.detach().numpy() for key, value in model.named_parameters()
        }
        for i, atoms in enumerate(frames):
            for key, array in predict(model, atoms, names, settings["r_max"]).items():
                content[f"{key}_{i}"] = array
        path = FOLDER / f"nequip_{name}.npz"
        np.savez_compressed(path, settings=np.array(json.dumps(settings)), **content)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
