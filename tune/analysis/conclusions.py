"""What a study found, in words: the statement that a reader who hates statistics understands, and what to be wary of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from lfvd.config import PRESETS, Config, config_specs
from tune.analysis.summary import ALPHA, Answer, Noise
from tune.formatting import format_mean_std, format_p_value, format_percent
from tune.plan import Parameter, SearchPlan
from tune.search.trials import AUDITED, ranked
from tune.statistics import Difference, Resampled
from tune.study.study import BASELINE, Study

EDGE = 0.05
"""Part of a range, at either side, that counts as its edge."""

FEWEST_AUDITED = 3
"""Stopped trials run on by which rungs can be judged."""

FAINT = 0.3
"""Rank correlation below which a rung hardly foretells the end."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What to say of a study."""

    sentences: tuple[str, ...]
    """The answer: on validation, then on test where that is open."""
    warnings: tuple[str, ...]
    """What to know before trusting it, the gravest first."""


def statement_of(study: Study, answer: Answer) -> Statement:
    """Say what was found."""
    return Statement(sentences=tuple(_sentences(study, answer)), warnings=tuple(_warnings(study, answer)))


def noise_sentence(noise: Noise) -> str:
    """`seeds alone spread W-F1 by 0.55 points (baseline, 5 seeds); …`."""
    said = (
        f"seeds alone spread W-F1 by {format_percent(noise.deviation)} points (standard deviation of the baseline over "
        f"{noise.seeds} seeds); {noise.seeds} seeds show differences from about {format_percent(noise.smallest)} points on"
    )
    if noise.gap is None:
        return said
    needed = f"{noise.needed} seeds" if noise.needed else "over 1,000 seeds"
    return f"{said}; the gap of {format_percent(noise.gap)} points at hand needs {needed}"


def baseline_words(plan: SearchPlan) -> str:
    """What the baseline is: `the paper's settings`, as far as the plan leaves them alone."""
    if not (PRESETS / f"{plan.base}.yaml").is_file():
        return f"the base config ({plan.base})"
    own, epochs = Config.from_yaml(plan.base).run.epochs, plan.scheduler.max_epochs
    changed = ["with this plan's `set`"] if plan.set else []
    changed += [f"for {epochs} of their {own} epochs"] if epochs != own else []
    return "the paper's settings" + (f" ({', '.join(changed)})" if changed else "")


def _sentences(study: Study, answer: Answer) -> Iterator[str]:
    """The statement: validation first, then test where it is open."""
    other = baseline_words(study.plan)
    if not answer.order:
        yield "There is no winner yet: the confirmation is not finished."
    elif answer.order[0].trial == BASELINE:
        yield f"The search found nothing better than {other}: the baseline itself came out first."
    elif answer.validation is None:
        yield f"Whether the tuned config beats {other} cannot be said: that takes the baseline, and two seeds or more."
    else:
        yield _validation(answer.validation, other, len(answer.order) - 1)
    if answer.test is not None:
        yield _on_test(answer.test, other)


def _validation(found: Difference, other: str, among: int) -> str:
    chosen = f", allowing for the choice among {among} finalists" if among > 1 else ""
    how = f"({found.n} seeds, {format_p_value(found.p)}{chosen})"
    by = f"{format_mean_std(abs(found.mean), found.high - found.mean)} W-F1 points on validation {how}"
    if found.p >= ALPHA:
        return f"No difference could be shown between the tuned config and {other}: it is {_side(found.mean)} by {by}."
    return f"The tuned config {'beats' if found.mean > 0 else 'is worse than'} {other} by {by}."


def comparison(found: Difference, among: int) -> str:
    """`winner − baseline, seed by seed: 1.30, 95 % interval 0.84 to 1.76, paired t test p = 0.004, …`, in points."""
    chosen = f", all allowing for the choice among {among} finalists" if among > 1 else ""
    least = min(1.0, among * 2.0 ** (1 - found.n))
    return (
        f"winner − baseline, seed by seed: {format_percent(found.mean)} points, "
        f"95 % interval {format_percent(found.low)} to {format_percent(found.high)}, paired t test "
        f"{format_p_value(found.p)}, exact test by sign flips {format_p_value(found.exact)} (with "
        f"{found.n} seeds it cannot go below {least:.3g}){chosen}"
    )


def _on_test(found: Resampled, other: str) -> str:
    verdict = "no difference to {} could be shown" if found.p >= ALPHA else "that is a difference to {}"
    return (
        f"On test the tuned config is {_side(found.mean)} by {format_percent(abs(found.mean))} points (95 % interval "
        f"{format_percent(found.low)} to {format_percent(found.high)} over resampled dialogues, {format_p_value(found.p)}): "
        f"{verdict.format(other)}."
    )


def _side(difference: float) -> str:
    return "ahead" if difference >= 0 else "behind"


