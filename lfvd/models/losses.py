"""The loss and its four terms (Eqs. 10, 11, 13, 18-21), over labelled utterances only. Shape legend: lfvd.data.batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lfvd.models.variational import Gaussian, kl, kl_standard


def cross_modal_contrastive(x: Tensor, temperature: float) -> Tensor:
    """Same utterance, other modality (Eq. 10): x [m, N, d] of N labelled utterances → scalar.

    As printed, the denominator leaves the positive out. One utterance or one modality leaves nothing to contrast: 0.
    """
    m, utterances, _ = x.shape
    if utterances < 2 or m < 2:
        return x.new_zeros(())
    x = normalize(x, dim=-1)
    first, second = torch.triu_indices(m, m, offset=1, device=x.device)  # [pairs]
    x, y = x[first], x[second]
    itself = x.new_zeros(utterances, utterances).fill_diagonal_(-math.inf)
    # The product starts from its mask, and the pair (second, first) has the transposed similarities: one [N, N] a pair.
    others = torch.baddbmm(itself, x, y.mT, alpha=1 / temperature)
    positive = (x * y).sum() / temperature
    return (others.logsumexp(1).sum() + others.logsumexp(2).sum() - 2 * positive) / utterances


def supervised_contrastive(x: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Same class, same modality (Eq. 11): x [m, N, d], label [N] → scalar.

    P(i) leaves i itself out; the denominator holds other classes only; an i without positives or negatives adds 0.
    """
    _, utterances, _ = x.shape
    if utterances < 2:
        return x.new_zeros(())
    x = normalize(x, dim=-1)
    same = label[:, None] == label[None, :]
    count = same.sum(1) - 1
    usable = (count > 0) & ~same.all(1)  # [N]
    # Unusable rows are dropped below; left unmasked, their logsumexp keeps a finite gradient.
    mask = torch.zeros_like(same, dtype=x.dtype).masked_fill_(same & usable[:, None], -math.inf)
    negatives = torch.baddbmm(mask, x, x.mT, alpha=1 / temperature).logsumexp(-1)  # [m, N]
    # The similarities to i's positives add up to that with their sum. A product sums them in the same order each time; a
    # GPU's index_add does not.
    member = torch.nn.functional.one_hot(label).to(x.dtype)  # [N, c]
    of_class = member @ (member.T @ x)  # [m, N, d]
    positives = (x * (of_class - x)).sum(-1) / temperature / count.clamp(min=1)  # [m, N]
    return torch.where(usable, negatives - positives, 0.0).sum() / utterances


def distillation(latent: Gaussian, anchor: int, detach_teacher: bool = False) -> Tensor:
    """Σ_{ξ≠anchor} KL(q^ξ ‖ q^anchor) + Σ_ξ KL(q^ξ ‖ N(0, I)), mean over utterances (Eq. 13).

    latent: Gaussian of [m, N, z]; no utterance: 0. The teacher's own KL to itself is 0 in value and gradient.
    """
    teacher = Gaussian(latent.mean[anchor], latent.log_variance[anchor])
    if detach_teacher:
        teacher = Gaussian(teacher.mean.detach(), teacher.log_variance.detach())
    students = [i for i in range(len(latent.mean)) if i != anchor]
    student = Gaussian(latent.mean[students], latent.log_variance[students])
    each = kl_standard(latent).sum((0, -1)) + kl(student, teacher).sum((0, -1))  # [N]
    return each.sum() / max(1, each.numel())


def classification(logits: Tensor, label: Tensor, class_weight: Tensor | None) -> Tensor:
    """Cross-entropy (Eqs. 18-20): logits [N, c], label [N] → scalar; no utterance: 0."""
    if not len(label):
        return logits.sum() * 0.0
    return torch.nn.functional.cross_entropy(logits, label, weight=class_weight)
