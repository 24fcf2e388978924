"""Gaussian latents of each modality, their divergences, and the fusion (Eqs. 12-17). Shape legend: lfvd.data.batch."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

LOG_VARIANCE_LIMIT = 10.0


class Gaussian(NamedTuple):
    """Diagonal Gaussians: mean and log σ², both [..., z]."""

    mean: Tensor
    log_variance: Tensor


class LatentHeads(nn.Module):
    """Two linear heads a modality: μ and log σ² (Eq. 12); log σ² is clamped and starts near 0."""

    def __init__(self, *, modalities: int, width: int, latent: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(modalities, width, 2 * latent))
        self.bias = nn.Parameter(torch.zeros(modalities, 1, 2 * latent))
        bound = 1 / math.sqrt(width)
        nn.init.uniform_(self.weight[..., :latent], -bound, bound)
        nn.init.normal_(self.weight[..., latent:], std=0.01 * bound)

    def forward(self, x: Tensor) -> Gaussian:
        """x [m, b, n, d] → Gaussian of [m, b, n, z]."""
        m, b, n, d = x.shape
        both = torch.baddbmm(self.bias, x.reshape(m, b * n, d), self.weight).view(m, b, n, -1)
        mean, log_variance = both.chunk(2, dim=-1)
        return Gaussian(mean, log_variance.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT))


def kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q ‖ p) of diagonal Gaussians for each latent coordinate, in nats: [..., z]; sum over z for the divergence."""
    squared = (q.mean - p.mean).square() / p.log_variance.exp()
    return 0.5 * (p.log_variance - q.log_variance + (q.log_variance - p.log_variance).exp() + squared - 1)


def kl_standard(q: Gaussian) -> Tensor:
    """KL(q ‖ N(0, I)) for each latent coordinate: [..., z]."""
    return 0.5 * (q.log_variance.exp() + q.mean.square() - 1 - q.log_variance)


class Fusion(nn.Module):
    """Modalities → one representation (Eqs. 14-17, and Fig. 2's alternatives).

    variational: the anchor whole, the others by the sigmoid of their symmetric divergence from it; add: the plain sum; gate:
    the anchor whole, the others by learnt sigmoid gates from all modalities; concat: a linear map of all side by side.
    """

    def __init__(self, *, kind: str, modalities: int, anchor: int, width: int, divergence: str) -> None:
        super().__init__()
        self.kind, self.anchor, self.divergence = kind, anchor, divergence
        wide = modalities * width
        self.mix = nn.Linear(wide, wide if kind == "gate" else width) if kind in ("gate", "concat") else None

    def forward(self, x: Tensor, latent: Gaussian) -> tuple[Tensor, Tensor]:
        """x [m, b, n, d], latent of [m, b, n, z] → fused [b, n, d], weight of each modality [m, b, n].

        The anchor's weight is 1, and so are all of add and of concat, which has none to show.
        """
        weight = x.new_ones(x.shape[:3])
        if self.mix is not None:
            mixed = self.mix(x.permute(1, 2, 0, 3).flatten(2))  # [b, n, m·d] or [b, n, d]
            if self.kind == "concat":
                return mixed, weight
            gate = torch.sigmoid(mixed).view(*mixed.shape[:2], len(x), -1).permute(2, 0, 1, 3)
            gate = self._keep_anchor(gate)
            return (gate * x).sum(0), gate.mean(-1)
        if self.kind == "variational":
            weight = self._keep_anchor(self._divergence_weight(latent))
        return (weight[..., None] * x).sum(0), weight

    def _divergence_weight(self, latent: Gaussian) -> Tensor:
        """Eqs. 14-16: sigmoid of half the symmetric KL between each modality and the anchor → [m, b, n]."""
        anchor = Gaussian(latent.mean[self.anchor], latent.log_variance[self.anchor])
        each = 0.5 * (kl(anchor, latent) + kl(latent, anchor))  # [m, b, n, z]
        return torch.sigmoid(each.mean(-1) if self.divergence == "mean" else each.sum(-1))

    def _keep_anchor(self, weight: Tensor) -> Tensor:
        """The weights with the anchor's set to 1, whatever was computed for it."""
        is_anchor = torch.arange(len(weight), device=weight.device) == self.anchor
        return torch.where(is_anchor.view(-1, *[1] * (weight.ndim - 1)), 1.0, weight)
