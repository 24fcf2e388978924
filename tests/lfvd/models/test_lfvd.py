"""The whole model against the literal reference, in every ablation; padding and unlabelled utterances.

Everything runs in float64 on three ragged dialogues with features of different widths.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from lfvd.config import Config
from lfvd.data.batch import Batch, collate
from lfvd.models.build import build_loss, build_model
from lfvd.models.lfvd import LFVD
from tests.helpers import reference

WIDTHS = {"l": 5, "a": 3, "v": 4}
CLASSES = 4
LENGTH = [3, 5, 1]
OFFSET = np.concatenate([[0], np.cumsum(LENGTH)])
SMALL = {
    "model.width": 8,
    "model.latent": 3,
    "model.heads": 2,
    "model.dropout": 0.0,
    "loss.gamma1": 0.3,
    "loss.gamma2": 0.2,
    "loss.gamma3": 0.1,
}
GAMMAS = (0.3, 0.2, 0.1)
CONFIG = Config().with_values(SMALL)
SETTINGS = reference.Settings(anchor="l", heads=2, gammas=GAMMAS)

# model.md, section 9: the paper's row → values of the configuration, and what they mean for the equations.
ABLATIONS = {
    "T": ({"data.modalities": ("l",)}, {}),
    "V": ({"data.modalities": ("v",)}, {"anchor": "v"}),
    "A": ({"data.modalities": ("a",)}, {"anchor": "a"}),
    "T+V": ({"data.modalities": ("l", "v")}, {}),
    "T+A": ({"data.modalities": ("l", "a")}, {}),
    "A+V": ({"data.modalities": ("a", "v")}, {"anchor": "a"}),
    "w/o LFA-Transformer": ({"model.attention": False}, {"attention": False}),
    "w/o CEAR": ({"model.atmosphere": False}, {"atmosphere": False}),
    "w/o DL": ({"loss.gamma1": 0.0, "loss.gamma2": 0.0}, {"gammas": (0.0, 0.0, 0.1)}),
    "w/o CMVD": ({"model.fusion": "add", "loss.gamma3": 0.0}, {"fusion": "add", "gammas": (0.3, 0.2, 0.0)}),
    "w/o CMVD-Fusion": ({"model.fusion": "add"}, {"fusion": "add"}),
    "w/o CMVD-Distillation": ({"loss.gamma3": 0.0}, {"gammas": (0.3, 0.2, 0.0)}),
    "w/ ours(A)": ({"model.anchor": "a"}, {"anchor": "a"}),
    "w/ ours(V)": ({"model.anchor": "v"}, {"anchor": "v"}),
    "w/o L_self": ({"loss.gamma1": 0.0}, {"gammas": (0.0, 0.2, 0.1)}),
    "w/o L_full": ({"loss.gamma2": 0.0}, {"gammas": (0.3, 0.0, 0.1)}),
    "w/o L_all": ({"loss.gamma1": 0.0, "loss.gamma2": 0.0, "loss.gamma3": 0.0}, {"gammas": (0.0, 0.0, 0.0)}),
}
# The other values that change the equations, one by one and mixed.
VARIANTS = {
    "default": ({}, {}),
    "concat": ({"model.fusion": "concat"}, {"fusion": "concat"}),
    "gate, other anchor": ({"model.fusion": "gate", "model.anchor": "v"}, {"fusion": "gate", "anchor": "v"}),
    "sum": ({"model.divergence": "sum"}, {"divergence": "sum"}),
    "detached teacher": ({"model.detach_teacher": True}, {"detach_teacher": True}),
    "wider speaker window": ({"model.dag_speaker_window": 2}, {"omega": 2}),
    "three layers, four heads, z 5": (
        {"model.dag_layers": 3, "model.heads": 4, "model.latent": 5, "model.width": 12},
        {"heads": 4},
    ),
    "lowest temperature": ({"loss.temperature": 0.01}, {"temperature": 0.01}),
    "no attention, gate, two modalities in another order": (
        {"data.modalities": ("v", "a"), "model.attention": False, "model.fusion": "gate"},
        {"anchor": "a", "attention": False, "fusion": "gate"},
    ),
}
CASES = {**VARIANTS, **ABLATIONS}


def flat_data(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Features, speakers and labels of all dialogues, end to end; two utterances are unlabelled."""
    random = np.random.default_rng(seed)
    count = int(OFFSET[-1])
    features = {m: random.standard_normal((count, width)) for m, width in WIDTHS.items()}
    label = random.permutation(np.arange(count) % CLASSES)
    label[[1, 6]] = -1
    return features, random.integers(0, 3, count), label


