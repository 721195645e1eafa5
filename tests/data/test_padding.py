"""Padded batches: few sizes, real content untouched, padding that touches nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from msmlff.data.batch import Batch, BatchSize
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.data.padding import pad, padded_size, rung, unpadded
from msmlff.errors import InputError

SPECIES = (1, 6, 8)
MakeFrames = Callable[..., list[Configuration]]


@pytest.fixture
def batch(make_frames: MakeFrames) -> Batch:
    frames = make_frames(3)
    lists = [neighbor_list(f.positions, f.cell, f.pbc, 4.0) for f in frames]
    return collate(frames, lists, SPECIES, frame_ids=[5, 0, 2])


def test_rungs_are_few_and_waste_little() -> None:
    sizes = range(1, 5000)
    assert all(n <= rung(n) <= max(n + 3, n * 9 / 8) for n in sizes)
    assert all(rung(rung(n)) == rung(n) for n in sizes)
    assert len({rung(n) for n in sizes}) < 80


def test_padding_is_behind_and_apart(batch: Batch) -> None:
    padded = pad(batch, 6, (20, 30, 10), batch.num_edges + 75)
    assert (padded.num_frames, padded.num_atoms, padded.num_edges) == (6, 60, batch.num_edges + 75)
    assert torch.bincount(padded.species).tolist() == [20, 30, 10]
    rows = torch.repeat_interleave(torch.arange(60), padded.row_ptr.diff())
    assert torch.equal(rows, padded.receiver)
    frames = torch.repeat_interleave(torch.arange(6), padded.atom_ptr.diff())
    assert torch.equal(frames, padded.frame)
    more = slice(batch.num_edges, None)
    assert torch.equal(padded.sender[more], padded.receiver[more])
    assert padded.receiver[more].min() >= batch.num_atoms
    lengths = (padded.shift[more].unsqueeze(1) @ padded.cell[padded.frame[padded.receiver[more]]]).norm(dim=2)
    assert lengths.min() > 100.0
    # the rows of padding atoms are of about the same length
    extra = padded.row_ptr.diff()[batch.num_atoms :]
    assert extra.max() - extra.min() <= 1
    assert padded.frame_id[3:].tolist() == [-1] * 3
    assert not padded.weight[3:].any()
    for label in (padded.energy[3:], padded.stress[3:], padded.forces[batch.num_atoms :]):
        assert torch.isnan(label).all()


def test_unpadded_gives_the_batch_back(batch: Batch) -> None:
    padded = pad(batch, *padded_size(batch, len(SPECIES)))
    assert padded.size == BatchSize(batch.num_frames, batch.num_atoms, batch.num_edges) == batch.size
    for name, value in vars(unpadded(padded)).items():
        before = getattr(batch, name)
        if isinstance(before, torch.Tensor):
            torch.testing.assert_close(value, before, rtol=0, atol=0, equal_nan=True)
        else:
            assert value == before


def test_batches_alike_are_padded_to_one_size(make_frames: MakeFrames) -> None:
    """One size where the numbers of atoms and edges differ by little, of few sizes in any case."""
    sizes = set()
    for seed in range(40):
        frames = make_frames(4, seed)
        lists = [neighbor_list(f.positions, f.cell, f.pbc, 4.0) for f in frames]
        one = collate(frames, lists, SPECIES)
        frames_, atoms, edges = padded_size(one, len(SPECIES))
        assert frames_ > one.num_frames
        assert sum(atoms) > one.num_atoms
        assert edges > one.num_edges
        sizes.add((frames_, sum(atoms)))
    assert len(sizes) < 12


@pytest.mark.parametrize(
    ("frames", "atoms", "edges"),
    [(3, (20, 20, 20), 10_000), (4, (20, 20, 0), 10_000), (4, (20, 20, 20), 1)],
    ids=["no frame for padding", "too few of a species", "too few edges"],
)
def test_what_does_not_fit_is_refused(
    batch: Batch, frames: int, atoms: tuple[int, int, int], edges: int
) -> None:
    with pytest.raises(InputError, match="cannot be padded to"):
        pad(batch, frames, atoms, edges)
