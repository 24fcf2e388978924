"""`checksums.json`: what a study's files held when they were last forced to disk, so that damage is seen.

It is written after the files, each time one of them is forced to disk. A crash between the two leaves a file that is longer than
recorded by whole lines, or by a torn last one. A file that is shorter, or differs in what is recorded, was damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lfvd.files import InputError, write_text
from tune.study import jsonl

NAME = "checksums.json"


class DamagedError(InputError):
    """A study whose files were damaged; the text names file, line if known, what is wrong, and the remedy."""


def damaged(path: Path, what: str, *, line: int | None = None) -> DamagedError:
    """The error for a file of a study's folder."""
    where = f"{path}, line {line}" if line else f"{path}"
    remedy = f"restore the file from a copy, or see what `lfvd-tune repair {path.parent.name}` can do"
    return DamagedError(f"{where}: {what}: {remedy}")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The first part of a file: its lines, bytes and SHA-256."""

    lines: int = 0
    bytes: int = 0
    sha256: str = hashlib.sha256().hexdigest()


@dataclass(frozen=True, kw_only=True)
class Checksums:
    """What `checksums.json` holds."""

    plan: tuple[str, ...]
    """Of plan.yaml's content; two while it is replaced."""
    files: Mapping[str, Mark]
    """Name of a file of lines → what was forced to disk of it."""
    ended: bool
    """Whether the last session ended in order: then the files hold nothing more."""

    def write(self, folder: Path) -> None:
        """Write it, atomically."""
        files = {name: asdict(mark) for name, mark in self.files.items()}
        write_text(folder / NAME, jsonl.dump({"plan.yaml": self.plan, "files": files, "ended": self.ended}) + "\n")


def read(folder: Path) -> Checksums | None:
    """The checksums of a study; None where there are none, as in studies of older versions. Raises DamagedError."""
    path = folder / NAME
    try:
        held = jsonl.parse(path.read_bytes())
        files = {name: Mark(**mark) for name, mark in held["files"].items()}
        return Checksums(plan=tuple(held["plan.yaml"]), files=files, ended=held["ended"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged(path, "is damaged") from None


def plan_hash(frozen: Mapping[str, Any]) -> str:
    """Of the content of plan.yaml, whatever its layout, and wherever the data lie."""
    if isinstance(data := frozen.get("data"), Mapping):
        frozen = {**frozen, "data": {**data, "path": None}}
    return hashlib.sha256(json.dumps(frozen, sort_keys=True, default=str).encode()).hexdigest()


def check_plan(folder: Path, frozen: Mapping[str, Any]) -> None:
    """Raises DamagedError where the content of plan.yaml is not what was written."""
    recorded = read(folder)  # after the plan, which is replaced between two writes of this
    if recorded is not None and plan_hash(frozen) not in recorded.plan:
        raise damaged(folder / "plan.yaml", "was changed after the study wrote it")


@dataclass(kw_only=True)
class Content:
    """What a file of lines holds: whole lines, of which some are recorded, and perhaps a torn end."""

    lines: int = 0
    size: int = 0
    hasher: Any = field(default_factory=hashlib.sha256)
    recorded: int = 0
    """Lines that the checksums vouch for."""
    torn: bytes = b""
    """What a crash left after the last whole line: half a line, or lines that are none."""

    def of(self, text: bytes) -> Mark:
        """The mark of a file of this text."""
        self.add(text, text.count(b"\n"))
        return self.mark()

    def add(self, content: bytes, lines: int) -> None:
        """Whole lines were written."""
        self.hasher.update(content)
        self.size += len(content)
        self.lines += lines

    def mark(self) -> Mark:
        """As the checksums hold it."""
        return Mark(lines=self.lines, bytes=self.size, sha256=self.hasher.hexdigest())


def scan(path: Path, mark: Mark, *, ended: bool) -> Content:
    """Read a file of lines and compare it with its mark. Raises DamagedError."""
    content = Content(recorded=mark.lines)
    if not path.is_file():
        if mark.bytes:
            raise damaged(path, f"is missing, with its {_count(mark.lines)}")
        return content
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < mark.bytes:
            held = "is empty, but held" if not size else f"has {size} bytes, but had {mark.bytes} and"
            raise damaged(path, f"{held} {_count(mark.lines)}")
        for at in range(0, mark.bytes, 2**20):
            content.hasher.update(file.read(min(2**20, mark.bytes - at)))
        content.lines, content.size = mark.lines, mark.bytes
        if content.hasher.hexdigest() != mark.sha256:
            raise damaged(path, "was changed after the study wrote it", line=_damaged_line(path, mark.bytes))
        rest = file.read()
    whole = rest[: rest.rfind(b"\n") + 1]
    while whole and not jsonl.is_record(last := whole[whole.rfind(b"\n", 0, -1) + 1 :]):
        whole = whole[: -len(last)]
    lines = whole.split(b"\n")[:-1]
    if lines and ended:
        raise damaged(path, f"has {_count(len(lines))} more than the study wrote", line=mark.lines + 1)
    for number, line in enumerate(lines, start=mark.lines + 1):
        if not jsonl.is_record(line):
            raise damaged(path, "is damaged", line=number)
    content.add(whole, len(lines))
    content.torn = rest[len(whole) :]
    return content


def _count(lines: int) -> str:
    return f"{lines} line" + "s" * (lines != 1)


def _damaged_line(path: Path, size: int) -> int | None:
    """The first line that holds no record, or None."""
    lines = path.read_bytes()[:size].split(b"\n")
    return next((i for i, line in enumerate(lines, start=1) if line and not jsonl.is_record(line)), None)
