"""From a dataset's sample to an example of the network's size: one geometric step, then colours.

An example is a dict with the keys of :func:`example_from_sample`. Its picture and masks are types that
``torchvision.transforms.v2`` knows, so any colour transform from there can follow. Geometric ones from there must
not: none of them exchanges left and right keypoints in a mirrored picture. Only the transforms here know a
``PendingImage``, whose pixels are worked on later and elsewhere (``data.pending``).

All randomness comes from torch's generator: ``torch.manual_seed`` and a loader's worker seeds reproduce it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from multiposenet.data.colours import BLUR_PIXELS, ColourChange, change_colours
from multiposenet.data.pending import PendingCrop, PendingImage, PendingMasks
from multiposenet.data.person_masks import box_pixels
from multiposenet.geometry import CropWindow, clip_boxes
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import Sample

PADDING_COLOUR = (124, 116, 104)
"""RGB outside the picture: ImageNet's mean, about zero after normalisation, like a convolution's own padding."""

MASKS = ("person_mask", "ignore_mask", "unknown_mask")
"""Fields of a sample, of an example and of ``PoseTargets``."""


Picture = Image.Image | PendingImage
"""What a transform is given of a picture's pixels: a PIL image is several times faster on the CPU than a tensor."""


def example_from_sample(sample: Sample, picture: Callable[[np.ndarray], Picture] = Image.fromarray) -> dict:
    """The sample as a transform takes it.

    Args:
        sample: the sample.
        picture: [H, W, 3] uint8 -> what the transform is given of it, a value of ``data.pending.PICTURES``.

    Returns:
        ``image``: the picture, RGB.
        ``person_mask``, ``ignore_mask``, ``unknown_mask``: [H, W] bool ``tv_tensors.Mask``.
        ``keypoints`` [P, K, 2] float32, ``visibility`` [P, K] uint8, ``boxes`` [P, 4] float32, ``areas`` [P] float32,
        ``crowd`` [P] bool, and ``valid`` [P] bool: a single person whose box the detector should find.
        ``name``: the picture's file name, ``image_id``: its COCO id.
    """
    labels = sample.labels
    masks = (sample.person_mask, sample.ignore_mask, sample.unknown)
    return {
        "image": picture(sample.image),
        **{key: tv_tensors.Mask(torch.from_numpy(mask)) for key, mask in zip(MASKS, masks, strict=True)},
        "keypoints": torch.from_numpy(labels.keypoints),
        "visibility": torch.from_numpy(labels.visibility),
        "boxes": torch.from_numpy(labels.boxes),
        "areas": torch.from_numpy(labels.areas),
        "crowd": torch.from_numpy(labels.crowd),
        "valid": torch.from_numpy(~labels.crowd),
        "name": sample.name,
        "image_id": sample.image_id,
    }


def warp_image(
    image: Picture, window: CropWindow, fill: tuple[int, int, int] = PADDING_COLOUR, smooth: bool = True
) -> Image.Image | PendingCrop:
    """Resamples a picture once into a window: bilinear, averaged over whole blocks of pixels first when it shrinks.

    Args:
        image: PIL RGB image, or one that is pending.
        window: from this picture to the crop.
        fill: RGB of crop pixels whose centre lies outside the picture.
        smooth: False leaves out the averaging.

    Returns:
        PIL RGB image of the window's size, or what will be it.
    """
    if isinstance(image, PendingImage):
        return image.warped(window, fill, smooth)
    factor = window.whole_shrinking if smooth else 1
    inverse = window.inverse_matrix()
    if factor > 1:
        # Every block of factor x factor pixels becomes one pixel: continuous coordinates shrink by just that.
        image, inverse = image.reduce(factor), inverse / factor
    height, width = window.size
    return image.transform(
        (width, height), Image.Transform.AFFINE, tuple(inverse.ravel()), Image.Resampling.BILINEAR, fillcolor=fill
    )


def letterbox_image(picture: np.ndarray, size: int) -> Tensor:
    """A picture on ``CropWindow.letterbox``'s canvas, as :func:`warp_image` would put it there, to two grey levels.

    Nothing is turned, so that PyTorch's resampling does it, in a fifth of the time.

    Args:
        picture: [H, W, 3] uint8.
        size: longer side of the picture on the canvas.

    Returns:
        [3, h, w] uint8.
    """
    window = CropWindow.letterbox(picture.shape[:2], size)
    factor = window.whole_shrinking
    if factor > 1:
        picture = np.asarray(Image.fromarray(picture).reduce(factor))
    scale = window.scale * factor
    # As many rows and columns as have their centre in the picture. So that there are enough, and because PyTorch does
    # not resample an axis whose length stays the same, there must be more than there are: the last ones again.
    height, width = (math.ceil(side * scale - 0.5) for side in picture.shape[:2])
    least = math.ceil(1 / (scale - 1)) if scale > 1 + 1e-6 else 0
    more = [(0, max(1, least - side)) for side in picture.shape[:2]]
    pixels = torch.from_numpy(np.pad(picture, (*more, (0, 0)), mode="edge")).permute(2, 0, 1)
    scaled = F.interpolate(pixels[None], scale_factor=scale, mode="bilinear")[0]
    canvas = torch.tensor(PADDING_COLOUR, dtype=torch.uint8)[:, None, None].repeat(1, *window.size)
    canvas[:, :height, :width] = scaled[:, :height, :width][:, : window.size[0], : window.size[1]]
    return canvas


