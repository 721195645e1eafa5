"""Pools: found by path, checked, split without parting neighbours in time, read once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msmlff.data import pools
from msmlff.data.configuration import Configuration
from msmlff.data.formats import LabelKeys, write_frames
from msmlff.data.pools import PoolSpec, load_pool
from msmlff.data.reference_energies import reference_energies
from msmlff.errors import InputError


def _frames(
    count: int, seed: int, group: str = "", numbers: tuple[int, ...] = (1, 1, 8)
) -> list[Configuration]:
    rng = np.random.default_rng(seed)
    shape = np.array([[0, 0, 0.96], [0.93, 0, -0.24], [0, 0, 0]])[: len(numbers)]
    return [
        Configuration(
            np.array(numbers),
            shape + rng.normal(0, 0.05, shape.shape),
            energy=float(-10 + rng.normal()),
            forces=(f := rng.normal(0, 1, shape.shape)) - f.mean(axis=0),
            group=group,
            info={"step": i},
        )
        for i in range(count)
    ]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with pool, val and test files, and a cache beside it."""
    root = tmp_path / "set"
    write_frames(root / "pool.xyz", _frames(20, 0, "a"))
    write_frames(root / "val.xyz.gz", _frames(5, 1, "b"))
    write_frames(root / "test.extxyz", _frames(6, 2, "c"))
    return root


def _load(path: Path, **options):
    return load_pool(PoolSpec("water", str(path), **options), path.parent / "cache")


def test_parts_are_found_by_their_names(folder) -> None:
    pool = _load(folder)
    assert {name: len(part) for name, part in pool.parts.items()} == {"train": 20, "val": 5, "test": 6}
    assert pool.atomic_numbers == (1, 8)
    assert pool.isolated is None
    assert pool.reports["train"].summary.startswith("20 of 20 frames kept; nothing to report; forces against")
    assert pool.train[3].source == f"{folder / 'pool.xyz'}:3"


def test_parts_can_be_named(folder) -> None:
    write_frames(folder / "more.xyz", _frames(4, 3))
    pool = _load(folder, train=("pool.xyz", "more.xyz"), test=("val.xyz.gz",), val=("test.extxyz",))
    assert [len(p) for p in pool.parts.values()] == [24, 6, 5]


def test_files_are_read_once(folder, monkeypatch) -> None:
    first = _load(folder)
    monkeypatch.setattr(pools, "read_frames", lambda *_: pytest.fail("read again"))
    again = _load(folder)
    assert again.train.hash == first.train.hash
    assert again.reports == first.reports
    with pytest.raises(pytest.fail.Exception, match="read again"):
        _load(folder, keys=LabelKeys(stress=None))


def test_changed_files_and_damaged_stores_are_read_again(folder) -> None:
    first = _load(folder)
    write_frames(folder / "pool.xyz", _frames(21, 9, "a"))
    assert len(_load(folder).train) == 21
    positions = first.val.directory / "positions.npy"
    positions.write_bytes(positions.read_bytes()[:-8])
    assert _load(folder).val.hash == first.val.hash
    for index in (folder.parent / "cache").glob("source-*.json"):
        index.write_text(index.read_text()[:10])
    assert _load(folder).val.hash == first.val.hash


def test_missing_parts_are_blocks_of_each_group(tmp_path) -> None:
    frames = [f for pair in zip(_frames(40, 0, "a"), _frames(40, 1, "b"), strict=True) for f in pair]
    write_frames(tmp_path / "all.xyz", frames)
    pool = load_pool(PoolSpec("water", str(tmp_path / "all.xyz")), tmp_path / "cache")
    assert [len(p) for p in pool.parts.values()] == [64, 6, 6]  # a frame is left out at every seam
    for group in "ab":
        steps = [[f.info["step"] for f in part if f.group == group] for part in pool.parts.values()]
        assert max(steps[0]) + 1 < min(steps[1])
        assert max(steps[1]) + 1 < min(steps[2])


