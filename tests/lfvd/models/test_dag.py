"""DAG layers against the literal reference: predecessors, values, gradients; padding; operations counted."""

import pytest
import torch
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

from lfvd.models.dag import DAGStack
from lfvd.models.graph import Graph, first_predecessor
from tests.helpers import reference
from tests.helpers.launches import launches
from tests.helpers.literal_dag import LiteralStack

LENGTH = [4, 9, 1, 2, 7]
LENGTHS = torch.tensor(LENGTH)


def make(modalities: int = 2, layers: int = 2, window: int = 1) -> DAGStack:
    torch.manual_seed(0)
    return DAGStack(modalities=modalities, width=4, layers=layers, speaker_window=window).double()


def inputs(modalities: int = 2, length: list[int] = LENGTH) -> torch.Tensor:
    """[m, b, n, d], padding included."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(modalities, len(length), max(length), 4, dtype=torch.float64, generator=random)
    return x.requires_grad_()


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


@pytest.mark.parametrize(
    ("length", "speakers", "window", "modalities", "layers"),
    [
        *((LENGTH, *case) for case in ((1, 1, 2, 2), (2, 1, 3, 1), (2, 2, 2, 2), (3, 3, 1, 3), (9, 1, 2, 2))),
        # Corners of the wavefront: layers that begin after others have ended, batches of one utterance, any order of lengths.
        *((n, 2, 1, 2, layers) for n in ([1], [2, 1], [3, 3, 3], [1, 5, 2], [11, 1, 1, 4]) for layers in (1, 2, 4)),
    ],
)
def test_equals_the_reference_in_value_and_gradients(
    length: list[int], speakers: int, window: int, modalities: int, layers: int
) -> None:
    """Each dialogue alone; the part of W_α on H_i and its bias, random in the reference, cancel."""
    stack, x = make(modalities, layers, window), inputs(modalities, length)
    speaker, mask = reference.ragged(length, speakers, seed=2)
    actual, expected = stack(x, speaker, torch.tensor(length)), []
    assert actual.shape == x.shape
    for b, n in enumerate(length):
        masks = reference.predecessors(speaker[b : b + 1, :n], window)
        alone = [reference.dag(stack, m, x[m, b : b + 1, :n], masks, modalities)[0] for m in range(modalities)]
        expected.append(torch.stack(alone))
    reference.assert_same(actual[:, mask], torch.cat(expected, dim=1), [x, *stack.parameters()])


def test_padding_reaches_no_utterance() -> None:
    """Garbage on padding, which is longer than the longest dialogue."""
    stack, x = make(), inputs()
    speaker, mask = reference.ragged(LENGTH, 3, seed=5)
    plain = stack(x, speaker, LENGTHS)[:, mask]
    assert (reference.gradients(plain.square().sum(), [x])[0][:, ~mask] == 0).all()
    wider = pad(mask, (0, 4))
    garbage = torch.where(wider[None, :, :, None], pad(x, (0, 0, 0, 4)), 1e3)
    out = stack(garbage, pad(speaker, (0, 4)) + 5 * ~wider, LENGTHS)
    assert out.shape == garbage.shape
    torch.testing.assert_close(out[:, wider], plain, rtol=1e-12, atol=1e-12)


def test_large_scores_stay_finite() -> None:
    """Keys of some thousands, in float32: the softmax has to take its maximum out."""
    stack = make().float()
    stack.key.data.mul_(1e4)
    x = inputs().detach().float().requires_grad_()
    speaker, _ = reference.ragged(LENGTH, 2, seed=7)
    out = stack(x, speaker, LENGTHS)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in reference.gradients(out.square().sum(), [x, *stack.parameters()]))


def test_a_second_backward_pass_gives_the_same() -> None:
    stack, x = make(), inputs()
    out = stack(x, reference.ragged(LENGTH, 2, seed=0)[0], LENGTHS).square().sum()
    one, other = (torch.autograd.grad(out, [x, *stack.parameters()], retain_graph=True) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


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
        x = inputs().detach().float().requires_grad_()
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
        here, moved = stack.to(device), x.detach().to(device).requires_grad_()
        out = here(moved, speaker, LENGTHS)[:, mask.to(device)]
        found.append([out, *torch.autograd.grad(out.square().sum(), [moved, *here.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-10, atol=1e-10)
