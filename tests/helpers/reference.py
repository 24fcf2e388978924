"""The equations of the model, literally: loops over dialogues and utterances, plain tensors, autograd for gradients.

Slow on purpose, and without a line of the package: the fast code is compared with it. Dropout is left out everywhere. Only
the DAG takes padded batches, because LiteralStack times it too.
Shape legend: n utterances of one dialogue (never padded), N labelled utterances of a batch, d model width, z latent
width, c classes. `omega` is ω. A modality is a key of a dict: "l", "a", "v".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear


class Affine(NamedTuple):
    """y = W x + b."""

    weight: Tensor  # [out, in]
    bias: Tensor  # [out]

    def __call__(self, x: Tensor) -> Tensor:
        return self.weight @ x + self.bias


class Cell(NamedTuple):
    """A GRU cell with the gates in the order reset, update, new, as in torch.nn.GRUCell."""

    w_input: Tensor  # [3d, in]
    w_hidden: Tensor  # [3d, d]
    b_input: Tensor  # [3d]
    b_hidden: Tensor  # [3d]

    def __call__(self, x: Tensor, hidden: Tensor) -> Tensor:
        from_x = (self.w_input @ x + self.b_input).chunk(3)
        from_h = (self.w_hidden @ hidden + self.b_hidden).chunk(3)
        reset = torch.sigmoid(from_x[0] + from_h[0])
        update = torch.sigmoid(from_x[1] + from_h[1])
        new = torch.tanh(from_x[2] + reset * from_h[2])
        return (1 - update) * new + update * hidden


# ---------------------------------------------------------------------------------------------- encoder (Eq. 2)


def encode(x: Tensor, forward: Cell, backward: Cell) -> Tensor:
    """One unpadded dialogue [n, width of its features] → [n, d], d/2 from each direction."""
    n, half = len(x), forward.w_hidden.shape[1]
    ahead, back = [], []
    hidden = x.new_zeros(half)
    for i in range(n):
        hidden = forward(x[i], hidden)
        ahead.append(hidden)
    hidden = x.new_zeros(half)
    for i in reversed(range(n)):
        hidden = backward(x[i], hidden)
        back.insert(0, hidden)
    return torch.stack([torch.cat([a, b]) for a, b in zip(ahead, back, strict=True)])


# ------------------------------------------------------------------------------------------- DAG layers (Eq. 3)


@dataclass
class DagLayer:
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


def dag(x: Tensor, masks: tuple[Tensor, Tensor], layers: Sequence[DagLayer], output: Affine) -> Tensor:
    """One modality [b, n, d], masks of `predecessors` → [b, n, d]: Linear(concat(H^0, ..., H^L))."""
    levels = [x]
    for layer in layers:
        levels.append(dag_layer(levels[-1], *masks, layer))
    return linear(torch.cat(levels, dim=-1), *output)


# -------------------------------------------------------------------------------------- augmentation (Eqs. 4-9)


class Norm(NamedTuple):
    """Layer normalisation."""

    weight: Tensor  # [d]
    bias: Tensor  # [d]
    eps: float = 1e-5

    def __call__(self, x: Tensor) -> Tensor:
        centred = x - x.mean()
        return centred / torch.sqrt((centred**2).mean() + self.eps) * self.weight + self.bias


class Projections(NamedTuple):
    """W_Q, W_K, W_V of one modality (Eq. 4)."""

    query: Affine
    key: Affine
    value: Affine


class Block(NamedTuple):
    """What an attention block owns: output projection, two norms, a feed-forward network of width 2d."""

    output: Affine
    norm1: Norm
    norm2: Norm
    ffn1: Affine
    ffn2: Affine


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attend(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """One query [d] over keys and values [n, d] → [d], the heads side by side."""
    width = len(query) // heads
    parts = []
    for h in range(heads):
        cut = slice(h * width, (h + 1) * width)
        score = torch.stack([query[cut] @ key[cut] / math.sqrt(width) for key in keys])
        weight = torch.exp(score) / torch.exp(score).sum()
        parts.append(sum(w * value[cut] for w, value in zip(weight, values, strict=True)))
    return torch.cat(parts)


def block(own: Block, query: Tensor, key: Tensor, value: Tensor, residual: Tensor, heads: int) -> Tensor:
    """Post-norm attention block; projected Q, K, V and the residual [n, d] → [n, d]."""
    rows = []
    for i in range(len(residual)):
        y = own.norm1(residual[i] + own.output(attend(query[i], key, value, heads)))
        rows.append(own.norm2(y + own.ffn2(gelu(own.ffn1(y)))))
    return torch.stack(rows)


def each(affine: Affine, x: Tensor) -> Tensor:
    """Apply to every row."""
    return torch.stack([affine(row) for row in x])


@dataclass
class AugmentationParameters:
    projections: dict[str, Projections]  # by modality
    blocks: dict[str, Block]  # by modality; the anchor's is that of Eq. 7
    self_projections: Projections | None = None  # of Eq. 9
    self_block: Block | None = None
    token: Tensor | None = None  # [d] t


def augment(
    x: Mapping[str, Tensor], parameters: AugmentationParameters, *, anchor: str, heads: int, atmosphere: bool
) -> dict[str, Tensor]:
    """One dialogue, modality → [n, d], to the same shape."""
    query = each(parameters.projections[anchor].query, x[anchor])
    mixed = x[anchor]
    for modality in x:  # Eqs. 6-8; the residual is the modality's own x
        key = each(parameters.projections[modality].key, x[modality])
        value = each(parameters.projections[modality].value, x[modality])
        mixed = mixed + block(parameters.blocks[modality], query, key, value, x[modality], heads)
    if not atmosphere:  # Table 5's "w/o CEAR"
        return {**x, anchor: mixed}
    whole = torch.cat([parameters.token[None], mixed])  # Eq. 9, [1 + n, d]
    own = parameters.self_projections
    after = block(
        parameters.self_block, each(own.query, whole), each(own.key, whole), each(own.value, whole), whole, heads
    )
    return {modality: torch.stack([row + after[0] for row in rows]) for modality, rows in x.items()}


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


def gaussian(x: Tensor, mean: Affine, log_variance: Affine) -> Gaussian:
    """x [d] → the Gaussian of an utterance (Eq. 12)."""
    return Gaussian(mean(x), log_variance(x).clamp(-10, 10))


def kl_terms(p: Gaussian, q: Gaussian) -> Tensor:
    """KL(p ‖ q) of each latent dimension [z]: ln(σq/σp) + (σp² + (μp − μq)²) / 2σq² − ½."""
    p_variance, q_variance = torch.exp(p.log_variance), torch.exp(q.log_variance)
    log_ratio = (q.log_variance - p.log_variance) / 2
    return log_ratio + (p_variance + (p.mean - q.mean) ** 2) / (2 * q_variance) - 0.5


def distillation(gaussians: Mapping[str, Sequence[Gaussian]], anchor: str, *, detach_teacher: bool = False) -> Tensor:
    """modality → Gaussians of the labelled utterances (Eq. 13)."""
    count = len(gaussians[anchor])
    total = gaussians[anchor][0].mean.new_zeros(()) if count else torch.zeros(())
    for i in range(count):
        teacher = gaussians[anchor][i]
        if detach_teacher:
            teacher = Gaussian(teacher.mean.detach(), teacher.log_variance.detach())
        for modality, all_of_it in gaussians.items():
            own = all_of_it[i]
            if modality != anchor:
                total = total + kl_terms(own, teacher).sum()
            total = total + kl_terms(own, Gaussian(torch.zeros_like(own.mean), torch.zeros_like(own.mean))).sum()
    return total / max(count, 1)


def fusion_weight(anchor: Gaussian, other: Gaussian, divergence: str) -> Tensor:
    """Sigmoid of the symmetric divergence, summed or averaged over z (Eq. 16)."""
    terms = (kl_terms(anchor, other) + kl_terms(other, anchor)) / 2
    return torch.sigmoid(terms.sum() if divergence == "sum" else terms.sum() / len(terms))


def fuse_variational(
    x: Mapping[str, Tensor], gaussians: Mapping[str, Gaussian], anchor: str, divergence: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """One utterance, modality → [d] (Eq. 17): fused [d] and the weight of every modality but the anchor."""
    fused, weights = x[anchor], {}
    for modality in x:
        if modality != anchor:
            weights[modality] = fusion_weight(gaussians[anchor], gaussians[modality], divergence)
            fused = fused + weights[modality] * x[modality]
    return fused, weights


def fuse_add(x: Mapping[str, Tensor]) -> Tensor:
    return sum(x.values(), start=torch.zeros_like(next(iter(x.values()))))


def fuse_concat(x: Mapping[str, Tensor], mix: Affine) -> Tensor:
    return mix(torch.cat(list(x.values())))


def fuse_gate(x: Mapping[str, Tensor], anchor: str, mix: Mapping[str, Affine]) -> tuple[Tensor, dict[str, Tensor]]:
    """A gate [d] from all modalities for each but the anchor; the weight shown is its mean."""
    together, fused, weights = torch.cat(list(x.values())), x[anchor], {}
    for modality in x:
        if modality != anchor:
            gate = torch.sigmoid(mix[modality](together))
            fused = fused + gate * x[modality]
            weights[modality] = gate.mean()
    return fused, weights


def fuse(
    kind: str,
    x: Mapping[str, Tensor],
    gaussians: Mapping[str, Gaussian],
    *,
    anchor: str,
    divergence: str,
    mix: Affine | Mapping[str, Affine] | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Any of the four fusions of one utterance: fused [d] and the weight of every modality but the anchor."""
    ones = {modality: torch.ones_like(rows[0]) for modality, rows in x.items() if modality != anchor}
    if kind == "variational":
        return fuse_variational(x, gaussians, anchor, divergence)
    if kind == "gate":
        return fuse_gate(x, anchor, mix)
    return (fuse_concat(x, mix) if kind == "concat" else fuse_add(x)), ones


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


