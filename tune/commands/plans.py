"""Commands on a plan, before a study exists: doctor, slurm, schema."""

# Ray, Optuna, torch and MLflow take seconds to import: inside the commands that need them.

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tune.commands import options
from tune.study import study_folder


def doctor(
    plan: options.Plan,
    data: options.Data,
    results: options.Results = options.RESULTS,
    address: options.Address = None,
    storage: options.Storage = None,
    tracking_uri: options.TrackingUri = None,
    verbose: options.Verbose = False,
) -> None:
    """Check all that a search needs, time an epoch, and estimate what it takes; exits 1 where a search would fail."""
    from tune import session
    from tune.plan import SearchPlan
    from tune.preflight.doctor import run_all_checks
    from tune.preflight.result import print_result
    from tune.tracking import mlflow_writer

    read, console, failed = SearchPlan.from_yaml(plan), options.make_console(), False
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


def slurm(
    plan: options.Plan,
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
    name: options.NewName = None,
    results: options.Results = options.RESULTS,
) -> None:
    """Print a SLURM batch script for `search`: `lfvd-tune slurm … > trials.sh`, then `sbatch trials.sh`."""
    from tune.cluster.slurm import Allocation, batch_script

    folder = study_folder(results, name or Path(plan).stem)
    allocation = Allocation(nodes=nodes, gpus=gpus, cpus=cpus, time=time)
    print(batch_script(plan, data, folder.parent, folder.name, allocation), end="")


def schema(
    config: Annotated[bool, typer.Option("--config", help="Of a Config such as best.yaml, instead of a plan.")] = False,
) -> None:
    """Print the JSON schema of a plan, with which editors check and complete its keys."""
    import json

    from lfvd.config import config_schema
    from tune.plan import plan_schema

    print(json.dumps(config_schema() if config else plan_schema(), indent=2, ensure_ascii=False))
