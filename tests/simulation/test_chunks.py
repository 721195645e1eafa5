"""Evaluation piece by piece equals the evaluation of the whole, and its memory is that of a piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from systems import ethanol, make_batch

from msmlff.data.batch import Batch
from msmlff.data.collate import collate, species_of
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.data.neighbors_device import free_pairs
from msmlff.errors import InputError
from msmlff.models import (
    ANI,
    MACE,
    MSMACE,
    ANIArchitecture,
    ForceField,
    MACEArchitecture,
    MSMACEArchitecture,
    MSNequIPArchitecture,
    Prediction,
    build_model,
)
from msmlff.models.message_passing import needed_atoms
from msmlff.nn import ops
from msmlff.nn.scale_edges import build_scale_edges
from msmlff.sampling import random_packing
from msmlff.simulation import chunks
from msmlff.simulation.blocks import Space
from msmlff.simulation.chunks import ChunkedEvaluator

SPECIES, E0S = (1, 6, 8), {1: -13.6, 6: -1029.1, 8: -2041.7}
SCALES = (
    {"cutoff": 2.0, "channels": 4, "l_max": 2, "radial_mlp": [8]},
    {"cutoff": 3.0, "channels": 4, "l_max": 1, "radial_mlp": [8]},
)
#: Made-up coefficients of H, C, O.
TABLE: dict[str, Any] = {
    "s6": 1.0,
    "s8": 0.8,
    "a1": 0.4,
    "a2": 4.5,
    "coordination": [[0.9, 0.0], [0.0, 3.0], [0.0, 2.0]],
    "c6": np.einsum("ia,jb->ijab", *[np.array([[1.3, 1.8], [5.0, 4.2], [2.7, 2.3]])] * 2).tolist(),
    "radii": [0.8, 1.9, 1.6],
    "r4r2": [2.0, 3.1, 2.6],
}
DISPERSION = {"s8": 0.8, "a1": 0.4, "a2": 4.5, "cutoff": 4.2, "table": TABLE}
#: Å, of an fcc crystal whose fourth neighbours are 3 Å away, where the float64 lengths are 3.0 or more.
SPACING = 2.1213203435596437


def msmace(**keys: Any) -> ForceField:
    architecture = MSMACEArchitecture(scales=SCALES, channels=4, hidden_l_max=1, neighbor_norm="sqrt", **keys)
    return MSMACE(SPECIES, E0S, architecture)


MODELS: dict[str, Callable[[], ForceField]] = {
    "msmace": msmace,
    "msmace, three layers": lambda: msmace(layers=3),
    "mace, one layer": lambda: MACE(
        SPECIES, E0S, MACEArchitecture(cutoff=3.0, channels=4, l_max=2, layers=1)
    ),
    "mace, residual": lambda: MACE(
        SPECIES, E0S, MACEArchitecture(cutoff=2.5, channels=4, l_max=2, residual_first=True)
    ),
    "msnequip": lambda: build_model(
        MSNequIPArchitecture(scales=SCALES, channels=4, layers=3, readout_hidden=4), SPECIES, E0S
    ),
    "msnequip, four layers": lambda: build_model(
        MSNequIPArchitecture(scales=SCALES, channels=8, layers=4), SPECIES, E0S
    ),
    "ani": lambda: ANI(SPECIES, E0S, ANIArchitecture(cutoff=3.6, angular_cutoff=2.6, hidden=(8, 6))),
    "zbl": lambda: msmace(layers=1, zbl=True),
    "dispersion": lambda: msmace(layers=1, dispersion=DISPERSION),
    "dispersion and zbl, two layers": lambda: msmace(dispersion=DISPERSION, zbl=True),
}


def make(name: str) -> ForceField:
    torch.manual_seed(1)
    return MODELS[name]().double().eval()


def liquid(atoms: int = 360) -> Configuration:
    """Random atoms in a sheared periodic cell, not wrapped into it."""
    elements = ["H"] * (atoms // 2) + ["C"] * (atoms // 4) + ["O"] * (atoms - atoms // 2 - atoms // 4)
    frame = random_packing(elements, 1.5, min_distance=1.0, seed=0)
    shear = np.array([[1.0, 0.0, 0.0], [0.25, 1.0, 0.0], [-0.1, 0.15, 1.0]])
    cell = frame.cell @ shear
    images = np.random.default_rng(0).integers(-2, 3, frame.positions.shape)
    return Configuration(frame.numbers, frame.positions @ shear + images @ cell, cell, np.ones(3, bool))


def small_cell() -> Configuration:
    """Eight atoms in a sheared cell that is smaller than every cutoff's sphere."""
    atoms = bulk("CO", "rocksalt", a=4.1, cubic=True)
    atoms.set_cell(atoms.cell.array + np.array([[0, 0.3, 0], [0, 0, 0.1], [0.2, 0, 0]]), scale_atoms=True)
    atoms.rattle(0.1, seed=0)
    return Configuration(atoms.numbers, atoms.positions, atoms.cell.array, np.ones(3, bool))


