"""Any image size through a network that halves it several times."""
import torch.nn.functional as F


def pad_to_multiple(image, multiple):
    """Extend an image at the bottom and right until both sides are multiples of ``multiple``.

    The new pixels mirror the image where it is large enough, and repeat its border where it is not.

    Args:
        image (Tensor): (B, C, H, W).
        multiple (int): At least 1.

    Returns:
        Tensor: (B, C, H', W'); ``[..., :H, :W]`` is the image.
    """
    height, width = image.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return image
    mode = 'reflect' if bottom < height and right < width else 'replicate'
    return F.pad(image, (0, right, 0, bottom), mode=mode)