@dataclass
class Dialogue:
    """One unpadded conversation; label -1 is an utterance without one."""

    features: dict[str, Tensor]  # modality → [n, width of its features]
    speaker: list[int]
    label: list[int]


@dataclass
class ModelParameters:
    encoders: dict[str, tuple[Cell, Cell]]
    dags: dict[str, tuple[list[DagLayer], Affine]]
    augmentation: AugmentationParameters | None
    gaussians: dict[str, tuple[Affine, Affine]]  # heads of the mean and of log σ²
    classifier: Affine
    mix: Affine | dict[str, Affine] | None = None  # of the fusions concat and gate


@dataclass
class Settings:
    """What is not a tensor."""

    anchor: str
    omega: int = 1
    heads: int = 1
    attention: bool = True
    atmosphere: bool = True
    fusion: str = "variational"
    divergence: str = "mean"
    detach_teacher: bool = False
    temperature: float = 0.1
    gammas: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Result(NamedTuple):
    logits: list[list[Tensor]]  # dialogue → utterance → [c]
    weights: list[dict[str, list[Tensor]]]  # dialogue → modality → utterance → []
    terms: dict[str, Tensor]  # the four losses, unweighted, and their weighted total


def represent(dialogue: Dialogue, parameters: ModelParameters, settings: Settings) -> dict[str, Tensor]:
    """Sections 1 to 3: modality → X^ξ [n, d]."""
    x = {}
    for modality, rows in dialogue.features.items():
        encoded = encode(rows, *parameters.encoders[modality])
        masks = predecessors(torch.tensor([dialogue.speaker]), settings.omega)
        x[modality] = dag(encoded[None], masks, *parameters.dags[modality])[0]
    if not settings.attention:
        return x
    return augment(
        x,
        parameters.augmentation,
        anchor=settings.anchor,
        heads=settings.heads,
        atmosphere=settings.atmosphere,
    )


