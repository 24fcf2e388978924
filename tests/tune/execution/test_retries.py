"""What goes wrong with workers: who is tried again, where, how often, and what the study is told."""

import dataclasses
import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from lfvd.training.trainer import train
from tests.helpers.workers import Listed, traces, untimed
from tune.execution import ray_jobs
from tune.execution.retries import RETRIES, Desk
from tune.execution.worker import run_job
from tune.plan import ResourcesPlan
from tune.search.job import Result

# Ray 2.60 leaves its sockets and the ends of its pipes to the collector when a driver leaves a cluster.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

END = Result(best_epoch=1, epochs=1, seconds=1.0, best={"val/wf1": 0.5}, weights=b"")
DIED = "ray.exceptions.ActorDiedError: the worker process has died"
NODE = "The actor died because its node has died. Node Id: 0ab1"


class Turns:
    """A desk with attempts named 0, 1, 2, …"""

    def __init__(self, jobs, **resources) -> None:
        self.source = Listed(jobs)
        self.desk = Desk(self.source, ResourcesPlan(**resources))
        self.count = 0

    def start(self, slots: int = 10):
        job = self.desk.next(str(self.count), slots)
        self.count += job is not None
        return job

    def epoch(self, attempt: int, epoch: int) -> None:
        assert not self.desk.report(str(attempt), {"record": json.dumps({"epoch": epoch})})


def test_a_lost_worker_comes_first_and_only_so_often(make_job):
    """Its job is the next to start; it gives up when attempts bring no epoch, and each epoch counts anew."""
    turns = Turns([make_job("a"), make_job("b")])
    assert turns.start().name == "a"
    for attempt in range(RETRIES + 2):
        if attempt == 1:
            turns.epoch(attempt, 1)
        assert turns.source.ended == {}
        turns.desk.lost(str(attempt), DIED)
        if attempt < RETRIES + 1:
            assert turns.start().name == "a"
    assert turns.source.ended == {"a": DIED}
    assert turns.source.faults == [("a", DIED, "started again on another worker")] * (RETRIES + 1)
    assert turns.start().name == "b"


@pytest.mark.parametrize(
    "reason",
    [
        NODE,
        "ray.exceptions.ActorUnavailableError: The actor is temporarily unavailable: RpcError: Socket closed",
        "The node on which it ran was terminated: expected termination",
    ],
)
def test_a_lost_node_is_no_fault_of_the_job(make_job, reason):
    turns = Turns([make_job("a")])
    for attempt in range(5 * RETRIES):
        assert turns.start().name == "a"
        turns.desk.lost(str(attempt), reason)
    assert turns.source.ended == {}


def test_the_end_waits_for_those_that_were_lost(make_job):
    turns = Turns([make_job("a")])
    turns.start()
    assert not turns.desk.over()
    turns.desk.lost("0", DIED)
    assert turns.source.exhausted()
    assert not turns.desk.over()
    assert turns.start().name == "a"
    assert turns.desk.report("1", {"result": END})
    assert turns.desk.over()
    assert turns.source.ended == {"a": "finished"}


def test_too_little_memory(make_job):
    """Once more, alone on a device, for which nothing else is started until it runs; then it is the job's own fault."""

    class Trial:
        status = "PENDING"

    full = {"failure": "OutOfMemoryError: CUDA out of memory", "memory": True}
    turns = Turns([make_job("a", gpu=0.25), make_job("b", gpu=0.25), make_job("c", gpu=0.25)], gpu=0.25)
    assert [turns.start().name, turns.start().name] == ["a", "b"]
    assert turns.desk.report("0", full)
    again = turns.start()
    assert (again.name, again.gpu) == ("a", 1.0)
    turns.desk.attempts["2"].trial = trial = Trial()
    assert turns.start() is None, "c would take the device away"
    trial.status = "RUNNING"
    assert turns.start().name == "c"
    assert turns.desk.report("2", full)
    assert turns.source.ended == {"a": full["failure"]}
    assert turns.source.faults == [("a", full["failure"], "tried once more, alone on a device")]