def periodic_along(*axes: int) -> Configuration:
    """The liquid's atoms, wrapped, with the other lattice vectors there but not periodic."""
    frame = liquid(120)
    wrapped = frame.positions @ np.linalg.inv(frame.cell) % 1.0 @ frame.cell
    pbc = np.array([axis in axes for axis in range(3)])
    return Configuration(frame.numbers, wrapped, frame.cell if axes else np.zeros((3, 3)), pbc)


def whole(model: ForceField, frame: Configuration) -> Prediction:
    return model(make_batch(model, frame), stress=True)


def same(actual: Prediction, expected: Prediction, tolerance: float = 1e-10) -> None:
    """To ``tolerance`` of the largest force, stress and energy without E0s."""
    for name in ("energy", "atomic_energies", "forces", "stress"):
        a, b = getattr(actual, name), getattr(expected, name)
        if a is None and b is None:
            continue
        assert a.shape == b.shape
        if name == "stress":  # of frames without a volume
            assert torch.equal(a.isnan(), b.isnan())
            a, b = a.nan_to_num(), b.nan_to_num()
        scale = b.abs().max() if name in ("forces", "stress") else 1.0 + len(expected.atomic_energies)
        assert (a - b).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize("name", MODELS)
def test_pieces_add_up_to_the_whole(name: str) -> None:
    model, frame = make(name), liquid()
    expected = whole(model, frame)
    assert expected.forces.abs().max() > 1e-2
    same(ChunkedEvaluator(model, atoms_per_chunk=90)(frame, stress=True), expected)


@pytest.mark.parametrize("name", MODELS)
def test_pieces_of_a_batch_add_up_to_it(name: str) -> None:
    """Frames of several sizes, periodic or not, with edges beyond the cutoff."""
    model = make(name)
    frames = [liquid(), small_cell(), periodic_along(0, 1), periodic_along(), small_cell()]
    beyond = model.cutoff + 0.7
    lists = [neighbor_list(f.positions, f.cell, f.pbc, beyond) for f in frames]
    batch = collate(frames, lists, model.atomic_numbers)
    expected = model(batch, stress=True)
    assert expected.forces.abs().max() > 1e-2
    for most in (3, 90, 200):
        evaluator = ChunkedEvaluator(model, atoms_per_chunk=most)
        same(evaluator.of_batch(batch, stress=True), expected)
        assert evaluator.of_batch(batch, forces=False).forces is None


def test_lattice_vectors_of_directions_that_are_not_periodic(monkeypatch: pytest.MonkeyPatch) -> None:
    """They say nothing about the atoms' density, and may span no volume."""
    monkeypatch.setattr(chunks, "_FEW", 50)
    model, free = make("msmace"), periodic_along()
    expected = whole(model, free)
    for cell in (np.diag([1.0, 1.0, 1.0]), np.array([[3.0, 0, 0], [3.0, 0, 0], [0, 0, 0]])):
        batch = make_batch(model, free)
        room = int(chunks.kept_bytes(model, batch))  # half of it is taken: not even the least piece fits
        monkeypatch.setattr(chunks, "free_bytes", lambda _, room=room: room)
        evaluator = ChunkedEvaluator(model)
        batch.cell[:] = torch.from_numpy(cell)
        predicted = evaluator.of_batch(batch)
        assert evaluator.piece_size == 64
        torch.testing.assert_close(predicted.forces, expected.forces, rtol=0, atol=1e-10)
        assert evaluator._along(batch).received < 100


