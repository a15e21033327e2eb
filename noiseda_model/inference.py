"""Images of any size through a restoration network: padded to the size it needs, in tiles where memory is short."""
import contextlib
import math
import weakref
from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from noiseda_arch.padding import pad_to_multiple, size_rule
from noiseda_basicsr import InputError
from noiseda_basicsr.networks import place

FAULTS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError)  # in code
OF_THE_GPU = ('CUDA error', 'cuDNN error', 'unable to find an engine')  # the last two of cuDNN
TILES = (2048, 1536, 1024, 768, 512, 384, 256, 192, 128, 96, 64)  # sides that fitting_tile chooses from


def apply(net, image, source=None):
    """``net(image)``, where the network may be anybody's.

    Args:
        net (nn.Module)
        image (Tensor): (B, 3, H, W).
        source (str): The file the image is of, to name it in an error.

    Returns:
        Tensor: (B, 3, H, W).

    Raises:
        InputError: The network fails, or gives something else than an image of that size. A full memory and errors of
            the GPU are no fault of the network, and stay as they are.
    """
    try:
        output = net(image)
    except FAULTS as error:
        if isinstance(error, InputError) or is_out_of_memory(error) or any(word in str(error) for word in OF_THE_GPU):
            raise
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:300]
        raise InputError(f'{f"{source}: " if source else ""}{type(net).__name__} does not take an RGB image of '
                         f'{image.shape[-1]}x{image.shape[-2]} ({reason}; {place(error)}). If it takes certain sizes '
                         'only, say so: size_multiple in its class, or val:size_multiple (docs/networks.md).') \
            from error
    check_output(net, image, output)
    return output


def check_output(net, image, output):
    """Refuse what is no image of the size of ``image``.

    Raises:
        InputError
    """
    if not isinstance(output, torch.Tensor) or output.shape != image.shape:
        given = tuple(output.shape) if isinstance(output, torch.Tensor) else f'a {type(output).__name__}'
        raise InputError(f'{type(net).__name__} turns {tuple(image.shape)} into {given}; it must map an image to an '
                         'image of the same size and channels.')


def is_out_of_memory(error):
    """Whether torch ran out of memory, of a GPU or of this machine."""
    words = ('DefaultCPUAllocator', 'out of memory', 'ALLOC_FAILED')  # of the CPU; of MPS; of cuBLAS and cuDNN
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


