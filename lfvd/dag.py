"""DAG layers over the utterances of a dialogue (Eq. 3; DAG-ERC, Shen et al. 2021). Shape legend: lfvd.batch.

Exact facts that make this fast: the score W_α[H_j ; H_i] is linear, so its H_i half and bias cancel in the softmax and one
scalar key an utterance remains; all gates that depend on the layer below are one product outside the loop over utterances;
the modalities are independent and equally wide, so one batched loop serves them all. The loop's gradient is written by
hand: its pointwise factors and its weight gradients are then taken for all utterances at once, outside the loop.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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


def _first_reached(reach: Tensor) -> list[int]:
    """For each utterance the earliest predecessor that any dialogue of the batch needs: [b, n, n] → n indices."""
    any_dialogue = reach.any(0)  # [n, n]
    first: list[int] = any_dialogue.long().argmax(-1).tolist()
    return first


class DAGLayer(nn.Module):
    """One layer for all modalities at once; every weight has a leading modality axis.

    `below_*` act on H^{l-1}, `message_*` on M. Their 6d columns are the gates of GRU_c (input H^{l-1}, hidden M) and GRU_p
    (input M, hidden H^{l-1}), named as in torch.nn.GRUCell: r_c, r_p, z_c, z_p, n_c, n_p.
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
        gates = torch.baddbmm(self.below_bias, below.reshape(m, b * n, d), self.below_weight).view(m, b, n, 6 * d)
        weights = (self.key, self.relation, self.message_weight, self.message_bias)
        states: Tensor = _Recurrence.apply(below, gates, *weights, reach, own)  # type: ignore[no-untyped-call]
        return states


