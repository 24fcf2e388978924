"""`report.html`: what a study found, how sure that is, and what the search was worth, read from its folder alone.

write_report(Study.open(Path("results/demo")))      no data is read, and the test split is not looked at

An unfinished study has a page too: it says what is not known yet.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from tune.formatting import format_hours
from tune.report import search_sections
from tune.report import sections as result_sections
from tune.report.figures import ending
from tune.report.page import Listing, Note, Page, Part, Row, Section, Table, write_page
from tune.report.report_data import Material, gather
from tune.report.result_figures import name_of, with_interval
from tune.report.sections import SPLIT, paper_of
from tune.study.study import Study

KICKER = "Hyperparameter search of LFVD"

MOST_FAULTS = 30
"""Faults shown, the last ones."""


def write_report(study: Study) -> Path:
    """Write the report into the study's folder, atomically → its path. Raises InputError for a file that is damaged."""
    return write_page(study.folder / "report.html", report_of(study))


def report_of(study: Study) -> Page:
    """The page."""
    if not study.trials:
        nothing = "Nothing is known yet: no trial has begun."
        return Page(kicker=KICKER, title=study.name, facts=[study.data.name], notices=notices(study), answer=[nothing])
    material = gather(study)
    confirmed = [
        result_sections.beside_the_paper,
        result_sections.finalists,
        result_sections.emotions,
        result_sections.lengths,
        result_sections.fusion,
    ]
    sections = [
        *(chapter(material) for chapter in confirmed if material.roles),
        search_sections.history(material),
        search_sections.curves(material),
        search_sections.parameters(material),
        search_sections.worth(material),
        _faults(study),
        _provenance(study),
        _again(study),
    ]
    return Page(
        kicker=KICKER,
        title=study.name,
        facts=_facts(material),
        notices=notices(study),
        answer=material.statement.sentences,
        summary=_summary(material),
        warnings=material.statement.warnings,
        sections=sections,
    )


def notices(study: Study) -> list[str]:
    """That modalities are simulated."""
    names = list(study.data.simulated)
    if not names:
        return []
    which = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    verb = "are" if len(names) > 1 else "is"
    return [
        f"Simulated: {which} {verb} drawn from the true labels, not recorded. The scores show that the software works; they say "
        "nothing about real data."
    ]


def _facts(material: Material) -> list[str]:
    """Data, size, cost and date."""
    study = material.study
    ends: dict[str, int] = {}
    for trial in study.trials:
        word = "stopped early" if ending(trial).startswith("stopped") else ending(trial)
        ends[word] = ends.get(word, 0) + 1
    states = ", ".join(f"{count} {word}" for word, count in ends.items())
    facts = [
        study.data.name,
        f"{len(study.trials)} of {study.plan.trials} trials ({states})",
        f"{len(study.confirmed())} runs of confirmation",
        format_hours(material.hours.search + material.hours.confirmation, material.hours.unit),
    ]
    return [*facts, f"begun {study.began:%Y-%m-%d}"] if study.began else facts


def _summary(material: Material) -> list[Part]:
    """Winner, baseline and paper in a few figures."""
    if not material.roles:
        return [
            Note(
                text="Below is the search so far. Scores on fresh seeds, by emotion and on test come with the confirmation."
            )
        ]
    winner = material.roles["winner"].trial
    splits = ["valid", *(["test"] if material.scores["test"] else [])]
    rows = [
        Row(
            cells=[name_of(each.trial, winner), *(_wf1(material.scores[split].get(role, ())) for split in splits)],
            strong=role == "winner",
        )
        for role, each in material.roles.items()
    ]
    if (paper := paper_of(material).get("LFVD")) and "test" in splits:
        rows.append(Row(cells=["LFVD as published", "", f"{paper['wf1']:.2f}"]))
    caption = f"Percent; mean ± half of the 95 % interval over {result_sections.seeds_of(material)}."
    return [Table(head=["", *(f"{SPLIT[split]} W-F1" for split in splits)], rows=rows, caption=caption)]


def _wf1(seeds: Sequence[Mapping[str, float]]) -> str:
    return with_interval([100 * row["wf1"] for row in seeds]) if seeds else "–"


def _faults(study: Study) -> Section:
    how = "What went wrong on the way, and what was done about it. A fault that was made good costs time, not truth."
    faults = study.faults()
    parts: list[Part] = [Note(text="Nothing went wrong.")]
    if faults:
        rows = [
            Row(cells=[fault["time"][:16].replace("T", " "), _where(study, fault), fault["reason"], fault["then"]])
            for fault in faults[-MOST_FAULTS:]
        ]
        parts = [Table(head=["when", "where", "what happened", "what was done"], rows=rows, prose=True)]
    if len(faults) > MOST_FAULTS:
        parts.append(Note(text=f"The last {MOST_FAULTS} of {len(faults)}; faults.jsonl has them all."))
    return Section(key="faults", title="What went wrong", how=how, parts=parts)


def _where(study: Study, fault: Mapping[str, object]) -> str:
    """The seed is told where it is one of the plan's; those of the search are long and say nothing."""
    keys = ("trial", "seed") if fault.get("stage") == study.stage else ("trial",)
    return ", ".join(f"{key} {fault[key]}" for key in keys if key in fault) or "study"


def _provenance(study: Study) -> Section:
    how = "Where the result comes from: with these a reader can tell whether two results may be compared."
    looks = [f"{look['time'][:16].replace('T', ' ')} by {look['user']} on {look['host']}" for look in study.looks()]
    versions = study.info.get("versions", {})
    facts = {
        "data": study.data.name,
        "fingerprint of the data": study.data.fingerprint,
        "simulated": ", ".join(study.data.simulated) or "nothing",
        "looks at the test split": f"{len(looks)}: {'; '.join(looks)}" if looks else "none: it is still sealed",
        "commit": study.info.get("commit", "unknown"),
        "device": study.info.get("device", "unknown"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown",
        "command": study.info.get("command", "unknown"),
    }
    rows = [Row(cells=[name, value]) for name, value in facts.items()]
    paths = [path for name in ("best.yaml", "plan.yaml") if (path := study.folder / name).is_file()]
    files = [Listing(title=path.name, text=path.read_text(encoding="utf-8"), folded=True) for path in paths]
    return Section(
        key="provenance", title="Provenance", how=how, parts=[Table(head=["", ""], rows=rows, prose=True), *files]
    )


def _again(study: Study) -> Section:
    best, data = study.folder / "best.yaml", os.path.relpath(study.data.path)
    resume = ["lfvd-tune", "resume", study.name, "--results", str(study.folder.parent)]
    if not best.is_file():
        return _commands("This goes on with the search and its confirmation, whatever ended it.", [resume])
    runs, seeds = f"runs/{study.name}", ",".join(str(seed) for seed in study.plan.confirm.seeds)
    how = (
        "On the same machine the first command trains the winner to the same scores, seed by seed; the second looks at the test "
        "split; the last extends the search."
    )
    train = ["lfvd", "train", str(best), "--data", data, "--seeds", seeds, "--out", runs]
    evaluate = ["lfvd", "evaluate", runs, "--data", data, "--split", "test"]
    return _commands(how, [train, evaluate, [*resume, "--trials", str(2 * study.plan.trials)]])


def _commands(how: str, commands: Sequence[Sequence[str]]) -> Section:
    text = "\n".join(shlex.join(words) for words in commands)
    return Section(key="again", title="Do it again", how=how, parts=[Listing(text=text)])