def warp_masks(masks: list[Tensor], window: CropWindow) -> list[Tensor]:
    """Up to eight masks [H, W] bool into a window, the nearest pixel each; False outside the picture."""
    bits = sum(mask.to(torch.uint8) << bit for bit, mask in enumerate(masks)).numpy()  # one resampling for all
    height, width = window.size
    data = tuple(window.inverse_matrix().ravel())
    warped = Image.fromarray(bits).transform(
        (width, height), Image.Transform.AFFINE, data, Image.Resampling.NEAREST, fillcolor=0
    )
    values = torch.from_numpy(np.array(warped))
    return [(values >> bit & 1).bool() for bit in range(len(masks))]


def warp_boxes(boxes: Tensor, window: CropWindow) -> Tensor:
    """Boxes [P, 4] into a window, not clipped: the box of the turned ellipse that the old box encloses.

    A person fills a box's corners less than its middle; the box of the turned *corners* would be up to 41 % too wide.
    For a window that is not turned the result is exact.
    """
    linear = torch.as_tensor(window.matrix, dtype=boxes.dtype)
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2 @ linear[:, :2].T + linear[:, 2]
    extent = (half.square() @ linear[:, :2].square().T).sqrt()
    return torch.cat([centre - extent, centre + extent], dim=1)


def warp_example(
    example: dict,
    window: CropWindow,
    skeleton: Skeleton,
    min_visible: float = 0.1,
    min_side: float = 2.0,
) -> dict:
    """Moves a whole example into a window; a mirroring window exchanges left and right keypoints.

    Keypoints outside the crop get visibility 0 and keep their coordinates: none is moved to the border. Boxes are
    clipped to the crop. People with nothing left in it are removed. A person with too little left stays, with
    ``valid`` False; if none of their labelled keypoints is in the crop, their box joins ``ignore_mask``, except where
    it overlaps the box of someone with keypoints in the crop.

    Args:
        example: see :func:`example_from_sample`.
        window: from the example's picture to the crop.
        skeleton: whose K keypoints these are.
        min_visible: least share of a valid person's box that is inside the crop.
        min_side: least width and height of a valid box, in crop pixels.

    Returns:
        The example; of a picture that is pending its masks are too, together as ``masks``.
    """
    keypoints, visibility = example["keypoints"], example["visibility"]
    if keypoints.shape[1] != skeleton.num_keypoints:
        raise ValueError(
            f"the example has {keypoints.shape[1]} keypoints, skeleton {skeleton.name!r} has {skeleton.num_keypoints}; "
            "give the transform the dataset's skeleton"
        )
    height, width = window.size
    keypoints = window.keypoints_to_crop(keypoints)
    if np.linalg.det(window.matrix[:, :2]) < 0:
        keypoints, visibility = keypoints[:, skeleton.flip_indices], visibility[:, skeleton.flip_indices]

    warped = warp_boxes(example["boxes"], window)
    if abs(window.matrix[0, 1]) + abs(window.matrix[1, 0]) > 1e-6 * window.scale:
        warped = _include_keypoints(warped, keypoints, visibility)
    boxes = clip_boxes(warped, window.size)

    edges = torch.tensor([width - 0.5, height - 0.5])
    inside = ((keypoints >= -0.5) & (keypoints < edges)).all(dim=-1)
    visibility = torch.where(inside, visibility, torch.zeros_like(visibility))

    sides, full_sides = boxes[:, 2:] - boxes[:, :2], warped[:, 2:] - warped[:, :2]
    present = (sides > 0).all(dim=1)
    enough = (sides >= min_side).all(dim=1) & (sides.prod(dim=1) >= min_visible * full_sides.prod(dim=1))
    labelled = (visibility > 0).any(dim=1) & ~example["crowd"]
    leftovers = boxes[present & example["valid"] & ~enough & ~labelled]
    return {
        **_warped_pixels(example, window, leftovers, spared=boxes[labelled]),
        "keypoints": keypoints[present],
        "visibility": visibility[present],
        "boxes": boxes[present],
        "areas": (example["areas"] * window.scale**2)[present],
        "crowd": example["crowd"][present],
        "valid": (example["valid"] & enough)[present],
    }


