"""LMDBs of encoded images (BasicSR's format) or of raw pixels, their check, and the way back to a folder."""
import contextlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from os import path as osp

import cv2
import lmdb
from tqdm import tqdm

from noiseda_basicsr import InputError, open_lmdb
from noiseda_basicsr.folders import LOCK, hold
from noiseda_data.store import open_one

CHUNK = 16  # images decoded and written at once; more would only wait in memory
FIRST_MAP_SIZE = 2**26  # bytes; doubled whenever it is full
LONGEST_KEY = 511  # bytes, LMDB's limit


def create_lmdb(source, target, crop=None, step=None, keys=None, workers=None, compress_level=1, raw=False):
    """Write every image of ``source`` to an LMDB.

    The database appears under its name only when complete. Keys are the paths below ``source`` without extension, with
    ``.`` and spaces as ``_`` (BasicSR cuts a key at its first dot).

    Args:
        source (str): Folder of images (8 or 16 bit; grey ones are stored with three channels), or an LMDB, or a store
            (:mod:`noiseda_data.store`).
        target (str): Ends with ``.lmdb``; must not exist.
        crop (int): Side of the sub-images to cut, keys ``name_s001`` ...; images not larger stay whole. Default: no
            cut.
        step (int): Distance of neighbouring sub-images, less than ``crop`` for an overlap. Default: ``crop``.
        keys (set[str]): Take only these images (paths below ``source`` without extension). Default: all.
        workers (int): Threads that decode and encode. Default: one a core.
        compress_level (int): PNG compression, 0-9.
        raw (bool): Store pixels as they are, for :class:`~noiseda_data.store.RawStore`: several times the size, but a
            crop is read without decoding. Default: PNG, which BasicSR reads too.

    Returns:
        int: Number of entries written.

    Raises:
        InputError: No or broken image, names that collide, are too long or not ASCII, ``target`` exists, has another
            ending or does not fit on the disk.
    """
    if not target.endswith('.lmdb'):
        raise InputError(f'{target}: the name of an LMDB must end with .lmdb.')
    if osp.exists(target):
        raise InputError(f'{target}: exists already. Remove it or choose another name.')
    if crop is not None and crop < 1:
        raise InputError(f'crop {crop}: must be at least 1.')
    if step is not None and (crop is None or not 0 < step <= crop):
        raise InputError(f'step {step}: must be between 1 and the crop ({crop}).')
    store = open_one(source, 'source') if isinstance(source, str) else source
    if unknown := sorted(set(keys or ()) - set(store.keys)):
        raise InputError(f'{store.path}: no image is called {unknown[0]} (paths below the folder, without extension).')
    if keys is not None and not keys:
        raise InputError(f'{target}: no image is selected.')
    names = database_keys(store, [key for key in store.keys if keys is None or key in keys])

    def entries(key):
        """[(key in the database, value, line of meta_info.txt)] of an image, or of its sub-images."""
        found = []
        for suffix, patch in sub_images(store.read(key), crop, step or crop):
            name, shape = names[key] + suffix, '({},{},{})'.format(*patch.shape)
            if raw:
                found.append((name, patch.tobytes(), f'{name}.raw {shape} {patch.dtype}'))
            else:
                found.append((name, encode_png(patch, compress_level), f'{name}.png {shape} {compress_level}'))
        return found

    partial = f'{target[:-5]}.partial.lmdb'
    with _appears_whole(target, partial), _threads(workers) as pool:
        progress = tqdm(_in_chunks(pool, entries, list(names)), total=len(names), unit='image',
                        desc=osp.basename(target))
        return _write(partial, progress)


def extract_images(source, target, workers=None, compress_level=1):
    """Write every image of an LMDB to a new folder of PNGs, the inverse of :func:`create_lmdb`.

    Returns:
        int: Number of images.

    Raises:
        InputError: ``source`` is missing or damaged, ``target`` exists.
    """
    if osp.exists(target):
        raise InputError(f'{target}: exists already. Remove it or choose another name.')
    store = open_one(source, 'source')
    if outside := [key for key in store.keys if key.startswith('/')]:  # '..' is in no key: they end at a dot
        raise InputError(f'{store.location(outside[0])}: would be written outside {target}.')
    target = target.rstrip('/')
    partial = f'{target}.partial'

    def extract(key):
        file = osp.join(partial, f'{key}.png')
        os.makedirs(osp.dirname(file), exist_ok=True)
        with open(file, 'wb') as written:
            written.write(encode_png(store.read(key), compress_level))

    with _appears_whole(target, partial), _threads(workers) as pool:
        images = _in_chunks(pool, extract, store.keys)
        for _ in tqdm(images, total=len(store.keys), unit='image', desc=osp.basename(target)):
            pass
    return len(store.keys)


