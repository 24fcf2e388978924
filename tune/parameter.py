"""One searched key of a plan: its range or choices, checked against Config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from lfvd.config import checked_value, config_keys
from lfvd.files import InputError
from lfvd.schema import unknown_key

NOT_SEARCHED = ("run.epochs", "run.threads", "run.device", "run.patience")
"""Keys of Config that say how a trial runs."""


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
    """A plan's `space` → its parameters by key. Raises InputError with everything wrong in it."""
    if not isinstance(space, Mapping):
        raise ValueError("must be a mapping of its keys")
    if not space:
        raise InputError("the value of `space` is empty, but must name at least one key of Config to search")
    found, problems = {}, list[str]()
    for key, spec in space.items():
        try:
            found[str(key)] = parse_parameter(str(key), spec)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))
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
    values = [checked_value(key, choice, "space") for choice in choices]
    return Parameter(key=key, choices=tuple(choices if key == "data.modalities" else values))


def _range(key: str, spec: Mapping[str, Any]) -> Parameter:
    kind, log = config_keys()[key]["type"], spec.get("log", False)
    if kind not in ("integer", "number"):
        raise InputError(f"`space.{key}` is no number: give {{choices: […]}} instead of a range")
    low, high = (checked_value(key, spec[end], "space") for end in ("low", "high"))
    if not isinstance(log, bool):
        raise InputError(f"the value of `space.{key}.log` is {log!r}, but must be true or false")
    if low >= high:
        raise InputError(f"`space.{key}` has low {low:g} and high {high:g}, but low must be below high: swap them")
    if log and low <= 0:
        raise InputError(f"`space.{key}` has log: true and low {low:g}, but a log range must start above 0")
    return Parameter(key=key, low=low, high=high, log=log, whole=kind == "integer")


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
