"""A stand-in for the published cascades, to compare with: MSPN's and RSN's layers, plain, with their own names.

Written for these tests from a description of layers, names and rules; it shares nothing with the package. Crops,
labels, loss and positions are done as described, one person and one keypoint at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

MEAN_BGR, STD_BGR = (0.406, 0.456, 0.485), (0.225, 0.224, 0.229)


class CBR(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x.relu() if self.relu else x


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.conv_bn_relu1 = CBR(inputs, planes, 1)
        self.conv_bn_relu2 = CBR(planes, planes, 3, stride)
        self.conv_bn_relu3 = CBR(planes, planes * expansion, 1, relu=False)
        if stride != 1 or inputs != planes * expansion:
            self.downsample = CBR(inputs, planes * expansion, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_bn_relu3(self.conv_bn_relu2(self.conv_bn_relu1(x)))
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class StepsBlock(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, expansion: int) -> None:
        super().__init__()
        w = inputs * 26 // 64
        self.w = w
        self.conv_bn_relu1 = CBR(inputs, 4 * w, 1, stride)
        for i in range(1, 5):
            for j in range(1, i + 1):
                self.add_module(f"conv_bn_relu2_{i}_{j}", CBR(w, w, 3))
        self.conv_bn_relu3 = CBR(4 * w, planes * expansion, 1, relu=False)
        if stride != 1 or inputs != planes * expansion:
            self.downsample = CBR(inputs, planes * expansion, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        f1, f2, f3, f4 = self.conv_bn_relu1(x).split(self.w, dim=1)
        y11 = self.conv_bn_relu2_1_1(f1)
        y21 = self.conv_bn_relu2_2_1(f2 + y11)
        y22 = self.conv_bn_relu2_2_2(y21)
        y31 = self.conv_bn_relu2_3_1(f3 + y21)
        y32 = self.conv_bn_relu2_3_2(y31 + y22)
        y33 = self.conv_bn_relu2_3_3(y32)
        y41 = self.conv_bn_relu2_4_1(f4 + y31)
        y42 = self.conv_bn_relu2_4_2(y41 + y32)
        y43 = self.conv_bn_relu2_4_3(y42 + y33)
        y44 = self.conv_bn_relu2_4_4(y43)
        y = self.conv_bn_relu3(torch.cat([y11, y22, y33, y44], 1))
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class Down(nn.Module):
    def __init__(self, block: type, blocks: tuple[int, ...], expansion: int) -> None:
        super().__init__()
        inputs = 64
        for level, (count, planes) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), start=1):
            layers = []
            for number in range(count):
                layers.append(block(inputs, planes, 2 if number == 0 and level > 1 else 1, expansion))
                inputs = planes * expansion
            self.add_module(f"layer{level}", nn.Sequential(*layers))

    def forward(self, x: Tensor, skip1: list[Tensor] | None, skip2: list[Tensor] | None) -> list[Tensor]:
        levels = []
        for level in range(4):
            x = getattr(self, f"layer{level + 1}")(x)
            if skip1 is not None:
                x = x + skip1[level] + skip2[level]
            levels.append(x)
        return levels


class UpUnit(nn.Module):
    def __init__(self, number: int, channels: int, k: int, hands_over: bool) -> None:
        super().__init__()
        self.u_skip = CBR(channels, 256, 1, relu=False)
        if number > 1:
            self.up_conv = CBR(256, 256, 1, relu=False)
        if hands_over:
            self.skip1, self.skip2 = CBR(channels, channels, 1), CBR(256, channels, 1)
            if number == 4:
                self.cross_conv = CBR(256, 64, 1)
        self.res_conv1, self.res_conv2 = CBR(256, 256, 1), CBR(256, k, 3, relu=False)


class Up(nn.Module):
    def __init__(self, channels: list[int], k: int, hands_over: bool) -> None:
        super().__init__()
        self.hands_over = hands_over
        for number in range(1, 5):
            self.add_module(f"up{number}", UpUnit(number, channels[4 - number], k, hands_over))

    def forward(self, levels: list[Tensor]) -> tuple:
        size = levels[0].shape[2:]
        maps, skip1, skip2, out, cross = [], [], [], None, None
        for number in range(1, 5):
            unit, x = getattr(self, f"up{number}"), levels[4 - number]
            below, out = out, unit.u_skip(x)
            if below is not None:
                out = out + unit.up_conv(F.interpolate(below, x.shape[2:], mode="bilinear", align_corners=True))
            out = out.relu()
            maps.append(F.interpolate(unit.res_conv2(unit.res_conv1(out)), size, mode="bilinear", align_corners=True))
            if self.hands_over:
                skip1.insert(0, unit.skip1(x))
                skip2.insert(0, unit.skip2(out))
        if self.hands_over:
            cross = self.up4.cross_conv(out)
        return maps, skip1 or None, skip2 or None, cross


class Top(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = CBR(3, 64, 7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.conv(x), 3, 2, 1)


class OneStage(nn.Module):
    def __init__(self, block: type, blocks: tuple[int, ...], expansion: int, k: int, hands_over: bool) -> None:
        super().__init__()
        self.downsample = Down(block, blocks, expansion)
        self.upsample = Up([64 * expansion * 2**level for level in range(4)], k, hands_over)


class Network(nn.Module):
    """Normalised BGR crops -> ``maps[stage][level]``, coarse to fine."""

    def __init__(self, block: type, blocks: tuple[int, ...], expansion: int, stages: int, k: int = 17) -> None:
        super().__init__()
        self.stages = stages
        self.top = Top()
        for stage in range(stages):
            self.add_module(f"stage{stage}", OneStage(block, blocks, expansion, k, stage < stages - 1))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        x, skip1, skip2, answers = self.top(x), None, None, []
        for number in range(self.stages):
            stage = getattr(self, f"stage{number}")
            maps, skip1, skip2, x = stage.upsample(stage.downsample(x, skip1, skip2))
            answers.append(maps)
        return answers


def normalised(images: Tensor) -> Tensor:
    """RGB in [0, 1] -> what the published networks take."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN_BGR, STD_BGR))
    return (images.flip(1) - mean) / std


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, with statistics as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, low, high in (
                (layer.weight.data, 0.5, 1.5),
                (layer.bias.data, -0.5, 0.5),
                (layer.running_mean, -0.3, 0.3),
                (layer.running_var, 0.5, 1.5),
            ):
                values.copy_(low + (high - low) * torch.rand(values.shape, generator=generator))
        if isinstance(layer, nn.Conv2d):
            layer.bias.data.uniform_(-0.2, 0.2, generator=generator)
            layer.weight.data.normal_(0, (1.5 / layer.weight[0].numel()) ** 0.5, generator=generator)
    return network.eval()


