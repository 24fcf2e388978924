"""Preflight checks of a search, in the order in which `lfvd-tune doctor` makes them.

`run_all_checks` is the command. Each search makes the quick ones: `check_before_cluster`, then `check_in_cluster`.
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
from tune.execution import ray_cluster
from tune.formatting import format_duration, format_number, format_size, join_first
from tune.plan import SearchPlan
from tune.preflight import nodes
from tune.preflight.costs import EpochCost, estimate_cost, file_sizes, resolve_gpu, time_epoch
from tune.preflight.result import CheckResult
from tune.sections import ResourcesPlan
from tune.study import checkpoints
from tune.study.study import Study
from tune.tracking import mlflow_writer

CONNECT_SECONDS = 3
"""How long a Ray cluster's address may take to accept a connection."""


def run_all_checks(
    plan: SearchPlan,
    corpus: Corpus,
    *,
    results: Path,
    storage: str | None,
    address: str | None,
    tracking_uri: str,
    verbose: bool,
) -> Iterator[CheckResult]:
    """All checks, each result as it comes; none in the cluster where it cannot be reached.

    Raises InputError for a malformed storage.
    """
    folder = checkpoints.parse(storage or results)
    first = check_before_cluster(address)
    yield from first
    if any(result.status == "error" for result in first):
        return
    try:
        with ray_cluster.cluster(ResourcesPlan(), address=address, verbose=verbose):
            yield (resources := check_resources(plan))
            yield check_storage(folder, named=storage is not None)
            yield from nodes.check_nodes(plan, ray_cluster.run_on_each_node(nodes.describe_node), address)
            yield check_mlflow(tracking_uri)
            if resources.status == "ok":
                yield from _check_trials(plan, corpus, results, folder)
    except InputError as error:
        yield CheckResult("cluster", "error", str(error))


def _check_trials(plan: SearchPlan, corpus: Corpus, results: Path, storage: str) -> Iterator[CheckResult]:
    """Time, memory and disk of the plan's trials, after a timed epoch."""
    epoch = time_epoch(plan, corpus.restricted("train", "valid"))
    if isinstance(epoch, str):
        remedy = "the base config must train: the baseline is the first trial of every search"
        yield CheckResult("epoch", "error", f"the timed epoch failed ({epoch})", remedy)
        yield check_disk(plan, corpus, results, storage)
        return
    plan = resolve_gpu(plan, epoch)
    yield check_epoch(plan, epoch)
    yield check_disk(plan, corpus, results, storage)
    yield describe_cost(plan, epoch)


def check_before_cluster(address: str | None) -> list[CheckResult]:
    """The checks that need no cluster."""
    return [check_address(address), check_token_file()]


def check_in_cluster(study: Study, corpus: Corpus, address: str | None) -> list[CheckResult]:
    """The quick checks of an open cluster. Without an address no worker is asked, which would take seconds."""
    here = address is None
    found = {nodes.THIS_MACHINE: nodes.describe_node()} if here else ray_cluster.run_on_each_node(nodes.describe_node)
    return [
        *nodes.check_nodes(study.plan, found, address),
        check_storage(study.paths.storage, named="storage" in study.info),
        check_disk(study.plan, corpus, study.folder, study.paths.storage),
    ]


def check_address(address: str | None) -> CheckResult:
    """Whether the search runs on the cluster that the user means, and it accepts connections."""
    variable = os.environ.get("RAY_ADDRESS") or "local"
    if address is None and variable != "local":
        message = f"RAY_ADDRESS={variable} is not used, since --address is missing: this machine alone works"
        return CheckResult("address", "warning", message, f"add --address {variable}, or unset RAY_ADDRESS")
    if address is None:
        return CheckResult("address", "ok", "this machine alone: no --address is given")
    try:
        target, source = ray_cluster.leads_to(address)
    except InputError as error:
        return CheckResult("address", "error", str(error))
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError):
        remedy = "start a cluster there with `ray start --head`, or name another with --address HOST:PORT"
        if Path(source).is_file():
            remedy = f"remove {source}, which a dead cluster left, or name a cluster with --address HOST:PORT"
        return CheckResult("address", "error", f"nothing answers at {target}, which {source} names", remedy)
    return CheckResult("address", "ok", f"{target} answers")