def test_a_thin_frame_says_nothing_about_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_FEW", 50)
    model, kept = make("msmace"), []
    alone = Configuration(np.array([1, 1]), np.diag([0.0, 9.0, 0.0])[:2])
    frames = [alone, *[liquid(100)] * 6]
    batch = collate(
        frames, [neighbor_list(f.positions, f.cell, f.pbc, 3.0) for f in frames], model.atomic_numbers
    )
    expected = model(batch, stress=True)
    one = chunks.kept_bytes(model, make_batch(model, liquid(100)))
    forward = model.forward

    def watched(part: Batch, **keys: Any) -> Prediction:
        kept.append(part.num_frames)
        return forward(part, **keys)

    evaluator = ChunkedEvaluator(model, memory_gib=4 * one / 2**30)
    evaluator._along(batch)
    monkeypatch.setattr(model, "forward", watched)
    same(evaluator.of_batch(batch, stress=True), expected)
    assert 1 < len(kept) <= 7
    assert max(kept) <= 4  # with the thin one


def test_frames_go_together_as_far_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = make("msmace"), []
    frames = [liquid(100), small_cell(), small_cell(), liquid(360), small_cell()]
    lists = [neighbor_list(f.positions, f.cell, f.pbc, model.cutoff) for f in frames]
    batch = collate(frames, lists, model.atomic_numbers)
    expected = model(batch)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda b, **keys: sizes.append(b.num_frames) or forward(b, **keys))
    monkeypatch.setattr(chunks, "_FEW", 50)
    evaluator = ChunkedEvaluator(model, memory_gib=0.003)
    same(evaluator.of_batch(batch), expected)
    assert evaluator.piece_size < 360
    kept = [size for size in sizes if size > 1]
    assert kept
    assert sum(sizes) > len(frames)  # some went together, one in pieces
    sizes.clear()
    same(ChunkedEvaluator(model, memory_gib=1.0).of_batch(batch), expected)
    assert sizes[-1] == len(frames)


@pytest.mark.parametrize("name", ["msmace", "ani", "dispersion and zbl, two layers"])
def test_cells_smaller_than_what_surrounds_a_piece(name: str) -> None:
    model, frame = make(name), small_cell()
    assert 2 * model.receptive_field > 1.7 * Space(frame).heights.max()
    for most in (1, 3):
        same(ChunkedEvaluator(model, atoms_per_chunk=most)(frame, stress=True), whole(model, frame))


@pytest.mark.parametrize("axes", [(), (2,), (0, 1)])
def test_surfaces(axes: tuple[int, ...]) -> None:
    model, frame = make("msmace"), periodic_along(*axes)
    same(ChunkedEvaluator(model, atoms_per_chunk=25)(frame, stress=True), whole(model, frame))


@pytest.mark.parametrize("backend", ops.available_backends("cpu"))
@pytest.mark.parametrize("periodic", [False, True])
def test_molecules_that_only_a_pair_term_brings_together(periodic: bool, backend: str) -> None:
    """Inside a molecule that surrounds a piece there are edges for the pair term that the network must not
    take: none of its layers reaches that molecule.
    """
    model, one = make("dispersion and zbl, two layers"), ethanol()
    room = np.ptp(one.positions, axis=0) + 3.5
    first = one.positions - one.positions.min(axis=0) + 1.75  # in the cell, so that wrapping cuts none
    positions = np.concatenate([first, first + np.array([room[0], 0.0, 0.0])])
    cell = np.diag([2 * room[0], room[1], room[2]]) * periodic
    frame = Configuration(np.tile(one.numbers, 2), positions, cell, np.full(3, periodic))
    with ops.use_backend(backend):
        evaluator = ChunkedEvaluator(model, atoms_per_chunk=len(one))
        species = species_of([frame], model.atomic_numbers)
        piece, _ = evaluator._piece(Space(frame), np.arange(len(one)), species, frame.cell)
        assert piece.shells == (9, 9, 9)
        assert piece.num_atoms > 9
        same(evaluator(frame, stress=True), whole(model, frame))


