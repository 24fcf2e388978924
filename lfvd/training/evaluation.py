"""Predictions for a split, and what they score. Shape legend: lfvd.data.batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from lfvd.data import UNLABELLED
from lfvd.data.corpus import Corpus, CorpusError
from lfvd.models.lfvd import LFVD
from lfvd.training.metrics import scores, wf1_by_length

BATCH = 64
"""Dialogues predicted at a time."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Predictions for all utterances of a split, in corpus order; scores over the labelled ones."""

    row: np.ndarray  # [N'] index of the utterance in the corpus
    label: np.ndarray  # [N'] -1 unlabelled
    probability: np.ndarray  # [N', c]
    weight: np.ndarray  # [N', m] fusion weights
    length: np.ndarray  # [N'] utterances of the utterance's dialogue
    loss: float  # mean cross-entropy
    classes: tuple[str, ...]
    length_bins: tuple[int, ...]

    @property
    def prediction(self) -> np.ndarray:
        """Most probable class [N']."""
        best: np.ndarray = self.probability.argmax(1)
        return best

    def scores(self) -> dict[str, float]:
        """`wf1`, `acc`, `f1/<class>`, in 0..1, over labelled utterances."""
        known = self.label != UNLABELLED
        return scores(self.label[known], self.prediction[known], self.classes)

    def scores_by_length(self) -> dict[str, float]:
        """W-F1 by dialogue length; empty where the corpus names no bins."""
        known = self.label != UNLABELLED
        return wf1_by_length(
            self.label[known],
            self.prediction[known],
            self.length[known],
            bins=self.length_bins,
            classes=len(self.classes),
        )


def evaluate(model: LFVD, corpus: Corpus, split: str, *, device: torch.device | str) -> Evaluation:
    """Predict every utterance of a split. Raises CorpusError where the split is empty."""
    dialogues = corpus.indices(split)
    if not len(dialogues):
        raise CorpusError(f"the corpus {corpus.info.name} has no dialogue in its {split} split: name another split")
    model.eval()
    rows, probabilities, weights = [], [], []
    loss = torch.zeros((), device=device)
    with torch.no_grad():
        for chosen in _by_length(corpus, dialogues):
            batch = corpus.batch(chosen, model.modalities).to(device)
            output = model(batch)
            log_probability = output.logits.log_softmax(-1)  # [b, n, c]
            labelled = batch.label != UNLABELLED
            loss -= log_probability[labelled].gather(1, batch.label[labelled][:, None]).sum()
            rows.append(np.concatenate([np.arange(*corpus.offset[i : i + 2]) for i in chosen]))
            probabilities.append(log_probability[batch.mask].exp())
            weights.append(output.weight[:, batch.mask].T)
    row = np.concatenate(rows)
    order = np.argsort(row)
    row = row[order]
    label = np.asarray(corpus.label[row])
    lengths = np.repeat(np.diff(corpus.offset), np.diff(corpus.offset))  # [N]
    return Evaluation(
        row=row,
        label=label,
        probability=torch.cat(probabilities).cpu().numpy()[order],
        weight=torch.cat(weights).cpu().numpy()[order],
        length=lengths[row],
        loss=float(loss) / max(1, int((label != UNLABELLED).sum())),
        classes=corpus.info.classes,
        length_bins=corpus.info.length_bins,
    )


def _by_length(corpus: Corpus, dialogues: np.ndarray) -> Iterator[np.ndarray]:
    """Batches of dialogues of like length: least padding. The longest come first, as the DAG likes them."""
    length = np.diff(corpus.offset)[dialogues]
    ordered = dialogues[np.argsort(-length, kind="stable")]
    yield from (ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH))
