"""The plan of a search: `search_spaces/<name>.yaml`, values only → `SearchPlan`, checked key by key against Config.

`SearchPlan.from_yaml("search_spaces/demo.yaml")` raises one PlanError that lists everything wrong with the file.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna

from lfvd.config import Config, ConfigError, FieldSpec, Range, config_specs, specs_of, unknown_key
from lfvd.files import InputError, read_yaml

SHIPPED = Path(__file__).parent.parent / "search_spaces"

MAX_SEED = 2**31 - 1

AUTO = "auto"


class PlanError(InputError):
    """A plan that cannot be run; the text lists every problem with its key, value, rule and remedy."""


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
        low, high = (int(self.low), int(self.high)) if self.whole else (self.low, self.high)
        if not self.whole:
            return low, high
        # Up to 64 every one, since the heads that divide a width need not lie side by side.
        return tuple(range(int(low), int(high) + 1)) if high - low < 64 else (low, low + 1, high)

    def holds(self, value: Any) -> bool:
        """Whether a value lies in the parameter's range or choices."""
        return value in self.choices if self.choices else self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class SamplerPlan:
    kind: Literal["tpe", "random", "gp", "qmc"] = "tpe"
    """Optuna's sampler."""
    startup_trials: Annotated[int, Range(0, 100_000)] = 10
    """Random trials before tpe or gp begin to learn."""
    seed: Annotated[int, Range(0, MAX_SEED)] = 0
    """Seed of the sampler; trial seeds derive from it and the trial's number."""


@dataclass(frozen=True, kw_only=True)
class SchedulerPlan:
    kind: Literal["asha", "none"] = "asha"
    """asha stops trials at rungs; none runs each to the end."""
    grace_epochs: Annotated[int, Range(1, 100_000)] = 3
    """Epochs before the first rung."""
    reduction: Annotated[int, Range(2, 100)] = 3
    """At each rung about one trial in this many goes on; rungs lie at grace_epochs times its powers."""
    max_epochs: Annotated[int, Range(1, 100_000)] = 80
    """Epochs of a full trial, and of every confirmation run."""
    audit: Annotated[float, Range(0.0, 1.0)] = 0.05
    """Share of the trials stopped at a rung that are run on to the end all the same, to see how well the rungs choose."""


@dataclass(frozen=True, kw_only=True)
class ResourcesPlan:
    cpu: Annotated[int, Range(1, 1024)] = 1
    """CPU cores a trial; also its torch threads."""
    gpu: Annotated[float, Range(0.0, 64.0)] = 0.0
    """GPUs a trial; a fraction shares one; auto: as many trials share one as fit (SearchPlan.auto_gpu)."""
    max_concurrent: str | int = "auto"
    """Trials at a time; auto: as many as the cluster holds. A number above that makes an autoscaling cluster grow."""
    epoch_timeout: str = "30m"
    """A trial whose epoch takes longer counts as hung: its worker is ended, and it continues on another."""

    @property
    def epoch_seconds(self) -> float:
        """The longest epoch in seconds."""
        return _seconds(self.epoch_timeout)


@dataclass(frozen=True, kw_only=True)
class BudgetPlan:
    wall: str = ""
    """Time limit of the search, such as 90m or 8h; empty: none. Confirmation comes after it."""
    gpu_hours: Annotated[float, Range(0.0, 1e9)] = 0.0
    """GPU-hours of the search (trial seconds x gpu share / 3600); 0: no limit."""

    @property
    def wall_seconds(self) -> float:
        """The time limit in seconds; inf without one."""
        return math.inf if not self.wall else _seconds(self.wall)


