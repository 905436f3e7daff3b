"""Networks that look at one person's crop: MSPN, RSN, and small ones of our own (Li et al. 2019; Cai et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn
from torch.utils.data import Dataset

from multiposenet.crop_heatmaps import SIGMAS, GaussianLabels, RefinedMaximum, SecondMaximum, TapLabels
from multiposenet.crop_losses import STRIDE, CropCrossEntropy, CropLoss
from multiposenet.crops import CropRule
from multiposenet.data.pending import PICTURES
from multiposenet.data.person_crop import PersonAugmentation, PersonCropDataset, collate_crops
from multiposenet.data.whole_image import SampleSource
from multiposenet.decode.crops import CropDecoder
from multiposenet.families.family import Builder, Family, Task, Teaching, TrainingView
from multiposenet.inference.person_crops import PersonCrops
from multiposenet.models.backbones import Backbone
from multiposenet.models.cascade import BlockBuilder, Cascade
from multiposenet.models.ensemble import Ensemble
from multiposenet.models.input_normalization import IMAGENET_MEAN, IMAGENET_STD
from multiposenet.models.mspn import BasicBlock, Bottleneck, load_resnet
from multiposenet.models.rsn import PoseRefineMachine, ResidualSteps, paper_width
from multiposenet.models.simple_baseline import SimpleBaseline
from multiposenet.options import choose
from multiposenet.skeletons import Skeleton
from multiposenet.structures import CropDistributions, CropOutputs


@dataclass(frozen=True)
class DataSettings:
    """What the published code does differently on different data.

    Args:
        crop: (height, width).
        extension: of boxes in use.
        blur: kernel of the blur before a maximum is sought.
        augmentation: in training.
    """

    crop: tuple[int, int]
    extension: tuple[float, float]
    blur: int
    augmentation: PersonAugmentation


COCO_SETTINGS = DataSettings((256, 192), (1.09, 1.135), 5, PersonAugmentation())
MPII_SETTINGS = DataSettings(
    (256, 256),
    (1.25, 1.25),
    9,
    PersonAugmentation(
        extension=(1.25, 1.25),
        further_extension=(0.0, 0.0),
        scale=(0.75, 1.25),
        rotation=60.0,
        half_body=0.5,
        half_body_over=8,
        half_body_extension=(0.6, 0.6),
    ),
)
SETTINGS = {"mpii": MPII_SETTINGS}
"""By the skeleton's name; all others are treated like COCO."""

CROP_RULES = {"usual": {}, "legacy": {"border": (0, 0, 0), "smooth": False, "half_pixel": True}}
LABEL_RULES = {"usual": GaussianLabels, "legacy": lambda sigmas: TapLabels(reflect=True)}
SCORE_OFFSETS = {"usual": 0.0, "legacy": 0.5}
"""What some options of the builders stand for; ``legacy`` is how the published PyTorch code does it."""


@dataclass(frozen=True)
class Answer:
    """What a network's maps mean.

    Args:
        loss: teaches it.
        outputs: the type that says it.
        peak_height: see ``outputs``.
    """

    loss: nn.Module
    outputs: type[CropOutputs]
    peak_height: float


