"""The DAG stack as it is usually written: padded batches, one modality at a time, one utterance after the other, autograd.

The slow side of `make bench`, with the weights of the package's own stack: `DAGStack` under another forward. It follows
the equations of reference.py, which knows one dialogue at a time and would be slower than anybody's code, and it costs as
much as public code of this field: attention transforms all earlier states anew at each utterance, each cell is a call.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import linear

from lfvd.models.dag import DAGStack
from tests.helpers import reference


def predecessors(speaker: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Speaker [b, n], ω → two masks [b, n, n] (i, j): which j precede i, and which of them are of i's speaker.

    j precedes i when fewer than ω utterances of i's speaker lie strictly between them.
    """
    n = speaker.shape[1]
    earlier = torch.ones(n, n, dtype=torch.bool, device=speaker.device).tril(-1)
    same = (speaker[:, :, None] == speaker[:, None, :]) & earlier  # [b, n, n]
    after_or_at = same.flip(-1).cumsum(-1).flip(-1)  # utterances of i's speaker in [j, i)
    between = after_or_at - same.long()
    reach = earlier & (between < window)
    return reach, reach & same


def layer(below: Tensor, reach: Tensor, own: Tensor, weights: reference.DagLayer) -> Tensor:
    """H^{l-1} [b, n, d], predecessors [b, n, n] → H^l [b, n, d]; Eq. 3 as model.md §2 writes it."""
    n = below.shape[1]
    hidden = torch.zeros_like(below[:, 0])  # M of the first utterance
    w_alpha = torch.cat((weights.key, weights.query))[None]  # [1, 2d]
    states = _cells(below[:, 0], hidden, weights)[:, None]
    for i in range(1, n):
        here = below[:, i, None].expand(-1, i, -1)  # [b, i, d]
        score = linear(torch.cat((states, here), dim=-1), w_alpha, weights.bias[None]).squeeze(-1)  # [b, i]
        alpha = score.masked_fill(~reach[:, i, :i], -math.inf).softmax(-1)
        mine = own[:, i, :i, None].to(below.dtype)
        related = linear(states, weights.same) * mine + linear(states, weights.different) * (1 - mine)
        message = torch.bmm(alpha[:, None], related).squeeze(1)  # [b, d]
        states = torch.cat((states, _cells(below[:, i], message, weights)[:, None]), dim=1)
    return states


def _cells(below: Tensor, message: Tensor, weights: reference.DagLayer) -> Tensor:
    return torch.gru_cell(below, message, *weights.cell_c) + torch.gru_cell(message, below, *weights.cell_p)


class LiteralStack(DAGStack):
    """A DAGStack whose forward pass is the literal one; same parameters, same values, same gradients."""

    def forward(self, x: Tensor, speaker: Tensor, length: Tensor) -> Tensor:
        """x (H^0) [m, b, n, d], speaker [b, n], length [b] → [m, b, n, d]."""
        reach, own = predecessors(speaker.to(x.device), self.speaker_window)
        outputs = []
        for m, below in enumerate(x):
            layers, output = reference.dag_parameters(self, m, len(x))
            levels = [below]
            for weights in layers:
                levels.append(layer(levels[-1], reach, own, weights))
            outputs.append(linear(torch.cat(levels, dim=-1), *output))
        return torch.stack(outputs)