@pytest.mark.parametrize(
    "reason",
    [
        "torch.AcceleratorError: CUDA error: out of memory",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_too_little_memory_for_what_is_not_torchs(make_job, reason):
    """A device too full even to be opened ends the worker: as above, not three times at the same place."""
    turns = Turns([make_job("a", gpu=0.25)], gpu=0.25)
    turns.start()
    turns.desk.lost("0", reason)
    assert turns.source.faults == [("a", reason, "tried once more, alone on a device")]
    assert turns.start().gpu == 1.0
    turns.desk.lost("1", reason)
    assert turns.source.ended == {"a": reason}


def test_no_retry_where_there_was_a_whole_device(make_job):
    turns = Turns([make_job("a", gpu=1.0)], gpu=1.0)
    turns.start()
    assert turns.desk.report("0", {"failure": "OutOfMemoryError: x", "memory": True})
    assert turns.source.ended == {"a": "OutOfMemoryError: x"}


def test_a_source_that_breaks_ends_all(make_job):
    def broken(job, record):
        raise OSError(errno.EIO, "Input/output error")

    turns = Turns([make_job("a"), make_job("b")])
    turns.source.on_report = broken
    turns.start()
    turns.start()
    assert turns.desk.report("0", {"record": "{}"})
    assert turns.desk.stopping()
    assert isinstance(turns.desk.error, OSError)
    turns.desk.lost("1", DIED)
    assert turns.source.ended == {}, "it goes on another time"


def crowded_job(config, corpus) -> None:
    """A device that holds one job."""
    from unittest import mock

    import torch

    import lfvd.training.trainer

    job, real = config["job"], lfvd.training.trainer.train
    with Path(job.checkpoint).with_suffix(".trace").open("a") as file:
        file.write(json.dumps({"gpu": job.gpu, "devices": os.environ["CUDA_VISIBLE_DEVICES"]}) + "\n")

    def crowded(*arguments, **options):
        if job.gpu < 1 and job.name == "big":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(*arguments, **options)

    with mock.patch.object(lfvd.training.trainer, "train", crowded):
        run_job(config, corpus)


@pytest.mark.slow
def test_too_little_memory_on_ray(connected, make_job, tiny_corpus, monkeypatch):
    """The one that needs a whole device gets it; the others go on."""
    monkeypatch.setattr(ray_jobs, "run_job", crowded_job)
    jobs = [make_job(name, gpu=0.5, run__device="auto") for name in ("small0", "big", "small1")]
    source = Listed(jobs)
    ray_jobs.run_jobs(source, tiny_corpus, ResourcesPlan(gpu=0.5))
    assert source.ended == {"small0": "finished", "big": "finished", "small1": "finished"}
    [(name, reason, then)] = source.faults
    assert (name, then) == ("big", "tried once more, alone on a device")
    assert reason == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert [line["gpu"] for line in traces(jobs[1].checkpoint)] == [0.5, 1.0]


def stopping_job(config, corpus) -> None:
    """The machine stops the worker after its second epoch, once."""
    job = config["job"]
    trace = Path(job.checkpoint).with_suffix(".trace")
    first = not trace.exists()
    with trace.open("a") as file:
        file.write(json.dumps({"pid": os.getpid()}) + "\n")
    if first:

        def stop_later() -> None:
            while not Path(job.checkpoint).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGSTOP)

        threading.Thread(target=stop_later, daemon=True).start()
    run_job(config, corpus)


@pytest.mark.slow
def test_a_worker_that_hangs(connected, make_job, tiny_corpus, monkeypatch):
    """Its process is stopped in the middle of a run: after `resources.epoch_timeout` it is ended, and the run goes on."""
    monkeypatch.setattr(ray_jobs, "run_job", stopping_job)
    job = make_job("hangs", run__epochs=400)
    source = Listed([job])
    seconds = 20
    began = time.monotonic()
    ray_jobs.run_jobs(source, tiny_corpus, ResourcesPlan(epoch_timeout=f"{seconds}s"))
    assert time.monotonic() - began > seconds
    assert source.ended == {"hangs": "finished"}
    assert source.faults == [
        (
            "hangs",
            "no epoch within 20s (`resources.epoch_timeout`): its worker was ended",
            "started again on another worker",
        )
    ]
    pids = [line["pid"] for line in traces(job.checkpoint)]
    assert len(set(pids)) == 2
    assert not Path(f"/proc/{pids[0]}").exists() or "zombie" in Path(f"/proc/{pids[0]}/status").read_text()
    seen = {record["epoch"]: record for record in source.records["hangs"]}
    assert untimed(list(seen.values())) == untimed(train(job.config, tiny_corpus, job.seed).history)


def test_an_unreadable_checkpoint_starts_over(make_job, tiny_corpus, monkeypatch):
    """What the checkpoint cannot tell is trained again; the end is that of an undisturbed run."""
    told: list[dict] = []
    monkeypatch.setattr("ray.tune.report", told.append)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    job = dataclasses.replace(make_job("torn"), keep=True)
    train(job.config, tiny_corpus, job.seed, checkpoint=job.checkpoint)
    whole = Path(job.checkpoint).read_bytes()
    Path(job.checkpoint).write_bytes(whole[: len(whole) // 2])
    run_job({"job": job}, tiny_corpus)
    fault, *epochs, end = told
    assert fault["then"] == "started over"
    assert fault["fault"].startswith(f"{job.checkpoint}: is not a readable checkpoint (")
    alone = train(job.config, tiny_corpus, job.seed)
    assert untimed([json.loads(each["record"]) for each in epochs]) == untimed(alone.history)
    assert end["result"].best_epoch == alone.best_epoch


def test_a_full_disk_is_waited_for(make_job, tiny_corpus, monkeypatch):
    """A run that cannot write its checkpoint says so, waits, and goes on from the last one."""
    told: list[dict] = []
    monkeypatch.setattr("ray.tune.report", told.append)
    monkeypatch.setattr("tune.execution.worker.WAIT_SECONDS", 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    job = make_job("full")
    fsync, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) in (2, 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    run_job({"job": job}, tiny_corpus)
    assert [each["then"] for each in told if "fault" in each] == ["waiting for room"] * 2
    first = {}
    for each in told:
        if "record" in each:
            record = json.loads(each["record"])
            first.setdefault(record["epoch"], record)
    assert untimed(list(first.values())) == untimed(train(job.config, tiny_corpus, job.seed).history)
    assert not list(Path(job.checkpoint).parent.glob(".full*")), "no half-written file stays"