def test_missing_parts_can_be_whole_groups(tmp_path) -> None:
    write_frames(tmp_path / "all.xyz", [f for i in range(10) for f in _frames(5, i, f"run{i}")])
    pool = load_pool(PoolSpec("water", str(tmp_path / "all.xyz"), split="groups"), tmp_path / "cache")
    groups = [set(p.group) for p in pool.parts.values()]
    assert [len(g) for g in groups] == [8, 1, 1]
    assert len(set.union(*groups)) == 10


def test_isolated_atoms_are_kept_apart(tmp_path) -> None:
    atoms = [
        Configuration(np.array([z]), np.zeros((1, 3)), energy=e, forces=np.zeros((1, 3)))
        for z, e in ((1, -13.6), (8, -2041.0))
    ]
    write_frames(tmp_path / "train.xyz", [*atoms, *_frames(30, 0)])
    pool = load_pool(PoolSpec("water", str(tmp_path)), tmp_path / "cache")
    assert [len(f) for f in pool.isolated] == [1, 1]
    assert pool.train.num_atoms.min() == 3
    e0s = reference_energies(pool.train, pool.spec.e0s, pool.isolated)
    assert e0s.values == {1: -13.6, 8: -2041.0}


def _atom(z: int, energy: float) -> Configuration:
    return Configuration(np.array([z]), np.zeros((1, 3)), energy=energy, forces=np.zeros((1, 3)))


def test_isolated_atoms_of_all_files_are_collected(folder) -> None:
    write_frames(folder / "pool.xyz", [_atom(1, -13.6), *_frames(20, 0)])
    write_frames(folder / "val.xyz.gz", [*_frames(5, 1), _atom(8, -2041.0), _atom(1, -13.6)])
    write_frames(folder / "test.extxyz", [_atom(16, -10.0), *_frames(6, 2)])
    pool = _load(folder)
    assert [len(part) for part in pool.parts.values()] == [20, 5, 6]
    assert pool.atomic_numbers == (1, 8)
    e0s = reference_energies(pool.train, "isolated", pool.isolated, pool.atomic_numbers)
    assert e0s.values == {1: -13.6, 8: -2041.0}
    write_frames(folder / "test.extxyz", [*_frames(6, 2), _atom(8, -2040.9)])
    with pytest.raises(
        InputError, match=r"test\.extxyz:6: the isolated O atom .* \(.*val\.xyz\.gz:5\): keep"
    ):
        _load(folder)


def test_an_isolated_atom_does_not_teach_its_element(folder) -> None:
    write_frames(folder / "pool.xyz", [_atom(16, -10.0), *_frames(20, 0)])
    write_frames(folder / "test.extxyz", _frames(3, 2, numbers=(1, 1, 16)))
    with pytest.raises(InputError, match=r"test\.extxyz:0: S is unknown to the model, which knows H, O"):
        _load(folder)


def test_the_group_key_may_be_any_value_of_the_frame(folder) -> None:
    pool = _load(folder, keys=LabelKeys(group="step"))
    assert pool.val.group.tolist() == ["0", "1", "2", "3", "4"]
    with pytest.raises(
        InputError, match=r"no frame has the group key 'phase' \(keys of the first frame: .*step"
    ):
        _load(folder, keys=LabelKeys(group="phase"))


def test_shared_frames_and_foreign_elements_are_found(folder) -> None:
    write_frames(folder / "test.extxyz", [*_frames(3, 2), *_frames(20, 0)[7:8]])
    with pytest.raises(InputError, match=r"test\.extxyz:3 \(test\) is also in train \(train frame 7\)"):
        _load(folder)
    with pytest.warns(UserWarning, match="1 frames are shared between train-test"):
        pool = _load(folder, allow=("shared",))
    assert len(pool.test) == 4
    assert pool.shared == {"train-test": 1}
    write_frames(folder / "test.extxyz", _frames(3, 2, numbers=(1, 1, 16)))
    with pytest.raises(InputError, match=r"test\.extxyz:0: S is unknown to the model, which knows H, O"):
        _load(folder)


