"""What a model is made of: the keys of conf/model/*.yaml, with their checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from msmlff.errors import InputError
from msmlff.models.pair_terms import Dispersion

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
        check_whole("channels", self.channels, 1)
        check_whole("l_max", self.l_max, 0)
        if isinstance(self.radial_mlp, str) or not self.radial_mlp:
            raise InputError(
                f"radial_mlp is {self.radial_mlp!r}; it must be a list of one or more layer sizes"
            )
        for size in self.radial_mlp:
            check_whole("radial_mlp", size, 1)
        object.__setattr__(self, "cutoff", float(self.cutoff))
        object.__setattr__(self, "radial_mlp", tuple(self.radial_mlp))


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """Base of every model's architecture: a dataclass whose fields are the keys of conf/model/NAME.yaml.

    Attributes:
        cutoff_power: p of the polynomial cutoff.
        shift: what the statistics' shift multiplies. "environment": 1 - exp(-sum_j f(r_ij)), f the cutoff of
            the shortest scale: one inside matter, and zero for an isolated atom, whose energy then is exactly
            its E0. "constant": one, as in mace-torch; an isolated atom then has E0 + shift. "none": no shift.
        zbl: add the ZBL repulsion of the cores.
        dispersion: add dispersion as D3(BJ) has it; a ``Dispersion`` or its keys as a mapping; None: none.

    Raises:
        InputError: a value out of its range, with its key.
    """

    cutoff_power: int = 5
    shift: str = "environment"
    zbl: bool = False
    dispersion: Dispersion | None = None

    def __post_init__(self) -> None:
        check_whole("model.cutoff_power", self.cutoff_power, 2)  # less, and forces jump at the cutoff
        check_choice("model.shift", self.shift, SHIFTS)
        if not isinstance(self.zbl, bool):
            raise InputError(f"model.zbl is {self.zbl!r}; write true or false")
        object.__setattr__(self, "dispersion", _dispersion(self.dispersion))

    @property
    @abstractmethod
    def cutoffs(self) -> tuple[float, ...]:
        """Å, of the network, one a scale."""

    @property
    @abstractmethod
    def scale_facts(self) -> list[dict[str, Any]]:
        """What is told of each scale: its cutoff and its size."""

    def for_species(self, atomic_numbers: Sequence[int]) -> Self:
        """The same with all that must be looked up for these species."""
        if self.dispersion is None:
            return self
        return replace(self, dispersion=self.dispersion.for_species(atomic_numbers))

    def to_dict(self) -> dict[str, Any]:
        """``_target_`` and every key, as JSON takes them."""
        content = asdict(self, dict_factory=lambda items: {k: _listed(v) for k, v in items})
        return {"_target_": f"msmlff.models.{type(self).__name__}", **content}


@dataclass(frozen=True, kw_only=True)
class MessagePassingArchitecture(Architecture):
    """What models of the MACE and of the NequIP family have in common.

    Attributes:
        channels: channels of the features of the atoms.
        layers: number of message-passing layers.
        num_bessel: Bessel functions of the radial basis.
        neighbor_norm: what sums over n neighbours (on average) are divided by. "mean": n, as in MACE. "sqrt":
            the square root of n, as in NequIP (arXiv 2101.03164), which keeps the variance of a sum of terms
            of random sign. In dense matter, where n is large, all but the isotropic part of the messages, and
            with them the many-body terms, start nearly at zero under "mean".
    """

    channels: int = 32
    layers: int = 2
    num_bessel: int = 8
    neighbor_norm: str = "mean"

    if TYPE_CHECKING:  # at run time a property here would be the default of a field of its name

        @property
        def scales(self) -> tuple[Scale, ...]: ...

        @property
        def hidden_l_max(self) -> int: ...

        @property
        def merge(self) -> str: ...

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("channels", "layers", "num_bessel"):
            check_whole(f"model.{key}", getattr(self, key), 1)
        check_choice("model.neighbor_norm", self.neighbor_norm, NEIGHBOR_NORMS)
        check_choice("model.merge", self.merge, MERGES)
        highest = max(scale.l_max for scale in self.scales)
        check_whole("model.hidden_l_max", self.hidden_l_max, 0)
        if self.hidden_l_max > highest:
            raise InputError(
                f"model.hidden_l_max is {self.hidden_l_max}, above the scales' highest l_max of {highest}: "
                "lower it or raise l_max of a scale"
            )

    @property
    def cutoffs(self) -> tuple[float, ...]:
        return tuple(scale.cutoff for scale in self.scales)

    @property
    def scale_facts(self) -> list[dict[str, Any]]:
        return [{"cutoff": s.cutoff, "channels": s.channels, "l_max": s.l_max} for s in self.scales]


@dataclass(frozen=True, kw_only=True)
class MACEKeys(MessagePassingArchitecture):
    """What MACE and MS-MACE have in common.

    Attributes:
        hidden_l_max: highest l of the features between layers.
        correlation: highest degree of the many-body product (3: four-body messages).
        readout_hidden: hidden units of the last layer's readout.
        residual_first: give the first layer a skip connection from the embedding, too, as mace-torch does
            with a residual first interaction. An isolated atom's energy then is not its E0.
    """

    hidden_l_max: int = 0
    correlation: int = 3
    readout_hidden: int = 16
    residual_first: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("model.correlation", self.correlation, 1)
        check_whole("model.readout_hidden", self.readout_hidden, 1)
        if not isinstance(self.residual_first, bool):
            raise InputError(f"model.residual_first is {self.residual_first!r}; write true or false")


@dataclass(frozen=True, kw_only=True)
class MSMACEArchitecture(MACEKeys):
    """Keys of conf/model/msmace.yaml.

    Attributes:
        scales: the ranges, any number and order; each a ``Scale`` or its fields as a mapping.
        merge: "mean" or "sum" of the scales' A-bases.
    """

    scales: tuple[Scale, ...]
    merge: str = "mean"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", _scales(self.scales))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class MACEArchitecture(MACEKeys):
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
        object.__setattr__(self, "radial_mlp", self.scales[0].radial_mlp)

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The one range."""
        return _one_scale(self.cutoff, self.channels, self.l_max, self.radial_mlp)


