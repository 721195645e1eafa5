"""From Hydra's configuration to typed dataclasses, with errors that name the key and what exists."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from msmlff.errors import InputError

T = TypeVar("T")
MAX_NAME = 120


def config_folder() -> Path:
    """The folder of configuration files: conf/ of the checkout, or the copy inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "conf", package / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise InputError(f"no configuration files beside {package}: reinstall msmlff")


def typed(cls: type[T], node: Any, key: str) -> T:
    """The dataclass ``cls`` from a configuration node.

    Raises:
        InputError: a key that the dataclass does not have, or a value of another type; the message has the
            key.
    """
    content = OmegaConf.to_container(node, resolve=True)
    _reject_unknown(cls, content, key)
    try:
        return TypeAdapter(cls).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([key, *(str(part) for part in first["loc"])])
        raise InputError(f"{where}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


def _reject_unknown(cls: Any, content: Any, key: str) -> None:
    if not is_dataclass(cls) or not isinstance(content, dict):
        return
    kinds = get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    for name, value in content.items():
        if name not in known:
            raise InputError(
                f"there is no configuration key '{key}.{name}'. Keys of {key}: {', '.join(known)}"
            )
        _reject_unknown(kinds[name], value, f"{key}.{name}")


def build(node: Any, key: str, **arguments: Any) -> Any:
    """The object a configuration node describes by ``_target_``, with further arguments.

    Raises:
        InputError: what the object's constructor refuses, with the key.
    """
    try:
        return instantiate(node, _partial_=True, _convert_="all")(**arguments)
    except (InstantiationException, TypeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, InputError):
            raise cause from None
        raise InputError(f"{key}: {cause or error}") from None


def register_resolvers() -> None:
    """Resolvers that the files in conf/ use."""
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def run_name(overrides: str) -> str:
    """A folder name for a sweep's job: its overrides, without path separators, bounded in length."""
    name = re.sub(r"[^\w.,=+-]+", "_", overrides) or "defaults"
    if len(name) <= MAX_NAME:
        return name
    return f"{name[:MAX_NAME]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def check_overrides(config_name: str, arguments: Sequence[str]) -> None:
    """Compose the configuration once before Hydra does, to explain what is wrong with the command line.

    Raises:
        InputError: an unknown key or choice; the message says which exist.
    """
    overrides = get_args_parser().parse_known_args(list(arguments))[0].overrides
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        # of a sweep "seed=1,2" each value is checked by its own job; the names are the same
        single = [_first_value(o) for o in parsed if not (o.key_or_group or "").startswith("hydra")]
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            compose(config_name, overrides=[text for text in single if text])
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_explain(error, config_name)) from None
    finally:
        GlobalHydra.instance().clear()


def _first_value(override: Any) -> str | None:
    if not override.is_sweep_override():
        return override.input_line
    values: list[Any] = list(override.sweep_string_iterator())
    return f"{override.get_key_element()}={values[0]}" if values else None


def _explain(error: Exception, config_name: str) -> str:
    text = str(error)
    found = re.search(r"Could not override '([^']+)'", text)
    if not found:
        return "\n".join(
            line
            for line in text.splitlines()
            if line.strip() and "Config search path" not in line and "provider=" not in line
        )
    key = found.group(1)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        known = sorted(set(_keys(compose(config_name))) | {"resume", "pool.path"})
    near = difflib.get_close_matches(key, known, n=4, cutoff=0.5)
    prefix = key.rsplit(".", 1)[0] + "." if "." in key else ""
    siblings = [k for k in known if k.startswith(prefix) and "." not in k[len(prefix) :]] if prefix else []
    hint = f"Did you mean {', '.join(near)}?" if near else ""
    listed = (
        f"Keys of {prefix[:-1]}: {', '.join(siblings)}." if siblings else f"Keys: {', '.join(_top(known))}."
    )
    return f"there is no configuration key '{key}'. {hint} {listed}".replace("  ", " ")


def _top(keys: Iterable[str]) -> list[str]:
    return sorted({key.split(".", 1)[0] for key in keys})


def _keys(node: DictConfig, prefix: str = "") -> Iterable[str]:
    for name in map(str, node):
        key = prefix + str(name)
        yield key
        if not OmegaConf.is_missing(node, name) and isinstance(node._get_node(name), DictConfig):
            child = node._get_node(name)
            assert isinstance(child, DictConfig)
            if not child._is_none() and not child._is_interpolation():
                yield from _keys(child, f"{key}.")
