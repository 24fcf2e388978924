"""Checks of a cluster's nodes: whether they answer, their versions, access and GPUs."""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from lfvd.training.environment import run_info
from tune.execution import ray_cluster
from tune.formatting import format_size, join_first
from tune.plan import SearchPlan
from tune.preflight.result import CheckResult

THIS_MACHINE = "this machine"


@dataclass(frozen=True, kw_only=True)
class NodeInfo:
    """What a node reports about itself."""

    versions: dict[str, str]
    gpus: list[tuple[str, int]]
    """Name and bytes of memory of each GPU that torch sees."""
    token: bool
    """Whether its Ray asks for a token."""


Nodes = Mapping[str, NodeInfo | str]
"""A node's address → its report, or the text of an error."""


def describe_node() -> NodeInfo:
    """Describe the machine that this runs on."""
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return NodeInfo(
        versions=own_versions(),
        gpus=[(device.name, device.total_memory) for device in devices],
        token=os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
    )


@functools.cache
def own_versions() -> dict[str, str]:
    """Versions of Python, Ray, torch and this package, and the commit of its source (`none` outside a checkout)."""
    info = run_info("cpu")
    return {name: info["versions"][name] for name in ("python", "ray", "torch", "lfvd")} | {"commit": info["commit"]}


def check_nodes(plan: SearchPlan, nodes: Nodes, address: str | None) -> Iterator[CheckResult]:
    """All checks of the nodes' reports; address: as `--address`, None for a cluster on this machine alone."""
    reports = {name: report for name, report in nodes.items() if isinstance(report, NodeInfo)}
    yield from check_reachable(nodes)
    yield check_versions(reports, total=len(nodes))
    if address is not None:
        yield check_access(reports)
    yield check_gpus(plan, reports)


def check_reachable(nodes: Nodes) -> Iterator[CheckResult]:
    """Nodes that cannot run trials, and nodes that did not answer; no result where all answered."""
    errors = {name: report for name, report in nodes.items() if isinstance(report, str)}
    broken = [name for name, error in errors.items() if "ModuleNotFoundError" in error or "ImportError" in error]
    if broken:
        message = f"node {join_first(broken)} cannot run trials ({errors[broken[0]]})"
        yield CheckResult("nodes", "error", message, "install there what is installed here, at the same place")
    if silent := [name for name in errors if name not in broken]:
        message = f"node {join_first(silent)} did not answer ({errors[silent[0]]})"
        remedy = (
            "repair it, or remove it from the cluster with `ray stop` there, since trials are sent to it all the same"
        )
        yield CheckResult("nodes", "warning", message, remedy)


def check_versions(reports: Mapping[str, NodeInfo], *, total: int) -> CheckResult:
    """Whether all nodes that answered have the same versions; total: the number of nodes."""
    import ray.util  # here: tune.execution.ray_cluster prepares Ray's import

    versions = {name: report.versions for name, report in reports.items()}
    if versions.get(ray.util.get_node_ip_address()) != own_versions():
        versions = {THIS_MACHINE: own_versions(), **versions}
    nodes_by_version: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, each in versions.items():
        for key, version in each.items():
            if version != "none":
                nodes_by_version[key][version].append(name)
    differing = [
        f"{key} is " + ", ".join(f"{version} on {join_first(names)}" for version, names in found.items())
        for key, found in nodes_by_version.items()
        if len(found) > 1
    ]
    if differing:
        remedy = "install the same everywhere, since trials that move between nodes would start over, or differ"
        return CheckResult("versions", "warning", "; ".join(differing), remedy)
    message = ", ".join(f"{key} {version}" for key, version in own_versions().items() if version != "none")
    if total > 1:
        message += f" on {'all' if len(reports) == total else f'{len(reports)} of'} {total} nodes"
    return CheckResult("versions", "ok", message)


def check_access(reports: Mapping[str, NodeInfo]) -> CheckResult:
    """Whether the cluster asks for a token before it runs code."""
    if open_nodes := [name for name, report in reports.items() if not report.token]:
        message = f"Ray on {join_first(open_nodes)} asks for no token, so that whoever reaches it can run code as you"
        remedy = "start it with RAY_AUTH_MODE=token and the same ~/.ray/auth_token on all nodes"
        return CheckResult("access", "warning", message, remedy)
    return CheckResult("access", "ok", "the cluster asks for a token")


def check_gpus(plan: SearchPlan, reports: Mapping[str, NodeInfo]) -> CheckResult:
    """Whether torch sees the GPUs that Ray counts, where the plan uses them."""
    gpus = {name: report.gpus for name, report in reports.items()}
    kinds = [
        f"{len(each)} x {each[0][0]} of {format_size(each[0][1])} on {name}" for name, each in gpus.items() if each
    ]
    seen = f"torch sees {join_first(kinds) or 'none'}"
    if not plan.resources.gpu and not plan.auto_gpu:
        return CheckResult("gpus", "ok", f"the plan uses none ({seen})")
    counted = ray_cluster.counted_gpus()
    if THIS_MACHINE in gpus:
        counted = {THIS_MACHINE: sum(counted.values())}
    lacking = [name for name, each in gpus.items() if len(each) < counted.get(name, 0)]
    if not lacking:
        return CheckResult("gpus", "ok", seen)
    return CheckResult(
        "gpus",
        "warning",
        f"Ray counts {counted[lacking[0]]} GPUs on {join_first(lacking)}, but torch sees {len(gpus[lacking[0]])} there, so "
        "that trials may train on the CPU",
        "install the GPUs' driver and a torch for it, or start Ray with the `--num-gpus` that there are",
    )
