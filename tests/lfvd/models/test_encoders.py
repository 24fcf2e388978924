"""Encoders against the step-by-step reference, and blindness to padding."""

import pytest
import torch

from lfvd.models.encoders import Encoder
from tests.helpers import reference

LENGTH = torch.tensor([3, 7, 1, 5])


def make(width: int = 6, dropout: float = 0.0) -> Encoder:
    torch.manual_seed(0)
    return Encoder(features=5, width=width, dropout=dropout).double()


def features(n: int = 7) -> torch.Tensor:
    """[b, n, 5] with padding far from zero."""
    return torch.randn(len(LENGTH), n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 3


@pytest.mark.parametrize("width", [2, 6])
def test_equals_the_reference_in_value_and_gradients(width: int) -> None:
    encoder, x = make(width), features().requires_grad_()
    cells = reference.encoder_parameters(encoder)
    actual = encoder(x, LENGTH)
    assert actual.shape == (4, 7, width)
    valid = torch.cat([actual[b, :n] for b, n in enumerate(LENGTH)])
    expected = torch.cat([reference.encode(x[b, :n], *cells) for b, n in enumerate(LENGTH)])
    reference.assert_same(valid, expected, [x, *encoder.parameters()])


def test_padding_is_neither_read_nor_written() -> None:
    encoder, x = make(), features()
    padding = torch.arange(7) >= LENGTH[:, None]
    plain = encoder(x, LENGTH)
    assert (plain[padding] == 0).all()
    x[padding] = 1e6
    torch.testing.assert_close(encoder(x, LENGTH), plain, rtol=0, atol=0)
    longer = torch.cat([x, torch.full((4, 3, 5), -1e6, dtype=x.dtype)], dim=1)
    torch.testing.assert_close(encoder(longer, LENGTH)[:, :7], plain, rtol=0, atol=0)


def test_dropout_is_on_the_features_and_only_in_training() -> None:
    encoder, x = make(dropout=0.5), features()
    assert not torch.equal(encoder(x, LENGTH), encoder(x, LENGTH))
    silent = make(dropout=0.5)
    silent.gru.bias_ih_l0.data.zero_(), silent.gru.bias_hh_l0.data.zero_()
    silent.dropout.p = 1.0  # nothing of the features is left: a GRU without biases stays at 0
    assert (silent(x, LENGTH)[..., :3] == 0).all()
    encoder.eval()
    torch.testing.assert_close(encoder(x, LENGTH), make()(x, LENGTH), rtol=0, atol=0)
