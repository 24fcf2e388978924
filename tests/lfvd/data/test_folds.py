"""Folds of train + valid: whole dialogues, alike in utterances and classes, seeded; sessions; what a run is scored on."""

from dataclasses import replace

import numpy as np
import pytest

from lfvd.data.corpus import CorpusError
from lfvd.data.folds import TEST, TRAIN, VALID, count_folds, deal_dialogues, divide
from lfvd.data.simulate import simulate


@pytest.fixture(scope="module")
def corpus():
    return simulate("meld", seed=0, dialogues=300, widths={"l": 4})


def utterances(corpus, dialogues):
    return np.concatenate([np.arange(*corpus.offset[i : i + 2]) for i in np.flatnonzero(dialogues)])


@pytest.mark.parametrize("folds", [2, 5, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_are_alike(corpus, folds, seed):
    """Each dialogue of train + valid in one fold; utterances within 3 %, each class within a handful of its share."""
    assigned = deal_dialogues(corpus, folds, seed=seed)
    assert np.array_equal(assigned < 0, corpus.split == TEST)
    assert set(assigned) - {-1} == set(range(folds))
    rows = [utterances(corpus, assigned == fold) for fold in range(folds)]
    sizes = np.array([len(each) for each in rows])
    assert np.ptp(sizes) <= max(3, 0.03 * sizes.mean())
    counts = np.array([np.bincount(corpus.label[each], minlength=7) for each in rows])
    assert (np.abs(counts - counts.mean(0)) <= np.maximum(4, 0.2 * counts.mean(0))).all()


def test_deals_are_seeded(corpus):
    deals = [deal_dialogues(corpus, 5, seed=seed) for seed in (0, 0, 1)]
    assert np.array_equal(deals[0], deals[1])
    same = (deals[0] == deals[2])[corpus.split != TEST].mean()
    assert same < 0.4, "another seed, another deal"


def test_a_division_shares_the_arrays_and_leaves_test_alone(corpus):
    parts = [divide(corpus, 3, deal=7, fold=fold) for fold in range(3)]
    for part in parts:
        assert part.features["l"] is corpus.features["l"]
        assert part.fingerprint == corpus.fingerprint
        assert np.array_equal(part.split == TEST, corpus.split == TEST)
        assert part.split.dtype == corpus.split.dtype
    valid = np.array([part.split == VALID for part in parts])
    assert np.array_equal(valid.sum(0), (corpus.split != TEST).astype(int)), "each dialogue is scored once"
    assert all((part.split[corpus.split != TEST] != TEST).all() and (part.split == TRAIN).any() for part in parts)


def test_sessions(corpus):
    """One fold for each recording session of train + valid, in their order; the test session is none."""
    names = tuple(f"Ses0{1 + i % 5}F_impro{i}" for i in range(len(corpus.split)))
    session = np.arange(len(names)) % 5
    corpus = replace(
        corpus, info=replace(corpus.info, dialogues=names), split=np.where(session == 4, TEST, TRAIN).astype(np.int64)
    )
    assert count_folds(corpus, "session") == 4
    for fold in range(4):
        part = divide(corpus, "session", deal=0, fold=fold)
        assert np.array_equal(part.split == VALID, session == fold)


def test_a_corpus_without_valid_needs_none(corpus):
    bare = replace(corpus, split=np.where(corpus.split == TEST, TEST, TRAIN))
    assert (divide(bare, 5, deal=0, fold=0).split == VALID).any()


@pytest.mark.parametrize(("folds", "text"), [("session", "names no two sessions"), (100_000, "take fewer folds")])
def test_folds_that_cannot_be(corpus, folds, text):
    with pytest.raises(CorpusError, match=text):
        count_folds(corpus, folds)
