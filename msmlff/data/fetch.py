"""Published data sets, downloaded, verified and converted."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from msmlff.data.array_folder import file_sha256
from msmlff.data.card import DataCard, data_card_markdown, mass_density
from msmlff.data.configuration import Configuration
from msmlff.data.formats import LabelKeys, write_frames
from msmlff.data.runner import read_runner
from msmlff.errors import InputError

CHENG2020_URL = (
    "https://raw.githubusercontent.com/BingqingCheng/MLP-highP-H/b9f6d9d0b077006109d7a1897328b127210afad4/"
    "pbe-training-set/rerun-h-nnp-gen8-nvt-traj.tar.gz"
)
SHA256: dict[str, str] = {
    CHENG2020_URL: "7d27852d2ff679d47589e9f47a31a6aa267514710523638a8bc76f8d44f7d2f1",
}
"""Checksums of published files, computed from the repository at the commit in the address. A file from
elsewhere has no entry: its checksum is recorded at the first download and compared from then on."""

RECORD = "source.json"
_REFERENCE = "Cheng, Mazzola, Pickard, Ceriotti, Nature 585, 217 (2020); the repository states no licence"
_PARTS = {"pool": 575, "val": 60, "test": 120}
_UNUSED = 151
_TIMEOUT = 60


def fetch_cheng2020(destination: Path | str, source: str | Path | None = None) -> Path:
    """The PBE dense-hydrogen set of Cheng et al. as pool, val and test files.

    906 frames of 128 atoms at 14 densities, 0.61 to 1.03 g/cm³, in RuNNer format and atomic units, become
    pool.extxyz.gz, val.extxyz.gz and test.extxyz.gz with 575, 60 and 120 of them, and a data card. Within
    each density the parts are consecutive blocks of the original trajectory; its last sixth is not used.

    Args:
        destination: folder; an interrupted download in it is continued.
        source: address or path of the .tar.gz, where it is not to come from ``CHENG2020_URL``.

    Returns:
        The folder.

    Raises:
        InputError: the download fails, the file does not have its checksum, the archive is damaged or holds
            no frames.
    """
    folder = Path(destination)
    folder.mkdir(parents=True, exist_ok=True)
    address = str(source or CHENG2020_URL)
    archive = _download(address, folder / "download.tar.gz")
    checksum = _verified(archive, address, folder / RECORD)
    try:
        frames = _frames(archive)
    except InputError:
        archive.unlink()
        raise
    parts = _split(frames)
    for name, members in parts.items():
        write_frames(folder / f"{name}.extxyz.gz", members)
    card = DataCard.of(
        "Dense hydrogen, PBE",
        (replace(f, group=f"{f.info['density_g_cm3']}") for members in parts.values() for f in members),
        level="PBE",
        sources=[_REFERENCE, f"{address}, SHA-256 {checksum}"],
        notes=[
            f"{len(frames)} frames in the archive; {', '.join(f'{k} {len(v)}' for k, v in parts.items())}"
        ],
    )
    (folder / "data_card.md").write_text(data_card_markdown(card))
    record = {"address": address, "sha256": checksum, "parts": {name: len(v) for name, v in parts.items()}}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    archive.unlink()
    return folder


def _download(address: str, target: Path) -> Path:
    """The file at an address or path; a download that broke off is continued where it stopped."""
    local = Path(address).expanduser()
    if "://" not in address:
        if not local.is_file():
            raise InputError(f"there is no file {address}: give the address or path of the archive")
        shutil.copyfile(local, target)
        return target
    part = target.with_name(target.name + ".part")
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            resumed = done > 0 and getattr(answer, "status", None) == 206
            with part.open("ab" if resumed else "wb") as stream:
                shutil.copyfileobj(answer, stream)
            announced = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is as long as the file, or longer: start over
            part.unlink(missing_ok=True)
            return _download(address, target)
        raise InputError(f"{address}: the server answers {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{address}: the download failed ({error}); run the same command again to continue it, or give "
            "--source=FILE"
        ) from error
    expected = None if announced is None else int(announced) + (done if resumed else 0)
    if expected is not None and part.stat().st_size < expected:
        raise InputError(
            f"{address}: {part.stat().st_size} of {expected} bytes came; run the same command again to go on"
        )
    part.replace(target)
    return target


def _verified(archive: Path, address: str, record: Path) -> str:
    """The checksum of the archive, if it is the known or recorded one; else the archive is removed."""
    checksum = file_sha256(archive)
    expected = SHA256.get(address)
    if expected is None and record.is_file():
        known: dict[str, Any] = json.loads(record.read_text())
        expected = known["sha256"] if known["address"] == address else None
    if expected is not None and checksum != expected:
        archive.unlink()
        raise InputError(
            f"{address}: the file has SHA-256 {checksum}, not {expected}: it was changed or damaged on the "
            f"way. Download it again; if it changed on purpose, remove {record}"
        )
    return checksum


def _frames(archive: Path) -> list[Configuration]:
    """Frames of all .data files in a .tar.gz, in order."""
    try:
        with tarfile.open(archive, "r:gz") as tar, TemporaryDirectory() as scratch:
            frames = []
            for member in tar:
                name = Path(member.name).name
                # macOS leaves "._name" files beside the real ones.
                if not member.isfile() or not name.endswith(".data") or name.startswith("._"):
                    continue
                stream = tar.extractfile(member) or io.BytesIO()
                plain = Path(scratch) / name
                with plain.open("wb") as copy:
                    shutil.copyfileobj(stream, copy)
                frames += list(read_runner(plain, LabelKeys()))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{archive}: the archive is damaged ({error}): download it again") from error
    if not frames:
        raise InputError(f"{archive}: the archive holds no .data file with frames")
    return frames


def _split(frames: list[Configuration]) -> dict[str, list[Configuration]]:
    """Consecutive blocks of each density: 575, 60 and 120 of every 906 frames."""
    density = np.array([round(mass_density(frame), 4) for frame in frames])
    values, sizes = np.unique(density, return_counts=True)
    shares = np.cumsum([0, *_PARTS.values()]) / sum(_PARTS.values(), _UNUSED)
    seams = np.array([_allotted(sizes, round(share * len(frames))) for share in shares])
    parts = {}
    for k, name in enumerate(_PARTS):
        blocks = [
            np.flatnonzero(density == value)[seams[k, d] : seams[k + 1, d]] for d, value in enumerate(values)
        ]
        ids = np.sort(np.concatenate(blocks))
        if len(ids) == 0:
            raise InputError(f"the archive has too few frames ({len(frames)}) for the part {name}")
        infos = [{"density_g_cm3": float(density[i]), "source_index": int(i)} for i in ids]
        parts[name] = [replace(frames[i], info=info) for i, info in zip(ids, infos, strict=True)]
    return parts


def _allotted(sizes: np.ndarray, total: int) -> np.ndarray:
    """``total`` shared out in proportion to ``sizes``: whole parts first, then by largest remainder."""
    exact = sizes * total / sizes.sum()
    whole = np.floor(exact).astype(int)
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: total - whole.sum()]] += 1
    return whole