def make_batch(modalities: tuple[str, ...] = ("l", "a", "v"), dialogues: tuple[int, ...] = (0, 1, 2)) -> Batch:
    features, speaker, label = flat_data()
    chosen = {m: features[m] for m in modalities}
    return collate(chosen, speaker, label, offset=OFFSET, dialogues=dialogues)


def make_model(config: Config = CONFIG, seed: int = 0) -> LFVD:
    """In float64, with every weight away from its trivial start."""
    torch.manual_seed(seed)
    model = build_model(config, WIDTHS, CLASSES).double()
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    return model


def literal(model: LFVD, batch: Batch, settings: reference.Settings) -> reference.Result:
    """The reference with the parameters of `model`, on the dialogues of `batch`."""
    dialogues = [
        reference.Dialogue(
            {m: batch.features[m][b, :n] for m in model.modalities},
            batch.speaker[b, :n].tolist(),
            batch.label[b, :n].tolist(),
        )
        for b, n in enumerate(batch.length)
    ]
    return reference.model(dialogues, reference.model_parameters(model), settings)


def literal_logits(result: reference.Result) -> torch.Tensor:
    """[utterances of all dialogues, c]."""
    return torch.stack([row for rows in result.logits for row in rows])


def literal_weights(result: reference.Result, modalities: tuple[str, ...], anchor: str) -> torch.Tensor:
    """Fusion weights [m, utterances of all dialogues], 1 for the anchor."""
    count = sum(len(rows) for rows in result.logits)
    return torch.stack(
        [
            result.logits[0][0].new_ones(count)
            if m == anchor
            else torch.stack([w for weights in result.weights for w in weights[m]])
            for m in modalities
        ]
    )


def side_by_side(logits: torch.Tensor, weight: torch.Tensor, terms: dict[str, torch.Tensor]) -> torch.Tensor:
    """One vector of all that is compared, so that one pass gives the gradients of a random mixture of it."""
    return torch.cat([logits.flatten(), weight.flatten(), *(term.view(1) for _, term in sorted(terms.items()))])


def with_gradients(batch: Batch) -> Batch:
    return replace(batch, features={m: x.clone().requires_grad_() for m, x in batch.features.items()})


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_in_value_and_gradients(case: str) -> None:
    values, meaning = CASES[case]
    config, settings = CONFIG.with_values(values), replace(SETTINGS, **meaning)
    model = make_model(config)
    batch = with_gradients(make_batch(model.modalities))
    output, expected = model(batch), literal(model, batch, settings)
    found = build_loss(config)(output, batch.label)
    assert found.keys() == expected.terms.keys()
    for name, term in found.items():
        torch.testing.assert_close(
            term, expected.terms[name], rtol=1e-10, atol=1e-10, msg=lambda t, n=name: f"{n}: {t}"
        )
    wanted = [*batch.features.values(), *model.parameters()]
    reference.assert_same(
        side_by_side(output.logits[batch.mask], output.weight[:, batch.mask], found),
        side_by_side(
            literal_logits(expected), literal_weights(expected, model.modalities, settings.anchor), expected.terms
        ),
        wanted,
    )
    assert all(g.isfinite().all() for g in reference.gradients(found["total"], wanted))


def test_float32_equals_the_reference() -> None:
    model, batch = make_model().float(), make_batch()
    batch = replace(batch, features={m: x.float() for m, x in batch.features.items()})
    output, expected = model(batch), literal(model, batch, SETTINGS)
    reference.assert_same(
        side_by_side(output.logits[batch.mask], output.weight[:, batch.mask], build_loss(CONFIG)(output, batch.label)),
        side_by_side(literal_logits(expected), literal_weights(expected, model.modalities, "l"), expected.terms),
        list(model.parameters()),
        tolerance=1e-5,
    )


