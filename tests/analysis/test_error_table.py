"""The error table against scikit-learn and plain numpy, and the file of predictions."""

import dataclasses
import json

import numpy as np
import pytest
from ase.units import GPa
from fake_run import DENSITIES, fake_predictions
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from sklearn.metrics.pairwise import paired_cosine_distances

from msmlff.analysis.errors import Predictions, error_table, parity_pairs, save_error_table, sort_groups
from msmlff.errors import InputError


def test_overall_errors_are_those_of_scikit_learn():
    p = fake_predictions()
    overall = error_table(p)["overall"]
    n = p.num_atoms
    for name, label, predicted, factor in (
        ("energy", p.energy_label / n, p.energy / n, 1e3),
        ("force", p.forces_label.ravel(), p.forces.ravel(), 1e3),
        ("stress", p.stress_label.ravel(), p.stress.ravel(), 1e3),
        ("pressure", *(-np.trace(s, axis1=1, axis2=2) / 3 / GPa for s in (p.stress_label, p.stress)), 1.0),
    ):
        assert overall[f"{name}_mae"] == pytest.approx(factor * mean_absolute_error(label, predicted))
        assert overall[f"{name}_rmse"] == pytest.approx(factor * root_mean_squared_error(label, predicted))
    rms = 1e3 * np.sqrt(np.mean(p.forces_label**2))
    assert overall["force_rms"] == pytest.approx(rms)
    assert overall["force_rmse_percent"] == pytest.approx(100 * overall["force_rmse"] / rms)
    cosine = 1 - paired_cosine_distances(p.forces_label, p.forces).mean()
    assert overall["force_cosine"] == pytest.approx(cosine)


def test_trivial_predictor_is_a_fit_of_energies_to_compositions():
    rng = np.random.default_rng(1)
    p = fake_predictions(groups=["a"], per_group=30, atoms=12)
    numbers = rng.choice([1, 6, 8], size=len(p.numbers))
    p = dataclasses.replace(p, numbers=numbers)
    trivial = error_table(p)["overall"]["trivial"]
    shares = np.array([[(frame == z).mean() for z in (1, 6, 8)] for frame in numbers.reshape(30, 12)])
    target = p.energy_label / p.num_atoms
    fitted = LinearRegression(fit_intercept=False).fit(shares, target).predict(shares)
    assert trivial["energy_rmse"] == pytest.approx(1e3 * root_mean_squared_error(target, fitted))
    zero = np.zeros_like(p.forces_label)
    assert trivial["force_mae"] == pytest.approx(1e3 * mean_absolute_error(p.forces_label, zero))
    spread = p.stress_label.reshape(30, 9).std(axis=0)
    assert trivial["stress_rmse"] == pytest.approx(1e3 * np.sqrt(np.mean(spread**2)))


def test_slices_agree_with_tables_of_their_frames():
    p = fake_predictions(per_group=3)
    table = error_table(p)
    assert list(table["by_group"]) == DENSITIES
    members = np.flatnonzero(p.group == "1.10")
    own = table["by_group"]["1.10"]
    errors = (p.energy - p.energy_label)[members] / p.num_atoms[members]
    assert own["frames"] == 3
    assert own["energy_mae"] == pytest.approx(1e3 * np.abs(errors).mean())
    atoms = np.isin(p.frame_of_atom, members)
    label, predicted = p.forces_label[atoms].ravel(), p.forces[atoms].ravel()
    assert own["force_rmse"] == pytest.approx(1e3 * root_mean_squared_error(label, predicted))
    squares = sum(g["frames"] * g["energy_rmse"] ** 2 for g in table["by_group"].values())
    assert squares / len(p) == pytest.approx(table["overall"]["energy_rmse"] ** 2)
    assert table["by_element"]["H"]["force_rmse"] == pytest.approx(table["overall"]["force_rmse"])


