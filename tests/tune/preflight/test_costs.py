"""What a search takes: epochs, memory, the share of a GPU, files, hours."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lfvd.files import InputError
from lfvd.training.checkpoint import read_result
from lfvd.training.trainer import train
from tests.helpers.plans import PLAN, make_plan
from tune.execution import ray_cluster
from tune.plan import PlanError
from tune.preflight import costs
from tune.preflight.costs import EpochCost, epochs_per_trial, estimate_cost, file_sizes, measure_gpu_share, resolve_gpu
from tune.sections import SchedulerPlan

pytestmark = [
    # Ray 2.60 leaves its sockets and the ends of its pipes to the collector when a driver leaves a cluster.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ON_CPU = EpochCost(seconds=2.0, memory=10**9)
ON_GPU = EpochCost(seconds=2.0, memory=3 * 10**9, device="Card", device_memory=3 * 10**9, device_free=20 * 10**9)
AUTO = {"resources": {"gpu": "auto"}}


@pytest.mark.parametrize("width", [8, 128])
def test_file_sizes(tiny_config, tiny_corpus, tmp_path, width):
    """Those of a real run's files, but for some 150 kB of names and padding."""
    config = tiny_config.with_values({"model.width": width})
    train(config, tiny_corpus, 0, checkpoint=tmp_path / "run.pt")
    checkpoint, weights = file_sizes(config, tiny_corpus)
    assert checkpoint <= (tmp_path / "run.pt").stat().st_size < checkpoint + 200_000
    assert weights == sum(each.nbytes for each in read_result(tmp_path / "run.pt").state.values())


@pytest.mark.parametrize(("free", "trials"), [(2, 1), (6.5, 1), (7, 2), (10, 3), (20, 6), (24, 7), (500, 8)])
def test_trials_that_share_a_gpu(free, trials):
    """As many as fit into nine tenths of its free memory, at most eight, at least one."""
    plan = resolve_gpu(make_plan(**AUTO), replace(ON_GPU, device_free=int(free * 1e9)))
    assert plan.resources.gpu == 1 / trials


def test_auto_gpu_without_gpus(two_cores, tiny_corpus):
    plan = make_plan(**AUTO, budget={"gpu_hours": 2})
    assert (plan.auto_gpu, plan.resources.gpu, plan.config.run.device) == (True, 0.0, "auto")
    found, reason = measure_gpu_share(plan, tiny_corpus)
    assert found == plan == resolve_gpu(plan, ON_CPU)
    assert reason.startswith("no node has a GPU now, so that all trials of this session train on the CPU: ")
    fixed = make_plan(resources={"gpu": 0.5})
    assert resolve_gpu(fixed, ON_GPU) is fixed
    with pytest.raises(PlanError, match=r"`resources.gpu` is 'many', but must be a number"):
        make_plan(resources={"gpu": "many"})


@pytest.mark.parametrize(
    ("epoch", "gpu", "reason"),
    [
        (ON_GPU, 1 / 6, "6 trials on a device (each takes 3.0 GB of Card, 20.0 GB free)"),
        (ON_CPU, 0.0, "torch sees none of the GPUs that Ray counts: training on CPU"),
    ],
)
def test_auto_gpu_with_gpus(monkeypatch, epoch, gpu, reason):
    calls = []
    monkeypatch.setattr(ray_cluster, "_nodes", lambda: [{"CPU": 8, "GPU": 1}])
    monkeypatch.setattr(ray_cluster, "run_once", lambda *args, resources: calls.append((*args, resources)) or epoch)
    plan, found = measure_gpu_share(make_plan(**AUTO), None)
    assert (plan.resources.gpu, found) == (gpu, reason)
    [(function, config, _, resources)] = calls
    assert (function, config.run.epochs, config.run.device, resources.gpu) == (costs.measure_epoch, 2, "auto", 1.0)
    monkeypatch.setattr(ray_cluster, "run_once", lambda *args, resources: "NonFiniteLoss: epoch 1")
    with pytest.raises(InputError, match=r"`resources.gpu` is auto, but the epoch that measures it failed \(NonFinite"):
        measure_gpu_share(make_plan(**AUTO), None)


def test_epochs_per_trial():
    """All of them without rungs; with rungs and many trials as if one in `reduction` went on; of few, more."""
    assert epochs_per_trial(SchedulerPlan(kind="none", max_epochs=80), 40) == 80
    plan = SchedulerPlan(grace_epochs=3, reduction=3, max_epochs=80)
    many = epochs_per_trial(plan, 20_000)
    assert many == pytest.approx(3 + 6 / 3 + 18 / 9 + 53 / 27, rel=0.1)
    assert 1.3 * many < epochs_per_trial(plan, 60) < 3 * many
    assert epochs_per_trial(plan, 1) == 80, "the first trial has nobody to lose against"


