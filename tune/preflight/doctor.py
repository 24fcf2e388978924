"""Checks before a search spends GPU-hours: each one a `Finding`, what was found and what to do about it.

`examine` is `lfvd-tune doctor`: all checks, a timed epoch among them. `before` and `within` are the quick ones that each search
makes, before its cluster is opened and within it.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from lfvd.data.corpus import Corpus
from lfvd.files import InputError
from tune.execution import ray_jobs
from tune.formatting import format_duration, format_number, format_size, join_first
from tune.plan import ResourcesPlan, SearchPlan
from tune.preflight import nodes
from tune.preflight.costs import Measured, cost, file_sizes, settled, timed
from tune.preflight.result import Finding
from tune.study import checkpoints
from tune.study.study import Study
from tune.tracking import mlflow_writer

ANSWER_SECONDS = 3
"""How long a Ray cluster's address may take to accept a connection."""


def examine(
    plan: SearchPlan,
    corpus: Corpus,
    *,
    results: Path,
    storage: str | None,
    address: str | None,
    tracking_uri: str,
    verbose: bool,
) -> Iterator[Finding]:
    """All checks, one after the other. Raises InputError for a storage that is none."""
    place = checkpoints.parse(storage or results)
    yield from (found := before(address))
    if any(finding.fatal for finding in found):
        return
    try:
        with ray_jobs.cluster(ResourcesPlan(), address=address, verbose=verbose):
            yield (resources := check_resources(plan))
            yield check_storage(place, named=storage is not None)
            yield from nodes.check_nodes(plan, ray_jobs.on_each_node(nodes.look), address)
            yield check_mlflow(tracking_uri)
            if resources.ok:
                yield from _trials(plan, corpus, results, place)
    except InputError as error:
        yield Finding(check="cluster", ok=False, fatal=True, found=str(error))


def _trials(plan: SearchPlan, corpus: Corpus, results: Path, place: str) -> Iterator[Finding]:
    """What the plan's trials will take: epoch and memory, disk, hours."""
    measured = timed(plan, corpus.restricted("train", "valid"))
    if not isinstance(measured, str):
        plan = settled(plan, measured)
    yield check_epoch(plan, measured)
    yield check_disk(plan, corpus, results, place)
    if not isinstance(measured, str):
        yield check_cost(plan, measured)


def before(address: str | None) -> list[Finding]:
    """What can be known before a cluster is opened."""
    return [check_address(address), check_token_file()]


def within(study: Study, corpus: Corpus, address: str | None) -> list[Finding]:
    """What can be known at once in the cluster."""
    return [
        *nodes.check_nodes(study.plan, nodes.ask(address), address),
        check_storage(study.storage, named="storage" in study.info),
        check_disk(study.plan, corpus, study.folder, study.storage),
    ]


