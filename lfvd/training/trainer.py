"""One training loop for `lfvd train`, a trial, a confirmation and the final run.

`train(config, corpus, seed)` → TrainResult with the weights of the best validation epoch; `report` is called with each
epoch's metrics and is the only door to a tuner. lfvd.training.evaluation predicts and scores.
On a CPU the same config, corpus and seed give the same bits, also when interrupted and continued from `checkpoint`.

Every metric of an epoch record:
`epoch` 1, 2, …; `seconds` of training and validation; `train/loss` and its unweighted terms `train/loss_classification`,
`train/loss_cross_modal`, `train/loss_supervised`, `train/loss_distillation`, means over batches;
`val/loss` cross-entropy; `val/wf1`, `val/acc`, `val/f1/<class>` in 0..1; `val/wf1_best` the best `val/wf1` so far.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lfvd.config import MODALITIES, Config, OptimConfig
from lfvd.data import UNLABELLED
from lfvd.data.corpus import Corpus, CorpusError
from lfvd.models.build import build_loss, build_model
from lfvd.terminal import format_percent
from lfvd.training.checkpoint import TrainResult, load_checkpoint, save_checkpoint
from lfvd.training.environment import configure_precision, pick_device, seed_everything
from lfvd.training.evaluation import evaluate
from lfvd.training.metrics import Record

Report = Callable[[Record], None]

log = logging.getLogger("lfvd")


class NonFiniteLoss(ArithmeticError):
    """A loss became NaN or infinite; the text names epoch, batch and term."""


def train(
    config: Config,
    corpus: Corpus,
    seed: int,
    *,
    report: Report | None = None,
    checkpoint: str | Path | None = None,
) -> TrainResult:
    """Train on the train split, keep the epoch with the best validation W-F1; the test split is never touched.

    checkpoint: a file, written atomically each epoch; where it exists, the run continues from it. report: called with
    every epoch from the first, those that a checkpoint brings back included, when its checkpoint is on disk. Raises
    NonFiniteLoss, CheckpointError for a checkpoint that cannot be read or belongs to another run, and CorpusError where
    the corpus lacks a modality or a split.
    """
    run = _Run(config, corpus, seed)
    if checkpoint is not None and Path(checkpoint).is_file():
        run.load(checkpoint)
    if report is not None:
        for record in run.result.history:
            report(record)
    while not run.finished():
        record = run.epoch()
        if checkpoint is not None:
            run.save(checkpoint)
        if report is not None:
            report(record)
        log.info(
            "seed %d  epoch %d/%d  %s", seed, record["epoch"], config.run.epochs, progress_text(run.result.history)
        )
    return run.result


def progress_text(history: Sequence[Record]) -> str:
    """`loss 1.234  val W-F1 45.67  best 46.01 @12`, of the last epoch."""
    last, best = history[-1], max(history, key=lambda record: record["val/wf1"])
    return (
        f"loss {last['train/loss']:.3f}  val W-F1 {format_percent(last['val/wf1'])}  "
        f"best {format_percent(best['val/wf1'])} @{best['epoch']}"
    )


def check_fit(config: Config, corpus: Corpus) -> dict[str, int]:
    """Feature width of each modality of a run, in the order l, a, v, where the run can be trained on the corpus.

    Raises CorpusError where the corpus lacks a modality or a labelled split, InputError where the device is absent.
    """
    pick_device(config.run.device)
    widths = corpus.widths([m for m in MODALITIES if m in config.data.modalities])
    for split in ("train", "valid"):
        if not (corpus.label[corpus.rows(split)] != UNLABELLED).any():
            raise CorpusError(
                f"the corpus {corpus.info.name} has no labelled utterance in its {split} split: import it with one"
            )
    return widths


class _Run:
    """Model, optimizer and result so far of one run."""

    def __init__(self, config: Config, corpus: Corpus, seed: int) -> None:
        torch.set_num_threads(config.run.threads)
        self.config, self.corpus = config, corpus
        widths = check_fit(config, corpus)
        self.device = pick_device(config.run.device)
        self.modalities = list(widths)
        configure_precision(config.run.precision)
        seed_everything(seed)
        self.model = build_model(config, widths, len(corpus.info.classes)).to(self.device)
        if config.data.standardise:
            self.model.standardise({m: corpus.features[m][corpus.rows("train")] for m in widths})
        optim = config.optim
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, fused=True
        )
        self.loss = build_loss(config, _class_weight(config, corpus, self.device))
        self.result = TrainResult(seed=seed)

    def finished(self) -> bool:
        done, patience = len(self.result.history), self.config.run.patience
        return done >= self.config.run.epochs or (patience > 0 and done - self.result.best_epoch >= patience)

    def epoch(self) -> Record:
        """One pass over train and one evaluation of validation → the epoch's record, also appended to the history."""
        start = time.perf_counter()
        number = len(self.result.history) + 1
        losses = self._train_epoch(number)
        validation = evaluate(self.model, self.corpus, "valid", device=self.device)
        if not math.isfinite(validation.loss):
            raise NonFiniteLoss(
                f"epoch {number}: the validation loss is {validation.loss}: lower `optim.lr` or `optim.clip_norm`"
            )
        scores = {f"val/{k}": v for k, v in validation.scores().items()}
        best_score = max(self.result.best_score, scores["val/wf1"])
        if best_score > self.result.best_score:
            self.result.best_epoch = number
            self.result.state = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        record: Record = {"epoch": number, "seconds": 0.0, **losses, "val/loss": validation.loss, **scores}
        record["val/wf1_best"] = best_score
        record["seconds"] = time.perf_counter() - start
        self.result.history.append(record)
        return record

    def _train_epoch(self, number: int) -> dict[str, float]:
        """Train on every dialogue once, in an order drawn from (seed, epoch) → mean losses."""
        self.model.train()
        batches = epoch_batches(self.corpus, self.config.optim, [self.result.seed, number])
        steps = [self._step(dialogues) for dialogues in batches]
        names = list(steps[0])
        table = torch.stack([torch.stack([terms[k] for k in names]) for terms in steps]).cpu()  # one transfer
        for batch, values in enumerate(table.tolist(), start=1):
            bad = [k for k, v in zip(names, values, strict=True) if not math.isfinite(v)]
            if bad:
                # A term that is not finite makes the total so too: name the first term.
                term = next((k for k in bad if k != "total"), "total")
                raise NonFiniteLoss(
                    f"epoch {number}, batch {batch} of {len(batches)}: the {term} loss is not finite: "
                    "lower `optim.lr` or `optim.clip_norm`, or raise `loss.temperature`"
                )
        mean = dict(zip(names, table.mean(0).tolist(), strict=True))
        return {"train/loss": mean.pop("total"), **{f"train/loss_{k}": v for k, v in mean.items()}}

    def _step(self, dialogues: np.ndarray) -> dict[str, Tensor]:
        batch = self.corpus.batch(dialogues, self.modalities).to(self.device)
        terms = self.loss(self.model(batch), batch.label)
        self.optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()
        return {k: v.detach() for k, v in terms.items()}

    def _identity(self) -> dict[str, Any]:
        """What must agree for a checkpoint to continue this very run; the number of epochs may grow."""
        flat = {k: v for k, v in self.config.flat().items() if k not in ("run.epochs", "run.patience")}
        run = {"seed": self.result.seed, "data": self.corpus.fingerprint}
        return {**flat, **run, "device": self.device.type, "torch": str(torch.__version__)}

    def save(self, path: str | Path) -> None:
        """Write a checkpoint."""
        save_checkpoint(path, identity=self._identity(), model=self.model, optimizer=self.optimizer, result=self.result)

    def load(self, path: str | Path) -> None:
        """Continue from a checkpoint."""
        self.result = load_checkpoint(path, identity=self._identity(), model=self.model, optimizer=self.optimizer)


