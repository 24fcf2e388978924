"""The command `lfvd-tune`: a plan and data → a confirmed best config.

lfvd-tune doctor search_spaces/demo.yaml --data data/demo.safetensors       (what a search would meet, and take)
lfvd-tune search search_spaces/demo.yaml --data data/demo.safetensors --name demo       (minutes on a laptop)
lfvd-tune status demo
lfvd-tune best demo
lfvd-tune report demo           (all of it with figures, in one file: results/demo/report.html)
lfvd-tune compare demo other
lfvd-tune stop demo             (from another shell: winds down like Ctrl-C)
lfvd-tune resume demo           (goes on, whatever ended it; --trials N extends)
lfvd-tune prune demo 7          (ends trial 7 by hand)
lfvd-tune confirm demo          (only what is missing of the confirmation)
lfvd-tune repair demo           (after damage of its files: rebuilds what the others tell)
lfvd-tune sync demo             (what MLflow missed)
lfvd-tune schema                (the JSON schema of a plan, for an editor; --config: of a Config)
lfvd-tune reproduce results/demo/best.yaml --data data/demo.safetensors --name paper --tables 4,6     (the paper's rows)

Exit codes: 0 done, 1 nothing usable, 2 usage, 130 interrupted.
"""

# Ray, Optuna, torch and MLflow take seconds to import: inside the commands that need them.

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lfvd.files import InputError, print_warnings
from tune.commands import options, plans, studies
from tune.study import study_folder

if TYPE_CHECKING:
    from rich.console import Console

    from tune.plan import SearchPlan
    from tune.session import SessionOptions

