"""The training loop: same bits from the same seed however often it is interrupted, and nothing learnt from the test split."""

import hashlib
import io
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight

from lfvd.config import Config
from lfvd.data import UNLABELLED
from lfvd.data.corpus import Corpus, CorpusError, CorpusInfo
from lfvd.files import InputError
from lfvd.models.build import build_model
from lfvd.training import trainer
from lfvd.training.checkpoint import TrainResult, read_result
from lfvd.training.evaluation import evaluate
from lfvd.training.trainer import NonFiniteLoss, epoch_batches, train


def digest(result: TrainResult) -> str:
    """Of all that a run gives, without the seconds."""
    found = hashlib.sha256()
    for name, tensor in sorted(result.state.items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    history = [{k: v for k, v in record.items() if k != "seconds"} for record in result.history]
    found.update(json.dumps([result.seed, result.best_epoch, history]).encode())
    return found.hexdigest()


def with_features(corpus: Corpus, split: str, value: float) -> Corpus:
    """The corpus with all features of a split set to a value."""
    features = {m: x.copy() for m, x in corpus.features.items()}
    for flat in features.values():
        flat[corpus.rows(split)] = value
    return replace(corpus, features=features)


def test_golden_run(tiny_config, tiny_corpus):
    """Numbers written down once: an accidental change of model, losses, order or optimizer shows here."""
    result = train(tiny_config, tiny_corpus, 0)
    assert [r["train/loss"] for r in result.history] == pytest.approx(GOLDEN_LOSS, rel=1e-4)
    assert [r["val/loss"] for r in result.history] == pytest.approx(GOLDEN_VALIDATION, rel=1e-4)


GOLDEN_LOSS = [1.193296, 1.102803, 0.995907, 0.951670]
GOLDEN_VALIDATION = [1.060041, 1.010191, 0.960637, 0.880815]


def test_seeds(tiny_config, tiny_corpus):
    one, again, other = (digest(train(tiny_config, tiny_corpus, seed)) for seed in (0, 0, 1))
    assert one == again
    assert one != other


@pytest.mark.parametrize("stop", [1, 4])
def test_interrupted_after_each_epoch(tiny_config, tiny_corpus, tmp_path, stop):
    reported = []

    def report(record):
        assert read_result(tmp_path / "c.pt").history[-1] == record, "its checkpoint is there"
        reported.append(record["epoch"])
        if record["epoch"] == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, tiny_corpus, 3, report=report, checkpoint=tmp_path / "c.pt")
    torch.manual_seed(99)  # whatever happened in between
    again = []
    result = train(tiny_config, tiny_corpus, 3, report=again.append, checkpoint=tmp_path / "c.pt")
    assert digest(result) == digest(train(tiny_config, tiny_corpus, 3))
    assert reported == list(range(1, stop + 1))
    assert again == result.history, "those of before the interruption are reported again"


def test_more_epochs_continue_a_finished_run(tiny_config, tiny_corpus, tmp_path):
    train(tiny_config, tiny_corpus, 0, checkpoint=tmp_path / "c.pt")
    longer = tiny_config.with_values({"run.epochs": 6})
    continued = train(longer, tiny_corpus, 0, checkpoint=tmp_path / "c.pt")
    assert digest(continued) == digest(train(longer, tiny_corpus, 0))


def test_record_holds_what_the_docstring_explains(tiny_config, tiny_corpus):
    record = train(tiny_config, tiny_corpus, 0).history[-1]
    losses = {
        "train/loss",
        *(f"train/loss_{k}" for k in ("classification", "cross_modal", "supervised", "distillation")),
    }
    validation = {"val/loss", "val/wf1", "val/acc", "val/f1/calm", "val/f1/glad", "val/f1/sad", "val/wf1_best"}
    assert record.keys() == {"epoch", "seconds"} | losses | validation
    assert all(math.isfinite(v) for v in record.values())


def test_best_epoch_is_the_first_best_of_validation_and_its_weights_are_kept(tiny_config, tiny_corpus):
    config = tiny_config.with_values({"run.epochs": 12})
    result = train(config, tiny_corpus, 1)
    scores = [r["val/wf1"] for r in result.history]
    assert result.best_epoch == 1 + int(np.argmax(scores))
    assert result.best_epoch < 12, "choose a seed whose last epoch is not the best"
    assert [r["val/wf1_best"] for r in result.history] == list(np.maximum.accumulate(scores))
    model = build_model(config, tiny_corpus.widths("lav"), 3)
    model.load_state_dict(result.state)
    found = evaluate(model, tiny_corpus, "valid", device="cpu")
    assert found.scores()["wf1"] == result.best["val/wf1"]
    assert found.loss == result.best["val/loss"]


