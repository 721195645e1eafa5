"""What a MACE is made of: the keys of conf/model/*.yaml, with their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from msmlff.errors import InputError

MERGES = ("mean", "sum")
SHIFTS = ("environment", "constant", "none")
NEIGHBOR_NORMS = ("mean", "sqrt")


@dataclass(frozen=True)
class Scale:
    """One range of interaction.

    Attributes:
        cutoff: Å.
        channels: channels of the messages.
        l_max: highest degree of the spherical harmonics of the edges.
        radial_mlp: hidden layers of the radial network.
    """

    cutoff: float
    channels: int
    l_max: int
    radial_mlp: tuple[int, ...] = (64, 64, 64)

    def __post_init__(self) -> None:
        if not isinstance(self.cutoff, int | float) or not self.cutoff > 0:
            raise InputError(f"cutoff is {self.cutoff!r}; it must be a positive number of Å")
        _check_whole("channels", self.channels, 1)
        _check_whole("l_max", self.l_max, 0)
        if isinstance(self.radial_mlp, str) or not self.radial_mlp:
            raise InputError(
                f"radial_mlp is {self.radial_mlp!r}; it must be a list of one or more layer sizes"
            )
        for size in self.radial_mlp:
            _check_whole("radial_mlp", size, 1)
        object.__setattr__(self, "cutoff", float(self.cutoff))
        object.__setattr__(self, "radial_mlp", tuple(self.radial_mlp))


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What one scale and many have in common.

    Attributes:
        channels: channels of the features of the atoms.
        hidden_l_max: highest l of the features between layers.
        correlation: highest degree of the many-body product (3: four-body messages).
        layers: number of message-passing layers.
        num_bessel: Bessel functions of the radial basis.
        cutoff_power: p of the polynomial cutoff.
        readout_hidden: hidden units of the last layer's readout.
        neighbor_norm: what sums over n neighbours (on average) are divided by. "mean": n, as in MACE. "sqrt":
            the square root of n, as in NequIP (arXiv 2101.03164), which keeps the variance of a sum of terms
            of random sign. In dense matter, where n is large, all but the isotropic part of the messages, and
            with them the many-body terms, start nearly at zero under "mean".
        shift: what the statistics' shift multiplies. "environment": 1 - exp(-sum_j f(r_ij)), f the cutoff of
            the shortest scale: one inside matter, and zero for an isolated atom, whose energy then is exactly
            its E0. "constant": one, as in mace-torch; an isolated atom then has E0 + shift. "none": no shift.
        residual_first: give the first layer a skip connection from the embedding, too, as mace-torch does
            with a residual first interaction. An isolated atom's energy then is not its E0.

    Raises:
        InputError: a value out of its range, with its key.
    """

    channels: int = 32
    hidden_l_max: int = 0
    correlation: int = 3
    layers: int = 2
    num_bessel: int = 8
    cutoff_power: int = 5
    readout_hidden: int = 16
    neighbor_norm: str = "mean"
    shift: str = "environment"
    residual_first: bool = False

    def __post_init__(self) -> None:
        for key in ("channels", "correlation", "layers", "num_bessel", "cutoff_power", "readout_hidden"):
            _check_whole(f"model.{key}", getattr(self, key), 1)
        _check_whole("model.hidden_l_max", self.hidden_l_max, 0)
        _check_choice("model.neighbor_norm", self.neighbor_norm, NEIGHBOR_NORMS)
        _check_choice("model.shift", self.shift, SHIFTS)
        if not isinstance(self.residual_first, bool):
            raise InputError(f"model.residual_first is {self.residual_first!r}; write true or false")

    def to_dict(self) -> dict[str, Any]:
        """``_target_`` and every key, as JSON takes them."""
        content = asdict(self, dict_factory=lambda items: {k: _listed(v) for k, v in items})
        return {"_target_": f"msmlff.models.{type(self).__name__}", **content}

    def _check_l(self, scales: tuple[Scale, ...]) -> None:
        highest = max(scale.l_max for scale in scales)
        if self.hidden_l_max > highest:
            raise InputError(
                f"model.hidden_l_max is {self.hidden_l_max}, above the scales' highest l_max of {highest}: "
                "lower it or raise l_max of a scale"
            )


@dataclass(frozen=True, kw_only=True)
class MSMACEArchitecture(Architecture):
    """Keys of conf/model/msmace.yaml.

    Attributes:
        scales: the ranges, any number and order; each a ``Scale`` or its fields as a mapping.
        merge: "mean" or "sum" of the scales' A-bases.
    """

    scales: tuple[Scale, ...]
    merge: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("model.merge", self.merge, MERGES)
        object.__setattr__(self, "scales", tuple(_scale(i, s) for i, s in enumerate(self.scales)))
        if not self.scales:
            raise InputError(
                "model.scales is empty; give one or more, as {cutoff: 3.5, channels: 16, l_max: 3}"
            )
        self._check_l(self.scales)


@dataclass(frozen=True, kw_only=True)
class MACEArchitecture(Architecture):
    """Keys of conf/model/mace.yaml, the hyperparameters of mace-torch: messages are as wide as features.

    Attributes:
        cutoff: Å.
        l_max: highest degree of the spherical harmonics (mace-torch's ``max_ell``).
        radial_mlp: hidden layers of the radial network.
    """

    cutoff: float
    l_max: int = 3
    radial_mlp: tuple[int, ...] = (64, 64, 64)
    merge: ClassVar[str] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_l(self.scales)
        object.__setattr__(self, "radial_mlp", self.scales[0].radial_mlp)

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The one range."""
        try:
            return (Scale(self.cutoff, self.channels, self.l_max, self.radial_mlp),)
        except InputError as error:
            raise InputError(f"model.{error}") from None


def _scale(index: int, given: Scale | Mapping[str, Any]) -> Scale:
    if isinstance(given, Scale):
        return given
    try:
        return Scale(**given)
    except InputError as error:
        raise InputError(f"model.scales[{index}].{error}") from None
    except TypeError as error:
        known = ", ".join(f.name for f in fields(Scale))
        raise InputError(f"model.scales[{index}] is {given}; a scale's keys are {known}") from error


def _check_whole(key: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{key} is {value!r}; it must be a whole number of at least {least}")


def _check_choice(key: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{key} is {value!r}; choose one of {', '.join(choices)}")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
