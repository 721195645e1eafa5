"""Optimisers and learning-rate schedules, chosen by two small dataclasses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from msmlff.errors import InputError

OPTIMIZERS = ("adam", "amsgrad", "adamw", "soap")
SCHEDULES = ("constant", "cosine", "plateau")


@dataclass(frozen=True)
class OptimizerSpec:
    """Which optimiser.

    Attributes:
        name: adam, amsgrad (Adam with AMSGrad), adamw, or soap: Adam in the eigenbasis of Shampoo's
            preconditioners (Vyas et al., arXiv 2409.11321), which pays where directions differ much in
            curvature, as they do in a loss of forces.
        lr: learning rate.
        weight_decay: acts on matrices, not on vectors.
        beta1, beta2: decay of the averages of the gradient and of its square.
        precondition_every: soap alone: steps between two updates of the eigenbasis.

    Raises:
        InputError: for an unknown name or a value out of its range.
    """

    name: str = "amsgrad"
    lr: float = 0.01
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    precondition_every: int = 10

    def __post_init__(self) -> None:
        key = "training.optimizer"
        _check(f"{key}.name", self.name, self.name in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
        _check(f"{key}.lr", self.lr, 0 < self.lr < math.inf, "a positive number")
        _check(f"{key}.weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "a number >= 0")
        _check(f"{key}.beta1", self.beta1, 0 <= self.beta1 < 1, "a number >= 0 and < 1")
        _check(f"{key}.beta2", self.beta2, 0 <= self.beta2 < 1, "a number >= 0 and < 1")
        every = self.precondition_every
        _check(f"{key}.precondition_every", every, every >= 1, "a whole number >= 1")


@dataclass(frozen=True)
class ScheduleSpec:
    """How the learning rate runs.

    Attributes:
        name: constant, cosine (down to ``lr_min_factor`` of lr) or plateau.
        warmup_steps: linear rise from 0 at the start, for every schedule.
        lr_min_factor: the lowest factor of lr.
        plateau_factor, plateau_patience: multiply lr by the factor after so many validations without a
            better score.

    Raises:
        InputError: for an unknown name or a value out of its range.
    """

    name: str = "cosine"
    warmup_steps: int = 100
    lr_min_factor: float = 0.01
    plateau_factor: float = 0.5
    plateau_patience: int = 5

    def __post_init__(self) -> None:
        key = "training.schedule"
        _check(f"{key}.name", self.name, self.name in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        _check(f"{key}.warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "a whole number >= 0")
        lowest, factor, patience = self.lr_min_factor, self.plateau_factor, self.plateau_patience
        _check(f"{key}.lr_min_factor", lowest, 0 <= lowest <= 1, "a number from 0 to 1")
        _check(f"{key}.plateau_factor", factor, 0 < factor < 1, "a number between 0 and 1")
        _check(f"{key}.plateau_patience", patience, patience >= 0, "a whole number >= 0")


def _check(key: str, value: object, good: bool, write: str) -> None:
    if not good:
        raise InputError(f"{key}={value}: write {write}")


def build_optimizer(model: nn.Module, spec: OptimizerSpec) -> Optimizer:
    """The optimiser over the model's parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if spec.name == "soap":
        from pytorch_optimizer import SOAP

        betas = (spec.beta1, spec.beta2)
        return SOAP(groups, lr=spec.lr, betas=betas, precondition_frequency=spec.precondition_every)
    cls = torch.optim.AdamW if spec.name == "adamw" else torch.optim.Adam
    return cls(groups, lr=spec.lr, betas=(spec.beta1, spec.beta2), amsgrad=spec.name == "amsgrad")


def warmup_factor(step: int, spec: ScheduleSpec) -> float:
    """Factor of lr at the (0-based) step by the linear warm-up alone."""
    return min(1.0, (step + 1) / spec.warmup_steps) if spec.warmup_steps > 0 else 1.0


def lr_factor(step: int, spec: ScheduleSpec, steps: int) -> float:
    """Factor of lr at the (0-based) ``step`` of ``steps`` for the constant and cosine schedules."""
    warm = warmup_factor(step, spec)
    if spec.name == "constant" or step < spec.warmup_steps:
        return warm
    done = (step - spec.warmup_steps) / max(1, steps - spec.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return spec.lr_min_factor + (1 - spec.lr_min_factor) * cosine


def build_schedule(optimizer: Optimizer, spec: ScheduleSpec, steps: int) -> LambdaLR | ReduceLROnPlateau:
    """The scheduler: stepped every step (constant, cosine) or every validation (plateau).

    Raises:
        InputError: for a warm-up as long as the run.
    """
    if spec.warmup_steps >= steps:
        raise InputError(
            f"training.schedule.warmup_steps={spec.warmup_steps} is not below training.steps={steps}"
        )
    if spec.name == "plateau":
        lowest = [spec.lr_min_factor * group["lr"] for group in optimizer.param_groups]
        return ReduceLROnPlateau(
            optimizer, factor=spec.plateau_factor, patience=spec.plateau_patience, min_lr=lowest
        )
    return LambdaLR(optimizer, lambda step: lr_factor(step, spec, steps))
