"""DAG layers against the literal reference: predecessors, values, gradients; padding; what cancels."""

import pytest
import reference
import torch

from lfvd.dag import DAGStack, predecessors

LENGTH = [4, 9, 1, 2, 7]


def make(modalities: int = 2, width: int = 4, layers: int = 2, window: int = 1, seed: int = 0) -> DAGStack:
    torch.manual_seed(seed)
    return DAGStack(modalities=modalities, width=width, layers=layers, speaker_window=window).double()


def inputs(modalities: int = 2, width: int = 4, length: list[int] = LENGTH, seed: int = 1) -> torch.Tensor:
    """[m, b, n, d], padding included."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(modalities, len(length), max(length), width, dtype=torch.float64, generator=random)


def expected(stack: DAGStack, x: torch.Tensor, speaker: torch.Tensor, length: list[int], seed: int = 0) -> torch.Tensor:
    """The reference on every dialogue and modality, [m, utterances of all dialogues, d]."""
    return torch.stack(
        [
            torch.cat(
                [
                    reference.dag(x[m, b, :n], speaker[b, :n].tolist(), layers, output, stack.speaker_window)
                    for b, n in enumerate(length)
                ]
            )
            for m in range(len(x))
            for layers, output in [reference.dag_parameters(stack, m, seed)]
        ]
    )


@pytest.mark.parametrize("window", [1, 2, 3, 50])
@pytest.mark.parametrize("speakers", [1, 2, 3, 9])
def test_predecessors_walk_back_to_the_speakers_own_utterance(speakers: int, window: int) -> None:
    speaker, _ = reference.ragged([14] * 6, speakers, seed=speakers)
    reach, own = predecessors(speaker, window)
    for b in range(6):
        row = speaker[b].tolist()
        for i in range(14):
            wanted = set(reference.predecessors(row, i, window))
            assert {j for j in range(14) if reach[b, i, j]} == wanted
            assert {j for j in range(14) if own[b, i, j]} == {j for j in wanted if row[j] == row[i]}


def test_predecessors_of_a_small_dialogue() -> None:
    """Speakers A B A C B: the last B reaches its own first utterance; C, who is new, reaches all."""
    reach, own = predecessors(torch.tensor([[0, 1, 0, 2, 1]]), 1)
    assert reach[0].int().tolist() == [
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
    ]
    assert own[0].nonzero().tolist() == [[2, 0], [4, 1]]


@pytest.mark.parametrize(
    ("speakers", "window", "modalities", "layers"),
    [(1, 1, 2, 2), (2, 1, 3, 1), (2, 2, 2, 2), (3, 3, 1, 3), (9, 1, 2, 2), (9, 2, 1, 1)],
)
def test_equals_the_reference_in_value_and_gradients(speakers: int, window: int, modalities: int, layers: int) -> None:
    stack = make(modalities, layers=layers, window=window)
    x = inputs(modalities).requires_grad_()
    speaker, mask = reference.ragged(LENGTH, speakers, seed=2)
    actual = stack(x, speaker)
    assert actual.shape == x.shape
    reference.assert_same(actual[:, mask], expected(stack, x, speaker, LENGTH), [x, *stack.parameters()])


def test_float32_equals_the_reference_too() -> None:
    stack, x = make(3).float(), inputs(3).float().requires_grad_()
    speaker, mask = reference.ragged(LENGTH, 3, seed=3)
    wanted = [x, *stack.parameters()]
    reference.assert_same(stack(x, speaker)[:, mask], expected(stack, x, speaker, LENGTH), wanted, tolerance=1e-5)


def test_query_and_bias_of_the_score_cancel() -> None:
    """Two other random choices of the part of W_α on H_i, and of its bias, change nothing."""
    stack, x = make(), inputs()
    speaker, mask = reference.ragged(LENGTH, 3, seed=4)
    one, other = (expected(stack, x, speaker, LENGTH, seed) for seed in (5, 6))
    queries = [reference.dag_parameters(stack, 0, seed)[0][0].query for seed in (5, 6)]
    assert not torch.allclose(*queries)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(stack(x, speaker)[:, mask], one, rtol=1e-12, atol=1e-12)


def test_padding_reaches_no_utterance() -> None:
    stack, x = make(), inputs().requires_grad_()
    speaker, mask = reference.ragged(LENGTH, 3, seed=5)
    plain = stack(x, speaker)[:, mask]
    assert (reference.gradients(plain.square().sum(), [x])[0][:, ~mask] == 0).all()
    other = torch.where(mask[None, :, :, None], x, 1e3)
    torch.testing.assert_close(stack(other, speaker + 5 * ~mask)[:, mask], plain, rtol=1e-12, atol=1e-12)
    for b, n in enumerate(LENGTH):
        alone = stack(x[:, b : b + 1, :n], speaker[b : b + 1, :n])
        torch.testing.assert_close(alone[:, 0], stack(x, speaker)[:, b, :n], rtol=1e-12, atol=1e-12)


def test_names_of_speakers_do_not_matter() -> None:
    stack, x = make(), inputs()
    speaker, _ = reference.ragged(LENGTH, 3, seed=6)
    renamed = torch.tensor([7, 2, 0])[speaker]
    torch.testing.assert_close(stack(x, renamed), stack(x, speaker), rtol=0, atol=0)


def test_large_scores_stay_finite() -> None:
    """Keys of some thousands, in float32: the softmax has to take its maximum out."""
    stack = make().float()
    for layer in stack.layers:
        layer.key.data.mul_(1e4)
    x = inputs().float().requires_grad_()
    speaker, _ = reference.ragged(LENGTH, 2, seed=7)
    out = stack(x, speaker)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in reference.gradients(out.square().sum(), [x, *stack.parameters()]))