def test_slices_by_force_size_hold_every_labelled_atom_once():
    p = fake_predictions()
    p.forces_label[5] = np.nan
    rows = error_table(p)["by_force"]
    size = np.linalg.norm(np.delete(p.forces_label, 5, axis=0), axis=1)
    assert sum(row["atoms"] for row in rows) == len(size)
    assert rows[-1]["high"] == pytest.approx(size.max())
    smallest = np.sort(size)[: rows[0]["atoms"]]
    assert rows[0]["trivial"]["force_rmse"] == pytest.approx(1e3 * np.sqrt(np.mean(smallest**2) / 3))
    assert rows[0]["atoms"] == pytest.approx(len(size) / 4, abs=1)


def test_unlabelled_parts_do_not_count():
    p = fake_predictions(per_group=2)
    q = fake_predictions(per_group=2)
    for array in (q.energy_label, q.forces_label, q.stress_label):
        array[: len(array) // 2] = np.nan
    half = len(p) // 2
    energy = 1e3 * (p.energy - p.energy_label)[half:] / p.num_atoms[half:]
    overall = error_table(q)["overall"]
    assert overall["energy_mae"] == pytest.approx(np.abs(energy).mean())
    assert overall["force_mae"] == pytest.approx(
        1e3 * np.abs((p.forces - p.forces_label)[half * 24 :]).mean()
    )
    none = error_table(fake_predictions(stress=False))["overall"]
    assert none["stress_rmse"] is None
    assert none["trivial"]["stress_rmse"] is None
    assert none["energy_rmse"] is not None


def test_predictions_that_are_not_finite_are_counted_and_give_no_figure():
    p = fake_predictions(per_group=2)
    p.energy[0] = np.inf
    p.forces[24 * 3] = np.nan
    table = error_table(p)
    assert table["nonfinite_frames"] == 2
    assert table["overall"]["energy_rmse"] is None
    assert table["overall"]["force_rmse"] is None
    assert table["by_group"]["1.41"]["force_rmse"] is not None


def test_one_frame_is_compared_with_its_e0s():
    p = fake_predictions(groups=[""], per_group=1)
    table = error_table(p)
    expected = 1e3 * abs(p.e0_energy[0] - p.energy_label[0]) / p.num_atoms[0]
    assert table["overall"]["trivial"]["energy_rmse"] == pytest.approx(expected)
    assert table["overall"]["trivial"]["stress_rmse"] is None
    assert table["by_group"] == {}


def test_table_is_strict_json(tmp_path):
    table = error_table(fake_predictions(stress=False, per_group=1))
    save_error_table(table, tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text()) == json.loads(json.dumps(table))


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (["10", "9.5", "-1", "9.5"], ["-1", "9.5", "10"]),
        (["run10", "run9", "liquid"], ["liquid", "run9", "run10"]),
        (["", "b", "2"], ["", "2", "b"]),
    ],
)
def test_order_of_groups(groups, expected):
    assert sort_groups(groups) == expected


def test_predictions_survive_their_file(tmp_path):
    p = fake_predictions(stress=False)
    p.save(tmp_path / "p.npz")
    q = Predictions.load(tmp_path / "p.npz")
    for field in dataclasses.fields(p):
        np.testing.assert_array_equal(getattr(p, field.name), getattr(q, field.name))
    assert [f.name for f in tmp_path.iterdir()] == ["p.npz"]


def test_bad_files_of_predictions_are_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.npz: no such file"):
        Predictions.load(tmp_path / "absent.npz")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(InputError, match=r"torn\.npz"):
        Predictions.load(tmp_path / "torn.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="frame_id"):
        Predictions.load(tmp_path / "other.npz")


def test_arrays_of_another_length_are_refused():
    p = fake_predictions()
    with pytest.raises(InputError, match="forces has shape"):
        dataclasses.replace(p, forces=p.forces[:-1])


def test_parity_pairs_hold_pressures_of_the_right_sign():
    p = fake_predictions()
    label, _ = parity_pairs(p)["pressure"]
    assert label[0] == pytest.approx(-p.stress_label[0].trace() / 3 * 160.2176634, rel=1e-6)
    assert label[0] > 0
