"""Structure, density and pressure, against ASE, closed forms and published figures."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.geometry.rdf import get_rdf

from msmlff.analysis.observables import (
    density,
    min_pair_distance,
    molecular_fraction,
    pressure,
    rdf,
    wigner_seitz_radius,
)
from msmlff.data.configuration import Configuration
from msmlff.data.formats import LabelKeys, read_frames
from msmlff.errors import InputError


def to_frame(atoms: Atoms, **labels) -> Configuration:
    return Configuration(atoms.numbers, atoms.positions, np.array(atoms.cell), atoms.pbc, **labels)


def salt(seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True).repeat(2)
    atoms.positions += 0.2 * rng.normal(size=atoms.positions.shape)
    return atoms


@pytest.mark.parametrize("pair", [None, (11, 17), (17, 17)])
def test_rdf_is_that_of_ase(pair):
    images = [salt(seed) for seed in range(2)]
    r, g = rdf([to_frame(a) for a in images], 5.5, 50, pair)
    expected, where = get_rdf(images, 5.5, 50, elements=pair)
    np.testing.assert_allclose(r, where)
    np.testing.assert_allclose(g, expected, rtol=1e-9)


def test_rdf_counts_images_beyond_half_the_cell():
    small = salt(0)
    _, g = rdf([to_frame(small)], 9.0, 60)
    _, large = rdf([to_frame(small.repeat(2))], 9.0, 60)
    np.testing.assert_allclose(g, large, rtol=1e-9)


def test_rdf_refuses_what_it_cannot_normalise():
    molecule = to_frame(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]), source="a.xyz:3")
    with pytest.raises(InputError, match=r"a\.xyz:3"):
        rdf([molecule], 3.0, 10)
    with pytest.raises(InputError, match="pair"):
        rdf([to_frame(salt(0))], 3.0, 10, pair=(11, 79))
    with pytest.raises(InputError, match="no frames"):
        rdf([], 3.0, 10)


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


def test_density_and_radius_of_known_crystals():
    aluminium = to_frame(bulk("Al", "fcc", 4.05, cubic=True))
    assert density([aluminium])[0] == pytest.approx(2.697, abs=2e-3)
    # 128 H atoms at r_s = 1.40 bohr
    side = (128 * 4 / 3 * np.pi * 1.4**3) ** (1 / 3) * 0.529177210903
    hydrogen = to_frame(Atoms("H128", np.zeros((128, 3)), cell=[side] * 3, pbc=True))
    assert wigner_seitz_radius([hydrogen])[0] == pytest.approx(1.4, rel=1e-6)


def test_pressure_from_stress_and_ideal_gas():
    atoms = Atoms("H2", [[0, 0, 0], [1, 1, 1]], cell=[10, 10, 10], pbc=True)
    stress = np.diag([-0.01, -0.02, -0.03])
    frames = [to_frame(atoms, stress=stress), to_frame(atoms)]
    virial = pressure(frames)
    assert virial[0] == pytest.approx(0.02 * 160.2176634, rel=1e-6)
    assert np.isnan(virial[1])
    # 2 k T / V at 1000 K in 1000 Å³: 2 * 1.380649e-20 J / 1e-27 m³
    assert pressure(frames, 1000.0)[0] - virial[0] == pytest.approx(2 * 1.380649e-20 / 1e-27 / 1e9, rel=1e-6)


def test_shortest_distance():
    lone = to_frame(Atoms("H", [[0, 0, 0]]))
    crystal = to_frame(bulk("Ni", "fcc", 3.52))
    apart = to_frame(Atoms("H2", [[0, 0, 0], [0, 0, 40.0]]))
    found = min_pair_distance([lone, crystal, apart])
    assert found[0] == np.inf
    assert found[1:] == pytest.approx([3.52 / np.sqrt(2), 40.0])
