"""Simulated corpora keep to the published counts and to the order of the modalities in the paper's Table 4.

Each probe is a multinomial logistic regression on one modality's features, trained on train and scored on test.
"""

import re
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from lfvd.data.corpus import SPLITS, Corpus, CorpusError
from lfvd.data.datasets import IEMOCAP
from lfvd.data.simulate import STATISTICS, simulate, synthetic_features
from tests.helpers import ROOT

NARROW = {"l": 64, "a": 32, "v": 32}
TABLE4 = {  # test W-F1 of the LFVD paper, Table 4, rows T, A and V
    "meld": {"l": 66.45, "a": 42.34, "v": 34.67},
    "iemocap": {"l": 67.92, "a": 54.21, "v": 37.89},
}
LIKES = sorted(TABLE4)


def utterances(corpus: Corpus, split: str) -> np.ndarray:
    return np.repeat(corpus.split == SPLITS.index(split), np.diff(corpus.offset))


def probe(corpus: Corpus, x: np.ndarray) -> float:
    """Test W-F1 in percent of a logistic regression on the rows of x; its L2 penalty follows the width."""
    train, test = utterances(corpus, "train"), utterances(corpus, "test")
    model = LogisticRegression(C=0.3 / x.shape[1], max_iter=1000, tol=1e-3).fit(x[train], corpus.label[train])
    return 100 * float(f1_score(corpus.label[test], model.predict(x[test]), average="weighted"))


def predecessors(corpus: Corpus, same_speaker: bool) -> np.ndarray:
    """Row of the utterance before in the dialogue, or of the speaker's own last one; -1 where there is none: [N]."""
    found = np.full(len(corpus.label), -1)
    for start, end in zip(corpus.offset, corpus.offset[1:], strict=False):
        last: dict[int, int] = {}
        for i in range(start, end):
            who = int(corpus.speaker[i]) if same_speaker else 0
            found[i] = last.get(who, -1)
            last[who] = i
    return found


def in_context(corpus: Corpus, x: np.ndarray) -> np.ndarray:
    """Features beside those of the utterance before and of the speaker's own last one: [N, w] → [N, 3w]."""
    padded = np.vstack([x, np.zeros_like(x[:1])])  # -1 picks the zeros
    return np.hstack([x, *(padded[predecessors(corpus, same)] for same in (False, True))])


PUBLISHED = {
    "meld": [(1038, 9989), (114, 1109), (280, 2610)],
    "iemocap": [(108, None), (12, None), (31, 1623)],
}


@pytest.mark.parametrize("like", LIKES)
@pytest.mark.parametrize("seed", [0, 1])
def test_counts_are_the_published_ones(like, seed):
    corpus = simulate(like, seed=seed, widths={"v": 1})
    corpus.check("corpus")
    for split, (dialogues, total) in zip(SPLITS, PUBLISHED[like], strict=True):
        assert len(corpus.indices(split)) == dialogues
        assert total in (None, utterances(corpus, split).sum())
    assert len(corpus.label) == {"meld": 13708, "iemocap": 7433}[like]
    *learned, tested = [np.array(classes) for _, classes in STATISTICS[like].dataset.published.values()]
    np.testing.assert_array_equal(np.bincount(corpus.label[utterances(corpus, "test")]), tested)
    np.testing.assert_array_equal(np.bincount(corpus.label[~utterances(corpus, "test")]), sum(learned))


def test_validation_split_of_iemocap_is_carved_by_seed():
    carves = [frozenset(simulate("iemocap", seed=s, widths={"v": 1}).indices("valid").tolist()) for s in (0, 0, 1)]
    assert carves[0] == carves[1] != carves[2]
    assert max(carves[0]) < 120
    assert carves[0] != frozenset(range(12))


@pytest.mark.parametrize(
    ("like", "low", "quartiles", "high", "speakers", "most"),
    [("meld", 1, (5, 9, 14), 33, 2.73, 9), ("iemocap", 8, (36, 47, 60), 110, 2.0, 2)],
)
def test_dialogues_look_like_the_real_ones(like, low, quartiles, high, speakers, most):
    corpus = simulate(like, seed=0, widths={"v": 1})
    length = np.diff(corpus.offset)
    np.testing.assert_allclose(np.quantile(length, (0.25, 0.5, 0.75)), quartiles, rtol=0.15, atol=1)
    assert low / 2 <= length.min() < quartiles[0]
    assert quartiles[2] < length.max() <= high
    heard = [corpus.speaker[a:b].max() + 1 for a, b in zip(corpus.offset, corpus.offset[1:], strict=False)]
    assert max(heard) <= most
    assert abs(np.mean(heard) - speakers) < 0.35


@pytest.mark.parametrize("like", LIKES)
def test_emotions_persist(like):
    """An utterance has its speaker's last emotion far more often than two utterances drawn at random share one."""
    corpus = simulate(like, seed=0, widths={"v": 1})
    by_chance = ((np.bincount(corpus.label) / len(corpus.label)) ** 2).sum()
    for same_speaker, margin in ((True, 0.3), (False, 0.15)):
        before = predecessors(corpus, same_speaker)
        stays = (corpus.label == corpus.label[before])[before >= 0].mean()
        assert stays > by_chance + margin


@pytest.mark.parametrize("like", LIKES)
def test_narrow_probes_order_the_modalities_and_profit_from_context(like):
    corpus = simulate(like, seed=0, widths=NARROW)
    alone = {m: probe(corpus, x) for m, x in corpus.features.items()}
    context = {m: probe(corpus, in_context(corpus, x)) for m, x in corpus.features.items()}
    assert alone["l"] > alone["a"] + 8 > alone["v"] + 12
    gain = {m: context[m] - alone[m] for m in alone}
    assert gain["v"] > 0.3  # on MELD a face alone hardly beats the majority class, so that its neighbours add little
    assert min(gain["l"], gain["a"]) > 1.5


