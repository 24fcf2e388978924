"""What goes wrong with workers: who is tried again, where, how often, and what the study is told."""

import dataclasses
import errno
import json
import os
import signal
from pathlib import Path

import pytest

from lfvd.training.trainer import train
from tests.helpers.workers import Listed, traces, untimed
from tune.execution import ray_jobs
from tune.execution.retries import RETRIES, JobTracker
from tune.execution.worker import run_job
from tune.search.job import Result
from tune.sections import ResourcesPlan

# Ray 2.60 leaves its sockets and the ends of its pipes to the collector when a driver leaves a cluster.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

END = Result(best_epoch=1, epochs=1, seconds=1.0, best={"val/wf1": 0.5}, weights=b"")
DIED = "ray.exceptions.ActorDiedError: the worker process has died"
NODE = "The actor died because its node has died. Node Id: 0ab1"


class Attempts:
    """A job tracker with attempts named 0, 1, 2, …"""

    def __init__(self, jobs, **resources) -> None:
        self.source = Listed(jobs)
        self.tracker = JobTracker(self.source, ResourcesPlan(**resources))
        self.count = 0

    def start(self, slots: int = 10):
        job = self.tracker.next(str(self.count), slots)
        self.count += job is not None
        return job

    def epoch(self, attempt: int, epoch: int) -> None:
        assert not self.tracker.report(str(attempt), {"record": json.dumps({"epoch": epoch})})


def test_a_lost_worker_comes_first_and_only_so_often(make_job):
    """Its job is the next to start; it gives up when attempts bring no epoch, and each epoch counts anew."""
    attempts = Attempts([make_job("a"), make_job("b")])
    assert attempts.start().name == "a"
    for attempt in range(RETRIES + 2):
        if attempt == 1:
            attempts.epoch(attempt, 1)
        assert attempts.source.ended == {}
        attempts.tracker.lost(str(attempt), DIED)
        if attempt < RETRIES + 1:
            assert attempts.start().name == "a"
    assert attempts.source.ended == {"a": DIED}
    assert attempts.source.faults == [("a", DIED, "started again on another worker")] * (RETRIES + 1)
    assert attempts.start().name == "b"


@pytest.mark.parametrize(
    "reason",
    [
        NODE,
        "ray.exceptions.ActorUnavailableError: The actor is temporarily unavailable: RpcError: Socket closed",
        "The node on which it ran was terminated: expected termination",
    ],
)
def test_a_lost_node_is_no_fault_of_the_job(make_job, reason):
    attempts = Attempts([make_job("a")])
    for attempt in range(5 * RETRIES):
        assert attempts.start().name == "a"
        attempts.tracker.lost(str(attempt), reason)
    assert attempts.source.ended == {}


def test_the_end_waits_for_those_that_were_lost(make_job):
    attempts = Attempts([make_job("a")])
    attempts.start()
    assert not attempts.tracker.over()
    attempts.tracker.lost("0", DIED)
    assert attempts.source.exhausted()
    assert not attempts.tracker.over()
    assert attempts.start().name == "a"
    assert attempts.tracker.report("1", {"result": END})
    assert attempts.tracker.over()
    assert attempts.source.ended == {"a": "finished"}


def test_too_little_memory(make_job):
    """Once more, alone on a device, for which nothing else is started until it runs; then it is the job's own fault."""

    class Trial:
        status = "PENDING"

    full = {"failure": "OutOfMemoryError: CUDA out of memory", "memory": True}
    attempts = Attempts([make_job("a", gpu=0.25), make_job("b", gpu=0.25), make_job("c", gpu=0.25)], gpu=0.25)
    assert [attempts.start().name, attempts.start().name] == ["a", "b"]
    assert attempts.tracker.report("0", full)
    again = attempts.start()
    assert (again.name, again.gpu) == ("a", 1.0)
    attempts.tracker.attempts["2"].trial = trial = Trial()
    assert attempts.start() is None, "c would take the device away"
    trial.status = "RUNNING"
    assert attempts.start().name == "c"
    assert attempts.tracker.report("2", full)
    assert attempts.source.ended == {"a": full["failure"]}
    assert attempts.source.faults == [("a", full["failure"], "tried once more, alone on a device")]


@pytest.mark.parametrize(
    "reason",
    [
        "torch.AcceleratorError: CUDA error: out of memory",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_too_little_memory_for_what_is_not_torchs(make_job, reason):
    """A device too full even to be opened ends the worker: as above, not three times at the same place."""
    attempts = Attempts([make_job("a", gpu=0.25)], gpu=0.25)
    attempts.start()
    attempts.tracker.lost("0", reason)
    assert attempts.source.faults == [("a", reason, "tried once more, alone on a device")]
    assert attempts.start().gpu == 1.0
    attempts.tracker.lost("1", reason)
    assert attempts.source.ended == {"a": reason}


def test_no_retry_where_there_was_a_whole_device(make_job):
    attempts = Attempts([make_job("a", gpu=1.0)], gpu=1.0)
    attempts.start()
    assert attempts.tracker.report("0", {"failure": "OutOfMemoryError: x", "memory": True})
    assert attempts.source.ended == {"a": "OutOfMemoryError: x"}


def test_a_source_that_raises_ends_all(make_job):
    def broken(job, record):
        raise OSError(errno.EIO, "Input/output error")

    attempts = Attempts([make_job("a"), make_job("b")])
    attempts.source.on_report = broken
    attempts.start()
    attempts.start()
    assert attempts.tracker.report("0", {"record": "{}"})
    assert attempts.tracker.stopping()
    assert isinstance(attempts.tracker.error, OSError)
    attempts.tracker.lost("1", DIED)
    assert attempts.source.ended == {}, "it goes on another time"


def test_a_report_of_no_known_kind_ends_all(make_job):
    attempts = Attempts([make_job("a")])
    attempts.start()
    assert attempts.tracker.report("0", {"recrod": "{}"})
    assert str(attempts.tracker.error) == "a worker reports ['recrod']"
    assert attempts.tracker.stopping()


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
    from unittest import mock

    import lfvd.training.trainer

    job, real = config["job"], lfvd.training.trainer.train
    trace = Path(job.checkpoint).with_suffix(".trace")
    first = not trace.exists()
    with trace.open("a") as file:
        file.write(json.dumps({"pid": os.getpid()}) + "\n")

    def stopped(*arguments, report, **options):
        def stop_after_two(record):
            report(record)
            if first and record["epoch"] == 2:
                os.kill(os.getpid(), signal.SIGSTOP)

        return real(*arguments, report=stop_after_two, **options)

    with mock.patch.object(lfvd.training.trainer, "train", stopped):
        run_job(config, corpus)


@pytest.mark.slow
def test_a_worker_that_hangs(connected, make_job, tiny_corpus, monkeypatch):
    """Its process is stopped in the middle of a run: after `resources.epoch_timeout` it is ended, and the run goes on."""
    monkeypatch.setattr(ray_jobs, "run_job", stopping_job)
    job = make_job("hangs")
    source = Listed([job])
    ray_jobs.run_jobs(source, tiny_corpus, ResourcesPlan(epoch_timeout="20s"))
    assert source.ended == {"hangs": "finished"}
    reason = "no epoch within 20s (`resources.epoch_timeout`): its worker was ended"
    assert source.faults == [("hangs", reason, "started again on another worker")]
    stopped, other = (line["pid"] for line in traces(job.checkpoint))
    assert stopped != other
    assert not Path(f"/proc/{stopped}").exists() or "zombie" in Path(f"/proc/{stopped}/status").read_text()
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
