"""Whole images through a restoration network: padded to the size it needs, in tiles where memory is short."""
import torch

from noiseda_arch.padding import pad_to_multiple


def restore(net, image, size_multiple=1, tile=None, tile_overlap=32):
    """Restore images of any size.

    Args:
        net (nn.Module): Maps an image to an image of equal size.
        image (Tensor): (B, C, H, W).
        size_multiple (int): Sides the network accepts are multiples of this.
        tile (int): Largest side given to the network; a multiple of ``size_multiple``. Default: the whole image.
        tile_overlap (int): Pixels two neighbouring tiles share; blended linearly, so no seam shows.

    Returns:
        Tensor: (B, C, H, W), not clipped.
    """
    height, width = image.shape[-2:]
    padded = pad_to_multiple(image, size_multiple)
    if tile is None or (padded.shape[-2] <= tile and padded.shape[-1] <= tile):
        return net(padded)[..., :height, :width]
    total, weights = torch.zeros_like(padded), torch.zeros_like(padded[:1, :1])
    for top in _starts(padded.shape[-2], tile, tile_overlap):
        for left in _starts(padded.shape[-1], tile, tile_overlap):
            area = (..., slice(top, top + tile), slice(left, left + tile))
            restored = net(padded[area])
            rows, columns = (_ramp(side, tile_overlap, image) for side in restored.shape[-2:])
            ramp = rows[:, None] * columns
            total[area] += restored * ramp
            weights[area] += ramp
    return (total / weights)[..., :height, :width]


def _starts(length, tile, overlap):
    """Where tiles begin along one side; the last one ends at the border."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def _ramp(length, overlap, like):
    """Weights of a tile along one side: rising over the overlap, 1 inside, falling."""
    distance = torch.arange(1, length + 1, device=like.device, dtype=like.dtype)
    return torch.minimum(distance, distance.flip(0)).clamp(max=overlap + 1) / (overlap + 1)
