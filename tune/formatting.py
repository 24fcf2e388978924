"""Numbers and names as people read them."""

from __future__ import annotations


def size(count: float) -> str:
    """`1.2 GB` or `30 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{digits(count / 1e6)} MB"


def digits(number: float) -> str:
    """`0.12`, `1.2` or `123`: two digits, or as many as the whole number has."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def few(names: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
