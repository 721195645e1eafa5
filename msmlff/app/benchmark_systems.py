"""Systems of any size for ``msmlff benchmark growth``: a molecular liquid at its density, fcc nickel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_masses
from ase.io import read
from ase.neighborlist import natural_cutoffs, neighbor_list
from scipy.optimize import minimize
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError

TITLES = {"fc43": "liquid C12F27N, 1.88 g/cm³", "nickel": "fcc nickel"}
_DENSITY = 1.88  # g/cm³, of C12F27N
#: g/cm³ of 1 amu/Å³.
_AMU = 1.0 / 0.602214076
#: Å that atoms of different molecules are kept apart, as far as there is room.
_APART = 2.9
#: Å, standard deviation of the noise on each coordinate.
_NOISE = 0.05


def nickel(atoms: int) -> Configuration:
    """About so many atoms of fcc nickel (a = 3.52 Å), each coordinate displaced by noise."""
    crystal = bulk("Ni", "fcc", a=3.52, cubic=True) * near_cube(atoms / 4)
    return _shaken(crystal)


def repeated(unit: Atoms, atoms: int) -> Configuration:
    """About so many atoms of a packed cell that is repeated, each coordinate displaced by noise.

    The structure is not that of the liquid in equilibrium; its density, and so the number of neighbours, is.
    """
    return _shaken(unit * near_cube(atoms / len(unit)))


def near_cube(count: float) -> tuple[int, int, int]:
    """Three whole numbers, about equal, whose product is about ``count``."""
    first = max(1, round(count ** (1 / 3)))
    second = max(1, round((count / first) ** 0.5))
    return first, second, max(1, round(count / (first * second)))


def read_molecules(path: Path) -> list[Atoms]:
    """The molecules of a file, found by their bonds.

    Raises:
        InputError: the file cannot be read, or holds molecules of different kinds.
    """
    try:
        cluster = read(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--molecules {path}: write a file that ASE reads ({error})") from error
    assert isinstance(cluster, Atoms)
    i, j = neighbor_list("ij", cluster, natural_cutoffs(cluster, mult=1.2))
    bonds = coo_array((np.ones(len(i)), (i, j)), shape=(len(cluster), len(cluster)))
    number, label = connected_components(bonds, directed=False)
    shapes = [cluster[label == k] for k in range(number)]
    if len({str(shape.symbols.formula.convert("hill")) for shape in shapes}) > 1:
        raise InputError(f"--molecules {path} has different molecules; write a file with one kind")
    return shapes


def liquid(molecules: Path) -> Atoms:
    """A cell of C12F27N packed to its density from the molecules of a file. Raises as ``read_molecules``."""
    return pack(read_molecules(molecules), _DENSITY)


def pack(shapes: list[Atoms], density: float) -> Atoms:
    """Rigid molecules in a periodic cubic cell, turned and moved until the atoms of different ones are apart.

    Args:
        shapes: the molecules.
        density: g/cm³.
    """
    rng, count = np.random.default_rng(0), len(shapes)
    numbers = np.concatenate([m.numbers for m in shapes])
    side = (atomic_masses[numbers].sum() * _AMU / density) ** (1 / 3)
    turned = [Rotation.random(rng=rng).apply(m.positions - m.positions.mean(axis=0)) for m in shapes]
    body = torch.from_numpy(np.concatenate(turned))
    molecule = torch.repeat_interleave(torch.arange(count), torch.tensor([len(m) for m in shapes]))
    others, own = _pairs(molecule)
    # half of the 26 cells around: the others are these seen from the other side
    images = side * torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 3)[:13]

    def positions(moves: torch.Tensor) -> torch.Tensor:
        shift, angle = moves.view(count, 6).split(3, dim=1)
        return shift[molecule] + _turn(body, angle[molecule])

    def overlap(moves: np.ndarray) -> tuple[float, np.ndarray]:
        variable = torch.from_numpy(moves).requires_grad_()
        at = positions(variable)
        step = at[others[0]] - at[others[1]]
        step = step - side * (step.detach() / side).round()
        to_image = (at[own[0]] - at[own[1]]).unsqueeze(1) + images
        lengths = torch.cat([step, to_image.flatten(0, 1)]).square().sum(dim=1).sqrt()
        total = (_APART - lengths).clamp(min=0.0).square().sum()
        total.backward()
        assert variable.grad is not None
        return float(total.detach()), variable.grad.numpy()

    start = np.concatenate([rng.uniform(0.0, side, (count, 3)), np.zeros((count, 3))], axis=1)
    found = minimize(overlap, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    at = positions(torch.from_numpy(found.x)).numpy()
    return Atoms(numbers, at, cell=np.eye(3) * side, pbc=True)


def _pairs(molecule: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[2, pairs] of atoms of different molecules, each once; of the same molecule, in both orders."""
    same = molecule.unsqueeze(0) == molecule.unsqueeze(1)
    return (~same).triu().nonzero().t(), same.nonzero().t()


def _turn(vectors: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """[atoms, 3] turned by rotation vectors [atoms, 3] in radians (Rodrigues)."""
    size = (angle.square().sum(dim=1, keepdim=True) + 1e-24).sqrt()
    axis = angle / size
    along = (axis * vectors).sum(dim=1, keepdim=True) * axis
    across = torch.linalg.cross(axis, vectors)
    return along + (vectors - along) * size.cos() + across * size.sin()


def _shaken(atoms: Atoms) -> Configuration:
    noise = np.random.default_rng(1).normal(scale=_NOISE, size=(len(atoms), 3))
    return Configuration(
        atoms.numbers.astype(np.int64), atoms.positions + noise, atoms.cell.array, np.array(atoms.pbc)
    )