def _threads(workers):
    if workers is not None and workers < 1:
        raise InputError(f'--workers {workers}: must be at least 1.')
    return ThreadPoolExecutor(workers or os.cpu_count())


@contextlib.contextmanager
def _appears_whole(target, partial):
    """Around the writing of ``partial``, which is ``target`` afterwards; nothing is left where that fails."""
    lock = osp.join(partial, LOCK)
    if osp.exists(partial):
        if not osp.exists(lock):
            raise InputError(f'{partial}: is needed for a time, and there already. Rename or remove it.')
        hold(partial).close()
        shutil.rmtree(partial)
    try:
        os.makedirs(partial)
        with hold(partial):
            yield
        os.remove(lock)
        os.rename(partial, target)
    except (OSError, lmdb.Error) as error:
        remedy = 'Is the disk full?' if isinstance(error, lmdb.Error) else 'Choose another place, or make room.'
        raise InputError(f'{target}: cannot be written ({error}). {remedy}') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_lmdb(path):
    """Read every entry and compare its size with meta_info.txt.

    Returns:
        int: Number of entries, all sound.

    Raises:
        InputError: Names the first entry that is missing, damaged or of another size; or there are more entries than
            meta_info.txt lists.
    """
    store = open_one(path, '--check')
    if not hasattr(store, 'entries'):
        raise InputError(f'{path}: is a folder of images, no LMDB.')
    for key in tqdm(store.keys, unit='image', desc=osp.basename(path.rstrip('/'))):
        size, expected = store.read(key).shape[:2], store.entries[key].size
        if size != (expected or size):
            raise InputError('{}: is {}x{} but meta_info.txt says {}x{}. Make the LMDB anew.'.format(
                store.location(key), *size, *expected))
    held = open_lmdb(path).stat()['entries']
    if held != len(store.keys):
        raise InputError(f'{path}: holds {held} images, of which meta_info.txt lists {len(store.keys)}. '
                         'Make the LMDB anew.')
    return len(store.keys)


def database_keys(store, keys):
    """{key of the store: key in the database}."""
    owners = {}
    for key in keys:
        name = key.replace('.', '_').replace(' ', '_')
        if not name.isascii():
            raise InputError(f'{store.location(key)}: rename it; BasicSR reads only ASCII keys.')
        if len(name + '_s000') > LONGEST_KEY:
            raise InputError(f'{store.location(key)}: rename it; with its folder, LMDB allows {LONGEST_KEY} letters.')
        if name in owners:
            raise InputError(f'{store.location(key)}: another image has the same key {name}; rename one.')
        owners[name] = key
    return {key: name for name, key in owners.items()}


def _in_chunks(pool, function, arguments):
    """pool.map, at most ``CHUNK`` ahead of what is asked for."""
    for start in range(0, len(arguments), CHUNK):
        yield from pool.map(function, arguments[start:start + CHUNK])


def _write(path, images):
    """Write a database and its meta_info.txt, which comes last: without it, none opens. Returns the entries' number."""
    environment = lmdb.open(path, map_size=FIRST_MAP_SIZE, sync=False)
    lines = {}
    try:
        for entries in images:
            for key, _, line in entries:
                if key in lines:
                    raise InputError(f'{key}: two images or sub-images have this key; rename one.')
                lines[key] = line
            _put(environment, entries)
        environment.sync(True)
    finally:
        environment.close()
    with open(osp.join(path, 'meta_info.txt'), 'w') as file:
        file.writelines(f'{line}\n' for line in lines.values())
        file.flush()
        os.fsync(file.fileno())
    return len(lines)


def _put(environment, entries):
    """One transaction; where the map is full it grows and the transaction is done again."""
    try:
        with environment.begin(write=True) as transaction:
            for key, value, _ in entries:
                transaction.put(key.encode(), value)
    except lmdb.MapFullError:
        environment.set_mapsize(2 * environment.info()['map_size'])
        _put(environment, entries)


def encode_png(image, compress_level):
    _, png = cv2.imencode('.png', image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, compress_level])
    return png.tobytes()


def sub_images(image, crop, step):
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