@contextlib.contextmanager
def full_memory_told(message):
    """Around work that may fill the memory, of a GPU or of this machine: an InputError says so, and what helps."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise InputError(message) from error
        raise


def restore(net, image, size_multiple=None, tile=None, tile_overlap=32):
    """Restore images of any size.

    Args:
        net (nn.Module): Maps an image to an image of equal size; it says in its attributes which sizes it takes, see
            :func:`noiseda_arch.padding.size_rule`.
        image (Tensor): (B, C, H, W).
        size_multiple (int): Sides the network accepts are multiples of this. Default: what it says.
        tile (int): Largest side given to the network; a multiple of ``size_multiple``. Default: the whole image.
        tile_overlap (int): Pixels two neighbouring tiles share. The outer quarter of it, where a network lacks what
            lies beyond, is left to the neighbour; over the rest they are blended linearly, so no seam shows.

    Returns:
        Tensor: (B, C, H, W), not clipped.
    """
    rule = size_rule(net, size_multiple)
    height, width = image.shape[-2:]
    if tile is None or (height <= tile and width <= tile):
        return apply(net, pad_to_multiple(image, **rule))[..., :height, :width]
    strips = restore_strips(partial(apply, net), lambda top, bottom: image[..., top:bottom, :], height, width, rule,
                            tile, tile_overlap)
    return torch.cat(list(strips), dim=-2)


def restore_strips(net, read_rows, height, width, rule, tile, overlap, batch=1):
    """Restore an image from top to bottom, one row of tiles after the other; only that row is in memory.

    Args:
        net (Callable): (N, C, h, w) -> the same.
        read_rows (Callable): (top, bottom) -> Tensor (B, C, bottom - top, width). Both only ever grow.
        height, width (int): Of the image.
        rule (dict): Of :func:`noiseda_arch.padding.size_rule`.
        tile, overlap (int): As for :func:`restore`.
        batch (int): Tiles that go through the network together; all are of equal size.

    Yields:
        Tensor: (B, C, rows, width), the next finished rows, not clipped.
    """
    columns, bands = (_windows(length, tile, overlap, rule['multiple']) for length in (width, height))
    begun = None  # rows that the band before began
    for (rows, row_weights), (following, _) in zip(bands, [*bands[1:], (slice(height, height), None)], strict=True):
        source = read_rows(rows.start, rows.stop)
        band = torch.zeros_like(source)
        if begun is not None:
            band[..., :begun.shape[-2], :] = begun
        for first in range(0, len(columns), batch):
            group = columns[first:first + batch]
            tiles = [pad_to_multiple(source[..., area], **rule) for area, _ in group]
            outputs = net(torch.cat(tiles)).chunk(len(group))
            for (area, weights), output in zip(group, outputs, strict=True):
                size = band[..., area].shape[-2:]
                weight = row_weights[:, None] * weights
                band[..., area] += output[..., :size[0], :size[1]] * weight.to(band)
        finished = following.start - rows.start
        yield band[..., :finished, :]
        begun = band[..., finished:, :]


def _windows(length, tile, overlap, multiple):
    """How tiles cover one side: a slice for each, and the weight of its pixels.

    As few tiles as possible, each as short as their number allows, so that little is computed twice. The weights of all
    tiles at a pixel sum to 1; where two tiles overlap they are 0 for a quarter of it, then rise linearly. The last tile
    ends at the border, or beyond it by less than ``multiple``, where it is padded.
    """
    margin = overlap // 4
    padded = length + -length % multiple
    count = max(1, math.ceil((padded - overlap) / (tile - overlap)))
    tile = math.ceil((padded + (count - 1) * overlap) / count / multiple) * multiple
    last = padded - tile
    starts = [*(number * (tile - overlap) for number in range(count - 1)), last]
    slices = [slice(start, min(start + tile, length)) for start in starts]
    ramp = ((torch.arange(1, tile + 1, dtype=torch.float64) - margin) / (overlap + 1 - 2 * margin)).clamp(0, 1)
    weights = [torch.minimum(torch.ones(tile) if area.start == 0 else ramp,
                             torch.ones(tile) if area.stop == length else ramp.flip(0))[:area.stop - area.start]
               for area in slices]
    total = torch.zeros(length, dtype=torch.float64)
    for area, weight in zip(slices, weights, strict=True):
        total[area] += weight
    return [(area, weight / total[area]) for area, weight in zip(slices, weights, strict=True)]


def self_ensemble(net, image):
    """The mean over the eight flips and rotations of an image, each turned back (Timofte et al., CVPR 2016).

    Args:
        net (Callable): Maps (B, C, H, W) to the same, for any H and W that it is given here in either order.
    """
    total = torch.zeros_like(image)
    for turns in range(4):
        for mirrored in (False, True):
            turned = torch.rot90(image.flip(-1) if mirrored else image, turns, (-2, -1))
            output = torch.rot90(net(turned), -turns, (-2, -1))
            total += output.flip(-1) if mirrored else output
    return total / 8


def fitting_tile(net, rule, like, available, batch=1):
    """The largest tile of :data:`TILES` whose passage through a network fits the memory.

    Args:
        net (Callable): (B, C, h, w) -> the same.
        rule (dict): Of :func:`noiseda_arch.padding.size_rule`.
        like (Tensor): Of the type and on the device of the images; only that matters.
        available (int): Bytes of free memory. Half of it is used: libraries need room of their own.
        batch (int): Tiles at a time.

    Returns:
        int: The smallest one if none fits.
    """
    def allowed(side):
        side = max(side, rule['minimum'])
        return side + -side % rule['multiple']

    probe = allowed(128)
    with torch.no_grad(), _PeakMemory() as memory:
        net(torch.rand(1, 3, probe, probe).to(like))
    a_pixel = memory.peak / probe**2
    sides = [allowed(side) for side in TILES]
    return next((side for side in sides if a_pixel * side**2 * batch <= available / 2), sides[-1])


class _PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors alive at once, on any device; weights are not among them."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage):
        if storage._cdata not in self.alive:
            self.alive[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, key):
        self.now -= self.alive.pop(key)
