"""The plan of a search: `search_spaces/<name>.yaml`, values only → `SearchPlan`, checked key by key against Config.

`SearchPlan.from_yaml("search_spaces/demo.yaml")` raises one PlanError that lists everything wrong with the file.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, WithJsonSchema, model_validator
from pydantic.dataclasses import dataclass

from lfvd.config import Config, ConfigError, config_keys
from lfvd.files import InputError, read_yaml
from lfvd.schema import CHECKED, NUMBER, Switch, Whole, as_number, replace_old_keys, require, sentences
from tune.parameter import Parameter, parse_space, space_schema

_INSTALLED = Path(__file__).parent / "shipped" / "search_spaces"
SHIPPED = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "search_spaces"
"""Folder of the shipped plans: inside the package where it comes from a wheel, else the checkout's."""

MAX_SEED = 2**31 - 1

AUTO = "auto"

OLD_KEYS = {"scheduler.audit": None, "confirm.max_seeds": None}
"""Key of an older version → today's key; None: it has no effect any more."""

DEPENDENT = ("model.width", "model.heads")
"""Keys of Config whose values must fit each other."""

FIXED = ("run.epochs", "run.threads", "run.device")
"""Keys of Config that a plan's sections decide."""

SECTIONS = ("sampler", "scheduler", "resources", "budget", "confirm")


class PlanError(InputError):
    """A plan that cannot be run; the text lists every problem with its key, value, rule and remedy."""


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class SamplerPlan:
    kind: Literal["tpe", "random", "gp", "qmc"] = "tpe"
    """Optuna's sampler."""
    startup_trials: Annotated[Whole, Field(ge=0, le=100_000)] = 10
    """Random trials before tpe or gp begin to learn."""
    seed: Annotated[Whole, Field(ge=0, le=MAX_SEED)] = 0
    """Seed of the sampler; trial seeds derive from it and the trial's number."""


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class SchedulerPlan:
    kind: Literal["asha", "none"] = "asha"
    """asha stops trials at rungs; none runs each to the end."""
    grace_epochs: Annotated[Whole, Field(ge=1, le=100_000)] = 3
    """Epochs before the first rung."""
    reduction: Annotated[Whole, Field(ge=2, le=100)] = 3
    """At each rung about one trial in this many goes on; rungs lie at grace_epochs times its powers."""
    max_epochs: Annotated[Whole, Field(ge=1, le=100_000)] = 80
    """Epochs of a full trial, and of every confirmation run."""


def _as_gpus(value: Any) -> float:
    """GPUs of a trial; `auto` is 0 until a timed epoch decides it. Raises ValueError for a share that none can have."""
    gpus = 0.0 if value == AUTO else as_number(value)
    if 0 < gpus < 0.01:
        raise ValueError("a share of a GPU must be at least 0.01: try 0.25")
    if 1 < gpus < 64 and gpus != int(gpus):
        raise ValueError(f"must be a share of one GPU or a whole number: try {int(gpus)}")
    return gpus


