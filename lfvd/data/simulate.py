"""Synthetic corpora with the statistics of MELD or IEMOCAP, and synthetic features for given labels.

`lfvd simulate --like meld --seed 0 --dialogues 120 --out data/demo.safetensors`

An utterance repeats the emotion of its speaker's last utterance, or of the previous utterance, or is free. Utterances that
repeat one another form a chain; emotions are assigned to chains until the class counts of the real data are met. The features
of a modality are a direction for each emotion plus Gaussian noise, projected by a random matrix.
Shape legend: lfvd.data.batch; k hidden directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lfvd.config import MODALITIES, MODALITY_NAMES
from lfvd.data import UNLABELLED
from lfvd.data.corpus import SPLITS, Corpus, CorpusError, CorpusInfo
from lfvd.data.datasets import IEMOCAP, MELD, Dataset

Like = Literal["meld", "iemocap"]

HIDDEN = 12
"""Hidden directions k of each modality: one a class and some that carry noise only."""
NOISE_SHARE = 0.2
"""Share of a feature's variance that is independent noise of that feature."""
HOLDOUT = 0.1
"""Share of the train dialogues that becomes the validation split, where the data have none of their own."""
PREVIOUS = 0.2
"""Probability that an utterance repeats the emotion of the previous utterance."""
UNCLEAR = 0.2
"""Share of utterances whose features show another emotion than the label, alike in all modalities."""


@dataclass(frozen=True, kw_only=True)
class CorpusStatistics:
    """Statistics of a data set that its simulation reproduces."""

    dataset: Dataset
    widths: dict[str, int]
    """Modality → feature width."""
    lengths: tuple[tuple[float, float], ...]
    """(quantile, utterances a dialogue), straight lines between them."""
    speakers: tuple[float, ...]
    """Share of dialogues with 1, 2, … speakers; in a short dialogue not all of them speak."""
    same_speaker: float
    """Share of utterances with the speaker of the previous utterance."""
    own: float
    """Probability that an utterance repeats the emotion of its speaker's last utterance."""
    strength: dict[str, float]
    """Modality → length of a class's direction, in standard deviations of the noise around it."""


# Lengths, speakers (2.7 heard in a dialogue) and same_speaker of MELD: measured over the 1432 dialogues of its published
# CSVs. Those of IEMOCAP are chosen: mean 49, longest 110, a dyad. own and PREVIOUS lie above the real MELD's, where 44 % of
# utterances repeat their speaker's last emotion, so that context pays. Strengths: bisected until logistic regression on
# single utterances (full widths, L2 penalty C = 0.3 / width, mean of seeds 0-2) came within a point of the test W-F1 of the
# LFVD paper's Table 4, rows T, A and V.
STATISTICS: dict[str, CorpusStatistics] = {
    "meld": CorpusStatistics(
        dataset=MELD,
        widths={"l": 1024, "a": 300, "v": 342},
        lengths=((0.0, 1), (0.1, 2), (0.25, 5), (0.5, 9), (0.75, 14), (0.9, 18), (0.99, 23), (1.0, 33)),
        speakers=(0.02, 0.35, 0.26, 0.16, 0.1, 0.06, 0.03, 0.015, 0.005),
        same_speaker=0.23,
        own=0.55,
        strength={"l": 1.955, "a": 0.88, "v": 0.57},
    ),
    "iemocap": CorpusStatistics(
        dataset=IEMOCAP,
        widths={"l": 1024, "a": 1582, "v": 342},
        lengths=((0.0, 8), (0.1, 25), (0.25, 36), (0.5, 47), (0.75, 60), (0.9, 76), (1.0, 110)),
        speakers=(0.0, 1.0),
        same_speaker=0.3,
        own=0.65,
        strength={"l": 2.21, "a": 1.55, "v": 0.97},
    ),
}


