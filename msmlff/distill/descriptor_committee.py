"""What each model of a committee predicts for every atom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msmlff.data.array_folder import file_sha256
from msmlff.data.model_path import model_file
from msmlff.data.store import FrameStore
from msmlff.distill.committee import KIND
from msmlff.distill.descriptors import (
    DESCRIPTOR_VERSION,
    Compute,
    DeviceDescriptor,
    batched,
    check_species,
    dtype_of,
)
from msmlff.errors import InputError

if TYPE_CHECKING:
    import torch

    from msmlff.data.batch import Batch
    from msmlff.models.base import ForceField


@dataclass(frozen=True)
class CommitteePredictions(DeviceDescriptor):
    """Rows [atoms, 4 M] for M models: of each in turn the atomic energy (eV) and the force (eV/Å).

    Atomic energies are counted from the E0 of the FIRST model: energies of isolated atoms would cost the
    digits in which the models differ, and models whose E0s differ stay comparable.

    Attributes:
        paths: run folders or .safetensors files of two or more models of the same elements.
        dtype: of the computation, "float32" or "float64" (rows are kept in float32).

    Raises:
        InputError: fewer than two models; when features are asked for, a file that is not there or given
            twice, or models of different elements.
    """

    paths: Sequence[str]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        paths = (self.paths,) if isinstance(self.paths, str | Path) else tuple(str(p) for p in self.paths)
        object.__setattr__(self, "paths", paths)
        if len(paths) < 2:
            raise InputError(
                f"descriptor.paths has {len(paths)} model: a committee needs two or more that differ in seed "
                "or training data, descriptor.paths=[runs/a,runs/b,...]"
            )

    def settings(self) -> dict[str, Any]:
        hashes = [file_sha256(file) for file in self._files()]
        for i, digest in enumerate(hashes):
            first = hashes.index(digest)
            if first < i:
                raise InputError(
                    f"descriptor.paths: {self.paths[first]} and {self.paths[i]} are the same model, which "
                    "always agrees with itself: give each once"
                )
        return {
            "descriptor": KIND,
            "models": len(hashes),
            "sha256": hashes,
            "dtype": self.dtype,
            "version": DESCRIPTOR_VERSION,
        }

    def compute(self, frames: FrameStore) -> Compute:
        import torch

        from msmlff.models.files import load_model

        device = self._device()
        models = [
            load_model(file, dtype_of(self.dtype), device).requires_grad_(False) for file in self._files()
        ]
        for path, model in zip(self.paths, models, strict=True):
            check_species(KIND, model, frames)
            if model.atomic_numbers != models[0].atomic_numbers:
                raise InputError(
                    f"descriptor.paths: {path} knows the elements {list(model.atomic_numbers)}, "
                    f"{self.paths[0]} {list(models[0].atomic_numbers)}: a committee needs models of the same"
                )
        e0s = torch.tensor(models[0].e0s, dtype=torch.float64, device=device)

        def rows(batch: Batch) -> torch.Tensor:
            batch = batch.to(device)
            return torch.cat([_predictions(model, batch, e0s) for model in models], dim=1)

        return batched(frames, models[0].atomic_numbers, max(m.cutoff for m in models), rows)

    def _files(self) -> list[Path]:
        return [model_file(path, "descriptor.paths") for path in self.paths]


def _predictions(model: ForceField, batch: Batch, e0s: torch.Tensor) -> torch.Tensor:
    """[atoms, 4] float64: atomic energy without ``e0s`` [species], force."""
    import torch

    prediction = model(batch, forces=True, create_graph=False)
    assert prediction.forces is not None
    energies = prediction.atomic_energies - e0s[batch.species]
    return torch.cat([energies.unsqueeze(1), prediction.forces], dim=1).detach()
