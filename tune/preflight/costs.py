"""What a search takes: the epoch time and memory of a trial, trials per device, sizes of files, hours.

`time_epoch` trains the plan's base config on a worker; the rest is arithmetic on its measurements.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lfvd.config import Config
from lfvd.data.corpus import Corpus
from lfvd.files import InputError
from lfvd.models.build import build_model
from lfvd.training.environment import pick_device
from lfvd.training.trainer import train
from tune.execution import ray_cluster
from tune.formatting import format_size
from tune.plan import SearchPlan
from tune.search.asha import Rungs
from tune.sections import SchedulerPlan

MAX_TRIALS_PER_DEVICE = 8
"""Limit of `gpu: auto`: kernels of trials on one device run in turn, so that more trials add little speed, while each takes a
core and memory of the host."""

CUDA_CONTEXT_BYTES = 512 << 20
"""Memory of a device that CUDA itself takes for each process, which torch does not count."""


@dataclass(frozen=True, kw_only=True)
class EpochCost:
    """Time and memory of a trial's epoch on a worker without others beside it."""

    seconds: float
    memory: int
    """Largest number of bytes that the process alone used on its host, measured at the ends of epochs."""
    device: str = ""
    """The GPU's name; empty on a CPU."""
    device_memory: int = 0
    """Bytes that a trial takes of the device."""
    device_free: int = 0
    """Bytes that were free there before."""

    @property
    def trials_per_device(self) -> int:
        """Trials that a device holds; a tenth of it stays free for those larger than the base config."""
        return int(0.9 * self.device_free / self.device_memory) if self.device else 0


def time_epoch(plan: SearchPlan, corpus: Corpus) -> EpochCost | str:
    """Train two epochs of the base config where a trial would run, and time the second → its cost, or the error's text.

    `gpu: auto` takes a whole device if some node has one. corpus: without its test split.
    """
    if plan.auto_gpu:
        plan = _with_gpu(plan, 1.0 if _has_gpu(plan) else 0.0)
    device = plan.config.run.device if plan.resources.gpu else "cpu"
    config = plan.config.with_values({"run.epochs": 2, "run.patience": 0, "run.device": device})
    return ray_cluster.run_once(measure_epoch, config, corpus, resources=plan.resources)


def measure_epoch(config: Config, corpus: Corpus) -> EpochCost:
    """Train, and measure the last epoch's time and the memory used; runs on a worker."""
    device = pick_device(config.run.device)
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else 0
    memory: list[int] = []
    history = train(config, corpus, seed=0, report=lambda _: memory.append(own_memory())).history
    cost = EpochCost(seconds=history[-1]["seconds"], memory=max(*memory, own_memory()))
    if device.type == "cuda":
        used = torch.cuda.max_memory_reserved() + CUDA_CONTEXT_BYTES
        cost = replace(cost, device=torch.cuda.get_device_name(), device_memory=used, device_free=free)
    return cost


def own_memory() -> int:
    """Bytes of memory that this process alone uses, without shared pages such as the corpus in the object store.

    Without Linux's /proc, the peak with shared pages.
    """
    statm = Path("/proc/self/statm")
    if statm.is_file():
        _, resident, shared, *_ = map(int, statm.read_text().split())
        return (resident - shared) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _has_gpu(plan: SearchPlan) -> bool:
    return ray_cluster.concurrent(replace(plan.resources, gpu=1.0)) > 0


def _with_gpu(plan: SearchPlan, gpu: float) -> SearchPlan:
    return replace(plan, resources=replace(plan.resources, gpu=gpu))


def resolve_gpu(plan: SearchPlan, epoch: EpochCost) -> SearchPlan:
    """Replace `gpu: auto` by the share of a device that a trial needs, 0 without a device; other plans are not changed."""
    if not plan.auto_gpu:
        return plan
    trials = max(1, min(MAX_TRIALS_PER_DEVICE, epoch.trials_per_device))
    return _with_gpu(plan, 1 / trials if epoch.device else 0.0)


