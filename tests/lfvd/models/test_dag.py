"""DAG layers against the literal reference: predecessors, values, gradients; padding; what cancels; operations counted."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lfvd.models.dag import DAGStack
from lfvd.models.graph import Graph, first_predecessor
from tests.helpers import reference
from tests.helpers.launches import launches
from tests.helpers.literal_dag import LiteralStack

LENGTH = [4, 9, 1, 2, 7]
LENGTHS = torch.tensor(LENGTH)


def make(modalities: int = 2, width: int = 4, layers: int = 2, window: int = 1, seed: int = 0) -> DAGStack:
    torch.manual_seed(seed)
    return DAGStack(modalities=modalities, width=width, layers=layers, speaker_window=window).double()


def inputs(modalities: int = 2, width: int = 4, length: list[int] = LENGTH, seed: int = 1) -> torch.Tensor:
    """[m, b, n, d], padding included."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(modalities, len(length), max(length), width, dtype=torch.float64, generator=random)


def expected(stack: DAGStack, x: torch.Tensor, speaker: torch.Tensor, length: list[int], seed: int = 0) -> torch.Tensor:
    """The reference on every dialogue and modality, [m, utterances of all dialogues, d]."""
    found = []
    for m in range(len(x)):
        parameters = reference.dag_parameters(stack, m, len(x), seed)
        dialogues = [(x[m, b : b + 1, :n], speaker[b : b + 1, :n]) for b, n in enumerate(length)]
        masks = [reference.predecessors(each, stack.speaker_window) for _, each in dialogues]
        alone = [reference.dag(each, both, *parameters)[0] for (each, _), both in zip(dialogues, masks, strict=True)]
        found.append(torch.cat(alone))
    return torch.stack(found)


@pytest.mark.parametrize("window", [1, 2, 3, 50])
@pytest.mark.parametrize("speakers", [1, 2, 3, 9])
def test_predecessors_walk_back_to_the_speakers_own_utterance(speakers: int, window: int) -> None:
    speaker, _ = reference.ragged([14] * 6, speakers, seed=speakers)
    first, (masks, own) = first_predecessor(speaker, window), reference.predecessors(speaker, window)
    for b in range(6):
        row = speaker[b].tolist()
        for i in range(14):
            mine = [j for j in range(i) if row[j] == row[i]]
            wanted = set(range(mine[-window] if len(mine) >= window else 0, i))
            assert set(range(int(first[b, i]), i)) == wanted
            assert {j for j in range(14) if masks[b, i, j]} == wanted
            assert {j for j in range(14) if own[b, i, j]} == {j for j in wanted if row[j] == row[i]}


