"""Where an epoch's time goes, and the whole epoch against the same with the literal DAG: `python tests/benchmarks/epoch.py`.

The presets at their width of 256, two CPU threads: MELD-like language alone, MELD-like with all three modalities, IEMOCAP-like
with all three, simulated at the published widths and of the published sizes.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from turns import RUNS, median

# isort: split
from lfvd.config import Config
from lfvd.data.corpus import Corpus
from lfvd.data.simulate import simulate
from lfvd.training import trainer
from tests.helpers.literal_dag import LiteralStack

CASES = {"meld language": ("meld", "l"), "meld": ("meld", "l,a,v"), "iemocap": ("iemocap", "l,a,v")}
"""What → preset and kind of corpus, modalities."""


class _Passed(torch.autograd.Function):
    """The identity, which tells when values pass it forward, and gradients backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, note: Callable[[str], None]) -> Tensor:
        ctx.note = note
        note("forward")
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.note("backward")
        return grad, None


class Profile:
    """Seconds by what they were spent on: time goes to the stage that the last mark names."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.stage, self.since = "other", time.perf_counter()

    def enter(self, stage: str) -> None:
        """From here on, time is this stage's."""
        now = time.perf_counter()
        self.seconds[self.stage] += now - self.since
        self.stage, self.since = stage, now

    def around(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time is the stage's."""

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            before = self.stage
            self.enter(stage)
            try:
                return call(*args, **kwargs)
            finally:
                self.enter(before)

        return timed

    def within(self, stage: str, module: torch.nn.Module, after: str) -> None:
        """The module's forward pass and, as gradients pass its output and then its input, its backward pass.

        after: whose gradients follow."""
        forward = module.forward

        def timed(x: Tensor, *args: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(x, *args)
            x = _Passed.apply(x, lambda way: self.enter(stage if way == "forward" else f"{after}, backward"))
            out = _Passed.apply(
                forward(x, *args),
                lambda way: self.enter("rest of the model" if way == "forward" else f"{stage}, backward"),
            )
            return out

        module.forward = timed  # type: ignore[method-assign]


def profile(config: Config, corpus: Corpus) -> dict[str, float]:
    """Seconds of an epoch by stage; the second of two epochs."""
    run = trainer._Run(config, corpus, 0)
    run.epoch()
    found = Profile()
    found.within("dag", run.model.dag, after="encoders")
    if run.model.augmentation is not None:
        found.within("attention", run.model.augmentation, after="dag")
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(trainer, "evaluate", found.around("evaluation", trainer.evaluate)),
        mock.patch.object(run, "loss", found.around("losses", run.loss)),
        mock.patch.object(Corpus, "batch", found.around("collate", Corpus.batch)),
        mock.patch.object(run.optimizer, "step", found.around("optimizer", run.optimizer.step)),
        mock.patch.object(Tensor, "backward", found.around("losses, backward", Tensor.backward)),
        mock.patch.object(
            torch.nn.utils, "clip_grad_norm_", found.around("gradient norm", torch.nn.utils.clip_grad_norm_)
        ),
    ):
        forward, timed = run.model.forward, found.around("encoders", run.model.forward)
        run.model.forward = lambda *args: (timed if torch.is_grad_enabled() else forward)(*args)  # type: ignore[method-assign]
        run.epoch()
        found.enter("checkpoint")
        run.save(Path(folder) / "checkpoint.pt")
        found.enter("end")
    return {stage: round(value, 4) for stage, value in found.seconds.items()}


@contextmanager
def literal() -> Iterator[None]:
    """Models that are built inside have the literal DAG."""
    with mock.patch("lfvd.models.lfvd.DAGStack", LiteralStack):
        yield


def compare(config: Config, corpus: Corpus) -> dict[str, Any]:
    """The same training, epoch about epoch: ours, and with the literal DAG; each with random numbers of its own."""
    with literal():
        runs = {"literal": trainer._Run(config, corpus, 0)}
    runs["ours"] = trainer._Run(config, corpus, 0)
    state = dict.fromkeys(runs, torch.get_rng_state())
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for _ in range(RUNS + 1):
        for name, run in runs.items():
            torch.set_rng_state(state[name])
            records[name].append(run.epoch())
            state[name] = torch.get_rng_state()
    times = {name: median([record["seconds"] for record in found[1:]]) for name, found in records.items()}
    pairs = list(zip(records["literal"], records["ours"], strict=True))
    apart = {key: max(abs(one[key] - other[key]) for one, other in pairs) for key in ("val/loss", "val/wf1")}
    return {"wall_ratio": round(times["literal"] / times["ours"], 2), "seconds": times, "largest difference": apart}


def measure() -> dict[str, Any]:
    """The part `epoch` of results/benchmarks.json."""
    found = {}
    for name, (preset, modalities) in CASES.items():
        corpus = simulate(like=preset, seed=0)
        config = Config.from_yaml(preset).with_values({"data.modalities": modalities, "run.threads": 2})
        found[name] = {**compare(config, corpus), "profile": profile(config, corpus)}
    return found


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