def check_address(address: str | None) -> Finding:
    """Whether the search runs where the user means, and something answers there."""
    named = os.environ.get("RAY_ADDRESS") or "local"
    if address is None and named != "local":
        return Finding(
            check="address",
            ok=False,
            found=f"RAY_ADDRESS={named} is not used, since --address is missing: this machine alone works",
            remedy=f"add --address {named}, or unset RAY_ADDRESS",
        )
    if address is None:
        return Finding(check="address", found="this machine alone: no --address is given")
    try:
        where, source = ray_jobs.leads_to(address)
    except InputError as error:
        return Finding(check="address", ok=False, fatal=True, found=str(error))
    if _answers(where):
        return Finding(check="address", found=f"{where} answers")
    return Finding(
        check="address",
        ok=False,
        fatal=True,
        found=f"nothing answers at {where}, which {source} names",
        remedy=f"remove {source}, which a dead cluster left, or name a cluster with --address HOST:PORT"
        if Path(source).is_file()
        else "start a cluster there with `ray start --head`, or name another with --address HOST:PORT",
    )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def check_token_file() -> Finding:
    """Whether only its owner can read the token that opens Ray clusters."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not file.is_file():
        return Finding(check="token", found=f"there is no token file {file}")
    mode = file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
    for folder in file.absolute().parents:
        passes = folder.stat().st_mode
        mode &= (stat.S_IRGRP if passes & stat.S_IXGRP else 0) | (stat.S_IROTH if passes & stat.S_IXOTH else 0)
    if not mode:
        return Finding(check="token", found=f"{file} can be read by its owner only")
    return Finding(
        check="token",
        ok=False,
        found=f"{file} can be read by others, who can then run code as you on your Ray clusters",
        remedy=f"chmod 600 {file}",
    )


def check_resources(plan: SearchPlan) -> Finding:
    """Whether some node can hold a trial."""
    have, asks = ray_jobs.on_offer(), f"{plan.resources.cpu} CPU and {plan.resources.gpu:g} GPU"
    if plan.auto_gpu:
        asks = f"{plan.resources.cpu} CPU (`gpu: auto`: the epoch below settles the GPU)"
    if trials := ray_jobs.concurrent(plan.resources):
        return Finding(check="resources", found=f"{trials} at a time, each on {asks}; the nodes have {have}")
    return Finding(
        check="resources",
        ok=False,
        fatal=True,
        found=f"a trial asks {asks}, but no node has that (there is {have})",
        remedy="lower `resources.cpu` or `resources.gpu` in the plan, or name a cluster with --address",
    )


def check_storage(place: str, *, named: bool) -> Finding:
    """Whether checkpoints can be written, by every node, to one place."""
    count, without = ray_jobs.node_count(), dict[str, str]()
    try:
        if count > 1 or "://" in place:
            without = ray_jobs.nodes_without(place)
        else:
            checkpoints.leave(probe := checkpoints.place(place, f".probe-{uuid.uuid4().hex}"))
            checkpoints.delete(probe)
    except OSError as error:
        found = f"{place} cannot be written ({error.strerror or ' '.join(str(error).split())[:200]})"
        remedy = "check the path, its rights and the disk"
        return Finding(check="storage", ok=False, fatal=True, found=found, remedy=remedy)
    if not without:
        return Finding(check="storage", found=f"{place} is writable" + f", by all {count} nodes" * (count > 1))
    found = f"{place} is not shared with node {join_first(list(without))} ({next(iter(without.values()))})"
    found += "" if named else ", so that a trial that loses its node starts over"
    remedy = "name a --storage that all nodes share: a folder, s3://… or gs://…"
    return Finding(check="storage", ok=False, fatal=named, found=found, remedy=remedy)


def check_disk(plan: SearchPlan, corpus: Corpus, folder: Path, place: str) -> Finding:
    """Whether checkpoints and weights have room; what lies there already is counted as room."""
    checkpoint, weight = file_sizes(plan.config, corpus)
    runs = (plan.confirm.finalists + 1) * len(plan.confirm.seeds)
    needs: defaultdict[Path, int] = defaultdict(int)
    needs[_mount(folder)] += runs * weight
    elsewhere = "://" in place
    if not elsewhere:
        needs[_mount(Path(place))] += 2 * ray_jobs.concurrent(plan.resources) * checkpoint  # each beside its successor
    written: defaultdict[Path, int] = defaultdict(int)
    for path in (*folder.glob("weights/*"), *Path(place).glob("*.pt")):
        written[_mount(path.parent)] += path.stat().st_size
    words = f"{format_size(checkpoint)} a checkpoint, {format_size(runs * weight)} of weights"
    for disk, need in needs.items():
        usage = shutil.disk_usage(disk)
        if usage.total and usage.free + written[disk] < need:
            return Finding(
                check="disk",
                ok=False,
                fatal=True,
                found=f"{disk} has {format_size(usage.free)} free, but the search needs {format_size(need)} ({words})",
                remedy="make room, or name another --results or --storage",
            )
    room = ", ".join(f"{disk} has {format_size(shutil.disk_usage(disk).free)} free" for disk in needs)
    if elsewhere:
        return Finding(check="disk", ok=None, found=f"{words}; {room}; the room in {place} is not known")
    return Finding(check="disk", found=f"{format_size(sum(needs.values()))} needed ({words}); {room}")


def _mount(path: Path) -> Path:
    """The root of the disk that a path lies on, or will lie on."""
    path = path.absolute()
    while not path.exists() or (path.parent != path and path.parent.stat().st_dev == path.stat().st_dev):
        path = path.parent
    return path


def check_mlflow(uri: str) -> Finding:
    """Whether MLflow answers, and is of a version that this one understands."""
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.exists():
        return Finding(check="mlflow", found=f"{file} will be made")
    try:
        return Finding(check="mlflow", found=mlflow_writer.reach(uri))
    except mlflow_writer.TrackingError as error:
        remedy = "a search goes on without it; `lfvd-tune sync NAME` sends later what is missing"
        return Finding(check="mlflow", ok=False, found=str(error), remedy=remedy)


def check_epoch(plan: SearchPlan, measured: Measured | str) -> Finding:
    """Whether the base config trains, and as many trials as run at a time fit into memory. plan: with `gpu` settled."""
    if isinstance(measured, str):
        remedy = "the base config must train: the baseline is the first trial of every search"
        return Finding(check="epoch", ok=False, fatal=True, found=f"the timed epoch failed ({measured})", remedy=remedy)
    gpu = plan.resources.gpu
    found = f"{format_number(measured.seconds)} s with the base config"
    found += f"; a trial takes {format_size(measured.memory)} of memory"
    if measured.device:
        free = format_size(measured.device_free)
        found += f" and {format_size(measured.device_memory)} of {measured.device} ({free} free): {measured.fits} fit"
    if plan.auto_gpu:
        found += f"; `gpu: auto` is {gpu:.3g}"
    trials, room = ray_jobs.concurrent(plan.resources), ray_jobs.concurrent(plan.resources, measured.memory)
    if room < trials:
        remedy = f"set `resources.max_concurrent: {max(1, room)}`, or raise `resources.cpu`"
        found += f"; {trials} run at a time, but the nodes' memory holds {room}"
        return Finding(check="epoch", ok=False, found=found, remedy=remedy)
    if measured.device and 0 < gpu < 1 and measured.fits < int(1 / gpu + 1e-9):
        remedy = "raise `resources.gpu`, or take auto"
        return Finding(check="epoch", ok=False, found=f"{found}, but {int(1 / gpu + 1e-9)} share it", remedy=remedy)
    return Finding(check="epoch", found=found)


def check_cost(plan: SearchPlan, measured: Measured) -> Finding:
    """What the plan will take; nothing is wrong with it."""
    slots = max(1, ray_jobs.concurrent(plan.resources))
    takes = cost(plan, measured.seconds, slots)
    found = f"search about {format_duration(takes.search)} of training"
    found += f" (ended by `budget.{takes.bounded}`)" if takes.bounded else ""
    found += f", confirmation about {format_duration(takes.confirm)}; {slots} trials at a time"
    found += f"; about {format_number(takes.gpu_hours)} GPU-hours" if plan.resources.gpu else ""
    found += "; for trials of random merit, at the base's time an epoch"
    return Finding(check="estimate", found=found)
