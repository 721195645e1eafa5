"""conf/model: what a user can set is what the architecture has."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from msmlff import models
from msmlff.models import build_model

FILES = sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_has_every_key(file: Path) -> None:
    keys = yaml.safe_load(file.read_text())
    del keys["defaults"]
    name = keys.pop("_target_").removeprefix("msmlff.models.")
    kind = getattr(models, name)
    assert name.removesuffix("Architecture").lower() == file.stem
    assert sorted(keys) == sorted(f.name for f in fields(kind))
    architecture = kind(**keys)
    model = build_model(architecture, [1], [0.0])
    assert type(model).__name__ == name.removesuffix("Architecture")
    assert model.architecture == architecture