def check_token_file() -> CheckResult:
    """Whether only its owner can read the token that opens Ray clusters."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not file.is_file():
        return CheckResult("token", "ok", f"there is no token file {file}")
    readers = file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
    for folder in file.absolute().parents:
        mode = folder.stat().st_mode
        readers &= (stat.S_IRGRP if mode & stat.S_IXGRP else 0) | (stat.S_IROTH if mode & stat.S_IXOTH else 0)
    if not readers:
        return CheckResult("token", "ok", f"{file} can be read by its owner only")
    message = f"{file} can be read by others, who can then run code as you on your Ray clusters"
    return CheckResult("token", "warning", message, f"chmod 600 {file}")


def check_resources(plan: SearchPlan) -> CheckResult:
    """Whether some node has the resources of a trial."""
    have, needs = ray_cluster.on_offer(), f"{plan.resources.cpu} CPU and {plan.resources.gpu:g} GPU"
    if plan.auto_gpu:
        needs = f"{plan.resources.cpu} CPU (`gpu: auto`: the epoch below measures the share of a GPU)"
    if trials := ray_cluster.concurrent(plan.resources):
        return CheckResult("resources", "ok", f"{trials} at a time, each on {needs}; the nodes have {have}")
    message = f"a trial asks {needs}, but no node has that (there is {have})"
    remedy = "lower `resources.cpu` or `resources.gpu` in the plan, or name a cluster with --address"
    return CheckResult("resources", "error", message, remedy)


def check_storage(storage: str, *, named: bool) -> CheckResult:
    """Whether every node can write checkpoints to one storage; named: by the user, so that it must be shared."""
    count, unshared = ray_cluster.node_count(), dict[str, str]()
    try:
        if count > 1 or "://" in storage:
            unshared = ray_cluster.nodes_without(storage)
        else:
            checkpoints.touch(probe := checkpoints.join(storage, f".probe-{uuid.uuid4().hex}"))
            checkpoints.delete(probe)
    except OSError as error:
        message = f"{storage} cannot be written ({error.strerror or ' '.join(str(error).split())[:200]})"
        return CheckResult("storage", "error", message, "check the path, its rights and the disk")
    if not unshared:
        return CheckResult("storage", "ok", f"{storage} is writable" + f", by all {count} nodes" * (count > 1))
    message = f"{storage} is not shared with node {join_first(list(unshared))} ({next(iter(unshared.values()))})"
    message += "" if named else ", so that a trial that loses its node starts over"
    remedy = "name a --storage that all nodes share: a folder, s3://… or gs://…"
    return CheckResult("storage", "error" if named else "warning", message, remedy)


def check_disk(plan: SearchPlan, corpus: Corpus, folder: Path, storage: str) -> CheckResult:
    """Whether there is room for checkpoints and weights; files that a study has already written count as room."""
    checkpoint, weights = file_sizes(plan.config, corpus)
    weights *= (2 if plan.confirm.folds else plan.confirm.finalists + 1) * len(plan.confirm.seeds)
    remote = "://" in storage
    needed: defaultdict[Path, int] = defaultdict(int)
    needed[_mount(folder)] += weights
    if not remote:  # while a checkpoint is replaced, the old and the new one exist
        needed[_mount(Path(storage))] += 2 * ray_cluster.concurrent(plan.resources) * checkpoint
    written: defaultdict[Path, int] = defaultdict(int)
    for path in (*folder.glob("weights/*"), *Path(storage).glob("*.pt")):
        written[_mount(path.parent)] += path.stat().st_size
    sizes = f"{format_size(checkpoint)} a checkpoint, {format_size(weights)} of weights"
    free = {disk: shutil.disk_usage(disk) for disk in needed}
    for disk, need in needed.items():
        if free[disk].total and free[disk].free + written[disk] < need:
            message = (
                f"{disk} has {format_size(free[disk].free)} free, but the search needs {format_size(need)} ({sizes})"
            )
            return CheckResult("disk", "error", message, "make room, or name another --results or --storage")
    room = ", ".join(f"{disk} has {format_size(usage.free)} free" for disk, usage in free.items())
    if remote:
        return CheckResult("disk", "unknown", f"{sizes}; {room}; the room in {storage} is not known")
    return CheckResult("disk", "ok", f"{format_size(sum(needed.values()))} needed ({sizes}); {room}")


def _mount(path: Path) -> Path:
    """The root of the disk on which a path is, or will be."""
    path = path.resolve()
    while not path.is_mount():
        path = path.parent
    return path


def check_mlflow(uri: str) -> CheckResult:
    """Whether MLflow answers, and is of the same major version as the client here."""
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.exists():
        return CheckResult("mlflow", "ok", f"{file} will be made")
    try:
        return CheckResult("mlflow", "ok", mlflow_writer.describe_server(uri))
    except mlflow_writer.TrackingError as error:
        remedy = "a search goes on without it; `lfvd-tune sync NAME` sends later what is missing"
        return CheckResult("mlflow", "warning", str(error), remedy)


def check_epoch(plan: SearchPlan, epoch: EpochCost) -> CheckResult:
    """Whether as many trials as run at a time fit into memory; plan: with a number for `resources.gpu`."""
    gpu = plan.resources.gpu
    message = (
        f"{format_number(epoch.seconds)} s with the base config; a trial takes {format_size(epoch.memory)} of memory"
    )
    if epoch.device:
        device = f"{format_size(epoch.device_memory)} of {epoch.device} ({format_size(epoch.device_free)} free)"
        message += f" and {device}: {epoch.trials_per_device} fit"
    if plan.auto_gpu:
        message += f"; `gpu: auto` is {gpu:.3g}"
    trials, room = ray_cluster.concurrent(plan.resources), ray_cluster.concurrent(plan.resources, epoch.memory)
    if room < trials:
        message += f"; {trials} run at a time, but the nodes' memory holds {room}"
        remedy = f"set `resources.max_concurrent: {max(1, room)}`, or raise `resources.cpu`"
        return CheckResult("epoch", "warning", message, remedy)
    sharing = int(1 / gpu + 1e-9) if 0 < gpu < 1 else 0
    if epoch.device and epoch.trials_per_device < sharing:
        return CheckResult(
            "epoch", "warning", f"{message}, but {sharing} share it", "raise `resources.gpu`, or take auto"
        )
    return CheckResult("epoch", "ok", message)


def describe_cost(plan: SearchPlan, epoch: EpochCost) -> CheckResult:
    """The plan's time and GPU-hours; never a failure."""
    slots = max(1, ray_cluster.concurrent(plan.resources))
    cost = estimate_cost(plan, epoch.seconds, slots)
    message = f"search about {format_duration(cost.search)} of training"
    message += f" (ended by `budget.{cost.limit}`)" if cost.limit else ""
    message += f", confirmation about {format_duration(cost.confirmation)}; {slots} trials at a time"
    message += f"; about {format_number(cost.gpu_hours)} GPU-hours" if plan.resources.gpu else ""
    return CheckResult("estimate", "ok", f"{message}; for trials of random merit, at the base's time an epoch")