@pytest.mark.slow
@pytest.mark.parametrize("like", LIKES)
@pytest.mark.parametrize("modality", ["l", "a", "v"])
def test_probes_meet_table_4(like, modality):
    width = STATISTICS[like].widths[modality]
    corpora = [simulate(like, seed=seed, widths={modality: width}) for seed in range(3)]
    scores = [probe(corpus, corpus.features[modality]) for corpus in corpora]
    assert abs(np.mean(scores) - TABLE4[like][modality]) < 1.5
    assert np.ptp(scores) < 4


def test_table_4_is_the_published_one():
    file = ROOT / "results" / "published.yaml"
    if not file.is_file():
        pytest.skip(f"needs {file}")
    published = yaml.safe_load(file.read_text(encoding="utf-8"))
    for like, rows in TABLE4.items():
        for modality, row in {"l": "T", "a": "A", "v": "V"}.items():
            assert published[like]["table4"][row][1] == rows[modality]


@pytest.mark.parametrize("like", LIKES)
def test_same_seed_same_bytes(like, tmp_path):
    files = [tmp_path / name for name in ("one", "two", "other")]
    for file, seed in zip(files, (3, 3, 4), strict=True):
        simulate(like, seed=seed, dialogues=12, widths=NARROW).save(file)
    assert files[0].read_bytes() == files[1].read_bytes()
    one, other = Corpus.open(files[0]), Corpus.open(files[2])
    for m in NARROW:
        assert not np.array_equal(one.features[m][:50], other.features[m][:50])
    assert not np.array_equal(one.label[:50], other.label[:50])


def test_same_seed_in_another_process():
    code = "from lfvd.data.simulate import simulate; print(simulate('meld', seed=5, dialogues=9).content_hash())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == simulate("meld", seed=5, dialogues=9).content_hash()


def test_golden_fingerprint():
    """Results name the fingerprint of their data: a change of it is a change of every recorded result."""
    got = {like: simulate(like, seed=0, dialogues=6, widths={"l": 4, "a": 3}).content_hash()[:16] for like in LIKES}
    assert got == {"iemocap": "3a8f09e0e4ce7d28", "meld": "f8f2a0abc95e58ae"}


def test_widths_do_not_touch_the_dialogues():
    one = simulate("meld", seed=0, dialogues=20)
    other = simulate("meld", seed=0, dialogues=20, widths={"a": 300, "l": 8})
    assert one.widths(["l", "a", "v"]) == {"l": 1024, "a": 300, "v": 342}
    assert list(other.features) == ["l", "a"]
    assert other.info.simulated == ("language", "audio")
    np.testing.assert_array_equal(one.features["a"], other.features["a"])
    for name in ("label", "speaker", "offset", "split"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@settings(max_examples=40, deadline=None)
@given(like=st.sampled_from(LIKES), seed=st.integers(0, 2**32), dialogues=st.integers(3, 60))
def test_any_size_is_a_whole_corpus(like, seed, dialogues):
    corpus = simulate(like, seed=seed, dialogues=dialogues, widths={"v": 2})
    corpus.check("corpus")
    assert len(corpus.split) == dialogues
    counts = [len(corpus.indices(split)) for split in SPLITS]
    assert min(counts) >= 1
    real = [dialogues_of_split for dialogues_of_split, _ in PUBLISHED[like]]
    np.testing.assert_allclose(counts, np.array(real) * dialogues / sum(real), atol=2)
    length = np.diff(corpus.offset)
    assert length.max() <= STATISTICS[like].lengths[-1][1]
    for start, end in zip(corpus.offset, corpus.offset[1:], strict=False):
        seen = list(dict.fromkeys(corpus.speaker[start:end].tolist()))
        assert seen == list(range(len(seen)))


def test_info():
    corpus = simulate("meld", seed=2, dialogues=10)
    assert corpus.info.name == "MELD (simulated)"
    assert corpus.info.simulated == ("language", "audio", "visual")
    assert corpus.info.options == {"like": "meld", "seed": 2, "dialogues": 10}
    assert corpus.info.length_bins == (5, 13)
    assert simulate("iemocap", seed=2, dialogues=10).info.length_bins == (43, 59)
    assert simulate("iemocap", seed=2, dialogues=10).info.classes[:2] == ("happy", "sad")


@pytest.mark.slow
def test_full_size_takes_seconds():
    start = time.process_time()
    corpus = simulate("meld", seed=0)
    assert time.process_time() - start < 20
    assert corpus.features["l"].shape == (13708, 1024)


def test_stand_in_shows_the_labels():
    """Rows of one class share a mean, unlabelled rows have none, and every feature has a variance of about one."""
    label = np.repeat([0, 1, -1], 4000)
    x = synthetic_features(label, IEMOCAP, modality="l", seed=0, width=40)
    assert x.dtype == np.float32
    mean = [np.linalg.norm(x[label == c].mean(axis=0)) for c in (0, 1, -1)]
    assert min(mean[:2]) > 2 * mean[2]
    assert 0.5 < x.var(axis=0).mean() < 2


BAD = {
    "seed": ({"seed": -2}, "the value of `seed` is -2, but must be at least 0: try 2"),
    "dialogues": ({"dialogues": 2}, "the value of `dialogues` is 2, but must be at least 3, one a split: try 30"),
}


@pytest.mark.parametrize(("values", "text"), BAD.values(), ids=BAD.keys())
def test_bad_values(values, text):
    with pytest.raises(CorpusError, match=f"^{re.escape(text)}$"):
        simulate("meld", **{"seed": 0, "dialogues": 5, **values})
