"""DAG layers over the utterances of a dialogue (Eq. 3; DAG-ERC, Shen et al. 2021). Shape legend: lfvd.batch.

Three exact facts make this fast: the score W_α[H_j ; H_i] is linear, so its H_i half and bias cancel in the softmax and
one scalar key an utterance remains; all gates that depend on the layer below are one product outside the loop; the
modalities are independent and equally wide, so one batched loop serves them all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


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


class DAGLayer(nn.Module):
    """One layer for all modalities at once; every weight has a leading modality axis.

    Gates are ordered r, z, n as in torch.nn.GRUCell. `below_*` act on H^{l-1}, `message_*` on M; the first 3d columns
    belong to GRU_c (input H^{l-1}, hidden M), the last 3d to GRU_p (input M, hidden H^{l-1}).
    """

    def __init__(self, *, modalities: int, width: int) -> None:
        super().__init__()
        m, d = modalities, width
        self.key = nn.Parameter(torch.empty(m, d, 1))
        self.relation = nn.Parameter(torch.empty(m, 2 * d, d))  # W_same above W_other
        self.below_weight = nn.Parameter(torch.empty(m, d, 6 * d))
        self.below_bias = nn.Parameter(torch.empty(m, 1, 6 * d))
        self.message_weight = nn.Parameter(torch.empty(m, d, 6 * d))
        self.message_bias = nn.Parameter(torch.empty(m, 1, 6 * d))
        bound = 1 / math.sqrt(d)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, below: Tensor, reach: Tensor, own: Tensor) -> Tensor:
        """below (H^{l-1}) [m, b, n, d]; reach, own [b, n, n] of `predecessors` → H^l [m, b, n, d]."""
        m, b, n, d = below.shape
        gates = torch.baddbmm(self.below_bias, below.reshape(m, b * n, d), self.below_weight)
        gates_at = gates.view(m, b, n, 6 * d).unbind(2)
        below_at = below.unbind(2)
        # Additive mask of the softmax: 0 on predecessors, -inf elsewhere.
        window = torch.zeros_like(reach, dtype=below.dtype).masked_fill(~reach, -math.inf)
        start = _first_reached(reach)
        states: list[Tensor] = []
        keys: list[Tensor] = []
        for i in range(n):
            if i == 0:
                message = below.new_zeros(m, b, d)
            else:
                s = start[i]
                history = torch.stack(states[s:], dim=2)  # [m, b, i-s, d]
                weight = (torch.cat(keys[s:], dim=2) + window[:, i, s:i]).softmax(-1)  # [m, b, i-s]
                mine = weight * own[:, i, s:i]
                split = torch.stack((mine, weight - mine), dim=2)  # [m, b, 2, i-s]
                message = (split @ history).view(m, b, 2 * d) @ self.relation  # [m, b, d]
            hidden = self._cells(below_at[i], gates_at[i], message)
            states.append(hidden)
            keys.append(hidden @ self.key)
        return torch.stack(states, dim=2)

    def _cells(self, below: Tensor, gates: Tensor, message: Tensor) -> Tensor:
        """C + P of both GRU cells: below, message [m, b, d], gates [m, b, 6d] → [m, b, d]."""
        m, b, d = below.shape
        both = torch.baddbmm(self.message_bias, message, self.message_weight)
        # [m, b, 2 cells, 3 gates, d]
        low, high = gates.view(m, b, 2, 3, d), both.view(m, b, 2, 3, d)
        reset, update = torch.sigmoid(low[:, :, :, :2] + high[:, :, :, :2]).unbind(3)  # [m, b, 2, d] each
        new_c = torch.tanh(low[:, :, 0, 2] + reset[:, :, 0] * high[:, :, 0, 2])
        new_p = torch.tanh(high[:, :, 1, 2] + reset[:, :, 1] * low[:, :, 1, 2])
        return torch.lerp(new_c, message, update[:, :, 0]) + torch.lerp(new_p, below, update[:, :, 1])


def _first_reached(reach: Tensor) -> list[int]:
    """For each utterance the earliest predecessor that any dialogue of the batch needs: [b, n, n] → n indices."""
    any_dialogue = reach.any(0)  # [n, n]
    first: list[int] = any_dialogue.long().argmax(-1).tolist()
    return first


class DAGStack(nn.Module):
    """L layers and a projection of all their outputs, H^0 included (DAG-ERC concatenates the layers)."""

    def __init__(self, *, modalities: int, width: int, layers: int, speaker_window: int = 1) -> None:
        super().__init__()
        self.speaker_window = speaker_window
        self.layers = nn.ModuleList(DAGLayer(modalities=modalities, width=width) for _ in range(layers))
        fan_in = (layers + 1) * width
        self.out_weight = nn.Parameter(torch.empty(modalities, fan_in, width))
        self.out_bias = nn.Parameter(torch.empty(modalities, 1, width))
        for parameter in (self.out_weight, self.out_bias):
            nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        """x (H^0) [m, b, n, d], speaker [b, n] → [m, b, n, d].

        Predecessors are earlier utterances, and padding comes last, so padding reaches no utterance.
        """
        m, b, n, d = x.shape
        reach, own = predecessors(speaker, self.speaker_window)
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1], reach, own))
        joined = torch.cat(outputs, dim=-1).view(m, b * n, -1)
        return torch.baddbmm(self.out_bias, joined, self.out_weight).view(m, b, n, d)
