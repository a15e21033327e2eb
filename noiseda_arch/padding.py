"""Any image size through a network that takes only certain ones."""
import torch.nn.functional as F
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.swinir_arch import SwinIR


def size_rule(net, size_multiple=None):
    """The image sizes a network takes, as it declares them in attributes; each may be missing.

    ``size_multiple`` (int): Sides are multiples of this. ``size_minimum`` (int): No side is smaller. ``size_square``
    (bool): Both sides are equal. BasicSR's networks declare nothing; two of them need it and are known here.

    Args:
        net (nn.Module): Any restoration network.
        size_multiple (int): In place of the network's own (``val:size_multiple``).

    Returns:
        dict: The keyword arguments of :func:`pad_to_multiple`.
    """
    return {
        'multiple': size_multiple or getattr(net, 'size_multiple', None) or _undeclared_multiple(net),
        'minimum': getattr(net, 'size_minimum', 0),
        'square': getattr(net, 'size_square', False),
    }


def _undeclared_multiple(net):
    if isinstance(net, SwinIR):
        return net.layers[0].residual_group.blocks[0].window_size
    if isinstance(net, RRDBNet):
        return {1: 4, 2: 2}.get(net.scale, 1)  # it packs that many pixels into channels
    return 1


def pad_to_multiple(image, multiple, minimum=0, square=False):
    """Extend an image at the bottom and right until both sides are multiples of ``multiple``.

    The new pixels mirror the image where it is large enough, and repeat its border where it is not.

    Args:
        image (Tensor): (B, C, H, W).
        multiple (int): At least 1.
        minimum (int): No side stays smaller.
        square (bool): Both sides become equal.

    Returns:
        Tensor: (B, C, H', W'); ``[..., :H, :W]`` is the image.
    """
    height, width = image.shape[-2:]
    targets = [max(side, minimum) for side in (height, width)]
    targets = [side + -side % multiple for side in targets]
    if square:
        targets = [max(targets)] * 2
    bottom, right = targets[0] - height, targets[1] - width
    if not bottom and not right:
        return image
    mode = 'reflect' if bottom < height and right < width else 'replicate'
    return F.pad(image, (0, right, 0, bottom), mode=mode)
