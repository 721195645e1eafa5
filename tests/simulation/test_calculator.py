"""The ASE calculator: units, signs and atomic energies of a real model; committees; what it refuses."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import LBFGS
from toys import Pairs, Toy

from msmlff.data.batch import Batch
from msmlff.errors import DivergenceError, InputError
from msmlff.models import MACE, MACEArchitecture
from msmlff.models.backend import Choice
from msmlff.models.files import save_model
from msmlff.nn.ops import backends
from msmlff.sampling import random_packing
from msmlff.simulation import MSMLFFCalculator


def make_model(seed: int = 0, **changes: Any) -> MACE:
    torch.manual_seed(seed)
    settings = {"cutoff": 2.5, "channels": 4, "l_max": 2, "correlation": 2, "layers": 2, **changes}
    return MACE([1, 8], [-1.0, -2.0], MACEArchitecture(**settings)).double().eval()


@pytest.fixture(scope="module")
def model() -> MACE:
    return make_model()


def oxide(seed: int = 1) -> Atoms:
    """Twelve atoms in a periodic box."""
    return random_packing(["H"] * 8 + ["O"] * 4, 1.2, min_distance=1.0, seed=seed).to_ase()


def gas() -> Atoms:
    atoms = random_packing(["H"] * 3, 0.5, min_distance=1.0, seed=1).to_ase()
    atoms.set_cell(None)
    atoms.pbc = False
    return atoms


def test_derivatives_are_those_of_the_energy(model: MACE) -> None:
    atoms = oxide()
    atoms.calc = MSMLFFCalculator(model)
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-5)
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())


def test_a_molecule_has_no_stress_and_the_next_geometry_counts(model: MACE) -> None:
    atoms = gas()
    atoms.calc = MSMLFFCalculator(model)
    before = atoms.get_potential_energy()
    assert "stress" not in atoms.calc.results
    atoms.positions[0] += 0.1
    assert atoms.get_potential_energy() != before


# the neighbour list


def walk(atoms: Atoms, steps: int, seed: int = 0) -> list[Atoms]:
    """Structures one after another: atoms drift, some jump by lattice vectors, the cell changes."""
    rng, found = np.random.default_rng(seed), []
    atoms = atoms.copy()
    for step in range(steps):
        atoms.positions += 0.06 * rng.normal(size=atoms.positions.shape)
        if step % 3 == 1:
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.01 * rng.normal(size=(3, 3))), scale_atoms=True)
        if step % 5 == 4:
            atoms.positions += rng.integers(-2, 3, size=(len(atoms), 3)) @ atoms.cell.array * atoms.pbc
        found.append(atoms.copy())
    return found


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, False)])
def test_a_reused_list_gives_the_same_bits(model: MACE, pbc: tuple[bool, bool, bool]) -> None:
    start = oxide()
    start.set_cell(np.diag(start.cell.lengths()), scale_atoms=True)
    start.pbc = pbc
    reusing, searching = MSMLFFCalculator(model, skin=1.5), MSMLFFCalculator(model, skin=0.0)
    structures = walk(start, 25)
    for atoms in structures:
        for calculator in (reusing, searching):
            calculator.calculate(atoms, ["energy"])
        assert reusing.results.keys() == searching.results.keys()
        for name, value in reusing.results.items():
            np.testing.assert_array_equal(value, searching.results[name], err_msg=name)
    assert searching.edges.searches == len(structures)
    assert 1 < reusing.edges.searches < len(structures) - 5


def test_ties_of_length_do_not_spoil_the_bits() -> None:
    """A perfect crystal, all of whose shells are ties, strained without and with a new search."""
    model = make_model(cutoff=3.0)
    atoms = bulk("O", "fcc", a=3.0, cubic=True)
    reusing, searching = MSMLFFCalculator(model, skin=0.5), MSMLFFCalculator(model, skin=0.0)
    for scale in (1.0, 0.99, 0.97, 0.95):
        strained = atoms.copy()
        strained.set_cell(atoms.cell * scale, scale_atoms=True)
        forces = []
        for calculator in (reusing, searching):
            strained.calc = calculator
            forces.append(strained.get_forces())
        np.testing.assert_array_equal(*forces)
    assert reusing.edges.searches == 1


def test_a_strain_that_brings_pairs_in_is_noticed() -> None:
    """Atoms at fixed fractions of a cell that shrinks: none moves beside the strain, all come closer."""
    calculator = MSMLFFCalculator(Pairs(cutoff=2.0), skin=0.2)
    atoms = Atoms("H", cell=np.eye(3) * 2.3, pbc=True, calculator=calculator)
    assert atoms.get_potential_energy() == 0.0
    atoms.set_cell(np.eye(3) * 2.25, scale_atoms=True)  # images now at 2.25 Å, beyond 2.2
    assert atoms.get_potential_energy() == 0.0
    atoms.set_cell(np.eye(3) * 1.9, scale_atoms=True)
    pair = 4.0 * (1 - 1.9 / 2.0) ** 2
    assert atoms.get_potential_energy() == pytest.approx(3 * pair)
    atoms.set_cell(np.diag([1.9, 2.3, 2.3]), scale_atoms=True)
    assert atoms.get_potential_energy() == pytest.approx(pair)


def test_the_list_is_not_searched_for_small_moves(model: MACE) -> None:
    atoms = oxide()
    calculator = MSMLFFCalculator(model, skin=1.0)
    atoms.calc = calculator
    atoms.get_forces()
    atoms.positions[0, 0] += 0.49
    atoms.get_forces()
    assert calculator.edges.searches == 1
    atoms.positions[0, 0] += 0.02
    atoms.get_forces()
    assert calculator.edges.searches == 2


def test_one_calculator_serves_other_atoms(model: MACE) -> None:
    calculator = MSMLFFCalculator(model)
    small, large = gas(), oxide()
    other = oxide()
    other.numbers = other.numbers[::-1].copy()
    found = []
    for atoms in (large, small, other, large):
        atoms.calc = calculator
        found.append(atoms.get_potential_energy())
    assert found[0] == found[3]
    expected = [MSMLFFCalculator(model).get_potential_energy(a) for a in (large, small, other, large)]
    assert found == expected
    assert found[2] != found[0]


# ASE's own machinery


def test_dynamics_conserves_energy_with_and_without_the_skin(model: MACE) -> None:
    ends = []
    for skin in (0.0, 1.0):
        atoms = oxide(3)
        atoms.calc = MSMLFFCalculator(model, skin=skin)
        potential, total = atoms.get_potential_energy(), atoms.get_total_energy()
        VelocityVerlet(atoms, 0.1 * units.fs).run(80)
        exchanged = potential - atoms.get_potential_energy()
        assert exchanged > 0.1
        assert atoms.get_total_energy() == pytest.approx(total, abs=5e-3 * exchanged)
        ends.append(atoms.positions.copy())
    np.testing.assert_array_equal(*ends)


def test_optimisers_relax_positions_and_cell(model: MACE) -> None:
    atoms = oxide()
    atoms.calc = MSMLFFCalculator(model)
    before = atoms.get_potential_energy()
    LBFGS(FrechetCellFilter(atoms), logfile=None).run(steps=5)
    assert atoms.get_potential_energy() < before


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_calculate_alike(model: MACE, duplicate: Any) -> None:
    calculator = MSMLFFCalculator([model, make_model(1)], skin=0.7)
    atoms = oxide()
    atoms.calc = calculator
    forces = atoms.get_forces()
    twin = duplicate(calculator)
    atoms.positions += 0.01
    atoms.calc = twin
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-12)
    assert twin.edges.searches == 1


def test_results_can_be_written_and_read(model: MACE, tmp_path: Path) -> None:
    for models in (model, [model, make_model(1)]):
        atoms = oxide()
        atoms.calc = MSMLFFCalculator(models, note_deviations=True)
        energy = atoms.get_potential_energy()
        assert atoms.get_properties(["energy", "forces"])["energy"] == energy
        for name in ("a.extxyz", "a.traj"):
            write(tmp_path / name, atoms)
            again = read(tmp_path / name)
            assert again.get_potential_energy() == pytest.approx(energy)
    assert read(tmp_path / "a.extxyz").info["energy_std"] == pytest.approx(atoms.calc.results["energy_std"])


# models: files, types, committees


def save(model: MACE, folder: Path) -> Path:
    folder.mkdir()
    return save_model(model, folder / "model.safetensors", {})


def test_a_run_folder_a_file_and_a_model_are_one(model: MACE, tmp_path: Path) -> None:
    file = save(model, tmp_path / "run")
    atoms = oxide()
    expected = MSMLFFCalculator(model).get_potential_energy(atoms)
    for given in (file, str(tmp_path / "run"), [tmp_path / "run"]):
        assert MSMLFFCalculator(given).get_potential_energy(atoms) == expected


def test_the_type_is_a_choice_and_the_given_model_is_left_alone(model: MACE) -> None:
    atoms = oxide()
    double = MSMLFFCalculator(model, dtype="float64")
    single = MSMLFFCalculator(model, dtype="float32")
    assert double.models[0] is model
    assert single.models[0].dtype == torch.float32
    assert model.dtype == torch.float64
    forces = single.get_forces(atoms)
    assert 0 < np.abs(forces - double.get_forces(atoms)).max() < 1e-4


def test_every_backend_gives_the_same_numbers(model: MACE) -> None:
    atoms = oxide()
    expected = MSMLFFCalculator(model, backend="reference").get_forces(atoms)
    for name in backends.available_backends("cpu"):
        calculator = MSMLFFCalculator(model, backend=name)
        np.testing.assert_allclose(calculator.get_forces(atoms), expected, atol=1e-10)


def test_backends_are_measured_again_for_much_larger_frames(
    model: MACE, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def choose(model: MACE, batch: Batch, training: bool) -> Choice:
        measured.append(batch.num_atoms)
        return Choice("torch" if batch.num_atoms == 12 else "reference", {}, {})

    monkeypatch.setattr("msmlff.simulation.calculator.choose_backend", choose)
    calculator = MSMLFFCalculator(model, backend="auto")
    for atoms, expected in (
        (oxide(), "torch"),
        (oxide(2), "torch"),
        (oxide().repeat((3, 3, 1)), "reference"),
    ):
        forces = calculator.get_forces(atoms)
        assert calculator.fastest == expected
        np.testing.assert_allclose(forces, MSMLFFCalculator(model).get_forces(atoms), atol=1e-10)
    assert measured == [12, 108]


def test_a_committee_gives_mean_and_deviation() -> None:
    """Models of other cutoffs and species orders; the deviations by hand."""
    torch.manual_seed(5)
    wider = MACE([1, 6, 8], [-1.5, -9.0, -2.5], MACEArchitecture(cutoff=3.1, channels=4, l_max=1, layers=1))
    members = [make_model(0), make_model(1), wider.double()]
    atoms = oxide()
    committee = MSMLFFCalculator(members)
    committee.calculate(atoms, ["energy"])
    parts = []
    for member in members:
        alone = MSMLFFCalculator(member)
        alone.calculate(atoms, ["energy"])
        parts.append(alone.results)
    found = committee.results
    for name in ("energy", "forces", "stress", "energies"):
        values = np.array([p[name] for p in parts])
        np.testing.assert_allclose(found[name], values.mean(axis=0), rtol=1e-12, err_msg=name)
        if name != "forces":
            np.testing.assert_allclose(found[f"{name}_std"], values.std(axis=0), rtol=1e-9)
    forces = np.array([p["forces"] for p in parts])
    squares = [sum(((f - forces.mean(axis=0)) ** 2)[i].sum() for f in forces) / 3 for i in range(len(atoms))]
    np.testing.assert_allclose(found["forces_std"], np.sqrt(squares))
    assert found["forces_std_max"] == found["forces_std"].max() > 0
    assert committee.get_property("energy_std", atoms) == found["energy_std"]


def test_deviations_are_noted_on_the_atoms(model: MACE) -> None:
    atoms = oxide()
    atoms.calc = MSMLFFCalculator([model, make_model(1)], note_deviations=True)
    atoms.get_forces()
    assert atoms.info["energy_std"] == atoms.calc.results["energy_std"]
    assert atoms.info["forces_std_max"] == atoms.arrays["forces_std"].max()
    quiet = oxide()
    quiet.calc = MSMLFFCalculator([model, make_model(1)])
    quiet.get_forces()
    assert "energy_std" not in quiet.info


# what is refused


def test_a_slab_has_forces_and_no_stress(model: MACE) -> None:
    slab = fcc111("O", (2, 2, 2), a=3.2, vacuum=4.0)
    slab.pbc = (True, True, False)
    slab.calc = MSMLFFCalculator(model)
    slab.rattle(0.05, seed=1)
    np.testing.assert_allclose(slab.get_forces(), calculate_numerical_forces(slab, eps=1e-4), atol=1e-5)
    with pytest.raises(PropertyNotImplementedError, match=r"periodic in all directions.*False"):
        slab.get_stress()
    assert slab.get_potential_energy() < 0


def test_a_single_model_has_no_deviation(model: MACE) -> None:
    with pytest.raises(PropertyNotImplementedError, match="committee"):
        MSMLFFCalculator(model).get_property("energy_std", oxide())


def test_bad_structures_are_named(model: MACE) -> None:
    calculator = MSMLFFCalculator(model)
    with pytest.raises(InputError, match=r"never saw Cu, it knows H, O"):
        calculator.get_potential_energy(bulk("Cu"))
    twice = oxide()
    twice.positions[7] = twice.positions[2] + twice.cell[0]
    with pytest.raises(InputError, match=r"atoms (2 and 7|7 and 2) are \S+ Å apart: they overlap.*relax"):
        calculator.get_potential_energy(twice)
    small = oxide()
    small.set_cell(small.cell * 0.1, scale_atoms=True)
    with pytest.raises(InputError, match=r"12 atoms in a cell of \S+ Å³ would have more than 20000 .* in Å"):
        calculator.get_potential_energy(small)
    lost = oxide()
    lost.positions[3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        calculator.get_potential_energy(lost)
    flat = oxide()
    flat.set_cell(np.diag([4.0, 4.0, 0.0]))
    with pytest.raises(InputError, match="along c"):
        calculator.get_potential_energy(flat)
    with pytest.raises(InputError, match="no atoms"):
        calculator.calculate(Atoms(cell=np.eye(3), pbc=True))
    assert calculator.get_potential_energy(oxide()) < 0


def test_how_close_is_too_close_can_be_said(model: MACE) -> None:
    pair = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.39]])
    with pytest.raises(InputError, match=r"atoms (0 and 1|1 and 0) are 0\.39 Å.*min_distance \(0\.4 Å\)"):
        MSMLFFCalculator(model).get_potential_energy(pair)
    expected = MSMLFFCalculator(model, min_distance=None).get_potential_energy(pair)
    assert MSMLFFCalculator(model, min_distance=0.3).get_potential_energy(pair) == expected
    alone = Atoms("H", cell=[9.0, 9.0, 0.35], pbc=True)
    with pytest.raises(InputError, match=r"atom 0 and its own image are 0\.35 Å apart"):
        MSMLFFCalculator(model).get_potential_energy(alone)


def test_an_energy_that_no_atom_has_is_refused() -> None:
    class Deep(Toy):
        def interaction_energies(self, vectors: torch.Tensor, batch: Batch) -> torch.Tensor:
            return vectors.sum() - 2e6 * (torch.arange(batch.num_atoms, dtype=torch.float64) == 1)

    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.0]])
    calculator = MSMLFFCalculator(Deep())
    with pytest.raises(DivergenceError, match=r"energy of atom 1 is -2e\+06 eV, which no atom has"):
        calculator.get_potential_energy(atoms)
    assert calculator.results == {}


def test_a_misspelt_argument_is_named(model: MACE) -> None:
    for name in ("default_dtype", "skn"):
        with pytest.raises(TypeError, match=name):
            MSMLFFCalculator(model, **{name: 0})


def test_a_model_that_is_not_finite_says_so() -> None:
    class Broken(Toy):
        def interaction_energies(self, vectors: torch.Tensor, batch: Batch) -> torch.Tensor:
            return vectors.sum() * torch.full((batch.num_atoms,), torch.nan, dtype=torch.float64)

    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.0]])
    with pytest.raises(DivergenceError, match="not finite"):
        MSMLFFCalculator(Broken()).get_potential_energy(atoms)


def test_bad_models_and_arguments_are_named(model: MACE, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        MSMLFFCalculator(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty has no model.safetensors"):
        MSMLFFCalculator(tmp_path / "empty")
    (tmp_path / "torn.safetensors").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"torn\.safetensors"):
        MSMLFFCalculator(tmp_path / "torn.safetensors")
    file = save(model, tmp_path / "run")
    torn = file.read_bytes()
    (tmp_path / "short.safetensors").write_bytes(torn[: len(torn) // 2])
    with pytest.raises(InputError, match=r"short\.safetensors"):
        MSMLFFCalculator(tmp_path / "short.safetensors")
    old = torn.replace(b'\\"format_version\\": 3', b'\\"format_version\\": 2')
    assert old != torn
    (tmp_path / "old.safetensors").write_bytes(old)
    with pytest.raises(InputError, match="model format 2"):
        MSMLFFCalculator(tmp_path / "old.safetensors")
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(torn)
    with pytest.raises(InputError, match="same model"):
        MSMLFFCalculator([file, copied])
    with pytest.raises(InputError, match="same model"):
        MSMLFFCalculator([model, model])
    for arguments, words in (
        ({"dtype": "float16"}, "float32 or float64"),
        ({"device": "quantum"}, "cpu, cuda"),
        ({"backend": "fast"}, "none of that name"),
        ({"skin": -0.1}, "0 Å or more"),
        ({"min_distance": float("nan")}, "min_distance is nan"),
    ):
        with pytest.raises(InputError, match=words):
            MSMLFFCalculator(model, **arguments)
    with pytest.raises(InputError, match="needs a model"):
        MSMLFFCalculator([])
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA GPU"):
            MSMLFFCalculator(model, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_same_numbers(model: MACE) -> None:
    atoms = oxide()
    on_gpu = MSMLFFCalculator(model, device="cuda")
    expected = MSMLFFCalculator(model, device="cpu")
    for structure in walk(atoms, 6):
        np.testing.assert_allclose(on_gpu.get_forces(structure), expected.get_forces(structure), atol=1e-9)
    assert on_gpu.edges.searches <= 3
    assert next(model.parameters()).device.type == "cpu"
