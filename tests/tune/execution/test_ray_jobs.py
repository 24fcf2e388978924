"""Jobs on a real Ray: in parallel, after a worker's death, with logical GPUs; failures are told, not hidden.

One cluster of `ray start` for the whole file, on loopback, with ports and a temporary folder of its own.
"""

import dataclasses
import itertools
import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from lfvd.data.corpus import Corpus, CorpusError
from lfvd.files import InputError
from lfvd.training.checkpoint import TrainResult
from lfvd.training.trainer import NonFiniteLoss, train
from tests.helpers.workers import Listed, run_here, traces, untimed
from tune.execution import ray_cluster, ray_jobs
from tune.execution.retries import RETRIES
from tune.execution.worker import run_job
from tune.search.job import Job
from tune.search.trials import FAILURE, SearchJobs
from tune.sections import ResourcesPlan

# Ray 2.60 leaves its sockets and the ends of its pipes to the collector when a driver leaves a cluster.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


ENDED = TrainResult(seed=0, best_epoch=1, state={}, history=[{"epoch": 1, "seconds": 0.0}])

PAIR = {"good0": "r", "good1": "w"}


def spied_job(config: dict, corpus: Corpus) -> None:
    """`run_job` with a line for each start and end in `<checkpoint>.trace`."""
    job: Job = config["job"]
    trace = Path(job.checkpoint).with_suffix(".trace")

    def note(**what: object) -> None:
        with trace.open("a") as file:
            file.write(json.dumps({"pid": os.getpid(), "time": time.time(), **what}) + "\n")

    features = corpus.features["l"]
    note(at="start", gpus=os.environ.get("CUDA_VISIBLE_DEVICES"), writable=features.flags.writeable)
    base = features
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    note(at="memory", owner=type(base).__name__, owns=features.flags.owndata)
    if job.name in PAIR:  # a named pipe opens only when both of its ends do: possible only side by side
        trace.with_name("pipe").open(PAIR[job.name]).close()
    try:
        run_job(config, corpus)
    finally:  # Ray leaves by SystemExit
        note(at="end", gpus=os.environ.get("CUDA_VISIBLE_DEVICES"), cwd=os.getcwd())


def test_jobs_in_parallel(connected, make_job, tiny_corpus, monkeypatch):
    """Two at a time on workers that are used again; failures with their reasons beside what goes well; the same bits."""
    monkeypatch.setattr(ray_jobs, "run_job", spied_job)
    good = [make_job(f"good{seed}", seed, run__epochs=12) for seed in range(3)]
    os.mkfifo(Path(good[0].checkpoint).with_name("pipe"))
    nan = make_job("nan", data__modalities="a", data__standardise=False)
    missing = make_job("missing", data__modalities="l,v")
    source = Listed([good[0], good[1], missing, nan, good[2]])
    corpus = tiny_corpus.restricted("train", "valid")
    huge = np.sign(corpus.features["a"]) * np.float32(3e38)
    corpus = dataclasses.replace(corpus, features={"l": corpus.features["l"], "a": huge})
    ray_jobs.run_jobs(source, corpus, ResourcesPlan())
    assert source.ended == {
        **{job.name: "finished" for job in good},
        "missing": "CorpusError: the corpus TINY has no visual features, but `data.modalities` names v: import them, or use "
        "`--set data.modalities=l,a`",
        "nan": "NonFiniteLoss: epoch 1, batch 1 of 2: the classification loss is not finite: lower `optim.lr` or "
        "`optim.clip_norm`, or raise `loss.temperature`",
    }
    assert set(source.records) == {job.name for job in good}
    for job in good:
        alone = train(job.config, corpus, job.seed)
        assert untimed(source.records[job.name]) == untimed(alone.history)
    for job in (missing, nan):
        assert [line["at"] for line in traces(job.checkpoint)].count("start") == 1, "what a run does wrong is final"
    lines = {job.name: traces(job.checkpoint) for job in [*good, missing, nan]}
    assert len({line["pid"] for each in lines.values() for line in each}) == 2, "each of the two workers is used again"
    spans = sorted((each[0]["time"], each[-1]["time"]) for each in lines.values())
    assert any(second[0] < first[1] for first, second in itertools.pairwise(spans)), "two at a time"
    assert all(sum(a <= t < b for a, b in spans) <= 2 for t, _ in spans), "never three"
    for start, memory, end in (lines[job.name] for job in good):
        assert start["writable"] is False
        assert memory["owns"] is False
        assert memory["owner"] != "ndarray", "the array lies in the object store, not in the worker"
        assert end["gpus"] == "", "a job without GPUs sees none"
        assert end["cwd"] == os.getcwd()


