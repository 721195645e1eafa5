"""From Hydra's configuration to typed dataclasses, with errors that name the key and what exists."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import Container, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from msmlff.app.budget_source import (
    ALL,
    GROUP,
    config_folder,
    explain,
    register_budget_source,
    selectors,
)
from msmlff.distill.budget import UNITS
from msmlff.errors import InputError

T = TypeVar("T")
MAX_NAME = 120
LAUNCHER = "hydra/launcher"


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
    except InputError as error:
        raise error if key in str(error) else InputError(f"{key}: {error}") from None


def _reject_unknown(cls: Any, content: Any, key: str) -> None:
    if get_origin(cls) is list and isinstance(content, list):
        for i, value in enumerate(content):
            _reject_unknown(get_args(cls)[0], value, f"{key}.{i}")
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
    _check_complete(node, f"{key}.")
    try:
        _check_kinds(node, key)
        return instantiate(node, _partial_=True, _convert_="all")(**arguments)
    except (InstantiationException, TypeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, InputError):
            raise cause from None
        raise InputError(f"{key}: {cause or error}") from None


def _check_kinds(node: Any, key: str) -> None:
    """Numbers, words and switches of a dataclass that a node describes have the kind the class says."""
    cls = get_object(node["_target_"]) if "_target_" in node else None
    if not is_dataclass(cls):
        return
    hints = get_type_hints(cls)
    content: Any = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    for name, value in content.items():
        kinds = set(get_args(hints.get(name)) or [hints.get(name)])
        if kinds <= {int, float, str, bool, type(None)}:
            try:
                TypeAdapter(hints[name]).validate_python(value, strict=True)
            except ValidationError:
                words = " or ".join(sorted(_KINDS[kind] for kind in kinds))
                raise InputError(f"{key}.{name}={value!r}: write {words}") from None


_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    bool: "true or false",
    type(None): "null",
}


def register_resolvers() -> None:
    """Resolvers and the source of data=SELECTOR_BUDGET, which the files in conf/ use."""
    register_budget_source()
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("group_choices", group_choices, replace=True)


def group_choices(chosen: Mapping[str, Any]) -> str:
    """A line "GROUP: CHOICE, ..." for each group that a command has; Hydra's own list has every folder."""
    # the sizes of train's model: they are chosen at no other place
    groups = sorted(str(g) for g in chosen if not str(g).startswith(("hydra/", "model/size@")))
    files = {g: sorted((config_folder() / g.partition("@")[0]).glob("*.yaml")) for g in groups}
    lines = {group: ", ".join(path.stem for path in files[group]) for group in groups}
    if GROUP in lines:
        lines[GROUP] = f"{ALL}, or SELECTOR_BUDGET, e.g. cpd_200; selectors: {', '.join(selectors())}"
    return "\n".join(f"{group}: {line}" for group, line in lines.items())


def run_name(overrides: str) -> str:
    """A folder name for a sweep's job: its overrides, without path separators, bounded in length."""
    name = re.sub(r"[^\w.,=+-]+", "_", overrides) or "defaults"
    if len(name) <= MAX_NAME:
        return name
    return f"{name[:MAX_NAME]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def compose_run(config_name: str, overrides: Sequence[str]) -> tuple[Hydra, DictConfig]:
    """The whole configuration of a single run, Hydra's own part with it, checked, and the Hydra that made it.

    Hydra stays initialised for the run; ``GlobalHydra.instance().clear()`` ends it.

    Raises:
        InputError: as ``check_overrides``.
    """
    GlobalHydra.instance().clear()
    initialize_config_dir(str(config_folder()), version_base="1.3")
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    own: list[str] = []
    with _explaining(config_name, own):
        parser = OverridesParser.create(config_loader=hydra.config_loader)
        parsed = [o for o in parser.parse_overrides(list(overrides)) if not o.is_hydra_override()]
        own += [_values(override, multirun=False)[0] for override in parsed]
        config = hydra.compose_config(config_name, list(overrides), run_mode=RunMode.RUN)
        job = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        check_values(job)
        _check_complete(job)
    return hydra, config


