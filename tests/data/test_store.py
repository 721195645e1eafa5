"""The store: what goes in comes out, once, whole, whatever other processes do."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from msmlff.data.configuration import Configuration, is_isolated_atom
from msmlff.data.neighbor_cache import NeighborCache
from msmlff.data.neighbors import neighbor_list
from msmlff.data.store import FrameStore
from msmlff.errors import InputError


def _assert_same(a: Configuration, b: Configuration) -> None:
    for name in ("numbers", "positions", "cell", "pbc", "energy", "forces", "stress"):
        x, y = getattr(a, name), getattr(b, name)
        if x is None or y is None:
            assert x is None, name
            assert y is None, name
        else:
            assert_array_equal(x, y)
    assert (a.weight, a.group, a.info, a.source) == (b.weight, b.group, b.info, b.source)


def test_frames_come_back_exactly(make_frames, tmp_path) -> None:
    frames = make_frames(9)
    store = FrameStore.build(iter(frames), tmp_path)
    assert len(store) == 9
    for before, after in zip(frames, store, strict=True):
        _assert_same(before, after)
    _assert_same(store[-1], frames[8])
    assert store.num_atoms.tolist() == [len(f) for f in frames]
    assert_array_equal(store.energy, [f.energy for f in frames])
    assert store.group.tolist() == [f.group for f in frames]
    assert store.atomic_numbers == tuple(sorted({int(z) for f in frames for z in f.numbers}))
    with pytest.raises(IndexError):
        store[9]


def test_equal_content_is_stored_once_and_any_change_changes_the_hash(make_frames, tmp_path) -> None:
    frames = make_frames(4)
    store = FrameStore.build(frames, tmp_path)
    assert FrameStore.build(frames, tmp_path).directory == store.directory
    changes = [
        {"positions": frames[0].positions + 1e-13},
        {"numbers": frames[0].numbers[::-1] + 1},
        {"energy": 1.0},
        {"forces": None},
        {"stress": np.eye(3)},
        {"cell": np.eye(3)},
        {"pbc": np.array([True, False, False])},
        {"weight": 3.0},
        {"group": "other"},
    ]
    hashes = {FrameStore.build([replace(frames[0], **c), *frames[1:]], tmp_path).hash for c in changes}
    assert len(hashes - {store.hash}) == len(changes)
    renamed = FrameStore.build([replace(frames[0], info={"step": 9}), *frames[1:]], tmp_path)
    assert renamed.hash == store.hash
    assert renamed[0].info == {"step": 9}
    assert store[0].info == {"step": 0}


def test_a_view_is_the_store_of_its_frames(make_frames, tmp_path) -> None:
    frames = make_frames(8)
    store = FrameStore.build(frames, tmp_path)
    view = store.subset([6, 1, 4])
    _assert_same(view[0], frames[6])
    assert view.hash == FrameStore.build([frames[6], frames[1], frames[4]], tmp_path).hash
    nested = view.subset([2, 0])
    _assert_same(nested[0], frames[4])
    assert nested.group.tolist() == [frames[4].group, frames[6].group]
    assert nested.ids.tolist() == [4, 6]
    assert_array_equal(nested.numbers, np.concatenate([frames[4].numbers, frames[6].numbers]))
    for i, frame in enumerate((frames[4], frames[6])):
        if frame.forces is None:
            assert nested.forces(i) is None
        else:
            assert_array_equal(nested.forces(i), frame.forces)
    assert [f.source for f in store[2:4]] == ["made:2", "made:3"]
    with pytest.raises(InputError, match="store of 3"):
        view.subset([3])


def test_a_pickled_store_opens_the_same_files(make_frames, tmp_path) -> None:
    view = FrameStore.build(make_frames(300), tmp_path).subset(range(0, 300, 3))
    cache = NeighborCache(view, 3.0)
    data = pickle.dumps((view, cache))
    assert len(data) < 5000  # a path and the ids, no arrays
    store, lists = pickle.loads(data)
    _assert_same(store[5], view[5])
    assert_array_equal(lists[5].sender, cache[5].sender)


def test_empty_and_misshapen_input(make_frames, tmp_path) -> None:
    with pytest.raises(InputError, match="no frames"):
        FrameStore.build([], tmp_path)
    bad = replace(make_frames(1)[0], forces=np.zeros((1, 3)), source="x.xyz:7")
    with pytest.raises(InputError, match=r"x\.xyz:7: forces has shape \[1, 3\]"):
        FrameStore.build([bad], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_leaves_nothing_behind(make_frames, tmp_path) -> None:
    def broken():
        yield from make_frames(3)
        raise RuntimeError("source died")

    with pytest.raises(RuntimeError, match="source died"):
        FrameStore.build(broken(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def _tear(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("name", ["positions.npy", "text.npy", "manifest.json"])
def test_a_torn_file_is_found_at_open_and_rebuilt(name, make_frames, tmp_path) -> None:
    frames = make_frames(5)
    store = FrameStore.build(frames, tmp_path)
    _tear(store.directory / name)
    with pytest.raises(InputError, match=name):
        FrameStore.open(store.directory)
    again = FrameStore.build(frames, tmp_path)
    assert again.directory == store.directory
    _assert_same(again[4], frames[4])
    again.verify()


def test_a_missing_file_or_folder_is_named(make_frames, tmp_path) -> None:
    store = FrameStore.build(make_frames(2), tmp_path)
    (store.directory / "forces.npy").unlink()
    with pytest.raises(InputError, match=r"forces\.npy: No such file"):
        FrameStore.open(store.directory)
    with pytest.raises(InputError, match="nowhere"):
        FrameStore.open(tmp_path / "nowhere")


def test_verify_finds_a_flipped_bit(make_frames, tmp_path) -> None:
    store = FrameStore.build(make_frames(3), tmp_path)
    store.verify()
    path = store.directory / "positions.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"positions\.npy differs from its checksum"):
        FrameStore.open(store.directory).verify()


def test_another_kind_of_folder_is_refused(make_frames, tmp_path) -> None:
    cache = NeighborCache(FrameStore.build(make_frames(2), tmp_path), 3.0)
    with pytest.raises(InputError, match="holds neighbors"):
        FrameStore.open(cache.directory)


def test_a_folder_that_cannot_be_written_says_how_to_change_it(make_frames, tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="MSMLFF_CACHE"):
        FrameStore.build(make_frames(1), blocked)


def _build_together(frames, folder, barrier, results) -> None:
    barrier.wait()
    store = FrameStore.build(frames, folder)
    cache = NeighborCache(store, 3.0)
    store.verify()
    results.put((store.hash, str(store.directory), sum(len(n) for n in cache)))


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_build_the_same_store(damaged, make_frames, tmp_path) -> None:
    frames = make_frames(200)
    if damaged:
        _tear(FrameStore.build(frames, tmp_path).directory / "numbers.npy")
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_build_together, args=(frames, tmp_path, barrier, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][2] == sum(len(neighbor_list(f.positions, f.cell, f.pbc, 3.0)) for f in frames)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith((".building", ".discarded"))]


def test_cached_neighbors_are_those_of_the_search(make_frames, tmp_path) -> None:
    frames = make_frames(20)
    far = replace(
        frames[1],
        positions=frames[1].positions + np.array([[4.0 * 200, 0, 0]]) * (frames[1].numbers[:, None] > 1),
    )
    store = FrameStore.build([*frames, far], tmp_path)
    view = store.subset([20, 3, 0, 7])
    calls = []
    cache = NeighborCache(view, 4.0, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 4) for i in range(4)]
    for frame, cached in zip(view, cache, strict=True):
        fresh = neighbor_list(frame.positions, frame.cell, frame.pbc, 4.0)
        assert_array_equal(cached.sender, fresh.sender)
        assert_array_equal(cached.receiver, fresh.receiver)
        assert_array_equal(cached.shift, fresh.shift)
    assert cache.num_edges.tolist() == [len(n) for n in cache]


def test_neighbors_are_computed_once_and_again_if_damaged(make_frames, tmp_path) -> None:
    store = FrameStore.build(make_frames(6), tmp_path)
    calls = []
    first = NeighborCache(store, 3.0)
    NeighborCache(store, 3.0, progress=lambda *a: calls.append(a))
    assert calls == []
    _tear(first.directory / "sender.npy")
    again = NeighborCache(store, 3.0, progress=lambda *a: calls.append(a))
    assert len(calls) == 6
    assert json.loads((again.directory / "manifest.json").read_text())["cutoff"] == 3.0
    assert NeighborCache(store, 2.5).directory != first.directory
    assert NeighborCache(store, 3.0 + 1e-9).directory != first.directory
    manifest = first.directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"cutoff": 3.0', '"cutoff": 2.0'))
    with pytest.raises(InputError, match=r"holds lists at 2\.0 Å"):
        NeighborCache(store, 3.0)


def test_isolated_atoms_are_the_same_for_frames_and_stores(tmp_path) -> None:
    atom = Configuration(np.array([1]), np.zeros((1, 3)), energy=-13.6)
    boxed = replace(atom, pbc=np.ones(3, bool))
    skewed = np.array([[10.0, 0, 0], [9.0, 1, 0], [0, 0, 10]])  # a - b is 1.4 Å long
    frames = {
        "free": (atom, True),
        "wide": (replace(boxed, cell=np.eye(3) * 6), True),
        "crystal": (replace(boxed, cell=np.eye(3) * 2.5), False),
        "skewed": (replace(boxed, cell=skewed), False),
        "slab": (replace(atom, cell=np.diag([2.5, 8, 8]), pbc=np.array([False, True, True])), True),
        "said": (replace(boxed, cell=np.eye(3) * 5, info={"config_type": "isolatedAtom"}), True),
        "pair": (Configuration(np.array([1, 1]), np.eye(3)[:2], info={"config_type": "IsolatedAtom"}), False),
    }
    assert {k: is_isolated_atom(f) for k, (f, _) in frames.items()} == {k: v for k, (_, v) in frames.items()}
    store = FrameStore.build([f for f, _ in frames.values()], tmp_path)
    assert store.isolated.tolist() == [alone for _, alone in frames.values()]