def model(dialogues: Sequence[Dialogue], parameters: ModelParameters, settings: Settings) -> Result:
    """Sections 1 to 7."""
    all_logits, all_weights = [], []
    x_labelled = {m: [] for m in dialogues[0].features}
    gaussian_labelled = {m: [] for m in dialogues[0].features}
    label, logits_labelled = [], []
    for dialogue in dialogues:
        x = represent(dialogue, parameters, settings)
        rows, weights = [], {m: [] for m in x if m != settings.anchor}
        for i in range(len(dialogue.speaker)):
            here = {m: x[m][i] for m in x}
            gaussians = {m: gaussian(here[m], *parameters.gaussians[m]) for m in x}
            fused, weight = fuse(
                settings.fusion,
                here,
                gaussians,
                anchor=settings.anchor,
                divergence=settings.divergence,
                mix=parameters.mix,
            )
            for m, value in weight.items():
                weights[m].append(value)
            rows.append(parameters.classifier(fused))
            if dialogue.label[i] < 0:
                continue
            label.append(dialogue.label[i])
            logits_labelled.append(rows[-1])
            for m in x:
                x_labelled[m].append(here[m])
                gaussian_labelled[m].append(gaussians[m])
        all_logits.append(rows)
        all_weights.append(weights)
    terms = _losses(x_labelled, gaussian_labelled, logits_labelled, label, settings)
    return Result(all_logits, all_weights, terms)