# --- crops and positions


def region(box_xywh: np.ndarray, extension: tuple[float, float], size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Centre and width of the region that a box becomes; size is (height, width)."""
    x, y, w, h = box_xywh
    centre = np.array([x + w / 2, y + h / 2])
    w, h = w * extension[0], h * extension[1]
    ratio = size[1] / size[0]
    if w < h * ratio:
        w = h * ratio
    return centre, w


def crop(picture: np.ndarray, centre: np.ndarray, width: float, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] float -> [h, w, 3]: pixel indices by one affine map, bilinear, zeros outside."""
    scale = width / size[1]
    columns, rows = np.arange(size[1]), np.arange(size[0])
    x = centre[0] + (columns - size[1] / 2) * scale
    y = centre[1] + (rows - size[0] / 2) * scale
    where = np.stack(np.meshgrid(y, x, indexing="ij"))
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)))  # the zeros beyond the border take part in the interpolation
    planes = [ndimage.map_coordinates(padded[..., c], where + 1, order=1, cval=0.0) for c in range(picture.shape[2])]
    return np.stack(planes, axis=-1)


KERNEL_LINES = {5: [1, 4, 6, 4, 1], 9: [4, 13, 30, 51, 60, 51, 30, 13, 4]}


def keypoints(maps: np.ndarray, centre: np.ndarray, width: float, size: tuple[int, int], kernel: int = 5) -> np.ndarray:
    """[K, h, w] of height 255 -> [K, 3] x, y in the picture and score, keypoint by keypoint."""
    line = np.array(KERNEL_LINES[kernel], float)
    line /= line.sum()
    answers = []
    for one in maps:
        height, columns = one.shape
        padded = np.zeros((height + 20, columns + 20))
        padded[10:-10, 10:-10] = one
        for axis in (0, 1):
            padded = ndimage.convolve1d(padded, line, axis=axis, mode="constant")
        first = np.unravel_index(padded.argmax(), padded.shape)
        padded[first] = 0
        second = np.unravel_index(padded.argmax(), padded.shape)
        x, y = first[1] - 10, first[0] - 10
        dx, dy = second[1] - 10 - x, second[0] - 10 - y
        length = (dx**2 + dy**2) ** 0.5
        if length > 1e-3:
            x, y = x + 0.25 * dx / length, y + 0.25 * dy / length
        x, y = min(max(x, 0), columns - 1), min(max(y, 0), height - 1)
        score = one[round(y), round(x)] / 255 + 0.5
        px, py = 4 * x + 2, 4 * y + 2
        scale = width / size[1]
        answers.append([px * scale + centre[0] - width / 2, py * scale + centre[1] - size[0] / 2 * scale, score])
    return np.array(answers)


