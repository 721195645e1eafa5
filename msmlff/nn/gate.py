"""The nonlinearity of NequIP."""

from __future__ import annotations

from torch import Tensor

from msmlff.nn import ops


def gate(features: Tensor, l_max: int) -> Tensor:
    """silu of the scalars; each feature of l > 0 times silu of a scalar of its own, its gate.

    The silu is normalised, as in e3nn's ``Gate`` with nequip's activations (Weiler et al., arXiv 1807.02547).

    Args:
        features: [atoms, l_max + (l_max + 1)^2, channels]: the row of l = 0, the gates of l = 1 .. l_max, the
            rows of l = 1, 2, ...
        l_max: highest l.

    Returns:
        [atoms, (l_max + 1)^2, channels].
    """
    return ops.gate(features, l_max)
