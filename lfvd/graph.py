"""Who listens to whom in a dialogue (Eq. 3; DAG-ERC, Shen et al. 2021), as the DAG's loop reads it. Shape legend: lfvd.batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def predecessors(speaker: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Which earlier utterances each utterance listens to, and which of them are its own speaker's.

    j precedes i when fewer than `window` (ω) utterances of i's speaker lie strictly between them: back to and including
    the ω-th previous one, or to the first utterance. speaker [b, n] → two masks [b, n, n] (i, j); both hold j < i only.
    """
    n = speaker.shape[1]
    earlier = torch.ones(n, n, dtype=torch.bool, device=speaker.device).tril(-1)
    same = (speaker[:, :, None] == speaker[:, None, :]) & earlier  # [b, n, n]
    after_or_at = same.flip(-1).cumsum(-1).flip(-1)  # utterances of i's speaker in [j, i)
    between = after_or_at - same.long()
    reach = earlier & (between < window)
    return reach, reach & same


@dataclass(frozen=True)
class Graph:
    """The predecessors of every utterance of a batch, counted back from it: a window of w places that ends right before it.

    An utterance that listens to nobody, a dialogue's first one or padding, has its window's last place, so that its
    softmax has something to hold: before the first utterance there is a state of zeros.
    """

    score: (
        Tensor  # [b, n, 2, w] 0 on predecessors of the same speaker, of others; -inf elsewhere; i stands in row n-1-i
    )
    width: list[int]  # [n] places that any dialogue needs of i's window
    live: list[int]  # [n] how many dialogues, from the batch's first on, hold all those that have an i-th utterance

    @classmethod
    def of(cls, speaker: Tensor, length: Tensor, window: int, *, like: Tensor) -> Graph:
        """speaker [b, n], length [b], ω of `predecessors` → the graph; score has the type and device of `like`.

        Made on the CPU, where the loop needs to know its widths: a GPU that were asked for them would have to wait.
        """
        length = length.cpu()
        n = int(length.max())  # a batch may be padded beyond its longest dialogue
        speaker = speaker[:, :n].cpu()
        valid = torch.arange(n) < length[:, None]  # [b, n]
        reach, own = (x & valid[:, :, None] for x in predecessors(speaker, window))
        alone = ~reach.any(-1)  # [b, n]
        width = (torch.arange(n) - reach.long().argmax(-1)).masked_fill(alone, 1).amax(0)  # [n]
        w = int(width.max())
        j = torch.arange(n)[:, None] + torch.arange(-w, 0)  # [n, w]
        place = j.clamp(min=0).expand(len(speaker), n, w)
        near, mine = reach.gather(2, place) & (j >= 0), own.gather(2, place) & (j >= 0)
        score = torch.stack((mine, near & ~mine), dim=2)  # [b, n, 2, w]
        score[:, :, 1, -1] |= alone
        score = torch.zeros(score.shape, dtype=like.dtype).masked_fill_(~score, -math.inf).flip(1)
        live = (valid * torch.arange(1, len(speaker) + 1)[:, None]).amax(0)
        return cls(score.to(like.device, non_blocking=True), width.tolist(), live.tolist())
