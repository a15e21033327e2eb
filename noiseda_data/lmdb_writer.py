"""LMDBs in BasicSR's format from folders of images, and their check."""
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from os import path as osp

import cv2
from basicsr.utils.lmdb_util import LmdbMaker
from tqdm import tqdm

from noiseda_basicsr import InputError
from noiseda_data.store import FolderStore, LmdbStore


def create_lmdb(source, target, crop=None, step=None, keys=None, workers=None, compress_level=1):
    """Write every image below ``source`` to an LMDB that this project and BasicSR read.

    The database appears under its name only when complete. Keys are the paths below ``source`` without extension, with
    ``.`` and spaces as ``_`` (BasicSR cuts a key at its first dot).

    Args:
        source (str): Folder of images (8 or 16 bit; grey ones are stored with three channels).
        target (str): Ends with ``.lmdb``; must not exist.
        crop (int): Side of the sub-images to cut, keys ``name_s001`` ...; images not larger stay whole. Default: no
            cut.
        step (int): Distance of neighbouring sub-images, less than ``crop`` for an overlap. Default: ``crop``.
        keys (set[str]): Take only these images (paths below ``source`` without extension). Default: all.
        workers (int): Threads that decode and encode. Default: one a core.
        compress_level (int): PNG compression, 0-9.

    Returns:
        int: Number of entries written.

    Raises:
        InputError: No or broken image, names that collide or are not ASCII, ``target`` exists or has another ending.
    """
    if not target.endswith('.lmdb'):
        raise InputError(f'{target}: the name of an LMDB must end with .lmdb.')
    if osp.exists(target):
        raise InputError(f'{target}: exists already. Remove it or choose another name.')
    if step is not None and (crop is None or not 0 < step <= crop):
        raise InputError(f'step {step}: must be between 1 and the crop ({crop}).')
    store = FolderStore(source)
    if unknown := sorted(set(keys or ()) - set(store.keys)):
        raise InputError(f'{source}: no image is called {unknown[0]} (paths below the folder, without extension).')
    names = _database_keys(store, [key for key in store.keys if keys is None or key in keys])
    partial = f'{target[:-5]}.partial.lmdb'
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(osp.dirname(osp.abspath(target)), exist_ok=True)

    def encode(key):
        return _encode(store.read(key), names[key], crop, step or crop, compress_level)

    written = set()
    maker = LmdbMaker(partial, compress_level=compress_level)
    try:
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            # in chunks, to bound what waits in memory
            chunks = [list(names)[start:start + 64] for start in range(0, len(names), 64)]
            with tqdm(total=len(names), unit='image', desc=osp.basename(target)) as progress:
                for chunk in chunks:
                    for entries in pool.map(encode, chunk):
                        for png, key, shape in entries:
                            if key in written:
                                raise InputError(f'{source}: two images or sub-images have the key {key}; rename one.')
                            written.add(key)
                            maker.put(png, key, shape)
                        progress.update()
    except BaseException:
        maker.close()
        shutil.rmtree(partial)
        raise
    maker.close()
    os.rename(partial, target)
    return maker.counter


def check_lmdb(path):
    """Decode every entry and compare its size with meta_info.txt.

    Returns:
        int: Number of entries, all sound.

    Raises:
        InputError: Names the first entry that is missing, damaged or of another size.
    """
    store = LmdbStore(path)
    with open(osp.join(path, 'meta_info.txt')) as file:
        shapes = {line.split('.')[0]: line.split()[-2] for line in file if line.strip()}
    for key in tqdm(store.keys, unit='image', desc=osp.basename(path.rstrip('/'))):
        height, width = store.read(key).shape[:2]
        if not shapes[key].startswith(f'({height},{width},'):
            raise InputError(f'{store.location(key)}: is {height}x{width} but meta_info.txt says {shapes[key]}. '
                             'Make the LMDB anew.')
    return len(store.keys)


def _database_keys(store, keys):
    names = {}
    for key in keys:
        name = key.replace('.', '_').replace(' ', '_')
        if not name.isascii():
            raise InputError(f'{store.location(key)}: rename it; BasicSR reads only ASCII keys.')
        if name in names.values():
            raise InputError(f'{store.location(key)}: another image has the same key {name}; rename one.')
        names[key] = name
    return names


def _encode(image, key, crop, step, compress_level):
    """List of (PNG bytes, key, shape), the arguments of LmdbMaker.put."""
    entries = []
    for suffix, patch in _sub_images(image, crop, step):
        _, png = cv2.imencode('.png', patch[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, compress_level])
        entries.append((png.tobytes(), key + suffix, patch.shape))
    return entries


def _sub_images(image, crop, step):
    height, width = image.shape[:2]
    if crop is None or (height <= crop and width <= crop):
        return [('', image)]
    corners = [(top, left) for top in _starts(height, crop, step) for left in _starts(width, crop, step)]
    return [(f'_s{number:03d}', image[top:top + crop, left:left + crop])
            for number, (top, left) in enumerate(corners, start=1)]


def _starts(length, crop, step):
    """Every ``step``, and once more at the border so that the last row is in."""
    if length <= crop:
        return [0]
    return sorted({*range(0, length - crop, step), length - crop})
