"""A command's job under Hydra: composed once where it is a single run, by Hydra's own main otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser, run_and_report
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from msmlff.app.config import check_overrides, compose_run, config_folder, register_resolvers
from msmlff.errors import MSMLFFError


def run_hydra(
    name: str, job: Callable, arguments: list[str], check: Callable[[Sequence[str]], None] | None = None
) -> None:
    """Run ``job`` under Hydra with conf/``name``.yaml and the command line, which ``check`` sees before.

    Raises:
        InputError: a command line that the configuration refuses.
        MSMLFFError: the folder of a single run cannot be made.
    """
    register_resolvers()
    arguments = sorted(arguments, key=lambda a: a not in ("-m", "--multirun"))  # argparse wants it in front
    if _single(arguments):
        if check is not None:
            check(arguments)
        _run_once(name, job, arguments)
        return
    if not {"--help", "-h", "--hydra-help", "--version"} & set(arguments):
        check_overrides(name, arguments)
        if check is not None:
            check(arguments)
    sys.argv = [sys.argv[0], *arguments]
    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=name)(job)()


def _single(arguments: list[str]) -> bool:
    """One run and nothing but keys that there are: no option, no sweep, no key added."""
    return not any(a.startswith(("-", "+", "hydra.mode", "hydra/callbacks")) for a in arguments)


def _run_once(name: str, job: Callable, arguments: list[str]) -> None:
    """What ``hydra.main`` does for a single run, with the configuration that was composed to check it.

    Hydra composes to learn the mode and again to run; with our check that is three times a fifth of a second
    on a slow machine, longer than some selectors take.
    """
    overrides = get_args_parser().parse_args(arguments).overrides
    try:
        context, config = compose_run(name, overrides)

        def composed(**_: Any) -> Any:
            return config

        context.compose_config = composed  # type: ignore[assignment]
        HydraConfig.instance().set_config(deepcopy(config))  # folders ask it; it becomes read-only
        _make_folder(Path(str(config.hydra.run.dir)))
        run_and_report(lambda: context.run(config_name=name, task_function=job, overrides=overrides))
    finally:
        GlobalHydra.instance().clear()


def _make_folder(folder: Path) -> None:
    """Hydra would answer with a traceback where there is no room, or no right, for the run's folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MSMLFFError(f"the folder hydra.run.dir={folder} cannot be made: {error.strerror}") from None
