"""Fine-tuning of a text encoder on the train split's emotions, since the field's text features come from such an encoder.

It sees the train split alone: the number of epochs is fixed, for nothing of the other splits may choose it. Features of the
train split come from sentences that the encoder has learnt, and look better than those of new sentences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from lfvd.extract.text import Encoder, pooled

DROPOUT = 0.1
"""Of the vector before the classes; inside, the encoder keeps its own."""


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
