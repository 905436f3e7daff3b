"""Multi-person human pose estimation, bottom-up: parts that train alone and chain into one.

    >>> import multiposenet
    >>> predictor = multiposenet.load()
    >>> poses = predictor("photo.jpg")[0]
"""

from importlib.metadata import version

from multiposenet.methods import create_model, list_models
from multiposenet.predictor import PosePredictor, load
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import Poses

__version__ = version("multiposenet")

__all__ = ["COCO_PERSON", "PosePredictor", "Poses", "Skeleton", "create_model", "list_models", "load"]
