"""Selectors for the frames on which the models of a committee disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from msmlff.distill.features import Features
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.errors import InputError

KIND = "CommitteePredictions"  # the descriptor whose rows these selectors read
COLUMNS = 4  # of each model: atomic energy (eV), force (eV/Å)
CANDIDATE, REDUNDANT, ABNORMAL = "candidate", "redundant", "abnormal"


@dataclass(frozen=True)
class CommitteeDeviation(Selector):
    """Force deviation of a committee, within a band (arXiv 2312.09490; the loop of DP-GEN).

    The deviation of an atom is the root of the mean over models of the squared difference between a model's
    force vector and the mean one. A frame is abnormal when the largest deviation of its atoms is above
    ``high``, whatever else is said of it; else a candidate when its score is at least ``low``; else
    redundant. Candidates are taken first, then redundant frames, each by the largest score; so the budget
    is met. Abnormal frames are taken last, from the smallest deviation, or never. Ties go to the lowest id.

    Held frames are not taken again and have no other influence: a deviation belongs to the frame alone. With
    near-duplicates in the pool, put a filter before it (selector=chain).

    Attributes:
        low: eV/Å, below it a frame has nothing to teach.
        high: eV/Å, above it a frame is taken to be unphysical.
        score: over a frame's atoms, "max" (largest deviation) or "rms" (root of the mean squared one).
        abnormal: "never", or "last": after all others.

    Raises:
        InputError: a parameter out of its range; in ``select``: features of another descriptor, or too few
            frames that are not abnormal.
    """

    seeded: ClassVar[bool] = False
    low: float = 0.1
    high: float = 0.3
    score: str = "max"
    abnormal: str = "never"

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise InputError(
                f"selector.low={self.low} and selector.high={self.high}: write 0 <= low < high, in eV/Å"
            )
        for name, known in {"score": ("max", "rms"), "abnormal": ("never", "last")}.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"selector.{name}={getattr(self, name)} is unknown: write one of {', '.join(known)}"
                )

    def pick(self, task: Task) -> Picks:
        """Candidates, then redundant frames, then, if they may be, abnormal ones."""
        largest, rms = force_deviations(task.features)
        score = largest if self.score == "max" else rms
        band = np.where(score >= self.low, CANDIDATE, REDUNDANT).astype("<U9")
        band[largest > self.high] = ABNORMAL
        ids = task.candidates
        usual, odd = ids[band[ids] != ABNORMAL], ids[band[ids] == ABNORMAL]
        if self.abnormal == "never" and task.count > len(usual):
            raise InputError(
                f"{task.count} frames are to be taken, and {len(usual)} have no force deviation above "
                f"selector.high={self.high} eV/Å: lower the budget, raise selector.high, or write "
                "selector.abnormal=last"
            )
        usual = usual[np.argsort(-score[usual], kind="stable")]  # puts candidates before redundant frames
        odd = odd[np.argsort(largest[odd], kind="stable")]
        numbers = {name: int((band[ids] == name).sum()) for name in (CANDIDATE, REDUNDANT, ABNORMAL)}
        details = {
            "models": _models(task.features),
            "bands": numbers,
            "candidate_share": numbers[CANDIDATE] / len(ids),
        }
        chosen = np.concatenate([usual, odd])[: task.count]
        return Picks(chosen, pool_scores=score, pool_columns={"band": band}, details=details)


@dataclass(frozen=True)
class AtomicUncertainty(Selector):
    """Atoms on which a committee disagrees more than on the rest of their frame (Jung, Lee, Choi, arXiv
    2311.05407).

    The uncertainty u_i of an atom is the standard deviation of its atomic energy over the models. A frame's
    score is max_i (u_i - mean) / sigma, with mean and standard deviation sigma of u over that frame's own
    atoms; 0 where all atoms are alike. A frame qualifies when its score exceeds ``sigmas``. Frames are taken
    by the largest score, so those that qualify come first and the budget is met; the record counts them. Ties
    go to the lowest id.

    The score of a frame of n atoms is at most (n - 1) / sqrt(n): above 5 only from 27 atoms on. Held frames
    are not taken again and have no other influence.

    Attributes:
        sigmas: score above which a frame qualifies.

    Raises:
        InputError: a parameter out of its range; in ``select``: features of another descriptor.
    """

    seeded: ClassVar[bool] = False
    sigmas: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.sigmas < float("inf"):
            raise InputError(f"selector.sigmas={self.sigmas}: write a positive number")

    def pick(self, task: Task) -> Picks:
        """The largest scores."""
        score = energy_excess(task.features)
        ids = task.candidates[np.argsort(-score[task.candidates], kind="stable")][: task.count]
        atoms = task.features.num_atoms
        details = {
            "models": _models(task.features),
            "qualified": int((score[task.candidates] > self.sigmas).sum()),
            "qualified_taken": int((score[ids] > self.sigmas).sum()),
            "too_small_to_qualify": int(((atoms - 1) / np.sqrt(atoms) <= self.sigmas).sum()),
        }
        return Picks(ids, pool_scores=score, details=details)


def force_deviations(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Largest and root mean square over a frame's atoms of the force deviation; [frames] eV/Å each.

    Raises:
        InputError: features of another descriptor.
    """
    models = _models(features)

    def make() -> tuple[np.ndarray, np.ndarray]:
        largest, mean_square = np.empty(len(features)), np.empty(len(features))
        for start, stop in features.blocks():
            forces = _predictions(features, start, stop, models)[:, :, 1:]
            squares = ((forces - forces.mean(axis=1, keepdims=True)) ** 2).sum(axis=2).mean(axis=1)
            first = features.offsets[start:stop] - features.offsets[start]
            largest[start:stop] = np.sqrt(np.maximum.reduceat(squares, first))
            mean_square[start:stop] = np.add.reduceat(squares, first) / features.num_atoms[start:stop]
        return largest, np.sqrt(mean_square)

    return features.remember("force_deviations", make)


def energy_excess(features: Features) -> np.ndarray:
    """[frames] max_i (u_i - mean) / sigma over a frame's atoms; u: deviation of the atomic energies.

    Raises:
        InputError: features of another descriptor.
    """
    models = _models(features)

    def make() -> np.ndarray:
        excess = np.zeros(len(features))
        for start, stop in features.blocks():
            u = _predictions(features, start, stop, models)[:, :, 0].std(axis=1)
            first = features.offsets[start:stop] - features.offsets[start]
            count = features.num_atoms[start:stop]
            mean = np.add.reduceat(u, first) / count
            deviation = u - np.repeat(mean, count)
            sigma = np.sqrt(np.add.reduceat(deviation**2, first) / count)
            largest = np.maximum.reduceat(deviation, first)
            differ = sigma > 1e-9 * mean  # less is rounding of equal numbers
            excess[start:stop][differ] = largest[differ] / sigma[differ]
        return excess

    return features.remember("energy_excess", make)


def _predictions(features: Features, start: int, stop: int, models: int) -> np.ndarray:
    """[atoms, models, 4] float64 of a block of frames."""
    rows = features.rows[features.offsets[start] : features.offsets[stop]]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), models, COLUMNS)


def _models(features: Features) -> int:
    """Models of the committee whose predictions the features are."""
    settings = features.descriptor or {}
    models = int(settings.get("models", 0))
    if settings.get("descriptor") != KIND or models < 2 or features.rows.shape[1] != COLUMNS * models:
        raise InputError(
            f"the features are those of {settings.get('descriptor', 'no descriptor')}, and this selector "
            "reads predictions of a committee: write descriptor=committee "
            "descriptor.paths=[runs/a,runs/b,...]"
        )
    return models
