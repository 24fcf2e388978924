"""One searched key of a plan: its range or choices, checked against Config."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from lfvd.config import Config, config_keys
from lfvd.files import InputError
from lfvd.schema import as_number, unknown_key

NOT_SEARCHED = ("run.epochs", "run.threads", "run.device", "run.patience")
"""Keys of Config that say how a trial runs."""

DEPENDENT = ("model.width", "model.heads")
"""Keys whose values must fit each other (Config's rules)."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One searched key: a range (float or int, `log` for even spread over orders of magnitude) or choices."""

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()
    whole: bool = False

    @property
    def distribution(self) -> optuna.distributions.BaseDistribution:
        """The parameter as Optuna samples it."""
        if self.choices:
            return optuna.distributions.CategoricalDistribution(self.choices)
        if self.whole:
            return optuna.distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return optuna.distributions.FloatDistribution(self.low, self.high, log=self.log)

    def ends(self) -> tuple[Any, ...]:
        """Values that together show whether Config accepts the whole parameter."""
        if self.choices:
            return self.choices
        if not self.whole:
            return self.low, self.high
        low, high = int(self.low), int(self.high)
        # Up to 64 every one, since the heads that divide a width need not lie side by side.
        return tuple(range(low, high + 1)) if high - low < 64 else (low, low + 1, high)

    def holds(self, value: Any) -> bool:
        """Whether a value lies in the parameter's range or choices."""
        return value in self.choices if self.choices else self.low <= value <= self.high


def parse_space(space: Any) -> dict[str, Parameter]:
    """A plan's `space` → its parameters by key. Raises ValueError with everything wrong in it."""
    if not isinstance(space, Mapping):
        raise ValueError("must be a mapping of its keys")
    if not space:
        raise ValueError("the value of `space` is empty, but must name at least one key of Config to search")
    found, problems = {}, list[str]()
    for key, spec in space.items():
        try:
            found[str(key)] = parse_parameter(str(key), spec)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems))
    return found


def parse_parameter(key: str, spec: Any) -> Parameter:
    """`{low, high, log}` or `{choices}` of a key of Config. Raises InputError."""
    if key not in config_keys():
        raise InputError(unknown_key(key, config_keys()))
    if key in NOT_SEARCHED:
        raise InputError(f"`{key}` cannot be searched: it is part of how a trial runs, not of the model")
    if not isinstance(spec, Mapping) or set(spec) not in ({"choices"}, {"low", "high"}, {"low", "high", "log"}):
        raise InputError(
            f"the value of `space.{key}` is {spec!r}, but must be {{low: …, high: …}}, with log: true if wanted, "
            "or {choices: […]}"
        )
    return _choices(key, spec["choices"]) if "choices" in spec else _range(key, spec)


def _choices(key: str, choices: Any) -> Parameter:
    if not isinstance(choices, list) or not choices or len({str(c) for c in choices}) != len(choices):
        raise InputError(f"the value of `space.{key}.choices` is {choices!r}, but must list different values")
    if any(isinstance(choice, list) for choice in choices):
        raise InputError(f'the choices of `space.{key}` hold lists: write each as text, such as "l,a"')
    _check_each(key, choices)
    is_float = config_keys()[key]["type"] == "number"
    return Parameter(key=key, choices=tuple(as_number(choice) if is_float else choice for choice in choices))


def _range(key: str, spec: Mapping[str, Any]) -> Parameter:
    kind, log = config_keys()[key]["type"], spec.get("log", False)
    if kind not in ("integer", "number"):
        raise InputError(f"`space.{key}` is no number: give {{choices: […]}} instead of a range")
    low, high = (_end(f"space.{key}.{end}", spec[end], whole=kind == "integer") for end in ("low", "high"))
    if not isinstance(log, bool):
        raise InputError(f"the value of `space.{key}.log` is {log!r}, but must be true or false")
    if low >= high:
        raise InputError(f"`space.{key}` has low {low:g} and high {high:g}, but low must be below high: swap them")
    if log and low <= 0:
        raise InputError(f"`space.{key}` has log: true and low {low:g}, but a log range must start above 0")
    parameter = Parameter(key=key, low=low, high=high, log=log, whole=kind == "integer")
    _check_each(key, parameter.ends())
    return parameter


def _end(key: str, value: Any, *, whole: bool) -> float:
    try:
        if whole and type(value) is not int:
            raise ValueError("must be a whole number")
        if not math.isfinite(end := value if whole else as_number(value)):
            raise ValueError("must be a number")
    except ValueError as error:
        raise InputError(f"the value of `{key}` is {value!r}, but {error}") from None
    return end


def _check_each(key: str, values: Sequence[Any]) -> None:
    """Each alone must be a value of the key; where it must fit other keys, the plan checks it with them."""
    for value in values if key not in DEPENDENT else ():
        Config().with_values({key: value}, source="space")


def space_schema() -> dict[str, Any]:
    """JSON schema of `space`: for each key choices or, if it is a number, a range."""
    keys = {}
    for key, schema in config_keys().items():
        value = {k: v for k, v in schema.items() if k not in ("default", "description", "title")}
        items = {"type": "string"} if key == "data.modalities" else value
        forms: list[dict[str, Any]] = [
            {"choices": {"type": "array", "items": items, "minItems": 1, "uniqueItems": True}}
        ]
        if value["type"] in ("integer", "number"):
            forms.append({"low": value, "high": value, "log": {"type": "boolean", "default": False}})
        closed = {"type": "object", "additionalProperties": False}
        forms = [closed | {"properties": form, "required": list(form)[:2]} for form in forms]
        keys[key] = {"description": schema["description"], "oneOf": forms}
    searched = {key: forms for key, forms in keys.items() if key not in NOT_SEARCHED}
    return {"type": "object", "properties": searched, "additionalProperties": False, "minProperties": 1}
