"""The report as one HTML page with pictures."""

from __future__ import annotations

from pathlib import Path

from multiposenet.data.check.examples import finding_examples
from multiposenet.data.check.findings import EXAMPLES, Finding, Severity
from multiposenet.data.check.report import CheckedSplit, CheckReport
from multiposenet.data.check.statistics import HEAT_RANGE, SplitStatistics
from multiposenet.report_charts import BarChart, heat_picture
from multiposenet.report_page import Figure, Gallery, Items, Note, Page, Part, Section, Table, Text


def write_page(report: CheckReport, path: Path, title: str) -> None:
    """Writes the page; its folder must exist.

    Args:
        report: of the check.
        path: of the HTML file.
        title: heading of the page.

    Raises:
        OSError: it cannot be written.
    """
    tables = {split.table.split: split.table for split in report.splits}
    files = {split.table.split: split.files for split in report.splits}
    sections = [_overview(report)]
    for finding in report.findings:
        examples = finding_examples(finding, tables, files)
        gallery = Gallery([Figure(picture, text, max_side=480) for picture, text in examples]) if examples else None
        sections.append(_finding_section(finding, gallery, len(report.splits) > 1))
    for split in report.splits:
        sections += _split_sections(split)
    lead = "; ".join(
        f"{split.table.split}: {split.statistics.pictures:,} pictures, {split.statistics.people:,} people"
        for split in report.splits
    )
    Page(title, sections, lead).write(path)


def _overview(report: CheckReport) -> Section:
    counts = ", ".join(f"{report.count(severity)} kinds of {severity}s" for severity in reversed(Severity))
    kind = "bad" if report.fails(Severity.ERROR) else "plain" if report.findings else "good"
    parts: list[Part] = [Note(counts if report.findings else "Nothing was found.", kind)]
    if not any(split.files for split in report.splits):
        parts.append(Note("The picture files were not looked at."))
    if report.findings:
        rows = [
            [finding.name, str(finding.severity), finding.split or "between splits", finding.count, finding.of or None]
            for finding in report.findings
        ]
        parts.append(Table(["finding", "severity", "split", "count", "of"], rows, "What was found, the worst first"))
    return Section("Findings", parts)


def _finding_section(finding: Finding, gallery: Gallery | None, several: bool) -> Section:
    of = f" of {finding.of:,} {finding.unit}" if finding.of else ""
    parts: list[Part] = [
        Note(f"{str(finding.severity).capitalize()}: {finding.count:,}{of}. {finding.meaning}",
             "bad" if finding.severity is Severity.ERROR else "plain"),
        Items([str(place) for place in finding.places[:EXAMPLES]]),
    ]  # fmt: skip
    if finding.count > EXAMPLES:
        parts.append(Text(f"and {finding.count - EXAMPLES:,} more; the JSON report lists all of them."))
    if gallery is not None:
        parts.append(gallery)
    where = f" ({finding.split})" if several and finding.split else ""
    return Section(f"{finding.name}{where}", parts)


def _split_sections(split: CheckedSplit) -> list[Section]:
    name, figures = split.table.split, split.statistics
    return [
        Section(f"Figures of {name}", [_figures(split), *_balance(figures), _keypoint_chart(figures)]),
        Section(f"Left and right in {name}", _sides(figures)),
        Section(f"Where the keypoints of {name} lie", _heat(figures)),
    ]


def _figures(split: CheckedSplit) -> Table:
    figures = split.statistics
    rows = [
        ["annotation file", str(split.source.annotations)],
        ["skeleton", split.table.skeleton.name],
        ["pictures", figures.pictures],
        ["without a person", figures.nobody],
        ["annotations", figures.annotations],
        ["people", figures.people],
        ["single, with keypoints", figures.with_keypoints],
        ["crowds", figures.crowds],
        ["most people in one picture", figures.most_people],
        ["labelled keypoints a person", f"{figures.labelled_keypoints:.1f}"],
        *(
            [f"root of the box's area over the picture's shorter side, {name} of people below", f"{side:.2f}"]
            for name, side in figures.box_sides.items()
        ),
        *(
            [f"people whose box overlaps another one's by an IoU over {bound}", f"{100 * share:.1f} %"]
            for bound, share in figures.overlapping.items()
        ),
    ]
    return Table(["", split.table.split], rows)


def _balance(figures: SplitStatistics) -> list[Part]:
    parts: list[Part] = []
    if len(figures.categories) > 1:
        parts.append(
            BarChart(
                list(figures.categories), {"annotations": list(figures.categories.values())}, "Annotations by category"
            )
        )
    caption = "People with keypoints by size (area; medium is 32 x 32 to 96 x 96 pixels)"
    return [*parts, BarChart(list(figures.sizes), {"people": list(figures.sizes.values())}, caption)]


def _keypoint_chart(figures: SplitStatistics) -> BarChart:
    parts = {"visible": figures.visible.tolist(), "hidden": figures.hidden.tolist()}
    return BarChart(list(figures.keypoints), parts, "People on whom each keypoint is labelled")


def _sides(figures: SplitStatistics) -> list[Part]:
    sides = figures.sides
    if not sides.shares:
        return [Text("Nobody has both keypoints of a pair.")]
    whose = "people who show nose and eyes" if sides.judged_by == "face" else "all people with shoulders and hips"
    parts: list[Part] = [
        Table(
            ["pair", "people", "left is on the left, %", "COCO train2017, %"],
            [[s.part, s.people, 100 * s.share, None if s.expected is None else 100 * s.expected] for s in sides.shares],
            f"Judged on {whose}",
            digits=1,
        )
    ]
    if figures.upright is not None:
        shares = ", ".join(f"{100 * share:.1f} % {way}" for way, share in figures.upright.items())
        parts.append(Text(f"From the head to the hips, bodies point {shares} (COCO train2017: 94.3 % down)."))
    return parts


def _heat(figures: SplitStatistics) -> list[Part]:
    labelled = figures.visible + figures.hidden
    return [
        Text(
            f"Each square shows a person's box and {HEAT_RANGE[1] - 1:g} of its sides around it; light is where most "
            "of the labelled keypoints are. A keypoint that is spread like its counterpart on the other side, or lies "
            "where another one should, is often mislabelled."
        ),
        Gallery(
            [
                Figure(heat_picture(counts, side=160), f"{name}: {count:,} people", lossless=True)
                for name, counts, count in zip(figures.keypoints, figures.heat, labelled.tolist(), strict=True)
            ],
            cell=9,
        ),
    ]
