"""Measuring that is fair to both sides: on the same machine, in one run, one after the other, and medians."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests' reference and helpers

RUNS = 5


def seconds(compute: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    compute()
    return time.perf_counter() - start


def turns(sides: Mapping[str, Callable[[], object]], runs: int = RUNS, *, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each side, the sides taking turns; `warm`: a first round that does not count."""
    if warm:
        for compute in sides.values():
            compute()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, compute in sides.items():
            found[name].append(seconds(compute))
    return found


def median(values: list[float]) -> float:
    """To four digits."""
    return float(f"{statistics.median(values):.4g}")


def peak_mb(compute: Callable[[], object]) -> float:
    """By how much the resident memory of this process rises at most during a call (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _memory("VmRSS")
    compute()
    return round(_memory("VmHWM") - before, 1)


def _memory(name: str) -> float:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024
