"""What networks that find everybody in a picture learn from."""

from __future__ import annotations

from torch.utils.data import Dataset

from multiposenet.data.pending import PICTURES
from multiposenet.data.transforms import Letterbox, training_transform
from multiposenet.data.whole_image import SampleSource, WholeImageDataset
from multiposenet.families.family import Decoder, TrainingView
from multiposenet.skeletons import Skeleton


def picture_examples(source: SampleSource, decoder: Decoder, skeleton: Skeleton, view: TrainingView) -> Dataset:
    """Pictures, or random crops of them, with everybody in them; see ``Teaching.examples``."""
    picture = PICTURES[view.augment_on]
    if not view.augment:
        return WholeImageDataset(source, Letterbox(view.image_size, skeleton=skeleton), picture=picture)
    crop = view.crop or view.image_size
    transform = training_transform(crop, view.image_size, view.scale, view.rotation, view.flip, view.colours, skeleton)
    return WholeImageDataset(source, transform, picture=picture)
