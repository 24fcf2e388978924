"""What a search will take: sizes of its files, memory of a trial, trials that fit on a device, hours.

`timed` trains the plan's base config on a worker, where a trial would run; the rest is arithmetic on what it measured.
"""

from __future__ import annotations

import math
import re
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
from tune.execution import ray_jobs
from tune.formatting import format_size
from tune.plan import SchedulerPlan, SearchPlan
from tune.search.asha import Rungs

MOST_ON_A_DEVICE = 8
"""Trials that share a device at most under `gpu: auto`: their kernels take turns there, so that more of them add little
speed, while each takes a core and memory of the host."""

CUDA_BYTES = 512 << 20
"""Memory of a device that CUDA itself takes for each process, which torch does not count."""

STATUS = Path("/proc/self/status")
"""Where Linux tells the memory of this process."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A trial's epoch on a worker that had its place for itself."""

    seconds: float
    memory: int
    """Most bytes that the process alone took on its host, seen at the ends of epochs."""
    device: str = ""
    """The GPU's name; empty on a CPU."""
    device_memory: int = 0
    """Bytes that a trial takes of the device."""
    device_free: int = 0
    """Bytes that were free there before."""

    @property
    def fits(self) -> int:
        """Trials that a device holds, with a tenth of it kept free for those larger than the base."""
        return int(0.9 * self.device_free / self.device_memory) if self.device else 0


def timed(plan: SearchPlan, corpus: Corpus) -> Measured | str:
    """Two epochs of the base config where a trial would run, the second one timed; or the text of the error.

    Under `gpu: auto`, on a whole device if some node has one. corpus: without its test split.
    """
    if plan.auto_gpu:
        plan = with_gpu(plan, 1.0 if ray_jobs.concurrent(with_gpu(plan, 1.0).resources) else 0.0)
    device = plan.config.run.device if plan.resources.gpu else "cpu"
    config = plan.config.with_values({"run.epochs": 2, "run.patience": 0, "run.device": device})
    return ray_jobs.run_once(measure, config, corpus, resources=plan.resources)


def measure(config: Config, corpus: Corpus) -> Measured:
    """Train, and look at the last epoch's time and the memory taken; runs on a worker."""
    device = pick_device(config.run.device)
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else 0
    seen: list[int] = []
    seconds = train(config, corpus, seed=0, report=lambda _: seen.append(own_memory())).history[-1]["seconds"]
    memory = max(*seen, own_memory())
    if device.type != "cuda":
        return Measured(seconds=seconds, memory=memory)
    return Measured(
        seconds=seconds,
        memory=memory,
        device=torch.cuda.get_device_name(),
        device_memory=torch.cuda.max_memory_reserved() + CUDA_BYTES,
        device_free=free,
    )


def own_memory() -> int:
    """Bytes that this process alone takes now, without what it shares: the corpus in the object store, libraries.

    Where the system does not tell them, the peak with what is shared.
    """
    told = re.search(r"^RssAnon:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE) if STATUS.is_file() else None
    if told:
        return int(told[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def with_gpu(plan: SearchPlan, gpu: float) -> SearchPlan:
    """The plan with another `resources.gpu`."""
    return replace(plan, resources=replace(plan.resources, gpu=gpu))


def settled(plan: SearchPlan, measured: Measured) -> SearchPlan:
    """The plan with `gpu: auto` as the share of a device that a trial needs; 0 without a device. Other plans as they are."""
    if not plan.auto_gpu:
        return plan
    if not measured.device:
        return with_gpu(plan, 0.0)
    return with_gpu(plan, 1 / max(1, min(MOST_ON_A_DEVICE, measured.fits)))


def settle(plan: SearchPlan, corpus: Corpus) -> tuple[SearchPlan, str]:
    """Give `gpu: auto` a number → the plan, and how that was found. Raises InputError where the timed epoch fails."""
    if not ray_jobs.concurrent(with_gpu(plan, 1.0).resources):
        return with_gpu(plan, 0.0), (
            "no node has a GPU now, so that all trials of this sitting train on the CPU: start the search when a GPU node is "
            "up, or set `resources.gpu: 0`"
        )
    measured = timed(plan, corpus)
    if isinstance(measured, str):
        raise InputError(
            f"`resources.gpu` is auto, but the epoch that settles it failed ({measured}): give it a number, or mend the base"
        )
    plan = settled(plan, measured)
    if not measured.device:
        return plan, "torch sees none of the GPUs that Ray counts: training on CPU"
    trials = int(1 / plan.resources.gpu + 1e-9)
    needs = f"{format_size(measured.device_memory)} of {measured.device}, {format_size(measured.device_free)} free"
    return plan, f"{trials} trial{'s' * (trials > 1)} on a device (each takes {needs})"


def epochs_per_trial(plan: SchedulerPlan, trials: int) -> float:
    """Mean epochs of a trial, played through with trials of random merit: of few, far more than one in `reduction` go on."""
    rng, epochs, studies = np.random.default_rng(0), 0, max(1, 2000 // trials)
    for _ in range(studies):
        rungs = Rungs(plan)
        for trial in range(trials):
            merit = rng.uniform()
            epochs += next((rung for rung in rungs.values if rungs.report(trial, rung, merit)), plan.max_epochs)
    return epochs / (studies * trials)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """About what a plan takes: the mean over trials of random merit, each epoch as long as the base's."""

    search: float
    """Seconds of the search."""
    confirm: float
    """Seconds of the confirmation."""
    gpu_hours: float
    """GPU-hours of both."""
    bounded: str
    """The budget that ends the search before its last trial; empty if none does."""


def cost(plan: SearchPlan, seconds: float, slots: int) -> Cost:
    """Time and GPU-hours of a plan, from seconds an epoch and the trials at a time."""
    full = plan.scheduler.max_epochs * seconds
    work = plan.trials * epochs_per_trial(plan.scheduler, plan.trials) * seconds
    used = min(slots, plan.trials)
    limits = {"": max(work / used, full), "wall": plan.budget.wall_seconds}
    if plan.budget.gpu_hours and plan.resources.gpu:
        limits["gpu_hours"] = plan.budget.gpu_hours * 3600 / (plan.resources.gpu * used)
    bounded = min(limits, key=limits.__getitem__)
    search = limits[bounded]
    runs = (plan.confirm.finalists + 1) * len(plan.confirm.seeds)
    hours = plan.resources.gpu * (min(work, search * used) + runs * full) / 3600
    return Cost(search=search, confirm=math.ceil(runs / slots) * full, gpu_hours=hours, bounded=bounded)


def file_sizes(config: Config, corpus: Corpus) -> tuple[int, int]:
    """Bytes of a run's checkpoint and of the weights that a confirmed run keeps."""
    model = build_model(config, corpus.widths(config.data.modalities), len(corpus.info.classes))
    weights = sum(each.nbytes for each in model.state_dict().values())
    moments = 2 * sum(each.nbytes for each in model.parameters())  # Adam's
    return 2 * weights + moments, weights  # a checkpoint holds the best epoch's weights too
