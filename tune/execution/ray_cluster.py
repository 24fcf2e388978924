"""The Ray cluster of a search: connecting, addresses, resources of its nodes, and calls of a function on a node."""

from __future__ import annotations

import gc
import logging
import math
import os
import re
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; without it each import warns
import ray
from ray._common.utils import get_ray_address_file
from ray._private import services
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lfvd.files import InputError
from tune.sections import ResourcesPlan
from tune.study import checkpoints

PROBE_SECONDS = 60
"""How long to wait for the answers of all nodes."""

_T = TypeVar("_T")

_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # epochs.jsonl is the log
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the session handles signals
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # snapshots are not used
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a banner even at verbosity 0
}


@contextmanager
def cluster(resources: ResourcesPlan, *, address: str | None = None, verbose: bool = False) -> Iterator[None]:
    """Connect to the Ray at an address, or start one on this machine. Raises InputError where no node can hold one trial."""
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    # At ERROR, Ray prints the traceback of each lost worker across the live table; faults.jsonl holds the reason.
    level = logging.INFO if verbose else logging.CRITICAL
    logging.getLogger("ray").setLevel(level)
    if address is not None:
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as `ray start` does; init only for `auto`
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # `local` unless named: a plain init follows the address file of any dead cluster and hangs.
        ray.init(address=address or "local", log_to_driver=verbose, logging_level=level)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if isinstance(error.__cause__ or error, ray.exceptions.AuthenticationError):
            raise InputError(
                f"--address {address}: the Ray cluster there wants another token: copy ~/.ray/auth_token of its head, "
                "or start it with RAY_AUTH_MODE=disabled"
            ) from None
        if address is None:
            raise  # no input of the user's
        reason = str(error).strip().rpartition("\n")[2]
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({reason}): start one with `ray start --head`"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():  # only there does Ray replace them
            for number, handler in handlers.items():
                signal.signal(number, handler)
    try:
        if _slots(resources) == 0:
            raise InputError(
                f"`resources` asks {resources.cpu} CPU and {resources.gpu:g} GPU a trial, but no node has that "
                f"(there is {on_offer()}): lower `resources.cpu` or `resources.gpu`, or name a cluster with --address"
            )
        yield
    finally:
        # `ray.shutdown` ends the process if another thread collects garbage that holds a reference of Ray meanwhile.
        gc.collect()
        gc.disable()
        try:
            ray.shutdown()
        finally:
            gc.enable()


def leads_to(address: str) -> tuple[str, str]:
    """HOST:PORT at which Ray looks for the cluster of an address, and what names it; `auto` follows a variable or a file.

    Raises InputError for an address that leads nowhere.
    """
    try:
        found = services.canonicalize_bootstrap_address(address)
    except (ConnectionError, ValueError):
        raise InputError(
            f"--address {address}: leads to no Ray cluster: start one with `ray start --head`, or name its HOST:PORT"
        ) from None
    if address != "auto":
        return str(found), "--address"
    return str(found), "RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") else str(get_ray_address_file(None))


def run_on_each_node(function: Callable[..., _T], *arguments: Any) -> dict[str, _T | str]:
    """Call a function on every node at the same time → address of the node: what it returns, or the text of the error.

    Sorted by address, since Ray lists its nodes in any order.
    """
    results = {}
    for node in sorted(_alive(), key=lambda node: str(node["NodeManagerAddress"])):
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        # The worker ends after one call: one that looked at GPUs would keep some of their memory.
        task = ray.remote(num_cpus=0, max_retries=0, max_calls=1, scheduling_strategy=there)(function)
        results[node["NodeManagerAddress"]] = task.remote(*arguments)
    ray.wait([*results.values()], num_returns=len(results), timeout=PROBE_SECONDS)  # for all together, not for each
    return {address: _result(result, 0, waited=PROBE_SECONDS) for address, result in results.items()}


def run_once(function: Callable[..., _T], *arguments: Any, resources: ResourcesPlan) -> _T | str:
    """Call a function where a trial of these resources would run → what it returns, or the text of the error."""
    gpu = resources.gpu
    options = {"num_cpus": resources.cpu, "max_retries": 0, "max_calls": 1, **({"num_gpus": gpu} if gpu else {})}
    result: _T | str = _result(ray.remote(**options)(function).remote(*arguments), resources.epoch_seconds)
    return result


def _result(result: Any, seconds: float, *, waited: float = 0) -> Any:
    """The value of a Ray object, or the text of the error; waited: seconds that were waited for it before."""
    try:
        return ray.get(result, timeout=seconds)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(result, force=True)
        return f"no answer within {waited + seconds:g} s"
    except ray.exceptions.RayError as error:
        return error_line(str(error))


def error_line(text: str) -> str:
    """The exception's own line in Ray's error text, whose end may be boilerplate."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines or ["the worker ended without a word"])[-1][:300]


def nodes_without(storage: str) -> dict[str, str]:
    """Nodes that do not share a storage with this machine → why."""
    probe = f".probe-{uuid.uuid4().hex}"
    checkpoints.touch(checkpoints.join(storage, probe))
    try:
        answers = run_on_each_node(_find_probe, storage, probe)
    finally:
        checkpoints.delete(checkpoints.join(storage, probe))
    without = {}
    for node, answer in answers.items():
        there = checkpoints.join(storage, f"{probe}-{node}")
        if answer is not None or not checkpoints.exists(there):
            without[node] = answer or "it writes elsewhere"
        checkpoints.delete(there)
    return without


def _find_probe(storage: str, probe: str) -> str | None:
    """On a node: look for the probe file, and write another one beside it → what is wrong, or None."""
    if not checkpoints.exists(checkpoints.join(storage, probe)):
        return "it is not there"
    checkpoints.touch(checkpoints.join(storage, f"{probe}-{ray.util.get_node_ip_address()}"))
    return None


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in _alive()]


def node_ids() -> frozenset[str]:
    """Ids of the nodes that the cluster has now; a node that comes back has another one."""
    return frozenset(str(node["NodeID"]) for node in _alive())


def node_count() -> int:
    """Nodes of the cluster now."""
    return len(_nodes())


def on_offer() -> str:
    """CPUs and GPUs of each node in words, equal nodes together."""
    equal = Counter(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in _nodes())
    return "; ".join(f"{count} x {have}" if count > 1 else have for have, count in equal.items())


def counted_gpus() -> dict[str, int]:
    """GPUs of each node as Ray counts them, by its address."""
    return {node["NodeManagerAddress"]: int(node["Resources"].get("GPU", 0)) for node in _alive()}


def concurrent(resources: ResourcesPlan, memory: int = 0) -> int:
    """Trials at a time: as many as the nodes hold, or the plan's limit if that is less; memory: bytes of each trial."""
    limit = math.inf if resources.max_concurrent == "auto" else int(resources.max_concurrent)
    return int(min(limit, _slots(resources, memory)))


def _slots(resources: ResourcesPlan, memory: int = 0) -> int:
    """Trials that the nodes of the cluster hold at the same time. A trial lies on one node, a share of a GPU on one GPU."""
    share, slots = resources.gpu, 0
    for node in _nodes():
        limits = [node.get("CPU", 0) // resources.cpu]
        if share:
            gpus = node.get("GPU", 0)
            limits.append(int(gpus) * int(1 / share + 1e-9) if share < 1 else gpus // share)
        if memory:
            limits.append(node.get("memory", 0) // memory)
        slots += int(min(limits))
    return slots
