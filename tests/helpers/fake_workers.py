"""Workers that train in no time, and what a study of theirs holds."""

import math
from dataclasses import dataclass, field

from tests.helpers.plans import PLAN
from tune.search.job import Job
from tune.search.samplers import sampler_for
from tune.search.trials import SearchJobs
from tune.study.study import OBJECTIVE, Study

EPOCHS = PLAN["scheduler"]["max_epochs"]


def never() -> bool:
    return False


class CrashError(BaseException):
    """The driver dies here."""


def curve(job: Job, epoch: int) -> float:
    """Validation W-F1 by values and epoch: rises, then falls, so that the last is never the best."""
    lr, gamma = job.config.optim.lr, job.config.loss.gamma2
    top = 0.9 - 0.1 * abs(math.log10(lr / 3e-3)) - 0.05 * abs(math.log10(gamma / 3e-3)) + 0.01 * job.config.model.heads
    return round(top * (1 - 0.3 / epoch) - (0.2 if epoch == EPOCHS else 0.0) + job.seed % 7 / 1000, 6)


def history(job: Job, epochs: int) -> list[dict]:
    """Records as the trainer makes them, `epochs` of them."""
    values = [curve(job, e) for e in range(1, epochs + 1)]
    return [
        {"epoch": e + 1, "seconds": 0.5, "train/loss": 1.0, "val/wf1": v, OBJECTIVE: max(values[: e + 1])}
        for e, v in enumerate(values)
    ]


@dataclass
class Workers:
    """Machines whose checkpoints outlive the driver; each job's next epoch in turn."""

    checkpoints: dict[str, int] = field(default_factory=dict)
    trained: list[tuple[str, int]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    def run(self, jobs: SearchJobs, *, slots: int = 1, most: int = 10_000) -> None:
        """Until all is done, or `most` epochs are trained."""
        at_work: dict[str, Job] = {}
        while not jobs.stopping():
            while len(at_work) < slots and not jobs.exhausted() and (job := jobs.next()):
                at_work[job.name] = job
                self.order.append(job.name)
                for record in history(job, self.checkpoints.get(job.name, 0)):  # as after a retry
                    if jobs.report(job, record):
                        del at_work[job.name]
                        break
            if not at_work:
                return
            for name, job in list(at_work.items()):
                done = self.checkpoints.get(name, 0)
                if done == EPOCHS:
                    jobs.finished(job, None)
                    del at_work[name]
                    continue
                if most == 0:
                    raise CrashError
                most -= 1
                self.checkpoints[name] = done + 1
                self.trained.append((name, done + 1))
                if jobs.report(job, history(job, done + 1)[-1]):
                    del at_work[name]


def story(study: Study) -> tuple[list, list]:
    """All that a study knows, but for times."""
    trials = [(t.number, t.state, t.params, t.values, t.intermediate_values, t.user_attrs) for t in study.trials]
    return trials, study.epochs()


def suggest(study: Study):
    """The next trial, as SearchJobs asks for it."""
    study.optuna.sampler = sampler_for(study.plan, len(study.trials))
    return study.optuna.ask({key: p.distribution for key, p in study.plan.space.items()})
