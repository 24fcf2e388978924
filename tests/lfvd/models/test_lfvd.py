"""The whole model against the literal reference, in every ablation; padding, unlabelled utterances, dropout.

Everything runs in float64 on three ragged dialogues with features of different widths.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

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
CONFIG = Config().with_values(SMALL)
CASES = {
    # model.md, section 9: the paper's rows
    "T": {"data.modalities": "l"},
    "V": {"data.modalities": "v"},
    "A": {"data.modalities": "a"},
    "T+V": {"data.modalities": "l,v"},
    "T+A": {"data.modalities": "l,a"},
    "A+V": {"data.modalities": "a,v"},
    "w/o LFA-Transformer": {"model.attention": False},
    "w/o CEAR": {"model.atmosphere": False},
    "w/o DL": {"loss.gamma1": 0.0, "loss.gamma2": 0.0},
    "w/o CMVD": {"model.fusion": "add", "loss.gamma3": 0.0},
    "w/o CMVD-Fusion": {"model.fusion": "add"},
    "w/o CMVD-Distillation": {"loss.gamma3": 0.0},
    "w/ ours(A)": {"model.anchor": "a"},
    "w/ ours(V)": {"model.anchor": "v"},
    "w/o L_self": {"loss.gamma1": 0.0},
    "w/o L_full": {"loss.gamma2": 0.0},
    "w/o L_all": {"loss.gamma1": 0.0, "loss.gamma2": 0.0, "loss.gamma3": 0.0},
    # the other values that change the equations, one by one and mixed
    "default": {},
    "concat": {"model.fusion": "concat"},
    "concat, one modality": {"model.fusion": "concat", "data.modalities": "v"},
    "gate": {"model.fusion": "gate"},
    "gate, other anchor": {"model.fusion": "gate", "model.anchor": "v"},
    "gate, one modality": {"model.fusion": "gate", "data.modalities": "a"},
    "sum": {"model.divergence": "sum"},
    "sum, other anchor": {"model.divergence": "sum", "model.anchor": "a", "data.modalities": "l,a"},
    "detached teacher": {"model.detach_teacher": True},
    "detached teacher, other anchor": {"model.detach_teacher": True, "model.anchor": "v", "data.modalities": "a,v"},
    "wider speaker window": {"model.dag_speaker_window": 2},
    "three layers, z 5": {"model.dag_layers": 3, "model.heads": 4, "model.latent": 5, "model.width": 12},
    "one head": {"model.heads": 1},
    "a head a column": {"model.heads": 8},
    "lowest temperature": {"loss.temperature": 0.01},
    "no atmosphere, other anchor": {"model.atmosphere": False, "model.anchor": "a"},
    "no atmosphere, one modality": {"model.atmosphere": False, "data.modalities": "l"},
    "no attention, another order": {"data.modalities": "v,a", "model.attention": False, "model.fusion": "gate"},
}


def make_batch(modalities: tuple[str, ...] = ("l", "a", "v"), dialogues: tuple[int, ...] = (0, 1, 2)) -> Batch:
    """Random features that want gradients, speakers and labels; two utterances are unlabelled."""
    random, count = np.random.default_rng(0), int(OFFSET[-1])
    features = {m: random.standard_normal((count, width)) for m, width in WIDTHS.items()}
    label = random.permutation(np.arange(count) % CLASSES)
    label[[1, 6]] = -1
    chosen = {m: features[m] for m in modalities}
    batch = collate(chosen, random.integers(0, 3, count), label, offset=OFFSET, dialogues=dialogues)
    return replace(batch, features={m: x.clone().requires_grad_() for m, x in batch.features.items()})


def make_model(config: Config = CONFIG) -> LFVD:
    """In float64, with every weight away from its trivial start."""
    torch.manual_seed(0)
    model = build_model(config, WIDTHS, CLASSES).double()
    random = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    return model


def side_by_side(logits: torch.Tensor, weight: torch.Tensor, terms: dict[str, torch.Tensor]) -> torch.Tensor:
    """One vector of all that is compared, so that one pass gives the gradients of a random mixture of it."""
    return torch.cat([logits.flatten(), weight.flatten(), *(term.view(1) for _, term in sorted(terms.items()))])


@pytest.mark.parametrize(
    ("case", "dtype", "tolerance"),
    [*((case, torch.float64, 1e-10) for case in CASES), ("default", torch.float32, 1e-5)],
)
def test_equals_the_reference_in_value_and_gradients(case: str, dtype: torch.dtype, tolerance: float) -> None:
    config = CONFIG.with_values(CASES[case])
    model = make_model(config).to(dtype)
    batch = make_batch(model.modalities)
    batch = replace(batch, features={m: x.detach().to(dtype).requires_grad_() for m, x in batch.features.items()})
    output, expected = model(batch), reference.model(model, batch, config)
    found = build_loss(config)(output, batch.label)
    assert found.keys() == expected.terms.keys()
    wanted = [*batch.features.values(), *model.parameters()]
    actual = side_by_side(output.logits[batch.mask], output.weight[:, batch.mask], found)
    reference.assert_same(actual, side_by_side(*expected), wanted, tolerance)
    assert all(g.isfinite().all() for g in reference.gradients(found["total"], wanted))


def assert_same_losses(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("atmosphere", [True, False])
def test_padding_changes_nothing(atmosphere: bool) -> None:
    """Each dialogue alone, and all with garbage on padding that is two utterances longer."""
    model, batch = make_model(CONFIG.with_values({"model.atmosphere": atmosphere})), make_batch()
    output = model(batch)
    for b, n in enumerate(LENGTH):
        alone = model(make_batch(dialogues=(b,)))
        assert alone.logits.shape == (1, n, CLASSES)
        torch.testing.assert_close(alone.logits[0], output.logits[b, :n], rtol=0, atol=1e-12)
        torch.testing.assert_close(alone.weight[:, 0], output.weight[:, b, :n], rtol=0, atol=1e-12)
    mask = pad(batch.mask, (0, 2))
    garbage = replace(
        batch,
        features={m: torch.where(mask[..., None], pad(x, (0, 0, 0, 2)), 1e4) for m, x in batch.features.items()},
        speaker=torch.where(mask, pad(batch.speaker, (0, 2)), 17),
        label=pad(batch.label, (0, 2), value=-1),
        mask=mask,
    )
    after = model(garbage)
    torch.testing.assert_close(after.logits[mask], output.logits[batch.mask], rtol=0, atol=1e-12)
    losses = build_loss(CONFIG)(output, batch.label)
    assert_same_losses(losses, build_loss(CONFIG)(after, garbage.label))
    for gradient in reference.gradients(losses["total"], list(batch.features.values())):
        assert (gradient[~batch.mask] == 0).all()


def test_an_unlabelled_utterance_is_context_but_takes_no_part_in_the_losses() -> None:
    model, batch = make_model(), make_batch()
    output = model(batch)
    b, i = (batch.mask & (batch.label < 0)).nonzero()[0].tolist()
    # As context: with other features at (b, i), the other utterances of the dialogue change.
    others = [k for k in range(LENGTH[b]) if k != i]
    moved = {m: x + (torch.arange(x.shape[1]) == i)[:, None] for m, x in batch.features.items()}
    changed = model(replace(batch, features=moved)).logits
    assert not torch.isclose(changed[b, others], output.logits[b, others]).any()
    # In the losses: whatever the model says of (b, i) alone leaves all terms as they are.
    at = torch.zeros_like(batch.mask)
    at[b, i] = True
    noise = 5.0 * at[..., None]
    noisy = replace(
        output,
        logits=output.logits + noise,
        representation=output.representation + noise,
        latent=type(output.latent)(*(x + noise for x in output.latent)),
    )
    one, other = (build_loss(CONFIG)(out, batch.label) for out in (output, noisy))
    assert one == other


@pytest.mark.parametrize("labelled", [0, 1])
def test_one_labelled_utterance_has_no_contrastive_losses_and_none_no_loss(labelled: int) -> None:
    config = CONFIG.with_values({"loss.temperature": 0.01})
    model, batch = make_model(config), make_batch()
    label = torch.full_like(batch.label, -1)
    label[1, :labelled] = 3
    terms = build_loss(config)(model(batch), label)
    assert terms["cross_modal"] == terms["supervised"] == 0
    torch.testing.assert_close(terms["total"], terms["classification"] + 0.1 * terms["distillation"])
    gradients = reference.gradients(terms["total"], list(model.parameters()))
    assert all(g.isfinite().all() for g in gradients)
    if not labelled:
        assert all(term == 0 for term in terms.values())
        assert all((g == 0).all() for g in gradients)


def test_class_weights_reach_the_classification_loss() -> None:
    model, batch = make_model(), make_batch()
    output, weight = model(batch), torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    found = build_loss(CONFIG, weight)(output, batch.label)["classification"]
    labelled = batch.label >= 0
    expected = reference.cross_entropy(list(output.logits[labelled]), batch.label[labelled].tolist(), weight)
    reference.assert_same(found, expected, list(model.parameters()))


def test_every_dropout_acts_by_itself_and_in_training_only() -> None:
    model, batch = make_model(CONFIG.with_values({"model.dropout": 0.5})), make_batch()
    torch.testing.assert_close(model.eval()(batch).logits, make_model()(batch).logits, rtol=0, atol=0)
    model.train()
    dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert {dropout.p for dropout in dropouts} == {0.5}
    for dropout in dropouts:
        for each in dropouts:
            each.p = 0.5 * (each is dropout)
        assert not torch.equal(model(batch).logits, model(batch).logits)


def test_dropout_is_on_the_features_and_on_the_input_of_the_classifier() -> None:
    """With all dropped, other features change nothing, and only the bias is left of the logits."""
    model, batch = make_model(), make_batch()
    for encoder in model.encoders.values():
        encoder.dropout.p = 1.0
    other = replace(batch, features={m: x + 1 for m, x in batch.features.items()})
    torch.testing.assert_close(model(batch).logits, model(other).logits, rtol=0, atol=0)
    model.dropout.p = 1.0
    torch.testing.assert_close(model(batch).logits, model.classifier.bias.expand(3, 5, CLASSES))
