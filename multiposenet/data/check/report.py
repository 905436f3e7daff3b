"""The check of a data set: every check on every split, and the report of it as text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multiposenet.data.check.axes import AXIS_CHECKS
from multiposenet.data.check.boxes import BOX_CHECKS
from multiposenet.data.check.findings import Finding, Severity, run_check
from multiposenet.data.check.keypoints import KEYPOINT_CHECKS
from multiposenet.data.check.label_table import LabelTable, read_table
from multiposenet.data.check.picture_files import PictureFile, examine_pictures, picture_checks, with_file_sizes
from multiposenet.data.check.records import RECORD_CHECKS
from multiposenet.data.check.sides import SIDE_CHECKS
from multiposenet.data.check.sources import SplitSource
from multiposenet.data.check.splits import find_leaks, find_unmentioned
from multiposenet.data.check.statistics import SplitStatistics, describe_split
from multiposenet.skeletons import Skeleton

LABEL_CHECKS = (*RECORD_CHECKS, *KEYPOINT_CHECKS, *BOX_CHECKS, *SIDE_CHECKS, *AXIS_CHECKS)
"""Everything that is asked of an annotation file alone."""

_SHOWN = 3  # examples of a finding in the text


@dataclass(frozen=True)
class CheckedSplit:
    """One split and what it is.

    Args:
        source: where it lies.
        table: its labels.
        files: its pictures in the order of the table's images; empty where nobody looked.
        statistics: its figures.
    """

    source: SplitSource
    table: LabelTable
    files: Sequence[PictureFile]
    statistics: SplitStatistics


@dataclass(frozen=True)
class CheckReport:
    """What the check of a data set found.

    Args:
        splits: all that were looked at.
        findings: the worst first; equal ones in the order of the checks.
    """

    splits: tuple[CheckedSplit, ...]
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """Number of findings of that severity."""
        return sum(finding.severity is severity for finding in self.findings)

    def fails(self, fail_on: Severity) -> bool:
        """Whether anything is as bad as that, or worse."""
        return any(finding.severity >= fail_on for finding in self.findings)

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {
            "splits": {
                split.table.split: {
                    "annotations_file": str(split.source.annotations),
                    "format": split.source.layout.name,
                    "skeleton": split.table.skeleton.to_dict(),
                    "pictures_read": len(split.files),
                    **split.statistics.to_dict(),
                }
                for split in self.splits
            },
            "counts": {str(severity): self.count(severity) for severity in reversed(Severity)},
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def lines(self) -> list[str]:
        """The report as text."""
        lines = [_split_line(split) for split in self.splits]
        for finding in self.findings:
            of = f" of {finding.of:,}" if finding.of else ""
            where = f" [{finding.split}]" if finding.split and len(self.splits) > 1 else ""
            unit = f" {finding.unit}" if finding.of else ""
            lines += ["", f"{finding.severity!s:8}{finding.name}{where}: {finding.count:,}{of}{unit}"]
            lines += [f"        {finding.meaning}"]
            lines += [f"        - {place}" for place in finding.places[:_SHOWN]]
            if finding.count > _SHOWN:
                lines.append(f"        - and {finding.count - _SHOWN:,} more")
        counts = ", ".join(f"{self.count(severity)} {severity}s" for severity in reversed(Severity))
        return [*lines, "", f"kinds of findings: {counts}" if self.findings else "nothing found"]


def check_data(
    sources: Sequence[SplitSource], skeleton: Skeleton | None = None, pictures: bool = True, workers: int = 1
) -> CheckReport:
    """Checks the splits of a data set. What is wrong with it is found, not raised.

    Args:
        sources: see ``sources.find_splits``.
        skeleton: the keypoints that the people have; by default those that each file lists.
        pictures: read the picture files, too.
        workers: threads that read pictures.

    Raises:
        ValueError: an annotation file is not JSON, or not in COCO's format at all.
    """
    tables = [read_table(source.annotations, source.name, source.layout, skeleton) for source in sources]
    files: list[Sequence[PictureFile]] = [
        examine_pictures(table.file_names, source.picture_folders, workers) if pictures else []
        for source, table in zip(sources, tables, strict=True)
    ]
    tables = [with_file_sizes(table, own) for table, own in zip(tables, files, strict=True)]
    findings = []
    for table, own in zip(tables, files, strict=True):
        checks = LABEL_CHECKS + (picture_checks(own) if pictures else ())
        findings += [found for check in checks if (found := run_check(check, table)) is not None]
    findings += find_leaks(tables, files)
    folders = {file.path.parent for own in files for file in own if file.path is not None}
    findings += find_unmentioned(tables, files, sorted(folders))
    return CheckReport(
        tuple(
            CheckedSplit(source, table, own, describe_split(table))
            for source, table, own in zip(sources, tables, files, strict=True)
        ),
        tuple(sorted(findings, key=lambda finding: -finding.severity)),
    )


def _split_line(split: CheckedSplit) -> str:
    figures = split.statistics
    sides = ", ".join(f"{share.part} {100 * share.share:.1f} %" for share in figures.sides.shares[:4])
    seen = f"; left on the left, judged by the {figures.sides.judged_by}: {sides}" if sides else ""
    return (
        f"{split.table.split}: {figures.pictures:,} pictures, {figures.people:,} people, {figures.with_keypoints:,} of "
        f"them with keypoints, {figures.crowds:,} crowds ({split.source.annotations}){seen}"
    )