def check_overrides(config_name: str, arguments: Sequence[str]) -> None:
    """Compose the configuration before Hydra does, to explain what is wrong with the command line.

    Every value of a sweep is tried once, beside the first values of the others.

    Raises:
        InputError: an unknown key or choice, a key without a value, or a value of another type; the message
            says what to write.
    """
    options = get_args_parser().parse_known_args(list(arguments))[0]
    GlobalHydra.instance().clear()
    try:
        initialize_config_dir(str(config_folder()), version_base="1.3")
        loader = GlobalHydra.instance().config_loader()
        with _explaining(config_name, ()):
            parser = OverridesParser.create(config_loader=loader)
            parsed = [o for o in parser.parse_overrides(options.overrides) if _is_looked_at(o)]
            values = [_values(o, options.multirun) for o in parsed]
        first = [texts[0] for texts in values]
        with _explaining(config_name, first):
            config = compose(config_name, overrides=first)
            check_values(config)
            if not (options.cfg or options.info or options.multirun):
                _check_complete(config)
        for i, texts in enumerate(values):
            is_group = bool(loader.get_group_options(parsed[i].key_or_group))
            for text in texts[1:]:
                overrides = [*first[:i], text, *first[i + 1 :]]
                with _explaining(config_name, overrides):
                    if is_group:
                        check_values(compose(config_name, overrides=overrides))
                    else:  # the key is there: no need to read the files again
                        check_values(_changed(config, parser.parse_override(text)))
        GlobalHydra.instance().clear()
        for override in parsed:
            _check_added(override, config_name, first)
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def _explaining(config_name: str, overrides: Sequence[str]) -> Iterator[None]:
    """What Hydra raises becomes an InputError in the words of this program."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        GlobalHydra.instance().clear()
        raise InputError(_explained(str(error), config_name, overrides)) from None


def _changed(config: DictConfig, override: Override) -> DictConfig:
    """The configuration with another value of a key."""
    config = config.copy()
    OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
    return config


def _check_complete(node: Any, parent: str = "") -> None:
    """Every key below ``parent`` has a value."""
    missing = sorted(OmegaConf.missing_keys(node)) if isinstance(node, Container) else []
    if missing:
        key = parent + missing[0]
        raise InputError(f"{key} has no value and must be given: write {key}=...")


def _is_looked_at(override: Override) -> bool:
    """Not Hydra's own settings, which decide nothing here; but a launcher may be a plugin that is absent."""
    return not override.is_hydra_override() or override.key_or_group == LAUNCHER


def _explained(text: str, config_name: str, overrides: Sequence[str]) -> str:
    """What Hydra found wrong, in the words of this program where they say more."""
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        return _unknown(key[1], config_name, overrides)
    if f"Could not find '{LAUNCHER}/submitit" in text:
        return f"{LAUNCHER}=submitit_slurm and submitit_local are a plugin: pip install 'msmlff[slurm]'"
    choice = re.search(rf"Could not find '{GROUP}/([^']+)'", text)
    return explain(choice[1]) if choice else _without_paths(text)


def _check_added(override: Override, config_name: str, overrides: Sequence[str]) -> None:
    """A key added with + is unknown where it is not the name of something (the classes check theirs)."""
    key = override.get_key_element().lstrip("+")
    if not (override.is_add() or override.is_force_add()):
        return
    if key.rpartition(".")[0] in ("", "data", "logger", "logger.wandb"):
        keys, _ = _known(config_name, overrides)
        if key not in keys:
            raise InputError(_unknown(key, config_name, overrides))


