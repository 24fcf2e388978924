"""Language-focused augmentation against the literal reference: every anchor, with and without the atmosphere."""

import pytest
import torch

from lfvd.models.attention import Augmentation
from tests.helpers import reference

LENGTH = [3, 6, 1]
NAMES = ("l", "a", "v")


def make(
    modalities: int = 3, anchor: int = 0, atmosphere: bool = True, heads: int = 2, dropout: float = 0.0
) -> Augmentation:
    """In float64, with every weight away from its trivial start."""
    torch.manual_seed(0)
    module = Augmentation(
        modalities=modalities, anchor=anchor, width=8, heads=heads, dropout=dropout, atmosphere=atmosphere
    ).double()
    for parameter in module.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return module


def inputs(modalities: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """x [m, b, n, 8] with padding, mask [b, n]."""
    x = torch.randn(modalities, 3, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, reference.ragged(LENGTH, 1, seed=0)[1]


def expected(module: Augmentation, x: torch.Tensor, heads: int = 2) -> torch.Tensor:
    """The reference on every dialogue, [m, utterances of all dialogues, d]."""
    names = NAMES[: len(x)]
    parameters = reference.augmentation_parameters(module, names)
    parts = []
    for b, n in enumerate(LENGTH):
        out = reference.augment(
            {name: x[m, b, :n] for m, name in enumerate(names)},
            parameters,
            anchor=names[module.anchor],
            heads=heads,
            atmosphere=module.atmosphere is not None,
        )
        parts.append(torch.stack([out[name] for name in names]))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("atmosphere", [True, False])
@pytest.mark.parametrize(("modalities", "anchor"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_equals_the_reference_in_value_and_gradients(modalities: int, anchor: int, atmosphere: bool) -> None:
    module = make(modalities, anchor, atmosphere)
    x, mask = inputs(modalities)
    x.requires_grad_()
    actual = module(x, mask)
    assert actual.shape == x.shape
    reference.assert_same(actual[:, mask], expected(module, x), [x, *module.parameters()])


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_equals_the_reference_for_any_number_of_heads(heads: int) -> None:
    module = make(heads=heads)
    x, mask = inputs()
    torch.testing.assert_close(module(x, mask)[:, mask], expected(module, x, heads), rtol=1e-12, atol=1e-12)


def test_without_atmosphere_only_the_anchor_changes() -> None:
    x, mask = inputs()
    out = make(anchor=1, atmosphere=False)(x, mask)
    assert torch.equal(out[[0, 2]], x[[0, 2]])
    assert not torch.isclose(out[1], x[1]).any()


def test_atmosphere_is_one_vector_for_all_utterances_and_modalities_of_a_dialogue() -> None:
    x, mask = inputs()
    shift = make()(x, mask) - x
    for b, n in enumerate(LENGTH):
        atmosphere = shift[0, b, 0]
        torch.testing.assert_close(shift[:, b, :n], atmosphere.expand(3, n, 8), rtol=1e-12, atol=1e-12)
    assert not torch.isclose(shift[0, 0, 0], shift[0, 1, 0]).any()


@pytest.mark.parametrize("atmosphere", [True, False])
def test_padding_reaches_no_utterance(atmosphere: bool) -> None:
    module = make(atmosphere=atmosphere)
    x, mask = inputs()
    plain = module(x, mask)[:, mask]
    garbage = torch.where(mask[None, :, :, None], x, 1e3)
    torch.testing.assert_close(module(garbage, mask)[:, mask], plain, rtol=1e-12, atol=1e-12)
    longer = torch.nn.functional.pad(garbage, (0, 0, 0, 4), value=-1e3)
    longer_mask = torch.nn.functional.pad(mask, (0, 4))
    torch.testing.assert_close(module(longer, longer_mask)[:, longer_mask], plain, rtol=1e-12, atol=1e-12)


def test_dropout_only_in_training() -> None:
    x, mask = inputs()
    module = make(dropout=0.5)
    assert not torch.equal(module(x, mask), module(x, mask))
    torch.testing.assert_close(module.eval()(x, mask), make()(x, mask), rtol=0, atol=0)
