"""Who listens to whom in a dialogue (Eq. 3; DAG-ERC, Shen et al. 2021), as the DAG's loop reads it. Shape legend: lfvd.data.batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def reach(speaker: Tensor, window: int) -> Tensor:
    """How far back each utterance listens: to its speaker's ω-th previous utterance, or to the dialogue's first.

    speaker [b, n] → [b, n], the first j that i listens to; it listens to all of j ≤ … < i: fewer than `window` (ω)
    utterances of its speaker lie strictly between each and i. Time and memory are linear in n.
    """
    b, n = speaker.shape
    place = torch.arange(b * n)
    voice = (speaker.long() + (int(speaker.max()) + 1) * torch.arange(b)[:, None]).flatten()
    turns = voice.argsort(stable=True)  # a speaker's utterances side by side, in their order
    found = place // n * n  # the dialogue's first utterance
    if window < b * n:
        later, before = turns[window:], turns[:-window]
        found[later] = torch.where(voice[later] == voice[before], before, found[later])
    return found.view(b, n) - n * torch.arange(b)[:, None]


@dataclass(frozen=True)
class Graph:
    """The predecessors of every utterance of a batch, counted back from it: a window of w places that ends right before it.

    An utterance that listens to nobody, a dialogue's first one or padding, has its window's last place, so that its
    softmax has something to hold: before the first utterance there is a state of zeros.
    """

    score: Tensor
    """[b, n, 2, w] 0 on predecessors of the same speaker, of others; -inf elsewhere. Utterance i stands in row n-1-i, so that
    a step of the wave, whose layers are at descending utterances, is a slice."""
    width: list[int]
    """[n] places that any dialogue needs of i's window."""
    live: list[int]
    """[n] how many dialogues, from the batch's first on, hold all those that have an i-th utterance."""

    @classmethod
    def of(cls, speaker: Tensor, length: Tensor, window: int, *, like: Tensor) -> Graph:
        """speaker [b, n], length [b], both on the CPU; ω of `reach` → the graph; score has the type and device of `like`.

        Made on the CPU, where the loop needs to know its widths: a GPU that were asked for them would have to wait. Memory
        is linear in utterances times the widest window, which is as long as the dialogue where a speaker comes in late.
        """
        n = int(length.max())  # a batch may be padded beyond its longest dialogue
        speaker, i = speaker[:, :n], torch.arange(n)
        valid = i < length[:, None]  # [b, n]
        first = torch.where(valid, reach(speaker, window), i)  # [b, n]
        width = (i - first).amax(0).clamp(min=1)  # [n]
        w = int(width.max())
        j = i[:, None] + torch.arange(-w, 0)  # [n, w]
        near = (j >= first[:, :, None]) & (j >= 0)  # [b, n, w]
        mine = near & (speaker[:, j.clamp(min=0)] == speaker[:, :, None])
        score = torch.stack((mine, near & ~mine), dim=2)  # [b, n, 2, w]
        score[:, :, 1, -1] |= first == i  # nobody to listen to
        score = torch.zeros(score.shape, dtype=like.dtype).masked_fill_(~score, -math.inf).flip(1)
        live = (valid * torch.arange(1, len(speaker) + 1)[:, None]).amax(0)
        return cls(score.to(like.device, non_blocking=True), width.tolist(), live.tolist())
