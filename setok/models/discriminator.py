"""PatchGAN: says of every patch of a picture how real it looks (Isola et al. 2017)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from setok.config import DiscriminatorConfig


class Discriminator(nn.Module):
    """Strided convolutions to a map of logits.

    The original normalises over the batch; by default this one normalises every picture by itself, so that neither the
    micro-batch size nor the number of workers changes its gradients.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        width = config.width
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, config.depth + 1):
            stride = 2 if level < config.depth else 1
            inputs, outputs = width * min(2 ** (level - 1), 8), width * min(2**level, 8)
            layers += [
                nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs) if config.normalization == "batch" else nn.GroupNorm(1, outputs),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(width * min(2**config.depth, 8), 1, 4, stride=1, padding=1))
        self.main = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 rows columns"]:
        """Logits of pixels in [-1, 1]: above zero means real."""
        return self.main(pixels)
