"""Compiles the CPU kernels at installation; without a compiler the package installs and works, too."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "msmlff/native"


class NativeKernels(BuildHookInterface):
    """Builds into the source tree, which an editable installation uses, and adds the libraries to wheels."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        native = _build_module(Path(self.root) / FOLDER / "build.py")
        try:
            native.build()
        except (native.BuildError, OSError) as error:
            self.app.display_warning(f"CPU kernels not compiled, PyTorch's serve instead: {error}")
            return
        if version != "editable":
            for path in (*native.LIBRARIES.values(), native.NOTE):
                build_data["force_include"][str(path)] = f"{FOLDER}/{path.name}"
            build_data["pure_python"] = False
            build_data["infer_tag"] = True


def _build_module(path: Path) -> Any:
    """The module at ``path``, without its package, which needs torch."""
    spec = importlib.util.spec_from_file_location("build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