def kill_once(path: Path, at: int) -> Callable[[Job, dict], None]:
    """SIGKILL to the job's own worker when its epoch `at` arrives for the first time."""
    killed = []

    def look(job: Job, record: dict) -> None:
        if record["epoch"] == at and not killed:
            pid = traces(path / f"{job.name}.pt")[-1]["pid"]
            assert pid != os.getpid()
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    return look


def test_a_killed_worker_goes_on(connected, make_study, tiny_corpus, monkeypatch):
    """From its checkpoint, under the same number, no epoch twice, and to the same end as undisturbed."""
    monkeypatch.setattr(ray_jobs, "run_job", spied_job)
    scheduler = {"kind": "none", "max_epochs": 20}
    study = make_study(trials=1, scheduler=scheduler)
    jobs = SearchJobs(study, lambda: False)
    look, report = kill_once(study.folder / "checkpoints", 3), jobs.report
    (study.folder / "checkpoints").mkdir()
    jobs.report = lambda job, record: look(job, record) or report(job, record)
    ray_jobs.run_jobs(jobs, tiny_corpus, ResourcesPlan())
    [trial] = study.trials
    assert (trial.number, trial.state) == (0, TrialState.COMPLETE)
    records = study.epochs("search")
    assert [r["epoch"] for r in records] == list(range(1, 21))
    lines = traces(study.paths.checkpoint("trial0"))
    assert [line["at"] for line in lines] == ["start", "memory", "start", "memory", "end"]
    assert lines[0]["pid"] != lines[2]["pid"]
    alone = train(study.config_of(0), tiny_corpus, records[0]["seed"])
    assert [r["val/wf1"] for r in records] == [r["val/wf1"] for r in alone.history]
    assert trial.value == alone.best["val/wf1"]
    [fault] = study.faults()
    assert (fault["stage"], fault["trial"], fault["then"]) == ("search", 0, "started again on another worker")
    assert "worker process has died" in fault["reason"]


def dying_job(config: dict, corpus: Corpus) -> None:
    """A worker that the machine kills each time."""
    with Path(config["job"].checkpoint).with_suffix(".trace").open("a") as file:
        file.write(json.dumps({"pid": os.getpid()}) + "\n")
    os.kill(os.getpid(), signal.SIGKILL)


def raising_job(config: dict, corpus: Corpus) -> None:
    """An error that is neither divergence nor bad input."""
    with Path(config["job"].checkpoint).with_suffix(".trace").open("a") as file:
        file.write(json.dumps({"pid": os.getpid()}) + "\n")
    raise RuntimeError("the device is lost")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run_job", "reason"), [(dying_job, "worker process has died"), (raising_job, "RuntimeError: the device is lost")]
)
def test_a_job_that_always_fails(connected, make_study, tiny_corpus, monkeypatch, run_job, reason):
    """Tried again in fresh processes, then FAIL with Ray's words or the error's own line; the search goes on."""
    monkeypatch.setattr(ray_jobs, "run_job", run_job)
    study = make_study(trials=1)
    (study.folder / "checkpoints").mkdir()
    ray_jobs.run_jobs(SearchJobs(study, lambda: False), tiny_corpus, ResourcesPlan())
    [trial] = study.trials
    assert trial.state == TrialState.FAIL
    assert reason in trial.user_attrs[FAILURE]
    pids = [line["pid"] for line in traces(study.paths.checkpoint("trial0"))]
    assert len(set(pids)) == len(pids) == 1 + RETRIES
    assert [fault["then"] for fault in study.faults()] == [*["started again on another worker"] * RETRIES, "failed"]


@pytest.mark.slow
def test_logical_gpus(connected, make_job, tiny_corpus, monkeypatch):
    """A quarter of a GPU that torch cannot see: trained on the CPU, one device number a worker."""
    monkeypatch.setattr(ray_jobs, "run_job", spied_job)
    resources = ResourcesPlan(gpu=0.25)
    jobs = [make_job(f"job{seed}", seed, gpu=0.25, run__device="auto") for seed in range(2)]
    source = Listed(jobs)
    ray_jobs.run_jobs(source, tiny_corpus, resources)
    assert source.ended == {"job0": "finished", "job1": "finished"}
    for job in jobs:
        assert traces(job.checkpoint)[0]["gpus"] in ("0", "1")
        assert untimed(source.records[job.name]) == untimed(train(job.config, tiny_corpus, job.seed).history)


