"""Predecessors of each utterance in the dialogue graph (Eq. 3; DAG-ERC, Shen et al. 2021). Shape legend: lfvd.data.batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def first_predecessor(speaker: Tensor, window: int) -> Tensor:
    """The first predecessor j of each utterance i: its speaker's ω-th previous utterance, or the dialogue's first.

    speaker [b, n], window ω → [b, n]. All of j … i-1 are predecessors: fewer than ω utterances of i's speaker lie strictly
    between each and i. Time and memory are linear in n.
    """
    b, n = speaker.shape
    speaker = (speaker.long() + (int(speaker.max()) + 1) * torch.arange(b)[:, None]).flatten()  # unique in the batch
    by_speaker = speaker.argsort(stable=True)  # a speaker's utterances side by side, in their order
    first = torch.arange(b * n) // n * n  # the dialogue's first utterance
    if window < b * n:
        later, before = by_speaker[window:], by_speaker[:-window]
        first[later] = torch.where(speaker[later] == speaker[before], before, first[later])
    return first.view(b, n) - n * torch.arange(b)[:, None]


@dataclass(frozen=True)
class Graph:
    """The predecessors of every utterance of a batch, in a window of w places that ends right before the utterance.

    An utterance without predecessors (a dialogue's first one, or padding) gets its window's last place: a softmax needs one
    entry, and before the first utterance there is a state of zeros.
    """

    score: Tensor
    """[b, n, 2, w] 0 on predecessors of the same speaker, of others; -inf elsewhere. Utterance i is row n-1-i, so that a step
    of the wavefront, whose layers are at descending utterances, is a slice."""
    width: list[int]
    """[n] places of i's window that any dialogue needs."""
    active: list[int]
    """[n] the first so many dialogues of the batch hold all those that have an i-th utterance."""

    @classmethod
    def of(cls, speaker: Tensor, length: Tensor, window: int, *, like: Tensor) -> Graph:
        """speaker [b, n], length [b], both on the CPU; window ω → the graph; score has the type and device of `like`.

        Built on the CPU, because the loop needs the widths there and a GPU would have to wait. Memory is linear in
        utterances times the widest window, which is as long as the dialogue where a speaker comes in late.
        """
        n = int(length.max())  # a batch may be padded beyond its longest dialogue
        speaker, i = speaker[:, :n], torch.arange(n)
        valid = i < length[:, None]  # [b, n]
        first = torch.where(valid, first_predecessor(speaker, window), i)  # [b, n]
        width = (i - first).amax(0).clamp(min=1)  # [n]
        w = int(width.max())
        j = i[:, None] + torch.arange(-w, 0)  # [n, w]
        near = (j >= first[:, :, None]) & (j >= 0)  # [b, n, w]
        same_speaker = near & (speaker[:, j.clamp(min=0)] == speaker[:, :, None])
        score = torch.stack((same_speaker, near & ~same_speaker), dim=2)  # [b, n, 2, w]
        score[:, :, 1, -1] |= first == i  # no predecessor
        score = torch.zeros(score.shape, dtype=like.dtype).masked_fill_(~score, -math.inf).flip(1)
        active = (valid * torch.arange(1, len(speaker) + 1)[:, None]).amax(0)
        return cls(score.to(like.device, non_blocking=True), width.tolist(), active.tolist())
