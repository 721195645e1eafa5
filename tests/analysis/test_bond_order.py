"""Order parameters of perfect crystals, published values; other cells against freud and scipy."""

import numpy as np
import pytest
from ase.build import bulk

from msmlff.analysis.bond_order import bond_order, harmonics, solid_angle_neighbours
from msmlff.analysis.pairs import find_pairs
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError

# Mickel, Kapfer, Schröder-Turk, Mecke, J. Chem. Phys. 138, 044501 (2013), table I (q) and
# Steinhardt, Nelson, Ronchetti 1983 (w): neighbours, then q4, q6, w4, w6
PERFECT = {
    "fcc": (12, 0.19094, 0.57452, -0.15932, -0.01316),
    "hcp": (12, 0.09722, 0.48476, 0.13410, -0.01244),
    "bcc": (14, 0.03637, 0.51069, 0.15932, 0.01316),
    "sc": (6, 0.76376, 0.35355, 0.15932, 0.01316),
}


def crystal(name: str, repeat: int = 1) -> Configuration:
    covera = {"covera": np.sqrt(8 / 3)} if name == "hcp" else {}
    atoms = bulk("Ni", name, 3.0, **covera).repeat(repeat)
    return Configuration(atoms.numbers, atoms.positions, np.array(atoms.cell), np.ones(3, bool))


# averaged, hcp has other numbers: its two sublattices point in different directions
@pytest.mark.parametrize(
    ("name", "averaged"), [(name, a) for name in PERFECT for a in (False, True) if (name, a) != ("hcp", True)]
)
def test_perfect_crystals(name, averaged):
    nearest, q4, q6, w4, w6 = PERFECT[name]
    frame = crystal(name)
    (four,) = bond_order([frame], 4, nearest=nearest, averaged=averaged)
    (six,) = bond_order([frame], 6, nearest=nearest, averaged=averaged)
    assert four.q == pytest.approx(q4, abs=2e-5)
    assert six.q == pytest.approx(q6, abs=2e-5)
    assert four.w == pytest.approx(w4, abs=2e-5)
    assert six.w == pytest.approx(w6, abs=2e-5)
    if name != "hcp":
        assert six.global_q == pytest.approx(q6, abs=2e-5)


@pytest.mark.parametrize("name", ["fcc", "hcp", "bcc"])
@pytest.mark.parametrize("nearest", [None, 12])
@pytest.mark.parametrize("seed", [0, 1])
def test_one_rule_gives_the_published_values(name, nearest, seed):
    """By solid angle, and by the 12 nearest with ties, which rounding breaks in a rotated bcc cell."""
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    perfect = crystal(name, 3)
    frame = Configuration(perfect.numbers, perfect.positions @ rotation, perfect.cell @ rotation, perfect.pbc)
    _, q4, q6, _, w6 = PERFECT[name]
    (four,) = bond_order([frame], 4, nearest=nearest)
    (six,) = bond_order([frame], 6, nearest=nearest)
    assert four.q == pytest.approx(q4, abs=2e-5)
    assert six.q == pytest.approx(q6, abs=2e-5)
    assert six.w == pytest.approx(w6, abs=2e-5)


def test_solid_angles_of_shaken_crystals_and_of_a_gas():
    """As written out from the definition, atom by atom; a hot crystal keeps its shell."""
    rng = np.random.default_rng(5)
    fcc = crystal("fcc", 4)
    hot = Configuration(fcc.numbers, fcc.positions + 0.1 * rng.normal(size=(64, 3)), fcc.cell, fcc.pbc)
    assert len(solid_angle_neighbours(hot)) / 64 == pytest.approx(12, abs=0.1)
    gas = Configuration(np.full(50, 18), rng.random((50, 3)) * 25, np.eye(3) * 25, np.ones(3, bool))
    for frame in (hot, gas):
        found = solid_angle_neighbours(frame)
        everyone = find_pairs(frame, 20.0)
        for atom in range(len(frame)):
            r = everyone.distance[everyone.receiver == atom]
            m = next(m for m in range(3, len(r)) if r[:m].sum() / (m - 2) <= r[m])
            np.testing.assert_allclose(found.distance[found.receiver == atom], r[:m])