@pytest.mark.slow
def test_search_on_ray(connected, make_study, tiny_corpus):
    """One at a time, the search decides as it does without Ray: the same trials, states and records."""
    one = {"resources": {"max_concurrent": 1}}
    study, alone = make_study("ray", **one), make_study("alone", **one)
    ray_jobs.run_jobs(SearchJobs(study, lambda: False), tiny_corpus, study.plan.resources)
    run_here(SearchJobs(alone, lambda: False), tiny_corpus)
    mine, theirs = (sorted(untimed(each.epochs()), key=str) for each in (study, alone))
    assert mine == theirs
    for mine, theirs in zip(study.trials, alone.trials, strict=True):
        assert (mine.state, mine.params, mine.value) == (theirs.state, theirs.params, theirs.value)
        assert (mine.user_attrs, mine.intermediate_values) == (theirs.user_attrs, theirs.intermediate_values)
    assert {TrialState.COMPLETE, TrialState.PRUNED} == {t.state for t in study.trials}


@pytest.mark.slow
def test_more_than_the_nodes_hold(connected, make_job, tiny_corpus):
    """A number is asked of Ray at once, so that an autoscaler would see the demand; all run in their turn."""
    source = Listed([make_job(f"job{seed}", seed, run__epochs=2) for seed in range(4)])
    left = []
    source.on_report = lambda job, record: left.append(len(source.waiting))
    ray_jobs.run_jobs(source, tiny_corpus, ResourcesPlan(max_concurrent=4))
    assert left[0] == 0, "all were asked for before the first epoch"
    assert set(source.ended.values()) == {"finished"}
    assert len(source.ended) == 4


def test_no_cluster_there():
    with pytest.raises(InputError) as error, ray_cluster.cluster(ResourcesPlan(), address="127.0.0.1:1,2"):
        pass
    assert str(error.value).startswith("--address 127.0.0.1:1,2: no Ray cluster answers there (")


def nodes(*each: tuple[float, float]) -> Callable[[], list[dict]]:
    return lambda: [{"CPU": cpu, **({"GPU": gpu} if gpu else {}), "memory": 1.0} for cpu, gpu in each]


@pytest.mark.parametrize(
    ("have", "cpu", "gpu", "slots"),
    [
        ([(2, 0)], 1, 0, 2),
        ([(2, 0)], 3, 0, 0),
        ([(2, 0), (5, 0)], 2, 0, 3),
        ([(16, 1)], 1, 0.25, 4),
        ([(3, 1)], 1, 0.25, 3),
        ([(16, 2)], 1, 0.3, 6),
        ([(16, 2)], 1, 0.6, 2),
        ([(16, 2)], 1, 2, 1),
        ([(16, 3), (16, 2)], 1, 2, 2),
        ([(16, 1), (16, 1)], 1, 2, 0),
        ([(64, 8)], 1, 1 / 7, 56),
        ([(4, 0), (4, 1)], 1, 1, 1),
    ],
)
def test_slots(monkeypatch, have, cpu, gpu, slots):
    """A trial lies on one node, and a share below one on one device."""
    monkeypatch.setattr(ray_cluster, "_nodes", nodes(*have))
    assert ray_cluster._slots(ResourcesPlan(cpu=cpu, gpu=gpu)) == slots


def test_resources_that_no_node_has(monkeypatch):
    """An error at once: Ray itself waits for ever."""
    shut = []
    monkeypatch.setattr(ray_cluster.ray, "init", lambda **_: None)
    monkeypatch.setattr(ray_cluster.ray, "shutdown", lambda: shut.append(1))
    monkeypatch.setattr(ray_cluster, "_nodes", nodes((2, 0), (4, 1)))
    with pytest.raises(InputError) as error, ray_cluster.cluster(ResourcesPlan(cpu=3, gpu=1.0 + 1)):
        pass
    assert str(error.value) == (
        "`resources` asks 3 CPU and 2 GPU a trial, but no node has that (there is 2 CPU and 0 GPU; 4 CPU and 1 GPU): "
        "lower `resources.cpu` or `resources.gpu`, or name a cluster with --address"
    )
    assert shut == [1]