def test_predecessors_of_a_small_dialogue() -> None:
    """Speakers A B A C B: the last B reaches its own first utterance; C, who is new, reaches all."""
    speaker = torch.tensor([[0, 1, 0, 2, 1]])
    assert first_predecessor(speaker, 1).tolist() == [[0, 0, 0, 0, 1]]
    masks, own = reference.predecessors(speaker, 1)
    assert masks[0].int().tolist() == [
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
    actual = stack(x, speaker, LENGTHS)
    assert actual.shape == x.shape
    reference.assert_same(actual[:, mask], expected(stack, x, speaker, LENGTH), [x, *stack.parameters()])


def test_float32_equals_the_reference_too() -> None:
    stack, x = make(3).float(), inputs(3).float().requires_grad_()
    speaker, mask = reference.ragged(LENGTH, 3, seed=3)
    wanted = [x, *stack.parameters()]
    reference.assert_same(
        stack(x, speaker, LENGTHS)[:, mask], expected(stack, x, speaker, LENGTH), wanted, tolerance=1e-5
    )


def test_query_and_bias_of_the_score_cancel() -> None:
    """Two other random choices of the part of W_α on H_i, and of its bias, change nothing."""
    stack, x = make(), inputs()
    speaker, mask = reference.ragged(LENGTH, 3, seed=4)
    one, other = (expected(stack, x, speaker, LENGTH, seed) for seed in (5, 6))
    queries = [reference.dag_parameters(stack, 0, len(x), seed)[0][0].query for seed in (5, 6)]
    assert not torch.allclose(*queries)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(stack(x, speaker, LENGTHS)[:, mask], one, rtol=1e-12, atol=1e-12)


def test_padding_reaches_no_utterance() -> None:
    stack, x = make(), inputs().requires_grad_()
    speaker, mask = reference.ragged(LENGTH, 3, seed=5)
    plain = stack(x, speaker, LENGTHS)[:, mask]
    assert (reference.gradients(plain.square().sum(), [x])[0][:, ~mask] == 0).all()
    other = torch.where(mask[None, :, :, None], x, 1e3)
    torch.testing.assert_close(stack(other, speaker + 5 * ~mask, LENGTHS)[:, mask], plain, rtol=1e-12, atol=1e-12)
    for b, n in enumerate(LENGTH):
        alone = stack(x[:, b : b + 1, :n], speaker[b : b + 1, :n], LENGTHS[b : b + 1])
        torch.testing.assert_close(alone[:, 0], stack(x, speaker, LENGTHS)[:, b, :n], rtol=1e-12, atol=1e-12)


def test_names_of_speakers_do_not_matter() -> None:
    stack, x = make(), inputs()
    speaker, _ = reference.ragged(LENGTH, 3, seed=6)
    renamed = torch.tensor([7, 2, 0])[speaker]
    torch.testing.assert_close(stack(x, renamed, LENGTHS), stack(x, speaker, LENGTHS), rtol=0, atol=0)


def test_large_scores_stay_finite() -> None:
    """Keys of some thousands, in float32: the softmax has to take its maximum out."""
    stack = make().float()
    stack.key.data.mul_(1e4)
    x = inputs().float().requires_grad_()
    speaker, _ = reference.ragged(LENGTH, 2, seed=7)
    out = stack(x, speaker, LENGTHS)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in reference.gradients(out.square().sum(), [x, *stack.parameters()]))


@pytest.mark.parametrize("length", [[1], [2, 1], [3, 3, 3], [1, 5, 2], [11, 1, 1, 4]])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_dialogues_shorter_than_the_layers_are_many(length: list[int], layers: int) -> None:
    """Corners of the wavefront: layers that begin after others have ended, batches of one utterance, any order of lengths."""
    stack, x = make(layers=layers), inputs(length=length).requires_grad_()
    speaker, mask = reference.ragged(length, 2, seed=8)
    actual = stack(x, speaker, torch.tensor(length))
    reference.assert_same(actual[:, mask], expected(stack, x, speaker, length), [x, *stack.parameters()])


