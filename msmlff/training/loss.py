"""Losses on energy per atom, forces and stress: NaN-masked, weighted, scheduled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.errors import InputError
from msmlff.models.base import Prediction

TARGETS = ("energy", "forces", "stress")
KINDS = ("mse", "mae", "huber")


@dataclass(frozen=True)
class LossTerm:
    """One target of the loss.

    Attributes:
        kind: "mse", "mae" or "huber".
        weight: factor of the term; None means ``auto``: the default weight where the pool carries the label,
            0 where it does not.
        delta: where "huber" turns from quadratic to linear, in the unit of the residual (eV/atom, eV/Å,
            eV/Å³).
    """

    kind: str = "mse"
    weight: float | None = None
    delta: float = 0.01


AUTO_WEIGHT = {"energy": 10.0, "forces": 100.0, "stress": 10.0}


@dataclass(frozen=True)
class LossStage:
    """From the fraction ``start`` of all steps on, the weights named here replace the terms' own.

    A target whose own weight is ``auto`` keeps 0 where the pool does not carry its label.
    """

    start: float
    weights: dict[str, float]


@dataclass(frozen=True)
class LossSpec:
    """The loss: its terms, its late stages, and factors of the frames' weights by group.

    A group may be named by a number: 1.1 is the group "1.10".
    """

    energy: LossTerm = field(default_factory=LossTerm)
    forces: LossTerm = field(default_factory=LossTerm)
    stress: LossTerm = field(default_factory=LossTerm)
    stages: list[LossStage] = field(default_factory=list)
    group_weights: dict[str | float, float] | None = None

    def __post_init__(self) -> None:
        for name, factor in (self.group_weights or {}).items():
            if factor < 0:
                raise InputError(f"training.loss.group_weights.{name}={factor}: write a number >= 0")

    def term(self, target: str) -> LossTerm:
        """The term of "energy", "forces" or "stress"."""
        return {"energy": self.energy, "forces": self.forces, "stress": self.stress}[target]


def group_factor(weights: Mapping[str | float, float] | None, group: str) -> float:
    """Factor of the weights of a group's frames; 1 for a group without one."""
    return next((factor for name, factor in (weights or {}).items() if _is_group(name, group)), 1.0)


def check_groups(weights: Mapping[str | float, float] | None, groups: Iterable[str]) -> None:
    """Raises InputError for a weight of a group that is not among ``groups``."""
    known = sorted(set(groups))
    for name in weights or {}:
        if not any(_is_group(name, group) for group in known):
            raise InputError(
                f"training.loss.group_weights: no training frame is of group {name!r}; groups: "
                f"{', '.join(known[:30])}"
            )


def _is_group(name: str | float, group: str) -> bool:
    if isinstance(name, str):
        return name == group
    try:
        return float(group) == name
    except ValueError:
        return False


