"""Sentences → vectors of a text encoder such as RoBERTa (Liu et al., 2019), fine-tuned on the train split if wished.

An encoder is a folder, or a name on the Hugging Face hub. Its vector of a sentence is that of the first token (CLS), of each
of the last four layers, as in COSMIC (Ghosal et al., 2020). An encoder that says how it is to be pooled (a folder of the
sentence-transformers library with `1_Pooling/config.json`) is pooled that way, by its last layer.
Shapes: b sentences of a batch, t tokens, h width of the encoder.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import cached_file

from lfvd.files import InputError, write_text

Layers = Literal["mean", "first", "concat"]
"""Of the last four layers: their mean, the last one alone, or all, the last one first."""
LAST = 4
DROPOUT = 0.1
"""Of the vector before the classes of `finetune`; inside, the encoder keeps its own."""
POOLING, MODULES = "1_Pooling/config.json", "modules.json"
"""Files of the sentence-transformers library."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A text encoder, ready for use."""

    tokenizer: Any
    model: Any
    """On the device where it is to run."""
    tokens: Literal["cls", "mean"]
    """Which tokens' vectors make that of the sentence."""
    layers: Layers
    unit_length: bool
    """Divide the vector by its length at the end."""
    longest: int
    """Tokens; what is beyond is cut off."""
    own: Mapping[str, str]
    """The files of its folder that say how it is pooled: name → text."""

    def save(self, folder: Path) -> None:
        """Write the encoder as a folder for `load`, in place of one that is there, and whole or not at all."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            new = Path(temporary) / "encoder"
            self.model.save_pretrained(new)
            self.tokenizer.save_pretrained(new)
            for name, text in self.own.items():
                write_text(new / name, text)
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)


def load(name: str, *, layers: Layers | None = None, device: str = "cpu") -> Encoder:
    """The encoder in a folder or on the hub. `layers` None: the encoder's own way, else the mean.

    Raises InputError where it is not to be had. No code of the folder or the hub is run.
    """
    transformers.utils.logging.set_verbosity_error()  # it tells of a head that is not used here
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = transformers.AutoModel.from_pretrained(name, dtype=torch.float32, trust_remote_code=False)
        own = {file: text for file in (POOLING, MODULES) if (text := _optional(name, file)) is not None}
    except Exception as error:  # what its many parts raise: OSError, ValueError, KeyError, SafetensorError
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise InputError(
            f"--model {name}: is no text encoder that can be loaded ({reason}): name a folder with one, or one of the hub"
        ) from None
    positions = getattr(model.config, "max_position_embeddings", math.inf)
    padding = model.config.pad_token_id or 0  # RoBERTa counts its positions from the one after it
    modules = json.loads(own.get(MODULES, "[]"))
    return Encoder(
        tokenizer=tokenizer,
        model=model.to(device).eval(),
        tokens="mean" if json.loads(own.get(POOLING, "{}")).get("pooling_mode_mean_tokens") else "cls",
        layers=layers or ("first" if POOLING in own else "mean"),
        unit_length=POOLING in own and any(str(m.get("type", "")).endswith("Normalize") for m in modules),
        longest=int(min(positions - padding - 1, tokenizer.model_max_length)),  # without a limit: a very large number
        own=own,
    )


def _optional(name: str, file: str) -> str | None:
    path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    return None if path is None else Path(path).read_text(encoding="utf-8")


def encode(
    encoder: Encoder, texts: Sequence[str], *, batch: int = 32, done: Callable[[int], None] = lambda count: None
) -> np.ndarray:
    """A vector each, in the order of the texts: [N, h or 4 h] float32. `done` is called with the number of texts behind.

    Sentences of like length share a batch, so that little is computed on padding; padding changes no vector.
    """
    ids = encoder.tokenizer(list(texts), truncation=True, max_length=encoder.longest).input_ids
    order = np.argsort([len(each) for each in ids], kind="stable")[::-1]  # memory that does not suffice shows at once
    found = []
    for start in range(0, len(order), batch):
        with torch.inference_mode():
            found.append(pooled(encoder, [texts[i] for i in order[start : start + batch]]).cpu().numpy())
        done(min(start + batch, len(order)))
    features: np.ndarray = np.concatenate(found)[np.argsort(order)].astype(np.float32)
    return features


def pooled(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """The vectors of a batch by the encoder's pooling: [b, h], or [b, 4 h] where layers are concatenated."""
    tokens = encoder.tokenizer(
        list(texts), padding=True, truncation=True, max_length=encoder.longest, return_tensors="pt"
    ).to(encoder.model.device)
    hidden = encoder.model(**tokens, output_hidden_states=True).hidden_states[1:]  # the embeddings are no layer
    last = hidden[: -LAST - 1 : -1]
    if encoder.tokens == "cls":
        by_layer = [layer[:, 0] for layer in last]
    else:
        weight = tokens["attention_mask"][:, :, None].to(last[0].dtype)
        by_layer = [(layer * weight).sum(1) / weight.sum(1) for layer in last]
    if encoder.layers == "concat":
        vectors = torch.cat(by_layer, 1)
    else:
        vectors = by_layer[0] if encoder.layers == "first" else torch.stack(by_layer).mean(0)
    return F.normalize(vectors) if encoder.unit_length else vectors


def finetune(
    encoder: Encoder,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    epochs: int,
    batch: int,
    seed: int,
    rate: float = 1e-5,
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Teach the encoder, in place, to tell the labels from its pooled vectors by cross-entropy under a linear layer.

    To see the train split alone, since the field's text features come from such an encoder: the number of epochs is fixed, for
    nothing of the other splits may choose it. Features of the train split then come from sentences that the encoder has
    learnt, and look better than those of new sentences.
    rate: AdamW's learning rate at its highest, after a tenth of the steps; then it falls to 0 (as Liu et al., 2019).
    `done` is called with the number of sentences behind, over all epochs. Seeded; on a CPU the same
    arguments give the same encoder.
    """
    torch.manual_seed(seed)
    device, classes = encoder.model.device, sorted(set(labels))
    target = torch.tensor([classes.index(label) for label in labels], device=device)
    with torch.no_grad():
        width = pooled(encoder, texts[:1]).shape[1]
    head = nn.Linear(width, len(classes)).to(device)
    parameters = [*encoder.model.parameters(), *head.parameters()]
    steps = epochs * math.ceil(len(texts) / batch)
    rise = max(steps // 10, 1)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (steps - step) / max(steps - rise, 1))
    )
    encoder.model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(texts)).tolist()
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            logits = head(F.dropout(pooled(encoder, [texts[i] for i in rows]), DROPOUT))
            loss = F.cross_entropy(logits, target[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            done(epoch * len(texts) + start + len(rows))
    encoder.model.eval()
