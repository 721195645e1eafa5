"""Descriptors: invariant features of every atom of a pool, from the layers of a MACE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msmlff.data.array_folder import file_sha256
from msmlff.data.model_path import model_file
from msmlff.data.store import FrameStore
from msmlff.distill.feature_cache import Job, cache_folder, cached_rows
from msmlff.distill.features import Features
from msmlff.errors import InputError

if TYPE_CHECKING:
    # torch, e3nn and vesin take seconds to import, and cached features need none of them.
    import torch

    from msmlff.data.batch import Batch
    from msmlff.models.base import ForceField

DESCRIPTOR_VERSION = 1
"""Of the code that makes the numbers: raise it whenever the features of the same model change, so that those
cached before are computed again. A test holds some numbers of this version."""

Compute = Callable[[range], np.ndarray]

BATCH_ATOMS = {"cpu": 512, "cuda": 8192}  # larger ones gain nothing on a CPU and leave its cache
NEIGHBOR_FRAMES = 100  # frames in which neighbours are counted


@dataclass(frozen=True)
class Descriptor(ABC):
    """Turns frames into features, once: the rows are kept beside the pool under the hash of pool and
    settings."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that decides the numbers, JSON-serialisable; goes into the Selection's record."""

    @abstractmethod
    def compute(self, frames: FrameStore) -> Compute:
        """A function from a range of frames to the features [atoms of those frames, F] of their atoms."""

    @property
    def batch_atoms(self) -> int:
        """Atoms of a batch, about; a larger frame is a batch of its own."""
        return BATCH_ATOMS["cpu"]

    def __call__(self, frames: FrameStore, *, verify: bool = False) -> Features:
        """Features of all frames, memory-mapped from the pool's cache folder; computed there when they
        are missing.

        Args:
            frames: the pool.
            verify: read features that are there and compare their checksum, not their size alone.

        Raises:
            InputError: features that are NaN or infinite, elements the model does not know.
        """
        settings = self.settings()
        offsets = np.concatenate([[0], np.cumsum(frames.num_atoms)])
        rows = cached_rows(
            Job(
                folder=cache_folder(frames, "features", settings),
                offsets=offsets,
                settings=settings,
                make_batches=lambda: _batches(offsets, self.batch_atoms),
                make_compute=lambda: self.compute(frames),
            ),
            verify,
        )
        return Features(rows, offsets, frames.numbers, frames.hash, settings)


@dataclass(frozen=True)
class DeviceDescriptor(Descriptor):
    """Base of descriptors that torch computes.

    Attributes:
        device: "auto" (CUDA where there is one), "cpu" or "cuda"; not among the settings.
    """

    device: str = field(default="auto", kw_only=True)

    @property
    def batch_atoms(self) -> int:
        return BATCH_ATOMS[self._device().type]

    def _device(self) -> torch.device:
        import torch

        if self.device not in ("auto", *BATCH_ATOMS):
            raise InputError(f"descriptor.device={self.device}: write auto, cpu or cuda")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("descriptor.device=cuda: torch finds no CUDA device here: write auto or cpu")
        on_gpu = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if on_gpu else "cpu")


@dataclass(frozen=True)
class ModelDescriptor(DeviceDescriptor):
    """Base of descriptors that are read from one force field: the invariant (l = 0) features of all its
    layers, unless ``rows`` says otherwise."""

    @abstractmethod
    def model(self, frames: FrameStore) -> ForceField:
        """The force field, on the CPU, in the dtype to compute in."""

    def compute(self, frames: FrameStore) -> Compute:
        model = self.model(frames).eval().to(self._device())
        check_species(type(self).__name__, model, frames)
        return batched(frames, model.atomic_numbers, model.cutoff, lambda batch: self.rows(model, batch))

    def rows(self, model: ForceField, batch: Batch) -> torch.Tensor:
        """[atoms, F] what is kept of a batch; the batch lies in host memory."""
        import torch

        with torch.inference_mode():
            return model.features(batch.to(self._device()))


@dataclass(frozen=True)
class UntrainedMACE(ModelDescriptor):
    """A MACE with random weights of a fixed seed: its invariants are random combinations of the ACE basis.

    Needs neither labels nor a download. The weights depend on ``seed`` alone, not on the state of torch's
    generators or its default dtype; the messages are divided by the pool's mean number of neighbours.

    Attributes:
        seed: of the weights.
        cutoff: Å.
        channels: features of an atom and layer.
        l_max: highest degree of the spherical harmonics.
        correlation: order of the many-body product (3: four-body features).
        layers: message-passing layers.
        dtype: of the computation, "float32" or "float64" (rows are kept in float32).
    """

    seed: int = 0
    cutoff: float = 4.0
    channels: int = 16
    l_max: int = 2
    correlation: int = 3
    layers: int = 2
    dtype: str = "float32"

    def settings(self) -> dict[str, Any]:
        names = ("seed", "cutoff", "channels", "l_max", "correlation", "layers", "dtype")
        return {
            "descriptor": "UntrainedMACE",
            **{name: getattr(self, name) for name in names},
            "version": DESCRIPTOR_VERSION,
        }

    def model(self, frames: FrameStore) -> ForceField:
        import torch

        from msmlff.data.statistics import Statistics
        from msmlff.models import MACE, MACEArchitecture

        architecture = MACEArchitecture(
            cutoff=self.cutoff,
            l_max=self.l_max,
            channels=self.channels,
            correlation=self.correlation,
            layers=self.layers,
        )
        species = frames.atomic_numbers
        statistics = Statistics((_mean_neighbors(frames, self.cutoff),), (0.0,) * len(species), 1.0)
        state, default = torch.get_rng_state(), torch.get_default_dtype()
        try:
            torch.default_generator.manual_seed(self.seed)
            torch.set_default_dtype(torch.float32)
            model = MACE(species, [0.0] * len(species), architecture, statistics)
        finally:
            torch.set_rng_state(state)
            torch.set_default_dtype(default)
        return model.to(dtype_of(self.dtype))


