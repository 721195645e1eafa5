"""Batches: flat tensors with the right offsets, masks and species."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import edge_vectors, neighbor_list
from msmlff.errors import InputError


@pytest.fixture
def frames() -> list[Configuration]:
    rng = np.random.default_rng(0)
    labelled = Configuration(
        numbers=np.array([8, 1, 1]),
        positions=rng.normal(size=(3, 3)),
        energy=-1.0 - 1e-9,
        forces=rng.normal(size=(3, 3)),
        weight=2.0,
    )
    periodic = Configuration(
        numbers=np.array([1, 6, 6, 8]),
        positions=rng.random((4, 3)) * 4,
        cell=np.diag([4.0, 4.5, 5.0]),
        pbc=np.ones(3, bool),
        stress=np.eye(3),
    )
    alone = Configuration(numbers=np.array([6]), positions=np.zeros((1, 3)), energy=3.0)
    return [labelled, periodic, alone]


def is_real(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _lists(frames: list[Configuration]):
    return [neighbor_list(f.positions, f.cell, f.pbc, 4.0) for f in frames]


def test_edges_of_the_batch_are_those_of_its_frames(frames) -> None:
    lists = _lists(frames)
    batch = collate(frames, lists, (1, 6, 8), frame_ids=[7, 3, 9])
    vectors = (
        batch.positions[batch.receiver]
        - batch.positions[batch.sender]
        + torch.einsum("ei,eij->ej", batch.shift, batch.cell[batch.frame[batch.receiver]])
    )
    expected = np.concatenate(
        [edge_vectors(f.positions, f.cell, n) for f, n in zip(frames, lists, strict=True)]
    )
    np.testing.assert_allclose(vectors.numpy(), expected)
    assert torch.equal(batch.frame[batch.sender], batch.frame[batch.receiver])
    rows = torch.repeat_interleave(torch.arange(batch.num_atoms), batch.row_ptr.diff())
    assert torch.equal(rows, batch.receiver)
    assert batch.atom_ptr.tolist() == [0, 3, 7, 8]
    assert batch.species.tolist() == [2, 0, 0, 0, 1, 1, 2, 1]
    assert batch.frame_id.tolist() == [7, 3, 9]


def test_missing_labels_are_nan_and_nothing_loses_digits(frames) -> None:
    batch = collate(frames, _lists(frames), (1, 6, 8))
    tensors = {name: value for name, value in vars(batch).items() if is_real(value)}
    assert {"positions", "cell", "shift", "energy", "forces", "stress", "weight"} == set(tensors)
    assert {value.dtype for value in tensors.values()} == {torch.float64}
    assert batch.energy[0].item() == -1.0 - 1e-9
    assert torch.isnan(batch.energy).tolist() == [False, True, False]
    assert torch.isnan(batch.forces).all(dim=1).tolist() == [False] * 3 + [True] * 5
    assert torch.isnan(batch.stress).all(dim=(1, 2)).tolist() == [True, False, True]
    assert batch.weight.tolist() == [2.0, 1.0, 1.0]


def test_unknown_species_and_empty_batches_are_refused(frames) -> None:
    with pytest.raises(InputError, match=r"\[8\] are unknown"):
        collate(frames, _lists(frames), (1, 6))
    with pytest.raises(InputError, match="0 frames"):
        collate([], [], (1,))


def test_a_frame_without_edges_makes_a_valid_batch(frames) -> None:
    batch = collate(frames[2:], _lists(frames[2:]), (6,))
    assert batch.num_edges == 0
    assert batch.row_ptr.tolist() == [0, 0]
    assert batch.shift.shape == (0, 3)
