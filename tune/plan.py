"""The plan of a search: `search_spaces/<name>.yaml`, values only → `SearchPlan`, checked key by key against Config.

`SearchPlan.from_yaml("search_spaces/demo.yaml")` raises one PlanError that lists everything wrong with the file.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, WithJsonSchema, model_validator
from pydantic.dataclasses import dataclass

from lfvd.config import Config, ConfigError, config_keys
from lfvd.files import InputError, read_yaml
from lfvd.schema import CHECKED, Whole, replace_old_keys, require, sentences
from tune.parameter import Parameter, parse_space, space_schema
from tune.sections import AUTO, FULL, BudgetPlan, ConfirmPlan, ResourcesPlan, SamplerPlan, SchedulerPlan

_INSTALLED = Path(__file__).parent / "shipped" / "search_spaces"
SHIPPED = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "search_spaces"
"""Folder of the shipped plans: inside the package where it comes from a wheel, else the checkout's."""

OLD_KEYS = {"scheduler.audit": None, "confirm.max_seeds": None}
"""Key of an older version → today's key; None: it has no effect any more."""

DEPENDENT = ("model.width", "model.heads")
"""Keys of Config whose values must fit each other."""

FIXED = ("run.epochs", "run.threads", "run.device")
"""Keys of Config that a plan's sections decide."""

SECTIONS = ("sampler", "scheduler", "resources", "budget", "confirm")


class PlanError(InputError):
    """A plan that cannot be run; the text lists every problem with its key, value, rule and remedy."""


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
        if self.confirm.folds == "session" and self.confirm.folds_repeats > 1:
            problems.append(
                "`confirm.folds_repeats` deals dialogues anew, but `confirm.folds` is session: take 1, or a number of folds"
            )
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
        file, base, problems, of_base = None, config, list[str](), list[str]()
        try:
            base = config or _base_config(given["base"], given.get("set"), folder)
        except InputError as error:
            of_base.append(str(error))
        confirm = given.get("confirm")
        if base and isinstance(confirm, Mapping) and confirm.get("baseline_epochs") == FULL:
            # From here on a number, which a study's frozen plan keeps.
            own = {"confirm": {**confirm, "baseline_epochs": base.run.epochs}}
            values, given = {**values, **own}, {**given, **own}
        try:
            file = TypeAdapter(PlanFile).validate_python(given)
        except ValidationError as error:
            problems += sentences(error, PlanFile)
        problems += of_base
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

    @property
    def baseline_epochs(self) -> int:
        """Epochs of the baseline's runs after the search."""
        return int(self.confirm.baseline_epochs) or self.scheduler.max_epochs

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
