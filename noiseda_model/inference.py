"""Whole images through a restoration network: padded to the size it needs, in tiles where memory is short."""
import torch

from noiseda_arch.padding import pad_to_multiple, size_rule


def restore(net, image, size_multiple=None, tile=None, tile_overlap=32):
    """Restore images of any size.

    Args:
        net (nn.Module): Maps an image to an image of equal size; it says in its attributes which sizes it takes, see
            :func:`noiseda_arch.padding.size_rule`.
        image (Tensor): (B, C, H, W).
        size_multiple (int): Sides the network accepts are multiples of this. Default: what it says.
        tile (int): Largest side given to the network; a multiple of ``size_multiple``. Default: the whole image.
        tile_overlap (int): Pixels two neighbouring tiles share; blended linearly, so no seam shows.

    Returns:
        Tensor: (B, C, H, W), not clipped.
    """
    rule = size_rule(net, size_multiple)
    height, width = image.shape[-2:]
    if tile is None or (height <= tile and width <= tile):
        return net(pad_to_multiple(image, **rule))[..., :height, :width]
    padded = pad_to_multiple(image, rule['multiple'])
    total, weights = torch.zeros_like(padded), torch.zeros_like(padded[:1, :1])
    for top in _starts(padded.shape[-2], tile, tile_overlap):
        for left in _starts(padded.shape[-1], tile, tile_overlap):
            area = (..., slice(top, top + tile), slice(left, left + tile))
            rows, columns = padded[area].shape[-2:]
            restored = net(pad_to_multiple(padded[area], **rule))[..., :rows, :columns]
            ramp = _ramp(rows, tile_overlap, image)[:, None] * _ramp(columns, tile_overlap, image)
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