def test_patience(tiny_config, tiny_corpus, tmp_path):
    config = tiny_config.with_values({"run.epochs": 60, "run.patience": 3})
    result = train(config, tiny_corpus, 1, checkpoint=tmp_path / "c.pt")
    assert len(result.history) == result.best_epoch + 3 < 60
    assert digest(train(config, tiny_corpus, 1, checkpoint=tmp_path / "c.pt")) == digest(result)


def test_test_split_is_never_read(tiny_config, tiny_corpus):
    expected = digest(train(tiny_config, tiny_corpus, 0))
    label = tiny_corpus.label.copy()
    label[tiny_corpus.rows("test")] = 0
    poisoned = replace(with_features(tiny_corpus, "test", math.nan), label=label)
    assert digest(train(tiny_config, poisoned, 0)) == expected
    assert digest(train(tiny_config, tiny_corpus.restricted("train", "valid"), 0)) == expected


def test_validation_split_is_not_trained_on(tiny_config, tiny_corpus):
    changed = with_features(tiny_corpus, "valid", 0.0)
    one, other = (train(tiny_config, corpus, 0).history for corpus in (tiny_corpus, changed))
    assert [r["train/loss"] for r in one] == [r["train/loss"] for r in other]
    assert [r["val/loss"] for r in one] != [r["val/loss"] for r in other]


def test_unlabelled_utterances_are_predicted_and_in_no_score(tiny_config, tiny_corpus):
    model = build_model(tiny_config, tiny_corpus.widths("lav"), 3)
    model.load_state_dict(train(tiny_config, tiny_corpus, 0).state)
    found = evaluate(model, tiny_corpus, "train", device="cpu")
    known, length = found.label != UNLABELLED, np.diff(tiny_corpus.offset)
    assert 0 < known.sum() < len(known)
    assert list(found.row) == list(tiny_corpus.rows("train"))
    expected = f1_score(found.label[known], found.prediction[known], average="weighted", zero_division=0)
    assert found.scores()["wf1"] == pytest.approx(expected)
    assert found.loss == pytest.approx(-np.log(found.probability[known, found.label[known]]).mean(), rel=1e-5)
    np.testing.assert_allclose(found.probability.sum(1), 1, rtol=1e-5)
    assert found.weight.shape == (len(known), 3)
    assert (found.weight[:, 0] == 1).all()
    assert list(found.length) == list(np.repeat(length, length)[found.row])


def test_balanced_class_weights_of_a_subset_of_modalities(tiny_config, tiny_corpus):
    config = tiny_config.with_values({"data.modalities": "v,a", "loss.class_weights": "balanced", "run.epochs": 1})
    assert 0 <= train(config, tiny_corpus, 0).best["val/wf1"] <= 1
    label = tiny_corpus.label[tiny_corpus.rows("train")]
    found = trainer._class_weight(config, tiny_corpus, torch.device("cpu"))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=label[label != UNLABELLED])
    assert found.tolist() == pytest.approx(list(expected))


def test_loss_that_is_not_finite(tiny_config, tiny_corpus):
    with pytest.raises(NonFiniteLoss) as caught:
        train(tiny_config, with_features(tiny_corpus, "train", math.nan), 0)
    assert str(caught.value) == (
        "epoch 1, batch 1 of 2: the classification loss is not finite: "
        "lower `optim.lr` or `optim.clip_norm`, or raise `loss.temperature`"
    )
    with pytest.raises(NonFiniteLoss) as caught:
        train(tiny_config, with_features(tiny_corpus, "valid", math.nan), 0)
    assert str(caught.value) == "epoch 1: the validation loss is nan: lower `optim.lr` or `optim.clip_norm`"


def test_checkpoint_of_another_run(tiny_config, tiny_corpus, tmp_path):
    path = tmp_path / "c.pt"
    train(tiny_config, tiny_corpus, 0, checkpoint=path)
    before = path.read_bytes()
    for config, corpus, seed, words in (
        (tiny_config, tiny_corpus, 1, "`seed` 0 there, 1 here"),
        (tiny_config.with_values({"optim.lr": 0.5}), tiny_corpus, 0, "`optim.lr` 0.01 there, 0.5 here"),
        (tiny_config, replace(tiny_corpus, fingerprint="f"), 0, f"`data` {tiny_corpus.fingerprint} there, f here"),
    ):
        with pytest.raises(InputError) as caught:
            train(config, corpus, seed, checkpoint=path)
        assert str(caught.value) == f"{path}: belongs to another run ({words}): use another folder, or delete it"
    assert path.read_bytes() == before