@pytest.mark.parametrize("backend", ops.available_backends("cpu"))
@pytest.mark.parametrize("layers", [1, 2])
def test_neighbours_at_the_cutoff_that_are_nearer_in_float32(layers: int, backend: str) -> None:
    """Shells are those of float64; the network then takes no edge whose sender is beyond them."""
    model = msmace(layers=layers, dispersion=DISPERSION).float().eval()
    atoms = bulk("C", "fcc", a=SPACING, cubic=True) * (2, 2, 2)
    frame = Configuration(atoms.numbers, atoms.positions, atoms.cell.array, np.ones(3, bool))
    with ops.use_backend(backend):
        evaluator = ChunkedEvaluator(model, atoms_per_chunk=8)
        species = species_of([frame], model.atomic_numbers)
        block = next(Space(frame).blocks(8))
        piece, _ = evaluator._piece(Space(frame), block, species, frame.cell)
        vectors = piece.positions[piece.receiver] - piece.positions[piece.sender]
        nearer = (vectors.norm(dim=1) >= 3.0) & (vectors.float().square().sum(dim=1).sqrt() < 3.0)
        assert piece.shells is not None
        assert (nearer & (piece.receiver < 8) & (piece.sender >= piece.shells[1])).any()
        scales: Any = zip(model.scale_cutoffs, model.harmonics, model.radial_bases, strict=True)
        needed = needed_atoms(piece, layers)
        edges = build_scale_edges(vectors.float(), piece, scales, needed)
        for atoms_with_features, of_layer in zip(needed, edges, strict=False):
            assert all(int(scale.sender.max()) < atoms_with_features for scale in of_layer)
        found, expected = evaluator(frame, stress=True), whole(model, frame)
    assert found.forces.abs().max() < 1e-4  # zero by symmetry
    same(replace(found, forces=None), replace(expected, forces=None), 1e-5)


@pytest.mark.parametrize("backend", ops.available_backends("cpu"))
def test_every_backend(backend: str) -> None:
    model, frame = make("msmace"), liquid(160)
    expected = whole(model, frame)
    with ops.use_backend(backend):
        same(ChunkedEvaluator(model, atoms_per_chunk=60)(frame, stress=True), expected)


def test_many_species() -> None:
    """Beyond four species the first layer is a convolution like the others."""
    torch.manual_seed(0)
    numbers = (1, 5, 6, 7, 8, 9)
    model = build_model(MACEArchitecture(cutoff=2.6, channels=4, l_max=2), numbers, [0.0] * 6).double().eval()
    frame = random_packing(["H", "B", "C", "N", "O", "F"] * 20, 1.5, min_distance=1.0, seed=1)
    same(ChunkedEvaluator(model, atoms_per_chunk=30)(frame, stress=True), whole(model, frame))


