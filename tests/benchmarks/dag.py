"""The DAG stack against the literal one, forward and backward, three modalities: `python tests/benchmarks/dag.py`.

On a GPU where there is one, else on two CPU threads. `literal` stands in for public code: it dispatches as many operations.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from turns import median, peak_mb, turns

# isort: split
from lfvd.models.dag import DAGStack
from tests.helpers.launches import launches
from tests.helpers.literal_dag import LiteralStack

SHAPES = {"16x60x4x300": (16, 60, 4, 300), "32x24x2x300": (32, 24, 2, 300)}
"""Dialogues × utterances × layers × width."""
GROWTH = (25, 50, 100, 200, 400, 800)
MODALITIES = 3


def work(stack: DAGStack, b: int, n: int) -> Callable[[], None]:
    """One pass forward and backward over b dialogues of n utterances of two speakers."""
    random, device = torch.Generator().manual_seed(0), stack.key.device
    x = torch.randn(MODALITIES, b, n, stack.key.shape[1], generator=random).to(device).requires_grad_()
    speaker, length = torch.randint(2, (b, n), generator=random), torch.full((b,), n)

    def run() -> None:
        stack.zero_grad(set_to_none=True)
        stack(x, speaker, length).square().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def pair(layers: int, width: int, device: str) -> dict[str, DAGStack]:
    """Both stacks, with the same weights."""
    torch.manual_seed(0)
    stacks = {
        name: kind(modalities=MODALITIES, width=width, layers=layers).to(device)
        for name, kind in (("literal", LiteralStack), ("ours", DAGStack))
    }
    stacks["literal"].load_state_dict(stacks["ours"].state_dict())
    return stacks


def count(b: int, n: int, layers: int, width: int, device: str) -> dict[str, int]:
    """Operations of each side."""
    return {name: launches(work(stack, b, n)) for name, stack in pair(layers, width, device).items()}


def compare(b: int, n: int, layers: int, width: int, device: str) -> dict[str, Any]:
    """Both sides on one shape."""
    counts = count(b, n, layers, width, device)
    sides = {name: work(stack, b, n) for name, stack in pair(layers, width, device).items()}
    times = {name: median(values) for name, values in turns(sides).items()}
    return {
        "wall_ratio": round(times["literal"] / times["ours"], 2),
        "launch_ratio": round(counts["literal"] / counts["ours"], 1),
        "seconds": times,
        "launches": counts,
    }


def passes(n: int, device: str) -> Callable[[], None]:
    """16 dialogues of n utterances, two layers, width 300."""
    return work(DAGStack(modalities=MODALITIES, width=300, layers=2).to(device), 16, n)


def peak(n: int, device: str) -> float:
    """MB of one pass at most; on a CPU in a process of its own, whose memory no pass before has grown."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        passes(n, device)()
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_peak, n).result()


def _peak(n: int) -> float:
    torch.set_num_threads(2)
    passes(1, "cpu")()  # what any pass needs once
    return peak_mb(passes(n, "cpu"))


def grow(device: str) -> dict[str, Any]:
    """Seconds and peak memory by the number of utterances."""
    found = {}
    for n in GROWTH:
        [times] = turns({"ours": passes(n, device)}).values()
        found[str(n)] = {"seconds": median(times), "peak_mb": peak(n, device)}
    return found


def measure() -> dict[str, Any]:
    """The part `dag` of results/benchmarks.json."""
    torch.set_num_threads(2)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "device": device,
        **{name: compare(*shape, device) for name, shape in SHAPES.items()},
        "growth": grow(device),
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
