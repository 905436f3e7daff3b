"""Changes of colours: what is decided about a picture, and how it is carried out, on one picture or on a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as v2

from multiposenet.structures import TensorFields

BRIGHTNESS, CONTRAST, SATURATION = range(3)
"""Places in ``ColourChange.factors``."""

BLUR_PIXELS = 5
"""Side of the window that a blur looks at."""


@dataclass(frozen=True)
class ColourChange:
    """What is done to a picture's colours, in the order of the arguments; the defaults change nothing.

    Args:
        order: which of the factors comes first, second and third.
        factors: of brightness, contrast and saturation.
        hue: turn of the colour circle, a share of it; None for none.
        grey: whether the picture becomes grey.
        sigma: of a Gaussian blur, pixels; 0 for none.
    """

    order: tuple[int, int, int] = (BRIGHTNESS, CONTRAST, SATURATION)
    factors: tuple[float, float, float] = (1.0, 1.0, 1.0)
    hue: float | None = None
    grey: bool = False
    sigma: float = 0.0


def change_colours(image: Any, change: ColourChange) -> Any:
    """One picture changed, of any type that torchvision's colour functions take; the same type comes back."""
    adjust = {BRIGHTNESS: v2.adjust_brightness, CONTRAST: v2.adjust_contrast, SATURATION: v2.adjust_saturation}
    for which in change.order:
        image = adjust[which](image, change.factors[which])
    if change.hue is not None:
        image = v2.adjust_hue(image, change.hue)
    if change.grey:
        image = v2.rgb_to_grayscale(image, num_output_channels=3)
    return v2.gaussian_blur(image, [BLUR_PIXELS] * 2, [change.sigma] * 2) if change.sigma else image


@dataclass(frozen=True)
class ColourChanges(TensorFields):
    """The changes of a batch, on the CPU: which pictures need what is known there without asking the device.

    Args:
        table: [N, 9] float64, of each picture the order (3), the factors (3), hue (in the steps of 1/255 that Pillow
            takes; 0 for none), grey (0 or 1) and sigma. One tensor, because each costs a file handle between processes.
    """

    table: Tensor

    @classmethod
    def of(cls, changes: Sequence[ColourChange]) -> ColourChanges:
        """The changes of single pictures."""
        rows = [(*own.order, *own.factors, int((own.hue or 0.0) * 255) / 255, own.grey, own.sigma) for own in changes]
        return cls(torch.tensor(rows, dtype=torch.float64))

    def applied(self, images: Tensor) -> Tensor:
        """Changes every picture as :func:`change_colours` would, but for its rounding to whole grey levels.

        Args:
            images: [N, 3, H, W] float in 0..255, on any device.

        Returns:
            images of the same form, in 0..255.
        """
        order, factors = self.table[:, :3].long(), self.table[:, 3:6].float()
        hue, grey, sigma = self.table[:, 6:].float().T
        for numbers in zip(order.T, factors.gather(1, order).T, strict=True):  # three rounds of one change a picture
            which, factor = (number.to(images.device, non_blocking=True)[:, None, None, None] for number in numbers)
            without = _grey(images)
            mean = (without.mean(dim=(2, 3), keepdim=True) + 0.5).floor()  # a whole grey level, as Pillow has it
            anchor = torch.where(which == CONTRAST, mean, torch.where(which == SATURATION, without, 0.0))
            images = (anchor + factor * (images - anchor)).clamp(0, 255)
        images = _on_some(images, hue, _turn_hue)
        images = _on_some(images, grey, lambda some, _: _grey(some).expand_as(some))
        return _on_some(images, sigma, _blur)


def _on_some(images: Tensor, amounts: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Changes the pictures whose amount (of amounts [N], on the CPU) is not zero; (pictures, amounts) -> pictures."""
    rows = amounts.nonzero()[:, 0]
    if not len(rows):
        return images
    there, some = (tensor.to(images.device, non_blocking=True) for tensor in (rows, amounts[rows]))
    return images.index_copy(0, there, change(images[there], some))


def _grey(images: Tensor) -> Tensor:
    """[N, 1, H, W] brightness of RGB images [N, 3, H, W] (ITU-R 601, as Pillow weighs)."""
    red, green, blue = images.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Images [N, 3, H, W] with the hue turned by a share [N] of the circle, brightest and darkest channel kept."""
    red, green, blue = images.unbind(1)
    value, brightest = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    differences = torch.stack([green - blue, blue - red, red - green], dim=1)
    # The circle has six sectors; red, green and blue lie at 0, 2 and 4.
    place = differences.gather(1, brightest[:, None])[:, 0] / chroma.clamp(min=1e-6) + 2 * brightest
    place = place + 6 * turns[:, None, None]
    channels = torch.stack([(start + place) % 6 for start in (5, 3, 1)], dim=1)
    return value[:, None] - chroma[:, None] * torch.minimum(channels, 4 - channels).clamp(0, 1)


def _blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Images [N, 3, H, W] blurred by their own sigmas [N]; beyond the edge the picture is reflected."""
    reach = BLUR_PIXELS // 2
    taps = torch.arange(-reach, reach + 1, device=images.device)
    weights = (-0.5 * (taps / sigmas[:, None]).square()).softmax(dim=1)[:, None, None, None]
    # Sums, no convolution: on a GPU that would round to fewer bits.
    rows = F.pad(images, (0, 0, reach, reach), mode="reflect").unfold(2, BLUR_PIXELS, 1)
    images = (rows * weights).sum(dim=-1)
    columns = F.pad(images, (reach, reach, 0, 0), mode="reflect").unfold(3, BLUR_PIXELS, 1)
    return (columns * weights).sum(dim=-1)