@dataclass(frozen=True, kw_only=True)
class ConfirmPlan:
    finalists: Annotated[int, Range(1, 1000)] = 8
    """Best trials that are trained again on fresh seeds, besides the baseline. A race over 8 takes about the runs of 4 without."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Fresh training seeds of the confirmation; all averages of record are over these."""
    race: bool = True
    """Drop a finalist before its last seed where it is significantly worse than the leader."""
    max_seeds: Annotated[int, Range(0, 1000)] = 0
    """Finalists that `seeds` cannot tell apart go on to this many seeds; 0: they do not."""
    baseline: Literal["first", "last"] = "last"
    """Train the baseline on `seeds` before the search, or after it."""

    @property
    def extra_seeds(self) -> tuple[int, ...]:
        """Seeds beyond `seeds` that a tie may take: the smallest whole numbers not among them."""
        unused = (seed for seed in itertools.count() if seed not in self.seeds)
        return tuple(itertools.islice(unused, max(0, self.max_seeds - len(self.seeds))))


_SECTIONS = {
    "sampler": SamplerPlan,
    "scheduler": SchedulerPlan,
    "resources": ResourcesPlan,
    "budget": BudgetPlan,
    "confirm": ConfirmPlan,
}


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """What to search, how, and with what; `config` is the baseline with `set` applied and `run.epochs` at full length."""

    base: str
    set: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Parameter]
    trials: int
    sampler: SamplerPlan = SamplerPlan()
    scheduler: SchedulerPlan = SchedulerPlan()
    resources: ResourcesPlan = ResourcesPlan()
    budget: BudgetPlan = BudgetPlan()
    confirm: ConfirmPlan = ConfirmPlan()
    config: Config
    source: dict[str, Any] = field(compare=False)
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
        """Values of a plan file → plan; `config` stands in for reading `base`. Raises PlanError with all problems."""
        reader = _Reader(values, folder, config)
        plan = reader.read()
        if plan is None:
            raise PlanError(f"{source}: " + "; ".join(reader.problems))
        return plan

    def frozen(self) -> dict[str, Any]:
        """The file's values with all defaults of its sections written out, so that another version's do not change them."""
        sections = {
            name: {k: list(v) if isinstance(v, tuple) else v for k, v in vars(getattr(self, name)).items() if v != ""}
            for name in _SECTIONS
        }
        return {**self.source, **{name: found | (self.source.get(name) or {}) for name, found in sections.items()}}

    @property
    def auto_gpu(self) -> bool:
        """Whether `resources.gpu` is auto: 0 here until a timed epoch settles it for a sitting (tune.preflight.costs)."""
        return bool((self.source.get("resources") or {}).get("gpu") == AUTO)

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


