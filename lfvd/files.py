"""Atomic writes, YAML, and the error and the warning for a user's input."""

from __future__ import annotations

import errno
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk and of a used-up quota."""

YAML_SIZE = 2**18
"""Limit of a YAML file's characters, and of its values with all aliases expanded; real files have a hundredth."""


class InputError(ValueError):
    """Bad input of the user: one sentence with file, key, value, rule and remedy. Command lines print it and exit 2."""

    def __str__(self) -> str:
        """The sentence, which may quote a file, with control characters escaped."""
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().__str__())


def reason(error: Exception) -> str:
    """The text of a library's error in one line, at most 200 characters."""
    return " ".join((str(error) or type(error).__name__).split())[:200]


class InputWarning(UserWarning):
    """A key in a user's file that has another name today, or no effect."""


def print_warnings(program: str) -> None:
    """From now on an InputWarning is one line on stderr that begins with the program's name; others stay as they are."""

    def one_line(message: Warning | str, category: type[Warning], *rest: Any, **kwargs: Any) -> str:
        if issubclass(category, InputWarning):
            return f"{program}: warning: {message}\n"
        return _format_warning(message, category, *rest, **kwargs)

    warnings.formatwarning = one_line


_format_warning = warnings.formatwarning


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, synced to disk, when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_UMASK)  # mkstemp's 0600 would hide results from the user's group
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_UMASK = os.umask(0)
os.umask(_UMASK)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


class _Loader(yaml.SafeLoader):
    """Safe YAML that also refuses a repeated key, aliases that expand to too many values, and integers over 64 bits."""

    def compose_document(self) -> yaml.Node | None:
        node: yaml.Node | None = super().compose_document()
        if node is not None and _count_values(node, {}) > YAML_SIZE:
            raise yaml.composer.ComposerError(None, None, "its aliases repeat too much: write the values out")
        return node


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """Values at and below a node, with aliases expanded. `counts`: id of each node → its values."""
    if id(node) not in counts:
        counts[id(node)] = YAML_SIZE  # of an alias to a node around it
        below = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            below = [part for pair in below for part in pair]
        counts[id(node)] = 1 + sum(_count_values(part, counts) for part in below)
    return counts[id(node)]


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()  # anything may be tagged !!map
    keys = [loader.construct_object(key) for key, _ in pairs]
    for key, count in Counter(key for key in keys if isinstance(key, Hashable)).items():
        if count > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key `{key}` is given twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    value: int = loader.construct_yaml_int(node)
    if abs(value) >= 2**63:  # Python refuses to print much larger ones
        raise yaml.constructor.ConstructorError(None, None, "a whole number has more than 64 bits", node.start_mark)
    return value


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises InputError for a missing file, bad YAML or anything else than a mapping."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(YAML_SIZE + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}: check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a text file in UTF-8: name a YAML file") from None
    if len(text) > YAML_SIZE:
        raise InputError(f"{path}: has more than {YAML_SIZE} characters, but a YAML file of settings has fewer: cut it")
    try:
        values = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    except (LookupError, ArithmeticError, AttributeError):  # by PyYAML, for `!!bool maybe`, `"\UFFFFFFFF"` and such
        raise InputError(f"{path}: is not valid YAML: a value does not fit its tag or escape: correct it") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}, but must hold a mapping of keys to values")
    return values


def write_yaml(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, keys in their order, atomically."""
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    write_text(path, text)
