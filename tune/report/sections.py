"""The chapters of a report on what came out: a heading, how to read it, and figures and tables, or why there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lfvd.files import InputError
from tune.analysis.conclusions import comparison, seed_variance_sentence
from tune.published import dataset_of, published
from tune.report import result_figures
from tune.report.page import Chart, Group, Matrix, Note, Part, Row, Section, Table
from tune.report.report_data import Material
from tune.search.confirmation import Confirmed
from tune.study.study import BASELINE

SPLIT = {"valid": "validation", "test": "test"}

NO_PREDICTIONS = Note(text="Left out: the study's folder holds no predictions (`lfvd-tune confirm` writes them).")


def seeds_of(material: Material) -> str:
    """`5 seeds`."""
    count = len(material.study.plan.confirm.seeds)
    return f"{count} seed{'s' * (count > 1)}"


def beside_the_paper(material: Material) -> Section:
    """Tables 2 and 3 of the paper beside ours."""
    how = (
        "Test scores in percent: F1 of each emotion, accuracy, and weighted F1 (W-F1: the emotions' F1, weighted by how "
        f"often each occurs). Ours are means over {seeds_of(material)}."
    )
    return Section(key="paper", title="Beside the paper", how=how, parts=list(_paper(material)))


def paper_of(material: Material) -> dict[str, dict[str, float | None]]:
    """The paper's rows for this study's data, by system; empty for other data."""
    try:
        dataset = published()[dataset_of(material.study.data.name)]
    except InputError:
        return {}
    names = dataset["classes"]
    table = dataset.get("table2") or dataset["table3"]
    return {
        system: {**dict(zip(names, row["f1"], strict=True)), "acc": row["acc"], "wf1": row["wf1"]}
        for system, row in table.items()
    }


def _paper(material: Material) -> list[Part]:
    rows, classes = paper_of(material), material.classes
    if not rows:
        return [Note(text=f"The paper has no table for these data ({material.study.data.name}).")]
    if not material.scores["test"]:
        return [Note(text="The test split of this study is still sealed: it is opened once, when the ranking stands.")]
    keys = [*classes, "acc", "wf1"]
    theirs = [
        Row(cells=["LFVD as published" if system == "LFVD" else system, *(_cell(row.get(key)) for key in keys)])
        for system, row in rows.items()
    ]
    ours = [
        Row(cells=[f"ours: {role}", *(_mean(seeds, key) for key in keys)], strong=True)
        for role, seeds in sorted(material.scores["test"].items())
    ]
    caveat = (
        "Read with care: nine of twelve public code bases of this field choose the epoch by test score, which makes their "
        "numbers look better than they are; ours chose epoch and values on validation alone. The features, too, are other ones."
    )
    if material.study.data.simulated:
        caveat = "Ours are on simulated data, which the paper's rows are not: they stand here for their form alone."
    return [Table(head=["", *classes, "accuracy", "W-F1"], rows=[*theirs, *ours]), Note(text=caveat, warning=True)]


def _cell(percent: float | None) -> str:
    return "–" if percent is None else f"{percent:.2f}"


def _mean(seeds: Sequence[Mapping[str, float]], key: str) -> str:
    name = key if key in ("acc", "wf1") else f"f1/{key}"
    return f"{100 * np.mean([row[name] for row in seeds]):.2f}"


def finalists(material: Material) -> Section:
    """Seeds as points."""
    how = (
        "One score of one trial is partly luck. So the best trials and the baseline were trained again on fresh seeds. Each "
        "grey point is one seed; the diamond is the mean, and its bar the 95 % interval: where intervals overlap widely, the "
        "order may be chance. The cross is the single score that the search saw: it is often the luckiest."
    )
    order = material.answer.order
    if any(len(each.seeds) < len(order[0].seeds) for each in order):
        how += " A finalist that fell behind was dropped after fewer seeds, and its interval may run out of the frame."
    plot = result_figures.by_seed({_finalist(material, each): (material.study, each) for each in order})
    parts: list[Part] = [
        Chart(plot=plot, label="Validation W-F1 of each finalist by seed, with mean and 95 % interval")
    ]
    parts += [
        Note(text=f"Trial {each.trial} was {each.drop.reason()}.")
        for each in order
        if each.drop and each.trial != BASELINE
    ]
    if found := material.answer.validation:
        text = comparison(found, len(order) - 1)
        parts.append(Note(text=f"{text[0].upper()}{text[1:]}."))
    if material.answer.variance:
        parts.append(Note(text=f"How much is luck: {seed_variance_sentence(material.answer.variance)}."))
    return Section(key="finalists", title="Finalists, seed by seed", how=how, parts=parts)


def _finalist(material: Material, each: Confirmed) -> str:
    """`trial 12 (winner)`, `trial 7, 2 seeds`."""
    name = result_figures.name_of(each.trial, material.answer.order[0].trial)
    few = len(each.seeds) < len(material.study.plan.confirm.seeds)
    return f"{name}, {len(each.seeds)} seed{'s' * (len(each.seeds) > 1)}" if few else name


def emotions(material: Material) -> Section:
    """F1 of each class, and the winner's confusion matrix."""
    split = material.split
    how = (
        "How well each emotion is found, and what it is taken for. F1 is the balance of hits and false alarms (100 % is "
        f"perfect); points are means over {seeds_of(material)}, bars their 95 % intervals."
    )
    rows = material.scores[split]
    paper = {k: v for k, v in paper_of(material).get("LFVD", {}).items() if v is not None} if split == "test" else {}
    plot = result_figures.f1_by_class(rows, material.classes, paper, split=SPLIT[split])
    parts: list[Part] = [Chart(plot=plot, label=f"F1 of each emotion on {SPLIT[split]}"), *_confusion(material)]
    return Section(key="emotions", title="Emotion by emotion", how=how, parts=parts)


