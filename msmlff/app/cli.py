"""The msmlff command: one word says what to do, the rest goes to that word's own function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from msmlff import __version__
from msmlff.errors import MSMLFFError

USAGE = """\
msmlff COMMAND ...

  train        [GROUP=CHOICE ...] [KEY=VALUE ...]   train a force field (the same as python train.py ...)
  distill      [GROUP=CHOICE ...] [KEY=VALUE ...]   choose the frames of a pool that are worth labelling
  compare      [GROUP=CHOICE ...] [KEY=VALUE ...]   compare selectors by what models learn from their choices
  simulate     [GROUP=CHOICE ...] [KEY=VALUE ...]   molecular dynamics with a trained model
  evaluate     [KEY=VALUE ...]                      observables of a trajectory, or of a model's simulation
  relax        [KEY=VALUE ...]                      relax structures or crystals; elastic constants, phonons
  export       RUN [OUT]                            compiled code for C++, or a file for LAMMPS
  data fetch   cheng2020 FOLDER                     download and convert a published data set
  data card    FILE ...                             what is in a file of frames
  data check   FILE ...                             the checks of the door; forces against an xTB engine
  import-mace  FILE --trust [OUT]                   convert a mace-torch checkpoint into a model file
  report       RUN_FOLDER                           write report.html of a run again
  benchmark    ...                                  time and memory against mace-torch or nequip

msmlff COMMAND --help tells more. Commands of GROUP=CHOICE are configured by the files in conf/ (Hydra)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code (0 done, 1 failed, 2 wrong input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"msmlff {__version__}")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(f"msmlff: there is no command '{command}'\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[command](rest)
    except MSMLFFError as error:
        Console(stderr=True).print(
            f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        return 2
    except KeyboardInterrupt:
        return 130


def _train(arguments: list[str]) -> int:
    from msmlff.app import guard, train
    from msmlff.app.folder import CONFIG
    from msmlff.app.hydra_run import run_hydra
    from msmlff.app.settings import EDITABLE

    resume = [a.partition("=")[2] for a in arguments if a.startswith("resume=")]
    if resume:
        if len(arguments) > 1:
            others = " ".join(a for a in arguments if not a.startswith("resume="))
            raise MSMLFFError(
                f"resume= takes the run's own configuration; leave out: {others}. What does not decide the "
                f"result can be changed in {Path(resume[0]) / CONFIG}: {', '.join(EDITABLE)}"
            )
        train.resume_job(Path(resume[0]))
    else:
        run_hydra("train", train.hydra_job, arguments)
    return guard.exit_code


def _distill(arguments: list[str]) -> int:
    from msmlff.app import distill, guard
    from msmlff.app.hydra_run import run_hydra

    run_hydra("distill", distill.hydra_job, arguments)
    return guard.exit_code


def _compare(arguments: list[str]) -> int:
    from msmlff.app import compare
    from msmlff.app.hydra_run import run_hydra

    shown = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i"} & set(arguments)
    if shown:
        run_hydra("compare", compare.hydra_job, arguments)
        return 0
    arguments = ["--multirun", *arguments]  # always the jobs of a sweep
    run_hydra("compare", compare.hydra_job, arguments, compare.check_settings)
    return compare.exit_code


def _simulate(arguments: list[str]) -> int:
    from msmlff.app import guard, simulate
    from msmlff.app.hydra_run import run_hydra

    # model is a group of choices of what to train, so the configuration calls it models
    arguments = [f"models={a.partition('=')[2]}" if a.startswith("model=") else a for a in arguments]
    given = dict(a.split("=", 1) for a in arguments if a.startswith(("resume=", "steps=")))
    if "resume" not in given:
        run_hydra("simulate", simulate.hydra_job, arguments)
        return guard.exit_code
    steps = given.get("steps")
    if len(given) < len(arguments) or (steps is not None and not steps.isdigit()):
        raise MSMLFFError(
            "resume= takes the simulation's own configuration; beside it there may be steps=NEW_TOTAL and "
            f"nothing else: {' '.join(arguments)}"
        )
    simulate.resume_job(Path(given["resume"]), None if steps is None else int(steps))
    return guard.exit_code


def _evaluate(arguments: list[str]) -> int:
    from msmlff.app.evaluate import evaluate_command

    return evaluate_command(arguments)


def _relax(arguments: list[str]) -> int:
    from msmlff.app.relax import relax_command

    return relax_command(arguments)


def _export(arguments: list[str]) -> int:
    from msmlff.app.export import export_command

    return export_command(arguments)


def _data(arguments: list[str]) -> int:
    from msmlff.app.data_commands import data_command

    return data_command(arguments)


def _import_mace(arguments: list[str]) -> int:
    from msmlff.app.model_commands import import_mace_command

    return import_mace_command(arguments)


def _report(arguments: list[str]) -> int:
    from msmlff.app.model_commands import report_command

    return report_command(arguments)


def _benchmark(arguments: list[str]) -> int:
    from msmlff.app.benchmark import benchmark_command

    return benchmark_command(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "distill": _distill,
    "compare": _compare,
    "simulate": _simulate,
    "evaluate": _evaluate,
    "relax": _relax,
    "export": _export,
    "data": _data,
    "import-mace": _import_mace,
    "report": _report,
    "benchmark": _benchmark,
}