@pytest.mark.parametrize("case", ABLATIONS)
def test_an_ablation_differs_from_the_default(case: str) -> None:
    """In logits, loss or both, with all parameters that both have in common equal where their shapes are."""
    values, _ = ABLATIONS[case]
    config = CONFIG.with_values(values)
    base, ablated = make_model(), make_model(config)
    common = ablated.state_dict()
    common |= {k: v for k, v in base.state_dict().items() if k in common and v.shape == common[k].shape}
    ablated.load_state_dict(common)
    batch = make_batch()
    before, after = base(batch), ablated(batch)
    totals = [build_loss(CONFIG)(before, batch.label)["total"], build_loss(config)(after, batch.label)["total"]]
    assert not torch.isclose(*totals)
    only_losses = all(key.startswith("loss.") for key in values)
    assert torch.equal(before.logits, after.logits) == only_losses


@pytest.mark.parametrize("fusion", ["variational", "add", "concat", "gate"])
@pytest.mark.parametrize("atmosphere", [True, False])
def test_a_dialogue_alone_equals_itself_among_longer_ones(fusion: str, atmosphere: bool) -> None:
    config = CONFIG.with_values({"model.fusion": fusion, "model.atmosphere": atmosphere})
    model, batch = make_model(config), make_batch()
    together = model(batch)
    for b, n in enumerate(LENGTH):
        alone = model(make_batch(dialogues=(b,)))
        assert alone.logits.shape == (1, n, CLASSES)
        torch.testing.assert_close(alone.logits[0], together.logits[b, :n], rtol=0, atol=1e-12)
        torch.testing.assert_close(alone.weight[:, 0], together.weight[:, b, :n], rtol=0, atol=1e-12)


def test_losses_of_short_dialogues_do_not_depend_on_the_padding() -> None:
    """Dialogues 0 and 2 with the padding of their own batch and of the longest dialogue."""
    model, short, long = make_model(), make_batch(dialogues=(0, 2)), make_batch()
    rows = torch.tensor([0, 2])
    padded = Batch(
        features={m: x[rows] for m, x in long.features.items()},
        speaker=long.speaker[rows],
        label=long.label[rows],
        mask=long.mask[rows],
        length=long.length[rows],
    )
    assert padded.mask.shape == (2, 5)
    assert short.mask.shape == (2, 3)
    one, other = (build_loss(CONFIG)(model(batch), batch.label) for batch in (short, padded))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-12, atol=1e-12)


def test_garbage_on_padding_changes_nothing() -> None:
    model, batch = make_model(), with_gradients(make_batch())
    garbage = replace(
        batch,
        features={m: torch.where(batch.mask[..., None], x, 1e4) for m, x in batch.features.items()},
        speaker=torch.where(batch.mask, batch.speaker, 17),
    )
    before, after = model(batch), model(garbage)
    torch.testing.assert_close(after.logits[batch.mask], before.logits[batch.mask], rtol=0, atol=1e-12)
    one, other = (build_loss(CONFIG)(output, batch.label) for output in (before, after))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-12, atol=1e-12)
    for gradient in reference.gradients(one["total"], list(batch.features.values())):
        assert (gradient[~batch.mask] == 0).all()


def test_an_unlabelled_utterance_is_context_but_takes_no_part_in_the_losses() -> None:
    model, batch = make_model(), make_batch()
    output = model(batch)
    b, i = (batch.mask & (batch.label < 0)).nonzero()[0].tolist()
    # As context: with other features at (b, i), the other utterances of the dialogue change.
    features = {m: x.clone() for m, x in batch.features.items()}
    for x in features.values():
        x[b, i] += 1.0
    others = [k for k in range(LENGTH[b]) if k != i]
    changed = model(replace(batch, features=features)).logits
    assert not torch.isclose(changed[b, others], output.logits[b, others]).any()
    # In the losses: whatever the model says of (b, i) alone leaves all terms as they are.
    noisy = dataclasses.replace(
        output,
        logits=output.logits.index_put((torch.tensor(b), torch.tensor(i)), torch.tensor(99.0, dtype=torch.float64)),
        representation=_noise_at(output.representation, b, i),
        latent=type(output.latent)(*(_noise_at(x, b, i) for x in output.latent)),
    )
    one, other = (build_loss(CONFIG)(out, batch.label) for out in (output, noisy))
    assert one == other