def test_a_cutoff_and_the_nearest_choose_the_same_neighbours():
    frame = crystal("fcc")
    (near,) = bond_order([frame], 6, nearest=12)
    (cut,) = bond_order([frame], 6, cutoff=2.5)
    np.testing.assert_allclose(near.q, cut.q)


def test_order_does_not_depend_on_orientation():
    rng = np.random.default_rng(1)
    frame = crystal("fcc", 3)
    shaken = frame.positions + 0.15 * rng.normal(size=frame.positions.shape)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    one = Configuration(frame.numbers, shaken, frame.cell, frame.pbc)
    other = Configuration(frame.numbers, shaken @ rotation.T, frame.cell @ rotation.T, frame.pbc)
    for averaged in (False, True):
        a, b = bond_order([one, other], 6, nearest=12, averaged=averaged)
        np.testing.assert_allclose(a.q, b.q, rtol=1e-9)
        np.testing.assert_allclose(a.w, b.w, atol=1e-9)
        assert a.global_q == pytest.approx(b.global_q)


def test_an_ideal_gas_has_little_global_order():
    rng = np.random.default_rng(2)
    frame = Configuration(np.full(500, 18), rng.random((500, 3)) * 20, np.eye(3) * 20, np.ones(3, bool))
    (order,) = bond_order([frame], 6, nearest=12)
    assert order.global_q < 3 / np.sqrt(500 * 12)
    assert 0.2 < order.q.mean() < 0.45


@pytest.mark.parametrize("averaged", [False, True])
def test_as_freud_has_them(averaged):
    freud = pytest.importorskip("freud", reason="freud-analysis is not installed")
    rng = np.random.default_rng(3)
    positions = rng.random((200, 3)) * 12
    frame = Configuration(np.full(200, 18), positions, np.eye(3) * 12, np.ones(3, bool))
    for degree in (4, 6):
        (ours,) = bond_order([frame], degree, nearest=12, averaged=averaged)
        system = (freud.box.Box.cube(12), positions - 6)
        oracle = freud.order.Steinhardt(degree, average=averaged)
        oracle.compute(system, neighbors={"num_neighbors": 12})
        np.testing.assert_allclose(ours.q, oracle.particle_order, atol=2e-5)
        oracle = freud.order.Steinhardt(degree, average=averaged, wl=True, wl_normalize=True)
        oracle.compute(system, neighbors={"num_neighbors": 12})
        np.testing.assert_allclose(ours.w, oracle.particle_order, atol=2e-5)


@pytest.mark.parametrize("degree", [1, 3, 6, 12])
def test_harmonics_are_those_of_scipy(degree):
    sph_harm_y = pytest.importorskip("scipy", minversion="1.15").special.sph_harm_y
    rng = np.random.default_rng(4)
    unit = rng.normal(size=(50, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    unit = np.vstack([unit, [[0, 0, 1], [0, 0, -1], [1, 0, 0]]])
    theta, phi = np.arccos(unit[:, 2]), np.arctan2(unit[:, 1], unit[:, 0])
    expected = np.stack([sph_harm_y(degree, m, theta, phi) for m in range(-degree, degree + 1)], axis=1)
    np.testing.assert_allclose(harmonics(unit, degree), expected, atol=1e-12)


def test_bad_input():
    frame = crystal("fcc")
    with pytest.raises(InputError, match="or neither"):
        bond_order([frame], 6, cutoff=3.0, nearest=12)
    with pytest.raises(InputError, match="degree is 0"):
        bond_order([frame], 0, nearest=12)
    molecule = Configuration(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 0.7]]), source="m.xyz:0")
    with pytest.raises(InputError, match=r"m\.xyz:0 has 2 atoms"):
        bond_order([molecule], 6, nearest=12)
    with pytest.raises(InputError, match=r"m\.xyz:0 has 2 atoms"):
        bond_order([molecule], 6)
    (alone,) = bond_order([molecule], 6, cutoff=0.5)
    assert np.isnan(alone.q).all()