class RandomPersonCrop(v2.Transform):
    """Cuts a randomly turned, scaled and mirrored square around a random person, in one resampling.

    The picture is thought of as resized so that its long side is ``reference`` pixels, and then by a random factor.
    The crop's centre is the centre of a person's box, moved by a random offset: someone with labelled keypoints if
    there is anyone, else any person or crowd, else the middle of the picture. It is then moved back over the picture
    as far as possible, so that crop pixels are not spent on padding. What lies outside the picture has
    ``PADDING_COLOUR`` and is background.

    The recipe of MultiPoseNet (Kocabas et al., ECCV 2018, section 4): 480 pixels, +-40 degrees, 0.8 to 1.2.

    Args:
        size: side of the crop, pixels.
        reference: long side of the picture at scale 1, pixels; by default ``size``.
        scale: range of the random factor (its logarithm is uniform).
        rotation: largest angle either way, degrees.
        flip: probability of mirroring left-right.
        jitter: largest offset of the centre on each axis, as a share of ``size``.
        skeleton: whose keypoints they are.
    """

    def __init__(
        self,
        size: int = 480,
        reference: int | None = None,
        scale: tuple[float, float] = (0.8, 1.2),
        rotation: float = 40.0,
        flip: float = 0.5,
        jitter: float = 0.1,
        skeleton: Skeleton = COCO_PERSON,
    ) -> None:
        super().__init__()
        if size < 1 or (reference is not None and reference < 1):
            raise ValueError(f"size and reference must be at least 1 pixel, got {size} and {reference}")
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be a range (low, high) of positive factors, got {scale}")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip must be a probability in [0, 1], got {flip}")
        self.size = size
        self.reference = size if reference is None else reference
        self.scale = scale
        self.rotation = rotation
        self.flip = flip
        self.jitter = jitter
        self.skeleton = skeleton

    def window(self, example: dict) -> CropWindow:
        """Draws the window of one example."""
        width, height = example["image"].size
        low, high = math.log(self.scale[0]), math.log(self.scale[1])
        scale = self.reference / max(height, width) * math.exp(uniform(low, high))
        angle = uniform(-self.rotation, self.rotation)
        mirror = uniform(0, 1) < self.flip
        half = self.size / 2 / scale
        offset = self.jitter * self.size / scale
        centre = []
        for position, side in zip(self._focus(example), (width, height), strict=True):
            position = position + uniform(-offset, offset)
            # Either the crop fits into the picture on this axis, or the picture into the crop.
            centre.append(min(max(position, min(half, side - half)), max(half, side - half)))
        return CropWindow.around(tuple(centre), scale, (self.size, self.size), angle=angle, mirror=mirror)

    def forward(self, example: dict) -> dict:
        """The example in a random window."""
        return warp_example(example, self.window(example), self.skeleton)

    def extra_repr(self) -> str:
        return (
            f"size={self.size}, reference={self.reference}, scale={self.scale}, rotation={self.rotation}, "
            f"flip={self.flip}, jitter={self.jitter}, skeleton={self.skeleton.name!r}"
        )

    def _focus(self, example: dict) -> tuple[float, float]:
        labelled = (example["visibility"] > 0).any(dim=1) & ~example["crowd"]
        candidates = example["boxes"][labelled] if bool(labelled.any()) else example["boxes"]
        if len(candidates) == 0:
            width, height = example["image"].size
            return width / 2, height / 2
        x1, y1, x2, y2 = candidates[int(torch.randint(len(candidates), ()))].tolist()
        return (x1 + x2) / 2, (y1 + y2) / 2


class Letterbox(v2.Transform):
    """Fits the whole picture into a fixed square, upper left, nothing random: for validation.

    Args:
        size: long side of the scaled picture, pixels.
        multiple: the square's side is ``size`` rounded up to a multiple of it.
        skeleton: whose keypoints they are.
    """

    def __init__(self, size: int = 480, multiple: int = 32, skeleton: Skeleton = COCO_PERSON) -> None:
        super().__init__()
        if size < 1 or multiple < 1:
            raise ValueError(f"size and multiple must be at least 1, got {size} and {multiple}")
        self.size = size
        self.multiple = multiple
        self.skeleton = skeleton

    def window(self, example: dict) -> CropWindow:
        """The window of one example; its scale and corner are those of :meth:`CropWindow.letterbox`."""
        width, height = example["image"].size
        side = math.ceil(self.size / self.multiple) * self.multiple
        window = CropWindow.letterbox((height, width), self.size, self.multiple)
        return dataclasses.replace(window, size=(side, side))

    def forward(self, example: dict) -> dict:
        """The example in its window."""
        return warp_example(example, self.window(example), self.skeleton)

    def extra_repr(self) -> str:
        return f"size={self.size}, multiple={self.multiple}, skeleton={self.skeleton.name!r}"


