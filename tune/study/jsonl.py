"""Files of JSON lines that one process adds to: whole lines or none, mended at the end, read while they grow."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lfvd.files import InputError


def write(path: Path, lines: list[str], *, force: bool) -> None:
    """Add whole lines; what a full disk let through of an earlier attempt is cut off first.

    force: not only to the system's memory, which a power cut empties, but to the disk.
    """
    with path.open("ab") as file:
        file.truncate(_whole(path))
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.flush()
        if force:
            os.fsync(file.fileno())


def mend(path: Path) -> str | None:
    """Cut off what a power cut left at a file's end: half a line, or lines that are none → a warning, or None."""
    if not path.is_file():
        return None
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    while whole and not _is_record(last := whole[whole.rfind(b"\n", 0, -1) + 1 :]):
        whole = whole[: -len(last)]
    if len(whole) == len(text):
        return None
    os.truncate(path, len(whole))
    return f"{path}: its last line was cut off ({len(text) - len(whole)} bytes): removed, nothing before it is lost"


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


class Tail:
    """Records of a file of lines that grows: each `new()` goes on where the last one ended."""

    def __init__(self, path: Path, *, convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> None:
        self.path, self.convert, self.lines, self._read = path, convert, 0, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Records that nobody asked for yet. Raises InputError for a damaged line."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            # Only "\n" ends a line (a class name may hold other separators); what follows the last is still being written.
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                self.lines += 1
                yield self._record(line) if self.convert is None else self.convert(self._record(line))

    def _record(self, line: bytes) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:
            raise InputError(
                f"{self.path}, line {self.lines}: is damaged, not at the end where it could be cut off: restore the file "
                "from a copy"
            ) from None
        return record


def read(path: Path) -> list[dict[str, Any]]:
    """All records of a file; none where there is no file."""
    return list(Tail(path).new())


def _whole(path: Path) -> int:
    """Size of a file's whole lines: a full disk or a power cut leaves part of one at the end."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
        if not size or file.read(1) == b"\n":
            return size
    return path.read_bytes().rfind(b"\n") + 1
