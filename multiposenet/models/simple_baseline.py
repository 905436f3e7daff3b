"""SimpleBaseline: a ResNet and three transposed convolutions on one person's crop (Xiao, Wu and Wei, ECCV 2018)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from multiposenet.models.backbones import Backbone
from multiposenet.models.input_normalization import InputNormalization
from multiposenet.structures import CropOutputs, CropTargets

DECONVOLUTIONS = 3
"""From 1/32 of the crop to 1/4."""


class SimpleBaseline(nn.Module):
    """The crop's last features, enlarged three times by two, and a map for every keypoint.

    Args:
        backbone: of which the last stage is used.
        num_keypoints: K.
        width: channels of the transposed convolutions.
        peak_height, loss, outputs: see ``models.cascade.Cascade``.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_keypoints: int,
        width: int = 256,
        peak_height: float = 1.0,
        loss: Callable[[CropOutputs, CropTargets], dict[str, Tensor]] | None = None,
        outputs: type[CropOutputs] = CropOutputs,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        layers, inputs = [], backbone.channels[-1]
        for _ in range(DECONVOLUTIONS):
            deconvolution = nn.ConvTranspose2d(inputs, width, 4, stride=2, padding=1, bias=False)
            layers += [deconvolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inputs = width
        self.enlarge = nn.Sequential(*layers)
        self.predict = nn.Conv2d(width, num_keypoints, 1)
        for layer in (*self.enlarge, self.predict):
            if isinstance(layer, (nn.ConvTranspose2d, nn.Conv2d)):
                nn.init.normal_(layer.weight, std=0.001)
        nn.init.zeros_(self.predict.bias)
        self.peak_height, self.loss, self.outputs = peak_height, loss, outputs
        self.normalize = InputNormalization()

    def forward(self, images: Tensor, targets: CropTargets | None = None) -> tuple[CropOutputs, dict[str, Tensor]]:
        """Looks at crops.

        Args:
            images: [N, 3, H, W] float, RGB in [0, 1], one person each; H and W multiples of 32.
            targets: labels of the same crops; with them losses are returned.

        Returns:
            outputs, with maps [N, K, H / 4, W / 4], and a dict of scalar losses (empty without targets).
        """
        *_, features = self.backbone(self.normalize(images))
        heatmaps = self.predict(self.enlarge(features))
        outputs = self.outputs(((heatmaps,),), tuple(images.shape[-2:]), self.peak_height)
        return outputs, {} if targets is None else self.loss(outputs, targets)