def simulate(like: Like, *, seed: int, dialogues: int | None = None, widths: Mapping[str, int] | None = None) -> Corpus:
    """A whole corpus of simulated dialogues and features, as large as the real one or scaled down to `dialogues`.

    `widths` (modality → width) replaces the real widths, and leaves out the modalities that it does not name; the
    dialogues, speakers and emotions stay the same. Same arguments, same bytes. Raises CorpusError for a seed below 0, or too few dialogues.
    """
    real = STATISTICS[like]
    given = {m: width for m in MODALITIES if (width := (real.widths if widths is None else widths).get(m))}
    rng = _random(seed, 0)
    blocks = _scaled(real, dialogues)
    parts = [_block(real, count, quota, rng) for count, quota in blocks]
    length, speaker, label = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    split = np.repeat([SPLITS.index(splits[0]) for splits in real.dataset.published], [count for count, _ in blocks])
    if len(blocks) < len(SPLITS):
        train = blocks[0][0]
        split[rng.permutation(train)[: max(1, round(HOLDOUT * train))]] = SPLITS.index("valid")
    return Corpus(
        info=CorpusInfo(
            name=f"{real.dataset.name} (simulated)",
            classes=real.dataset.classes,
            dialogues=tuple(f"simulated_{i}" for i in range(len(length))),
            simulated=tuple(MODALITY_NAMES[m] for m in given),
            options={"like": like, "seed": seed, "dialogues": len(length)},
            length_bins=real.dataset.length_bins,
        ),
        features={m: synthetic_features(label, real.dataset, modality=m, seed=seed, width=w) for m, w in given.items()},
        label=label,
        speaker=speaker,
        offset=np.concatenate([[0], np.cumsum(length)]),
        split=split,
    )


def synthetic_features(
    label: np.ndarray, dataset: Dataset, *, modality: str, seed: int, width: int | None = None
) -> np.ndarray:
    """Simulated features of one modality for given labels: [N] int64 → [N, width] float32.

    Labels are in the class order of `dataset`, MELD or IEMOCAP; -1 gives noise alone. Each (seed, modality) has its own random numbers.
    Raises CorpusError for a seed below 0.
    """
    real = STATISTICS[dataset.name.lower()]
    width = width or real.widths[modality]
    rng = _random(seed, 1 + "lav".index(modality))
    direction = real.strength[modality] * np.eye(len(real.dataset.classes) + 1, HIDDEN)  # [c+1, k]
    direction[UNLABELLED] = 0.0  # -1 picks the last row
    emotion = _shown_emotion(label, seed)
    hidden = direction[emotion] + rng.standard_normal((len(label), HIDDEN))  # [N, k]
    view = rng.standard_normal((HIDDEN, width)) / np.sqrt(HIDDEN)
    # Products and sums of rounded values are exact, so that every machine's matrix product gives the same bytes.
    hidden, view = (np.rint(values * 2**16) / 2**16 for values in (hidden, view))
    signal = np.sqrt(1 - NOISE_SHARE) * (hidden @ view)  # [N, width]
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    features: np.ndarray = signal.astype(np.float32) + np.float32(np.sqrt(NOISE_SHARE)) * noise
    return features


def _shown_emotion(label: np.ndarray, seed: int) -> np.ndarray:
    """The emotion that the features show, [N]; without unclear utterances three modalities together would be near certain."""
    rng = _random(seed, 1 + len(MODALITIES))
    other = (rng.random(len(label)) < UNCLEAR) & (label != UNLABELLED)
    return np.where(other, rng.permutation(label), label)


def _random(seed: int, stream: int) -> np.random.Generator:
    if seed < 0:
        raise CorpusError(f"the value of `seed` is {seed}, but must be at least 0: try {-seed}")
    return np.random.default_rng((seed, stream))