def _warnings(study: Study, answer: Answer) -> Iterator[str]:
    """What a reader should know before trusting the answer, the gravest first."""
    if len(study.looks()) > 1:
        yield (
            f"the test split was looked at {len(study.looks())} times: its scores have begun to steer, and are no longer "
            f"an independent check ({study.folder / 'test_looks.jsonl'} has who, when and what)"
        )
    yield from _rungs(study, answer)
    yield from _curse(study, answer)
    if answer.tied:
        names = ", ".join(f"trial {n}" for n in answer.tied)
        yield (
            f"{names} cannot be told apart from the winner by the seeds that they ran (5 % level): any of them may be as "
            "good; a plan with `confirm.race: false`, or with more seeds, would tell more"
        )
    if answer.order and answer.order[0].trial != BASELINE:
        values = study.params_of(answer.order[0].trial)
        for key, parameter in study.plan.space.items():
            yield from _edge(parameter, values[key])
    if lucky := [f"`{each.key}`" for each in answer.importance if not each.shown]:
        yield (
            f"the importance of {', '.join(lucky)} is within what chance alone would show in {len(study.trials)} trials: "
            "nothing can be said about their values"
        )


def _curse(study: Study, answer: Answer) -> Iterator[str]:
    """The winner's curse: the luckiest seed of many trials."""
    if answer.search_score is None:
        return
    winner = answer.order[0]
    # A fresh run has another seed: what seeds do to all configs alike counts too.
    degrees = sum(len(c.seeds) - 1 for c in answer.order)
    squares = sum((len(c.seeds) - 1) * c.std["val/wf1"] ** 2 for c in answer.order)
    deviation = math.sqrt(squares / max(1, degrees))
    above = answer.search_score - winner.wf1
    if degrees and above > -stdtrit(degrees, 0.025) * deviation * math.sqrt(1 + 1 / len(winner.seeds)):
        yield (
            f"the winner's search score {format_percent(answer.search_score)} is {format_percent(above)} points above its "
            f"confirmed mean {format_percent(winner.wf1)}: the luck of the best of {len(ranked(study))} trials; quote the confirmed mean"
        )


def _edge(parameter: Parameter, value: Any) -> Iterator[str]:
    """A value at an end of its range, where the range could go on."""
    if parameter.choices:
        yield from _end_of_list(parameter, value)
        return
    if parameter.low == parameter.high:
        return
    scale = math.log if parameter.log else float
    low, high, at = (scale(x) for x in (parameter.low, parameter.high, value))
    place = (at - low) / (high - low)
    if EDGE < place < 1 - EDGE:
        return
    upper = place > 0.5
    half = (high - low) / 2
    reach = (math.exp if parameter.log else float)(high + half if upper else low - half)
    reach = _rounded(reach, up=upper)
    reach = (math.ceil if upper else math.floor)(reach) if parameter.whole else reach
    if rule := config_specs()[parameter.key].range:
        reach = min(max(reach, rule.low), rule.high)
    if not (reach > parameter.high if upper else (0 if parameter.log else -math.inf) < reach < parameter.low):
        return  # Config itself ends there
    ends = (parameter.low, reach) if upper else (reach, parameter.high)
    yield (
        f"the winner's `{parameter.key}` {value if parameter.whole else f'{value:.3g}'} lies at the {'upper' if upper else 'lower'} "
        f"edge of its range: search again with {{low: {ends[0]:g}, high: {ends[1]:g}}}"
    )


def _end_of_list(parameter: Parameter, value: Any) -> Iterator[str]:
    """A number at an end of a list of at least three, which could go on by as much as its last step multiplied."""
    if len(parameter.choices) < 3 or not all(type(x) in (int, float) for x in parameter.choices):
        return
    numbers = sorted(parameter.choices)
    if value not in (numbers[0], numbers[-1]):
        return
    upper, neighbour = value == numbers[-1], numbers[-2] if value == numbers[-1] else numbers[1]
    further = value * value / neighbour if neighbour and value else 2 * value - neighbour
    if all(type(x) is int for x in numbers):
        further = math.ceil(further) if upper else math.floor(further)
    rule = config_specs()[parameter.key].range
    if further == value or (rule and not rule.low <= further <= rule.high):
        return  # Config itself ends there
    yield (
        f"the winner's `{parameter.key}` {value} is the {'largest' if upper else 'smallest'} of its choices: search again with "
        f"{further:g} among them"
    )


def _rounded(value: float, *, up: bool) -> float:
    """To two digits, away from the range."""
    if not value:
        return value
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{(math.ceil if up else math.floor)(round(value / step, 9)) * step:.12g}")


def _rungs(study: Study, answer: Answer) -> Iterator[str]:
    """Rungs that stop good configs, by those that were run on all the same."""
    audit, remedy = answer.audit, "raise `scheduler.grace_epochs`"
    if audit is None:
        return
    winner = answer.order[0].trial if answer.order else None
    if winner in audit.audited:
        yield (
            f"the winner, trial {winner}, would have been lost at a rung ({study.trials[winner].user_attrs[AUDITED]}): it was "
            f"run on only as an audit; {remedy}"
        )
    if others := [f"trial {n}" for n in audit.overtook if n != winner]:
        yield (
            f"{', '.join(others)}, stopped at a rung and run on as an audit, ended above the median of those let through: "
            f"good configs are stopped too early; {remedy}"
        )
    if len(audit.audited) >= FEWEST_AUDITED and audit.correlation < FAINT:
        yield (
            f"the order at the first rung (epoch {audit.rung}) hardly foretells the order at the end: rank correlation "
            f"{audit.correlation:.2f}, by {len(audit.audited)} stopped trials that were run on; {remedy}"
        )
