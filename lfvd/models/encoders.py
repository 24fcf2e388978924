"""Context encoders (Eq. 2): dropout, then a bidirectional GRU for each modality. Shape legend: lfvd.data.batch."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LIMIT = 10.0
"""Standardised features are clipped to this many deviations: one that hardly varies in train may be far off elsewhere."""


class Encoder(nn.Module):
    """One modality's features → context-aware representations of the model width.

    Packed sequences make the backward direction start at each dialogue's last utterance, so padding changes nothing.
    `mean`, `scale` and `limit` standardise the features; they leave them alone unless set, and are saved with the weights.
    """

    mean: Tensor  # [features]
    scale: Tensor  # [features]
    limit: Tensor  # []

    def __init__(self, *, features: int, width: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("limit", torch.tensor(math.inf))
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(features, width // 2, batch_first=True, bidirectional=True)

    def standardise(self, rows: np.ndarray) -> None:
        """Standardise by the mean and deviation of rows [N, features]; a constant feature is only centred."""
        rows = rows.astype(np.float64)
        deviation = rows.std(0)
        varies = deviation > 1e-5 * np.abs(rows).max(0)  # less is the rounding of float32
        scale = np.divide(1.0, deviation, out=np.ones_like(deviation), where=varies)
        self.mean.copy_(torch.from_numpy(rows.mean(0)))
        self.scale.copy_(torch.from_numpy(scale))
        self.limit.fill_(LIMIT)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        """x [b, n, features], length [b] on the CPU → [b, n, d], zero on padding."""
        x = ((x - self.mean) * self.scale).clamp(-self.limit, self.limit)
        packed = pack_padded_sequence(self.dropout(x), length, batch_first=True, enforce_sorted=False)
        hidden, _ = self.gru(packed)
        padded, _ = pad_packed_sequence(hidden, batch_first=True, total_length=x.shape[1])
        return padded
