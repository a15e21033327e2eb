"""The diffusion network eps_phi: predicts the noise in x_t from x_t, two restored images and the noise level."""
import math

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from noiseda_arch.compiled import GroupNorm, upsample_nearest
from noiseda_arch.padding import pad_to_multiple
from noiseda_basicsr import InputError

GROUPS = 32  # of every GroupNorm, so widths are multiples of 32


@ARCH_REGISTRY.register()
class ConditionalUNet(nn.Module):
    """Conditional diffusion U-Net with a continuous noise level.

    Residual blocks with GroupNorm and SiLU, modulated by the embedding of alpha_bar (FiLM: scale and shift), residual
    blocks that halve and double the resolution, and one self-attention block in the middle. The defaults are the
    paper's setting: 62.64 M parameters, 51.4 GMACs at 128x128. The last convolution starts at zero, so an untrained
    network predicts 0 and its L_noise is 1.

    Args:
        in_channels (int): x_t and its conditions: 9 with both, 6 with one condition. Default: 9.
        out_channels (int): Channels of the noise. Default: 3.
        width (int): Channels at full resolution, a multiple of 32. Default: 64.
        multipliers (list[int]): Width of each resolution as a multiple of ``width``. Default: (1, 2, 4, 8).
        blocks (int): Residual blocks a resolution on the way down (one more on the way up). Default: 2.
        dropout (float): Default: 0.2.
        head_channels (int): Channels of an attention head. Default: 32.

    Shape:
        x (B, in_channels, H, W), any H and W; alpha_bar (B,) in (0, 1] -> (B, out_channels, H, W).
    """

    def __init__(self, in_channels=9, out_channels=3, width=64, multipliers=(1, 2, 4, 8), blocks=2, dropout=0.2,
                 head_channels=32):
        super().__init__()
        if not isinstance(width, int) or width < 1 or width % GROUPS:
            raise InputError(f'ConditionalUNet: width must be a multiple of {GROUPS}, not {width!r}.')
        if width * multipliers[-1] % head_channels:
            raise InputError(f'ConditionalUNet: head_channels {head_channels} must divide {width * multipliers[-1]}.')
        self.in_channels = in_channels
        self.size_multiple = 2**(len(multipliers) - 1)
        self.width = width
        embedding = 4 * width
        self.embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        def block(c_in, c_out, resample=None):
            return ResidualBlock(c_in, c_out, embedding, dropout, resample)

        channels = width
        skips = [channels]  # channels of what each step down leaves for the way up
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.down.append(block(channels, width * multiplier))
                channels = width * multiplier
                skips.append(channels)
            if level < len(multipliers) - 1:
                self.down.append(block(channels, channels, 'down'))
                skips.append(channels)

        self.middle = nn.ModuleList(
            [block(channels, channels), SelfAttention(channels, head_channels), block(channels, channels)])

        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(block(channels + skips.pop(), width * multiplier))
                channels = width * multiplier
            if level > 0:
                self.up.append(block(channels, channels, 'up'))

        self.head = nn.Sequential(
            GroupNorm(GROUPS, channels), nn.SiLU(), _zero(nn.Conv2d(channels, out_channels, 3, padding=1)))

    def forward(self, x, alpha_bar):
        height, width = x.shape[-2:]
        embedding = self.embed(sinusoidal_embedding(alpha_bar, self.width))
        x = self.stem(pad_to_multiple(x, self.size_multiple))
        skips = [x]
        for block in self.down:
            x = block(x, embedding)
            skips.append(x)
        before, attention, after = self.middle
        x = after(attention(before(x, embedding)), embedding)
        for block in self.up:
            x = block(x if block.resample == 'up' else torch.cat([x, skips.pop()], dim=1), embedding)
        return self.head(x)[..., :height, :width]


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, (resample,) conv; GroupNorm, FiLM, SiLU, dropout, conv starting at zero; plus the input."""

    def __init__(self, c_in, c_out, embedding, dropout, resample=None):
        super().__init__()
        self.resample = resample
        self.norm1 = GroupNorm(GROUPS, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * c_out)
        self.norm2 = GroupNorm(GROUPS, c_out)
        self.dropout = Dropout(dropout)
        self.conv2 = _zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, embedding):
        h = self.conv1(self._resample(F.silu(self.norm1(x))))
        scale, shift = self.film(F.silu(embedding))[..., None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        h = self.conv2(self.dropout(F.silu(h)))
        return self.shortcut(self._resample(x)) + h

    def _resample(self, x):
        if self.resample == 'down':
            return F.avg_pool2d(x, 2)
        if self.resample == 'up':
            return upsample_nearest(x)
        return x


class Dropout(nn.Dropout):
    """``nn.Dropout``, three times as fast on a CPU, where random numbers cost most.

    One 64-bit draw serves four values, so the probability is rounded to a multiple of 1 / 65536. Compiled, it is
    ``nn.Dropout``: torch.compile does not take these draws and would cut the network at each.
    """

    def forward(self, x):
        if x.device.type != 'cpu' or not self.training or self.p == 0 or torch.compiler.is_compiling():
            return super().forward(x)
        dropped = round(self.p * 65536)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-2**63, None).view(torch.int16)
        kept = (draws[:x.numel()] >= dropped - 32768).view(x.shape)
        return x * kept.to(x.dtype).mul_(65536 / (65536 - dropped))


class SelfAttention(nn.Module):
    """Multi-head self-attention over all positions, with its projection at zero; plus the input."""

    def __init__(self, channels, head_channels):
        super().__init__()
        self.heads = channels // head_channels
        self.norm = GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x):
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, 3, self.heads, channels // self.heads, height * width)
        query, key, value = qkv.transpose(-1, -2).unbind(1)
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.project(attended.transpose(-1, -2).reshape(batch, channels, height, width))


def sinusoidal_embedding(alpha_bar, size):
    """Cosines and sines of alpha_bar at ``size / 2`` frequencies from 1 down to 1e-4 (WaveGrad's continuous level).

    Args:
        alpha_bar (Tensor): (B,) in (0, 1].
        size (int): Even.

    Returns:
        Tensor: (B, size).
    """
    half = size // 2
    frequencies = torch.exp(torch.arange(half, device=alpha_bar.device) * (-math.log(1e4) / half))
    angles = alpha_bar[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _zero(layer):
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
