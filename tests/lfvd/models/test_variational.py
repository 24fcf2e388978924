"""Gaussian heads, divergences, and one conformance test for all fusions."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from lfvd.models.variational import Fusion, Gaussian, LatentHeads, kl, kl_standard
from tests.helpers import reference

NAMES = ("l", "a", "v")
FUSIONS = ("variational", "add", "concat", "gate")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def latents(*shape: int, seed: int = 0) -> Gaussian:
    """Random means and log-variances, leaves with gradients."""
    return Gaussian(randn(*shape, seed=seed).requires_grad_(), randn(*shape, seed=seed + 100).requires_grad_())


def test_heads_equal_the_reference_in_value_and_gradients() -> None:
    torch.manual_seed(0)
    heads, x = LatentHeads(modalities=2, width=5, latent=3).double(), randn(2, 2, 4, 5).requires_grad_()
    heads.weight.data.mul_(100.0)  # log σ² beyond ±10 for some utterances
    heads.bias.data.copy_(randn(2, 1, 6, seed=1))
    found = heads(x)
    assert found.mean.shape == found.log_variance.shape == (2, 2, 4, 3)
    assert found.mean.abs().max() > 10  # the mean has no limits
    expected = [
        reference.gaussian(x[m, b, i], *reference.gaussian_parameters(heads, m))
        for m in range(2)
        for b in range(2)
        for i in range(4)
    ]
    wanted = [x, *heads.parameters()]
    reference.assert_same(found.mean.view(16, 3), torch.stack([g.mean for g in expected]), wanted)
    reference.assert_same(found.log_variance.view(16, 3), torch.stack([g.log_variance for g in expected]), wanted)


def test_log_variance_is_clamped_at_10_and_starts_near_0() -> None:
    heads = LatentHeads(modalities=2, width=64, latent=8)
    x = torch.randn(2, 3, 4, 64, generator=torch.Generator().manual_seed(0))
    assert heads(x).log_variance.abs().max() < 0.1
    assert heads(x).mean.std() > 0.3
    assert heads(1e9 * x).log_variance.aminmax() == (-10.0, 10.0)


def test_kl_equals_torch_distributions_and_the_reference() -> None:
    q, p = latents(4, 6), latents(4, 6, seed=1)
    normals = [Normal(g.mean, (g.log_variance / 2).exp()) for g in (q, p)]
    standard = Normal(torch.zeros(6, dtype=torch.float64), 1.0)
    reference.assert_same(kl(q, p), kl_divergence(*normals), [*q, *p])
    reference.assert_same(kl_standard(q), kl_divergence(normals[0], standard), [*q])
    literal = torch.stack([reference.kl_terms(_row(q, i), _row(p, i)) for i in range(4)])
    reference.assert_same(kl(q, p), literal, [*q, *p])


def _row(latent: Gaussian, i: int) -> reference.Gaussian:
    return reference.Gaussian(latent.mean[i], latent.log_variance[i])


def test_kl_is_0_only_for_equal_distributions() -> None:
    q = latents(4, 6)
    assert (kl(q, q) == 0).all()
    assert (kl(q, latents(4, 6, seed=1)) > 0).all()


def make_fusion(kind: str, modalities: int, anchor: int, divergence: str = "mean") -> Fusion:
    torch.manual_seed(0)
    return Fusion(kind=kind, modalities=modalities, anchor=anchor, width=4, divergence=divergence).double()


def expected_fusion(fusion: Fusion, x: torch.Tensor, latent: Gaussian) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference for each utterance: fused [b, n, d], weights [m, b, n] with 1 for the anchor."""
    names = NAMES[: len(x)]
    mix = reference.mix_parameters(fusion, names)
    fused, weight = torch.zeros_like(x[0]), torch.ones_like(x[..., 0])
    for b in range(x.shape[1]):
        for i in range(x.shape[2]):
            fused[b, i], found = reference.fuse(
                fusion.kind,
                {name: x[m, b, i] for m, name in enumerate(names)},
                {
                    name: reference.Gaussian(latent.mean[m, b, i], latent.log_variance[m, b, i])
                    for m, name in enumerate(names)
                },
                anchor=names[fusion.anchor],
                divergence=fusion.divergence,
                mix=mix,
            )
            for name, value in found.items():
                weight[names.index(name), b, i] = value
    return fused, weight


@pytest.mark.parametrize("divergence", ["mean", "sum"])
@pytest.mark.parametrize(("modalities", "anchor"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
@pytest.mark.parametrize("kind", FUSIONS)
def test_every_fusion_conforms(kind: str, modalities: int, anchor: int, divergence: str) -> None:
    """Value, weights and gradients of the reference; the anchor weighs 1; gradients are finite."""
    fusion = make_fusion(kind, modalities, anchor, divergence)
    x, latent = randn(modalities, 2, 3, 4).requires_grad_(), latents(modalities, 2, 3, 5, seed=2)
    fused, weight = fusion(x, latent)
    assert fused.shape == (2, 3, 4)
    assert weight.shape == (modalities, 2, 3)
    assert (weight[anchor] == 1).all()
    assert ((weight > 0) & (weight <= 1)).all()
    expected, expected_weight = expected_fusion(fusion, x, latent)
    wanted = [x, *latent, *fusion.parameters()]
    reference.assert_same(fused, expected, wanted)
    torch.testing.assert_close(weight, expected_weight, rtol=1e-12, atol=1e-12)
    assert all(g.isfinite().all() for g in reference.gradients(fused.square().sum(), wanted))


def test_equal_latents_weigh_one_half_and_far_ones_more() -> None:
    """The divergence is 0 for the same distribution and its sigmoid grows with distance."""
    x, near = randn(2, 1, 1, 4), Gaussian(torch.zeros(2, 1, 1, 3), torch.zeros(2, 1, 1, 3))
    fusion = make_fusion("variational", 2, 0)
    assert fusion(x, near)[1].flatten().tolist() == [1.0, 0.5]
    # Means 2 apart at variance 1: both KLs are 2² / 2 = 2 in each coordinate.
    far = near._replace(mean=torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 1, 3))
    assert fusion(x, far)[1].flatten()[1].item() == pytest.approx(1 / (1 + 2.718281828**-2))
    summed = make_fusion("variational", 2, 0, "sum")
    assert summed(x, far)[1].flatten()[1].item() == pytest.approx(1 / (1 + 2.718281828**-6))


def test_the_sum_saturates_where_the_mean_does_not() -> None:
    """z = 64 in float32: weights of exactly 1 and no gradient, the reason for `mean`."""
    random = torch.Generator().manual_seed(0)
    latent = Gaussian(*(torch.randn(2, 8, 8, 64, generator=random, requires_grad=True) for _ in range(2)))
    x = torch.ones(2, 8, 8, 4)
    summed = make_fusion("variational", 2, 0, "sum")(x, latent)[1]
    assert (summed == 1).all()
    assert all((g == 0).all() for g in reference.gradients(summed.sum(), [*latent]))
    averaged = make_fusion("variational", 2, 0)(x, latent)[1][1]
    assert ((averaged > 0.5) & (averaged < 0.999)).all()
    assert all((g != 0).any() for g in reference.gradients(averaged.sum(), [*latent]))