def _scaled(real: CorpusStatistics, dialogues: int | None) -> list[tuple[int, np.ndarray]]:
    """Dialogues and class counts [c] of each block, in the proportions of the real ones, for a number of dialogues in all."""
    published = real.dataset.published.values()
    sizes = np.array([count for count, _ in published])
    if dialogues is None:
        dialogues = int(sizes.sum())
    if dialogues < (least := len(SPLITS)):
        raise CorpusError(f"the value of `dialogues` is {dialogues}, but must be at least {least}, one a split: try 30")
    counts = _apportion(sizes, dialogues)
    short = np.maximum([len(splits) for splits in real.dataset.published] - counts, 0)  # every split has a dialogue
    counts += short
    counts[0] -= short.sum()
    return [
        (int(count), _apportion(np.array(classes), max(int(count), round(sum(classes) * count / all_of))))
        for count, (all_of, classes) in zip(counts, published, strict=True)
    ]


def _apportion(weight: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that sum to `total`, in proportion to `weight` (largest remainders)."""
    exact = weight * (total / weight.sum())
    counts: np.ndarray = np.floor(exact + 1e-9).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def _block(
    real: CorpusStatistics, dialogues: int, quota: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths [D], speakers [N] and labels [N] of a block with exactly `quota` [c] utterances of each class."""
    length = _lengths(real, dialogues, int(quota.sum()), rng)
    turns = [_turns(real, n, rng) for n in length]
    chain = np.concatenate([i * 10_000 + _chains(real, speaker, rng) for i, speaker in enumerate(turns)])
    return length, np.concatenate(turns), _assign_classes(chain, quota, rng)


def _lengths(real: CorpusStatistics, dialogues: int, total: int, rng: np.random.Generator) -> np.ndarray:
    """Utterances of each dialogue [D], with the distribution of the real ones and exactly `total` in sum."""
    quantiles, ends = zip(*real.lengths, strict=True)
    length: np.ndarray = np.rint(np.interp(rng.random(dialogues), quantiles, ends)).astype(np.int64)
    while missing := total - int(length.sum()):
        step = 1 if missing > 0 else -1
        free = np.flatnonzero(length < ends[-1] if step > 0 else length > 1)
        length[rng.permutation(free)[: abs(missing)]] += step
    return length


def _turns(real: CorpusStatistics, length: int, rng: np.random.Generator) -> np.ndarray:
    """Speakers of a dialogue [n], numbered in order of appearance."""
    shares = np.array(real.speakers)
    speakers = 1 + int(rng.choice(len(shares), p=shares / shares.sum()))
    # A turn passes to one of the others, all alike: a random step in a circle of speakers.
    steps = np.where(rng.random(length) < real.same_speaker, 0, rng.integers(1, max(speakers, 2), length))
    order: dict[int, int] = {}
    return np.array([order.setdefault(int(s), len(order)) for s in np.cumsum(steps) % speakers], dtype=np.int64)


def _chains(real: CorpusStatistics, speaker: Sequence[int] | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The first utterance of each utterance's chain, itself where it is free: [n] → [n]."""
    chain = np.arange(len(speaker))
    last: dict[int, int] = {}
    for i, (who, draw) in enumerate(zip(speaker, rng.random(len(speaker)), strict=True)):
        if draw < real.own:
            chain[i] = chain[last.get(int(who), i)]
        elif draw < real.own + PREVIOUS and i:
            chain[i] = chain[i - 1]
        last[int(who)] = i
    return chain


def _assign_classes(chain: np.ndarray, quota: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One class for each chain of utterances, so that class c has quota[c] utterances: [N] → [N].

    Long chains first, each to a class drawn in proportion to what the class still lacks; the many chains of
    one utterance then fill the counts exactly.
    """
    _, member, size = np.unique(chain, return_inverse=True, return_counts=True)
    order = rng.permutation(len(size))
    order = order[np.argsort(-size[order], kind="stable")]
    lacks = quota.astype(np.float64)
    class_of = np.empty(len(size), dtype=np.int64)
    for i, draw in zip(order, rng.random(len(size)), strict=True):
        room = np.where(lacks >= size[i], lacks, 0.0)
        chosen = int(np.searchsorted(np.cumsum(room), draw * room.sum(), side="right")) if room.any() else -1
        class_of[i] = chosen if chosen >= 0 else int(lacks.argmax())
        lacks[class_of[i]] -= size[i]
    return class_of[member]
