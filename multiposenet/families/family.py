"""What the methods of one family have in common: the form in which a family says everything about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.data import Dataset

from multiposenet.data.whole_image import SampleSource
from multiposenet.inference.settings import Runner, RunnerSettings
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Batch


class Decoder(Protocol):
    """Raw outputs -> poses; each family has its own arguments and its own ways of limiting what comes out."""

    def limited(self, box_threshold: float | None, max_people: int | None) -> Decoder:
        """The same decoder with other limits; None keeps what it has."""


OF_ONE_PERSON = ("half_body", "upper", "further_extension")
"""Fields of a view that say how one person's crop is shown, not a picture."""

Builder = Callable[..., tuple[nn.Module, Decoder]]
"""(skeleton, **options) -> model with random weights, decoder."""


@dataclass(frozen=True)
class Task:
    """One thing that a model is trained for, from start to end of a schedule.

    Args:
        name: says in weights files what was trained.
        losses: (model, batch) -> scalar losses by name; their sum is minimised.
        untrained: parts of the model that stay as they are.
        known_boxes: while it is trained the method is validated in the labels' own boxes.
        rate: name of the script's option that holds this task's own rate, where it has one.
    """

    name: str
    losses: Callable[[nn.Module, Batch], dict[str, Tensor]]
    untrained: tuple[str, ...] = ()
    known_boxes: bool = False
    rate: str = "lr"


@dataclass(frozen=True)
class TrainingView:
    """How pictures are shown to a network in training; what is None is the family's own.

    Args:
        image_size: the long side that the network sees, of a picture or of a person's crop; pixels.
        crop: side of the random crop of a whole picture; None for ``image_size``.
        augment: False: nothing random.
        scale: range of the random scale.
        rotation: largest rotation either way, degrees.
        flip: probability of mirroring.
        colours: random colours too.
        half_body: of one person's crop, the probability that only the upper or the lower half is shown.
        upper: of half a person's crop, the probability that it is the upper half.
        further_extension: of one person's crop, the largest random growth of the box (x, y), a share.
        augment_on: where pixels are worked on, a key of ``data.pending.PICTURES``.
    """

    image_size: int | None = None
    crop: int | None = None
    augment: bool = True
    scale: tuple[float, float] | None = None
    rotation: float | None = None
    flip: float | None = None
    colours: bool | None = None
    half_body: float | None = None
    upper: float | None = None
    further_extension: tuple[float, float] | None = None
    augment_on: str = "loader"


@dataclass(frozen=True)
class Teaching:
    """How the methods of a family are trained.

    Args:
        tasks: by the name that asks for them, the phases to train one after the other; the first name is the default.
        view: (decoder) -> a view whose fields stand in where nobody says.
        examples: (source, decoder, skeleton, view with every field that ``view`` fills) -> what a loader draws from.
        collate: examples -> batch.
        fewest_people: of a synthetic picture to learn from.
        whole_pictures: an example is a picture as large as the view says, or less of it, and never a part enlarged.
        unused: training options that mean nothing to this family.
    """

    tasks: Mapping[str, tuple[Task, ...]]
    view: Callable[[Any], TrainingView]
    examples: Callable[[SampleSource, Any, Skeleton, TrainingView], Dataset]
    collate: Callable[[Sequence[Any]], Batch]
    fewest_people: int = 0
    whole_pictures: bool = True
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """Methods that are built, run and trained in one way; they differ in size and layers.

    Args:
        name: for messages.
        methods: the builder of each method.
        runner: (model, decoder, settings) -> what takes pictures through the model.
        teaching: how they are trained.
        default_image_size: (decoder) -> the long side that the network sees, where neither weights nor user say.
        needs_boxes: whether somebody else must find the people first.
        part_options: by part of the model, how the names of the options begin without which the part's weights would
            mean something else.
        additions: parts that a model has when the option of the same name asks for them, and that weights of a model
            without them can be given.
        average: several models -> one that answers with their mean; None where that makes no sense.
        published: by method, weights that others publish: what they are called -> gives the file, downloading it where
            it is not there yet.
    """

    name: str
    methods: Mapping[str, Builder]
    runner: Callable[[nn.Module, Any, RunnerSettings], Runner]
    teaching: Teaching
    default_image_size: Callable[[Any], int]
    needs_boxes: bool = False
    part_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    additions: tuple[str, ...] = ()
    average: Callable[[Sequence[nn.Module]], nn.Module] | None = None
    published: Mapping[str, Mapping[str, Callable[[], Path]]] = field(default_factory=dict)