# --- labels and loss

LABEL_LINES = {
    15: [0.0267, 0.0698, 0.1574, 0.3062, 0.5139, 0.7439, 0.9287],
    11: [0.0439, 0.1353, 0.3247, 0.6065, 0.8825],
    9: [4 / 60, 13 / 60, 30 / 60, 51 / 60],
    7: [1 / 9, 7 / 18, 7 / 9],
    5: [1 / 6, 2 / 3],
}


def label(xy: np.ndarray, size: tuple[int, int], kernel: int, reflect: bool) -> np.ndarray:
    """One keypoint's map of height 255: an impulse in its cell, blurred, divided by its largest value."""
    line = np.array([*LABEL_LINES[kernel], 1.0, *LABEL_LINES[kernel][::-1]])
    one = np.zeros(size)
    one[int(xy[1] / 4), int(xy[0] / 4)] = 1
    for axis in (0, 1):
        one = ndimage.convolve1d(one, line, axis=axis, mode="mirror" if reflect else "constant")
    return one / one.max() * 255


def loss(maps: list[list[np.ndarray]], xy: np.ndarray, visibility: np.ndarray, reflect: bool = True) -> float:
    """Loss of a batch: ``maps[stage][level]`` [N, K, h, w], labels [N, K, 2] in pixels, visibility [N, K]."""
    total = 0.0
    n, k, *size = maps[0][0].shape
    for stage, levels in enumerate(maps):
        for level, answer in enumerate(levels):
            kernel = (15, 11, 9, 7, 5)[level + (stage == len(maps) - 1)]
            for person in range(n):
                targets = [label(xy[person, i], tuple(size), kernel, reflect) for i in range(k)]
                shown = visibility[person] > (1 if level < 3 else 0)
                if level < 3:
                    errors = [np.mean((answer[person, i] - targets[i] * shown[i]) ** 2) for i in range(k)]
                    total += np.mean(errors) / 4 / n
                else:
                    errors = [np.mean((answer[person, i] - targets[i]) ** 2) * shown[i] for i in range(k)]
                    total += sum(sorted(errors)[-8:]) / 8 / n
    return total
