"""Numbers, sizes, durations and lists as text, for the terminal, messages and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def format_number(number: float) -> str:
    """`0.12`, `1.2` or `123`: two digits, or all digits of the whole part; never in scientific notation."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def format_size(count: float) -> str:
    """Bytes as `1.2 GB` or `30 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{format_number(count / 1e6)} MB"


def format_duration(seconds: float) -> str:
    """`4:05` or `2:10:00`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def format_hours(hours: float, unit: str) -> str:
    """`12.4 GPU-hours`, or `3.2 GPU-minutes` below an hour; unit: in hours."""
    if 0 < hours < 0.95:
        return f"{60 * hours:.1f} {unit.replace('hours', 'minutes')}"
    return f"{hours:.1f} {unit}"


def format_percent(share: float) -> str:
    """A share in 0..1, or a difference of two, as `53.10` percent points."""
    return f"{100 * share:.2f}"


def format_mean_std(mean: float, spread: float) -> str:
    """Shares as `53.10 ± 0.42` percent; spread: the standard deviation, or half of a confidence interval."""
    return f"{format_percent(mean)} ± {format_percent(spread)}"


def format_p_value(p: float) -> str:
    """`p = 0.02`, `p = 0.004` or `p below 0.001`."""
    return "p below 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.0095 else f"p = {p:.2f}"


def format_value(value: Any) -> str:
    """A value of a config: floats with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_params(params: Mapping[str, Any]) -> str:
    """`lr 0.00031, heads 4`: tuned values by the last part of their keys."""
    return ", ".join(f"{key.split('.')[-1]} {format_value(value)}" for key, value in params.items())


def join_first(names: Sequence[str]) -> str:
    """`a, b, c and 4 more`: the first three names of a list."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def format_minute(time: str) -> str:
    """`2026-11-20T08:30:12+0000` → `2026-11-20 08:30`."""
    return time[:16].replace("T", " ")
