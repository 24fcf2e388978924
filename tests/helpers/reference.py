"""The equations of the model, literally: loops over dialogues and utterances, plain tensors, autograd for gradients.

Slow on purpose, and without the package's arithmetic: the fast code is compared with it. Parameters are those of the
package's modules, read one modality at a time as views, so that gradients arrive at the modules' own. Dropout is left out
everywhere. Only the DAG takes padded batches, because LiteralStack times it too.
Shape legend: n utterances of one dialogue (never padded), N labelled utterances of a batch, m modalities in the order
l, a, v, d model width, z latent width, c classes. `omega` is ω, `anchor` an index of a modality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

# ---------------------------------------------------------------------------------------------- encoder (Eq. 2)


def encode(gru: nn.GRU, x: Tensor) -> Tensor:
    """One dialogue [n, width of its features] → [n, d], d/2 from each direction."""
    directions = []
    for end, order in (("", range(len(x))), ("_reverse", reversed(range(len(x))))):
        cell = [getattr(gru, name + end) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
        hidden, states = x.new_zeros(1, gru.hidden_size), {}
        for i in order:
            states[i] = hidden = torch.gru_cell(x[i, None], hidden, *cell)
        directions.append(torch.cat([states[i] for i in range(len(x))]))
    return torch.cat(directions, dim=1)


# ------------------------------------------------------------------------------------------- DAG layers (Eq. 3)


Cell = tuple[Tensor, Tensor, Tensor, Tensor]
"""Weights of input and hidden state [3d, d], their biases [3d]: the gates reset, update, new, as in torch.nn.GRUCell."""


class DagLayer(NamedTuple):
    """Parameters of one layer of one modality."""

    key: Tensor  # [d] half of W_α on H_j
    query: Tensor  # [d] half of W_α on H_i
    bias: Tensor  # [] of the score
    same: Tensor  # [d, d] W_r of the same speaker
    different: Tensor  # [d, d] W_r of another speaker
    cell_c: Cell  # input H_i, hidden M_i
    cell_p: Cell  # input M_i, hidden H_i


def predecessors(speaker: Tensor, omega: int) -> tuple[Tensor, Tensor]:
    """Speaker [b, n] → two masks [b, n, n] (i, j): which j precede i, and which of them are of i's speaker.

    j precedes i when fewer than ω utterances of i's speaker lie strictly between them.
    """
    n = speaker.shape[1]
    earlier = torch.ones(n, n, dtype=torch.bool, device=speaker.device).tril(-1)
    same = (speaker[:, :, None] == speaker[:, None, :]) & earlier  # [b, n, n]
    after_or_at = same.flip(-1).cumsum(-1).flip(-1)  # utterances of i's speaker in [j, i)
    between = after_or_at - same.long()
    precede = earlier & (between < omega)
    return precede, precede & same


def dag_layer(below: Tensor, precede: Tensor, own: Tensor, weights: DagLayer) -> Tensor:
    """H^{l-1} [b, n, d], masks of `predecessors` → H^l [b, n, d], from the first utterance to the last (model.md §2)."""

    def cells(below: Tensor, message: Tensor) -> Tensor:
        return torch.gru_cell(below, message, *weights.cell_c) + torch.gru_cell(message, below, *weights.cell_p)

    w_alpha = torch.cat((weights.key, weights.query))[None]  # [1, 2d]
    states = cells(below[:, 0], torch.zeros_like(below[:, 0]))[:, None]  # M of the first utterance is 0
    for i in range(1, below.shape[1]):
        here = below[:, i, None].expand(-1, i, -1)  # [b, i, d]
        score = linear(torch.cat((states, here), dim=-1), w_alpha, weights.bias[None]).squeeze(-1)  # [b, i]
        alpha = score.masked_fill(~precede[:, i, :i], -math.inf).softmax(-1)
        same = own[:, i, :i, None].to(below.dtype)
        related = linear(states, weights.same) * same + linear(states, weights.different) * (1 - same)
        message = torch.bmm(alpha[:, None], related).squeeze(1)  # [b, d]
        states = torch.cat((states, cells(below[:, i], message)[:, None]), dim=1)
    return states


def dag(stack: nn.Module, m: int, x: Tensor, masks: tuple[Tensor, Tensor], modalities: int) -> Tensor:
    """Modality m [b, n, d], masks of `predecessors` → [b, n, d]: Linear(concat(H^0, ..., H^L))."""
    levels = [x]
    for stream in range(m, len(stack.key), modalities):
        levels.append(dag_layer(levels[-1], *masks, dag_parameters(stack, stream)))
    return linear(torch.cat(levels, dim=-1), stack.out_weight[m].T, stack.out_bias[m, 0])


def dag_parameters(stack: nn.Module, stream: int) -> DagLayer:
    """A layer of a modality. query and bias of W_α are not in the module, because they cancel: here they are random."""
    d = stack.key.shape[1]
    random = torch.Generator().manual_seed(stream)

    def gates(weight: Tensor, bias: Tensor, order: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Three of the six gates of d columns each: [3d, d], [3d]."""
        w, b = weight[stream].T.split(d), bias[stream, 0].split(d)
        return torch.cat([w[i] for i in order]), torch.cat([b[i] for i in order])

    below, message = (stack.below_weight, stack.below_bias), (stack.message_weight, stack.message_bias)
    c_input, c_hidden = gates(*below, (2, 4, 0)), gates(*message, (0, 2, 4))
    p_input, p_hidden = gates(*message, (1, 3, 5)), gates(*below, (3, 5, 1))
    return DagLayer(
        key=stack.key[stream, :, 0],
        query=torch.randn(d, generator=random, dtype=stack.key.dtype),
        bias=torch.randn((), generator=random, dtype=stack.key.dtype),
        same=stack.relation[stream, :d].T,
        different=stack.relation[stream, d:].T,
        cell_c=(c_input[0], c_hidden[0], c_input[1], c_hidden[1]),
        cell_p=(p_input[0], p_hidden[0], p_input[1], p_hidden[1]),
    )