def _confusion(material: Material) -> list[Part]:
    found = {split: roles["winner"] for split, roles in material.predictions.items() if "winner" in roles}
    if not found:
        return [NO_PREDICTIONS]
    matrices = [
        Matrix(
            classes=[str(name) for name in each.classes],
            counts=each.confusion().tolist(),
            title=f"The winner on {SPLIT[split]} (%)",
        )
        for split, each in found.items()
    ]
    hint = (
        f"Each row is a true emotion and adds up to 100; all {seeds_of(material)} together. Right answers are on the diagonal, "
        "in bold."
    )
    return [Group(parts=matrices), Note(text=hint)]


def lengths(material: Material) -> Section:
    """W-F1 by dialogue length."""
    how = (
        "Whether long dialogues, with more to remember, are harder. Dialogues are divided as in Figure 4 of the paper; points "
        f"are means over {seeds_of(material)}, bars their 95 % intervals."
    )
    parts: list[Part] = [NO_PREDICTIONS]
    if found := material.predictions[material.split]:
        plot = result_figures.wf1_by_dialogue_length(found)
        parts = [Note(text="Left out: the data name no bins of length.")]
        if plot:
            parts = [Chart(plot=plot, label=f"W-F1 on {SPLIT[material.split]} by dialogue length")]
    return Section(key="lengths", title="Short and long dialogues", how=how, parts=parts)


def fusion(material: Material) -> Section:
    """Fusion weights."""
    how = (
        "How much the winner takes from audio (wᵃ) and visual (wᵛ) beside the modality it leans on, whose weight is always "
        "1. In the paper's fusion a weight lies between 0.5, where a modality agrees with that one, and 1, where it tells "
        "something else. Diamonds are means, bars hold four of five utterances."
    )
    parts: list[Part] = [NO_PREDICTIONS]
    if winner := material.predictions[material.split].get("winner"):
        plot = result_figures.fusion_weights(winner)
        parts = [Note(text="Left out: the winner weighs nothing (one modality, or a fusion without weights).")]
        if plot:
            parts = [Chart(plot=plot, label=f"Fusion weights on {SPLIT[material.split]} by true emotion")]
    return Section(key="fusion", title="What audio and visual add", how=how, parts=parts)
