"""Files of JSON lines that one process adds to: each record with its checksum, read while the file grows."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lfvd.files import InputError

_CRC = ', "crc": "%08x"}'
"""The end of a line: CRC-32 of all before it."""


def dump(record: Mapping[str, Any]) -> str:
    """A record as a line, with its checksum as the last key."""
    text = json.dumps(record, ensure_ascii=False)[:-1]
    return text + _CRC % zlib.crc32(text.encode())


def parse(line: bytes) -> dict[str, Any]:
    """The record of a line, without its checksum. Raises ValueError for a damaged line; older lines have no checksum."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("holds no record")
    if record.pop("crc", None) is not None:
        line = line.rstrip(b"\n")
        text = line[: -len(_CRC % 0)]
        if line != text + (_CRC % zlib.crc32(text)).encode():
            raise ValueError("its checksum differs")
    return record


def is_record(line: bytes) -> bool:
    """Whether a line holds an undamaged record."""
    try:
        parse(line)
    except ValueError:
        return False
    return True


def is_sealed(line: bytes) -> bool:
    """Whether a line holds an undamaged record with a checksum, which those of older versions do not have."""
    return is_record(line) and "crc" in json.loads(line)


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
            return parse(line)
        except ValueError:
            raise InputError(f"{self.path}, line {self.lines}: is damaged: restore the file from a copy") from None


def read(path: Path) -> list[dict[str, Any]]:
    """All records of a file; none where there is no file."""
    return list(Tail(path).new())
