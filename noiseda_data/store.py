"""Where images come from: a folder, an LMDB of encoded images (BasicSR's format), or one of raw pixels.

A store has ``keys`` (names without extension, sorted), ``read(key)``, the image as an array (H, W, 3), and
``location(key)``, the words for it in an error. Reading costs a decoding, but from the raw store, which hands out a
view of the memory map: slicing a crop out of it touches that crop's bytes and no others.
:func:`open_images` joins one or several stores into a :class:`JoinedStore`.
"""
import math
import os
import re
import sys
from os import path as osp
from typing import NamedTuple

import cv2
import numpy as np

from noiseda_basicsr import InputError, open_lmdb

IMAGE_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm')
META_LINE = re.compile(
    r'(?P<key>[^.]+)\.(?P<kind>[^(]+?)(?:\s+\((?P<height>\d+),\s*(?P<width>\d+),\s*\d+\))?(?:\s+(?P<how>\S+))?')
VIEWS = 100_000  # kept by a process; each takes 0.9 kB
WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def decode(content, name):
    """Decode an image file's bytes.

    Grey images get three equal channels, an alpha channel is dropped, the EXIF orientation is applied.

    Args:
        content (bytes | None): An encoded image.
        name (str): What to call it in an error.

    Returns:
        ndarray: (H, W, 3), RGB, uint8 or uint16.

    Raises:
        InputError: Not an image, cut short, or neither 8 nor 16 bit. (Other damage to a JPEG is concealed by decoders.)
    """
    data = np.frombuffer(content or b'', np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data.size else None
        if image is None and data.size:  # grey floating point, which does not turn to colour
            as_it_is = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            image = None if as_it_is is None or as_it_is.dtype in WHITE else as_it_is
    except cv2.error as error:  # more pixels than OpenCV's limit
        raise InputError(f'{name}: cannot be decoded as an image ({error.err}). Remove or replace it.') from error
    if image is None:
        raise InputError(f'{name}: cannot be decoded as an image. Remove or replace it.')
    if image.dtype not in WHITE:
        raise InputError(f'{name}: {image.dtype} pixels; convert it to 8 or 16 bit.')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def to_float(image):
    """uint8 or uint16 pixels as float32 in [0, 1]."""
    pixels = image.astype(np.float32)
    pixels /= WHITE[image.dtype]
    return pixels


def centre(image, size):
    """The middle of an image (H, W, C), of up to ``size`` pixels a side."""
    height, width = (min(size, side) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top:top + height, left:left + width])


class FolderStore:
    """All images below a folder; the key is the path from there without its extension."""

    def __init__(self, path):
        self.path = path
        self.files = {}
        for file in files_below(path):
            key, extension = osp.splitext(file)
            if extension.lower() in IMAGE_EXTENSIONS:
                check_name(osp.join(path, file))
                if key in self.files:
                    raise InputError(f'{path}: two images are called {key} but for their extension; keep one.')
                self.files[key] = osp.join(path, file)
        if not self.files:
            raise InputError(f'{path}: no image in this folder (looked for {" ".join(IMAGE_EXTENSIONS)}).')
        self.keys = sorted(self.files)

    def location(self, key):
        return self.files[key]

    def read(self, key):
        try:
            with open(self.files[key], 'rb') as file:
                content = file.read()
        except OSError as error:
            raise InputError(f'{self.files[key]}: cannot be read ({error.strerror}).') from error
        return decode(content, self.files[key])


def check_name(path):
    """Refuse a file name that is no text (of another encoding than UTF-8), as it can be neither noted nor printed.

    Raises:
        InputError
    """
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InputError(f'{printable(path)}: the name is not UTF-8; rename it.') from error


def printable(path):
    """A file name for a message, whatever bytes it has."""
    return path.encode(errors='backslashreplace').decode()


def files_below(folder):
    """Paths below ``folder``, hidden ones left out; links to folders are followed, but each folder is read once.

    Raises:
        InputError: A folder there may not be read.
    """
    def refuse(error):
        if osp.basename(error.filename) != 'lost+found':  # root's, on every disk
            raise InputError(f'{error.filename}: this folder cannot be read ({error.strerror}).')

    walked = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        if osp.realpath(parent) in walked:
            folders.clear()
            continue
        walked.add(osp.realpath(parent))
        folders[:] = sorted((name for name in folders if not name.startswith('.')),
                            key=lambda name, parent=parent: (osp.islink(osp.join(parent, name)), name))  # links last
        yield from (osp.relpath(osp.join(parent, name), folder) for name in names if not name.startswith('.'))


class Entry(NamedTuple):
    """A line of meta_info.txt: ``key.kind (height,width,3) how``."""
    kind: str  # png, or raw
    size: tuple | None  # (height, width)
    how: str  # compression of a PNG, pixels of raw


