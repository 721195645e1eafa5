"""Committee selectors: known deviations, bands, exact budgets."""

from __future__ import annotations

import numpy as np
import pytest

from msmlff.distill.committee import AtomicUncertainty, CommitteeDeviation, energy_excess, force_deviations
from msmlff.distill.features import Features
from msmlff.distill.selector import Rules, Selector
from msmlff.errors import InputError

LAST = CommitteeDeviation(abnormal="last")


def committee_features(
    energies: list[np.ndarray] | None = None, forces: list[np.ndarray] | None = None
) -> Features:
    """energies: of each frame [atoms, models]; forces: [atoms, models, 3]; the one left out is zero."""
    given = forces if energies is None else energies
    assert given is not None
    sizes, models = [len(g) for g in given], given[0].shape[1]
    rows = np.zeros((sum(sizes), models, 4))
    if energies is not None:
        rows[:, :, 0] = np.concatenate(energies)
    if forces is not None:
        rows[:, :, 1:] = np.concatenate(forces)
    settings = {"descriptor": "CommitteePredictions", "models": models}
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Features(
        rows.reshape(len(rows), -1).astype(np.float32),
        offsets,
        np.ones(len(rows), dtype=int),
        "pool-a",
        settings,
    )


def of_deviations(frames: list[list[float]]) -> Features:
    """Frames whose atoms have these force deviations (two models at plus and minus it, along an axis)."""
    forces = []
    for i, atoms in enumerate(frames):
        f = np.zeros((len(atoms), 2, 3))
        f[:, 0, i % 3], f[:, 1, i % 3] = atoms, -np.array(atoms)
        forces.append(f + np.array([0.5, -2.0, 1.0]))
    return committee_features(forces=forces)


POOL = [[0.01, 0.02], [0.2, 0.01], [0.11, 0.12, 0.13], [0.01, 0.9], [0.05, 0.09], [0.29], [0.4, 0.4, 0.0]]


def test_force_deviation_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    forces = [rng.normal(size=(n, 5, 3)) for n in (3, 1, 4)]
    largest, rms = force_deviations(committee_features(forces=forces))
    for i, frame in enumerate(forces):
        deviation = np.zeros(len(frame))
        for atom, models in enumerate(frame):
            squares = [np.linalg.norm(f - models.mean(axis=0)) ** 2 for f in models]
            deviation[atom] = np.sqrt(np.mean(squares))
        assert largest[i] == pytest.approx(deviation.max(), rel=1e-5)
        assert rms[i] == pytest.approx(np.sqrt(np.mean(deviation**2)), rel=1e-5)


def test_candidates_first_then_redundant_then_abnormal() -> None:
    selection = LAST.select(of_deviations(POOL), 7, seed=0)
    assert selection.ids.tolist() == [5, 1, 2, 4, 0, 6, 3]
    assert selection.columns["band"].tolist() == 3 * ["candidate"] + 2 * ["redundant"] + 2 * ["abnormal"]
    np.testing.assert_allclose(selection.scores, [0.29, 0.2, 0.13, 0.09, 0.02, 0.4, 0.9], rtol=1e-5)
    details = selection.record["details"]
    assert details["bands"] == {"candidate": 3, "redundant": 2, "abnormal": 2}
    assert details["candidate_share"] == pytest.approx(3 / 7)


def test_abnormal_frames_are_never_taken_unless_asked_for() -> None:
    features = of_deviations(POOL)
    assert CommitteeDeviation().select(features, 5, seed=0).ids.tolist() == [5, 1, 2, 4, 0]
    with pytest.raises(InputError, match=r"6 frames are to be taken, and 5 have .*selector\.abnormal=last"):
        CommitteeDeviation().select(features, 6, seed=0)


def test_one_huge_force_deviation_is_abnormal_whatever_else_is_in_band() -> None:
    """DP-GEN takes such a frame when its virial is in band. Here the root mean square is."""
    features = of_deviations([[0.8] + 15 * [0.01], [0.2] * 16, [0.01] * 16])
    selector = CommitteeDeviation(score="rms")
    largest, rms = force_deviations(features)
    assert selector.low < rms[0] < selector.high < largest[0]
    assert selector.select(features, 2, seed=0).ids.tolist() == [1, 2]
    assert CommitteeDeviation(score="rms", abnormal="last").select(features, 3, seed=0).ids[-1] == 0


def test_nothing_and_everything_a_candidate() -> None:
    for deviation in (0.001, 0.2):
        features = of_deviations([[deviation + 1e-4 * i] for i in range(6)])
        assert CommitteeDeviation().select(features, 3, seed=0).ids.tolist() == [5, 4, 3]