@pytest.mark.parametrize(("gpu", "visible"), [(0.0, ""), (0.5, "3")])
def test_a_job_without_gpus_hides_them(make_job, monkeypatch, gpu, visible):
    """Ray leaves the variable alone for a trial without GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    seen = []
    monkeypatch.setattr(
        "lfvd.training.trainer.train", lambda *a, **k: seen.append(os.environ["CUDA_VISIBLE_DEVICES"]) or ENDED
    )
    monkeypatch.setattr("ray.tune.report", lambda news: None)
    run_job({"job": make_job("x", gpu=gpu)}, None)
    assert seen == [visible]


@pytest.mark.parametrize("error", [NonFiniteLoss("epoch 1"), CorpusError("no audio"), RuntimeError("device lost")])
def test_what_a_run_does_wrong_is_told(make_job, monkeypatch, error):
    """Told where a retry would only repeat it; raised, for Ray to retry in a fresh process, where it might not."""
    told = []
    monkeypatch.setattr("ray.tune.report", told.append)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")

    def broken(config, corpus, seed, *, checkpoint, report):
        report({"epoch": 1, "val/wf1": math.pi})
        raise error

    monkeypatch.setattr("lfvd.training.trainer.train", broken)
    told_first = [{"record": json.dumps({"epoch": 1, "val/wf1": math.pi})}]
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="device lost"):
            run_job({"job": make_job("x")}, None)
        assert told == told_first
    else:
        run_job({"job": make_job("x")}, None)
        assert told == [*told_first, {"failure": f"{type(error).__name__}: {error}"}]


def thief(config: dict, corpus: Corpus) -> None:
    """A job that tries by all it was given to get at the test split, and tells what it found."""
    import gc

    import ray.tune as ray_tune

    from lfvd.models.build import build_model
    from lfvd.training.evaluation import evaluate

    job: Job = config["job"]
    model = build_model(job.config, corpus.widths(job.config.data.modalities), len(corpus.info.classes))
    try:
        evaluate(model, corpus, "test", device="cpu")
        refusal = "none"
    except CorpusError as error:
        refusal = str(error)
    arrays = [each for each in gc.get_objects() if isinstance(each, np.ndarray)]  # these, and the memory below them
    for each in [*corpus.features.values(), *vars(corpus).values()]:
        while isinstance(each, np.ndarray):
            arrays.append(each)
            each = each.base
    words = [*vars(corpus).values(), *vars(corpus.info).values(), *config.values(), *vars(job).values()]
    found = {
        "refusal": refusal,
        "rows": len(corpus.rows("test")),
        "marked": sum(each.dtype.kind == "f" and bool((np.abs(each) > 1e29).any()) for each in arrays),
        "files": [word for word in words if isinstance(word, str | Path) and Path(word).is_file()],
        "names": [name for name in corpus.info.dialogues if name.startswith("test")],
    }
    ray_tune.report({"failure": json.dumps(found)})


def test_a_worker_cannot_reach_the_test_split(connected, make_job, tiny_corpus, monkeypatch):
    """Not in what it is given: no rows, no names, no memory below, no path that leads there."""
    monkeypatch.setattr(ray_jobs, "run_job", thief)
    test = tiny_corpus.indices("test")
    features = {m: np.array(x) for m, x in tiny_corpus.features.items()}
    for flat in features.values():
        flat[tiny_corpus.rows("test")] = 1e30
    names = tuple(f"test{i}" if i in test else name for i, name in enumerate(tiny_corpus.info.dialogues))
    corpus = dataclasses.replace(
        tiny_corpus, features=features, info=dataclasses.replace(tiny_corpus.info, dialogues=names)
    )
    found = {}
    for name, given in (("whole", corpus), ("sealed", corpus.restricted("train", "valid"))):
        source = Listed([make_job(name)])
        ray_jobs.run_jobs(source, given, ResourcesPlan())
        found[name] = json.loads(source.ended[name])
    assert found["sealed"] == {
        "refusal": "the corpus TINY has no dialogue in its test split: name another split",
        "rows": 0,
        "marked": 0,
        "files": [],
        "names": [],
    }
    whole = found["whole"]
    assert whole["refusal"] == "none"
    assert (whole["rows"] > 0, whole["marked"] > 0, len(whole["names"])) == (True, True, 3), "the thief knows its trade"
