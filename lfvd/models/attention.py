"""Language-focused augmentation and the conversation's atmosphere (Eqs. 4-9). Shape legend: lfvd.data.batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class AttentionBlock(nn.Module):
    """Attention over the utterances and a feed-forward net, each with residual and LayerNorm after (Eqs. 6, 7, 9)."""

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.norm_forward = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *, residual: Tensor, mask: Tensor) -> Tensor:
        """query, residual [b, queries, d], key, value [b, n, d], mask [b, n] true on visible keys → [b, queries, d]."""
        mixed = self.project(self._attend(query, key, value, mask))
        x = self.norm_attention(residual + self.dropout(mixed))
        forward = self.contract(self.dropout(nn.functional.gelu(self.expand(x))))
        out: Tensor = self.norm_forward(x + self.dropout(forward))
        return out

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        b, _, d = query.shape
        width = d // self.heads
        q, k, v = (x.view(b, -1, self.heads, width).transpose(1, 2) for x in (query, key, value))  # [b, h, n, ·]
        score = q @ k.transpose(-1, -2) / math.sqrt(width)  # [b, h, queries, n]
        weight = score.masked_fill(~mask[:, None, None, :], -math.inf).softmax(-1)
        return (weight @ v).transpose(1, 2).reshape(query.shape)


class Augmentation(nn.Module):
    """Every modality queried by the anchor (language), and a token that carries the atmosphere back to all of them."""

    def __init__(
        self,
        *,
        modalities: int,
        anchor: int,
        width: int,
        heads: int,
        dropout: float,
        atmosphere: bool = True,
        atmosphere_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.anchor = anchor
        self.query = nn.Linear(width, width)  # W_Q belongs to the anchor and serves all its attentions (Eq. 4)
        self.key_value = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(modalities))
        self.blocks = nn.ModuleList(
            AttentionBlock(width=width, heads=heads, dropout=dropout) for _ in range(modalities)
        )
        self.atmosphere = (
            Atmosphere(width=width, heads=heads, dropout=dropout, scale=atmosphere_scale) if atmosphere else None
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [m, b, n, d], mask [b, n] → [m, b, n, d]: X + t (Eq. 9), or without the atmosphere X with X^m as anchor."""
        query = self.query(x[self.anchor])
        merged = x[self.anchor]  # becomes X^m, Eq. 8
        for i, (key_value, block) in enumerate(zip(self.key_value, self.blocks, strict=True)):
            key, value = key_value(x[i]).chunk(2, dim=-1)
            merged = merged + block(query, key, value, residual=x[i], mask=mask)  # Eqs. 6, 7
        if self.atmosphere is None:
            return torch.cat((x[: self.anchor], merged[None], x[self.anchor + 1 :]))
        atmosphere: Tensor = self.atmosphere(merged, mask)
        return x + atmosphere[:, None, :]


class Atmosphere(nn.Module):
    """A learnable token in front of each dialogue that gathers its emotional atmosphere by self-attention (Eq. 9).

    Only the token's row of the block is used, so only that row is computed. `scale` is the initial gain of the last norm:
    at 1, the t that all utterances of a dialogue share outweighs their differences, and training stalls.
    """

    def __init__(self, *, width: int, heads: int, dropout: float, scale: float) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.token, std=0.02)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.block = AttentionBlock(width=width, heads=heads, dropout=dropout)
        nn.init.constant_(self.block.norm_forward.weight, scale)

    def forward(self, merged: Tensor, mask: Tensor) -> Tensor:
        """merged (X^m) [b, n, d], mask [b, n] → t [b, d]."""
        token = self.token.expand(len(merged), 1, -1)
        key, value = self.key_value(torch.cat((token, merged), dim=1)).chunk(2, dim=-1)  # [b, 1+n, d]
        visible = nn.functional.pad(mask, (1, 0), value=True)
        out: Tensor = self.block(self.query(token), key, value, residual=token, mask=visible)
        return out[:, 0]
