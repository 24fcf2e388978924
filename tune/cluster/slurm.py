"""A search as a SLURM batch script: `tune/cluster/slurm.sh` filled in, after checks that save a wait in the queue."""

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

MISSING = '"${1:?name the corpus: sbatch THIS_FILE CORPUS.safetensors}"'
"""In the place of a corpus that is not known yet: the script's own argument, or a sentence."""

SHORTEST = 15 * 60
"""Seconds. Starting and winding down take some minutes of each job: shorter ones would hardly train."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What to ask SLURM for."""

    nodes: int
    gpus: int
    """GPUs of each node."""
    cpus: int | None
    """Cores of each node; None: what the trials on its GPUs need."""
    time: str
    """Time limit of a job, in one of SLURM's notations."""


def batch_script(plan: str, data: Path | None, results: Path, name: str, ask: Allocation) -> str:
    """The script that runs, and goes on with, the search `name`. Raises InputError for what could not run.

    data: the corpus; None: the script takes it as its argument.
    """
    read = SearchPlan.from_yaml(plan)
    if data is not None:
        Corpus.open(data)
    if _seconds(ask.time) < SHORTEST:
        raise InputError(
            f"--time {ask.time}: must be at least {SHORTEST // 60} minutes, since starting and winding down take some of "
            "each job: the search goes on in the next job, so any longer limit will do"
        )
    cpus = _cpus(read, ask)
    values = {
        "job": re.sub(r"[^\w.-]", "_", name, flags=re.ASCII),
        "nodes": str(ask.nodes),
        "cpus": str(cpus),
        "gpus": str(ask.gpus),
        "time": ask.time,
        "environment": shlex.quote(str(Path(sys.executable).parent)),
        "results": shlex.quote(str(results.absolute())),
        "plan": shlex.quote(str(Path(plan).absolute()) if Path(plan).is_file() else plan),
        "data": shlex.quote(str(data.absolute())) if data is not None else MISSING,
        "name": shlex.quote(name),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    if not ask.gpus:
        text = text.replace("#SBATCH --gpus-per-node=@gpus@\n", "")
    return re.sub(r"@([a-z]+)@", lambda match: values[match[1]], text)


def _cpus(plan: SearchPlan, ask: Allocation) -> int:
    """Cores of a node; checks that a node holds a trial."""
    share, each = plan.resources.gpu, plan.resources.cpu
    if ask.gpus and not share and not plan.auto_gpu:
        raise InputError(
            f"--gpus-per-node {ask.gpus}: the plan's trials use none: set `resources.gpu` in the plan, or leave the option out"
        )
    if ask.gpus < share or (plan.auto_gpu and not ask.gpus):
        raise InputError(
            f"--gpus-per-node {ask.gpus}: must be at least {max(1, int(share))}, since the plan's `resources.gpu` is "
            f"{'auto' if plan.auto_gpu else f'{share:g}'}: raise it, or change the plan"
        )
    on_gpus = ask.gpus * int(1 / share + 1e-9) if 0 < share < 1 else ask.gpus // (share or math.inf)
    cpus = ask.cpus or int(on_gpus) * each
    if cpus < each:
        given = "is missing" if ask.cpus is None else f"is {cpus}"
        raise InputError(
            f"--cpus-per-node {given}: must be at least {each}, the plan's `resources.cpu`: name the cores of a node, which "
            "limit how many trials it trains at a time"
        )
    return cpus


def _seconds(limit: str) -> int:
    """SLURM's minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]] → seconds."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if match is None:
        raise InputError(
            f"--time {limit!r}: must be a time of SLURM's, such as 12:00:00 or 2-12 (days-hours): give hours, minutes and seconds"
        )
    days, first, second, third = (int(part or 0) for part in match.groups())
    if match[1] is not None or match[4] is not None:
        return ((days * 24 + first) * 60 + second) * 60 + third
    return first * 60 + second