@dataclass(frozen=True)
class FileDescriptor(ModelDescriptor):
    """Base of descriptors whose weights come from a file.

    Attributes:
        path: the file.
        dtype: of the computation, "float32" or "float64" (rows are kept in float32).
    """

    path: str
    dtype: str = "float32"

    def settings(self) -> dict[str, Any]:
        file = self._file()
        return {
            "descriptor": type(self).__name__,
            "file": file.name,
            "sha256": file_sha256(file),
            "dtype": self.dtype,
            "version": DESCRIPTOR_VERSION,
        }

    def model(self, frames: FrameStore) -> ForceField:
        from msmlff.models.files import load_model

        return load_model(self._file(), dtype=dtype_of(self.dtype))

    def _file(self) -> Path:
        path = Path(self.path)
        if not path.is_file():
            raise InputError(f"descriptor.path={self.path}: no such file")
        return path


@dataclass(frozen=True)
class MACECheckpoint(FileDescriptor):
    """A trained MACE from a file: a foundation model or one of your own.

    Attributes:
        path: a model of ours (.safetensors), or a checkpoint of mace-torch (any other suffix).
        trust: a checkpoint of mace-torch is a pickle, and reading it runs code from it: say that you
            trust its source.
    """

    trust: bool = False

    def model(self, frames: FrameStore) -> ForceField:
        from msmlff.models.import_mace import import_mace

        if self._file().suffix == ".safetensors":
            return super().model(frames)
        if not self.trust:
            raise InputError(
                f"descriptor.path={self.path}: a mace-torch checkpoint is a pickle, and reading it "
                "runs code from the "
                "file; if you trust its source, write descriptor.trust=true"
            )
        return import_mace(self._file(), trust=True).to(dtype_of(self.dtype))


@dataclass(frozen=True)
class TrainedModel(FileDescriptor):
    """Any trained MSMLFF model, as a file or as the folder of the run that wrote it.

    Attributes:
        path: a run folder (its model.safetensors is read), or a .safetensors file.
    """

    def _file(self) -> Path:
        return model_file(self.path, "descriptor.path")


def check_species(descriptor: str, model: ForceField, frames: FrameStore) -> None:
    """InputError if the pool has elements that the model does not know."""
    unknown = sorted(set(frames.atomic_numbers) - set(model.atomic_numbers))
    if unknown:
        raise InputError(
            f"descriptor {descriptor} knows the elements {list(model.atomic_numbers)}, the pool has "
            f"{unknown} too: write descriptor=untrained_mace, or give a model of these elements"
        )


def batched(
    frames: FrameStore, species: Sequence[int], cutoff: float, rows: Callable[[Batch], torch.Tensor]
) -> Compute:
    """A descriptor's ``compute`` from a function of a batch.

    Args:
        frames: the pool.
        species: atomic numbers, as the model counts them.
        cutoff: Å, of the edges.
        rows: batch -> [its atoms, F].
    """
    from msmlff.data.collate import collate
    from msmlff.data.neighbors import neighbor_list

    def of_frames(ids: range) -> np.ndarray:
        chosen = [frames[i] for i in ids]
        neighbors = [neighbor_list(f.positions, f.cell, f.pbc, cutoff) for f in chosen]
        values: np.ndarray = rows(collate(chosen, neighbors, species)).detach().cpu().numpy()
        return values

    return of_frames


def dtype_of(name: str) -> torch.dtype:
    """torch's dtype of that name.

    Raises:
        InputError: neither float32 nor float64.
    """
    import torch

    if name not in ("float32", "float64"):
        raise InputError(f"descriptor.dtype={name}: write float32 or float64")
    return torch.float32 if name == "float32" else torch.float64


def _batches(offsets: np.ndarray, atoms: int) -> list[tuple[int, int]]:
    """Ranges of frames of at most ``atoms`` atoms, or of one frame."""
    batches, start, frames = [], 0, len(offsets) - 1
    while start < frames:
        stop = int(np.searchsorted(offsets, offsets[start] + atoms, side="right")) - 1
        stop = min(max(stop, start + 1), frames)
        batches.append((start, stop))
        start = stop
    return batches


def _mean_neighbors(frames: FrameStore, cutoff: float) -> float:
    """Neighbours of an atom, averaged over frames evenly spread over the pool; at least one."""
    from msmlff.data.neighbors import neighbor_list

    neighbors, atoms = 0, 0
    for i in np.unique(np.linspace(0, len(frames) - 1, NEIGHBOR_FRAMES).astype(int)):
        frame = frames[int(i)]
        neighbors += len(neighbor_list(frame.positions, frame.cell, frame.pbc, cutoff))
        atoms += len(frame)
    return max(1.0, neighbors / atoms)