@pytest.mark.parametrize(("window", "layers"), [(1, 1), (2, 3)])
def test_gradients_equal_finite_differences(window: int, layers: int) -> None:
    length = [2, 4, 1]
    stack, x = make(1, 2, layers, window), inputs(1, 2, length).requires_grad_()
    speaker, mask = reference.ragged(length, 2, seed=9)

    def compute(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        values = dict(zip(dict(stack.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(stack, values, (x, speaker, torch.tensor(length)))[:, mask]

    assert torch.autograd.gradcheck(compute, (x, *stack.parameters()))


def test_a_batch_padded_beyond_its_longest_dialogue() -> None:
    stack, x = make(), inputs()
    speaker, mask = reference.ragged(LENGTH, 3, seed=10)
    wider = torch.nn.functional.pad(x, (0, 0, 0, 4))
    out = stack(wider, torch.nn.functional.pad(speaker, (0, 4)), LENGTHS)
    assert out.shape == wider.shape
    torch.testing.assert_close(
        out[:, :, : x.shape[2]][:, mask], stack(x, speaker, LENGTHS)[:, mask], rtol=0, atol=1e-12
    )


def test_a_second_backward_pass_gives_the_same() -> None:
    stack, x = make(), inputs().requires_grad_()
    out = stack(x, reference.ragged(LENGTH, 2, seed=0)[0], LENGTHS).square().sum()
    one, other = (torch.autograd.grad(out, [x, *stack.parameters()], retain_graph=True) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_the_graph_of_a_small_batch() -> None:
    """Speakers A B A, and A alone: windows as wide as the widest dialogue needs, padding and first ones on their last place."""
    graph = Graph.of(torch.tensor([[0, 1, 0], [0, 0, 0]]), torch.tensor([3, 1]), 1, like=torch.zeros(1))
    assert graph.width == [1, 1, 2]
    assert graph.active == [2, 1, 1]
    there = graph.score.flip(1).isfinite().int()  # by utterance; [same speaker's, others'] of the two places before it
    assert there[0].tolist() == [[[0, 0], [0, 1]], [[0, 0], [0, 1]], [[1, 0], [0, 1]]]
    assert there[1].tolist() == [[[0, 0], [0, 1]]] * 3


def test_without_gradients_the_same_comes_out_and_nothing_is_kept() -> None:
    stack, x, speaker = make(), inputs(), reference.ragged(LENGTH, 2, seed=0)[0]
    found, largest = [], []
    for grad in (True, False):
        with torch.set_grad_enabled(grad), Largest() as made:
            found.append(stack(x, speaker, LENGTHS))
        largest.append(made.elements)
    assert torch.equal(*found)
    assert largest[1] < largest[0] / 3


class Largest(TorchDispatchMode):
    """The most elements that any tensor made inside has."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.untyped_storage().nbytes() // result.element_size())
        return result


def test_the_graph_of_a_long_dialogue_grows_with_its_utterances_not_their_square() -> None:
    speaker, length = torch.arange(3000)[None] % 3, torch.tensor([3000])
    with Largest() as largest:
        graph = Graph.of(speaker, length, 2, like=torch.zeros(1))
    assert graph.score.shape == (1, 3000, 2, 6)
    assert largest.elements <= 12 * 3000


def test_backward_inside_autocast() -> None:
    """As outside: the loop has the weights' precision in both directions."""
    stack, speaker = make().float(), reference.ragged(LENGTH, 2, seed=0)[0]
    found = []
    for inside in (True, False):
        x = inputs().float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = stack(x, speaker, LENGTHS).float().square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=0.05, atol=0.01)  # the output projection's own product is in bfloat16


SHAPES = {"16x60x4": (16, 60, 4, 20), "32x24x2": (32, 24, 2, 10)}
"""Dialogues, utterances, layers, and how many times fewer operations than the literal code there must at least be."""


@pytest.mark.parametrize("shape", SHAPES)
def test_operations(shape: str) -> None:
    """What a GPU waits for. The literal code must cost what public code does: 85,852 and 17,050 operations."""
    b, n, layers, fewer = SHAPES[shape]
    fast = DAGStack(modalities=3, width=4, layers=layers)
    slow = LiteralStack(modalities=3, width=4, layers=layers)
    slow.load_state_dict(fast.state_dict())
    speaker, length = torch.randint(2, (b, n), generator=torch.Generator().manual_seed(0)), torch.full((b,), n)

    def count(stack: DAGStack) -> int:
        return launches(lambda: stack(torch.randn(3, b, n, 4, requires_grad=True), speaker, length).sum().backward())

    literal, ours = count(slow), count(fast)
    assert literal == pytest.approx({60: 85_852, 24: 17_050}[n], rel=0.03)
    assert literal / ours >= fewer


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same() -> None:
    stack, x = make(3), inputs(3)
    speaker, mask = reference.ragged(LENGTH, 3, seed=12)
    found = []
    for device in ("cpu", "cuda"):
        here, moved = stack.to(device), x.to(device).requires_grad_()
        out = here(moved, speaker, LENGTHS)[:, mask.to(device)]
        found.append([out, *torch.autograd.grad(out.square().sum(), [moved, *here.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-10, atol=1e-10)
