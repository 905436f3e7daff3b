"""Drawing poses on pictures with Pillow.

The body's left side is drawn in warm colours, its right side in cool ones, each person with a tint of their own; what
lies between the sides, and the box, is in the person's own colour. So a swap of left and right and a mix-up of two
people are both seen at a glance.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from multiposenet.geometry import clip_boxes
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonLabels, Poses

Colour = tuple[int, int, int]

_LEFT_HUE, _RIGHT_HUE = 0.07, 0.56  # orange and sky blue: apart for colour-blind eyes too
_HUE_SPREAD = 0.05
_GOLDEN_RATIO = 0.618034  # successive multiples, modulo 1, stay far from each other
_SUPERSAMPLING = 3
_SUPERSAMPLED_PIXELS = 4_000_000  # a person larger than this is drawn at the picture's own resolution
_MARGIN = 8
_FAINTEST = 0.25  # opacity of a keypoint of score 0, so that what passed the threshold can be seen


def draw_poses(
    image: np.ndarray | Image.Image,
    poses: Poses,
    *,
    score_threshold: float = 0.0,
    keypoint_threshold: float = 0.1,
    boxes: bool = True,
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """Draws people onto a copy of a picture, the best one on top.

    Args:
        image: [H, W, 3] uint8 RGB, or a Pillow picture.
        poses: the people, in the pixels of this picture.
        score_threshold: people of a lower score are left out of the drawing.
        keypoint_threshold: keypoints of a lower score are left out of the drawing, with their limbs. Opacity and size
            of what is drawn grow with the score.
        boxes: whether boxes and captions are drawn.
        captions: one text a person instead of the person's score.

    Returns:
        A new RGB picture of the same size; equal to the input when there is nobody.
    """
    canvas = _picture(image)
    poses = poses.to("cpu")
    if captions is not None and len(captions) != len(poses):
        raise ValueError(f"captions must have one text a person: got {len(captions)} for {len(poses)} people")
    keypoints, keypoint_scores = poses.keypoints.float().numpy(), poses.keypoint_scores.float().numpy()
    person_boxes = clip_boxes(poses.boxes.float().numpy(), (canvas.height, canvas.width))
    for person in reversed(range(int((poses.scores >= score_threshold).sum()))):  # scores descend
        thickness = _thickness(poses.boxes[person].tolist(), canvas.size)
        if boxes:
            caption = f"{poses.scores[person]:.2f}" if captions is None else captions[person]
            _draw_box(canvas, person_boxes[person], caption, person_colour(person), thickness)
        shown = (keypoint_scores[person] >= keypoint_threshold) & np.isfinite(keypoints[person]).all(axis=-1)
        _draw_person(canvas, keypoints[person], keypoint_scores[person], shown, poses.skeleton, person, thickness)
    return canvas


def draw_comparison(
    image: np.ndarray | Image.Image,
    poses: Poses,
    labels: PersonLabels,
    *,
    titles: tuple[str, str] = ("ground truth", "prediction"),
    score_threshold: float = 0.05,
    keypoint_threshold: float = 0.1,
) -> Image.Image:
    """The same picture twice, side by side: with its annotated people and with the people found.

    Args:
        image: [H, W, 3] uint8 RGB, or a Pillow picture.
        poses: the people found.
        labels: the people annotated; hidden keypoints are drawn fainter than visible ones, a crowd as a box.
        titles: texts above the two halves.
        score_threshold, keypoint_threshold: of the right half, as in :func:`draw_poses`.

    Returns:
        RGB, as wide as two pictures and a gap, with a line of text above.
    """
    truth = poses_from_labels(labels, poses.skeleton)
    captions = ["crowd" if crowd else "" for crowd in labels.crowd]
    halves = [
        draw_poses(image, truth, keypoint_threshold=0.01, captions=captions),
        draw_poses(image, poses, score_threshold=score_threshold, keypoint_threshold=keypoint_threshold),
    ]
    width, height = halves[0].size
    font_size = max(12, min(32, round(0.035 * max(width, height))))
    gap, header = max(4, width // 80), round(font_size * 1.6)
    sheet = Image.new("RGB", (2 * width + gap, height + header), "white")
    draw = ImageDraw.Draw(sheet)
    for title, half, left in zip(titles, halves, (0, width + gap), strict=True):
        sheet.paste(half, (left, header))
        draw.text((left + gap, header / 2), title, fill="black", font=_font(font_size), anchor="lm")
    return sheet


def contact_sheet(
    images: Sequence[np.ndarray | Image.Image], columns: int = 4, cell_size: tuple[int, int] = (320, 320)
) -> Image.Image:
    """Pictures side by side in rows, each shrunk to fit a cell (never enlarged) and centred in it.

    Args:
        images: at least one, [H, W, 3] uint8 RGB or Pillow.
        columns: pictures in a row; a single row may be shorter.
        cell_size: (height, width) of a cell, pixels.
    """
    if not images or columns < 1:
        raise ValueError(f"contact_sheet takes at least one picture and one column, got {len(images)} and {columns}")
    height, width = cell_size
    gap = 4
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for index, image in enumerate(images):
        small = _picture(image)
        small.thumbnail((width, height), Image.Resampling.LANCZOS)
        row, column = divmod(index, columns)
        left = gap + column * (width + gap) + (width - small.width) // 2
        top = gap + row * (height + gap) + (height - small.height) // 2
        sheet.paste(small, (left, top))
    return sheet


def poses_from_labels(labels: PersonLabels, skeleton: Skeleton) -> Poses:
    """Annotated people as poses, for drawing: a visible keypoint scores 1, a hidden one 0.5, an unlabelled one 0."""
    return Poses(
        keypoints=torch.from_numpy(np.array(labels.keypoints, dtype=np.float32)),
        keypoint_scores=torch.from_numpy(np.array(labels.visibility, dtype=np.float32) / 2).clamp(0, 1),
        boxes=torch.from_numpy(np.array(labels.boxes, dtype=np.float32)),
        scores=torch.ones(len(labels)),
        skeleton=skeleton,
    )


def person_colour(person: int) -> Colour:
    """The colour of a person's box and of what lies between left and right, by position in the list."""
    hue = (0.83 + person * _GOLDEN_RATIO) % 1.0
    return _rgb(hue, 0.55, 1.0)