def _losses(
    x: dict[str, list[Tensor]], gaussians: dict, logits: list[Tensor], label: list[int], settings: Settings
) -> dict[str, Tensor]:
    """Sections 4, 5 and 7 from what belongs to the labelled utterances."""
    stacked = [torch.stack(rows) for rows in x.values()]
    terms = {
        "classification": cross_entropy(logits, label),
        "cross_modal": cross_modal_contrastive(stacked, settings.temperature),
        "supervised": supervised_contrastive(stacked, label, settings.temperature),
        "distillation": distillation(gaussians, settings.anchor, detach_teacher=settings.detach_teacher),
    }
    gamma1, gamma2, gamma3 = settings.gammas
    terms["total"] = (
        terms["classification"]
        + gamma1 * terms["cross_modal"]
        + gamma2 * terms["supervised"]
        + gamma3 * terms["distillation"]
    )
    return terms


# ------------------------------------------------------- parameters of the package's modules, under the names above
# The modules batch their weights over modalities as [m, in, out]; here each modality has its own, [out, in]. All are
# views, so that gradients of the reference arrive at the modules' own parameters.


def affine(module: torch.nn.Linear) -> Affine:
    return Affine(module.weight, module.bias)


def split_linear(module: torch.nn.Linear, parts: int) -> list[Affine]:
    """One linear layer that makes several outputs → one for each."""
    return [Affine(*pair) for pair in zip(module.weight.chunk(parts), module.bias.chunk(parts), strict=True)]


def encoder_parameters(module: torch.nn.Module) -> tuple[Cell, Cell]:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return tuple(Cell(*(getattr(module.gru, name + end) for name in names)) for end in ("", "_reverse"))


def dag_layer_parameters(module: torch.nn.Module, stream: int, query: Tensor, bias: Tensor) -> DagLayer:
    """A layer of a modality; query [d] and bias [] of W_α are not in the module, because they cancel."""
    d = module.key.shape[1]
    # Six gates of d columns each: n, r, z of below, r, z, n of M; each of them of the cells c and p.
    n_below, r_below, z_below = _gates(module.below_weight[stream], module.below_bias[stream])
    r_message, z_message, n_message = _gates(module.message_weight[stream], module.message_bias[stream])
    below, message = (r_below, z_below, n_below), (r_message, z_message, n_message)
    (c_input, p_hidden), (c_hidden, p_input) = (
        [(torch.cat([g[0][cell] for g in gates]), torch.cat([g[1][cell] for g in gates])) for cell in (0, 1)]
        for gates in (below, message)
    )
    return DagLayer(
        key=module.key[stream, :, 0],
        query=query,
        bias=bias,
        same=module.relation[stream, :d].T,
        different=module.relation[stream, d:].T,
        cell_c=Cell(c_input[0], c_hidden[0], c_input[1], c_hidden[1]),
        cell_p=Cell(p_input[0], p_hidden[0], p_input[1], p_hidden[1]),
    )