def build_top_down(
    skeleton: Skeleton,
    network: Callable[[Answer], nn.Module],
    crop: tuple[int, int] | None = None,
    extension: tuple[float, float] | None = None,
    crop_rule: str = "usual",
    peak_rule: str = "usual",
    label_rule: str = "usual",
    label_sigmas: Sequence[float] = SIGMAS,
    loss_rule: str = "usual",
    answer: str = "heights",
    peak_height: float = 255.0,
    peak_weight: float = 0.0,
    hard_keypoints: int = 8,
    oks_nms: float | None = None,
    whole: int = STRIDE,
) -> tuple[nn.Module, CropDecoder]:
    """A crop network with everything around it.

    Args:
        network: what its maps mean -> the model.
        crop: (height, width), multiples of ``whole``; by default (256, 192), for MPII (256, 256).
        extension: factors (x, y) by which boxes are extended in use; by default the published ones.
        crop_rule: how crops are cut, a key of ``CROP_RULES``.
        peak_rule: how keypoints are found and people scored: ``"usual"``, or ``"legacy"`` for the published code's.
        label_rule: how targets are drawn, a key of ``LABEL_RULES``.
        label_sigmas: widths of the usual ones, see ``crop_heatmaps.GaussianLabels``.
        loss_rule: ``"legacy"`` counts as the published code does, see ``crop_losses.CropLoss``.
        answer: what the network's maps mean: ``"heights"`` as published, or ``"distributions"`` (a softmax over
            cells), which are learnt faster.
        peak_height: of a peak in the maps, for heights.
        peak_weight, hard_keypoints: for heights, see ``crop_losses.CropLoss``.
        oks_nms: see ``decode.crops.CropDecoder``.
        whole: pixels on a side that become whole cells on every level of the network.

    Raises:
        ValueError: an unknown rule, or a crop that is not whole cells: the maps of a mirrored one would not lie on its
            own, nor positions where labels put them.
    """
    settings = SETTINGS.get(skeleton.name, COCO_SETTINGS)
    cutting = choose("crop_rule", crop_rule, CROP_RULES)
    size = tuple(crop or settings.crop)
    if len(size) != 2 or any(side < whole or side % whole for side in size):
        raise ValueError(f"crop must be height x width, multiples of {whole} pixels, e.g. 256x192; got {size}")
    rule = CropRule(size, tuple(extension or settings.extension), **cutting)
    positions = {"usual": RefinedMaximum(), "legacy": SecondMaximum(settings.blur)}
    legacy = choose("loss_rule", loss_rule, {"usual": False, "legacy": True})
    labels = choose("label_rule", label_rule, LABEL_RULES)(tuple(label_sigmas))
    heights = CropLoss(labels, hard_keypoints, peak_weight=peak_weight, legacy=legacy)
    answers = {
        "heights": Answer(heights, CropOutputs, peak_height),
        "distributions": Answer(CropCrossEntropy(labels), CropDistributions, 1 / (2 * math.pi * label_sigmas[-1] ** 2)),
    }
    decoder = CropDecoder(
        skeleton,
        rule,
        choose("peak_rule", peak_rule, positions),
        score_offset=SCORE_OFFSETS[peak_rule],
        oks_nms=oks_nms,
    )
    return network(choose("answer", answer, answers)), decoder


def build_cascade(
    skeleton: Skeleton,
    block: BlockBuilder,
    num_stages: int,
    blocks: Sequence[int],
    planes: Sequence[int] = (64, 128, 256, 512),
    width: int = 256,
    stem_width: int = 64,
    stem_kernel: int = 7,
    prm: bool = False,
    channel_order: str = "rgb",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    align_corners: bool = True,
    backbone_weights: str | None = None,
    resnet: str = "resnet50",
    **rules,
) -> tuple[Cascade, CropDecoder]:
    """A cascade of down-up stages.

    Args:
        block, num_stages, blocks, planes, width, stem_width, stem_kernel: see ``models.cascade.Cascade``.
        prm: a pose refine machine after the last stage (RSN, sec. 3.2).
        channel_order, mean, std, align_corners: what the weights were trained with, see ``models.cascade.Cascade``.
        backbone_weights, resnet: to start from a ResNet with the same blocks, see ``models.mspn.load_resnet``.
        rules: see :func:`build_top_down`.
    """

    def network(answer: Answer) -> Cascade:
        k = skeleton.num_keypoints
        refine = PoseRefineMachine(k) if prm else None
        model = Cascade(
            block, k, num_stages, blocks, planes, width, stem_width, stem_kernel,
            refine, answer.peak_height, channel_order, mean, std, answer.loss, answer.outputs, align_corners,
        )  # fmt: skip
        if backbone_weights is not None:
            load_resnet(model, backbone_weights, resnet)
        return model

    return build_top_down(skeleton, network, **rules)


def _cascade(block: BlockBuilder, num_stages: int, blocks: Sequence[int], **own) -> Builder:
    def build(skeleton: Skeleton, **options) -> tuple[Cascade, CropDecoder]:
        return build_cascade(skeleton, **{"block": block, "num_stages": num_stages, "blocks": blocks} | own | options)

    return build


DEPTHS = {"18": (2, 2, 2, 2), "50": (3, 4, 6, 3), "101": (3, 4, 23, 3)}
"""Blocks of every level, by the name of the ResNet that has as many."""


def cascades() -> dict[str, Builder]:
    """The builders of the published cascades.

    ``rsn...`` have the widths of the published PyTorch code, for which there are weights; ``rsn..._wide`` those of the
    networks whose figures the paper gives (``docs/topdown.md``).
    """
    wide = partial(ResidualSteps, branch_width=paper_width)
    wide_blocks = {"18": wide, "50": partial(wide, expansion=4), "101": partial(wide, expansion=4)}
    stages = {"18": (1, 2, 3, 4), "50": (1, 2, 3, 4), "101": (1,)}
    builders = {f"mspn_{count}stage": _cascade(Bottleneck, count, DEPTHS["50"]) for count in (1, 2, 3, 4)}
    builders["res18"] = _cascade(partial(Bottleneck, expansion=1), 1, DEPTHS["18"])
    for depth, blocks in DEPTHS.items():
        for count in stages[depth]:
            name = f"rsn{depth}" if count == 1 else f"{count}x_rsn{depth}"
            builders[name] = _cascade(ResidualSteps, count, blocks)
            if depth != "18" or count == 1:
                builders[f"{name}_wide"] = _cascade(wide_blocks[depth], count, blocks)
    return builders