# -------------------------------------------------------------------------------------- augmentation (Eqs. 4-9)


def attend(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """One query [d] over keys and values [n, d] → [d], the heads side by side."""
    parts = []
    for q, k, v in zip(query.chunk(heads), keys.chunk(heads, -1), values.chunk(heads, -1), strict=True):
        weight = torch.softmax(k @ q / math.sqrt(len(q)), 0)  # [n]
        parts.append(weight @ v)
    return torch.cat(parts)


def block(own: nn.Module, query: Tensor, key: Tensor, value: Tensor, residual: Tensor, heads: int) -> Tensor:
    """Post-norm attention block (Eqs. 6, 7); projected Q, K, V and the residual [n, d] → [n, d]."""
    rows = []
    for q, x in zip(query, residual, strict=True):
        y = own.norm_attention(x + own.project(attend(q, key, value, heads)))
        rows.append(own.norm_forward(y + own.contract(gelu(own.expand(y)))))
    return torch.stack(rows)


def augment(own: nn.Module, x: Tensor, *, anchor: int, heads: int, atmosphere: bool) -> Tensor:
    """One dialogue [m, n, d] to the same shape."""
    query, merged = own.query(x[anchor]), x[anchor]
    for m, rows in enumerate(x):  # Eqs. 6-8; the residual is the modality's own x
        key, value = own.key_value[m](rows).chunk(2, dim=-1)
        merged = merged + block(own.blocks[m], query, key, value, rows, heads)
    if not atmosphere:  # Table 5's "w/o CEAR"
        return torch.stack([merged if m == anchor else rows for m, rows in enumerate(x)])
    whole = torch.cat([own.atmosphere.token[None], merged])  # Eq. 9, [1 + n, d]
    key, value = own.atmosphere.key_value(whole).chunk(2, dim=-1)
    after = block(own.atmosphere.block, own.atmosphere.query(whole), key, value, whole, heads)
    return torch.stack([torch.stack([row + after[0] for row in rows]) for rows in x])


# ------------------------------------------------------------------------------ contrastive losses (Eqs. 10-11)


def similarity(x: Tensor, y: Tensor) -> Tensor:
    return (x / torch.sqrt((x**2).sum())) @ (y / torch.sqrt((y**2).sum()))


def cross_modal_contrastive(x: Sequence[Tensor], temperature: float) -> Tensor:
    """x: for each modality [N, d]. Every ordered pair of modalities; the denominator leaves the positive out."""
    count = len(x[0])
    total = x[0].new_zeros(())
    for first in range(len(x)):
        for second in range(len(x)):
            if first == second:
                continue
            for i in range(count):
                negatives = [j for j in range(count) if j != i]
                if not negatives:
                    continue
                below = sum(torch.exp(similarity(x[first][i], x[second][j]) / temperature) for j in negatives)
                above = torch.exp(similarity(x[first][i], x[second][i]) / temperature)
                total = total + torch.log(above / below)
    return -total / max(count, 1)


def supervised_contrastive(x: Sequence[Tensor], label: Sequence[int], temperature: float) -> Tensor:
    """x: for each modality [N, d]. Positives share i's label and are not i; the denominator holds the others only."""
    count = len(label)
    total = x[0].new_zeros(())
    for rows in x:
        for i in range(count):
            positives = [p for p in range(count) if label[p] == label[i] and p != i]
            negatives = [k for k in range(count) if label[k] != label[i]]
            if not positives or not negatives:
                continue
            below = sum(torch.exp(similarity(rows[i], rows[k]) / temperature) for k in negatives)
            for p in positives:
                above = torch.exp(similarity(rows[i], rows[p]) / temperature)
                total = total + torch.log(above / below) / len(positives)
    return -total / max(count, 1)


# ------------------------------------------------------------------- variational distillation, fusion (Eqs. 12-17)


class Gaussian(NamedTuple):
    """Diagonal, of one utterance."""

    mean: Tensor  # [z]
    log_variance: Tensor  # [z]


def gaussian(heads: nn.Module, m: int, x: Tensor) -> Gaussian:
    """x [d] of modality m → the Gaussian of an utterance (Eq. 12)."""
    mean, log_variance = (x @ heads.weight[m] + heads.bias[m, 0]).chunk(2)
    return Gaussian(mean, log_variance.clamp(-10, 10))


def kl_terms(p: Gaussian, q: Gaussian) -> Tensor:
    """KL(p ‖ q) of each latent dimension [z]: ln(σq/σp) + (σp² + (μp − μq)²) / 2σq² − ½."""
    p_variance, q_variance = torch.exp(p.log_variance), torch.exp(q.log_variance)
    log_ratio = (q.log_variance - p.log_variance) / 2
    return log_ratio + (p_variance + (p.mean - q.mean) ** 2) / (2 * q_variance) - 0.5


def distillation(gaussians: Sequence[Sequence[Gaussian]], anchor: int, *, detach_teacher: bool = False) -> Tensor:
    """For each modality the Gaussians of the labelled utterances (Eq. 13)."""
    total = torch.zeros(())
    for of_utterance in zip(*gaussians, strict=True):
        teacher = of_utterance[anchor]
        if detach_teacher:
            teacher = Gaussian(teacher.mean.detach(), teacher.log_variance.detach())
        for m, own in enumerate(of_utterance):
            if m != anchor:
                total = total + kl_terms(own, teacher).sum()
            total = total + kl_terms(own, Gaussian(torch.zeros_like(own.mean), torch.zeros_like(own.mean))).sum()
    return total / max(len(gaussians[anchor]), 1)


def fuse(
    own: nn.Module, kind: str, x: Tensor, gaussians: Sequence[Gaussian], *, anchor: int, divergence: str
) -> tuple[Tensor, Tensor]:
    """One utterance [m, d] (Eqs. 14-17): fused [d], and the weight of each modality [m], 1 for the anchor.

    `gate` has a gate [d] from all modalities for each but the anchor; the weight is its mean.
    """
    weights = [torch.ones_like(x[0, 0]) for _ in x]
    if kind == "concat":
        return own.mix(torch.cat(list(x))), torch.stack(weights)
    fused = x[anchor]
    for m, rows in enumerate(x):
        if m == anchor:
            continue
        factor = weights[m]
        if kind == "gate":
            factor = torch.sigmoid(own.mix(torch.cat(list(x)))).chunk(len(x))[m]
        elif kind == "variational":
            terms = (kl_terms(gaussians[anchor], gaussians[m]) + kl_terms(gaussians[m], gaussians[anchor])) / 2
            factor = torch.sigmoid(terms.sum() if divergence == "sum" else terms.sum() / len(terms))
        fused = fused + factor * rows
        weights[m] = factor.mean()
    return fused, torch.stack(weights)


# ----------------------------------------------------------------------------- classifier, total loss (Eqs. 18-21)


def cross_entropy(logits: Sequence[Tensor], label: Sequence[int], weight: Tensor | None = None) -> Tensor:
    """Over labelled utterances; with class weights the mean is the weighted one."""
    total, share = logits[0].new_zeros(()), 0.0
    for row, y in zip(logits, label, strict=True):
        own = 1.0 if weight is None else weight[y]
        total = total - own * torch.log(torch.exp(row[y]) / torch.exp(row).sum())
        share = share + own
    return total / share


# ---------------------------------------------------------------------------------------------- the whole model


class Result(NamedTuple):
    logits: Tensor  # [utterances of all dialogues, c]
    weight: Tensor  # [m, utterances of all dialogues]
    terms: dict[str, Tensor]  # the four losses, unweighted, and their weighted total


def model(own: nn.Module, batch, config) -> Result:
    """Sections 1 to 7: the parameters of an LFVD, the dialogues of a Batch, the values of a Config."""
    anchor = own.modalities.index(config.anchor)
    logits, weights, labelled = [], [], []
    for b, n in enumerate(batch.length.tolist()):
        for i, x in enumerate(represent(own, batch, b, n, config).unbind(1)):  # [m, d]
            gaussians = [gaussian(own.latent, m, row) for m, row in enumerate(x)]
            fused, weight = fuse(
                own.fusion, config.model.fusion, x, gaussians, anchor=anchor, divergence=config.model.divergence
            )
            logits.append(own.classifier(fused))
            weights.append(weight)
            if batch.label[b, i] >= 0:
                labelled.append((int(batch.label[b, i]), logits[-1], x, gaussians))
    label, rows, x, gaussians = zip(*labelled, strict=True)
    x, gaussians, loss = torch.stack(x, dim=1), list(zip(*gaussians, strict=True)), config.loss
    terms = {
        "classification": cross_entropy(rows, label),
        "cross_modal": cross_modal_contrastive(x, loss.temperature),
        "supervised": supervised_contrastive(x, label, loss.temperature),
        "distillation": distillation(gaussians, anchor, detach_teacher=config.model.detach_teacher),
    }
    contrastive = loss.gamma1 * terms["cross_modal"] + loss.gamma2 * terms["supervised"]
    terms["total"] = terms["classification"] + contrastive + loss.gamma3 * terms["distillation"]
    return Result(torch.stack(logits), torch.stack(weights, dim=1), terms)


def represent(own: nn.Module, batch, b: int, n: int, config) -> Tensor:
    """Sections 1 to 3 for dialogue b of n utterances: X [m, n, d]."""
    x, masks = [], predecessors(batch.speaker[b : b + 1, :n], config.model.dag_speaker_window)
    for m, name in enumerate(own.modalities):
        encoded = encode(own.encoders[name].gru, batch.features[name][b, :n])
        x.append(dag(own.dag, m, encoded[None], masks, len(own.modalities))[0])
    if not config.model.attention:
        return torch.stack(x)
    return augment(
        own.augmentation,
        torch.stack(x),
        anchor=own.modalities.index(config.anchor),
        heads=config.model.heads,
        atmosphere=config.model.atmosphere,
    )


# ------------------------------------------------------------------------------------------------ for comparisons


def gradients(scalar: Tensor, wanted: Sequence[Tensor]) -> list[Tensor]:
    """Gradients, with zeros where there is no path."""
    if not scalar.requires_grad:
        return [torch.zeros_like(w) for w in wanted]
    found = torch.autograd.grad(scalar, wanted, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True)]


def assert_same(actual: Tensor, expected: Tensor, wanted: Sequence[Tensor], tolerance: float = 1e-10) -> None:
    """Equal values, and equal gradients with respect to `wanted` of the same random projection to a scalar."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    towards = torch.randn(actual.shape, generator=torch.Generator().manual_seed(7), dtype=actual.dtype)
    pairs = zip(gradients((actual * towards).sum(), wanted), gradients((expected * towards).sum(), wanted), strict=True)
    for number, (one, other) in enumerate(pairs):
        torch.testing.assert_close(
            one, other, rtol=tolerance, atol=tolerance, msg=lambda text, i=number: f"gradient {i}: {text}"
        )


def ragged(length: Sequence[int], speakers: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random speakers [b, n] (0 on padding) and the mask [b, n] of dialogues of these lengths."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(length)) < torch.tensor(length)[:, None]
    return torch.randint(speakers, mask.shape, generator=random) * mask, mask