class RandomColours(v2.Transform):
    """Mild changes of brightness, contrast, saturation and hue; now and then greyscale or a slight blur."""

    def __init__(self) -> None:
        super().__init__()
        self._factors = v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25)
        self._hue, self._hue_chance = v2.ColorJitter(hue=0.03), 0.1
        self._grey_chance = 0.05
        self._blur, self._blur_chance = v2.GaussianBlur(BLUR_PIXELS, sigma=(0.3, 1.5)), 0.1

    def draw(self) -> ColourChange:
        """Draws what to change, in the order of torchvision's own transforms one after the other."""
        factors = self._factors.make_params([])
        hue = self._hue.make_params([])["hue_factor"] if _by_chance(self._hue_chance) else None
        grey = _by_chance(self._grey_chance)
        sigma = self._blur.make_params([])["sigma"][0] if _by_chance(self._blur_chance) else 0.0
        return ColourChange(
            order=tuple(which for which in factors["fn_idx"].tolist() if which < 3),  # the fourth is hue
            factors=tuple(factors[f"{name}_factor"] for name in ("brightness", "contrast", "saturation")),
            hue=hue,
            grey=grey,
            sigma=sigma,
        )

    def forward(self, example: dict | Image.Image | PendingCrop) -> dict | Image.Image | PendingCrop:
        """An example with its picture changed, or a picture by itself; of one that is pending the change is noted."""
        if isinstance(example, dict):
            return {**example, "image": self(example["image"])}
        change = self.draw()
        if isinstance(example, PendingCrop):
            return dataclasses.replace(example, change=change)
        return change_colours(example, change)


OWN_TRANSFORMS = (RandomPersonCrop, Letterbox, RandomColours)
"""Those that know pictures whose pixels are pending."""


def _by_chance(probability: float) -> bool:
    return bool(torch.rand(1) < probability)


def training_transform(
    size: int = 480,
    reference: int | None = None,
    scale: tuple[float, float] = (0.8, 1.2),
    rotation: float = 40.0,
    flip: float = 0.5,
    colours: bool = True,
    skeleton: Skeleton = COCO_PERSON,
) -> v2.Transform:
    """:class:`RandomPersonCrop`, then, with ``colours``, :class:`RandomColours`."""
    crop = RandomPersonCrop(size, reference, scale=scale, rotation=rotation, flip=flip, skeleton=skeleton)
    return v2.Compose([crop, RandomColours()]) if colours else crop


def uniform(low: float, high: float) -> float:
    """A number between two, from torch's generator."""
    return low + (high - low) * float(torch.rand((), dtype=torch.float64))


def _warped_pixels(example: dict, window: CropWindow, ignored: Tensor, spared: Tensor) -> dict:
    """The example with picture and masks in a window; boxes [B, 4] become ignored, but for boxes [S, 4] in them."""
    image, masks = warp_image(example["image"], window), [example[key] for key in MASKS]
    if isinstance(image, PendingCrop):
        rest = {key: value for key, value in example.items() if key not in MASKS}
        return {**rest, "image": image, "masks": PendingMasks.of(masks, window, ignored, spared)}
    person, ignore, unknown = warp_masks(masks, window)
    _ignore_boxes(ignore, ignored, except_for=spared)
    warped = zip(MASKS, (person, ignore, unknown), strict=True)
    return {**example, "image": image, **{key: tv_tensors.Mask(mask) for key, mask in warped}}


def _include_keypoints(boxes: Tensor, keypoints: Tensor, visibility: Tensor) -> Tensor:
    """Boxes [P, 4] grown to hold their labelled keypoints: an outstretched hand leaves the ellipse."""
    labelled = (visibility > 0)[..., None]
    points = keypoints + 0.5  # box coordinates are continuous
    low = torch.where(labelled, points, torch.inf).amin(dim=1)
    high = torch.where(labelled, points, -torch.inf).amax(dim=1)
    return torch.cat([torch.minimum(boxes[:, :2], low), torch.maximum(boxes[:, 2:], high)], dim=1)


def _ignore_boxes(ignore_mask: Tensor, boxes: Tensor, except_for: Tensor) -> None:
    """Marks the boxes' pixels in place, except those inside the boxes ``except_for``."""
    if len(boxes) == 0:
        return
    size = tuple(ignore_mask.shape)
    spared = torch.zeros_like(ignore_mask)
    for box in except_for:
        spared[box_pixels(box.numpy(), size)] = True
    for box in boxes:
        pixels = box_pixels(box.numpy(), size)
        ignore_mask[pixels] |= ~spared[pixels]
