"""What the nodes of a cluster say of themselves, and whether that goes together: versions, GPUs, access."""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from lfvd.training.environment import run_info
from tune.execution import ray_jobs
from tune.formatting import format_size, join_first
from tune.plan import SearchPlan
from tune.preflight.result import Finding


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node says of itself."""

    versions: dict[str, str]
    gpus: list[tuple[str, int]]
    """Name and bytes of memory of each GPU that torch sees."""
    token: bool
    """Whether its Ray asks for a token."""


Nodes = Mapping[str, Node | str]
"""A node's address → what it says, or the text of an error."""

HERE = "this machine"


def look() -> Node:
    """Ask the node that this runs on."""
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return Node(
        versions=versions(),
        gpus=[(device.name, device.total_memory) for device in devices],
        token=os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
    )


@functools.cache
def versions() -> dict[str, str]:
    """Python, Ray, torch, this package, and the commit of its source (`none` where it is not a checkout)."""
    info = run_info("cpu")
    return {name: info["versions"][name] for name in ("python", "ray", "torch", "lfvd")} | {"commit": info["commit"]}


def ask(address: str | None) -> Nodes:
    """Ask all nodes; this machine alone answers for itself, at once."""
    return {HERE: look()} if address is None else ray_jobs.on_each_node(look)


def check_nodes(plan: SearchPlan, nodes: Nodes, address: str | None) -> Iterator[Finding]:
    """All that the nodes' answers show."""
    yield from check_answers(nodes)
    yield check_versions(nodes)
    if address is not None:
        yield check_access(nodes)
    yield check_gpus(plan, nodes)


def check_answers(nodes: Nodes) -> Iterator[Finding]:
    """The nodes that cannot run trials, and those that did not answer; nothing where all did."""
    lost = {name: answer for name, answer in nodes.items() if isinstance(answer, str)}
    broken = [name for name, answer in lost.items() if "ModuleNotFoundError" in answer or "ImportError" in answer]
    if broken:
        found = f"node {join_first(broken)} cannot run trials ({lost[broken[0]]})"
        remedy = "install there what is installed here, at the same place"
        yield Finding(check="nodes", ok=False, fatal=True, found=found, remedy=remedy)
    if silent := [name for name in lost if name not in broken]:
        found = f"node {join_first(silent)} did not answer ({lost[silent[0]]})"
        remedy = (
            "mend it, or take it out of the cluster with `ray stop` there, since trials are sent to it all the same"
        )
        yield Finding(check="nodes", ok=False, found=found, remedy=remedy)


def check_versions(nodes: Nodes) -> Finding:
    """Whether all nodes that answered have the same versions."""
    found = {name: node.versions for name, node in _answers(nodes).items()}
    if found.get(_own_address()) != versions():
        found = {HERE: versions(), **found}
    if differing := _differing(found):
        remedy = "install the same everywhere, since trials that move between nodes would start over, or differ"
        return Finding(check="versions", ok=False, found="; ".join(differing), remedy=remedy)
    agreed = ", ".join(f"{key} {version}" for key, version in versions().items() if version != "none")
    answered = len(_answers(nodes))
    which = "all" if answered == len(nodes) else f"{answered} of"
    return Finding(check="versions", found=agreed + (f" on {which} {len(nodes)} nodes" if len(nodes) > 1 else ""))


def _own_address() -> str:
    """This machine's address in the cluster."""
    import ray.util  # here: tune.execution.ray_jobs prepares Ray's import

    return str(ray.util.get_node_ip_address())


def _differing(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """`torch is 2.8.0 on this machine, 2.7.1 on 10.0.0.2` for each version in which nodes differ."""
    where: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, theirs in found.items():
        for key, version in theirs.items():
            if version != "none":
                where[key][version].append(name)
    return [
        f"{key} is " + ", ".join(f"{version} on {join_first(names)}" for version, names in there.items())
        for key, there in where.items()
        if len(there) > 1
    ]


def check_access(nodes: Nodes) -> Finding:
    """Whether a cluster asks for a token before it runs code."""
    bare = [name for name, node in _answers(nodes).items() if not node.token]
    if not bare:
        return Finding(check="access", found="the cluster asks for a token")
    return Finding(
        check="access",
        ok=False,
        found=f"Ray on {join_first(bare)} asks for no token, so that whoever reaches it can run code as you",
        remedy="start it with RAY_AUTH_MODE=token and the same ~/.ray/auth_token on all nodes",
    )


def check_gpus(plan: SearchPlan, nodes: Nodes) -> Finding:
    """Whether torch sees the GPUs that Ray counts, where the plan uses them."""
    seen = {name: node.gpus for name, node in _answers(nodes).items()}
    kinds = [
        f"{len(gpus)} x {gpus[0][0]} of {format_size(gpus[0][1])} on {name}" for name, gpus in seen.items() if gpus
    ]
    words = join_first(kinds) or "none"
    if not plan.resources.gpu and not plan.auto_gpu:
        return Finding(check="gpus", found=f"the plan uses none (torch sees {words})")
    counted = ray_jobs.counted_gpus()
    if HERE in seen:
        counted = {HERE: sum(counted.values())}
    short = [name for name, gpus in seen.items() if len(gpus) < counted.get(name, 0)]
    if not short:
        return Finding(check="gpus", found=f"torch sees {words}")
    name = short[0]
    return Finding(
        check="gpus",
        ok=False,
        found=f"Ray counts {counted[name]} GPUs on {join_first(short)}, but torch sees {len(seen[name])} there, so "
        "that trials may train on the CPU",
        remedy="install the GPUs' driver and a torch for it, or start Ray with the `--num-gpus` that there are",
    )


def _answers(nodes: Nodes) -> dict[str, Node]:
    return {name: node for name, node in nodes.items() if isinstance(node, Node)}
