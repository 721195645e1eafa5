"""MACE (Batatia et al., arXiv 2206.07697): MS-MACE with one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msmlff.data.statistics import Statistics
from msmlff.models.msmace import MSMACE, Scale


class MACE(MSMACE):
    """MACE with the hyperparameters of mace-torch; its messages have as many channels as its features.

    Args:
        cutoff: Å.
        l_max: highest degree of the spherical harmonics (mace-torch's ``max_ell``).
        radial_mlp: hidden layers of the radial network.

    The other arguments and the errors are those of ``MSMACE``.
    """

    def __init__(  # noqa: PLR0913  (the keys of conf/model/mace.yaml, flat)
        self,
        atomic_numbers: Sequence[int],
        e0s: Mapping[int, float] | Sequence[float],
        cutoff: float,
        l_max: int = 3,
        channels: int = 32,
        hidden_l_max: int = 0,
        correlation: int = 3,
        layers: int = 2,
        num_bessel: int = 8,
        cutoff_power: int = 5,
        radial_mlp: Sequence[int] = (64, 64, 64),
        readout_hidden: int = 16,
        statistics: Statistics | Mapping[str, Any] | None = None,
        shift: str = "environment",
        residual_first: bool = False,
    ) -> None:
        super().__init__(
            atomic_numbers,
            e0s,
            [Scale(cutoff, channels, l_max, tuple(radial_mlp))],
            channels=channels,
            hidden_l_max=hidden_l_max,
            correlation=correlation,
            layers=layers,
            num_bessel=num_bessel,
            cutoff_power=cutoff_power,
            readout_hidden=readout_hidden,
            statistics=statistics,
            shift=shift,
            residual_first=residual_first,
        )

    def config(self) -> dict[str, Any]:
        config = super().config()
        (scale,) = self.scales
        del config["scales"], config["merge"]
        return {
            **config,
            "cutoff": scale.cutoff,
            "l_max": scale.l_max,
            "radial_mlp": list(scale.radial_mlp),
        }