def _seconds(text: Any) -> float:
    """`90m` → 5400.0; 0 for anything that is not a duration."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", str(text).strip())
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0.0


_OR_AUTO: dict[str, Any] = {"type": ["number", "string"], "pattern": f"^{AUTO}$"}
_CONCURRENT = require(lambda v: v == AUTO or (type(v) is int and v >= 1), "must be auto or a whole number, at least 1")
_DURATION = require(lambda v: _seconds(v) > 0, "must be a number above 0 with s, m, h or d, such as 90m")
_PATTERN = Field(json_schema_extra={"pattern": r"^[0-9]+(\.[0-9]+)?\s*[smhd]$"})


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class ResourcesPlan:
    cpu: Annotated[Whole, Field(ge=1, le=1024)] = 1
    """CPU cores a trial; also its torch threads."""
    gpu: Annotated[float, Field(ge=0, le=64, json_schema_extra=_OR_AUTO), BeforeValidator(_as_gpus)] = 0.0
    """GPUs a trial; a fraction shares one; auto: as many trials share one as fit (SearchPlan.auto_gpu)."""
    max_concurrent: Annotated[int | str, _CONCURRENT, WithJsonSchema({**_OR_AUTO, "minimum": 1})] = AUTO
    """Trials at a time; auto: as many as the cluster holds. A number above that makes an autoscaling cluster grow."""
    epoch_timeout: Annotated[str, _DURATION, _PATTERN] = "30m"
    """A trial whose epoch takes longer counts as hung: its worker is ended, and it continues on another."""

    @property
    def epoch_seconds(self) -> float:
        """The longest epoch in seconds."""
        return _seconds(self.epoch_timeout)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class BudgetPlan:
    wall: Annotated[str, _DURATION, _PATTERN] = ""
    """Time limit of the search, such as 90m or 8h; left out: none. Confirmation comes after it."""
    gpu_hours: Annotated[float, Field(ge=0, le=1e9), NUMBER] = 0.0
    """GPU-hours of the search (trial seconds x gpu share / 3600); 0: no limit."""

    @property
    def wall_seconds(self) -> float:
        """The time limit in seconds; inf without one."""
        return _seconds(self.wall) or math.inf


def _are_seeds(value: Any) -> bool:
    whole = isinstance(value, list | tuple) and value and all(type(s) is int and 0 <= s <= MAX_SEED for s in value)
    return bool(whole) and len(set(value)) == len(value)


_DISTINCT = Field(min_length=1, json_schema_extra={"uniqueItems": True})
_SEEDS = require(_are_seeds, "must be a list of different whole numbers, at least 0")


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class ConfirmPlan:
    finalists: Annotated[Whole, Field(ge=1, le=1000)] = 8
    """Best trials that are trained again on fresh seeds, besides the baseline. A race over 8 takes about the runs of 4 without."""
    seeds: Annotated[tuple[int, ...], _DISTINCT, _SEEDS] = (0, 1, 2, 3, 4)
    """Fresh training seeds of the confirmation; all averages of record are over these."""
    race: Switch = True
    """Drop a finalist before its last seed where it is significantly worse than the leader."""
    baseline: Literal["first", "last"] = "last"
    """Train the baseline on `seeds` before the search, or after it."""


def _set_schema(schema: dict[str, Any]) -> None:
    schema["properties"] = {key: value for key, value in config_keys().items() if key not in FIXED}
    schema["additionalProperties"] = False


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class PlanFile:
    """A plan as its file has it."""

    base: Annotated[str, require(lambda v: isinstance(v, str), "must name a preset or the file of a Config")]
    """A preset, or the file of a Config: its values are the first trial."""
    set: Annotated[dict[str, Any], Field(json_schema_extra=_set_schema)] = dataclasses.field(default_factory=dict)
    """Keys of Config that differ from `base` in every trial."""
    space: Annotated[dict[str, Parameter], BeforeValidator(parse_space), WithJsonSchema(space_schema())]
    """Searched keys of Config: {low: …, high: …}, with log: true if wanted, or {choices: […]}."""
    trials: Annotated[Whole, Field(ge=1)]
    """Trials of the search, the baseline included."""
    sampler: SamplerPlan = SamplerPlan()
    """How the next trial's values are chosen."""
    scheduler: SchedulerPlan = SchedulerPlan()
    """Which trials stop early."""
    resources: ResourcesPlan = ResourcesPlan()
    """What a trial runs on."""
    budget: BudgetPlan = BudgetPlan()
    """Limits of the search besides `trials`."""
    confirm: ConfirmPlan = ConfirmPlan()
    """Training of the best trials over several seeds."""

    @model_validator(mode="after")
    def _check_keys(self) -> PlanFile:
        problems = [f"`{key}` stands in both `set` and `space`: keep one" for key in self.space if key in self.set]
        first, last = self.scheduler.grace_epochs, self.scheduler.max_epochs
        if self.scheduler.kind == "asha" and first >= last:
            problems.append(
                f"`scheduler.grace_epochs` {first} leaves asha no rung below `scheduler.max_epochs` {last}: lower it, or "
                "take kind: none"
            )
        if problems:
            raise InputError("; ".join(problems))
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchPlan(PlanFile):
    """What to search, how, and with what."""

    config: Config
    """The baseline: `base` with `set`, and with the length, threads and device of a trial."""
    source: dict[str, Any] = dataclasses.field(compare=False)
    """The file's own values, as read."""

    @classmethod
    def from_yaml(cls, path: str | Path) -> SearchPlan:
        """Read a plan: a file, or the name of a shipped one. A relative `base` file is looked for beside the plan."""
        shipped = SHIPPED / f"{path}.yaml"
        file = shipped if shipped.is_file() and not Path(path).is_file() else Path(path)
        if not file.is_file():
            names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
            raise PlanError(f"{path}: there is no such file: name a plan, or one of the shipped {names}")
        return cls.from_dict(read_yaml(file), source=str(path), folder=file.parent)

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], *, source: str, folder: Path, config: Config | None = None
    ) -> SearchPlan:
        """Values of a plan file → plan; `config` stands in for reading `base`. Raises PlanError with all problems.

        Whether the config lies in `space` is asked only where the rest is right.
        """
        values = replace_old_keys(values, OLD_KEYS, source)
        given = {"base": None, "trials": None, "space": {}} | values
        given = {k: v for k, v in given.items() if v is not None or k not in ("set", *SECTIONS)}
        file, base, problems = None, config, list[str]()
        try:
            file = TypeAdapter(PlanFile).validate_python(given)
        except ValidationError as error:
            problems += sentences(error, PlanFile)
        try:
            base = config or _base_config(given["base"], given.get("set"), folder)
        except InputError as error:
            problems.append(str(error))
        if file and base and not problems:
            device = "auto" if file.resources.gpu or _is_auto_gpu(values) else "cpu"
            fixed = dict(zip(FIXED, (file.scheduler.max_epochs, file.resources.cpu, device), strict=True))
            plan = cls(**vars(file), config=config or base.with_values(fixed), source=values)
            problems += dict.fromkeys(plan._conflicts())
        if problems:
            raise PlanError(f"{source}: " + "; ".join(problems))
        return plan

    def frozen(self) -> dict[str, Any]:
        """The file's values with all defaults of its sections written out, so that another version's do not change them."""
        sections = {
            name: {k: list(v) if isinstance(v, tuple) else v for k, v in vars(getattr(self, name)).items() if v != ""}
            for name in SECTIONS
        }
        return {**self.source, **{name: found | (self.source.get(name) or {}) for name, found in sections.items()}}

    @property
    def auto_gpu(self) -> bool:
        """Whether `resources.gpu` is auto: 0 here until a timed epoch decides it for a session (tune.preflight.costs)."""
        return _is_auto_gpu(self.source)

    @property
    def baseline(self) -> dict[str, Any]:
        """The base's own values of the searched keys: the first trial of every search."""
        flat = self.config.flat()
        # A list such as data.modalities stands among choices as text "l,a,v": Optuna's choices are scalars.
        return {key: ",".join(flat[key]) if isinstance(flat[key], list) else flat[key] for key in self.space}

    def extended(self, *, trials: int | None, wall: str | None, gpu_hours: float | None) -> SearchPlan:
        """The plan with other limits where they are given. Raises PlanError for impossible ones."""
        limits = {"wall": wall, "gpu_hours": gpu_hours}
        budget = {**(self.source.get("budget") or {}), **{k: v for k, v in limits.items() if v is not None}}
        values = {**self.source, "budget": budget, "trials": self.trials if trials is None else trials}
        return SearchPlan.from_dict(values, source="resume", folder=Path(), config=self.config)

    def config_of(self, values: Mapping[str, Any]) -> Config:
        """A trial's values → the Config that it trains."""
        return self.config.with_values(values)

    def _conflicts(self) -> Iterator[str]:
        """Values of the space that exclude the baseline or, where keys depend on each other, make no Config."""
        if self.budget.gpu_hours and not self.resources.gpu and not self.auto_gpu:
            yield "`budget.gpu_hours` limits nothing where `resources.gpu` is 0: give one of them another value"
        for parameter in self.space.values():
            if not parameter.holds(base := self.baseline[parameter.key]):
                yield (
                    f"`space.{parameter.key}` leaves out the base's own value {base!r}, which is the first trial of every "
                    "search: widen it, or take another base"
                )
        dependent = [self.space[key] for key in DEPENDENT if key in self.space]
        for values in itertools.product(*(p.ends() for p in dependent)):
            try:
                self.config.with_values({p.key: v for p, v in zip(dependent, values, strict=True)}, source="space")
            except ConfigError as error:
                yield str(error)
                if any(p.whole for p in dependent):
                    return  # a range can be wrong in dozens of values


def _base_config(base: Any, values: Any, folder: Path) -> Config | None:
    """The Config that a plan's `base` names, in its folder first, with its `set`; None where either has a wrong type."""
    if not isinstance(base, str) or not isinstance(values, Mapping | None):
        return None
    if both := [key for key in values or () if key in FIXED]:
        raise ConfigError(f"`{both[0]}` comes from `resources` and `scheduler.max_epochs`: set it there")
    beside = folder / base
    return Config.from_yaml(beside if beside.is_file() else base).with_values(values or {}, source="set")


def _is_auto_gpu(values: Mapping[str, Any]) -> bool:
    return bool((values.get("resources") or {}).get("gpu") == AUTO)


def plan_schema() -> dict[str, Any]:
    """JSON schema of a plan's YAML file."""
    return TypeAdapter(PlanFile).json_schema()
