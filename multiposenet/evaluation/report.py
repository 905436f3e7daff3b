"""A report of an evaluation in a folder: ``report.html`` to read and ``report.json`` to compute with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multiposenet.evaluation.coco import CocoMetrics
from multiposenet.evaluation.crowdpose import CrowdPoseMetrics
from multiposenet.evaluation.diagnosis import Diagnosis, diagnose
from multiposenet.evaluation.diagnosis_page import diagnosis_page
from multiposenet.evaluation.worst_pictures import NumberedPictures, worst_figures
from multiposenet.whole_files import written_whole


@dataclass(frozen=True)
class ScoredPredictions:
    """What was measured.

    Args:
        dataset: the pictures.
        truth: their annotations, COCO's sections.
        predictions: COCO results.
        metrics: the ten numbers.
        facts: what was measured and how, by name; JSON values.
        levels: AP by crowd index, where the pictures have one.
    """

    dataset: NumberedPictures
    truth: Mapping
    predictions: Sequence[Mapping]
    metrics: CocoMetrics
    facts: Mapping
    levels: CrowdPoseMetrics | None = None


def write_report(
    folder: Path, scored: ScoredPredictions, pictures: int, default_oks_sigmas: float | None = None
) -> tuple[Diagnosis, Path, Path]:
    """Diagnoses and writes both files; the folder is made when it is not there.

    Args:
        folder: their place.
        scored: what was measured.
        pictures: so many of the worst pictures are drawn.
        default_oks_sigmas: of a skeleton that has none, as it was scored.

    Returns:
        The diagnosis, the page and the JSON file.
    """
    skeleton, image_ids = scored.dataset.skeleton, scored.dataset.image_ids
    diagnosis = diagnose(scored.truth, scored.predictions, skeleton, image_ids, default_oks_sigmas=default_oks_sigmas)
    folder.mkdir(parents=True, exist_ok=True)
    page, content = folder / "report.html", folder / "report.json"
    figures = list(worst_figures(diagnosis.worst[:pictures], scored.dataset, scored.predictions))
    lead = ", ".join(f"{name}: {value}" for name, value in scored.facts.items() if isinstance(value, (str, int)))
    diagnosis_page("Evaluation of people's poses", lead, scored.metrics, diagnosis, figures).write(page)
    everything = {
        **scored.facts,
        "metrics": scored.metrics,
        "details": scored.metrics.details.to_dict(),
        "diagnosis": diagnosis.to_dict(),
    }
    with written_whole(content) as partial:
        partial.write_text(json.dumps(everything, indent=1, default=str) + "\n", encoding="utf-8")
    return diagnosis, page, content
