"""A trained network on photos."""
import contextlib
import copy
import re
from functools import partial
from os import path as osp
from pathlib import Path

import numpy as np
import psutil
import torch
from spandrel import UnsupportedModelError

from noiseda_arch.padding import size_rule
from noiseda_arch.spandrel_archs import SpandrelArch, read_weights
from noiseda_basicsr import InputError
from noiseda_basicsr.networks import build_network
from noiseda_data.photo import Photo, PhotoWriter
from noiseda_data.store import to_float
from noiseda_model.engine import DTYPES
from noiseda_model.inference import apply, fitting_tile, full_memory_told, restore_strips, self_ensemble
from noiseda_model.options import check_networks, check_registered, read_network, read_option_file

SHIPPED = osp.join(osp.dirname(__file__), 'weights', 'denoise.pth')  # of noisy photos; README.md is beside it
CGROUP = '/sys/fs/cgroup'  # where a container finds its own limits (version 2)
OVERLAP = 32  # pixels that neighbouring tiles share; docs/restore.md has what it leaves of the seams


def load_trained(weights, option_file=None, key=None):
    """A trained network, on the CPU, ready to restore.

    Args:
        weights (str): net_g_*.pth, or any .pth or .safetensors spandrel recognises.
        option_file (str): Its ``network_g`` is built. Default: the one noted in ``weights`` beside the parameters, else
            what spandrel recognises.
        key (str): 'params' or 'params_ema'. Default: the averaged weights where there are any.

    Raises:
        InputError: The weights do not fit, or are not recognised.
    """
    content = read_weights(weights)
    network = network_of(content, option_file)
    if network is None:
        net = _recognised(weights, content)
        if key is None:
            return net.eval()
    else:
        net = _build(network, f'{weights} is of' if option_file is None else f'{option_file} names')
    for name in [key] if key else ['params_ema', 'params']:
        if name in content:
            content = content[name]
            break
    else:
        if key:
            raise InputError(f'{weights}: no entry {key!r}; it has {sorted(content)[:4]}.')
    try:
        net.load_state_dict(content)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())[:300]
        owner = option_file or 'the file itself'
        raise InputError(f'{weights}: does not fit network_g of {owner}. {reason}') from error
    return net.eval()


def _recognised(weights, content):
    """What spandrel makes of weights that do not say what they are."""
    if 'network_diffusion' in content:
        raise InputError(f'{weights}: is a diffusion network, of use in training only. Give the net_g_*.pth beside it.')
    if 'optimizers' in content:
        raise InputError(f'{weights}: is the state of a training. Give models/net_g_*.pth of the same experiment.')
    try:
        return SpandrelArch(weights)
    except InputError as error:
        if not isinstance(error.__cause__, UnsupportedModelError):
            raise
        raise InputError(f'{weights}: does not say what network it is of, and spandrel does not recognise it. Give the '
                         'option file of its training with -opt.') from error


def network_of(content, option_file=None):
    """The ``network_g`` block of the option file, else the one noted in a weight file's content, else None."""
    return read_network(option_file) if option_file else content.get('network_g')


def _build(network, who):
    check_registered(network, who)
    network = copy.deepcopy(network)
    check_networks({'network_g': network})
    return build_network(network)