app = typer.Typer(
    help="Search LFVD's hyperparameters on many GPUs, and confirm the best over seeds.",
    epilog="Start with `lfvd-tune search PLAN --data FILE --name NAME`. `lfvd-tune COMMAND --help` says more.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INSTALL = {"ray": "ray[tune]", "optuna": "optuna", "mlflow": "mlflow"}
"""Packages of the search that `lfvd` alone does not need → what pip calls them."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit; bad input is one sentence on stderr."""
    print_warnings("lfvd-tune")
    if os.name != "posix":
        options.print_error("needs Linux or macOS, for its file locks and signals: on Windows run it in WSL")
        sys.exit(2)
    try:
        app(args=None if argv is None else list(argv), prog_name="lfvd-tune")
    except InputError as error:
        options.print_error(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        options.print_error(f"{where}{error.strerror or error}: check the path, its rights and the disk")
    except ModuleNotFoundError as error:
        if (package := str(error.name).partition(".")[0]) not in INSTALL:
            raise
        options.print_error(f"the package {package} is not installed: run `pip install '{INSTALL[package]}'`")
    sys.exit(2)


@app.command()
def search(
    plan: options.Plan,
    data: options.Data,
    name: options.NewName = None,
    results: options.Results = options.RESULTS,
    address: options.Address = None,
    storage: options.Storage = None,
    tracking_uri: options.TrackingUri = None,
    verbose: options.Verbose = False,
) -> None:
    """Search, confirm, and write DIR/NAME/best.yaml; goes on where an interrupted search of that name ended."""
    from tune.plan import SearchPlan

    read = SearchPlan.from_yaml(plan)
    folder = study_folder(results, name or Path(plan).stem)
    _run_study(_Launch(folder, address, storage, tracking_uri, verbose), read, data)


@app.command()
def resume(
    name: options.Name,
    trials: Annotated[int | None, typer.Option("--trials", metavar="N", help="Trials in all: extends.", min=1)] = None,
    wall: Annotated[str | None, typer.Option("--wall", metavar="TIME", help="New time limit, such as 8h.")] = None,
    gpu_hours: Annotated[
        float | None, typer.Option("--gpu-hours", metavar="HOURS", help="New limit of GPU-hours.")
    ] = None,
    data: options.MovedData = None,
    results: options.Results = options.RESULTS,
    address: options.Address = None,
    storage: options.Storage = None,
    tracking_uri: options.TrackingUri = None,
    verbose: options.Verbose = False,
) -> None:
    """Go on with a study, whatever ended it; more trials or another budget extend it."""
    from tune.paper.grid import asked_grid, is_grid
    from tune.study.plan_file import load_plan

    folder = study_folder(results, name)
    launch = _Launch(folder, address, storage, tracking_uri, verbose)
    if is_grid(folder):
        if (trials, wall, gpu_hours) != (None, None, None):
            raise InputError(f"{folder}: holds rows of tables, which have no --trials, --wall or --gpu-hours")
        grid, source = asked_grid(folder)
        _run_rows(launch, grid, grid.source["parts"], data or Path(source.path))
    else:
        plan, source, _ = load_plan(folder)  # the study's other files may have to be repaired first
        _run_study(launch, plan.extended(trials=trials, wall=wall, gpu_hours=gpu_hours), data or Path(source.path))


@app.command()
def confirm(
    name: options.Name,
    data: options.MovedData = None,
    results: options.Results = options.RESULTS,
    address: options.Address = None,
    storage: options.Storage = None,
    tracking_uri: options.TrackingUri = None,
    verbose: options.Verbose = False,
) -> None:
    """Train what is missing of the finalists × seeds, and write best.yaml."""
    from tune.study.plan_file import load_plan

    folder = study_folder(results, name)
    plan, source, _ = load_plan(folder)
    launch = _Launch(folder, address, storage, tracking_uri, verbose)
    _run_study(launch, plan, data or Path(source.path), search=False)


@app.command()
def reproduce(
    base: Annotated[
        str,
        typer.Argument(metavar="PLAN_OR_BEST", help="A Config such as best.yaml, a preset, or a plan, for its base."),
    ],
    data: options.Data,
    name: Annotated[str, typer.Option("--name", help="The study's name.")],
    tables: Annotated[str, typer.Option("--tables", metavar="NUMBERS", help="Tables of the paper.")] = "2,3,4,5,6",
    figures: Annotated[str, typer.Option("--figures", metavar="NUMBERS", help="Figures of the paper.")] = "2,3,4",
    results: options.Results = options.RESULTS,
    address: options.Address = None,
    storage: options.Storage = None,
    tracking_uri: options.TrackingUri = None,
    verbose: options.Verbose = False,
) -> None:
    """Train the rows of the paper's tables over seeds, and write them beside the published ones.

    Goes on where an interrupted one of that name ended; more tables under the same name add only the rows that are missing.
    """
    from tune.paper.grid import read_base
    from tune.paper.rows import parts_of

    launch = _Launch(study_folder(results, name), address, storage, tracking_uri, verbose)
    _run_rows(launch, read_base(base), parts_of(tables, figures), data)


for command in (
    studies.stop,
    studies.prune,
    studies.best,
    studies.report,
    studies.compare,
    studies.status,
    studies.repair,
    studies.sync,
    plans.doctor,
    plans.slurm,
    plans.schema,
):
    app.command()(command)


@dataclass(frozen=True)
class _Launch:
    """The study's folder and the options of a command that runs a session."""

    folder: Path
    address: str | None
    storage: str | None
    tracking_uri: str | None
    verbose: bool

    def session_options(self) -> SessionOptions:
        """What the session takes of them."""
        from tune.session import SessionOptions
        from tune.tracking import mlflow_writer

        uri = self.tracking_uri or mlflow_writer.default_uri(self.folder.parent)
        return SessionOptions(address=self.address, tracking_uri=uri, verbose=self.verbose)

    def command(self, verb: str) -> str:
        """The command that goes on; the study knows its storage itself."""
        results = None if self.folder.parent == options.RESULTS else str(self.folder.parent)
        named = {"--results": results, "--address": self.address, "--tracking-uri": self.tracking_uri}
        given = [word for option, value in named.items() if value is not None for word in (option, value)]
        return shlex.join(["lfvd-tune", verb, self.folder.name, *given])


def _run_study(launch: _Launch, plan: SearchPlan, data: Path, *, search: bool = True) -> None:
    """Search and confirm, or only confirm, and show the result."""
    from tune import session
    from tune.terminal.tables import print_best

    console, settings = options.make_console(), launch.session_options()
    with (
        session.started_study(launch.folder, plan, data, launch.storage, console) as (study, corpus),
        _exit_codes(console, launch.command("resume" if search else "confirm")),
    ):
        if not session.run_session(study, corpus, console, settings, search=search):
            raise KeyboardInterrupt
    print_best(study, console)
    _print_mlflow(console, settings)


def _run_rows(launch: _Launch, plan: SearchPlan, parts: Sequence[str], data: Path) -> None:
    """Train rows of the paper's tables, and show them."""
    from lfvd.data.corpus import Corpus
    from tune.paper import reproduce as rows
    from tune.paper.grid import start_grid
    from tune.session import lock_study

    corpus, console, settings = Corpus.load(data), options.make_console(), launch.session_options()
    with lock_study(launch.folder, console), _exit_codes(console, launch.command("resume")):
        grid = start_grid(launch.folder, plan, parts, corpus=corpus, data=data, storage=launch.storage)
        if not rows.run_rows(grid, corpus, console, settings):
            raise KeyboardInterrupt
    rows.print_tables(grid, console)
    _print_mlflow(console, settings)


@contextmanager
def _exit_codes(console: Console, again: str) -> Iterator[None]:
    """Exit 1 where nothing usable came out, 130 where the session was interrupted. again: the command that goes on."""
    from tune.session import NothingUsable

    try:
        yield
    except NothingUsable as error:
        options.print_error(error)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print(f"interrupted; to go on:\n  {again}", soft_wrap=True, highlight=False, markup=False)
        raise typer.Exit(130) from None


def _print_mlflow(console: Console, settings: SessionOptions) -> None:
    text = f"MLflow: mlflow ui --backend-store-uri {settings.tracking_uri}"
    console.print(text, soft_wrap=True, highlight=False, markup=False)
