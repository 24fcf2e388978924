"""A search as a SLURM batch script: `slurm.sh` filled in, after checks that save a wait in the queue."""

from __future__ import annotations

import math
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from lfvd.data.corpus import Corpus
from lfvd.files import InputError
from tune.plan import SearchPlan

TEMPLATE = Path(__file__).with_name("slurm.sh")

DATA_ARGUMENT = '"${1:?name the corpus: sbatch THIS_FILE CORPUS.safetensors}"'
"""In place of an unknown corpus: the script's own argument, or an error message."""

MIN_MINUTES = 15
"""Shortest job: starting and winding down take some minutes of each."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Resources to request from SLURM."""

    nodes: int
    gpus: int
    """GPUs of each node."""
    cpus: int | None
    """Cores of each node; None: what the trials on its GPUs need."""
    time: str
    """Time limit of a job, in one of SLURM's notations."""


def batch_script(plan: str, data: Path | None, results: Path, name: str, allocation: Allocation) -> str:
    """The script that starts or resumes the search `name`. Raises InputError for what could not run.

    data: the corpus; None: the script takes it as its argument.
    """
    cpus = _cpus(SearchPlan.from_yaml(plan), allocation)
    if data is not None:
        Corpus.open(data)
    if _seconds(allocation.time) < 60 * MIN_MINUTES:
        raise InputError(
            f"--time {allocation.time}: must be at least {MIN_MINUTES} minutes, since starting and winding down take some of "
            "each job: the search goes on in the next job, so any longer limit will do"
        )
    values = {
        "job": re.sub(r"[^\w.-]", "_", name, flags=re.ASCII),
        "nodes": str(allocation.nodes),
        "cpus": str(cpus),
        "gpus": str(allocation.gpus),
        "time": allocation.time,
        "environment": shlex.quote(str(Path(sys.executable).parent)),
        "results": shlex.quote(str(results.absolute())),
        "plan": shlex.quote(str(Path(plan).absolute()) if Path(plan).is_file() else plan),
        "data": shlex.quote(str(data.absolute())) if data is not None else DATA_ARGUMENT,
        "name": shlex.quote(name),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    if not allocation.gpus:
        text = text.replace("#SBATCH --gpus-per-node=@gpus@\n", "")
    return re.sub(r"@([a-z]+)@", lambda match: values[match[1]], text)


def _cpus(plan: SearchPlan, allocation: Allocation) -> int:
    """Cores of a node. Raises InputError where a node could not hold a trial."""
    gpus, gpu, cpu = allocation.gpus, plan.resources.gpu, plan.resources.cpu
    if gpus and not gpu and not plan.auto_gpu:
        raise InputError(
            f"--gpus-per-node {gpus}: the plan's trials use none: set `resources.gpu` in the plan, or leave the option out"
        )
    if gpus < gpu or (plan.auto_gpu and not gpus):
        raise InputError(
            f"--gpus-per-node {gpus}: must be at least {max(1, int(gpu))}, since the plan's `resources.gpu` is "
            f"{'auto' if plan.auto_gpu else f'{gpu:g}'}: raise it, or change the plan"
        )
    trials = gpus * int(1 / gpu + 1e-9) if 0 < gpu < 1 else gpus // (gpu or math.inf)
    cpus = allocation.cpus or int(trials) * cpu
    if cpus < cpu:
        raise InputError(
            f"--cpus-per-node {'is missing' if allocation.cpus is None else f'is {cpus}'}: must be at least {cpu}, the plan's "
            "`resources.cpu`: name the cores of a node, which limit how many trials it trains at a time"
        )
    return cpus


def _seconds(limit: str) -> int:
    """Seconds of SLURM's minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if match is None:
        raise InputError(
            f"--time {limit!r}: must be a time of SLURM's, such as 12:00:00 or 2-12 (days-hours): give hours, minutes and seconds"
        )
    days, first, second, third = (int(part or 0) for part in match.groups())
    if match[1] is None and match[4] is None:
        return first * 60 + second
    return ((days * 24 + first) * 60 + second) * 60 + third