def _values(override: Override, multirun: bool) -> list[str]:
    """The override as it is, or one override for each value of a sweep."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not multirun:
        line = override.input_line
        raise InputError(f"{line}: to run one job for each value, add -m; a list is written in [ ]")
    texts = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    if not texts:
        raise InputError(f"{override.input_line}: nothing is called so; --help lists the choices")
    return texts


def _whole(lowest: int, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _frames(value: Any) -> bool:
    return isinstance(value, list) and all(_whole(0, v) for v in value)


def _quotas(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_whole(0, v) for v in value.values())
    return value in (None, "equal", "proportional")


_Check = tuple[Callable[[Any], bool], str]  # what is right, what to write

# of a selection: at the top in distill, under data in train
_SELECTION: dict[str, _Check] = {
    "budget": (
        lambda v: v is None or (_number(v) and v > 0),
        "a whole number >= 1, or null for all frames",
    ),
    "unit": (lambda v: v in UNITS, " or ".join(UNITS)),
    "cost_exponent": (lambda v: _number(v), "a number, for instance 3"),
    "selection_seed": (lambda v: _whole(0, v), "a whole number >= 0"),
    "must": (_frames, "a list of frame numbers, as [0,7]"),
    "forbidden": (_frames, "a list of frame numbers, as [0,7]"),
    "quotas": (_quotas, "null, equal, proportional, or frames of each group, as {a: 10, b: 5}"),
    "reference": (
        lambda v: v is None or isinstance(v, str) or _frames(v),
        "null, the path of a selection.json, or a list of frame numbers, as [0,7]",
    ),
}
# keys that no dataclass has
_PLAIN: dict[str, _Check] = {
    "seed": (lambda v: _whole(0, v), "a whole number >= 0"),
    **_SELECTION,
    **{f"data.{key}": check for key, check in _SELECTION.items()},
    "threads": (lambda v: v is None or _whole(1, v), "a whole number >= 1, or null for all cores"),
    "dtype": (lambda v: v in ("float32", "float64"), "float32 or float64"),
    "device": (lambda v: v in ("auto", "cpu", "cuda"), "auto, cpu or cuda"),
    "ops.backend": (
        lambda v: v in ("auto", "reference", "torch", "cpu", "triton", "cuequivariance"),
        "auto, reference, torch, cpu, triton or cuequivariance",
    ),
    "gate": (lambda v: isinstance(v, bool), "true or false"),
    "report": (lambda v: isinstance(v, bool), "true or false"),
    "map": (lambda v: isinstance(v, bool), "true or false"),
    "tags": (lambda v: isinstance(v, list), "a list of words, as [first,baseline]"),
    "logger.tensorboard": (lambda v: isinstance(v, bool), "true or false"),
    "logger.wandb.mode": (
        lambda v: v in (None, "online", "offline", "disabled"),
        "online, offline, disabled, or null",
    ),
}


def check_values(config: DictConfig) -> None:
    """Check the keys that stand for themselves; groups are checked where they are built.

    Raises:
        InputError: a value that is not what the key takes; the message has both.
    """
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    for key, (right, advice) in _PLAIN.items():
        node: Any = content
        *parents, name = key.split(".")
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and name in node and not right(node[name]):
            raise InputError(f"{key}={node[name]!r}: write {advice}")
    for prefix, node in (("", content), ("data.", content.get("data"))):
        if isinstance(node, dict) and "budget" in node:
            _check_unit(prefix, node.get("unit", "frames"), node["budget"])


def _check_unit(prefix: str, unit: str, budget: float | None) -> None:
    if unit != "cost" and not (budget is None or _whole(1, budget)):
        alone = f", or {prefix}unit=cost for a label cost" if unit == "frames" else ""
        raise InputError(f"{prefix}budget={budget!r}: write a whole number >= 1 of {unit}{alone}")


def _without_paths(text: str) -> str:
    hidden = ("Config search path", "provider=")
    return "\n".join(t for t in text.splitlines() if t.strip() and not any(word in t for word in hidden))


def _known(config_name: str, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The keys and the groups there are under the choices among the overrides."""
    folder = config_folder()
    choices = [o for o in overrides if (folder / re.split("[@=]", o)[0]).is_dir()]
    with initialize_config_dir(str(folder), version_base="1.3"):
        try:
            config = compose(config_name, overrides=choices, return_hydra_config=True)
        except HydraException:  # a choice is wrong, too
            config = compose(config_name, return_hydra_config=True)
    groups = [g for g in map(str, config.hydra.runtime.choices) if not g.startswith("hydra/")]
    with open_dict(config):
        del config["hydra"]
    return sorted({*_keys(config), "resume", "pool.path"}), sorted(groups)


def _unknown(key: str, config_name: str, overrides: Sequence[str]) -> str:
    """What to write instead of a key, or a group, that there is not."""
    keys, groups = _known(config_name, overrides)
    candidates = groups if "/" in key else list(dict.fromkeys([*keys, *groups]))
    same = [c for c in candidates if re.split("[./]", c)[-1] == key]  # of another parent
    near = list(dict.fromkeys([*same, *difflib.get_close_matches(key, candidates, n=4, cutoff=0.5)]))[:4]
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    if "/" in key:
        return f"there is no configuration group '{key}'.{hint} Groups: {', '.join(groups)}."
    parent = key.rpartition(".")[0]
    siblings = [k for k in keys if parent and k.rpartition(".")[0] == parent]
    listed = f"Keys of {parent}: {', '.join(siblings)}." if siblings else f"Keys: {', '.join(_top(keys))}."
    return f"there is no configuration key '{key}'.{hint} {listed}"


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
