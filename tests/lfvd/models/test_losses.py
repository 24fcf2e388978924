"""The four losses against explicit sums, their edge cases, and low temperatures."""

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
@pytest.mark.parametrize(("m", "count"), [(1, 4), (2, 2), (2, 7), (3, 6)])
def test_cross_modal_contrastive_equals_explicit_sums(m: int, count: int, temperature: float) -> None:
    x = vectors(m, count)
    actual = losses.cross_modal_contrastive(x, temperature)
    assert_same(actual, reference.cross_modal_contrastive(list(x), temperature), [x]) if m > 1 else _assert_zero(actual)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("m", [1, 3])
def test_supervised_contrastive_equals_explicit_sums(m: int, labels: list[int], temperature: float) -> None:
    x = vectors(m, len(labels))
    actual = losses.supervised_contrastive(x, torch.tensor(labels), temperature)
    assert_same(actual, reference.supervised_contrastive(list(x), labels, temperature), [x])


def _assert_zero(loss: torch.Tensor) -> None:
    assert loss.shape == ()
    assert loss.item() == 0


@pytest.mark.parametrize("count", [0, 1])
def test_contrastive_losses_of_one_utterance_or_none_are_0(count: int) -> None:
    x = vectors(3, count)
    _assert_zero(losses.cross_modal_contrastive(x, 0.1))
    _assert_zero(losses.supervised_contrastive(x, torch.zeros(count, dtype=torch.long), 0.1))


@pytest.mark.parametrize("labels", ["nobody has a positive", "nobody has a negative"])
def test_supervised_contrastive_without_pairs_is_0_with_gradient_0(labels: str) -> None:
    label = torch.tensor(LABELS[labels])
    x = vectors(3, len(label))
    loss = losses.supervised_contrastive(x, label, 0.01)
    _assert_zero(loss)
    (gradient,) = gradients(loss, [x])
    assert (gradient == 0).all()


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


def test_contrastive_losses_ignore_lengths_of_vectors() -> None:
    x, label = vectors(3, 6), torch.tensor([0, 0, 1, 1, 2, 0])
    scale = torch.rand(3, 6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    torch.testing.assert_close(losses.cross_modal_contrastive(x * scale, 0.1), losses.cross_modal_contrastive(x, 0.1))
    torch.testing.assert_close(
        losses.supervised_contrastive(x * scale, label, 0.1), losses.supervised_contrastive(x, label, 0.1)
    )


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_float32_equals_explicit_sums(temperature: float) -> None:
    x, label = vectors(3, 8).detach(), [0, 1, 0, 2, 1, 0, 2, 1]
    exact = [
        reference.cross_modal_contrastive(list(x), temperature),
        reference.supervised_contrastive(list(x), label, temperature),
    ]
    found = [losses.cross_modal_contrastive(x.float(), temperature)]
    found.append(losses.supervised_contrastive(x.float(), torch.tensor(label), temperature))
    torch.testing.assert_close(torch.stack(found).double(), torch.stack(exact), rtol=1e-5, atol=1e-5)


def latents(m: int, count: int) -> Gaussian:
    random = torch.Generator().manual_seed(2)
    return Gaussian(
        *(torch.randn(m, count, 3, dtype=torch.float64, generator=random).requires_grad_() for _ in range(2))
    )


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize(("m", "anchor"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_distillation_equals_explicit_sums(m: int, anchor: int, detach: bool) -> None:
    latent = latents(m, 5)
    named = {
        str(k): [reference.Gaussian(latent.mean[k, i], latent.log_variance[k, i]) for i in range(5)] for k in range(m)
    }
    expected = reference.distillation(named, str(anchor), detach_teacher=detach)
    assert_same(losses.distillation(latent, anchor, detach), expected, [*latent])


def test_detached_teacher_gets_its_gradient_from_the_prior_only() -> None:
    latent = latents(3, 5)
    attached, detached = (
        gradients(losses.distillation(latent, 0, detach), [latent.mean])[0] for detach in (False, True)
    )
    torch.testing.assert_close(detached[0], latent.mean.detach()[0] / 5)
    assert not torch.isclose(attached[0], detached[0]).any()
    torch.testing.assert_close(attached[1:], detached[1:])


def test_distillation_of_nothing_is_0() -> None:
    _assert_zero(losses.distillation(latents(3, 0), 0))


@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 0.0, 1.5]])
def test_classification_equals_the_reference(weight: list[float] | None) -> None:
    logits = vectors(1, 6)[0, :, :4].detach().requires_grad_()
    label, weights = [0, 1, 3, 1, 2, 0], None if weight is None else torch.tensor(weight, dtype=torch.float64)
    expected = reference.cross_entropy(list(logits), label, weights)
    assert_same(losses.classification(logits, torch.tensor(label), weights), expected, [logits])


def test_classification_of_nothing_is_0_with_gradient_0() -> None:
    logits = torch.zeros(0, 4, requires_grad=True)
    loss = losses.classification(logits, torch.zeros(0, dtype=torch.long), None)
    _assert_zero(loss)
    loss.backward()
