"""The search on tensors gives the list of the search on arrays, whichever library does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from msmlff.data.neighbors import neighbor_list
from msmlff.data.neighbors_device import (
    device_neighbor_list,
    device_search_available,
    neighbor_list_for,
)
from msmlff.errors import InputError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def _shaken(atoms: Atoms, pbc: object = True) -> Atoms:
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(0).normal(0, 0.3, atoms.positions.shape)
    atoms.pbc = pbc
    return atoms


CASES = {
    "primitive cell": (_shaken(bulk("Ni")), 7.0),
    "many neighbours": (_shaken(bulk("Ni", cubic=True) * 3), 6.5),
    "skewed": (_shaken(bulk("Ti") * 2), 5.0),
    "mixed periodicity": (_shaken(bulk("Ni", cubic=True) * 2, [True, False, True]), 5.0),
    "molecule": (_shaken(molecule("C2H6"), False), 3.0),
    "far apart": (Atoms("H2", [[0, 0, 0], [0, 0, 9.0]]), 3.0),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("force_cpu", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_same_list_as_on_arrays(name: str, force_cpu: bool, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if not force_cpu and not device_search_available():
        pytest.skip("nvalchemi-toolkit-ops is not installed")
    atoms, cutoff = CASES[name]
    expected = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    positions = torch.tensor(atoms.positions, device=device)
    cell = torch.tensor(atoms.cell.array, device=device)
    sender, receiver, shift = device_neighbor_list(positions, cell, np.array(atoms.pbc), cutoff, force_cpu)
    assert sender.device.type == receiver.device.type == shift.device.type == device
    assert receiver.tolist() == expected.receiver.tolist()
    edges = torch.column_stack([receiver, sender, shift.long()]).tolist()
    wanted = np.column_stack([expected.receiver, expected.sender, expected.shift]).tolist()
    assert sorted(edges) == sorted(wanted)
    length = (positions[receiver] - positions[sender] + shift @ cell).norm(dim=1)
    assert (length.diff()[receiver.diff() == 0] > -1e-9).all()


@pytest.mark.parametrize("device", DEVICES)
def test_models_on_a_device_get_the_same_list(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    atoms, cutoff = CASES["skewed"]
    geometry = (atoms.positions, atoms.cell.array, np.array(atoms.pbc), cutoff)
    found, expected = neighbor_list_for(torch.device(device), *geometry), neighbor_list(*geometry)
    assert found.receiver.tolist() == expected.receiver.tolist()
    edges = [
        sorted(np.column_stack([n.receiver, n.sender, n.shift]).astype(int).tolist())
        for n in (found, expected)
    ]
    assert edges[0] == edges[1]


def test_bad_geometry_is_refused() -> None:
    with pytest.raises(InputError, match="no such lattice vector"):
        device_neighbor_list(torch.zeros(1, 3), None, True, 3.0)
    with pytest.raises(InputError, match="NaN"):
        device_neighbor_list(torch.full((1, 3), torch.nan), None, False, 3.0)