def keypoint_colours(skeleton: Skeleton, person: int) -> list[Colour]:
    """[K] colours of one person: warm on the left, cool on the right, the person's own between them."""
    colours = [person_colour(person)] * skeleton.num_keypoints
    shift = _HUE_SPREAD * (2 * ((person * _GOLDEN_RATIO) % 1.0) - 1)
    saturation = (0.95, 0.75)[person % 2]
    for left, right in skeleton.flip_pairs:
        colours[left] = _rgb(_LEFT_HUE + shift, saturation, 1.0)
        colours[right] = _rgb(_RIGHT_HUE + shift, saturation, 1.0)
    return colours


def limb_colours(skeleton: Skeleton, person: int) -> list[Colour]:
    """Colours of the limbs of one person: that of the side a limb is on, the person's own where it joins the sides."""
    keypoints = keypoint_colours(skeleton, person)
    left = {pair[0] for pair in skeleton.flip_pairs}
    right = {pair[1] for pair in skeleton.flip_pairs}
    colours = []
    for first, second in skeleton.limbs:
        across = {first, second} & left and {first, second} & right
        sided = first if first in left | right else second
        colours.append(person_colour(person) if across else keypoints[sided])
    return colours


def _draw_person(
    canvas: Image.Image,
    keypoints: np.ndarray,
    scores: np.ndarray,
    shown: np.ndarray,
    skeleton: Skeleton,
    person: int,
    thickness: float,
) -> None:
    """Draws limbs and dots on a transparent patch, several times enlarged, and lays its reduction over the canvas."""
    if not shown.any():
        return
    centres = keypoints + 0.5  # of the pixels, in continuous picture coordinates
    margin = _MARGIN + thickness * 2
    left, top = np.floor(centres[shown].min(axis=0) - margin).clip(0, canvas.size).astype(int).tolist()
    right, bottom = np.ceil(centres[shown].max(axis=0) + margin).clip(0, canvas.size).astype(int).tolist()
    if right <= left or bottom <= top:
        return
    area = (right - left) * (bottom - top)
    factor = _SUPERSAMPLING if area * _SUPERSAMPLING**2 <= _SUPERSAMPLED_PIXELS else 1
    patch = Image.new("RGBA", ((right - left) * factor, (bottom - top) * factor), (0, 0, 0, 0))
    draw = ImageDraw.Draw(patch)
    points = ((centres - (left, top)) * factor).tolist()
    opacities = _FAINTEST + (1 - _FAINTEST) * scores.clip(0, 1)
    limbs = [
        (first, second, colour)
        for (first, second), colour in zip(skeleton.limbs, limb_colours(skeleton, person), strict=True)
        if shown[first] and shown[second]
    ]
    width = thickness * factor
    outline = max(1.0, 0.35 * thickness) * factor
    for first, second, _ in limbs:
        opacity = min(opacities[first], opacities[second])
        _draw_limb(draw, points[first], points[second], width + outline, (0, 0, 0, round(150 * opacity)))
    for first, second, colour in limbs:
        opacity = min(opacities[first], opacities[second])
        _draw_limb(draw, points[first], points[second], width, (*colour, round(235 * opacity)))
    for index, colour in enumerate(keypoint_colours(skeleton, person)):
        if shown[index]:
            radius = width * (0.55 + 0.4 * opacities[index])
            opacity = round(255 * opacities[index])
            _draw_dot(draw, points[index], radius + outline / 2, (0, 0, 0, round(0.7 * opacity)))
            _draw_dot(draw, points[index], radius, (*_lighter(colour), opacity))
    if factor > 1:
        patch = patch.reduce(factor)
    canvas.paste(patch.convert("RGB"), (left, top), mask=patch.getchannel("A"))


