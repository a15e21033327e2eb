"""The restoration network G_theta of the paper's Sec. 4.1."""
import math

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from noiseda_arch.compiled import upsample_bilinear
from noiseda_arch.padding import pad_to_multiple
from noiseda_basicsr import InputError

PRESETS = {'T': 32, 'S': 64, 'B': 76}  # 2.14 M, 8.56 M, 12.07 M parameters


@ARCH_REGISTRY.register()
class RestorationUNet(nn.Module):
    """A plain U-Net that predicts the residual: returns input + residual.

    Two 3x3 convolutions with LeakyReLU(0.2) a stage, average pooling down, bilinear interpolation and a 3x3 convolution
    up, skips by concatenation, no normalisation.

    Args:
        width (int | str): Channels of the first stage, doubling with each; or a preset of the paper: 'T' (32), 'S' (64)
            or 'B' (76).
        depth (int): Number of resolutions. Default: 4.
        channels (int): Channels of the image. Default: 3.
        max_width (int): Where the widths stop doubling. Default: nowhere.

    Shape:
        (B, channels, H, W) -> the same, any H and W, values in [0, 1] (not clipped).
    """

    def __init__(self, width='S', depth=4, channels=3, max_width=None):
        super().__init__()
        width = PRESETS.get(width, width) if isinstance(width, str) else width
        if not isinstance(width, int) or width < 1:
            raise InputError(f'RestorationUNet: width must be a number or one of {list(PRESETS)}, not {width!r}.')
        widths = [min(width * 2**level, max_width or math.inf) for level in range(depth)]
        self.size_multiple = 2**(depth - 1)
        inputs = [channels, *widths[:-1]]
        self.encoder = nn.ModuleList(_stage(c_in, c_out) for c_in, c_out in zip(inputs, widths, strict=True))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # (deeper, shallower), from the bottom up
        self.up = nn.ModuleList(nn.Conv2d(deep, shallow, 3, padding=1) for deep, shallow in pairs)
        self.decoder = nn.ModuleList(_stage(2 * shallow, shallow) for _, shallow in pairs)
        self.to_residual = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, image):
        height, width = image.shape[-2:]
        x = pad_to_multiple(image, self.size_multiple)
        skips = []
        for stage in self.encoder:
            x = stage(F.avg_pool2d(x, 2) if skips else x)
            skips.append(x)
        skips.pop()
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = up(upsample_bilinear(x))
            x = stage(torch.cat([x, skips.pop()], dim=1))
        return image + self.to_residual(x)[..., :height, :width]


def _stage(c_in, c_out):
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(c_out, c_out, 3, padding=1), nn.LeakyReLU(0.2, inplace=True))
