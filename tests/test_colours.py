"""Colours: torchvision's own dice, and a batch changed at once as one picture after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms import v2

from multiposenet.data.colours import BRIGHTNESS, CONTRAST, SATURATION, ColourChange, ColourChanges, change_colours
from multiposenet.data.transforms import RandomColours

CHANGES = {
    "brightness": ColourChange(factors=(1.25, 1, 1)),
    "contrast": ColourChange(factors=(1, 0.75, 1)),
    "saturation": ColourChange(factors=(1, 1, 1.25)),
    "factors": ColourChange((SATURATION, BRIGHTNESS, CONTRAST), (0.8, 1.2, 0.9)),
    "factors in another order": ColourChange((CONTRAST, BRIGHTNESS, SATURATION), (0.8, 1.2, 0.9)),
    "hue": ColourChange(hue=0.03),
    "hue the other way": ColourChange(hue=-0.03),
    "grey": ColourChange(grey=True),
    "blur": ColourChange(sigma=1.5),
    "all": ColourChange((CONTRAST, SATURATION, BRIGHTNESS), (0.9, 0.8, 1.1), 0.02, False, 0.7),
    "nothing": ColourChange(),
}


def picture(seed: int = 0) -> np.ndarray:
    """[48, 64, 3] uint8, soft shapes in all colours."""
    noise = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, (48, 64), mode="bicubic").clamp(0, 1)[0]
    return (smooth * 255).byte().permute(1, 2, 0).numpy()


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float()


def test_the_dice_and_the_changes_are_those_of_torchvision_s_transforms_one_after_the_other():
    theirs = v2.Compose(
        [
            v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25),
            v2.RandomApply([v2.ColorJitter(hue=0.03)], p=0.1),
            v2.RandomGrayscale(p=0.05),
            v2.RandomApply([v2.GaussianBlur(kernel_size=5, sigma=(0.3, 1.5))], p=0.1),
        ]
    )
    image, drawn = Image.fromarray(picture()), []
    for seed in range(60):
        torch.manual_seed(seed)
        expected, after = theirs(image), torch.get_rng_state()
        torch.manual_seed(seed)
        assert_array_equal(np.asarray(RandomColours()(image)), np.asarray(expected))
        assert torch.equal(torch.get_rng_state(), after)
        torch.manual_seed(seed)
        drawn.append(RandomColours().draw())
    # All that is rare was among them.
    assert any(change.hue is not None for change in drawn)
    assert any(change.grey for change in drawn)
    assert any(change.sigma for change in drawn)


def test_a_batch_changed_at_once_is_each_picture_changed_by_pillow_to_a_few_grey_levels():
    pictures = [picture(seed) for seed in range(len(CHANGES))]
    batch = torch.stack([as_tensor(one) for one in pictures])
    changed = ColourChanges.of(list(CHANGES.values())).applied(batch)
    for name, own, before, after in zip(CHANGES, CHANGES.values(), pictures, changed, strict=True):
        expected = as_tensor(change_colours(Image.fromarray(before), own))
        error = (after - expected).abs()
        # Pillow keeps whole grey levels, cut off after each change, and whole steps of hue and saturation.
        assert float(error.mean()) < 2.0, name
        assert float(error.max()) < (12.0 if own.hue else 4.0), name
        assert name == "nothing" or float((expected - as_tensor(before)).abs().mean()) > 1.5, name
    assert_close(changed[-1], batch[-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("hue", [5 / 255, -7 / 255])
def test_the_hue_is_turned_as_torchvision_turns_it(hue):
    image = as_tensor(picture()) / 255
    image[:, :2] = image[:1, :2]  # grey
    image[:, 2] = 0
    ours = ColourChanges.of([ColourChange(hue=hue + 1e-6 * np.sign(hue))]).applied(image[None] * 255)[0]
    assert_close(ours / 255, v2.functional.adjust_hue(image, hue), atol=1e-5, rtol=0)


def test_the_blur_is_torchvision_s():
    image = as_tensor(picture())
    ours = ColourChanges.of([ColourChange(sigma=0.9)]).applied(image[None])[0]
    assert_close(ours, v2.functional.gaussian_blur(image, [5, 5], [0.9, 0.9]), atol=1e-3, rtol=0)


def test_a_picture_does_not_depend_on_its_batch_mates():
    batch = torch.stack([as_tensor(picture(seed)) for seed in range(len(CHANGES))])
    changes = ColourChanges.of(list(CHANGES.values()))
    together = changes.applied(batch)
    for row in range(len(batch)):
        alone = changes.pictures(slice(row, row + 1))
        assert_close(alone.applied(batch[row : row + 1])[0], together[row], atol=1e-3, rtol=0)


def test_the_images_given_are_left_as_they_were():
    batch = torch.stack([as_tensor(picture(seed)) for seed in range(len(CHANGES))])
    before = batch.clone()
    ColourChanges.of(list(CHANGES.values())).applied(batch)
    assert torch.equal(batch, before)