class Restorer:
    """A trained restoration network, applied to whole images.

    Args:
        weights (str): net_g_*.pth, or any file that spandrel recognises. Default: the network shipped here, which
            removes noise.
        option_file (str): A train or test option file whose ``network_g`` it is; ``val:size_multiple``, ``val:tile``
            and ``val:tile_overlap`` are followed. Default: what the file itself says, see :func:`load_trained`.
        key (str): 'params' or 'params_ema'. Default: the averaged weights where there are any.
        device (str): Default: cuda, else mps, else cpu.
        precision (str): fp32, bf16 or fp16, of the network's own arithmetic.
        tile (int | None | 'auto'): Largest side given to the network; None: the whole image; 'auto': by the free
            memory. Default: the option file's, None without one.
        tile_overlap (int): Default: the option file's, else 32, or a quarter of a tile below 128.
        batch (int): Tiles at a time.
        ensemble (bool): The mean over eight flips and rotations, in eight times the time.

    Raises:
        InputError: The weights do not fit, or an argument is out of its range.
    """

    def __init__(self, weights=SHIPPED, option_file=None, key=None, device=None, precision='fp32', tile='option file',
                 tile_overlap=None, batch=1, ensemble=False):
        self.weights, self.device = weights, _device(device or best_device())
        self.net = load_trained(weights, option_file, key).to(self.device)
        self.dtype, self.batch, self.ensemble = DTYPES[precision], batch, ensemble
        val = _validation_options(option_file)
        self.rule = size_rule(self.net, val.get('size_multiple'))
        self.tile = val.get('tile') if tile == 'option file' else tile
        if self.tile == 'auto':
            self.tile = fitting_tile(self._network, self.rule, torch.empty(0, device=self.device), self._free(), batch)
        self.overlap = val.get('tile_overlap') if tile_overlap is None else tile_overlap
        if self.overlap is None:
            self.overlap = OVERLAP if self.tile is None else min(OVERLAP, self.tile // 4)
        if self.tile is not None:
            self._check_tile()

    def _check_tile(self):
        multiple = self.rule['multiple']
        least = max(self.rule['minimum'], multiple)
        if self.tile % multiple or self.tile < least:
            raise InputError(f'--tile is {self.tile}; for {type(self.net).__name__} it must be a multiple of {multiple}'
                             f' and at least {least}.')
        if not 0 <= self.overlap < self.tile:
            raise InputError(f'--overlap is {self.overlap}; it must be at least 0 and below the tile, {self.tile}.')

    def __call__(self, image):
        """Restore an image in memory.

        Args:
            image (ndarray): (H, W, 3), RGB, uint8 or uint16.

        Returns:
            ndarray: Of the same shape and type.

        Raises:
            InputError: The network gives NaN or infinity.
        """
        white = np.iinfo(image.dtype).max
        strips = self.strips(lambda top, bottom: image[top:bottom], *image.shape[:2])
        return np.concatenate([(strip * white).round().astype(image.dtype) for strip in strips])

    def file(self, source, target, quality=95):
        """Restore a file: the metadata is kept, and the memory needed does not grow with the photo.

        Args:
            source, target (str): See :class:`noiseda_data.photo.Photo` and :class:`~noiseda_data.photo.PhotoWriter`.
            quality (int): Of JPEG and WebP, 1-100.

        Raises:
            InputError: The file cannot be read, restored or written.
        """
        with self.rows_of_file(source, target, quality) as writer:
            writer.finish()

    def rows_of_file(self, source, target, quality=95, tell=lambda pixels: None):
        """:meth:`file` without its last step, ``finish`` of the writer returned, which another thread may take."""
        photo = Photo(source)
        writer = PhotoWriter(photo, target, quality)
        remedy = f'give a smaller --tile (now {self.tile or "none"}) or --batch 1, or restore on another --device'
        try:
            with full_memory_told(f'{source}: the memory is full; {remedy}.'):
                for strip in self.strips(photo.read, photo.height, photo.width, source):
                    writer.write(strip)
                    tell(strip.shape[0] * strip.shape[1])
        except BaseException:
            writer.close()
            raise
        return writer

    @torch.no_grad()
    def strips(self, read_rows, height, width, source=None):
        """Restore from top to bottom.

        Args:
            read_rows (Callable): (top, bottom) -> (rows, width, 3), RGB, uint8 or uint16.
            height, width (int): Of the image.
            source (str): Its file, to name it in an error.

        Yields:
            ndarray: (rows, width, 3), float32 in [0, 1], the next rows.

        Raises:
            InputError: The network gives NaN or infinity.
        """
        def to_tensor(top, bottom):
            planes = to_float(read_rows(top, bottom)).transpose(2, 0, 1)
            return torch.from_numpy(np.ascontiguousarray(planes))[None].to(self.device)

        tile = self.tile or max(height, width) + self.rule['multiple']  # one that covers the image
        overlap = self.overlap if self.tile else 0
        net = partial(self._network, source=source)
        strips = restore_strips(net, to_tensor, height, width, self.rule, tile, overlap, self.batch)
        for strip in strips:
            if not strip.isfinite().all():
                half = self.dtype == torch.float16
                remedy = 'Take --precision fp32 or bf16.' if half else 'They are damaged; take other ones.'
                raise InputError(f'{self.weights}: these weights restore {source or "an image"} to NaN or infinity. '
                                 f'{remedy}')
            yield strip[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy()

    def _network(self, tiles, source=None):
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            net = partial(apply, self.net, source=source)
            return (self_ensemble(net, tiles) if self.ensemble else net(tiles)).float()

    def _free(self):
        if self.device.type == 'cuda':
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)  # but kept
            return torch.cuda.mem_get_info(self.device)[0] + unused
        return _free_memory()


def _free_memory():
    """Bytes that this process may still take: of the machine, or of its container if that has less."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        limit, used = (int(Path(CGROUP, f'memory.{name}').read_text()) for name in ('max', 'current'))
        unused_cache = re.search(r'^inactive_file (\d+)', Path(CGROUP, 'memory.stat').read_text(), re.M)
        free = min(free, limit - used + int(unused_cache[1]))
    return free


def _device(name):
    try:
        (torch.ones(1, device=name) + 1).item()  # an old GPU may be seen, but not computed on
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        reason = str(error).splitlines()[0]
        raise InputError(f'--device {name}: not usable here ({reason})') from error
    return torch.device(name)


def best_device():
    """cuda, else mps, else cpu."""
    if torch.cuda.is_available():
        return 'cuda'
    return 'mps' if torch.backends.mps.is_available() else 'cpu'


def _validation_options(option_file):
    if option_file is None:
        return {}
    return read_option_file(option_file).get('val') or {}
