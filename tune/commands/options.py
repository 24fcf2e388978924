"""What the commands of `lfvd-tune` share: options and arguments, the study's folder, the console, error messages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

RESULTS = Path("results")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.")]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of all studies.")]
TrackingUri = Annotated[
    str | None, typer.Option("--tracking-uri", metavar="URI", help="MLflow; default: DIR/mlflow.db.")
]
Plan = Annotated[str, typer.Argument(metavar="PLAN", help="A plan file, or the name of a shipped one.")]
Data = Annotated[Path, typer.Option("--data", metavar="FILE", help="Corpus made by `lfvd import` or `simulate`.")]
MovedData = Annotated[Path | None, typer.Option("--data", metavar="FILE", help="The study's corpus, if it moved.")]
NewName = Annotated[str | None, typer.Option("--name", help="The study's name; default: the plan's.")]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT|auto", help="A running Ray cluster; default: this machine."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="PLACE",
        help="Checkpoints: a folder that all nodes share, s3://… or gs://…; default: the study's folder.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what Ray, Optuna and MLflow log.")]


def print_error(error: object) -> None:
    """Print one sentence on stderr, in red on a terminal."""
    from rich.console import Console

    text = f"lfvd-tune: {error}"
    Console(stderr=True).print(text, style="red", markup=False, highlight=False, emoji=False, soft_wrap=True)


def make_console() -> Console:
    """The terminal, or the file or pipe that stdout is."""
    from rich.console import Console

    return Console(highlight=False)