@pytest.mark.parametrize(
    ("changes", "slots", "search", "gpu_hours", "limit"),
    [
        ({}, 4, 60 * 60 / 4, 0.0, ""),
        ({}, 1000, 60, 0.0, ""),  # no less than one trial takes
        ({"resources": {"gpu": 0.5}}, 4, 60 * 60 / 4, 0.5 * (60 + 8) * 60 / 3600, ""),
        (
            {"resources": {"gpu": 0.5}, "budget": {"gpu_hours": 0.1}},
            4,
            0.1 * 3600 / 2,
            0.1 + 0.5 * 8 * 60 / 3600,
            "gpu_hours",
        ),
        ({"budget": {"wall": "2m"}}, 4, 120, 0.0, "wall"),
    ],
)
def test_estimate(changes, slots, search, gpu_hours, limit):
    """60 trials of 10 epochs, each 6 s, without rungs; 3 finalists and the baseline on two seeds."""
    scheduler, confirm = {"kind": "none", "max_epochs": 10}, {"folds": 0, "finalists": 3, "seeds": [0, 1]}
    cost = estimate_cost(make_plan(trials=60, scheduler=scheduler, confirm=confirm, **changes), 6.0, slots)
    assert (cost.search, cost.gpu_hours) == pytest.approx((search, gpu_hours))
    assert (cost.confirmation, cost.limit) == (math.ceil(8 / slots) * 60, limit)


def test_estimate_of_folds():
    """2 finalists over 6 runs of folds and the winner over two seeds, 60 s each; the baseline's 8 runs take twice as long."""
    scheduler = {"kind": "none", "max_epochs": 10}
    confirm = {"finalists": 2, "folds": 3, "folds_repeats": 2, "seeds": [0, 1], "baseline_epochs": 20}
    cost = estimate_cost(make_plan(scheduler=scheduler, confirm=confirm), 6.0, 2)
    assert cost.confirmation == (2 * 6 + 2 + 8 * 2) * 60 / 2
    assert estimate_cost(make_plan(scheduler=scheduler, confirm=confirm), 6.0, 1000).confirmation == 120


MEMORY = """
import mmap, resource
from pathlib import Path
import numpy as np
from tune.preflight.costs import own_memory
start, size = own_memory(), 200 << 20
shared = mmap.mmap(-1, size)
shared.write(bytes(size))
print(own_memory() - start)
own = np.ones(size, np.uint8)
print(own_memory() - start)
Path.is_file = lambda path: False
print(own_memory() - 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_shared_memory_is_not_counted():
    """In a process of its own, where nothing else allocates; without /proc, the peak of all pages."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    shared, own, peak = map(int, done.stdout.split())
    mega = 1 << 20
    assert abs(shared) < 50 * mega
    assert abs(own - 200 * mega) < 50 * mega
    assert peak == 0


def test_memory_is_the_largest_measured(tiny_config, tiny_corpus, monkeypatch):
    """After each epoch, and at the end."""
    measured = iter([5, 9, 3])
    monkeypatch.setattr(costs, "own_memory", lambda: next(measured))
    config = tiny_config.with_values({"run.epochs": 2, "run.patience": 0, "run.device": "cpu"})
    assert costs.measure_epoch(config, tiny_corpus).memory == 9
    assert next(measured, None) is None


@pytest.mark.slow
class TestOnRay:
    """On two cores and two GPUs that are numbers only."""

    def test_a_timed_epoch(self, connected, tiny_corpus):
        epoch = costs.time_epoch(make_plan(), tiny_corpus)
        assert epoch.seconds > 0
        assert 5e7 < epoch.memory < 5e9
        assert (epoch.device, epoch.trials_per_device) == ("", 0)
        huge = {"l": np.sign(tiny_corpus.features["l"]) * np.float32(3e38)}
        plan = make_plan(set={**PLAN["set"], "data.standardise": False})
        assert "loss is not finite" in costs.time_epoch(plan, replace(tiny_corpus, features=huge))

    def test_auto_gpu(self, connected, tiny_corpus):
        plan, reason = measure_gpu_share(make_plan(**AUTO), tiny_corpus)
        assert (plan.resources.gpu, reason) == (0.0, "torch sees none of the GPUs that Ray counts: training on CPU")

    def test_resources_that_never_come(self, connected):
        resources = replace(make_plan().resources, cpu=64, epoch_timeout="1s")
        assert ray_cluster.run_once(costs.own_memory, resources=resources) == "no answer within 1 s"