def test_what_is_required_and_allowed(folder) -> None:
    frames = _frames(20, 0)
    write_frames(folder / "pool.xyz", [*frames[:4], replace(frames[4], forces=None), *frames[5:]])
    with pytest.raises(InputError, match=r"pool\.xyz:4: the forces is missing or NaN"):
        _load(folder)
    with pytest.warns(UserWarning, match=r"missing_label \(1\)"):
        assert len(_load(folder, drop=("missing_label",)).train) == 19
    assert len(_load(folder, require=("energy",)).train) == 20


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("absent", {}, r"there is no .*absent: set pool\.path=FOLDER"),
        ("", {"val": ("v.xyz",)}, r"there is no file .*v\.xyz: correct pool\.val"),
        ("", {"split": "random"}, r"pool\.split=random is unknown"),
        ("", {"fractions": {"dev": 0.1}}, "takes val and test"),
        ("", {"allow": ("typo",)}, "the defects are shape"),
    ],
)
def test_mistakes_say_what_to_write(path, options, message, folder) -> None:
    with pytest.raises(InputError, match=message):
        _load(folder / path, **options)


def test_ambiguous_and_empty_folders(folder, tmp_path) -> None:
    write_frames(folder / "train_2.xyz", _frames(2, 5))
    with pytest.raises(
        InputError, match=r"several files for train \(pool\.xyz, train_2\.xyz\): set pool\.train"
    ):
        _load(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no file named pool\* or train\*"):
        _load(tmp_path / "empty")
    with pytest.raises(InputError, match="no pool 'nonsense' comes with the package"):
        load_pool(PoolSpec("x", "embedded:nonsense"), tmp_path)
    with pytest.raises(InputError, match=r"set pool\.path=FOLDER"):
        load_pool(PoolSpec("x", ""), tmp_path)


@pytest.mark.filterwarnings("ignore:duplicate", "ignore:val has no frame of 1 of the 6 groups")
def test_the_reference_sets_load(reference_data, tmp_path) -> None:
    spec = PoolSpec(
        "dense_hydrogen_pbe",
        str(reference_data / "dense_hydrogen_pbe"),
        keys=LabelKeys(group="density_g_cm3"),
        allow=("duplicate",),
    )
    hydrogen = load_pool(spec, tmp_path)
    assert [len(p) for p in hydrogen.parts.values()] == [575, 60, 120]
    assert len(set(hydrogen.train.group)) == 14
    organics = load_pool(
        PoolSpec("organics", str(reference_data / "organics_gfn2xtb"), keys=LabelKeys(group="Nmols")),
        tmp_path,
    )
    assert len(organics.isolated) == 3
    assert len(organics.test) == 500
    assert 90 <= len(organics.val) <= 100
    e0s = reference_energies(organics.train, "isolated", organics.isolated)
    assert e0s.by_symbol()["H"] == pytest.approx(-10.707211)
    fitted = reference_energies(organics.train, "least_squares")
    assert fitted.residual_rmse < 0.1 * e0s.residual_rmse


def test_files_are_hashed_again_only_when_they_changed(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    monkeypatch.setattr(pools, "RACY_NS", -1)  # the files of this test are new
    real = pools.file_sha256
    monkeypatch.setattr(pools, "file_sha256", lambda path: hashed.append(path.name) or real(path))
    before = _load(folder)
    assert sorted(hashed) == ["pool.xyz", "test.extxyz", "val.xyz.gz"]
    hashed.clear()
    assert _load(folder).train.hash == before.train.hash
    assert not hashed
    path = folder / "pool.xyz"
    stat = path.stat()
    text = path.read_text()
    path.write_text(text.replace("step=3", "step=4", 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size and mtime
    assert path.stat().st_size == stat.st_size
    _load(folder)
    assert hashed == ["pool.xyz"]


def test_a_hash_of_a_file_that_was_just_written_is_not_kept(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock may not have ticked before the next change."""
    monkeypatch.setattr(pools, "RACY_NS", 3_600_000_000_000)
    _load(folder)
    assert not list((folder.parent / "cache").glob("sha256-*"))


def test_a_torn_note_of_a_hash_is_no_hash(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "RACY_NS", -1)
    before = _load(folder)
    for note in (folder.parent / "cache").glob("sha256-*"):
        note.write_text("{")
    assert _load(folder).train.hash == before.train.hash