class _Recurrence(torch.autograd.Function):
    """The loop over utterances i: attention over predecessors, message M_i, both GRU cells, H_i.

    Two cells side by side are one axis of length 2 (c, p): H = Σ_cells n + z · (other - n), where other is the cell's
    hidden state (M for c, H^{l-1} for p), and n = tanh(input + r · inner), inner being its gate of that hidden state.
    """

    @staticmethod
    def forward(
        ctx: Any,
        below: Tensor,
        gates: Tensor,
        key: Tensor,
        relation: Tensor,
        message_weight: Tensor,
        message_bias: Tensor,
        reach: Tensor,
        own: Tensor,
    ) -> Tensor:
        """below [m, b, n, d], gates [m, b, n, 6d] of it, weights of DAGLayer, reach and own [b, n, n] → H [m, b, n, d]."""
        m, b, n, d = below.shape
        window = torch.zeros_like(reach, dtype=below.dtype).masked_fill_(~reach, -math.inf)
        mine = own.to(below.dtype)
        start = _first_reached(reach)
        states = below.new_empty(m, b, n, d)
        keys = below.new_empty(m, b, n)
        mixed = below.new_zeros(m, b, n, 2 * d)  # attended states: same speaker's, then others'
        other = torch.stack((torch.zeros_like(below), below), dim=3)  # [m, b, n, 2, d]
        inner = gates[..., 4 * d :].view(m, b, n, 2, d).clone()  # p's is known, c's comes with M
        new = inner.clone()  # c's input is known, p's comes with M
        gate = below.new_empty(m, b, n, 4 * d)
        attention: list[Tensor] = []  # for i ≥ 1: [m, b, 2, predecessors], same speaker and others
        for i in range(n):
            if i:
                s = start[i]
                weight = (keys[:, :, s:i] + window[:, i, s:i]).softmax(-1)
                split = weight.new_empty(m, b, 2, i - s)
                torch.mul(weight, mine[:, i, s:i], out=split[:, :, 0])
                torch.sub(weight, split[:, :, 0], out=split[:, :, 1])
                mixed[:, :, i] = (split @ states[:, :, s:i]).flatten(2)
                other[:, :, i, 0] = mixed[:, :, i] @ relation
                attention.append(split)
            both = torch.baddbmm(message_bias, other[:, :, i, 0], message_weight)  # [m, b, 6d]
            torch.sigmoid(gates[:, :, i, : 4 * d] + both[..., : 4 * d], out=gate[:, :, i])
            inner[:, :, i, 0] = both[..., 4 * d : 5 * d]
            new[:, :, i, 1] = both[..., 5 * d :]
            reset, update = gate[:, :, i].view(m, b, 2, 2, d).unbind(2)
            state = new[:, :, i].addcmul_(reset, inner[:, :, i]).tanh_().lerp(other[:, :, i], update).sum(2)
            states[:, :, i] = state
            keys[:, :, i] = (state @ key).squeeze(-1)
        ctx.save_for_backward(key, relation, message_weight, own, states, mixed, other, inner, new, gate, *attention)
        ctx.start = start
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of H [m, b, n, d] → those of below, gates and the four weights."""
        key, relation, message_weight, own, states, mixed, other, inner, new, gate, *attention = ctx.saved_tensors
        m, b, n, d = grad.shape
        reset, update = gate.view(m, b, n, 2, 2, d).unbind(3)  # [m, b, n, 2, d]
        # Derivatives for all utterances at once: of H by the argument of tanh and of z, and from tanh's to r's and M's gate.
        by_new = (1 - update) * (1 - new.square())
        by_update = (other - new) * update * (1 - update)
        by_reset = inner * reset * (1 - reset)
        by_both = torch.stack((reset[..., 0, :], torch.ones_like(grad)), dim=3)
        d_states = grad.clone()  # becomes the whole gradient of each H_i before the loop reaches it
        d_keys = grad.new_zeros(m, b, n)
        d_new = torch.empty_like(new)
        d_both = grad.new_empty(m, b, n, 6, d)
        d_message = torch.empty_like(grad)
        key_row, relation_t, weight_t = key.mT, relation.mT, message_weight.mT
        for i in reversed(range(n)):
            d_state = d_states[:, :, i].addcmul_(d_keys[:, :, i, None], key_row)
            each = d_state[:, :, None]  # [m, b, 1, d]
            torch.mul(each, by_new[:, :, i], out=d_new[:, :, i])
            torch.mul(d_new[:, :, i], by_reset[:, :, i], out=d_both[:, :, i, :2])
            torch.mul(each, by_update[:, :, i], out=d_both[:, :, i, 2:4])
            torch.mul(d_new[:, :, i], by_both[:, :, i], out=d_both[:, :, i, 4:])
            message = torch.baddbmm(d_state * update[:, :, i, 0], d_both[:, :, i].flatten(2), weight_t)
            d_message[:, :, i] = message
            if i:
                s, split = ctx.start[i], attention[i - 1]
                d_mixed = (message @ relation_t).view(m, b, 2, d)
                d_states[:, :, s:i] += split.mT @ d_mixed
                d_split = d_mixed @ states[:, :, s:i].mT  # [m, b, 2, predecessors]
                weight = split.sum(2)
                product = weight * torch.where(own[:, i, s:i], d_split[:, :, 0], d_split[:, :, 1])
                d_keys[:, :, s:i] += product.addcmul_(weight, product.sum(-1, keepdim=True), value=-1)
        d_gates = d_both.clone()
        d_gates[:, :, :, 4] = d_new[:, :, :, 0]
        torch.mul(d_new[:, :, :, 1], reset[..., 1, :], out=d_gates[:, :, :, 5])
        rows = b * n
        d_rows = d_both.view(m, rows, 6 * d)
        return (
            d_states * update[..., 1, :],
            d_gates.flatten(3),
            states.view(m, rows, d).mT @ d_keys.view(m, rows, 1),
            mixed.view(m, rows, 2 * d).mT @ d_message.view(m, rows, d),
            other[..., 0, :].reshape(m, rows, d).mT @ d_rows,
            d_rows.sum(1, keepdim=True),
            None,
            None,
        )


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
