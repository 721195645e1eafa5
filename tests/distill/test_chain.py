"""Chains: what each step takes out, what fills, what the record says, and the configuration file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from msmlff.data.configuration import Configuration
from msmlff.data.store import FrameStore
from msmlff.distill.chain import Chain, EnergyWindow, Groups, MaxForce, Outliers, typical_distance
from msmlff.distill.clusters import KMeans
from msmlff.distill.cpd import CPD
from msmlff.distill.features import Features
from msmlff.distill.histogram import FlatEnergy
from msmlff.distill.linear import MaxDet
from msmlff.distill.simple import RandomSelector, Uniform
from msmlff.errors import InputError


def one_atom_frames(x: np.ndarray) -> Features:
    n = len(x)
    return Features(np.asarray(x, float), np.arange(n + 1), np.ones(n, dtype=np.int64), "pool")


@pytest.fixture
def copies() -> Features:
    """Frames 0 to 19 all different, 20 to 39 copies of them."""
    x = np.random.default_rng(0).normal(size=(20, 3))
    return one_atom_frames(np.concatenate([x, x]))


@pytest.fixture
def pool(frames: list[Configuration], tmp_path: Path) -> tuple[Features, FrameStore]:
    store = FrameStore.build(frames, tmp_path)
    return Features.blank(store.num_atoms, store.hash), store


def test_the_first_of_copies_stays(copies: Features) -> None:
    selection = Chain(deduplicate=0.01, choose=RandomSelector()).select(copies, 20, seed=0)
    assert sorted(selection.ids) == list(range(20))
    assert selection.record["details"]["removed"] == [{"step": "deduplicate", "frames": 20}]


def test_copies_of_held_frames_go(copies: Features) -> None:
    chain = Chain(deduplicate=0.01, choose=RandomSelector())
    assert sorted(chain.select(copies, 18, reference=[3, 27], seed=0).ids) == [
        i for i in range(20) if i not in (3, 7)
    ]


def test_nothing_chosen_is_nearer_than_the_distance() -> None:
    x = np.random.default_rng(1).normal(size=(300, 2))
    chain = Chain(deduplicate=2.0, pooling="mean", choose=Uniform(), fill=RandomSelector())
    selection = chain.select(one_atom_frames(x), 300, seed=0)
    filled = selection.record["details"]["filled"]
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    kept = z[selection.ids[: 300 - filled]]
    apart = np.linalg.norm(kept[:, None] - kept, axis=2) + 1e9 * np.eye(len(kept))
    assert 0 < filled < 300
    assert apart.min() > 2.0 * typical_distance(z) * (1 - 1e-9)
    assert np.linalg.norm(z[:, None] - kept, axis=2).min(axis=1).max() <= 2.0 * typical_distance(z) * (
        1 + 1e-9
    )


def test_fill_takes_duplicates_and_never_what_was_filtered(copies: Features) -> None:
    groups = ["a"] * 15 + ["b"] * 5 + ["a"] * 20
    filters = [Groups(without=["b"])]
    chain = Chain(filters=filters, deduplicate=0.01, choose=MaxDet(), fill=RandomSelector())
    selection = chain.select(copies, 30, groups=groups, seed=0)
    assert sorted(selection.ids[:20]) == [*range(15), *range(35, 40)]
    assert set(selection.ids[20:]) <= set(range(20, 35))
    assert selection.record["details"]["filled"] == 10
    with pytest.raises(InputError, match="Groups took out 5, deduplicate took out 15; 35 are left for 36"):
        chain.select(copies, 36, groups=groups, seed=0)


def test_too_few_frames_count_what_each_step_took_out(copies: Features) -> None:
    with pytest.raises(InputError, match=r"deduplicate took out 20; 20 are left for 21.*selector\.fill"):
        Chain(deduplicate=0.01).select(copies, 21, seed=0)


def test_filters_by_labels(pool: tuple[Features, FrameStore]) -> None:
    features, store = pool
    largest = np.array([np.linalg.norm(frame.forces, axis=1).max() for frame in store])
    limit = float(np.median(largest))
    per_atom = store.energy / store.num_atoms
    for step, allowed in (
        (MaxForce(limit), largest <= limit),
        (EnergyWindow(low=-0.1), per_atom >= -0.1),
        (EnergyWindow(high=0.75, unit="quantile"), per_atom <= np.quantile(per_atom, 0.75)),
        (Groups(only=["run0", "run2"]), np.isin(store.group, ["run0", "run2"])),
    ):
        chain = Chain(filters=[step], choose=RandomSelector())
        count = int(allowed.sum())
        ids = chain.select(features, count, frames=store, groups=store.group, seed=0).ids
        assert sorted(ids) == np.flatnonzero(allowed).tolist()
        with pytest.raises(InputError, match=f"{type(step).__name__} took out {24 - count}"):
            chain.select(features, count + 1, frames=store, groups=store.group, seed=0)


def test_outliers_go() -> None:
    x = np.random.default_rng(2).normal(size=(100, 2))
    x[[7, 60]] = [[30.0, 0.0], [0.0, -40.0]]
    chain = Chain(filters=[Outliers(share=0.02, pooling="mean")], choose=RandomSelector())
    assert sorted(chain.select(one_atom_frames(x), 98, seed=0).ids) == sorted(set(range(100)) - {7, 60})


@pytest.mark.parametrize("before", [2, 15, 22, 30])
def test_goes_on_from_its_own_beginning(before: int) -> None:
    x = np.random.default_rng(3).normal(size=(60, 2))
    filters = [Outliers(share=0.1, pooling="mean")]
    chain = Chain(filters=filters, deduplicate=3.0, choose=MaxDet(), fill=RandomSelector())
    features = one_atom_frames(x)
    whole = chain.select(features, 40, seed=5)
    assert 0 < whole.record["details"]["filled"] < 40
    rest = chain.select(features, 40 - before, reference=whole.first(before), seed=5)
    assert rest.ids.tolist() == whole.ids[before:].tolist()


def test_what_a_chain_reads_is_what_its_parts_read() -> None:
    plain = Chain(choose=RandomSelector())
    assert (plain.nested, plain.seeded, plain.uses_features, plain.uses_labels) == (True, True, False, False)
    assert not Chain(choose=KMeans()).nested
    assert not Chain(choose=MaxDet()).seeded
    assert Chain(deduplicate=0.1, choose=Uniform()).uses_features
    assert Chain(choose=FlatEnergy()).uses_labels
    assert Chain(filters=[MaxForce(5.0)], choose=Uniform()).uses_labels


def as_config(value: Any) -> Any:
    """A record's parameters in the words of a configuration file."""
    if isinstance(value, dict):
        return {"_target_" if key == "method" else key: as_config(item) for key, item in value.items()}
    return [as_config(item) for item in value] if isinstance(value, list) else value