def topdown_lite(skeleton: Skeleton, **options) -> tuple[Cascade, CropDecoder]:
    """Real time on a CPU: one stage of basic blocks, answers that are learnt fast; 3.6 M parameters.

    Its way down has the layers of ``multiposenet_lite``'s backbone, whose weights can start it (``backbone_weights``),
    and twice as many blocks at strides 4, 8 and 16.
    """
    thin = {
        "block": BasicBlock,
        "num_stages": 1,
        "blocks": (2, 4, 4, 2),
        "planes": (32, 64, 128, 256),
        "width": 64,
        "stem_width": 32,
        "stem_kernel": 3,
        "answer": "distributions",
        "align_corners": False,
        "resnet": "resnet16_w32",
    }
    return build_cascade(skeleton, **thin | options)


def build_simple_baseline(
    skeleton: Skeleton, backbone: str, backbone_weights: str | None = None, **rules
) -> tuple[SimpleBaseline, CropDecoder]:
    """A ResNet with three transposed convolutions, labels as wide as published, and no hard keypoints.

    Args:
        backbone, backbone_weights: see ``models.backbones.Backbone``.
        rules: see :func:`build_top_down`.
    """
    k = skeleton.num_keypoints

    def network(answer: Answer) -> SimpleBaseline:
        stages = Backbone(backbone, backbone_weights)
        return SimpleBaseline(stages, k, 256, answer.peak_height, answer.loss, answer.outputs)

    published = {"label_sigmas": (2.0,), "hard_keypoints": k, "peak_height": 1.0, "extension": (1.25, 1.25)}
    # Three transposed convolutions double what five halvings, rounded up, have left.
    return build_top_down(skeleton, network, **published | rules, whole=32)


def simplebaseline_resnet50(skeleton: Skeleton, **options) -> tuple[SimpleBaseline, CropDecoder]:
    """SimpleBaseline on ResNet-50: 34.0 M parameters."""
    return build_simple_baseline(skeleton, **{"backbone": "resnet50"} | options)


def simplebaseline_resnet101(skeleton: Skeleton, **options) -> tuple[SimpleBaseline, CropDecoder]:
    """SimpleBaseline on ResNet-101: 53.0 M parameters."""
    return build_simple_baseline(skeleton, **{"backbone": "resnet101"} | options)


POSE = Task("pose", lambda model, batch: model(batch.images, batch.targets)[1], known_boxes=True)


VARIED = ("scale", "rotation", "flip", "colours", "half_body", "upper", "further_extension")
"""What a training view says about a person's crop."""


def _view(decoder: CropDecoder) -> TrainingView:
    how = SETTINGS.get(decoder.skeleton.name, COCO_SETTINGS).augmentation
    return TrainingView(image_size=max(decoder.rule.size), **{name: getattr(how, name) for name in VARIED})


def _examples(source: SampleSource, decoder: CropDecoder, skeleton: Skeleton, view: TrainingView) -> Dataset:
    """People's crops, varied as the published code does but for what the view says."""
    how = None
    if view.augment:
        own: Mapping = {name: getattr(view, name) for name in VARIED}
        how = replace(SETTINGS.get(skeleton.name, COCO_SETTINGS).augmentation, **own)
    return PersonCropDataset(source, decoder.rule.resized(view.image_size), skeleton, how, PICTURES[view.augment_on])


FAMILY = Family(
    name="top-down",
    methods={
        "topdown_lite": topdown_lite,
        **cascades(),
        "simplebaseline_resnet50": simplebaseline_resnet50,
        "simplebaseline_resnet101": simplebaseline_resnet101,
    },
    runner=PersonCrops,
    teaching=Teaching(
        tasks={"pose": (POSE,)},
        view=_view,
        examples=_examples,
        collate=collate_crops,
        fewest_people=1,
        whole_pictures=False,
        unused=("crop", "paste"),
    ),
    default_image_size=lambda decoder: max(decoder.rule.size),
    needs_boxes=True,
    average=Ensemble,
)
