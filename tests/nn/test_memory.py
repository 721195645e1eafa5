"""What a model keeps of each edge for the backward passes, by the backend of its operations."""

from __future__ import annotations

import pytest
import torch
from systems import ethanol, make_batch
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.models import MACE, MACEArchitecture
from msmlff.nn import ops
from msmlff.nn.ops.backends import BACKENDS

FUSED = [name for name in ("torch", "cpu", "triton") if BACKENDS[name].missing("cpu") is None]
#: Of two layers with 64 radial functions: phi, in training its gradients, too, and the geometry. With a
#: radial network of three layers by plain autograd they are 474 to 531, and above 3000 in training.
MOST = {"forces": 200, "training": 500}


def numbers_kept(model: MACE, batch: Batch, training: bool) -> float:
    """Numbers an edge in tensors saved for backward passes, of those with a row for every edge or pair."""
    kept: dict[int, tuple[float, object]] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.dim() and len(tensor) >= batch.num_edges // 2:
            storage = tensor.untyped_storage()  # held, or its address would be used again
            kept[storage.data_ptr()] = storage.nbytes() / tensor.element_size(), storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch, create_graph=training)
    return sum(numbers for numbers, _ in kept.values()) / batch.num_edges


@pytest.mark.parametrize(
    ("backend", "device"),
    [*((name, "cpu") for name in FUSED), pytest.param("triton", "cuda", marks=pytest.mark.gpu)],
)
def test_hidden_layers_of_the_radial_network_are_not_kept(backend: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(0)
    architecture = MACEArchitecture(
        cutoff=5.0, l_max=1, channels=8, hidden_l_max=1, correlation=1, radial_mlp=(64, 64, 64)
    )
    model = MACE((1, 6, 8), (0.0, 0.0, 0.0), architecture).to(device)
    batch = make_batch(model, ethanol(0), ethanol(1)).to(device)
    assert batch.num_edges // 2 > 64  # or weights would be taken for edges
    with ops.use_backend(backend):
        kept = {name: numbers_kept(model, batch, name == "training") for name in MOST}
    assert all(kept[name] < MOST[name] for name in MOST), kept