def _noise_at(x: torch.Tensor, b: int, i: int) -> torch.Tensor:
    """x [m, b, n, ·] with other values at one utterance."""
    x = x.clone()
    x[:, b, i] += 5.0
    return x


def test_one_labelled_utterance_has_no_contrastive_losses() -> None:
    config = CONFIG.with_values({"loss.temperature": 0.01})
    model, batch = make_model(config), make_batch()
    label = torch.full_like(batch.label, -1)
    label[1, 2] = 3
    batch = replace(batch, label=label)
    terms = build_loss(config)(model(batch), batch.label)
    assert terms["cross_modal"] == 0
    assert terms["supervised"] == 0
    torch.testing.assert_close(terms["total"], terms["classification"] + 0.1 * terms["distillation"])
    assert all(g.isfinite().all() for g in reference.gradients(terms["total"], list(model.parameters())))


def test_no_labelled_utterance_has_no_loss() -> None:
    model, batch = make_model(), make_batch()
    batch = replace(batch, label=torch.full_like(batch.label, -1))
    terms = build_loss(CONFIG)(model(batch), batch.label)
    assert all(term == 0 for term in terms.values())
    assert all((g == 0).all() for g in reference.gradients(terms["total"], list(model.parameters())))


@pytest.mark.parametrize("present", [s for r in (1, 2, 3) for s in itertools.permutations("lav", r)], ids="".join)
@pytest.mark.parametrize("wanted", "lav")
def test_the_anchor_is_the_wanted_modality_or_the_first_present(wanted: str, present: tuple[str, ...]) -> None:
    config = CONFIG.with_values({"data.modalities": present, "model.anchor": wanted})
    model = build_model(config, WIDTHS, CLASSES)
    expected = wanted if wanted in present else next(m for m in "lav" if m in present)
    assert model.modalities == tuple(m for m in "lav" if m in present)
    assert model.modalities[model.anchor] == expected


def test_class_weights_reach_the_classification_loss() -> None:
    model, batch = make_model(), make_batch()
    output, weight = model(batch), torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    found = build_loss(CONFIG, weight)(output, batch.label)["classification"]
    labelled = batch.label >= 0
    expected = reference.cross_entropy(list(output.logits[labelled]), batch.label[labelled].tolist(), weight)
    torch.testing.assert_close(found, expected)


def test_dropout_is_active_in_training_only() -> None:
    config = CONFIG.with_values({"model.dropout": 0.4})
    model, batch = make_model(config), make_batch()
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.4}
    assert not torch.equal(model(batch).logits, model(batch).logits)
    silent = make_model()
    torch.testing.assert_close(model.eval()(batch).logits, silent(batch).logits, rtol=0, atol=0)


def test_every_dropout_changes_the_logits_by_itself() -> None:
    model, batch = make_model(), make_batch()
    for dropout in [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]:
        dropout.p = 0.5
        assert not torch.equal(model(batch).logits, model(batch).logits)
        dropout.p = 0.0


def test_the_classifier_has_dropout_on_its_input() -> None:
    """Everything else silenced: only the bias is left of the logits."""
    model, batch = make_model(), make_batch()
    model.dropout.p = 1.0
    torch.testing.assert_close(model(batch).logits, model.classifier.bias.expand(3, 5, CLASSES))


def test_same_seed_same_model_other_seed_other_model() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_model(CONFIG, WIDTHS, CLASSES).state_dict())
    same, again, other = states
    assert all(torch.equal(same[k], again[k]) for k in same)
    constant = ("norm", "latent.bias", ".mean", ".scale", ".limit")
    random = [k for k in same if not any(part in k for part in constant)]
    assert not any(torch.equal(same[k], other[k]) for k in random)
