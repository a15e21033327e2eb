"""Layers that ``torch.compile`` turns into fast code for images with channels last; not compiled, torch's own."""
import itertools

import torch
from torch import nn
from torch.nn import functional as F


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm``, compiled from the mean and variance of each channel.

    torch.compile would join the channels of a group with their pixels into one dimension, for which every image with
    channels last is turned around and back.
    """

    def forward(self, x):
        if not torch.compiler.is_dynamo_compiling():
            return super().forward(x)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        var, mean = (value.unflatten(1, (self.num_groups, -1)) for value in torch.var_mean(x, dim=(2, 3), correction=0))
        mean_of_group = mean.mean(dim=2, keepdim=True)
        var_of_group = (var + (mean - mean_of_group).square()).mean(dim=2, keepdim=True)
        scale = (var_of_group + self.eps).rsqrt().expand_as(mean).flatten(1) * self.weight
        shift = self.bias - mean_of_group.expand_as(mean).flatten(1) * scale
        return x * scale[..., None, None] + shift[..., None, None]


def upsample_nearest(x):
    """``F.interpolate`` to twice the size: each pixel becomes 2x2 of it."""
    if torch.compiler.is_dynamo_compiling():
        pixels = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
        return pixels.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    return F.interpolate(x, scale_factor=2, mode='nearest')


def upsample_bilinear(x):
    """``F.interpolate`` to twice the size, bilinear with aligned corners."""
    if torch.compiler.is_dynamo_compiling():
        return _BilinearUpsampling.apply(x)
    return F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=True)


class _BilinearUpsampling(torch.autograd.Function):
    """Its way back collects, for each pixel, the 4x4 it went to; torch.compile's adds to it from each of them in turn.

    Along an axis of n pixels, x_k goes to 2k - 1 ... 2k + 2 with the weights n - k, 2n - 1 - k, n + k, k + 1 over
    2n - 1: 2k lies k / (2n - 1) before k, and 2k + 1 lies (n - 1 - k) / (2n - 1) behind it.
    """

    @staticmethod
    def forward(ctx, x):
        return F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=True)

    @staticmethod
    def backward(ctx, gradient):
        rows, columns = (_taps(size // 2, gradient) for size in gradient.shape[2:])
        total = 0
        for (row, weight_of_row), (column, weight_of_column) in itertools.product(rows, columns):
            total = total + gradient[:, :, row[:, None], column] * (weight_of_row[:, None] * weight_of_column)
        return total.to(gradient.dtype)


def _taps(n, like):
    k = torch.arange(n, device=like.device)
    for offset, weight in ((-1, n - k), (0, 2 * n - 1 - k), (1, n + k), (2, k + 1)):
        pixel = 2 * k + offset
        weight = torch.where((pixel >= 0) & (pixel < 2 * n), weight, 0)
        yield pixel.clamp(0, 2 * n - 1), weight.to(torch.promote_types(like.dtype, torch.float32)) / (2 * n - 1)
