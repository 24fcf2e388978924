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
lfvd-tune sync demo             (what MLflow missed)
lfvd-tune schema                (the JSON schema of a plan, for an editor; --config: of a Config)
lfvd-tune reproduce results/demo/best.yaml --data data/demo.safetensors --name paper --tables 4,6     (the paper's rows)

Exit codes: 0 done, 1 nothing usable, 2 usage, 130 interrupted.
"""

# Ray, Optuna, torch and MLflow take seconds to import: inside the commands that need them.

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lfvd.files import InputError, print_warnings

if TYPE_CHECKING:
    from rich.console import Console

    from tune.plan import SearchPlan
    from tune.study.study import Study

app = typer.Typer(
    help="Search LFVD's hyperparameters on many GPUs, and confirm the best over seeds.",
    epilog="Start with `lfvd-tune search PLAN --data FILE --name NAME`. `lfvd-tune COMMAND --help` says more.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.")]
ResultsOption = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of all studies.")]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT|auto", help="A running Ray cluster; default: this machine."),
]
TrackingOption = Annotated[
    str | None, typer.Option("--tracking-uri", metavar="URI", help="MLflow; default: DIR/mlflow.db.")
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="PLACE",
        help="Checkpoints: a folder that all nodes share, s3://… or gs://…; default: the study's folder.",
    ),
]
DataOption = Annotated[Path | None, typer.Option("--data", metavar="FILE", help="The study's corpus, if it moved.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show what Ray, Optuna and MLflow log.")]

RESULTS = Path("results")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit; bad input is one sentence on stderr."""
    print_warnings("lfvd-tune")
    try:
        app(args=None if argv is None else list(argv), prog_name="lfvd-tune")
    except InputError as error:
        print(f"lfvd-tune: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"lfvd-tune: {where}{error.strerror or error}: check the path, its rights and the disk", file=sys.stderr)
    sys.exit(2)


@app.command()
def search(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A plan file, or the name of a shipped one.")],
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Corpus made by `lfvd import` or `simulate`.")],
    name: Annotated[str | None, typer.Option("--name", help="The study's name; default: the plan's.")] = None,
    results: ResultsOption = RESULTS,
    address: AddressOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Search, confirm, and write DIR/NAME/best.yaml; goes on where an interrupted search of that name ended."""
    from tune.plan import SearchPlan

    read = SearchPlan.from_yaml(plan)
    sitting = _Sitting(_folder(results, name or Path(plan).stem), address, storage, tracking_uri, verbose)
    sitting.run(read, data, search=True)


@app.command()
def resume(
    name: NameArgument,
    trials: Annotated[int | None, typer.Option("--trials", metavar="N", help="Trials in all: extends.", min=1)] = None,
    wall: Annotated[str | None, typer.Option("--wall", metavar="TIME", help="New time limit, such as 8h.")] = None,
    gpu_hours: Annotated[
        float | None, typer.Option("--gpu-hours", metavar="HOURS", help="New limit of GPU-hours.")
    ] = None,
    data: DataOption = None,
    results: ResultsOption = RESULTS,
    address: AddressOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Go on with a study, whatever ended it; more trials or another budget extend it."""
    from tune.paper.grid import asked_grid, is_grid

    sitting = _Sitting(_folder(results, name), address, storage, tracking_uri, verbose)
    if is_grid(sitting.folder):
        if (trials, wall, gpu_hours) != (None, None, None):
            raise InputError(f"{sitting.folder}: holds rows of tables, which have no --trials, --wall or --gpu-hours")
        grid, source = asked_grid(sitting.folder)
        sitting.reproduce(grid, grid.source["parts"], data or Path(source.path))
        return
    _, plan, corpus = _begun(results, name, data)
    sitting.run(plan.extended(trials=trials, wall=wall, gpu_hours=gpu_hours), corpus, search=True)


@app.command()
def confirm(
    name: NameArgument,
    data: DataOption = None,
    results: ResultsOption = RESULTS,
    address: AddressOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Train what is missing of the finalists × seeds, and write best.yaml."""
    folder, plan, corpus = _begun(results, name, data)
    _Sitting(folder, address, storage, tracking_uri, verbose).run(plan, corpus, search=False)


@app.command()
def reproduce(
    base: Annotated[
        str,
        typer.Argument(metavar="PLAN_OR_BEST", help="A Config such as best.yaml, a preset, or a plan, for its base."),
    ],
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Corpus made by `lfvd import` or `simulate`.")],
    name: Annotated[str, typer.Option("--name", help="The study's name.")],
    tables: Annotated[str, typer.Option("--tables", metavar="NUMBERS", help="Tables of the paper.")] = "2,3,4,5,6",
    figures: Annotated[str, typer.Option("--figures", metavar="NUMBERS", help="Figures of the paper.")] = "2,3,4",
    results: ResultsOption = RESULTS,
    address: AddressOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Train the rows of the paper's tables over seeds, and write them beside the published ones.

    Goes on where an interrupted one of that name ended; more tables under the same name add only the rows that are missing.
    """
    from tune.paper.grid import read_base
    from tune.paper.rows import parts_of

    sitting = _Sitting(_folder(results, name), address, storage, tracking_uri, verbose)
    sitting.reproduce(read_base(base), parts_of(tables, figures), data)


@app.command()
def stop(name: NameArgument, results: ResultsOption = RESULTS) -> None:
    """Ask the driver at work to wind down, as Ctrl-C does, and wait until it has."""
    import time

    from tune.study import lock

    folder = _open_any(results, name).folder
    if (working := lock.holder_at_work(folder)) is None:
        print(f"lfvd-tune: {folder}: no driver is at work on this study", file=sys.stderr)
        raise typer.Exit(1)
    lock.request(folder, "stop")
    print(f"asked the driver ({working}) to wind down")
    while (now := lock.holder_at_work(folder)) and (now.host, now.pid) == (working.host, working.pid):
        time.sleep(0.5)
    print(f"it has ended; to go on: lfvd-tune resume {name}")


@app.command()
def prune(
    name: NameArgument,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="The trial's number.")],
    results: ResultsOption = RESULTS,
) -> None:
    """End one unfinished trial by hand; it counts as stopped early."""
    study = _open(results, name)
    from tune.search import trials
    from tune.study import lock
    from tune.study.study import study_lock

    trials.check_unfinished(study, trial)
    if lock.holder_at_work(study.folder):
        lock.request(study.folder, trials.prune_request(trial))
        print(f"trial {trial} ends after its current epoch")
        return
    with study_lock(study.folder):
        trials.prune(study, trial)
    print(f"trial {trial} is ended")


@app.command()
def best(name: NameArgument, results: ResultsOption = RESULTS) -> None:
    """Show the finalists, winner against baseline, and where best.yaml lies."""
    study = _open(results, name)
    from tune.search.confirmation import settled
    from tune.terminal.tables import show_best

    if not settled(study) or not (study.folder / "best.yaml").is_file():
        print(f"lfvd-tune: {study.folder}: is not confirmed yet: run `lfvd-tune confirm {name}`", file=sys.stderr)
        raise typer.Exit(1)
    show_best(study, _console())


@app.command()
def report(name: NameArgument, results: ResultsOption = RESULTS) -> None:
    """Write DIR/NAME/report.html: how good the winner is, how sure that is, and what the search was worth."""
    study = _open(results, name)
    from tune.report.report import write_report

    print(write_report(study))


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Two studies or more.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Default: DIR/compare-A-B.html.")] = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Write a page with several studies side by side: what they confirmed, what they took, where they differ."""
    studies = [_open(results, name) for name in names]
    from tune.report.compare import warnings_of, write_comparison

    path = write_comparison(studies, out or results / f"compare-{'-'.join(names)}.html")
    for warning in warnings_of(studies):
        print(f"warning: {warning}", file=sys.stderr)
    print(path)


@app.command()
def status(name: NameArgument, results: ResultsOption = RESULTS) -> None:
    """Show trials by state, the best ones, failures, and how far the confirmation is."""
    study = _open_any(results, name)
    from tune.paper.grid import Grid

    if isinstance(study, Grid):
        from tune.paper.reproduce import show_progress

        show_progress(study, _console())
        return
    from tune.terminal.tables import show_status

    show_status(study, _console())


@app.command()
def sync(name: NameArgument, results: ResultsOption = RESULTS, tracking_uri: TrackingOption = None) -> None:
    """Send to MLflow what it missed."""
    study = _open_any(results, name)
    from tune.tracking import mlflow_writer

    mlflow_writer.sync(study, tracking_uri or mlflow_writer.default_uri(results))
    print(f"MLflow holds all of {study.folder}")


@app.command()
def doctor(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A plan file, or the name of a shipped one.")],
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Corpus made by `lfvd import` or `simulate`.")],
    results: ResultsOption = RESULTS,
    address: AddressOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Check all that a search needs, time an epoch, and estimate what it takes; exits 1 where a search would fail."""
    from tune import session
    from tune.plan import SearchPlan
    from tune.preflight.doctor import run_all_checks
    from tune.preflight.result import print_result
    from tune.tracking import mlflow_writer

    read, console, failed = SearchPlan.from_yaml(plan), _console(), False
    for result in run_all_checks(
        read,
        session.open_corpus(data, read),
        results=results,
        storage=storage,
        address=address,
        tracking_uri=tracking_uri or mlflow_writer.default_uri(results),
        verbose=verbose,
    ):
        print_result(result, console)
        failed = failed or result.status == "error"
    if failed:
        raise typer.Exit(1)


@app.command()
def slurm(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A plan file, or the name of a shipped one.")],
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes of the cluster.")],
    time: Annotated[str, typer.Option("--time", help="Time limit of a job, such as 12:00:00; the next job goes on.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="Corpus; default: the script's argument, `sbatch trials.sh FILE`."),
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus-per-node", min=0, help="GPUs of each node.")] = 0,
    cpus: Annotated[
        int | None,
        typer.Option("--cpus-per-node", min=1, help="Cores of each node; default: what the trials on its GPUs need."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The study's name; default: the plan's.")] = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Print a SLURM batch script for `search`: `lfvd-tune slurm … > trials.sh`, then `sbatch trials.sh`."""
    from tune.cluster.slurm import Allocation, batch_script

    ask = Allocation(nodes=nodes, gpus=gpus, cpus=cpus, time=time)
    folder = _folder(results, name or Path(plan).stem)
    print(batch_script(plan, data, folder.parent, folder.name, ask), end="")


@app.command()
def schema(
    config: Annotated[bool, typer.Option("--config", help="Of a Config such as best.yaml, instead of a plan.")] = False,
) -> None:
    """Print the JSON schema of a plan, with which editors check and complete its keys."""
    import json

    from lfvd.config import config_schema
    from tune.plan import plan_schema

    print(json.dumps(config_schema() if config else plan_schema(), indent=2, ensure_ascii=False))


def _folder(results: Path, name: str) -> Path:
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise InputError(
            f"--name {name!r}: must be a plain name, since it becomes a folder in {results}: leave out slashes"
        )
    return results / name


def _begun(results: Path, name: str, data: Path | None) -> tuple[Path, SearchPlan, Path]:
    """A study's folder, plan and corpus; its journals are not read, since they may have to be mended first."""
    from tune.study.plan_file import load_plan

    folder = _folder(results, name)
    plan, source, _ = load_plan(folder)
    return folder, plan, data or Path(source.path)


def _open(results: Path, name: str) -> Study:
    import optuna

    from tune.study.study import Study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return Study.open(_folder(results, name))


def _open_any(results: Path, name: str) -> Study:
    """A search, or rows of tables."""
    from tune.paper.grid import Grid, is_grid

    folder = _folder(results, name)
    return Grid.open(folder) if is_grid(folder) else _open(results, name)


@dataclass(frozen=True)
class _Sitting:
    """One sitting at a study, and with what."""

    folder: Path
    address: str | None
    storage: str | None
    tracking_uri: str | None
    verbose: bool

    def run(self, plan: SearchPlan, data: Path, *, search: bool) -> None:
        """Exits 1 where nothing usable came out, 130 where it was interrupted."""
        from tune import session
        from tune.terminal.tables import show_best

        corpus, console = session.open_corpus(data, plan), _console()
        with session.holding(self.folder, console):
            study = session.start_study(self.folder, plan, corpus, data, self.storage)
            sit = functools.partial(session.sit, study, corpus, console, search=search)
            self._finish(sit, console, "resume" if search else "confirm")
        show_best(study, console)
        self._name_mlflow(console)

    def reproduce(self, plan: SearchPlan, parts: Sequence[str], data: Path) -> None:
        """Rows of the paper's tables; exits as `run` does."""
        from lfvd.data.corpus import Corpus
        from tune import session
        from tune.paper import reproduce as rows
        from tune.paper.grid import start_grid

        corpus, console = Corpus.load(data), _console()
        with session.holding(self.folder, console):
            grid = start_grid(self.folder, plan, parts, corpus=corpus, data=data, storage=self.storage)
            self._finish(functools.partial(rows.sit, grid, corpus, console), console, "resume")
        rows.show(grid, console)
        self._name_mlflow(console)

    @property
    def _uri(self) -> str:
        from tune.tracking import mlflow_writer

        return self.tracking_uri or mlflow_writer.default_uri(self.folder.parent)

    def _finish(self, sit: Callable[..., bool], console: Console, verb: str) -> None:
        """Sit; exit where that did not come to its end."""
        from tune import session

        try:
            whole = sit(address=self.address, tracking_uri=self._uri, verbose=self.verbose)
        except session.NothingUsable as error:
            print(f"lfvd-tune: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            whole = False
        if not whole:
            again = self._again(verb)
            console.print(f"interrupted; to go on:\n  {again}", soft_wrap=True, highlight=False, markup=False)
            raise typer.Exit(130)

    def _name_mlflow(self, console: Console) -> None:
        said = f"MLflow: mlflow ui --backend-store-uri {self._uri}"
        console.print(said, soft_wrap=True, highlight=False, markup=False)

    def _again(self, verb: str) -> str:
        """The command that goes on; the study knows its storage itself."""
        results = None if self.folder.parent == RESULTS else str(self.folder.parent)
        options = {"--results": results, "--address": self.address, "--tracking-uri": self.tracking_uri}
        given = [word for option, value in options.items() if value is not None for word in (option, value)]
        return shlex.join(["lfvd-tune", verb, self.folder.name, *given])


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


if __name__ == "__main__":
    main()
