"""Keypoint heads on pooled features: that of Keypoint R-CNN, and the One-Stage one with Global Context Modules.

Both take features [R, 256, 14, 14] of people's boxes and give heatmap logits [R, K, 56, 56]. Mask R-CNN: He et al.,
ICCV 2017, sec. 5; One-Stage: arXiv 2301.04842, with the layers of its published code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNPredictor

from multiposenet.skeletons import COCO_PERSON

POOLED_SIZE = 14
"""Cells on a side of a box's pooled features."""

CONVS = 8
WIDTH = 512


class RelativeAttention(nn.Module):
    """Self-attention over the cells of a square, with a learnt term for how far apart two cells are.

    Distances along rows and columns have tables of their own (Srinivas et al., BoTNet, CVPR 2021, fig. 4).

    Args:
        channels: of input and output; a multiple of ``heads``.
        heads: independent attentions over equal shares of the channels.
        size: cells on a side.
    """

    def __init__(self, channels: int, heads: int, size: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels must be a multiple of heads, got {channels} and {heads}")
        self.heads, self.size, self.scale = heads, size, (channels // heads) ** -0.5
        self.to_qk = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.to_v = nn.Conv2d(channels, channels, 1, bias=False)
        self.rel_height = nn.Parameter(torch.randn(2 * size - 1, channels // heads) * self.scale)
        self.rel_width = nn.Parameter(torch.randn(2 * size - 1, channels // heads) * self.scale)
        cells = torch.arange(size)
        self.register_buffer("offsets", cells - cells[:, None] + size - 1, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """[R, channels, size, size] -> the same shape."""
        queries, keys = self.to_qk(features).chunk(2, dim=1)
        queries, keys, values = (self._by_head(part) for part in (queries * self.scale, keys, self.to_v(features)))
        logits = queries @ keys.mT + self._distance_logits(queries)
        attended = logits.softmax(dim=-1) @ values
        return attended.mT.reshape(features.shape)

    def _by_head(self, features: Tensor) -> Tensor:
        """[R, heads * d, size, size] -> [R, heads, cells, d]."""
        return features.flatten(2).unflatten(1, (self.heads, -1)).mT

    def _distance_logits(self, queries: Tensor) -> Tensor:
        """What every query [R, heads, cells, d] thinks of cells that far away: [R, heads, cells, cells]."""
        queries = queries.unflatten(2, (self.size, self.size))
        down = torch.einsum("rnyxd,ykd->rnyxk", queries, self.rel_height[self.offsets])
        across = torch.einsum("rnyxd,xkd->rnyxk", queries, self.rel_width[self.offsets])
        return (down[..., :, None] + across[..., None, :]).flatten(4).flatten(2, 3)


class GlobalContext(nn.Module):
    """The Global Context Module: every cell looks at all others, then at its neighbours (One-Stage, sec. 3).

    Two residual branches with normalisation and ReLU first: self-attention, and a 3x3 convolution.

    Args:
        channels, heads, size: see :class:`RelativeAttention`.
    """

    def __init__(self, channels: int = WIDTH, heads: int = 4, size: int = POOLED_SIZE) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attention = RelativeAttention(channels, heads, size)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        _initialise(self)

    def forward(self, features: Tensor) -> Tensor:
        """[R, channels, size, size] -> the same shape.

        Raises:
            ValueError: another size.
        """
        size = self.attention.size
        if features.shape[-2:] != (size, size):
            raise ValueError(f"features must be [R, channels, {size}, {size}], got {list(features.shape)}")
        features = features + self.attention(F.relu(self.norm1(features)))
        return features + self.conv(F.relu(self.norm2(features)))


class KeypointHead(nn.Module):
    """Keypoint R-CNN's head: eight 3x3 convolutions, a transposed one, and bilinear upsampling.

    Args:
        num_keypoints: K.
        in_channels: of the pooled features.
        width: channels inside.
    """

    def __init__(
        self, num_keypoints: int = COCO_PERSON.num_keypoints, in_channels: int = 256, width: int = WIDTH
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(_conv(in_channels if i == 0 else width, width) for i in range(CONVS)))
        _initialise(self.convs)
        self.predict = KeypointRCNNPredictor(width, num_keypoints)

    def forward(self, features: Tensor) -> Tensor:
        """Pooled features [R, in_channels, 14, 14] -> logits [R, K, 56, 56]."""
        return self.predict(self.convs(features))


class OneStageKeypointHead(nn.Module):
    """The One-Stage head: a Global Context Module before each half of the eight convolutions.

    25.46 M parameters with COCO's keypoints.

    Args:
        num_keypoints: K.
        in_channels: of the pooled features.
        width: channels inside.
        heads: of the attention.
    """

    def __init__(
        self,
        num_keypoints: int = COCO_PERSON.num_keypoints,
        in_channels: int = 256,
        width: int = WIDTH,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.widen = nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.ReLU())
        halves = []
        for _ in range(2):
            halves += [GlobalContext(width, heads), *(_conv(width, width) for _ in range(CONVS // 2))]
        self.layers = nn.Sequential(*halves)
        _initialise(self)
        self.predict = KeypointRCNNPredictor(width, num_keypoints)

    def forward(self, features: Tensor) -> Tensor:
        """Pooled features [R, in_channels, 14, 14] -> logits [R, K, 56, 56]."""
        return self.predict(self.layers(self.widen(features)))


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    # Not in place: the layer before may be a sum whose parts are needed again.
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _reference_layers() -> dict[str, str]:
    """The reference's name of every layer or table of the One-Stage head -> ours."""
    layers = {"conv_channel": "widen.0", "score_lowres": "predict.kps_score_lowres"}
    per_half = CONVS // 2
    for half in range(2):
        context = half * (per_half + 1)
        theirs, ours = f"MHSA_{half * per_half + 1}", f"layers.{context}"
        layers |= {f"{theirs}.{name}": f"{ours}.{name}" for name in ("norm1", "norm2")}
        layers |= {f"{theirs}.MHSA.{name}": f"{ours}.attention.{name}" for name in ("to_qk", "to_v")}
        layers |= {f"{theirs}.MHSA.pos_emb": f"{ours}.attention", f"{theirs}.conv_fc": f"{ours}.conv"}
        for conv in range(per_half):
            layers[f"conv_fcn{half * per_half + conv + 1}"] = f"layers.{context + 1 + conv}.0"
    return layers


REFERENCE_LAYERS = _reference_layers()


def reference_name(name: str) -> str | None:
    """Our name of a parameter or buffer of the reference's One-Stage head, e.g. ``MHSA_1.norm1.weight``.

    None for a name that its head does not have.
    """
    layer, _, kind = name.rpartition(".")
    return f"{REFERENCE_LAYERS[layer]}.{kind}" if layer in REFERENCE_LAYERS else None