def _gates(weight: Tensor, bias: Tensor) -> list[tuple[Tensor, Tensor]]:
    """[d, 6d], [1, 6d] → for each of the three gates weights [2, d, d] and biases [2, d] of the cells c and p."""
    d = len(weight)
    return [(w.view(2, d, d), v.view(2, d)) for w, v in zip(weight.T.chunk(3), bias[0].chunk(3), strict=True)]


def dag_parameters(module: torch.nn.Module, m: int, modalities: int, seed: int = 0) -> tuple[list[DagLayer], Affine]:
    """Stack of modality m; the parts of W_α that cancel are random."""
    random = torch.Generator().manual_seed(seed)
    layers = []
    for stream in range(m, len(module.key), modalities):
        query = torch.randn(module.key.shape[1], generator=random, dtype=module.key.dtype)
        bias = torch.randn((), generator=random, dtype=module.key.dtype)
        layers.append(dag_layer_parameters(module, stream, query, bias))
    return layers, Affine(module.out_weight[m].T, module.out_bias[m, 0])


def block_parameters(module: torch.nn.Module) -> Block:
    return Block(
        output=affine(module.project),
        norm1=Norm(module.norm_attention.weight, module.norm_attention.bias),
        norm2=Norm(module.norm_forward.weight, module.norm_forward.bias),
        ffn1=affine(module.expand),
        ffn2=affine(module.contract),
    )


def augmentation_parameters(module: torch.nn.Module, names: Sequence[str]) -> AugmentationParameters:
    query = affine(module.query)  # only the anchor's is ever used
    projections = {
        name: Projections(query, *split_linear(layer, 2)) for name, layer in zip(names, module.key_value, strict=True)
    }
    parameters = AugmentationParameters(
        projections, {name: block_parameters(own) for name, own in zip(names, module.blocks, strict=True)}
    )
    if module.atmosphere is not None:
        atmosphere = module.atmosphere
        parameters.self_projections = Projections(
            *split_linear(atmosphere.query, 1), *split_linear(atmosphere.key_value, 2)
        )
        parameters.self_block = block_parameters(module.atmosphere.block)
        parameters.token = module.atmosphere.token
    return parameters


def gaussian_parameters(module: torch.nn.Module, m: int) -> tuple[Affine, Affine]:
    """Heads of the mean and of log σ² of modality m."""
    weights, biases = module.weight[m].T.chunk(2), module.bias[m, 0].chunk(2)
    return Affine(weights[0], biases[0]), Affine(weights[1], biases[1])


def mix_parameters(module: torch.nn.Module, names: Sequence[str]) -> Affine | dict[str, Affine] | None:
    """Of a fusion: one map for concat, one for each modality for gate."""
    if module.kind == "gate":
        return dict(zip(names, split_linear(module.mix, len(names)), strict=True))
    return affine(module.mix) if module.kind == "concat" else None


def model_parameters(module: torch.nn.Module) -> ModelParameters:
    names = module.modalities
    return ModelParameters(
        encoders={name: encoder_parameters(module.encoders[name]) for name in names},
        dags={name: dag_parameters(module.dag, m, len(names)) for m, name in enumerate(names)},
        augmentation=augmentation_parameters(module.augmentation, names) if module.augmentation is not None else None,
        gaussians={name: gaussian_parameters(module.latent, m) for m, name in enumerate(names)},
        classifier=affine(module.classifier),
        mix=mix_parameters(module.fusion, names),
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
