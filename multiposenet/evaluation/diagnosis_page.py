"""A diagnosis as a page to read, and as a few lines for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from multiposenet.evaluation.coco import CocoMetrics
from multiposenet.evaluation.details import detail_lines
from multiposenet.evaluation.diagnosis import FOUND_OKS, Diagnosis, PeopleDiagnosis
from multiposenet.evaluation.keypoint_errors import KINDS
from multiposenet.report_charts import BarChart, LineChart
from multiposenet.report_page import Cell, Figure, Gallery, Items, Note, Page, Part, Section, Table, Text

REPAIR_WORDS = {
    "miss": "keypoints missed",
    "swap": "keypoints on another person",
    "inversion": "left and right exchanged",
    "jitter": "keypoints near, but not right",
    "good": "what good keypoints are still off",
    "scores": "people in the wrong order",
    "false people": "people who are not there",
    "missed people": "people not found",
}
"""What each repair of :data:`multiposenet.evaluation.repairs.REPAIRS` takes away."""

_WORDS = (
    "good: as near to the annotation as another annotator would be (similarity 0.85 or more)",
    "jitter: near, but not that near (similarity 0.5 to 0.85)",
    "inversion: on the same person's mirrored keypoint, left for right",
    "swap: on the same or the mirrored keypoint of another person in the picture",
    "miss: near none of these",
    "missed person: nobody's prediction, not even at OKS 0.10; false person: a prediction that fits nobody; duplicate: "
    "a prediction of somebody whom a better scored one has found already",
    "score error: a person found by a prediction although one of a lower score would fit better",
    "a repair puts things where the annotations have them; scores are repaired by ranking predictions by their OKS",
)
_GROUPS = {
    "size": "By size of the person (segment area below 32 x 32, below 96 x 96, above; AP by COCO's ranges)",
    "people": "By people in the picture",
    "overlap": "By the highest IoU of two boxes in the picture",
    "visibility": "By visibility of the keypoint",
}


def diagnosis_page(
    title: str, lead: str, metrics: CocoMetrics, diagnosis: Diagnosis, figures: Sequence[Figure] = ()
) -> Page:
    """The report.

    Args:
        title: heading; lead: what was measured on, with which weights.
        metrics: the ten numbers and their details.
        diagnosis: of the same predictions.
        figures: the worst pictures, worst first; the section is left out without any.
    """
    sections = [
        Section("Numbers", _numbers(metrics)),
        Section("Where the AP goes", _repairs(diagnosis)),
        Section("Keypoints", _keypoints(diagnosis)),
        Section("People", _people(diagnosis)),
        Section("Curves", _curves(diagnosis)),
    ]
    if figures:
        sections.append(Section(f"The worst {len(figures)} pictures", [Gallery(figures, cell=26)]))
    return Page(title, [*sections, Section("What the words mean", [Items(_WORDS)])], lead)


def diagnosis_lines(diagnosis: Diagnosis) -> list[str]:
    """What costs most, for the terminal."""
    d = diagnosis
    shares = ", ".join(f"{share:.1%} {kind}" for kind, share in d.everybody.keypoints.shares().items())
    return [
        f" keypoints of people found: {shares}",
        f" people: {d.everybody.missed} of {d.everybody.people} missed; predictions: {d.false_people} nobody, "
        f"{d.duplicates} duplicates, of {d.predictions}",
        " AP if repaired, alone and one after the other:",
        *(
            f"  {REPAIR_WORDS[gain.name]:<34} {gain.alone:.3f} ({gain.gain_alone:+.3f})   {gain.so_far:.3f} "
            f"({gain.gain:+.3f})"
            for gain in d.repairs
        ),
    ]


def _numbers(metrics: CocoMetrics) -> list[Part]:
    hints = [] if metrics.details.mixup is None else [metrics.details.mixup]
    return [
        *(Note(hint, "bad") for hint in [*hints, *metrics.details.hints]),
        Table(["COCO", "value"], [[name, None if value < 0 else value] for name, value in metrics.items()]),
        Text("Beside the official numbers:"),
        Items([line.strip() for line in detail_lines(metrics.details)]),
    ]


def _repairs(diagnosis: Diagnosis) -> list[Part]:
    d = diagnosis
    rows: list[list[Cell]] = [["as it is", d.ap, None, d.ap, None]]
    rows += [[REPAIR_WORDS[r.name], r.alone, r.gain_alone, r.so_far, r.gain] for r in d.repairs]
    rows.append(["a perfect set", None, None, d.perfect_ap, d.perfect_ap - d.ap])
    most = max(d.repairs, key=lambda gain: gain.gain_alone)
    return [
        Note(f"Repairing one thing alone, most would come of: {REPAIR_WORDS[most.name]} ({most.gain_alone:+.3f} AP)."),
        Table(
            ["repaired", "AP, alone", "gain, alone", "AP, and all above", "gain"],
            rows,
            "AP after repairs. The last column adds up from the AP as it is to that of a perfect set, which is 1 "
            "unless pictures have more than 20 people",
        ),
        BarChart(
            [REPAIR_WORDS[gain.name] for gain in d.repairs],
            {"gain": [max(0.0, gain.gain_alone) for gain in d.repairs]},
            "AP gained by each repair alone",
        ),
    ]


def _keypoints(diagnosis: Diagnosis) -> list[Part]:
    d = diagnosis
    shares = d.everybody.keypoints.shares()
    by_name = {name: counts.shares() for name, counts in d.keypoints.items()}
    return [
        Table(
            ["kind", "keypoints", "share"],
            [[kind, getattr(d.everybody.keypoints, kind), shares[kind]] for kind in KINDS],
            "Labelled keypoints of the people found",
        ),
        BarChart(
            list(by_name),
            {kind: [own[kind] for own in by_name.values()] for kind in KINDS},
            "Share of each keypoint's labels by kind",
        ),
    ]


def _people(diagnosis: Diagnosis) -> list[Part]:
    d = diagnosis
    counts: list[list[Cell]] = [
        ["people to be found", d.everybody.people],
        ["missed", d.everybody.missed],
        ["found by a prediction although one of a lower score fits better", d.score_errors],
        ["predictions (the best 20 of a picture)", d.predictions],
        ["that are nobody", d.false_people],
        ["duplicates", d.duplicates],
        ["forgiven: on crowds, and one on each person without keypoints", d.forgiven],
    ]
    return [
        Table(["", "number"], counts),
        *(_group_table(_GROUPS[by], (*groups, d.everybody)) for by, groups in d.groups.items()),
    ]


def _group_table(caption: str, groups: Sequence[PeopleDiagnosis]) -> Table:
    return Table(
        ["", "pictures", "people", "missed", "mean OKS of found", "AP", *KINDS],
        [
            [
                group.name,
                group.pictures,
                group.people,
                group.missed,
                group.mean_oks,
                None if group.ap < 0 else group.ap,
                *group.keypoints.shares().values(),
            ]
            for group in groups
        ],
        caption,
    )


def _curves(diagnosis: Diagnosis) -> list[Part]:
    d = diagnosis
    recall = [step / 100 for step in range(101)]
    repaired = {"as it is": d.precision["0.75"]}
    repaired |= {f"+ {gain.name}": gain.precision for gain in d.repairs}
    unit = (0.0, 1.0)
    return [
        LineChart(
            recall,
            {f"OKS {oks}": curve for oks, curve in d.precision.items()},
            "Precision at every recall",
            "recall",
            "precision",
            unit,
        ),
        LineChart(
            recall,
            repaired,
            "Precision at every recall and OKS 0.75, after one repair after the other",
            "recall",
            "precision",
            unit,
        ),
        LineChart(
            [0.5 + 0.05 * step for step in range(10)],
            {"AP": [max(0.0, ap) for ap in d.ap_by_oks]},
            "AP at each OKS threshold",
            "OKS",
            "AP",
            unit,
        ),
        LineChart(
            list(FOUND_OKS),
            {"people": d.found_by_oks},
            "Share of people found at each OKS or better, whatever the scores",
            "OKS",
            "share of people",
            unit,
        ),
    ]