@dataclass(frozen=True, kw_only=True)
class NequIPKeys(MessagePassingArchitecture):
    """What NequIP and MS-NequIP have in common; the defaults are those of the nequip package.

    Attributes:
        readout_hidden: hidden units of the readout of the last layer; 0: a linear readout.
    """

    layers: int = 4
    cutoff_power: int = 6
    neighbor_norm: str = "sqrt"
    readout_hidden: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("model.readout_hidden", self.readout_hidden, 0)


@dataclass(frozen=True, kw_only=True)
class MSNequIPArchitecture(NequIPKeys):
    """Keys of conf/model/msnequip.yaml.

    Attributes:
        scales: the ranges, any number and order; each a ``Scale`` or its fields as a mapping.
        merge: "mean" or "sum" of the scales' messages.
        hidden_l_max: highest l of the features between layers.
    """

    scales: tuple[Scale, ...]
    merge: str = "mean"
    hidden_l_max: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", _scales(self.scales))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class NequIPArchitecture(NequIPKeys):
    """Keys of conf/model/nequip.yaml, the hyperparameters of the nequip package: messages are as wide as
    features, and one l_max holds for both.

    Attributes:
        cutoff: Å (nequip's ``r_max``).
        l_max: highest degree of the spherical harmonics and of the features between layers.
        radial_mlp: hidden layers of the radial network.
    """

    cutoff: float
    l_max: int = 1
    radial_mlp: tuple[int, ...] = (128,)
    merge: ClassVar[str] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "radial_mlp", self.scales[0].radial_mlp)

    @property
    def hidden_l_max(self) -> int:
        """Highest l of the features between layers."""
        return self.l_max

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The one range."""
        return _one_scale(self.cutoff, self.channels, self.l_max, self.radial_mlp)


def _one_scale(cutoff: float, channels: int, l_max: int, radial_mlp: tuple[int, ...]) -> tuple[Scale]:
    try:
        return (Scale(cutoff, channels, l_max, radial_mlp),)
    except InputError as error:
        raise InputError(f"model.{error}") from None


def _scales(given: Sequence[Scale | Mapping[str, Any]]) -> tuple[Scale, ...]:
    if not given:
        raise InputError("model.scales is empty; give one or more, as {cutoff: 3.5, channels: 16, l_max: 3}")
    if isinstance(given, str | Mapping):
        raise InputError(
            f"model.scales is {given!r}; give a list, as [{{cutoff: 3.5, channels: 16, l_max: 3}}]"
        )
    return tuple(_scale(i, s) for i, s in enumerate(given))


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


def _dispersion(given: Dispersion | Mapping[str, Any] | None) -> Dispersion | None:
    if given is None or isinstance(given, Dispersion):
        return given
    try:
        return Dispersion(**given)
    except TypeError as error:
        known = ", ".join(f.name for f in fields(Dispersion) if f.name != "table")
        raise InputError(
            f"model.dispersion is {given!r}; write null or, as {{functional: pbe, cutoff: 12.0}}, its keys, "
            f"which are {known}"
        ) from error


def check_whole(key: str, value: Any, least: int) -> None:
    """Raises InputError, with the key, for anything but a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{key} is {value!r}; it must be a whole number of at least {least}")


def check_choice(key: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises InputError, with the key, for anything but one of the choices."""
    if value not in choices:
        raise InputError(f"{key} is {value!r}; choose one of {', '.join(choices)}")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