def _class_weight(config: Config, corpus: Corpus, device: torch.device) -> Tensor | None:
    """N / (c · count) of each class in train (scikit-learn's `balanced`), or None; a class without utterances weighs 0."""
    if config.loss.class_weights == "none":
        return None
    label = corpus.label[corpus.rows("train")]
    count = np.bincount(label[label != UNLABELLED], minlength=len(corpus.info.classes))
    weight = np.divide(count.sum(), len(count) * count, out=np.zeros(len(count)), where=count > 0)
    return torch.tensor(weight, dtype=torch.float32, device=device)


def epoch_batches(corpus: Corpus, optim: OptimConfig, seed: list[int]) -> list[np.ndarray]:
    """Every train dialogue once, in batches in an order drawn from the seed; within a batch the longest come first.

    Bucketed by length means sorted by length times a random factor from 1 to 1.5, so that epochs combine other dialogues,
    and cut so that every batch has about as many utterances as `batch_size` average dialogues.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(corpus.indices("train"))
    length = np.diff(corpus.offset)
    count = math.ceil(len(order) / optim.batch_size)
    if optim.like_length:
        order = order[np.argsort(-length[order] * random.uniform(1, 1.5, len(order)), kind="stable")]
        filled = np.cumsum(length[order]) - length[order] / 2
        place = np.minimum(filled * count // length[order].sum(), count - 1)
        batches = [order[place == i] for i in random.permutation(count)]
    else:
        batches = np.split(order, range(optim.batch_size, len(order), optim.batch_size))
    return [batch[np.argsort(-length[batch], kind="stable")] for batch in batches if len(batch)]