class LmdbStore:
    """An LMDB in BasicSR's format: encoded images, and meta_info.txt with a line ``key.png (h,w,c) level`` each.

    Args:
        path (str): Its folder.
        entries (dict[str, Entry]): What :func:`read_meta_info` says, where that has been read.
    """

    def __init__(self, path, entries=None):
        self.path = path
        self.entries = entries or read_meta_info(path)
        self.keys = sorted(self.entries)
        open_lmdb(path)  # a missing or damaged database is told now, not by a worker later

    def location(self, key):
        return f'{self.path} key {key}'

    def read(self, key):
        return decode(self.content(key), self.location(key))

    def content(self, key):
        """What the database holds for ``key``, as a memoryview.

        It stays valid when the transaction has ended: the map is never closed and a finished database never written.
        """
        with open_lmdb(self.path).begin(buffers=True) as transaction:
            content = transaction.get(key.encode())
        if content is None:
            raise InputError(f'{self.location(key)}: listed in meta_info.txt but not in the database. '
                             'Check it with scripts/create_lmdb.py --check.')
        return content


class RawStore(LmdbStore):
    """An LMDB of raw pixels: rows of RGB, uint8 or little-endian uint16, without header or padding.

    meta_info.txt has a line ``key.raw (h,w,3) uint8`` (or ``uint16``) each. ``read`` returns a read-only view of the
    memory map, made once per process and image; LMDB touches every page of an image then, and none afterwards.
    """

    def __init__(self, path, entries=None):
        super().__init__(path, entries)
        for key, (kind, size, how) in self.entries.items():
            if kind != 'raw' or not size or how not in ('uint8', 'uint16'):
                raise InputError(f'{path}/meta_info.txt: {key} is not of the form "key.raw (h,w,3) uint8" (or uint16) '
                                 'that the first line has. Make the LMDB anew.')
        self.views = {}

    def __getstate__(self):
        return {**self.__dict__, 'views': {}}  # a view belongs to its process

    def read(self, key):
        view = self.views.get(key)
        return self._view(key) if view is None else view

    def _view(self, key):
        _, size, dtype = self.entries[key]
        content, shape = self.content(key), (*size, 3)
        if len(content) != math.prod(shape) * np.dtype(dtype).itemsize:
            raise InputError(f'{self.location(key)}: has {len(content)} bytes, not the {shape} {dtype} pixels that '
                             'meta_info.txt says. Make the LMDB anew.')
        view = np.frombuffer(content, np.dtype(dtype).newbyteorder('<')).reshape(shape)
        if len(self.views) < VIEWS:
            self.views[key] = view
        return view


def read_meta_info(path):
    """What an LMDB's meta_info.txt says: {key: Entry}.

    Raises:
        InputError: It is missing, empty or damaged.
    """
    meta_info = osp.join(path, 'meta_info.txt')
    if not osp.isfile(meta_info):
        raise InputError(f'{path}: meta_info.txt is missing, so this is no finished LMDB. Make it with '
                         'scripts/create_lmdb.py.')
    entries = {}
    try:
        with open(meta_info, encoding='utf-8-sig') as file:
            for line in filter(None, map(str.strip, file)):
                match = META_LINE.fullmatch(line)
                if not match or match['key'] in entries:
                    fault = 'is there twice' if match else 'is not of the form "key.png (h,w,3) 1"'
                    raise InputError(f'{meta_info}: {line!r} {fault}. Make the LMDB anew.')
                size = match['height'] and (int(match['height']), int(match['width']))
                entries[match['key']] = Entry(sys.intern(match['kind']), size, sys.intern(match['how'] or ''))
    except UnicodeDecodeError as error:
        raise InputError(f'{meta_info}: is not UTF-8 text. Make the LMDB anew.') from error
    if not entries:
        raise InputError(f'{meta_info}: lists no image.')
    return entries


class JoinedStore:
    """Several stores as one; keys are (number of the store, key)."""

    def __init__(self, stores):
        self.stores = stores
        self.keys = [(number, key) for number, store in enumerate(stores) for key in store.keys]

    def location(self, key):
        return self.stores[key[0]].location(key[1])

    def read(self, key):
        return self.stores[key[0]].read(key[1])


def open_images(roots, option):
    """Open one or several image sources.

    Args:
        roots (str | list[str]): Folders and LMDBs; in a string they are separated by ``;`` (BasicSR's option parser
            accepts only a string in dataroot_gt and dataroot_lq).
        option (str): Name of the option they came from, for errors.

    Returns:
        JoinedStore: Its keys are (number of the source, name).

    Raises:
        InputError: A source is missing, empty or no image source.
    """
    paths = [part.strip() for part in roots.split(';')] if isinstance(roots, str) else roots
    if not isinstance(paths, (list, tuple)) or not all(isinstance(path, str) for path in paths):
        raise InputError(f'{option} is {roots!r}; it must be a folder, or several joined by ";".')
    stores = [open_one(osp.expanduser(path), option) for path in paths if path]
    if not stores:
        raise InputError(f'{option}: names no folder.')
    return JoinedStore(stores)


def open_one(path, option):
    """Open one image source, a folder or an LMDB of either kind; arguments and errors as for :func:`open_images`."""
    if osp.isfile(path):
        raise InputError(f'{option}: {path} is a file. Give a folder of images or an .lmdb folder.')
    if not osp.isdir(path):
        raise InputError(f'{option}: {path} does not exist. Give a folder of images or an .lmdb folder.')
    if osp.isfile(osp.join(path, 'data.mdb')) or path.rstrip('/').endswith('.lmdb'):
        entries = read_meta_info(path)
        is_raw = next(iter(entries.values())).kind == 'raw'
        return RawStore(path, entries) if is_raw else LmdbStore(path, entries)
    return FolderStore(path)
