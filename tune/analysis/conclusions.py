"""Results of a study in sentences: the conclusions on validation and test, and warnings about how far to trust them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from lfvd.config import PRESETS, Config, config_keys
from lfvd.schema import limits
from tune.analysis.summary import SIGNIFICANCE, RunSpread, StudySummary
from tune.formatting import format_mean_std, format_p_value, format_percent
from tune.parameter import Parameter
from tune.plan import SearchPlan
from tune.search.trials import ranked
from tune.statistics import Difference, Resampled
from tune.study.study import BASELINE, Study
from tune.study.test_log import LEDGER, evaluations_of

EDGE = 0.05
"""Share of a range, at either end, that counts as its edge."""


@dataclass(frozen=True, kw_only=True)
class Conclusions:
    """Sentences about a study."""

    sentences: tuple[str, ...]
    """The result on validation, then on test where that was evaluated."""
    warnings: tuple[str, ...]
    """The most serious first."""


def draw_conclusions(study: Study, summary: StudySummary) -> Conclusions:
    """Put a summary into sentences."""
    return Conclusions(sentences=tuple(_sentences(study, summary)), warnings=tuple(_warnings(study, summary)))


def spread_sentence(found: RunSpread) -> str:
    """`runs of one config spread W-F1 by 0.55 points (standard deviation over 5 folds); …`."""
    return (
        f"runs of one config spread W-F1 by {format_percent(found.deviation)} points (standard deviation over "
        f"{found.units} {found.unit}s); the comparison finds differences from about {format_percent(found.smallest)} points "
        "on (with a power of 80 %)"
    )


def comparison_text(found: Difference, summary: StudySummary) -> str:
    """`winner − baseline, fold by fold: 1.30 points, 95 % interval 0.84 to 1.76, corrected t test p = 0.004, …`."""
    unit = summary.spread.unit if summary.spread else "seed"
    among = summary.candidates
    chosen = f", all allowing for the choice among {among} candidates" if among > 1 else ""
    if math.isnan(found.exact):
        exact = ""
    else:
        least = min(1.0, among * 2.0 ** (1 - found.n))
        exact = f", exact test by sign flips {format_p_value(found.exact)} (with {found.n} seeds it cannot go below {least:.3g})"
    test = "t test corrected for overlapping folds" if unit == "fold" else "paired t test"
    return (
        f"winner − baseline, {unit} by {unit}: {format_percent(found.mean)} points, 95 % interval "
        f"{format_percent(found.low)} to {format_percent(found.high)}, {test} {format_p_value(found.p)}{exact}{chosen}"
    )


def baseline_name(plan: SearchPlan) -> str:
    """`the paper's settings`, or the base config by what the plan makes of it."""
    epochs = plan.baseline_epochs
    if not (PRESETS / f"{plan.base}.yaml").is_file():
        return f"the base config ({plan.base}, {epochs} epochs)"
    own = Config.from_yaml(plan.base).run.epochs
    if not plan.set and epochs == own:
        return "the paper's settings"
    changed = " with this plan's `set`" if plan.set else ""
    return f"the base config ({plan.base}{changed}, {epochs} epochs" + (f" of {own})" if epochs != own else ")")


def _sentences(study: Study, summary: StudySummary) -> Iterator[str]:
    baseline = baseline_name(study.plan)
    if not summary.order:
        yield "There is no winner yet: the confirmation is not finished."
    elif summary.order[0].trial == BASELINE:
        yield f"The search found nothing better than {baseline}: the baseline itself came out first."
    elif summary.validation is None:
        yield f"Whether the tuned config beats {baseline} cannot be said: that takes the baseline, and two runs or more of each."
    else:
        yield _on_validation(summary.validation, baseline, summary, study)
    if summary.test is not None:
        yield _on_test(summary.test, baseline)


def _on_validation(found: Difference, baseline: str, summary: StudySummary, study: Study) -> str:
    chosen = f", allowing for the choice among {summary.candidates} candidates" if summary.candidates > 1 else ""
    where = (
        f"over {found.n} runs of {study.folds} folds of train + valid"
        if study.folds
        else f"on validation over {found.n} seeds"
    )
    how = f"({format_p_value(found.p)}{chosen})"
    by = f"{format_mean_std(abs(found.mean), found.high - found.mean)} W-F1 points {where} {how}"
    if found.p >= SIGNIFICANCE:
        side = "ahead" if found.mean >= 0 else "behind"
        return f"No difference could be shown between the tuned config and {baseline}: it is {side} by {by}."
    return f"The tuned config {'beats' if found.mean > 0 else 'is worse than'} {baseline} by {by}."


def _on_test(found: Resampled, baseline: str) -> str:
    side = "ahead" if found.mean >= 0 else "behind"
    shown = (
        f"that is a difference to {baseline}"
        if found.p < SIGNIFICANCE
        else f"no difference to {baseline} could be shown"
    )
    return (
        f"On test the tuned config is {side} by {format_percent(abs(found.mean))} points (95 % interval "
        f"{format_percent(found.low)} to {format_percent(found.high)} over resampled dialogues, {format_p_value(found.p)}): "
        f"{shown}."
    )


def _warnings(study: Study, summary: StudySummary) -> Iterator[str]:
    yield from evaluation_warnings(study)
    yield from winners_curse_warning(study, summary)
    if summary.tied:
        names = ", ".join(f"trial {n}" for n in summary.tied)
        yield (
            f"{names} cannot be told apart from the winner by the runs that were compared (5 % level): any of them may be as "
            f"good; a plan with more {'`confirm.folds_repeats`' if study.folds else '`confirm.seeds`'} would tell more"
        )
    if summary.order and summary.order[0].trial != BASELINE:
        values = study.params_of(summary.order[0].trial)
        for key, parameter in study.plan.space.items():
            yield from edge_warning(parameter, values[key])
    if lucky := [f"`{each.key}`" for each in summary.importance if not each.shown]:
        yield (
            f"the importance of {', '.join(lucky)} is within what chance alone would show in {len(study.trials)} trials: "
            "nothing can be said about their values"
        )


def evaluation_warnings(study: Study) -> Iterator[str]:
    """Told where the test split of a study's data was evaluated more than once, by whatever study of its results folder."""
    results = study.folder.parent
    evaluations, unreadable = evaluations_of(study.data.fingerprint, results)
    if len(evaluations) > 1:
        counts = Counter(each["study"] for each in evaluations)
        names = [name if count == 1 else f"{name} ({count} times)" for name, count in counts.items()]
        yield (
            f"the test split of these data was evaluated {len(evaluations)} times, by {', '.join(names)}: its scores have begun "
            f"to steer, and are no longer an independent check ({results / LEDGER} has who, when and what)"
        )
    for path in unreadable:
        yield f"{path}: cannot be read: evaluations of the test split that only it has are not counted; restore it from a copy"


