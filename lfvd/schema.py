"""Checked dataclasses: types of their fields, their JSON schema, and pydantic's errors as sentences for a user."""

from __future__ import annotations

import difflib
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Strict, TypeAdapter, ValidationError

from lfvd.files import InputError, InputWarning

CHECKED = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""An unknown key is an error, and the text below a field is its description in the JSON schema."""


def as_number(value: Any) -> float:
    """A float, an int or text such as `1e-4`, which YAML 1.1 does not read as a number. Raises ValueError for others."""
    try:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        pass
    raise ValueError("must be a number")


NUMBER = BeforeValidator(as_number)
"""Stands behind the range of a float, which is then asked of the number that it reads."""
Whole = Annotated[int, Strict()]
Switch = Annotated[bool, Strict()]


def require(holds: Callable[[Any], bool], rule: str) -> BeforeValidator:
    """A validator that refuses a value unless `holds`; the rule says what the value must be: "must be …"."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(rule)
        return value

    return BeforeValidator(check)


@functools.cache
def key_schemas(model: type) -> dict[str, dict[str, Any]]:
    """Key → JSON schema of each field; keys of a nested dataclass are dotted and stand behind its own."""
    schema, keys = TypeAdapter(model).json_schema(), {}
    for name, field in schema["properties"].items():
        group = schema.get("$defs", {}).get(field.get("$ref", "").rpartition("/")[2], {})
        keys[name] = field
        keys.update({f"{name}.{key}": value for key, value in group.get("properties", {}).items()})
    return keys


def limits(schema: Mapping[str, Any]) -> tuple[float, float]:
    """Smallest and largest value of a number's schema; the smallest may itself be excluded."""
    return schema.get("minimum", schema.get("exclusiveMinimum", -math.inf)), schema.get("maximum", math.inf)


def sentences(error: ValidationError, model: type, *group: str) -> Iterator[str]:
    """Each error of a model, or of a group in it, as a sentence with key, value, rule and remedy."""
    for each in error.errors(include_url=False):
        key, value = ".".join(str(part) for part in (*group, *each["loc"])), each["input"]
        if each["type"] in ("unexpected_keyword_argument", "invalid_key"):
            yield unknown_key(key, key_schemas(model))
        elif each["type"] == "value_error" and isinstance(each["ctx"]["error"], InputError):  # names its keys itself
            yield str(each["ctx"]["error"])
        else:
            yield f"the value of `{key}` is {value!r}, but {_rule(each, key_schemas(model).get(key, {}))}"


_TYPES = {"int_type": "a whole number", "bool_type": "true or false", "string_type": "text"}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}


def _rule(error: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "literal_error":
            choices = schema["enum"]
            return f"must be one of {', '.join(choices)}{_nearest(str(error['input']), choices, cutoff=0.7)}"
        case "dataclass_type" | "dict_type":
            return "must be a mapping of its keys"
        case kind if kind in _TYPES:
            return f"must be {_TYPES[kind]}"
    return "must be " + " and ".join(f"{word} {schema[name]:g}" for name, word in _BOUNDS.items() if name in schema)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The error text for a key that does not exist, with the nearest that does, or those beside it."""
    group, _, name = key.rpartition(".")
    if key in known:  # a dotted key where a file has nested ones
        return f"there is no key `{key}` at the top of the file: write `{group}: {{{name}: …}}`"
    beside = [k for k in known if k.rpartition(".")[0] == group] or [k for k in known if "." not in k] or known
    near = _nearest(key, [k for k in known if "." in k] if group else known)
    return f"there is no key `{key}`{near or ': known keys are ' + ', '.join(beside)}"


def _nearest(text: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    # A bare last part such as `lr` is as common a slip as a typo.
    same_leaf = [k for k in known if k.split(".")[-1] == text.split(".")[-1]]
    near = same_leaf or difflib.get_close_matches(text, list(known), n=1, cutoff=cutoff)
    return f": did you mean `{near[0]}`?" if near else ""


def replace_old_keys(values: Mapping[str, Any], old: Mapping[str, str | None], source: str) -> dict[str, Any]:
    """Nested values with the keys of older versions replaced or left out; warns once if there are any."""
    current = {group: dict(keys) if isinstance(keys, Mapping) else keys for group, keys in values.items()}
    told = []
    for key, new in old.items():
        group, _, name = key.partition(".")
        if not isinstance(current.get(group), dict) or name not in current[group]:
            continue
        value = current[group].pop(name)
        if new is not None:
            new_group, _, new_name = new.partition(".")
            current.setdefault(new_group, {}).setdefault(new_name, value)
        told.append(f"`{key}` is now `{new}`" if new else f"`{key}` has no effect any more")
    if told:
        warnings.warn(f"{source}: {'; '.join(told)}", InputWarning, stacklevel=2)
    return current