def test_the_record_rebuilds_the_chain() -> None:
    filters = [MaxForce(5.0), EnergyWindow(0.0, 0.9, "quantile"), Groups(only=["a"]), Outliers(0.02)]
    inner = Chain(deduplicate=0.1, choose=KMeans(restarts=2))
    chain = Chain(filters=filters, deduplicate=0.3, choose=inner, fill=CPD(central=0.1))
    parameters = json.loads(json.dumps(chain.parameters()))
    assert (
        instantiate({"_target_": "msmlff.distill.chain.Chain"} | as_config(parameters), _convert_="all")
        == chain
    )


def test_the_file_and_every_filter_in_its_comments(repository: Path) -> None:
    text = (repository / "conf" / "selector" / "chain.yaml").read_text()
    assert instantiate(OmegaConf.create(text), _convert_="all") == Chain()
    lines = [line[1:] for line in text.splitlines() if line.startswith("#  - {")]
    filters = OmegaConf.create("\n".join(lines))
    names = {
        type(instantiate(item, _convert_="all")).__name__ for item in filters if item.get("only", 1) == 1
    }
    assert names == {"MaxForce", "EnergyWindow", "Outliers"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxForce(0), r"MaxForce\.limit=0"),
        (lambda: EnergyWindow(), "write a number for low"),
        (lambda: EnergyWindow(2, 1), "low=2 is above high=1"),
        (lambda: EnergyWindow(-1, 1, "quantile"), "shares from 0 to 1"),
        (lambda: EnergyWindow(1, 2, "meV"), r"EnergyWindow\.unit=meV"),
        (lambda: Groups(), "name groups"),
        (lambda: Groups(only="a"), r"\[a\]"),
        (lambda: Outliers(share=1.0), r"Outliers\.share=1"),
        (lambda: Chain(deduplicate=0), r"selector\.deduplicate=0"),
        (lambda: Chain(filters=[CPD()]), r"selector\.filters\.0"),
        (lambda: Chain(choose=None), r"selector\.choose"),
    ],
)
def test_wrong_parameters(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_unknown_groups_are_named(copies: Features) -> None:
    chain = Chain(filters=[Groups(only=["z"])], choose=RandomSelector())
    with pytest.raises(InputError, match=r"no group 'z'\. It has: a"):
        chain.select(copies, 3, groups=["a"] * 40, seed=0)
    with pytest.raises(InputError, match=r"pool\.keys\.group"):
        chain.select(copies, 3, seed=0)
