"""A stretch of a media file; each process that makes features imports no more than this and its extractor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class ClipError(ValueError):
    """A clip without usable sound or pictures; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A stretch of a media file."""

    file: Path
    start: float = 0.0
    """Seconds, on the clock of the file's timestamps."""
    end: float | None = None
    """Seconds, on the same clock; None: the file's end."""
