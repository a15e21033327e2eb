"""SIDD's validation and benchmark blocks: MATLAB files of 40 photos x 32 blocks of 256x256, in and out."""
import re
from os import path as osp

import numpy as np
import scipy.io

from noiseda_basicsr import InputError
from noiseda_basicsr.checkpoint import written_whole


class BlockStore:
    """The blocks of a ``.mat`` file as an image store; keys ``0001_01`` ... are photo and block, counted from 1.

    Reads SIDD's own files (an array of photos x blocks x H x W x 3), a submission (a cell array of blocks), and results
    in floating point, which are clipped to [0, 1] and rounded to 8 bit.

    Args:
        path (str): The file.

    Raises:
        InputError: Missing, not MATLAB's, saved with ``-v7.3`` (HDF5), or without such an array.
    """

    def __init__(self, path):
        self.path = path
        self.blocks = _read_blocks(path)
        self.keys = [_key(*place) for place in np.ndindex(self.blocks.shape[:2])]

    def location(self, key):
        return f'{self.path} block {key}'

    def read(self, key):
        """uint8 (H, W, 3), RGB."""
        photo, block = (int(number) - 1 for number in key.split('_'))
        return self.blocks[photo, block]


def save_submission(path, images, seconds_per_megapixel=0.0, description=None):
    """Write denoised blocks as the SIDD benchmark's own code does (``SubmitSrgb.mat``).

    Args:
        path (str): File to write.
        images (dict): Key of :class:`BlockStore` -> uint8 (H, W, 3), RGB; a full grid of photos and blocks.
        seconds_per_megapixel (float): Becomes ``TimeMPSrgb``.
        description (dict): Text for ``OptionalData``: ``MethodName``, ``Authors``, ...

    Raises:
        InputError: The keys are no full grid of blocks, or the file cannot be written.
    """
    cells = np.empty(check_submission(path, images), object)
    for photo, block in np.ndindex(cells.shape):
        cells[photo, block] = images[_key(photo, block)]
    with written_whole(path, 'wb', 'Choose another place, or make room.') as file:
        scipy.io.savemat(file, {'DenoisedBlocksSrgb': cells, 'TimeMPSrgb': float(seconds_per_megapixel),
                                'OptionalData': description or {'MethodName': ''}}, do_compression=True)


def check_submission(path, names):
    """(photos, blocks) of a submission of images of these names; arguments and errors as of :func:`save_submission`."""
    if osp.isdir(path):
        raise InputError(f'{path}: is a folder; name a file.')
    names = set(names)
    last = max(names, default='')
    shape = tuple(int(number) for number in last.split('_')) if re.fullmatch(r'\d{4}_\d\d', last) else (0, 0)
    if names != {_key(*place) for place in np.ndindex(shape)} or not names:
        raise InputError(f'{path}: a submission needs every block, called 0001_01 to 0040_32 as SIDD\'s .mat files and '
                         f'noiseda-prepare name them; these are {len(names)} images up to {last!r}.')
    return shape


def _key(photo, block):
    return f'{photo + 1:04d}_{block + 1:02d}'


def _read_blocks(path):
    if not osp.isfile(path):
        raise InputError(f'{path}: no such file.')
    try:
        variables = scipy.io.loadmat(path)
    except NotImplementedError as error:
        raise InputError(f'{path}: saved with -v7.3 (HDF5). SIDD publishes version 5; save it anew without -v7.3.') \
            from error
    except Exception as error:  # scipy raises anything on a damaged file
        raise InputError(f'{path}: cannot be read as a MATLAB file ({error}). Download it again.') from error
    for name, value in variables.items():
        if name.startswith('__'):
            continue
        if value.dtype == object and value.ndim == 2:
            value = _stack_cells(value)
        if value is not None and value.ndim == 5 and value.shape[-1] == 3:
            return _to_uint8(value, f'{path} variable {name}')
    raise InputError(f'{path}: holds no array of photos x blocks x height x width x 3.')


def _stack_cells(cells):
    """A cell array of equal blocks as one array, None if it is something else."""
    shapes = {getattr(cell, 'shape', None) for cell in cells.flat}
    if len(shapes) != 1 or None in shapes or len(next(iter(shapes))) != 3:
        return None
    return np.stack([np.stack(list(row)) for row in cells])


def _to_uint8(blocks, name):
    if blocks.dtype == np.uint8:
        return blocks
    if not np.issubdtype(blocks.dtype, np.floating):
        raise InputError(f'{name}: {blocks.dtype} values; must be uint8, or floating point in [0, 1].')
    if not np.isfinite(blocks).all() or blocks.max() > 2:
        raise InputError(f'{name}: floating point beyond [0, 1] (largest {blocks.max():g}); divide by 255.')
    return (blocks.clip(0, 1) * 255).round().astype(np.uint8)