def other_file() -> bytes:
    """A file that torch reads, but no checkpoint."""
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 half", b"text", other_file()], ids=["empty", "half", "text", "other"]
)
def test_broken_checkpoint(tiny_config, tiny_corpus, tmp_path, content):
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        train(tiny_config, tiny_corpus, 0, checkpoint=path)
    assert str(caught.value).startswith(f"{path}: is not a readable checkpoint (")
    assert str(caught.value).endswith("): delete it to start over")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_split_without_labels(tiny_config, tiny_corpus, split):
    label = tiny_corpus.label.copy()
    label[tiny_corpus.rows(split)] = UNLABELLED
    with pytest.raises(CorpusError) as caught:
        train(tiny_config, replace(tiny_corpus, label=label), 0)
    assert str(caught.value) == f"the corpus TINY has no labelled utterance in its {split} split: import it with one"


def test_an_absent_gpu(tiny_corpus):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError) as caught:
        train(Config().with_values({"run.device": "cuda"}), tiny_corpus, 0)
    assert str(caught.value) == "the device is cuda, but torch sees no GPU here: use auto or cpu"


def batches_of(corpus: Corpus, seed: list[int], **values) -> list[np.ndarray]:
    return epoch_batches(corpus, Config().with_values({f"optim.{k}": v for k, v in values.items()}).optim, seed)


@pytest.mark.parametrize("like_length", [True, False])
def test_an_epoch_holds_every_train_dialogue_once(tiny_corpus, like_length):
    found = batches_of(tiny_corpus, [0, 1], batch_size=3, like_length=like_length)
    assert sorted(np.concatenate(found)) == list(tiny_corpus.indices("train"))
    assert len(found) == 3
    length = np.diff(tiny_corpus.offset)
    assert all((np.diff(length[batch]) <= 0).all() for batch in found), "the longest first"


def test_batches_of_like_length_are_random_all_the_same():
    """Two corpora's worth of dialogues of 1 to 30 utterances: much less padding, another order and other batches each time."""
    rng = np.random.default_rng(0)
    length = rng.integers(1, 31, 640)
    corpus = Corpus(
        info=CorpusInfo(name="made up", classes=("a",), dialogues=tuple(map(str, range(640)))),
        features={"l": np.zeros((length.sum(), 1), np.float32)},
        label=np.zeros(length.sum(), np.int64),
        speaker=np.zeros(length.sum(), np.int64),
        offset=np.concatenate([[0], np.cumsum(length)]),
        split=np.zeros(640, np.int64),
    )

    def padded(batches: list[np.ndarray]) -> float:
        return sum(length[batch].max() * len(batch) for batch in batches) / length.sum()

    alike, mixed = (batches_of(corpus, [0, 1], like_length=alike) for alike in (True, False))
    assert padded(alike) < 1.25 < 1.8 < padded(mixed)
    full = [length[batch].sum() for batch in alike]
    assert max(full) - min(full) <= 2 * length.max(), "each step weighs as many utterances"
    longest = [length[batch].max() for batch in alike]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)
    again, other = batches_of(corpus, [0, 1]), batches_of(corpus, [0, 2])
    assert all(np.array_equal(*pair) for pair in zip(alike, again, strict=True))
    together = [{frozenset(pair) for batch in found for pair in itertools.pairwise(batch)} for found in (alike, other)]
    assert len(together[0] & together[1]) < 0.2 * len(together[0])


def test_bf16_stays_close_and_keeps_its_weights(tiny_config, tiny_corpus):
    full, mixed = (train(tiny_config.with_values({"run.precision": p}), tiny_corpus, 0) for p in ("float32", "bf16"))
    losses = [[r["train/loss"] for r in run.history] for run in (full, mixed)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert all(t.dtype == torch.float32 for t in mixed.state.values())


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_tf32_only_where_it_is_asked_for(tiny_config, tiny_corpus, precision):
    train(tiny_config.with_values({"run.precision": precision, "run.epochs": 1}), tiny_corpus, 0)
    wanted = precision == "tf32"
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == wanted
    assert torch.backends.cudnn.deterministic
