"""The command `lfvd-tune`: a plan and data → a confirmed best config.

lfvd-tune search search_spaces/demo.yaml --data data/demo.safetensors --name demo       (minutes on a laptop)
lfvd-tune status demo
lfvd-tune best demo
lfvd-tune confirm demo          (only what is missing of the confirmation)
lfvd-tune sync demo             (what MLflow missed)

The same `search` command goes on with an interrupted study. Exit codes: 0 done, 1 nothing usable, 2 usage, 130 interrupted.
"""

# Ray, Optuna, torch and MLflow take seconds to import: inside the commands that need them.

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lfvd.files import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from lfvd.corpus import Corpus
    from tune.journal import Study

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
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show what Ray, Optuna and MLflow log.")]

RESULTS = Path("results")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit; bad input is one sentence on stderr."""
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
    tracking_uri: TrackingOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Search, confirm, and write DIR/NAME/best.yaml; goes on where an interrupted search of that name ended."""
    from tune.space import SearchPlan

    read = SearchPlan.from_yaml(plan)
    from tune import driver

    corpus = driver.open_corpus(data, read)
    study = driver.start_study(_folder(results, name or Path(plan).stem), read, corpus, data)
    _sit(study, corpus, search=True, address=address, tracking_uri=tracking_uri, verbose=verbose)


@app.command()
def confirm(
    name: NameArgument,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="The study's corpus, if it moved.")
    ] = None,
    results: ResultsOption = RESULTS,
    address: AddressOption = None,
    tracking_uri: TrackingOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Train what is missing of the finalists × seeds, and write best.yaml."""
    study = _open(results, name)
    from tune import driver

    corpus = driver.open_corpus(data or study.data.path, study.plan)
    study.check_data(corpus)
    _sit(study, corpus, search=False, address=address, tracking_uri=tracking_uri, verbose=verbose)


@app.command()
def best(name: NameArgument, results: ResultsOption = RESULTS) -> None:
    """Show the finalists, winner against baseline, and where best.yaml lies."""
    study = _open(results, name)
    from tune.confirm import ranking
    from tune.screen import show_best

    if not ranking(study) or not (study.folder / "best.yaml").is_file():
        print(f"lfvd-tune: {study.folder}: is not confirmed yet: run `lfvd-tune confirm {name}`", file=sys.stderr)
        raise typer.Exit(1)
    show_best(study, _console())


@app.command()
def status(name: NameArgument, results: ResultsOption = RESULTS) -> None:
    """Show trials by state, the best ones, failures, and how far the confirmation is."""
    study = _open(results, name)
    from tune.screen import show_status

    show_status(study, _console())


@app.command()
def sync(name: NameArgument, results: ResultsOption = RESULTS, tracking_uri: TrackingOption = None) -> None:
    """Send to MLflow what it missed."""
    study = _open(results, name)
    from tune import tracking

    tracking.sync(study, tracking_uri or tracking.default_uri(results))
    print(f"MLflow holds all of {study.folder}")


def _folder(results: Path, name: str) -> Path:
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise InputError(
            f"--name {name!r}: must be a plain name, since it becomes a folder in {results}: leave out slashes"
        )
    return results / name


def _open(results: Path, name: str) -> Study:
    import optuna

    from tune.journal import Study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return Study.open(_folder(results, name))


def _sit(
    study: Study, corpus: Corpus, *, search: bool, address: str | None, tracking_uri: str | None, verbose: bool
) -> None:
    """One sitting at a study; exits 1 where nothing usable came out, 130 where it was interrupted."""
    from tune import driver, tracking
    from tune.screen import show_best

    console = _console()
    uri = tracking_uri or tracking.default_uri(study.folder.parent)
    try:
        whole = driver.sit(study, corpus, console, search=search, address=address, tracking_uri=uri, verbose=verbose)
    except driver.NothingUsable as error:
        print(f"lfvd-tune: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        whole = False
    if not whole:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        console.print(
            f"interrupted; the same command goes on:\n  {command}", soft_wrap=True, highlight=False, markup=False
        )
        raise typer.Exit(130)
    show_best(study, console)
    console.print(f"MLflow: mlflow ui --backend-store-uri {uri}", soft_wrap=True, highlight=False, markup=False)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


if __name__ == "__main__":
    main()