def test_float32() -> None:
    model, frame = make("msmace").float(), liquid()
    same(ChunkedEvaluator(model, atoms_per_chunk=90)(frame, stress=True), whole(model, frame), 1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_what_an_energy_depends_on_ends_at_the_receptive_field(name: str) -> None:
    """Along a chain of equal atoms the energy of the first one feels as many others as its reach has hops."""
    model = make(name)
    hops, cutoff = max(model.reaches, key=lambda reach: reach[0] * reach[1])
    step = 0.8 * cutoff
    positions = step * np.arange(hops + 2)[:, None] * np.array([[1.0, 0.0, 0.0]])
    # more atoms close to each, so that what is passed on is not zero by symmetry
    aside = positions + np.array([0.3 * step, 0.9, 0.2])
    frame = Configuration(np.full(2 * len(positions), 6), np.concatenate([positions, aside]))

    def energy(moved: int) -> float:
        changed = frame.positions.copy()
        changed[[moved, moved + len(positions)]] += [0.0, 0.15, 0.0]
        other = Configuration(frame.numbers, changed)
        return float(model(make_batch(model, other)).atomic_energies[0])

    assert np.linalg.norm(positions[hops + 1]) > model.receptive_field
    unmoved = float(model(make_batch(model, frame)).atomic_energies[0])
    assert energy(hops + 1) == pytest.approx(unmoved, abs=1e-12)
    assert energy(1) != pytest.approx(unmoved, abs=1e-9)


def test_only_what_is_needed_is_evaluated() -> None:
    """A piece holds no atom beyond the receptive field, and no edge to one that only surrounds."""
    model, frame = make("msmace"), liquid()
    evaluator, space = ChunkedEvaluator(model, atoms_per_chunk=45), Space(liquid())
    block = next(space.blocks(45))
    species = species_of([frame], model.atomic_numbers)
    batch, atoms = evaluator._piece(space, block, species, frame.cell)
    assert batch.shells is not None
    assert atoms[: len(block)].tolist() == block.tolist()
    away = torch.cdist(batch.positions, batch.positions[: len(block)]).min(dim=1).values
    assert away.max() < model.receptive_field
    assert batch.shells[0] == len(block) < batch.shells[1] < batch.shells[2] == batch.num_atoms
    assert int(batch.receiver.max()) < batch.shells[1]
    assert (batch.row_ptr.diff() == torch.bincount(batch.receiver, minlength=batch.num_atoms)).all()


def test_free_pairs_are_those_of_the_neighbour_list() -> None:
    positions = liquid(80).positions
    sender, receiver, length = free_pairs(torch.from_numpy(positions), 6.0)
    expected = neighbor_list(positions, None, False, 6.0)
    order = np.lexsort((length.numpy(), receiver.numpy()))
    assert receiver[order].tolist() == expected.receiver.tolist()
    assert sender[order].tolist() == expected.sender.tolist()
    distances = np.linalg.norm(positions[sender] - positions[receiver], axis=1)
    np.testing.assert_allclose(length.numpy(), distances, atol=1e-12)


def test_blocks_hold_each_atom_once() -> None:
    space = Space(liquid())
    blocks = list(space.blocks(50))
    assert max(map(len, blocks)) <= 50
    assert min(map(len, blocks)) >= 25
    assert sorted(np.concatenate(blocks).tolist()) == list(range(360))


def test_a_frame_that_fits_is_one_piece() -> None:
    model, frame = make("msmace"), liquid(80)
    evaluator = ChunkedEvaluator(model, memory_gib=1.0)
    same(evaluator(frame, stress=True), whole(model, frame), 1e-14)
    assert evaluator.piece_size == 80
    same(evaluator(liquid(100)), model(make_batch(model, liquid(100))))
    assert evaluator.piece_size == 100


def test_pieces_become_smaller_with_the_memory() -> None:
    model, frame, sizes = make("msmace"), liquid(), []
    for budget in (0.003, 0.002):
        evaluator = ChunkedEvaluator(model, memory_gib=budget)
        same(evaluator(frame, stress=True), whole(model, frame))
        sizes.append(evaluator.piece_size)
    assert 360 > sizes[0] > sizes[1] > 8
    with pytest.raises(InputError, match="is too little for a piece of 8 atoms"):
        ChunkedEvaluator(model, memory_gib=1e-6)(frame)


@pytest.mark.parametrize("name", ["msmace", "msnequip, four layers"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_a_piece_keeps_stays_within_its_budget(name: str, backend: str) -> None:
    """The whole, which at its peak takes half as much again as it keeps, is too large by little."""
    model, atoms = make(name), liquid().to_ase() * (2, 2, 2)
    frame = Configuration(atoms.numbers, atoms.positions, atoms.cell.array, np.ones(3, bool))
    with ops.use_backend(backend):
        budget = 1.4 * chunks.kept_bytes(model, make_batch(model, frame))
        evaluator = ChunkedEvaluator(model, memory_gib=budget / 2**30)
        size = evaluator.fitting(frame)
        assert 8 < size < len(frame)
        space, species = Space(frame), species_of([frame], model.atomic_numbers)
        for block in islice(space.blocks(size), 4):
            piece, _ = evaluator._piece(space, block, species, frame.cell)
            assert 1.4 * chunks.kept_bytes(model, piece) < budget


@pytest.mark.parametrize("shape", [(30, 30, 1), (600, 1, 1)])
def test_flat_sheets_and_straight_chains_are_divided(shape: tuple[int, int, int]) -> None:
    model, pbc = make("msmace"), np.array(shape) > 1
    positions = 1.3 * np.indices(shape).reshape(3, -1).T
    positions += np.random.default_rng(0).normal(0.0, 0.05, positions.shape) * pbc
    frame = Configuration(np.full(len(positions), 6), positions, np.diag(1.3 * np.array(shape) * pbc), pbc)
    budget = 0.9 * chunks.kept_bytes(model, make_batch(model, frame))
    evaluator = ChunkedEvaluator(model, memory_gib=budget / 2**30)
    same(evaluator(frame), model(make_batch(model, frame)))
    assert 8 <= evaluator.piece_size < len(frame)


def test_as_many_atoms_in_less_space_are_looked_at_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or of other elements; but not at each step of a simulation."""
    evaluator, probed = ChunkedEvaluator(make("msmace"), memory_gib=0.003), []
    memory = evaluator.memory
    monkeypatch.setattr(evaluator, "memory", lambda f: probed.append(f) or memory(f))
    dense = liquid()
    wide = replace(dense, positions=3.0 * dense.positions, cell=3.0 * dense.cell)
    moved = dense.positions + np.random.default_rng(0).normal(0.0, 0.01, dense.positions.shape)
    for frame in (
        wide,
        dense,
        replace(dense, positions=moved),
        replace(wide, numbers=np.full_like(wide.numbers, 6)),
    ):
        evaluator(frame)
        assert (evaluator.piece_size < 360) == (frame.volume < 2 * dense.volume)
    assert len(probed) == 3


@pytest.mark.parametrize(("cached", "free"), [(30, 80), (0, 20), (None, 20), (-40, 0)])
def test_files_in_the_cache_are_free_memory(
    cached: int | None, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a control group; it may use more than its limit for a moment."""
    monkeypatch.setattr(chunks, "_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("100\n")
    (tmp_path / "memory.current").write_text("80\n" if cached is None or cached >= 0 else "120\n")
    if cached is not None:
        files = max(cached, 0)
        stat = f"anon 5\ninactive_anon 4\ninactive_file {files}\nactive_file {files}\nworkingset 7\n"
        (tmp_path / "memory.stat").write_text(stat)
    assert chunks.free_bytes(torch.device("cpu")) == free


def test_weights_stay_trainable() -> None:
    model = make("msmace")
    model(make_batch(model, small_cell()))
    assert all(p.requires_grad for p in model.parameters())


def test_bad_input_is_named() -> None:
    model = make("msmace")
    for keys, message in (
        ({"atoms_per_chunk": 0}, "atoms_per_chunk is 0; write"),
        ({"memory_gib": -1.0}, "memory_gib is -1.0; write"),
        ({"memory_gib": 1.0, "atoms_per_chunk": 5}, "write one of them"),
    ):
        with pytest.raises(InputError, match=message):
            ChunkedEvaluator(model, **keys)
    gold = Configuration(np.array([1, 79]), np.eye(3)[:2], source="gold.xyz:3")
    with pytest.raises(InputError, match=r"gold\.xyz:3: atomic numbers \[79\] are unknown to the model"):
        ChunkedEvaluator(model)(gold)
    lost = Configuration(np.array([1, 1]), np.array([[0.0, 0, 0], [np.nan, 0, 0]]))
    with pytest.raises(InputError, match="NaN"):
        ChunkedEvaluator(model, atoms_per_chunk=1)(lost)
