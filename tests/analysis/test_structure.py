"""Pair and angle distributions, coordination and molecular fraction against ASE, freud and closed forms."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.geometry.rdf import get_rdf

from msmlff.analysis.curve import Curve
from msmlff.analysis.pairs import image_radius, min_pair_distance
from msmlff.analysis.structure import (
    adf,
    adfs,
    bonds,
    coordination_numbers,
    element_pairs,
    first_minimum,
    molecular_fraction,
    rdf,
    rdfs,
    running_coordination,
)
from msmlff.analysis.thermodynamics import density
from msmlff.data.configuration import Configuration
from msmlff.data.formats import LabelKeys, read_frames
from msmlff.errors import InputError

SKEWED = np.array([[9.0, 0.0, 0.0], [3.5, 8.0, 0.0], [-2.0, 2.5, 7.5]])


def to_frame(atoms: Atoms, **labels) -> Configuration:
    return Configuration(atoms.numbers, atoms.positions, np.array(atoms.cell), atoms.pbc, **labels)


def salt(seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True).repeat(2)
    atoms.positions += 0.2 * rng.normal(size=atoms.positions.shape)
    return atoms


def gas(seed: int, atoms: int = 200, cell: np.ndarray = SKEWED) -> Configuration:
    rng = np.random.default_rng(seed)
    return to_frame(Atoms(f"H{atoms}", rng.random((atoms, 3)) @ cell, cell=cell, pbc=True))


@pytest.mark.parametrize("pair", [None, (11, 17), (17, 17)])
def test_rdf_is_that_of_ase(pair):
    images = [salt(seed) for seed in range(2)]
    g = rdf([to_frame(a) for a in images], 5.5, 50, pair)
    expected, where = get_rdf(images, 5.5, 50, elements=pair)
    np.testing.assert_allclose(g.x, where)
    np.testing.assert_allclose(g.y, expected, rtol=1e-9)


def test_rdf_is_that_of_freud():
    freud = pytest.importorskip("freud", reason="freud-analysis is not installed")
    cell = 2.0 * SKEWED  # freud counts no image twice: keep to half the cell
    frames = [gas(seed, 300, cell) for seed in range(3)]
    g = rdf(frames, 6.0, 40)
    oracle = freud.density.RDF(bins=40, r_max=6.0, normalization_mode="exact")
    box = freud.box.Box.from_matrix(cell.T)
    for frame in frames:
        oracle.compute((box, box.wrap(frame.positions)), reset=False)
    np.testing.assert_allclose(g.y, np.asarray(oracle.rdf), rtol=0.01, atol=0.01)


def test_rdf_of_an_ideal_gas_is_one_within_its_errors():
    g = rdf([gas(seed) for seed in range(64)], 7.0, 24)  # beyond half of the skewed cell
    outside = np.abs(g.y - (1 - 1 / 200)) / g.error
    assert np.all(outside[2:] < 3.5)
    assert g.error[-1] < 0.01


def test_rdf_counts_images_beyond_half_the_cell():
    small = salt(0)
    g = rdf([to_frame(small)], 9.0, 60)
    large = rdf([to_frame(small.repeat(2))], 9.0, 60)
    np.testing.assert_allclose(g.y, large.y, rtol=1e-9)


def test_partial_functions_make_up_the_total():
    frames = [to_frame(salt(seed)) for seed in range(2)]
    pairs = element_pairs(frames[0].numbers)
    assert pairs == [(11, 11), (11, 17), (17, 17)]
    g = rdfs(frames, 5.0, 30, [None, *pairs])
    mixed = 0.25 * g[11, 11].y + 0.5 * g[11, 17].y + 0.25 * g[17, 17].y
    np.testing.assert_allclose(mixed, g[None].y, rtol=1e-9)


def test_rdf_refuses_what_it_cannot_normalise():
    molecule = to_frame(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]), source="a.xyz:3")
    with pytest.raises(InputError, match=r"a\.xyz:3"):
        rdf([molecule], 3.0, 10)
    with pytest.raises(InputError, match="pair"):
        rdf([to_frame(salt(0))], 3.0, 10, pair=(11, 79))
    with pytest.raises(InputError, match="no frames"):
        rdf([], 3.0, 10)
    with pytest.raises(InputError, match="r_max"):
        rdf([to_frame(salt(0))], 0.0, 10)


def test_running_coordination_counts_the_shells_of_fcc():
    nickel = to_frame(bulk("Ni", "fcc", 3.52))
    g = rdf([nickel], 4.0, 80)
    n = running_coordination(g, 1 / nickel.volume)
    assert n[np.searchsorted(g.x, 3.0)] == pytest.approx(12)
    assert n[-1] == pytest.approx(18)


def test_first_minimum_of_a_hot_crystal_parts_its_shells():
    rng = np.random.default_rng(0)
    atoms = bulk("Ni", "fcc", 3.52, cubic=True).repeat(3)
    frames = []
    for _ in range(5):
        hot = atoms.copy()
        hot.positions += 0.1 * rng.normal(size=hot.positions.shape)
        frames.append(to_frame(hot))
    edge = first_minimum(rdf(frames, 6.0, 120))
    assert 2.75 < edge < 3.35  # between 3.52/√2 = 2.49 and 3.52 Å
    counts = np.concatenate(coordination_numbers(frames, edge))
    assert counts.mean() == pytest.approx(12, abs=0.1)


def molecules(seed: int, spread: float = 0.03) -> Configuration:
    """64 molecules of hydrogen, bonds of 0.74 Å, their middles on a shaken lattice of 2 Å: a fluid."""
    rng = np.random.default_rng(seed)
    middle = 2.0 * np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3)
    middle = middle + 0.25 * rng.normal(size=(64, 3))
    bond = rng.normal(size=(64, 3))
    bond *= (0.74 + spread * rng.normal(size=(64, 1))) / np.linalg.norm(bond, axis=1, keepdims=True)
    positions = np.concatenate([middle - 0.5 * bond, middle + 0.5 * bond])
    return to_frame(Atoms("H128", positions, cell=[8, 8, 8], pbc=True))


@pytest.mark.parametrize(("count", "spread"), [(1, 0.03), (3, 0.06), (40, 0.06)])
def test_first_minimum_ends_the_bond_of_a_molecule(count, spread):
    frames = [molecules(seed, spread) for seed in range(count)]
    edge = first_minimum(rdf(frames, 6.0, 200))
    assert 0.85 < edge < 1.1
    assert np.concatenate(coordination_numbers(frames, edge)).mean() == pytest.approx(1.0, abs=0.1)


def liquid(seed: int, count: int, bins: int) -> tuple[Curve, np.ndarray]:
    """g of a simple liquid (peaks at 2.8, 5.2 Å), counted with Poisson noise in ``count`` frames of 108 atoms
    at 0.05 atoms/Å³; and g itself."""
    rng = np.random.default_rng(seed)
    edges = np.linspace(0, 6.0, bins + 1)
    x = 0.5 * (edges[1:] + edges[:-1])
    g = 1 / (1 + np.exp(-(x - 2.5) / 0.08)) + 1.6 * np.exp(-0.5 * ((x - 2.75) / 0.25) ** 2)
    g += 0.25 * np.exp(-0.5 * ((x - 5.2) / 0.5) ** 2) - 0.45 * np.exp(-0.5 * ((x - 3.9) / 0.5) ** 2)
    g = np.maximum(g, 0.0)
    ideal = 0.5 * 108 * 0.05 * 4 / 3 * np.pi * np.diff(edges**3)
    each = rng.poisson(g * ideal, size=(count, bins)) / ideal
    error = each.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.sqrt(each[0] / ideal)
    return Curve(x, each.mean(axis=0), error), g


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("bins", [100, 300])
def test_first_minimum_of_a_liquid_is_not_that_of_its_noise(count, bins):
    for seed in range(20):
        g, true = liquid(seed, count, bins)
        behind = np.flatnonzero(g.x > 3.0)
        expected = g.x[behind[np.argmin(true[behind])]]
        assert first_minimum(g) == pytest.approx(expected, abs=0.2 if count == 100 else 0.45)


def test_errors_of_the_g_of_one_frame_are_those_of_its_counts():
    each = np.stack([rdf([gas(seed)], 7.0, 24).y for seed in range(60)])
    assert rdf([gas(0)], 7.0, 24).error[4:] == pytest.approx(each.std(axis=0)[4:], rel=0.35)


def test_coordination_numbers_of_a_pair():
    frame = to_frame(bulk("NaCl", "rocksalt", 5.64, cubic=True))
    (sodium,) = coordination_numbers([frame], 3.0, (11, 17))
    assert sodium.tolist() == [6] * 4
    (same,) = coordination_numbers([frame], 4.0, (11, 11))
    assert same.tolist() == [12] * 4
    (everything,) = coordination_numbers([frame], 4.0)
    assert everything.tolist() == [18] * 8


def test_bonds_follow_the_covalent_radii():
    water = to_frame(Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))
    found = bonds(water)
    assert sorted(zip(found.receiver.tolist(), found.sender.tolist(), strict=True)) == [
        (0, 1), (0, 2), (1, 0), (2, 0),
    ]  # fmt: skip


def test_angles_of_water_and_of_crystals():
    angle = np.radians(104.5)
    water = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [0.96 * np.cos(angle), 0.96 * np.sin(angle), 0]])
    found = adf([to_frame(water)], bins=180)
    assert found.x[np.argmax(found.y)] == 104.5
    assert found.y.sum() * 1.0 == pytest.approx(1.0)
    # of the 66 angles between the 12 neighbours in fcc: 24 of 60, 12 of 90, 24 of 120, 6 of 180 degrees
    nickel = adf([to_frame(bulk("Ni", "fcc", 3.52))], bins=18, cutoff=3.0)
    shares = dict(zip(nickel.x, nickel.y * 10 * 66, strict=True))
    assert shares[55.0] + shares[65.0] == pytest.approx(24)
    assert shares[85.0] + shares[95.0] == pytest.approx(12)
    assert shares[115.0] + shares[125.0] == pytest.approx(24)
    assert shares[175.0] == pytest.approx(6)


def test_angles_of_a_triple():
    frame = to_frame(bulk("NaCl", "rocksalt", 5.64, cubic=True))
    octahedral = adf([frame], bins=18, cutoff=3.0, triple=(17, 11, 17))
    both = adf([frame], bins=18, cutoff=3.0)
    np.testing.assert_allclose(octahedral.y, both.y)  # chlorine's surroundings are the same
    with pytest.raises(InputError, match="two bonds"):
        adf([frame], cutoff=3.0, triple=(11, 11, 11))


def test_angles_of_all_triples_make_up_the_total():
    water = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    alcohol = molecule("CH3OH")
    frames = [to_frame(alcohol), to_frame(alcohol)]
    curves, angles = adfs(frames)
    # at carbon 3 H-C-H and 3 H-C-O, at oxygen C-O-H
    assert angles == {None: 7, (1, 6, 1): 3, (1, 6, 8): 3, (1, 8, 6): 1}
    assert list(curves) == list(angles)
    parts = sum(angles[triple] * curves[triple].y for triple in angles if triple is not None)
    np.testing.assert_allclose(parts, 7 * curves[None].y)
    np.testing.assert_allclose(adf(frames, triple=(6, 8, 1)).y, curves[1, 8, 6].y)
    assert adfs([to_frame(water[:2])]) == ({}, {})


def test_molecular_fraction_of_molecules_atoms_and_chains():
    def line(spacings):
        z = np.concatenate([[0.0], np.cumsum(spacings)])
        return to_frame(Atoms(f"H{len(z)}", np.column_stack([0 * z, 0 * z, z])))

    molecules, atoms, chain = line([0.74, 2.0, 0.74, 2.0, 0.74]), line([2.0] * 5), line([0.74] * 30)
    # a Gaussian of 0.08 leaves erf(0.2 / (0.08 sqrt 2)) of a coordination number of 1
    assert molecular_fraction([molecules, atoms]) == pytest.approx([0.98758, 0.0], abs=1e-5)
    assert molecular_fraction([chain])[0] == pytest.approx(2 * 0.98758 / 31, abs=1e-3)
    # s(0.95) = 1/2, midway through the switch
    assert molecular_fraction([line([0.95])])[0] == pytest.approx(0.5 * (1 - 0.999823), abs=1e-4)


def test_molecular_fraction_of_pbe_hydrogen(reference_data):
    """The cooler part of each PBE trajectory (its first 20 frames) against figures known for such frames."""
    by_density: dict[float, list[tuple[int, Configuration]]] = {}
    file = reference_data / "dense_hydrogen_pbe" / "pool_575.extxyz.gz"
    for frame in read_frames(file, LabelKeys(group="density_g_cm3")):
        by_density.setdefault(float(frame.group), []).append((int(frame.info["source_index"]), frame))
    fraction = {}
    for rho, frames in by_density.items():
        cool = [frame for _, frame in sorted(frames, key=lambda item: item[0])[:20]]
        assert density(cool) == pytest.approx(rho, rel=2e-3)
        fraction[rho] = molecular_fraction(cool).mean()
    low, high = 0.65, 0.77
    dilute = [f for rho, f in fraction.items() if low < rho < high]
    assert np.mean(dilute) == pytest.approx(1.0, abs=0.05)
    assert fraction[0.8318] == pytest.approx(0.85, abs=0.03)
    assert np.mean([fraction[0.903], fraction[0.9417]]) == pytest.approx(0.59, abs=0.08)
    assert fraction[1.026] == pytest.approx(0.40, abs=0.05)


def test_shortest_distance():
    lone = to_frame(Atoms("H", [[0, 0, 0]]))
    crystal = to_frame(bulk("Ni", "fcc", 3.52))
    apart = to_frame(Atoms("H2", [[0, 0, 0], [0, 0, 40.0]]))
    found = min_pair_distance([lone, crystal, apart])
    assert found[0] == np.inf
    assert found[1:] == pytest.approx([3.52 / np.sqrt(2), 40.0])


def test_image_radius_is_that_of_the_reduced_cell():
    cube = np.eye(3) * 6.0
    sheared = np.array([[1, 0, 0], [3, 1, 0], [-2, 5, 1]]) @ cube  # the same lattice
    frames = [to_frame(Atoms("H", cell=cell, pbc=True)) for cell in (cube, sheared)]
    assert image_radius(frames[1:]) == pytest.approx(3.0)
    assert image_radius([to_frame(Atoms("H"))]) == np.inf
