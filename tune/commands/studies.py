"""Commands on a study that exists: stop, prune, best, report, compare, status, repair, sync."""

# Ray, Optuna, torch and MLflow take seconds to import: inside the commands that need them.

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tune.commands import options
from tune.study import study_folder

if TYPE_CHECKING:
    from tune.study.study import Study


def stop(name: options.Name, results: options.Results = options.RESULTS) -> None:
    """Ask the driver at work to wind down, as Ctrl-C does, and wait until it has."""
    import time

    from tune.study import lock

    folder = _open_any(results, name).folder
    if (holder := lock.holder_at_work(folder)) is None:
        options.print_error(f"{folder}: no driver is at work on this study")
        raise typer.Exit(1)
    lock.request(folder, "stop")
    print(f"asked the driver ({holder}) to wind down")
    while (now := lock.holder_at_work(folder)) and (now.host, now.pid) == (holder.host, holder.pid):
        time.sleep(0.5)
    print(f"it has ended; to go on: lfvd-tune resume {name}")


def prune(
    name: options.Name,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="The trial's number.")],
    results: options.Results = options.RESULTS,
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
        trials.prune(_open(results, name), trial)
    print(f"trial {trial} is ended")


def best(name: options.Name, results: options.Results = options.RESULTS) -> None:
    """Show the finalists, winner against baseline, and where best.yaml lies."""
    study = _open(results, name)
    from tune.search.confirmation import final_ranking
    from tune.terminal.tables import print_best

    if not final_ranking(study) or not (study.folder / "best.yaml").is_file():
        options.print_error(f"{study.folder}: is not confirmed yet: run `lfvd-tune confirm {name}`")
        raise typer.Exit(1)
    print_best(study, options.make_console())


def report(name: options.Name, results: options.Results = options.RESULTS) -> None:
    """Write DIR/NAME/report.html: how good the winner is, how sure that is, and what the search was worth."""
    study = _open(results, name)
    from tune.report.report import write_report

    print(write_report(study))


def compare(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Two studies or more.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Default: DIR/compare-A-B.html.")] = None,
    results: options.Results = options.RESULTS,
) -> None:
    """Write a page with several studies side by side: what they confirmed, what they took, where they differ."""
    studies = [_open(results, name) for name in names]
    from tune.report.compare import evaluations_warnings, warnings_of, write_comparison

    path = write_comparison(studies, out or results / f"compare-{'-'.join(names)}.html")
    for warning in (*warnings_of(studies), *evaluations_warnings(studies)):
        print(f"warning: {warning}", file=sys.stderr)
    print(path)


def status(name: options.Name, results: options.Results = options.RESULTS) -> None:
    """Show trials by state, the best ones, failures, and how far the confirmation is."""
    study = _open_any(results, name)
    from tune.paper.grid import Grid

    if isinstance(study, Grid):
        from tune.paper.reproduce import show_progress

        show_progress(study, options.make_console())
    else:
        from tune.terminal.tables import print_status

        print_status(study, options.make_console())


def repair(name: options.Name, results: options.Results = options.RESULTS) -> None:
    """Rebuild what the other files of a damaged study tell; what is replaced is kept beside."""
    import optuna

    from tune.paper.grid import Grid, is_grid
    from tune.study.repair import repair as rebuild
    from tune.study.study import Study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = study_folder(results, name)
    if not folder.is_dir():
        Study.open(folder)  # which says what there is
    for sentence in rebuild(folder, Grid.open if is_grid(folder) else Study.open):
        print(sentence)


def sync(
    name: options.Name, results: options.Results = options.RESULTS, tracking_uri: options.TrackingUri = None
) -> None:
    """Send to MLflow what it missed."""
    study = _open_any(results, name)
    from tune.tracking import mlflow_writer

    mlflow_writer.sync(study, tracking_uri or mlflow_writer.default_uri(results))
    print(f"MLflow holds all of {study.folder}")


def _open(results: Path, name: str) -> Study:
    import optuna

    from tune.study.study import Study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return Study.open(study_folder(results, name))


def _open_any(results: Path, name: str) -> Study:
    """A search, or rows of tables."""
    from tune.paper.grid import Grid, is_grid

    folder = study_folder(results, name)
    return Grid.open(folder) if is_grid(folder) else _open(results, name)
