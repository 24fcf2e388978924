"""Folds of train + valid: whole dialogues dealt into K parts, or by recording session. The test split has no part in it.

A run trains on all folds but one and is scored on that one.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

import numpy as np

from lfvd.data import UNLABELLED
from lfvd.data.corpus import SPLITS, Corpus, CorpusError

SESSION = re.compile(r"Ses0*(\d+)")
"""How IEMOCAP's dialogue ids begin: Ses01F_impro01."""

TRAIN, VALID, TEST = range(len(SPLITS))

Folds = int | Literal["session"]
"""K, or one fold for each recording session."""


def count_folds(corpus: Corpus, folds: Folds) -> int:
    """K. Raises CorpusError where there are fewer dialogues in train + valid, or dialogue ids name no sessions."""
    if folds == "session":
        return len(set(_by_session(corpus)) - {-1})
    _to_deal(corpus, folds)
    return folds


def divide(corpus: Corpus, folds: Folds, *, deal: int, fold: int) -> Corpus:
    """The corpus with one fold (from 0) of a deal as its valid split and the others as train; arrays are not copied.

    Raises CorpusError where there are fewer dialogues than folds, or dialogue ids name no sessions.
    """
    assigned = _by_session(corpus) if folds == "session" else deal_dialogues(corpus, folds, seed=deal)
    split = np.where(assigned < 0, TEST, np.where(assigned == fold, VALID, TRAIN))
    return replace(corpus, split=split)


def deal_dialogues(corpus: Corpus, folds: int, *, seed: int) -> np.ndarray:
    """Fold of each dialogue [D], -1 for test: folds alike in utterances and in each class.

    Greedy: dialogues from long to short, with some chance, each to the fold that has least of what it brings.
    """
    chosen, length = _to_deal(corpus, folds), np.diff(corpus.offset)
    dialogue = np.repeat(np.arange(len(length)), length)
    kinds = len(corpus.info.classes) + 2  # unlabelled, each class, all
    content = np.zeros((len(length), kinds))
    np.add.at(content, (dialogue, corpus.label - UNLABELLED), 1)
    content[:, -1] = length
    content /= np.maximum(1, content[chosen].sum(0))  # a rare class counts as much as a frequent one
    random = np.random.default_rng(seed)
    order = random.permutation(chosen)
    order = order[np.argsort(-length[order] * random.uniform(1, 1.5, len(order)), kind="stable")]
    assigned, load = np.full(len(length), -1), np.zeros((folds, kinds))
    for each in order:
        fold = int(np.argmin(load @ content[each]))  # least growth of the sum of squared loads
        assigned[each] = fold
        load[fold] += content[each]
    return assigned


def _to_deal(corpus: Corpus, folds: int) -> np.ndarray:
    """Indices of the dialogues of train + valid, at least one for each fold."""
    chosen = np.flatnonzero(corpus.split != TEST)
    if len(chosen) < folds:
        raise CorpusError(
            f"the corpus {corpus.info.name} has {len(chosen)} dialogues in train and valid, but `folds` is {folds}: "
            "take fewer folds"
        )
    return chosen


def _by_session(corpus: Corpus) -> np.ndarray:
    """Fold of each dialogue [D], -1 for test: its session's place among those of train + valid."""
    chosen = np.flatnonzero(corpus.split != TEST)
    found = [SESSION.match(corpus.info.dialogues[i]) for i in chosen]
    sessions = [match[1] for match in found if match]
    if len(set(sessions)) < 2 or len(sessions) < len(chosen):
        raise CorpusError(
            f"the corpus {corpus.info.name} names no two sessions in the ids of its train and valid dialogues (such as "
            f"{corpus.info.dialogues[chosen[0]]}), which `confirm.folds: session` needs: give a number of folds"
        )
    assigned = np.full(len(corpus.split), -1)
    assigned[chosen] = np.unique(sessions, return_inverse=True)[1]
    return assigned