def test_deviation_that_is_not_a_number_is_an_error() -> None:
    features = of_deviations(POOL)
    features.rows[3, 2] = np.nan
    for selector in (LAST, AtomicUncertainty()):
        with pytest.raises(InputError, match="features of frame 1 are NaN"):
            selector.select(features, 2, seed=0)


def with_outlier(atoms: int, size: float, seed: int) -> np.ndarray:
    """[atoms, 5] atomic energies; the last atom's spread is ``size`` times that of the others."""
    energies = 0.01 * np.random.default_rng(seed).normal(size=(atoms, 5))
    energies[-1] *= size
    return energies - 3.0


def test_atoms_beyond_five_sigma_of_their_own_frame_qualify() -> None:
    frames = [with_outlier(40, size, seed) for seed, size in enumerate([1, 60, 1, 5, 1])]
    frames[2] = 50 * (frames[2] + 3.0)  # all atoms uncertain alike: large, and no outlier among its own atoms
    features = committee_features(energies=frames)
    expected = []
    for frame in frames:
        u = frame.std(axis=1)
        expected.append(((u - u.mean()) / u.std()).max())
    np.testing.assert_allclose(energy_excess(features), expected, rtol=1e-3)
    selection = AtomicUncertainty().select(features, 5, seed=0)
    assert selection.ids[0] == 1
    assert selection.ids.tolist() == np.argsort(expected)[::-1].tolist()
    details = selection.record["details"]
    assert details["qualified"] == sum(e > 5 for e in expected) >= 1
    assert details["qualified_taken"] == details["qualified"]
    assert details["too_small_to_qualify"] == 0


@pytest.mark.parametrize(("atoms", "qualifies"), [(26, False), (27, True)])
def test_small_frames_cannot_qualify(atoms: int, qualifies: bool) -> None:
    """One uncertain atom among certain ones has the largest score possible, (n - 1) / sqrt(n)."""
    energies = np.zeros((atoms, 2))
    energies[0] = [1.0, -1.0]
    details = AtomicUncertainty().select(committee_features(energies=[energies]), 1, seed=0).record["details"]
    assert details["qualified"] == qualifies
    assert details["too_small_to_qualify"] == (not qualifies)


def test_frames_of_one_atom_or_of_equal_atoms_score_nothing() -> None:
    features = committee_features(energies=[np.array([[0.0, 5.0]]), np.tile([[0.1, 0.3]], (9, 1))])
    np.testing.assert_array_equal(energy_excess(features), [0.0, 0.0])


@pytest.mark.parametrize("selector", [LAST, AtomicUncertainty()])
@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        (None, 8),
        ({"descriptor": "UntrainedMACE"}, 8),
        ({"descriptor": "CommitteePredictions", "models": 3}, 8),
    ],
)
def test_features_of_another_descriptor(
    selector: Selector, settings: dict[str, object] | None, columns: int
) -> None:
    features = Features(np.ones((4, columns)), np.arange(5), np.ones(4, dtype=int), "pool-a", settings)
    with pytest.raises(InputError, match=r"write descriptor=committee descriptor\.paths="):
        selector.select(features, 2, seed=0)


@pytest.mark.parametrize("selector", [LAST, AtomicUncertainty()])
def test_seed_changes_nothing_and_held_frames_are_left_out(selector: Selector) -> None:
    rng = np.random.default_rng(8)
    frames = [0.1 * rng.normal(size=(int(rng.integers(1, 40)), 3)) for _ in range(30)]
    forces = [0.1 * rng.normal(size=(len(f), 3, 3)) for f in frames]
    features = committee_features(frames, forces)
    whole = selector.select(features, 30, seed=1)
    assert whole.ids.tolist() == selector.select(features, 30, seed=2).ids.tolist()
    reference = whole.ids[[0, 5, 6]].tolist()
    rest = selector.select(
        features, 10, reference=reference, rules=Rules(forbidden=[int(whole.ids[2])]), seed=1
    )
    expected = [i for i in whole.ids.tolist() if i not in (*reference, int(whole.ids[2]))]
    assert rest.ids.tolist() == expected[:10]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"low": 0.3, "high": 0.1}, r"selector\.low=0\.3 and selector\.high=0\.1"),
        ({"low": -1.0}, r"selector\.low"),
        ({"score": "mean"}, r"selector\.score=mean"),
        ({"abnormal": "first"}, r"selector\.abnormal=first"),
    ],
)
def test_parameters_out_of_range(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CommitteeDeviation(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"selector\.sigmas"):
        AtomicUncertainty(sigmas=0.0)
