"""The function that a Ray worker runs for a job: calls lfvd.training.trainer.train and reports to the session."""

from __future__ import annotations

import gc
import json
import os
import time
from typing import TYPE_CHECKING, Any

from lfvd.files import DISK_FULL, InputError
from tune.search.job import Job, Result
from tune.study import checkpoints

if TYPE_CHECKING:
    from lfvd.data.corpus import Corpus
    from lfvd.training.checkpoint import TrainResult

WAIT_SECONDS = 10
"""Seconds between the attempts of a run on a full disk."""


def run_job(config: dict[str, Any], corpus: Corpus) -> None:
    """Ray Tune's function trainable: train the job from its checkpoint on.

    Each report holds one of: `record` an epoch as JSON; `result` the end, a Result; `fault` an event that did not end the
    run, with `then`; `failure` why it ended, with `memory` where a device was too small for it.

    The worker serves many trials (actor reuse), so everything is built anew from the job. What a retry would only repeat, a
    diverged run or a config that does not fit, is reported. Anything else is raised and tried again in a fresh process,
    since after some errors of a device the old one is of no use.
    """
    import ray.tune as ray_tune
    import torch

    from lfvd.data.folds import divide
    from lfvd.training.checkpoint import CheckpointError
    from lfvd.training.trainer import NonFiniteLoss, train

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
    checkpoints.leave_behind(job.checkpoint)

    def report(record: dict[str, Any]) -> None:
        upload()
        ray_tune.report({"record": json.dumps(record)})

    if job.division:
        corpus = divide(corpus, **vars(job.division))
    try:
        with checkpoints.local(job.checkpoint) as (file, upload):
            while True:
                try:
                    result = _result(train(job.config, corpus, job.seed, checkpoint=file, report=report), keep=job.keep)
                    break
                except CheckpointError as error:
                    file.unlink(missing_ok=True)
                    ray_tune.report({"fault": str(error), "then": "started over"})
                except OSError as error:
                    if error.errno not in DISK_FULL:
                        raise
                    fault = f"{error.filename or file}: {error.strerror}"
                    ray_tune.report({"fault": fault, "then": "waiting for room"})
                    time.sleep(WAIT_SECONDS)
            ray_tune.report({"result": result})
    except (NonFiniteLoss, InputError) as error:
        ray_tune.report({"failure": f"{type(error).__name__}: {error}"})
    except torch.OutOfMemoryError as error:
        ray_tune.report({"failure": f"OutOfMemoryError: {' '.join(str(error).split())[:300]}", "memory": True})


def _result(run: TrainResult, *, keep: bool) -> Result:
    from safetensors.torch import save

    return Result(
        best_epoch=run.best_epoch,
        epochs=len(run.history),
        seconds=sum(record["seconds"] for record in run.history),
        best=run.best,
        weights=save(run.state) if keep else b"",
    )
