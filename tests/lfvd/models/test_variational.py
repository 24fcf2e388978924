"""Gaussian heads and divergences; test_lfvd.py compares them and all fusions with the reference."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from lfvd.models.variational import Fusion, Gaussian, LatentHeads, kl, kl_standard
from tests.helpers import reference


def test_log_variance_alone_is_clamped_at_10_and_starts_near_0() -> None:
    heads = LatentHeads(modalities=2, width=64, latent=8)
    x = torch.randn(2, 3, 4, 64, generator=torch.Generator().manual_seed(0))
    assert heads(x).log_variance.abs().max() < 0.1
    assert heads(x).mean.std() > 0.3
    far = heads(1e9 * x)
    assert far.log_variance.aminmax() == (-10.0, 10.0)
    assert far.mean.abs().max() > 10
    assert reference.gaussian(heads, 1, 1e9 * x[1, 0, 0]).log_variance.abs().max() == 10


def test_kl_equals_torch_distributions() -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(4, 4, 6, dtype=torch.float64, generator=random).requires_grad_()
    q, p = Gaussian(values[0], values[1]), Gaussian(values[2], values[3])
    normals = [Normal(g.mean, (g.log_variance / 2).exp()) for g in (q, p)]
    standard = Normal(torch.zeros(6, dtype=torch.float64), 1.0)
    reference.assert_same(kl(q, p), kl_divergence(*normals), [values])
    reference.assert_same(kl_standard(q), kl_divergence(normals[0], standard), [values])


@pytest.mark.parametrize(("divergence", "of_far"), [("mean", 2), ("sum", 6)])
def test_equal_latents_weigh_one_half_and_far_ones_more(divergence: str, of_far: int) -> None:
    """Means 2 apart at variance 1: both KLs are 2² / 2 = 2 in each of 3 coordinates."""
    fusion = Fusion(kind="variational", modalities=2, anchor=0, width=4, divergence=divergence)
    x, near = torch.zeros(2, 1, 1, 4), Gaussian(torch.zeros(2, 1, 1, 3), torch.zeros(2, 1, 1, 3))
    far = near._replace(mean=torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 1, 3))
    assert fusion(x, near)[1].flatten().tolist() == [1.0, 0.5]
    assert fusion(x, far)[1].flatten()[1].item() == pytest.approx(1 / (1 + 2.718281828**-of_far))
