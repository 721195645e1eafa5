"""Model files: what goes in comes out, and what is not a model file is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from physics import evaluate
from safetensors.torch import load_file, save_file
from systems import hydrogen

import msmlff
from msmlff.errors import InputError
from msmlff.models import MACE, MSMACE, MACEArchitecture, MSMACEArchitecture
from msmlff.models.files import content_hash, load_model, read_header, save_model

RECORD = {"label_level": "GFN1-xTB", "data_hash": "00ff", "git_revision": "abc"}


def make_model() -> MSMACE:
    torch.manual_seed(0)
    scales = [
        {"cutoff": 2.5, "channels": 4, "l_max": 2, "radial_mlp": [8]},
        {"cutoff": 4, "channels": 2, "l_max": 0},
    ]
    return MSMACE([1], {1: -13.6}, MSMACEArchitecture(scales=scales, channels=4))


def rewrite(path: Path, **changes: object) -> None:
    """Changes entries of the header's JSON, as somebody would who knows the format."""
    header, tensors = {**read_header(path), **changes}, load_file(path)
    header["sha256"] = content_hash(header, tensors)
    save_file(tensors, path, metadata={"msmlff": json.dumps(header)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(tmp_path: Path, dtype: torch.dtype) -> None:
    model = make_model().to(dtype)
    path = save_model(model, tmp_path / "model.safetensors", RECORD)
    loaded = load_model(path)
    assert isinstance(loaded, MSMACE)
    assert loaded.dtype == dtype
    assert not loaded.training
    a, b = evaluate(model, hydrogen()), evaluate(loaded, hydrogen())
    assert torch.equal(a.energy, b.energy)
    assert torch.equal(a.forces, b.forces)
    assert load_model(path, dtype=torch.float64).dtype == torch.float64
    assert list(tmp_path.iterdir()) == [path]


def test_header_says_what_the_model_is(tmp_path: Path) -> None:
    model = MACE([1, 8], {1: -1.0, 8: -2.0}, MACEArchitecture(cutoff=3.0, channels=4, l_max=1))
    header = read_header(save_model(model, tmp_path / "m.safetensors", RECORD))
    assert header["record"] == RECORD
    assert header["e0s"] == {"1": -1.0, "8": -2.0}
    assert header["cutoffs"] == [3.0]
    assert header["version"] == msmlff.__version__
    assert header["units"]["energy"] == "eV"
    assert header["model"]["architecture"]["_target_"] == "msmlff.models.MACEArchitecture"


def test_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name, message in (
        ("text", "import-mace"),
        ("other.safetensors", "not one of"),
        ("none", "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            load_model(tmp_path / name)


def test_torn_file(tmp_path: Path) -> None:
    path = save_model(make_model(), tmp_path / "m.safetensors", RECORD)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"m\.safetensors"):
        load_model(path)


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    """Of the weights, and of what the header says of them."""
    path = save_model(make_model(), tmp_path / "m.safetensors", RECORD)
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")  # of the weights
    for place in (start, (start + len(content)) // 2, len(content) - 1, content.index(b"3.6")):
        damaged = bytearray(content)
        damaged[place] ^= 0x01  # an E0 of -13.6 becomes -12.6
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"m\.safetensors: damaged, its content is not what was written"):
            load_model(path)
    path.write_bytes(content)
    load_model(path)


def test_the_checksum_is_of_values_names_types_and_shapes() -> None:
    value = torch.arange(6.0)
    header = {"format_version": 3}
    first = content_hash(header, {"a": value, "b": torch.zeros(())})
    assert content_hash({**header, "sha256": first}, {"b": torch.zeros(()), "a": value.clone()}) == first
    others = [
        content_hash({"format_version": 4}, {"a": value, "b": torch.zeros(())}),
        content_hash(header, {"a": value, "c": torch.zeros(())}),
        content_hash(header, {"a": value.reshape(2, 3), "b": torch.zeros(())}),
        content_hash(header, {"a": value.view(torch.int32), "b": torch.zeros(())}),
        content_hash(header, {"a": value, "b": torch.full((), -0.0)}),
        content_hash(header, {"a": value, "b": torch.zeros((), dtype=torch.bfloat16)}),
        content_hash(header, {"a": value, "b": torch.zeros(0)}),
    ]
    assert len({first, *others}) == 8


def test_other_format_version(tmp_path: Path) -> None:
    path = save_model(make_model(), tmp_path / "m.safetensors", RECORD)
    rewrite(path, format_version=2)
    with pytest.raises(InputError, match=r"format 2, written by .*\(revision abc\).*or train the model"):
        load_model(path)


def test_only_models_of_this_package_are_made(tmp_path: Path) -> None:
    path = save_model(make_model(), tmp_path / "m.safetensors", RECORD)
    for target in ("os.system", "msmlff.models.MACE", "msmlff.models.files.load_model", "", None):
        rewrite(path, model={"architecture": {"_target_": target}})
        with pytest.raises(InputError, match="this version knows"):
            load_model(path)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = save_model(make_model(), tmp_path / "m.safetensors", RECORD)
    config = make_model().config()
    for change, message in (
        ({"channels": 5}, "damaged, its weights do not fit"),
        ({"channels": "many"}, r"m\.safetensors: model\.channels is 'many'"),
        ({"colour": 1}, r"m\.safetensors: .*unknown keys: .*colour"),
    ):
        rewrite(path, model={**config, "architecture": {**config["architecture"], **change}})
        with pytest.raises(InputError, match=message):
            load_model(path)
    rewrite(path, model={key: value for key, value in config.items() if key != "statistics"})
    with pytest.raises(InputError, match=r"m\.safetensors: .*incomplete.*statistics"):
        load_model(path)


def test_record_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="record"):
        save_model(make_model(), tmp_path / "m.safetensors", {"when": object()})
    with pytest.raises(InputError, match="folder"):
        save_model(make_model(), tmp_path / "absent" / "m.safetensors", RECORD)
