"""The contrastive losses against explicit sums, edge cases of all losses, and low temperatures."""

import pytest
import torch

from lfvd.models import losses
from lfvd.models.variational import Gaussian
from tests.helpers import reference
from tests.helpers.reference import assert_same, gradients

LABELS = {
    "mixed": [0, 1, 0, 2, 1, 0, 2, 1],
    "a class without positives": [0, 1, 0, 2, 0, 1],
    "nobody has a positive": [3, 1, 0, 2],
    "nobody has a negative": [1, 1, 1, 1],
    "a positive, but only for some": [4, 4, 2],
    "two of a class": [1, 1],
    "two classes": [1, 0],
}


def vectors(m: int, count: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(m, count, 5, dtype=torch.float64, generator=random)).requires_grad_()


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("m", [1, 2, 3])
def test_contrastive_losses_equal_explicit_sums(m: int, labels: list[int], temperature: float) -> None:
    x, label = vectors(m, len(labels)), torch.tensor(labels)
    cross_modal = reference.cross_modal_contrastive(list(x), temperature)
    assert_same(losses.cross_modal_contrastive(x, temperature), cross_modal, [x])
    supervised = reference.supervised_contrastive(list(x), labels, temperature)
    assert_same(losses.supervised_contrastive(x, label, temperature), supervised, [x])
    if temperature >= 0.1:
        single = x.detach().float()
        found = losses.cross_modal_contrastive(single, temperature)
        torch.testing.assert_close(found.double(), cross_modal, rtol=1e-5, atol=1e-5)
        found = losses.supervised_contrastive(single, label, temperature)
        torch.testing.assert_close(found.double(), supervised, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1])
def test_losses_of_one_utterance_or_none_are_0(count: int) -> None:
    x, label = vectors(3, count), torch.zeros(count, dtype=torch.long)
    found = [losses.cross_modal_contrastive(x, 0.1), losses.supervised_contrastive(x, label, 0.1)]
    if not count:
        logits = torch.zeros(0, 4, requires_grad=True)
        found += [losses.distillation(Gaussian(x, x), 0), losses.classification(logits, label, None)]
        found[-1].backward()
    assert [(loss.shape, loss.item()) for loss in found] == [((), 0)] * len(found)


def test_positives_are_not_in_the_denominators() -> None:
    """Two modalities, two utterances, orthogonal: by hand, with and without the positive the numbers differ."""
    eye = torch.eye(2)
    x = torch.stack([eye, eye])
    # Each of 2 pairs x 2 utterances: log(exp(1/τ) / exp(0)) = 1/τ; over N = 2.
    assert losses.cross_modal_contrastive(x, 0.5).item() == pytest.approx(-2 * 2 * 2 / 2)
    three = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    # The first two have each other as positive and the third as negative; the third has no positive.
    assert losses.supervised_contrastive(three, torch.tensor([0, 0, 1]), 0.5).item() == pytest.approx(-2 * 2 / 3)


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_contrastive_losses_stay_finite_at_the_lowest_temperature(direction: float) -> None:
    """float32, τ = 0.01, similarities of ±1: exponents of ±100 overflow without logsumexp."""
    random = torch.Generator().manual_seed(0)
    one = torch.randn(1, 1, 8, generator=random).expand(1, 6, 8)
    x = torch.cat([one, direction * one]) + 1e-3 * torch.randn(2, 6, 8, generator=random)
    x.requires_grad_()
    for loss in (
        losses.cross_modal_contrastive(x, 0.01),
        losses.supervised_contrastive(x, torch.tensor([0, 0, 1, 1, 2, 3]), 0.01),
        losses.supervised_contrastive(direction * x, torch.tensor([0, 0, 0, 0, 0, 1]), 0.01),
    ):
        assert loss.isfinite()
        assert gradients(loss, [x])[0].isfinite().all()