class Loss:
    """Weighted sum of the terms; callable as ``loss(prediction, batch, progress)``.

    Args:
        spec: terms, stages and group weights.
        available: which of energy, forces, stress the training frames carry.

    Raises:
        InputError: for an unknown kind, a stage out of (0, 1), a positive weight whose label never occurs, or
            weights that are all zero at some time.
    """

    def __init__(self, spec: LossSpec, available: Sequence[str]) -> None:
        self.spec = spec
        self.base = {target: self._base_weight(target, spec.term(target), available) for target in TARGETS}
        for stage in spec.stages:
            _check_stage(stage, spec, available)
        self.available = available
        self.stages = sorted(spec.stages, key=lambda stage: stage.start)
        if not any(self.base.values()):
            raise InputError("training.loss: every weight is zero; set training.loss.forces.weight, say")
        for stage in self.stages:
            if not any(self.weights(stage.start).values()):
                raise InputError(
                    f"training.loss.stages: every weight is zero from start={stage.start} on; write one > 0"
                )

    @staticmethod
    def _base_weight(target: str, term: LossTerm, available: Sequence[str]) -> float:
        key = f"training.loss.{target}"
        if term.kind not in KINDS:
            raise InputError(f"{key}.kind={term.kind}: write one of {', '.join(KINDS)}")
        if term.kind == "huber" and not term.delta > 0:
            raise InputError(f"{key}.delta={term.delta}: write a positive number")
        if term.weight is None:
            return AUTO_WEIGHT[target] if target in available else 0.0
        if not term.weight >= 0:
            raise InputError(f"{key}.weight={term.weight}: write a number >= 0, or null for automatic")
        if term.weight > 0 and target not in available:
            raise InputError(
                f"{key}.weight={term.weight}, but no training frame carries {target}: set {key}.weight=0 "
                f"or name the label with pool.keys.{target}"
            )
        return float(term.weight)

    def weights(self, progress: float) -> dict[str, float]:
        """The weights at ``progress`` (the fraction of all steps done, 0 to 1)."""
        weights = dict(self.base)
        for stage in self.stages:
            if progress >= stage.start:
                weights.update({t: float(w) for t, w in stage.weights.items() if t in self.available})
        return weights

    def uses(self, target: str) -> bool:
        """Whether the target has weight at any time."""
        return any(self.weights(start)[target] > 0 for start in (0.0, *(s.start for s in self.stages)))

    def __call__(self, prediction: Prediction, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The loss and its parts, {"loss", "energy", "forces", "stress"}: float64 scalars."""
        weights = self.weights(progress)
        parts: dict[str, Tensor] = {}
        for target in TARGETS:
            if weights[target] > 0:
                parts[target] = self._mean(target, *residual(target, prediction, batch))
        parts["loss"] = torch.stack([weights[t] * parts[t] for t in parts]).sum()
        return parts

    def _mean(self, target: str, error: Tensor, labelled: Tensor, weight: Tensor) -> Tensor:
        """Weighted mean over the labelled entries of frames with weight."""
        counted = labelled & (weight > 0)
        error = torch.where(counted, error, 0.0)
        term = self.spec.term(target)
        if term.kind == "mse":
            values = error.square()
        elif term.kind == "mae":
            values = error.abs()
        else:
            values = torch.nn.functional.huber_loss(
                error, torch.zeros_like(error), delta=term.delta, reduction="none"
            )
        return (weight * values).sum() / counted.sum().clamp_min(1)


def _check_stage(stage: LossStage, spec: LossSpec, available: Sequence[str]) -> None:
    if not 0 < stage.start < 1:
        raise InputError(
            f"training.loss.stages: start={stage.start} is not between 0 and 1 (a share of the steps)"
        )
    for target, weight in stage.weights.items():
        if target not in TARGETS:
            raise InputError(f"training.loss.stages: unknown target '{target}'; write {', '.join(TARGETS)}")
        if not weight >= 0:
            raise InputError(f"training.loss.stages: weight {weight} of {target}: write a number >= 0")
        if weight > 0 and target not in available and spec.term(target).weight is not None:
            raise InputError(
                f"training.loss.stages: {target} has the weight {weight}, but no training frame carries "
                f"{target}: take it out of the stages or name the label with pool.keys.{target}"
            )


def residual(target: str, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction minus label, where there is a label, and the frames' weights.

    The label alone decides: a prediction that is not finite is an error that is not finite.

    Returns:
        The errors, [frames] eV/atom for energy, [atoms, 3] eV/Å for forces, [frames, 3, 3] eV/Å³ for stress,
        0 where there is no label; whether there is one, of the same shape; weights of a shape that
        broadcasts.
    """
    weight = batch.weight if batch.weight is not None else torch.ones_like(batch.cell[:, 0, 0])
    if target == "forces":
        weight = weight[batch.frame, None]
    elif target == "stress":
        weight = weight[:, None, None]
    label, value = getattr(batch, target), getattr(prediction, target)
    labelled = torch.isfinite(label)
    error = torch.where(labelled, value - label, 0.0)
    # a padding frame may have no atoms
    return (error / batch.atom_ptr.diff().clamp(min=1) if target == "energy" else error), labelled, weight
