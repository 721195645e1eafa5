"""The nonlinearity of NequIP."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from msmlff.nn.radial import SILU_SCALE


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
    scalars = functional.silu(features[:, : l_max + 1]) * SILU_SCALE
    parts = features[:, l_max + 1 :].split([2 * l + 1 for l in range(1, l_max + 1)], dim=1)
    gated = [part * scalars[:, l : l + 1] for l, part in enumerate(parts, start=1)]
    return torch.cat([scalars[:, :1], *gated], dim=1) if gated else scalars
