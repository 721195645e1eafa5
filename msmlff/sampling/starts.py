"""Starting configurations: molecular lattices and random packings in a cubic periodic cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from scipy.spatial import cKDTree

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError

AMU_PER_ANGSTROM3 = 0.602214076  # amu/Å³ of 1 g/cm³


def cubic_cell(numbers: np.ndarray, density: float) -> np.ndarray:
    """[3, 3] Å, the cube in which atoms ``numbers`` have ``density`` g/cm³."""
    if density <= 0:
        raise InputError(f"density {density} g/cm³ must be positive")
    length = (atomic_masses[numbers].sum() / (AMU_PER_ANGSTROM3 * density)) ** (1 / 3)
    return np.eye(3) * length


def random_directions(count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 3] unit vectors, uniform on the sphere."""
    vectors = rng.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def lattice_sites(count: int) -> np.ndarray:
    """[count, 3] fractional sites of a cubic lattice.

    Simple cubic, bcc or fcc, whichever holds exactly ``count``; else the smallest fcc supercell, thinned out.
    """
    bases: dict[str, list[list[float]]] = {
        "sc": [[0, 0, 0]],
        "bcc": [[0, 0, 0], [0.5, 0.5, 0.5]],
        "fcc": [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
    }

    def sites(basis: Sequence[Sequence[float]], repeats: int) -> np.ndarray:
        grid = np.stack(np.meshgrid(*[np.arange(repeats)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
        return ((grid + np.asarray(basis)) / repeats).reshape(-1, 3)

    for basis in bases.values():
        repeats = round((count / len(basis)) ** (1 / 3))
        if repeats >= 1 and len(basis) * repeats**3 == count:
            return sites(basis, repeats)
    repeats = int(np.ceil((count / 4) ** (1 / 3)))
    full = sites(bases["fcc"], repeats)
    return full[np.linspace(0, len(full) - 1, count).round().astype(int)]


def molecular_lattice(
    element: str,
    molecules: int,
    density: float,
    *,
    bond_length: float,
    seed: int,
    bond_spread: float = 0.0,
    displacement: float = 0.0,
) -> Configuration:
    """Diatomic molecules on a lattice, randomly oriented and perturbed.

    Args:
        element: symbol of both atoms of the molecule.
        molecules: number of molecules; the cubic cell holds them on a sc, bcc or fcc lattice.
        density: g/cm³.
        bond_length: Å, mean.
        seed: of the orientations and perturbations.
        bond_spread: standard deviation of the bond length, Å.
        displacement: standard deviation of each atom's displacement per component, Å.

    Returns:
        An unlabelled periodic Configuration of 2 * ``molecules`` atoms; bonded atoms are neighbours in the
        list.
    """
    rng = np.random.default_rng(seed)
    numbers = np.full(2 * molecules, atomic_numbers[element], dtype=np.int64)
    cell = cubic_cell(numbers, density)
    centres = lattice_sites(molecules) @ cell + rng.random(3) @ cell
    lengths = bond_length + bond_spread * rng.normal(size=(molecules, 1))
    half = 0.5 * lengths * random_directions(molecules, rng)
    positions = np.stack([centres - half, centres + half], axis=1).reshape(-1, 3)
    positions += displacement * rng.normal(size=positions.shape)
    return Configuration(numbers, positions, cell, np.ones(3, dtype=bool))


def separate(
    positions: np.ndarray, length: float, min_distance: float, max_steps: int = 2000
) -> np.ndarray | None:
    """Push pairs closer than ``min_distance`` apart until none is left, in a cube of edge ``length`` Å.

    Each close pair moves apart by its overlap (a little more, so that the sequence ends). Returns wrapped
    positions [atoms, 3], or None where ``max_steps`` sweeps do not suffice.
    """
    wrapped = positions % length
    for _ in range(max_steps):
        pairs = cKDTree(wrapped, boxsize=length).query_pairs(min_distance, output_type="ndarray")
        if len(pairs) == 0:
            return wrapped
        vectors = wrapped[pairs[:, 0]] - wrapped[pairs[:, 1]]
        vectors -= length * np.round(vectors / length)
        distances = np.linalg.norm(vectors, axis=1, keepdims=True)
        push = 0.5 * (1.02 * min_distance - distances) * vectors / np.maximum(distances, 1e-9)
        np.add.at(wrapped, pairs[:, 0], push)
        np.subtract.at(wrapped, pairs[:, 1], push)
        wrapped %= length
    return None


def random_packing(
    symbols: Sequence[str], density: float, *, min_distance: float, seed: int
) -> Configuration:
    """Atoms at random in a cube, overlaps pushed apart until no pair is closer than ``min_distance`` Å.

    Raises:
        InputError: the packing cannot be reached at this density.
    """
    rng = np.random.default_rng(seed)
    numbers = np.array([atomic_numbers[symbol] for symbol in symbols], dtype=np.int64)
    cell = cubic_cell(numbers, density)
    length = float(cell[0, 0])
    positions = separate(rng.random((len(numbers), 3)) * length, length, min_distance)
    if positions is None:
        raise InputError(
            f"{len(numbers)} atoms at {density:g} g/cm³ cannot be packed with min_distance="
            f"{min_distance:g} Å; write a smaller one"
        )
    return Configuration(numbers, positions, cell, np.ones(3, dtype=bool))