def measure_gpu_share(plan: SearchPlan, corpus: Corpus) -> tuple[SearchPlan, str]:
    """Replace `gpu: auto` after a timed epoch → the plan, and the reason. Raises InputError where that epoch fails."""
    if not _has_gpu(plan):
        return _with_gpu(plan, 0.0), (
            "no node has a GPU now, so that all trials of this session train on the CPU: start the search when a GPU node is "
            "up, or set `resources.gpu: 0`"
        )
    epoch = time_epoch(plan, corpus)
    if isinstance(epoch, str):
        raise InputError(
            f"`resources.gpu` is auto, but the epoch that measures it failed ({epoch}): give it a number, or repair the base config"
        )
    plan = resolve_gpu(plan, epoch)
    if not epoch.device:
        return plan, "torch sees none of the GPUs that Ray counts: training on CPU"
    trials = int(1 / plan.resources.gpu + 1e-9)
    needs = f"{format_size(epoch.device_memory)} of {epoch.device}, {format_size(epoch.device_free)} free"
    return plan, f"{trials} trial{'s' * (trials > 1)} on a device (each takes {needs})"


@dataclass(frozen=True, kw_only=True)
class SearchCost:
    """Estimate for a plan: the mean over trials of random merit, each epoch as long as the base config's."""

    search: float
    """Seconds of the search."""
    confirmation: float
    """Seconds of the confirmation."""
    gpu_hours: float
    """GPU-hours of both."""
    limit: str
    """The budget that ends the search before its last trial; empty if none does."""


def estimate_cost(plan: SearchPlan, epoch_seconds: float, slots: int) -> SearchCost:
    """Estimate time and GPU-hours of a plan; slots: trials at a time."""
    full = plan.scheduler.max_epochs * epoch_seconds
    work = plan.trials * epochs_per_trial(plan.scheduler, plan.trials) * epoch_seconds
    used = min(slots, plan.trials)
    limits = {"": max(work / used, full), "wall": plan.budget.wall_seconds}
    if plan.budget.gpu_hours and plan.resources.gpu:
        limits["gpu_hours"] = plan.budget.gpu_hours * 3600 / (plan.resources.gpu * used)
    limit = min(limits, key=limits.__getitem__)
    search = limits[limit]
    finalists, baseline = confirmation_runs(plan)
    own = plan.baseline_epochs * epoch_seconds
    longest = max(full, own) if baseline else full
    confirmation = max((finalists * full + baseline * own) / slots, longest)
    hours = plan.resources.gpu * (min(work, search * used) + finalists * full + baseline * own) / 3600
    return SearchCost(search=search, confirmation=confirmation, gpu_hours=hours, limit=limit)


def confirmation_runs(plan: SearchPlan) -> tuple[int, int]:
    """Most runs of the finalists and of the baseline, over folds and seeds."""
    seeds, folds = len(plan.confirm.seeds), plan.confirm.folds
    if not folds:
        return plan.confirm.finalists * seeds, seeds
    count = 4 if isinstance(folds, str) else folds  # IEMOCAP's training sessions
    replicates = count * plan.confirm.folds_repeats
    return plan.confirm.finalists * replicates + seeds, replicates + seeds


def epochs_per_trial(plan: SchedulerPlan, trials: int) -> float:
    """Mean epochs of a trial, simulated with trials of random merit.

    Of few trials, far more than one in `reduction` pass a rung.
    """
    rng, epochs, studies = np.random.default_rng(0), 0, max(1, 2000 // trials)
    for _ in range(studies):
        rungs = Rungs(plan)
        for trial in range(trials):
            merit = rng.uniform()
            epochs += next((rung for rung in rungs.values if rungs.report(trial, rung, merit)), plan.max_epochs)
    return epochs / (studies * trials)


def file_sizes(config: Config, corpus: Corpus) -> tuple[int, int]:
    """Bytes of a run's checkpoint, and of the weights that a confirmed run keeps."""
    model = build_model(config, corpus.widths(config.data.modalities), len(corpus.info.classes))
    weights = sum(each.nbytes for each in model.state_dict().values())
    moments = 2 * sum(each.nbytes for each in model.parameters())  # Adam's
    return 2 * weights + moments, weights  # a checkpoint also holds the best epoch's weights
