"""Batch normalisation folded into the convolution before it: the same network, with fewer passes over memory."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fuse_batch_norm(model: nn.Module) -> nn.Module:
    """Folds every batch normalisation that follows a convolution into it, in place; for inference only.

    A normalisation belongs to a convolution when it is registered right after it in the same module and has its
    channels, as in torchvision's networks and ours. Afterwards the model's state dict has other keys.

    Args:
        model: in evaluation mode.

    Returns:
        The same model.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("batch normalisation can be folded into convolutions in evaluation mode only; call .eval()")
    for parent in model.modules():
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if type(conv) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d) and norm.num_features == conv.out_channels:
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return model


def prepare_for_inference(model: nn.Module) -> nn.Module:
    """Makes a model as fast as it gets without changing its answer, in place.

    Batch normalisation is folded, and parts that have a method ``prepare_for_inference`` do what they know beyond it.

    Args:
        model: in evaluation mode.

    Returns:
        The same model.

    Raises:
        ValueError: the model is in training mode.
    """
    fuse_batch_norm(model)
    for part in model.modules():
        if hasattr(part, "prepare_for_inference"):
            part.prepare_for_inference()
    return model