def _draw_limb(draw: ImageDraw.ImageDraw, first: list[float], second: list[float], width: float, fill: tuple) -> None:
    draw.line([*first, *second], fill=fill, width=max(1, round(width)))
    for end in (first, second):
        _draw_dot(draw, end, width / 2, fill)


def _draw_dot(draw: ImageDraw.ImageDraw, centre: list[float], radius: float, fill: tuple) -> None:
    x, y = centre
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)


def _draw_box(canvas: Image.Image, box: np.ndarray, caption: str, colour: Colour, thickness: float) -> None:
    if not np.isfinite(box).all():
        return
    x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
    if x2 - x1 < 2 or y2 - y1 < 2:
        return
    draw = ImageDraw.Draw(canvas)
    draw.rectangle([x1, y1, x2 - 1, y2 - 1], outline=colour, width=max(1, round(thickness / 2)))
    if not caption:
        return
    font = _font(max(10, min(round(3 * thickness), round(0.03 * max(canvas.size)))))
    extent = draw.textbbox((0, 0), caption, font=font)
    text_left, text_top, text_right, text_bottom = (math.ceil(edge) for edge in extent)
    width, height = text_right - text_left + 6, text_bottom - text_top + 4
    left = max(0, min(x1, canvas.width - width))
    top = y1 - height if y1 >= height else y1
    draw.rectangle([left, top, left + width - 1, top + height - 1], fill=colour)
    draw.text((left + 3 - text_left, top + 2 - text_top), caption, fill="black", font=font)


def _thickness(box: list[float], size: tuple[int, int]) -> float:
    """Limb width in pixels: a share of the person's size, within what a picture of this size can carry."""
    diagonal = math.hypot(box[2] - box[0], box[3] - box[1])
    most = max(2.0, 0.012 * max(size))
    return min(max(1.5, 0.014 * diagonal), most) if math.isfinite(diagonal) else 2.0


def _picture(image: np.ndarray | Image.Image) -> Image.Image:
    """A copy to draw on, RGB."""
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be [H, W, 3] uint8 RGB or a Pillow picture, got {image.shape} {image.dtype}")
    return Image.fromarray(np.ascontiguousarray(image))


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _lighter(colour: Colour) -> Colour:
    red, green, blue = ((255 + 2 * channel) // 3 for channel in colour)
    return red, green, blue


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)