class _Reader:
    """Collects problems instead of stopping at the first."""

    def __init__(self, values: Mapping[str, Any], folder: Path, config: Config | None) -> None:
        self.values, self.folder, self.config = values, folder, config
        self.problems: list[str] = []

    def read(self) -> SearchPlan | None:
        known = ["base", "set", "space", "trials", *_SECTIONS]
        self.problems += [unknown_key(str(k), dict.fromkeys(known)) for k in self.values if k not in known]
        sections = {name: self._section(name) for name in _SECTIONS}
        trials = self.values.get("trials")
        if not isinstance(trials, int) or isinstance(trials, bool) or trials < 1:
            self.problems.append(f"the value of `trials` is {trials!r}, but must be a whole number, at least 1")
        config = self.config or self._config(sections)
        space = {key: p for key, spec in self._mapping("space").items() if (p := self._parameter(str(key), spec))}
        if not self._mapping("space"):
            self.problems.append("the value of `space` is empty, but must name at least one key of Config to search")
        if config is None:
            return None
        plan = SearchPlan(
            base=str(self.values["base"]),
            set=dict(self._mapping("set")),
            space=space,
            trials=trials if isinstance(trials, int) else 0,
            config=config,
            source=dict(self.values),
            **sections,
        )
        self._check_combinations(plan)
        return None if self.problems else plan

    def _mapping(self, key: str) -> Mapping[str, Any]:
        value = self.values.get(key) or {}
        if not isinstance(value, Mapping):
            self._once(f"the value of `{key}` is {value!r}, but must be a mapping of its keys")
            return {}
        return value

    def _once(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _section(self, name: str) -> Any:
        cls = _SECTIONS[name]
        own = {f.name for f in dataclasses.fields(cls)}
        specs = specs_of(cls, name)
        special: dict[str, Callable[[Any], str | None]] = {
            "resources.max_concurrent": _max_concurrent,
            "resources.gpu": lambda value: specs["resources.gpu"].problem(value) or _gpu(value),
            "resources.epoch_timeout": functools.partial(_duration, "resources.epoch_timeout"),
            "budget.wall": functools.partial(_duration, "budget.wall"),
            "confirm.seeds": _seeds,
        }
        good: dict[str, Any] = {}
        for short, raw in self._mapping(name).items():
            key = f"{name}.{short}"
            if short not in own:
                self.problems.append(unknown_key(key, dict.fromkeys(f"{name}.{k}" for k in own)))
                continue
            if (key, raw) == ("resources.gpu", AUTO):
                continue
            value = tuple(raw) if isinstance(raw, list) else specs[key].convert(raw)
            problem = special[key](value) if key in special else specs[key].problem(value)
            if problem:
                self.problems.append(problem)
            else:
                good[short] = value
        return cls(**good)

    def _config(self, sections: Mapping[str, Any]) -> Config | None:
        base = self.values.get("base")
        if not isinstance(base, str):
            self.problems.append(f"the value of `base` is {base!r}, but must name a preset or the file of a Config")
            return None
        beside = self.folder / base
        try:
            config = Config.from_yaml(beside if beside.is_file() else base)
            resources = sections["resources"]
            fixed = {
                "run.epochs": sections["scheduler"].max_epochs,
                "run.threads": resources.cpu,
                "run.device": "auto" if resources.gpu or self._mapping("resources").get("gpu") == AUTO else "cpu",
            }
            if both := [k for k in self._mapping("set") if k in fixed]:
                raise ConfigError(f"`{both[0]}` comes from `resources` and `scheduler.max_epochs`: set it there")
            return config.with_values({**self._mapping("set"), **fixed}, source="set")
        except InputError as error:
            self.problems.append(str(error))
            return None

    def _parameter(self, key: str, spec: Any) -> Parameter | None:
        known = config_specs()
        if key not in known:
            self.problems.append(unknown_key(key, known))
        elif key in ("run.epochs", "run.threads", "run.device", "run.patience"):
            self.problems.append(f"`{key}` cannot be searched: it is part of how a trial runs, not of the model")
        elif key in self._mapping("set"):
            self.problems.append(f"`{key}` stands in both `set` and `space`: keep one")
        elif not isinstance(spec, Mapping) or set(spec) not in ({"choices"}, {"low", "high"}, {"low", "high", "log"}):
            self.problems.append(
                f"the value of `space.{key}` is {spec!r}, but must be {{low: …, high: …}}, with log: true if wanted, "
                "or {choices: […]}"
            )
        else:
            return self._choices(key, spec["choices"]) if "choices" in spec else self._range(key, spec, known[key])
        return None

    def _choices(self, key: str, choices: Any) -> Parameter | None:
        if not isinstance(choices, list) or not choices or len({str(c) for c in choices}) != len(choices):
            self.problems.append(f"the value of `space.{key}.choices` is {choices!r}, but must list different values")
            return None
        if any(isinstance(c, list) for c in choices):
            self.problems.append(f'the choices of `space.{key}` hold lists: write each as text, such as "l,a"')
            return None
        return Parameter(
            key=key, choices=tuple(config_specs()[key].convert(c) if not _is_tuple(key) else c for c in choices)
        )

    def _range(self, key: str, spec: Mapping[str, Any], rule: FieldSpec) -> Parameter | None:
        if rule.kind not in (int, float):
            self.problems.append(f"`space.{key}` is no number: give {{choices: […]}} instead of a range")
            return None
        low, high, log = rule.convert(spec["low"]), rule.convert(spec["high"]), spec.get("log", False)
        for end, value in (("low", low), ("high", high)):
            if not isinstance(value, rule.kind) or isinstance(value, bool) or not math.isfinite(value):
                kind = "a whole number" if rule.kind is int else "a number"
                self.problems.append(f"the value of `space.{key}.{end}` is {value!r}, but must be {kind}")
                return None
        if not isinstance(log, bool):
            self.problems.append(f"the value of `space.{key}.log` is {log!r}, but must be true or false")
        elif low >= high:
            self.problems.append(
                f"`space.{key}` has low {low:g} and high {high:g}, but low must be below high: swap them"
            )
        elif log and low <= 0:
            self.problems.append(f"`space.{key}` has log: true and low {low:g}, but a log range must start above 0")
        else:
            return Parameter(key=key, low=low, high=high, log=log, whole=rule.kind is int)
        return None

    def _check_combinations(self, plan: SearchPlan) -> None:
        """Every end and choice must be a Config, alone and where keys depend on each other; the baseline must be inside."""
        for parameter in plan.space.values():
            for value in parameter.ends():
                if parameter.key not in _ENTANGLED:
                    self._try(plan, {parameter.key: value})
            base = plan.baseline[parameter.key]
            if not parameter.holds(base):
                self.problems.append(
                    f"`space.{parameter.key}` leaves out the base's own value {base!r}, which is the first trial of every "
                    "search: widen it, or take another base"
                )
        scheduler = plan.scheduler
        if scheduler.kind == "asha" and scheduler.grace_epochs >= scheduler.max_epochs:
            self.problems.append(
                f"`scheduler.grace_epochs` {scheduler.grace_epochs} leaves asha no rung below `scheduler.max_epochs` "
                f"{scheduler.max_epochs}: lower it, or take kind: none"
            )
        confirm = plan.confirm
        if 0 < confirm.max_seeds < len(confirm.seeds):
            self.problems.append(
                f"`confirm.max_seeds` {confirm.max_seeds} is less than the {len(confirm.seeds)} `confirm.seeds`, which all "
                "finalists may need: raise it, or leave it out"
            )
        if plan.budget.gpu_hours and not plan.resources.gpu and not plan.auto_gpu:
            self.problems.append(
                "`budget.gpu_hours` limits nothing where `resources.gpu` is 0: give one of them another value"
            )
        tangled = [plan.space[k] for k in _ENTANGLED if k in plan.space]
        before = len(self.problems)
        for values in itertools.product(*(p.ends() for p in tangled)):
            self._try(plan, {p.key: v for p, v in zip(tangled, values, strict=True)})
            if len(self.problems) > before and any(p.whole for p in tangled):
                break  # a range can be wrong in dozens of values

    def _try(self, plan: SearchPlan, values: dict[str, Any]) -> None:
        try:
            plan.config.with_values(values, source="space")
        except ConfigError as error:
            self._once(str(error))


_ENTANGLED = ("model.width", "model.heads")
"""Keys whose values must fit each other (Config's rules)."""


def _is_tuple(key: str) -> bool:
    return config_specs()[key].kind is tuple


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    if match is None:
        raise ValueError(text)
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _duration(key: str, value: Any) -> str | None:
    try:
        if _seconds(value) > 0:
            return None
    except (ValueError, AttributeError):
        pass  # said below
    return f"the value of `{key}` is {value!r}, but must be a number above 0 with s, m, h or d, such as 90m"


def _max_concurrent(value: Any) -> str | None:
    if value == AUTO or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return None
    return f"the value of `resources.max_concurrent` is {value!r}, but must be auto or a whole number, at least 1"


def _gpu(value: float) -> str | None:
    if value == int(value) or 0.01 <= value < 1:
        return None
    if value < 0.01:
        return f"the value of `resources.gpu` is {value!r}, but a share of a GPU must be at least 0.01: try 0.25"
    return (
        f"the value of `resources.gpu` is {value!r}, but must be a share of one GPU or a whole number: try {int(value)}"
    )


def _seeds(value: Any) -> str | None:
    whole = isinstance(value, tuple) and value and all(type(s) is int and 0 <= s <= MAX_SEED for s in value)
    if whole and len(set(value)) == len(value):
        return None
    return f"the value of `confirm.seeds` is {value!r}, but must be a list of different whole numbers, at least 0"
