"""Fine-tuning of a text encoder on the train split's emotions, since the field's text features come from such an encoder.

It sees the train split alone: the number of epochs is fixed, for nothing of the other splits may choose it. Features of the
train split come from sentences that the encoder has learnt, and look better than those of new sentences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from lfvd.extract.text import Encoder, pooled


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How the encoder learns; the values are those common for RoBERTa on sentences (Liu et al., 2019)."""

    epochs: int = 3
    rate: float = 1e-5
    """AdamW's learning rate at its highest, after a tenth of the steps; then it falls to 0."""
    batch: int = 32
    dropout: float = 0.1
    """Of the vector before the classes; inside, the encoder keeps its own."""
    seed: int = 0


def finetune(
    encoder: Encoder,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    options: FineTuning,
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Teach the encoder, in place, to tell the labels from its pooled vectors by cross-entropy under a linear layer.

    `done` is called with the number of sentences behind, over all epochs. Seeded; on a CPU the same
    arguments give the same encoder.
    """
    torch.manual_seed(options.seed)
    device, classes = encoder.model.device, sorted(set(labels))
    target = torch.tensor([classes.index(label) for label in labels], device=device)
    with torch.no_grad():
        width = pooled(encoder, encoder.tokens(texts[:1])).shape[1]
    head = nn.Linear(width, len(classes)).to(device)
    parameters = [*encoder.model.parameters(), *head.parameters()]
    steps = options.epochs * math.ceil(len(texts) / options.batch)
    optimizer = torch.optim.AdamW(parameters, lr=options.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
    encoder.model.train()
    behind = 0
    for _ in range(options.epochs):
        order = torch.randperm(len(texts)).tolist()
        for start in range(0, len(order), options.batch):
            rows = order[start : start + options.batch]
            vectors = pooled(encoder, encoder.tokens([texts[i] for i in rows]))
            logits = head(F.dropout(vectors, options.dropout))
            loss = F.cross_entropy(logits, target[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            behind += len(rows)
            done(behind)
    encoder.model.eval()


def _share(step: int, steps: int) -> float:
    """Of the highest rate: up over a tenth of the steps, then down to 0 in a straight line."""
    rise = max(steps // 10, 1)
    return min((step + 1) / rise, (steps - step) / max(steps - rise, 1))
