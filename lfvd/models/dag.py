"""DAG layers over the utterances of a dialogue (Eq. 3; DAG-ERC, Shen et al. 2021). Shape legend: lfvd.data.batch.

Exact facts that make this fast: the score W_α[H_j ; H_i] is linear, so its H_i half and bias cancel in the softmax and one
scalar key an utterance remains; the modalities are independent and equally wide; layer l at utterance i needs layer l-1 at
i and its own earlier utterances only. So all s = L·m streams, a layer of a modality each, advance together as a wavefront,
each layer LAG utterances behind the one below: n + (L-1) · LAG steps instead of n · L · m. The gradient is written by hand:
the wavefront runs backwards, and the gradients of all weights are products over all steps at once, after it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lfvd.models.graph import Graph

aten = torch.ops.aten

LAG = 2
"""Utterances by which each layer follows the one below: what depends on the level below is one product for so many."""


class _Step(NamedTuple):
    """One step of the wavefront: the streams in it, and where they read and write."""

    t: int
    here: slice  # streams in it: layers that have begun and not ended
    above: slice  # their own levels among the states, whose first m rows are the level below the first layer
    active: int  # dialogues in it
    window: slice  # columns of the states that hold the predecessors
    score: Tensor  # [layers in it, 1, b, 2, w]


def _wavefront(graph: Graph, layers: int, modalities: int) -> list[_Step]:
    """The steps from the first to the last. Layer l (from 0) is at utterance t - l · LAG."""
    n, m, steps = len(graph.width), modalities, []
    for t in range(n + (layers - 1) * LAG):
        at = {layer: t - layer * LAG for layer in range(layers) if 0 <= t - layer * LAG < n}
        if not at:  # dialogues shorter than LAG
            continue
        low, high = min(at), max(at)
        width = max(graph.width[i] for i in at.values())
        score = graph.score[:, n - 1 - at[low] : n - at[high] : LAG, :, graph.score.shape[-1] - width :]
        steps.append(
            _Step(
                t=t,
                here=slice(low * m, (high + 1) * m),
                above=slice((low + 1) * m, (high + 2) * m),
                active=graph.active[at[high]],
                window=slice(t + LAG - width, t + LAG),
                score=score.transpose(0, 1)[:, None],
            )
        )
    return steps


class _Recurrence(torch.autograd.Function):
    """All layers' loop over utterances: attention over predecessors, message M, both GRU cells, H.

    Level l of the states holds utterance i in column i + l · LAG, so that step t reads column t of every stream and writes
    column t + LAG. The cells c and p stand side by side on an axis of two: H = Σ_cells new + z · (hidden - new), new =
    tanh(input + r · inner), where inner is the n-gate of the hidden state: of M in GRU_c, of H^{l-1} in GRU_p.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        key: Tensor,
        relation: Tensor,
        below_weight: Tensor,
        below_bias: Tensor,
        message_weight: Tensor,
        message_bias: Tensor,
        graph: Graph,
        keep: bool,
    ) -> Tensor:
        """x [m, b, n, d], weights of DAGStack, [s, …] → all levels [L+1, m, b, n, d]. keep: what backward needs."""
        m, b, n, d = x.shape
        s = len(key)
        steps = n + (s // m - 1) * LAG
        kept = steps if keep else 1
        states = x.new_zeros(s + m, b, steps + LAG, d)
        states[:m, :, :n] = x
        keys = x.new_zeros(s, b, steps + LAG)
        mixed = x.new_zeros(s, b, kept, 2, d)  # attended states: same speaker's, others'
        messages = x.new_zeros(s, b, kept, d)
        cells = x.new_zeros(s, b, kept, 8, d)  # new c, inner p; reset c, p, update c, p; inner c, new p
        attention = []
        for step in _wavefront(graph, s // m, m):
            t, here, c = step.t, step.here, step.active
            at = t % kept
            near = keys[here, :, step.window]
            near = near.view(-1, m, b, 1, near.shape[-1])  # [layers, m, b, 1, w]
            weight = (near + step.score).flatten(-2).softmax(-1).view(-1, 2, near.shape[-1])  # [s·b, 2, w]
            if keep:
                attention.append(weight)
            attended = (weight @ states[step.above, :, step.window].flatten(0, 1)).view(-1, b, 2 * d)[:, :c]
            message = attended @ relation[here]
            if t % LAG == 0:
                block = torch.baddbmm(below_bias[here], states[here, :c, t : t + LAG].flatten(1, 2), below_weight[here])
                block, first = block.view(-1, c, LAG, 6, d), here.start
            of_below = block[here.start - first : here.stop - first, :c, t % LAG]
            of_message = torch.baddbmm(message_bias[here], message, message_weight[here]).view(-1, c, 6, d)
            state = states[step.above, :c, t + LAG]
            _run_cells(of_below, of_message, states[here, :c, t], message, cell=cells[here, :c, at], state=state)
            keys[here, :c, t + LAG] = (state @ key[here]).squeeze(-1)
            mixed[here, :c, at] = attended.reshape(-1, c, 2, d)
            messages[here, :c, at] = message
        ctx.save_for_backward(key, relation, below_weight, message_weight, states, mixed, messages, cells, *attention)
        ctx.graph = graph
        return _levels(states, m, n).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of all levels → those of x and of the six weights."""
        with torch.autocast(grad.device.type, enabled=False):  # as in the forward pass
            return _gradients(ctx, grad)


def _run_cells(
    of_below: Tensor, of_message: Tensor, below: Tensor, message: Tensor, *, cell: Tensor, state: Tensor
) -> None:
    """Both GRU cells of a step: what of_below and of_message [s, c, 6, d] make of the hidden states below and message
    [s, c, d]. Writes the gates into cell [s, c, 8, d] and H into state [s, c, d]."""
    gates, new = cell[:, :, 2:6], cell[:, :, ::7]
    torch.add(of_below[:, :, 2:], of_message[:, :, :4], out=gates).sigmoid_()
    cell[:, :, 1] = of_below[:, :, 1]
    cell[:, :, 6] = of_message[:, :, 4]
    torch.addcmul(of_below[:, :, 0], gates[:, :, 0], of_message[:, :, 4], out=new[:, :, 0])
    torch.addcmul(of_message[:, :, 5], gates[:, :, 1], of_below[:, :, 1], out=new[:, :, 1])
    new.tanh_()
    from_c, from_p = torch.lerp(new[:, :, 0], message, gates[:, :, 2]), torch.lerp(new[:, :, 1], below, gates[:, :, 3])
    torch.add(from_c, from_p, out=state)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The wavefront backwards, then the products of all weights."""
    key, relation, below_weight, message_weight, states, mixed, messages, cells, *attention = ctx.saved_tensors
    _, m, b, n, d = grad.shape
    s = len(key)
    steps = n + (s // m - 1) * LAG
    d_states = torch.zeros_like(states)  # becomes the whole gradient of each state before its step is reached
    _levels(d_states, m, n).copy_(grad)
    d_keys = grad.new_zeros(s, b, 2, steps + LAG)  # by way of its own speaker's utterances, of others'
    d_messages = grad.new_zeros(s, b, steps, d)
    d_mixed = grad.new_zeros(s, b, 2, d)
    cells = cells.clone()  # each step puts the gradients of its gates in their place
    key_row, relation_t, below_t, message_t = key.mT, relation.mT, below_weight.mT, message_weight.mT
    for step, weight in zip(reversed(_wavefront(ctx.graph, s // m, m)), reversed(attention), strict=True):
        t, here, c = step.t, step.here, step.active
        d_state = d_states[step.above, :c, t + LAG]
        d_state += d_keys[here, :c, :, t + LAG].sum(2, keepdim=True) * key_row[here]
        cell = cells[here, :c, t]
        direct = _cell_gradients(cell, d_state, torch.stack((messages[here, :c, t], states[here, :c, t]), dim=2))
        d_message = torch.baddbmm(direct[:, :, 0], cell[:, :, 2:].flatten(2), message_t[here])
        d_states[here, :c, t].add_(direct[:, :, 1])
        if t % LAG == 0:
            block = cells[here, :c, t : t + LAG, :6]  # [s, c, up to LAG, 6, d]
            d_below = block.flatten(3).flatten(1, 2) @ below_t[here]
            d_states[here, :c, t : t + block.shape[2]].add_(d_below.view(*block.shape[:3], d))
        d_messages[here, :c, t] = d_message
        d_mixed[here, :c] = (d_message @ relation_t[here]).view(-1, c, 2, d)
        towards = d_mixed[here].flatten(0, 1)  # [s·b, 2, d]
        near = (step.above, slice(None), step.window)
        d_weight = towards @ states[near].flatten(0, 1).mT
        d_states[near].flatten(0, 1).add_(weight.mT @ towards)
        d_score = aten._softmax_backward_data(d_weight.flatten(1), weight.flatten(1), -1, weight.dtype)
        d_keys[here, :, :, step.window].add_(d_score.view(-1, b, 2, weight.shape[-1]))
    rows = b * steps
    gates = cells.view(s, rows, 8, d)
    d_below, d_message = gates[:, :, :6].flatten(2), gates[:, :, 2:].flatten(2)
    return (
        d_states[:m, :, :n],
        states[m:].flatten(1, 2).mT @ d_keys.sum(2).view(s, -1, 1),
        mixed.view(s, rows, 2 * d).mT @ d_messages.view(s, rows, d),
        states[:s, :, :steps].reshape(s, rows, d).mT @ d_below,
        d_below.sum(1, keepdim=True),
        messages.view(s, rows, d).mT @ d_message,
        d_message.sum(1, keepdim=True),
        None,
        None,
    )


def _cell_gradients(cell: Tensor, d_state: Tensor, hidden: Tensor) -> Tensor:
    """The gradient of H [s, c, d] through both cells, whose hidden states are hidden [s, c, 2, d], overwritten.

    cell [s, c, 8, d] becomes the gradients of the gates: the first six are below's in the order of its columns, the last
    six the message's. Returns the gradient [s, c, 2, d] that reaches the hidden states past the gates.
    """
    both = d_state[:, :, None]
    new, reset, update = cell[:, :, ::7], cell[:, :, 2:4], cell[:, :, 4:6]
    direct = both * update
    d_new = aten.tanh_backward(both - direct, new)  # [s, c, 2, d] of tanh's argument
    gap = hidden.sub_(new).mul_(both)
    aten.sigmoid_backward.grad_input(gap, update, grad_input=update)
    d_reset = torch.stack((cell[:, :, 6], cell[:, :, 1]), dim=2).mul_(d_new)
    torch.mul(d_new[:, :, 0], reset[:, :, 0], out=cell[:, :, 6])
    torch.mul(d_new[:, :, 1], reset[:, :, 1], out=cell[:, :, 1])
    aten.sigmoid_backward.grad_input(d_reset, reset, grad_input=reset)
    new.copy_(d_new)
    return direct


def _levels(states: Tensor, m: int, n: int) -> Tensor:
    """The states of every level without their shifts, as a view: [(L+1)·m, b, columns, d] → [L+1, m, b, n, d]."""
    by_level, by_dialogue, by_column, one = states.stride()
    shape = (len(states) // m, m, states.shape[1], n, states.shape[3])
    return states.as_strided(shape, (m * by_level + LAG * by_column, by_level, by_dialogue, by_column, one))


class DAGStack(nn.Module):
    """L layers and a projection of all their outputs, H^0 included (DAG-ERC concatenates the layers).

    Every weight of the layers has a leading axis of s = L·m streams, modalities within layers. `below_*` act on H^{l-1},
    `message_*` on M. Their 6d columns are the gates of GRU_c (input H^{l-1}, hidden M) and GRU_p (input M, hidden
    H^{l-1}), named as in torch.nn.GRUCell: n_c, n_p, r_c, r_p, z_c, z_p of below, r_c, r_p, z_c, z_p, n_c, n_p of message.
    """

    def __init__(self, *, modalities: int, width: int, layers: int, speaker_window: int = 1) -> None:
        super().__init__()
        self.speaker_window = speaker_window
        m, d, s = modalities, width, layers * modalities
        self.key = nn.Parameter(torch.empty(s, d, 1))
        self.relation = nn.Parameter(torch.empty(s, 2 * d, d))  # W_same above W_other
        self.below_weight = nn.Parameter(torch.empty(s, d, 6 * d))
        self.below_bias = nn.Parameter(torch.empty(s, 1, 6 * d))
        self.message_weight = nn.Parameter(torch.empty(s, d, 6 * d))
        self.message_bias = nn.Parameter(torch.empty(s, 1, 6 * d))
        # Layer by layer and in torch's order of gates, so that a seed keeps the initial weights of earlier versions.
        for layer in range(layers):
            for parameter in self.parameters():
                nn.init.uniform_(parameter.data[layer * m : (layer + 1) * m], -1 / math.sqrt(d), 1 / math.sqrt(d))
        for parameter in (self.below_weight, self.below_bias):
            parameter.data = parameter.data.roll(2 * d, -1)
        fan_in = (layers + 1) * width
        self.out_weight = nn.Parameter(torch.empty(modalities, fan_in, width))
        self.out_bias = nn.Parameter(torch.empty(modalities, 1, width))
        for parameter in (self.out_weight, self.out_bias):
            nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, x: Tensor, speaker: Tensor, length: Tensor) -> Tensor:
        """x (H^0) [m, b, n, d], speaker [b, n], length [b] → [m, b, n, d].

        Predecessors are earlier utterances, and padding comes last, so padding changes no utterance. The output at padding
        means nothing: mask it. Dialogues may stand in any order; longest first is fastest. speaker and length are on the CPU.
        """
        m, b, n, d = x.shape
        graph = Graph.of(speaker, length, self.speaker_window, like=self.key)
        weights = (self.key, self.relation, self.below_weight, self.below_bias, self.message_weight, self.message_bias)
        # The loop keeps the weights' precision: its errors would add up.
        with torch.autocast(x.device.type, enabled=False):
            levels: Tensor = _Recurrence.apply(x.to(self.key.dtype), *weights, graph, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        joined = levels.permute(1, 2, 3, 0, 4).reshape(m, b * n, -1)
        out: Tensor = torch.baddbmm(self.out_bias, joined, self.out_weight)
        return out.view(m, b, n, d)
