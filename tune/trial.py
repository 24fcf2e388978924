"""A job, and how a Ray worker runs it: values → Config → lfvd.train, its reports → the driver."""

from __future__ import annotations

import gc
import json
import os
from dataclasses import dataclass
from typing import Any

from lfvd.config import Config
from lfvd.corpus import Corpus
from lfvd.files import InputError


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run for a worker; a job with the same checkpoint continues where the last attempt ended."""

    name: str
    config: Config
    seed: int
    checkpoint: str
    gpu: float


def run_job(config: dict[str, Any], corpus: Corpus) -> None:
    """Ray Tune's function trainable: each epoch is reported as one JSON text, a diverged run as its reason.

    The worker serves many trials (actor reuse), so everything is built anew from the job. What would only repeat itself, a
    diverged run or a config that does not fit, is told; anything else is raised, and Ray retries it in a fresh process,
    since after some errors of a device the old one is of no use.
    """
    import ray.tune as ray_tune
    import torch

    from lfvd.trainer import NonFiniteLoss, train

    # Ray drops a trial without a word when the last one's thread has not ended by then; the default is 2 s.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    job: Job = config["job"]
    if not job.gpu:
        # Ray leaves the variable alone for a trial without GPUs, which would then see all of them.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif torch.cuda.is_available():
        # The last trial of this worker may have been cut off in the middle: other trials need its memory.
        gc.collect()
        torch.cuda.empty_cache()
    try:
        train(
            job.config,
            corpus,
            job.seed,
            checkpoint=job.checkpoint,
            report=lambda record: ray_tune.report({"record": json.dumps(record)}),
        )
    except (NonFiniteLoss, InputError) as error:
        ray_tune.report({"failure": f"{type(error).__name__}: {error}"})