def winners_curse_warning(study: Study, summary: StudySummary) -> Iterator[str]:
    """Told where the winner's search score is above the 95 % prediction interval of a fresh run."""
    if summary.search_score is None:
        return
    winner = summary.order[0]
    # Spread within each config: a fresh run has another seed, so what seeds do to all configs alike counts too.
    degrees = sum(len(each.units) - 1 for each in summary.order)
    squares = sum((len(each.units) - 1) * each.std["val/wf1"] ** 2 for each in summary.order)
    deviation = math.sqrt(squares / max(1, degrees))
    above = summary.search_score - winner.wf1
    if degrees and above > -stdtrit(degrees, 0.025) * deviation * math.sqrt(1 + 1 / len(winner.units)):
        yield (
            f"the winner's search score {format_percent(summary.search_score)} is {format_percent(above)} points above its "
            f"confirmed mean {format_percent(winner.wf1)}: the luck of the best of {len(ranked(study))} trials; quote the "
            "confirmed mean"
        )


def edge_warning(parameter: Parameter, value: Any) -> Iterator[str]:
    """Told where a value lies at an end of its range or list that Config would let go on."""
    key = parameter.key
    if parameter.choices:
        if (further := _next_choice(parameter, value)) is not None:
            end = "largest" if value == max(parameter.choices) else "smallest"
            yield f"the winner's `{key}` {value} is the {end} of its choices: search again with {further:g} among them"
    elif wider := _wider_range(parameter, value):
        shown, side = value if parameter.whole else f"{value:.3g}", "upper" if wider[1] > parameter.high else "lower"
        yield (
            f"the winner's `{key}` {shown} lies at the {side} edge of its range: search again with "
            f"{{low: {wider[0]:g}, high: {wider[1]:g}}}"
        )


def _wider_range(parameter: Parameter, value: float) -> tuple[float, float] | None:
    """The range, half as wide again at the end where the value lies; None elsewhere, and where Config itself ends there."""
    if parameter.low == parameter.high:
        return None
    scale, inverse = (math.log, math.exp) if parameter.log else (float, float)
    low, high = scale(parameter.low), scale(parameter.high)
    place, half = (scale(value) - low) / (high - low), (high - low) / 2
    if EDGE < place < 1 - EDGE:
        return None
    upper = place > 0.5
    away = math.ceil if upper else math.floor
    reach = inverse(high + half if upper else low - half)
    if reach:  # two digits, rounded away from the range
        step = 10.0 ** (math.floor(math.log10(abs(reach))) - 1)
        reach = float(f"{away(round(reach / step, 9)) * step:.12g}")
    reach = away(reach) if parameter.whole else reach
    smallest, largest = limits(config_keys()[parameter.key])
    reach = min(max(reach, smallest), largest)
    if upper:
        return (parameter.low, reach) if reach > parameter.high else None
    return (reach, parameter.high) if reach < parameter.low and (reach > 0 or not parameter.log) else None


def _next_choice(parameter: Parameter, value: Any) -> float | None:
    """The number after an end of a list of three or more, by the ratio of the last step; None elsewhere, and where Config ends."""
    plain = all(type(each) in (int, float) for each in parameter.choices)
    numbers = sorted(parameter.choices) if plain else []
    if len(numbers) < 3 or value not in (numbers[0], numbers[-1]):
        return None
    upper = value == numbers[-1]
    neighbour = numbers[-2 if upper else 1]
    further = value * value / neighbour if neighbour and value else 2 * value - neighbour
    if all(type(each) is int for each in numbers):
        further = math.ceil(further) if upper else math.floor(further)
    smallest, largest = limits(config_keys()[parameter.key])
    return float(further) if further != value and smallest <= further <= largest else None
