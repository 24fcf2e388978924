"""Jobs on Ray Tune: the only file that knows how Ray schedules. Search and confirmation are both a `Source` of jobs.

Ray asks for jobs through a Searcher and tells their reports to a Scheduler; both only pass on to the Source, which holds
all decisions and writes them to the journal. Ray's own snapshots are not used: they lag, and forget ASHA's rungs.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import re
import signal
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; without it each import warns
import ray
import ray.tune as ray_tune
from ray._common.utils import get_ray_address_file
from ray._private import services
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lfvd.data.corpus import Corpus
from lfvd.files import InputError
from tune.execution.retries import Desk, Source
from tune.execution.worker import run_job
from tune.plan import ResourcesPlan
from tune.study import checkpoints

PROBE_SECONDS = 60
"""How long to wait for a node's answer."""

_T = TypeVar("_T")

_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # epochs.jsonl is the log
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver winds down itself
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # snapshots are not used
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a banner even at verbosity 0
}


class _Jobs(Searcher):  # type: ignore[misc]
    """Desk → Ray, as many jobs at a time as there are slots."""

    def __init__(self, desk: Desk, slots: Callable[[], int]) -> None:
        super().__init__(metric="record", mode="max")
        self.desk, self.slots = desk, slots

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.desk.over():
            return str(Searcher.FINISHED)
        job = self.desk.next(trial_id, self.slots())
        return None if job is None else {"job": job}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: the scheduler below hears of it too."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal holds the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal holds the state."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the journal holds the state."""


class _News(FIFOScheduler):  # type: ignore[misc]
    """Ray → Desk: each report once, and how each attempt ended."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        self.desk.attempts[trial.trial_id].trial = trial

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        ends = self.desk.report(trial.trial_id, result)
        return str(TrialScheduler.STOP if ends else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        trial.last_result.pop("result", None)  # weights, which Ray would keep to the end
        if trial.trial_id in self.desk.attempts:
            self.desk.lost(trial.trial_id, "the run ended without a result")

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if trial.trial_id in self.desk.attempts:
            # Ray's own get_error looks where the file is copied to later.
            error = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
            self.desk.lost(trial.trial_id, _cause(error))


class _WindDown(Stopper):  # type: ignore[misc]
    """Ends the run when the source says so, or broke. Asked at each turn of Ray's loop."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self.desk.end_hung()
        return self.desk.stopping()


def _cause(text: str) -> str:
    """The exception's own line in Ray's error text, whose end may be boilerplate."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines or ["the worker ended without a word"])[-1][:300]


def _last_line(error: object) -> str:
    lines = [line for line in str(error or "").strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


@contextmanager
def cluster(resources: ResourcesPlan, *, address: str | None = None, verbose: bool = False) -> Iterator[None]:
    """A Ray of this machine's own, or the named one. Raises InputError where no node can hold one trial."""
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    # At ERROR, Ray prints each lost worker's traceback across the live table; the journal holds the reason.
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
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({_last_line(error)}): start one with `ray start --head`"
        ) from None
    finally:
        for number, handler in handlers.items():  # Ray puts its own in their place
            signal.signal(number, handler)
    try:
        if _slots(resources) == 0:
            raise InputError(
                f"`resources` asks {resources.cpu} CPU and {resources.gpu:g} GPU a trial, but no node has that "
                f"(there is {on_offer()}): lower `resources.cpu` or `resources.gpu`, or name a cluster with --address"
            )
        yield
    finally:
        _leave()


def _leave() -> None:
    """Leave Ray, which ends the process where another thread collects garbage with one of its references meanwhile."""
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def leads_to(address: str) -> tuple[str, str]:
    """Where Ray looks for the cluster of an address, HOST:PORT, and what names it; `auto` follows a variable or a file.

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


def on_each_node(question: Callable[..., _T], *arguments: Any) -> dict[str, _T | str]:
    """Ask a function of every node, at the same time → its address: the answer, or the text of the error.

    In the order of the addresses: Ray names its nodes in any order."""
    asked = {}
    for node in sorted(ray.nodes(), key=lambda node: str(node["NodeManagerAddress"])):
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # The worker ends with its answer: one that looked at GPUs would keep some of their memory.
            task = ray.remote(num_cpus=0, max_retries=0, max_calls=1, scheduling_strategy=there)(question)
            asked[node["NodeManagerAddress"]] = task.remote(*arguments)
    ray.wait([*asked.values()], num_returns=len(asked), timeout=PROBE_SECONDS)  # for all together, not for each
    return {address: _answered(answer, 0, waited=PROBE_SECONDS) for address, answer in asked.items()}


def run_once(question: Callable[..., _T], *arguments: Any, resources: ResourcesPlan) -> _T | str:
    """Ask a function where a trial of these resources would run → the answer, or the text of the error."""
    gpu = resources.gpu
    options = {"num_cpus": resources.cpu, "max_retries": 0, "max_calls": 1, **({"num_gpus": gpu} if gpu else {})}
    answer: _T | str = _answered(ray.remote(**options)(question).remote(*arguments), resources.epoch_seconds)
    return answer


def _answered(answer: Any, seconds: float, *, waited: float = 0) -> Any:
    """The answer, or the text of the error; waited: seconds that were waited for it before."""
    try:
        return ray.get(answer, timeout=seconds)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(answer, force=True)
        return f"no answer within {waited + seconds:g} s"
    except ray.exceptions.RayError as error:
        return _cause(str(error))


def node_ids() -> frozenset[str]:
    """Which nodes the cluster has now; one that comes back has another id."""
    return frozenset(str(node["NodeID"]) for node in ray.nodes() if node["Alive"])


def node_count() -> int:
    """Nodes of the cluster now."""
    return len(_nodes())


def nodes_without(folder: str) -> dict[str, str]:
    """Nodes that do not share a storage with this machine → why."""
    probe = f".probe-{uuid.uuid4().hex}"
    checkpoints.leave(checkpoints.place(folder, probe))
    try:
        answers = on_each_node(_answer, folder, probe)
    finally:
        checkpoints.delete(checkpoints.place(folder, probe))
    without = {}
    for node, answer in answers.items():
        if answer != _SEEN or not checkpoints.found(checkpoints.place(folder, f"{probe}-{node}")):
            without[node] = str(answer) if answer != _SEEN else "it writes elsewhere"
        checkpoints.delete(checkpoints.place(folder, f"{probe}-{node}"))
    return without


_SEEN = "seen"


def _answer(folder: str, probe: str) -> str:
    """On a node: look for the probe, and leave an answer beside it."""
    if not checkpoints.found(checkpoints.place(folder, probe)):
        return "it is not there"
    checkpoints.leave(checkpoints.place(folder, f"{probe}-{ray.util.get_node_ip_address()}"))
    return _SEEN


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def on_offer() -> str:
    """CPUs and GPUs of each node in words, like nodes together."""
    alike = Counter(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in _nodes())
    return "; ".join(f"{count} x {have}" if count > 1 else have for have, count in alike.items())


def counted_gpus() -> dict[str, int]:
    """GPUs of each node as Ray counts them, by its address."""
    return {node["NodeManagerAddress"]: int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]}


def concurrent(resources: ResourcesPlan, memory: int = 0) -> int:
    """Trials at a time: as many as the nodes hold, or the plan's limit if that is less; memory: bytes that each takes."""
    limit = math.inf if resources.max_concurrent == "auto" else int(resources.max_concurrent)
    return int(min(limit, _slots(resources, memory)))


def _slots(resources: ResourcesPlan, memory: int = 0) -> int:
    """Trials that the nodes of the cluster hold at the same time."""
    return sum(_slots_of(node, resources, memory) for node in _nodes())


def _slots_of(node: Mapping[str, float], resources: ResourcesPlan, memory: int) -> int:
    bounds = [node.get("CPU", 0) // resources.cpu, _shares(node.get("GPU", 0), resources.gpu)]
    return int(min([*bounds, node.get("memory", 0) // memory] if memory else bounds))


def _shares(gpus: float, gpu: float) -> float:
    """Jobs that fit on a node's GPUs; a share below one never spans two devices."""
    if not gpu:
        return math.inf
    return int(gpus) * int(1 / gpu + 1e-9) if gpu < 1 else gpus // gpu


def run_jobs(source: Source, corpus: Corpus, resources: ResourcesPlan) -> None:
    """Run all jobs of a source on the cluster that `cluster` opened; returns when it is exhausted or stopping.

    Raises what the source raised.

    The corpus goes into Ray's object store once; workers map it without a copy.
    """
    seen = {"at": -math.inf, "slots": 0}

    def slots() -> int:
        if resources.max_concurrent != "auto":
            # Also beyond the nodes there are: an autoscaler sees the demand, and adds some.
            return int(resources.max_concurrent)
        # Nodes come and go; asking them takes a while, so not at each call.
        if time.monotonic() - seen["at"] > 5:
            seen.update(at=time.monotonic(), slots=concurrent(resources))
        return int(seen["slots"])

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(1, slots()))
    desk = Desk(source, resources)

    def bundle(config: dict[str, Any]) -> PlacementGroupFactory:
        gpu = config["job"].gpu
        return PlacementGroupFactory([{"CPU": resources.cpu, **({"GPU": gpu} if gpu else {})}])

    with tempfile.TemporaryDirectory(prefix="lfvd-tune-") as scratch:
        tuner = ray_tune.Tuner(
            ray_tune.with_resources(ray_tune.with_parameters(run_job, corpus=corpus), bundle),
            tune_config=ray_tune.TuneConfig(
                search_alg=_Jobs(desk, slots),
                scheduler=_News(desk),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"{trial.config['job'].name}-{trial.trial_id}",
            ),
            run_config=ray_tune.RunConfig(
                name="ray",
                storage_path=str(Path(scratch).absolute()),
                verbose=0,
                stop=_WindDown(desk),
            ),
        )
        tuner.fit()
    if desk.error is not None:
        raise desk.error
