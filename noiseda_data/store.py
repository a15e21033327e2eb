"""Where images come from: a folder, an LMDB of encoded images (BasicSR's format), or one of raw pixels.

A store has ``keys`` (names without extension, sorted), ``read(key)``, the image as an array (H, W, 3), and
``location(key)``, the words for it in an error. Reading costs a decoding, but from the raw store, which hands out a
view of the memory map: slicing a crop out of it touches that crop's bytes and no others.
:func:`open_images` joins one or several stores into a :class:`JoinedStore`.
"""
import math
import os
import re
from os import path as osp

import cv2
import numpy as np

from noiseda_basicsr import InputError, open_lmdb

IMAGE_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm')
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
        InputError: Not an image, damaged, or neither 8 nor 16 bit.
    """
    data = np.frombuffer(content or b'', np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data.size else None
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
        walked = set()  # a link may lead back
        for parent, folders, names in os.walk(path, followlinks=True):
            if osp.realpath(parent) in walked:
                folders.clear()
                continue
            walked.add(osp.realpath(parent))
            folders.sort()
            for name in names:
                stem, extension = osp.splitext(osp.join(parent, name))
                if extension.lower() in IMAGE_EXTENSIONS and not name.startswith('.'):
                    key = osp.relpath(stem, path)
                    if key in self.files:
                        raise InputError(f'{path}: two images are called {key} but for their extension; keep one.')
                    self.files[key] = stem + extension
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


class LmdbStore:
    """An LMDB in BasicSR's format: encoded images, and meta_info.txt with a line ``key.png (h,w,c) level`` each."""

    def __init__(self, path):
        self.path = path
        self.keys = sorted(line.split('.')[0] for line in read_meta_info(path))
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

    line = re.compile(r'(?P<key>[^.]+)\.raw \((?P<height>\d+),(?P<width>\d+),3\) (?P<dtype>uint8|uint16)')

    def __init__(self, path):
        super().__init__(path)
        self.formats = {}
        for text in read_meta_info(path):
            if not (match := self.line.fullmatch(text)):
                raise InputError(f'{path}/meta_info.txt: {text!r} is not of the form "key.raw (h,w,3) uint8" (or '
                                 'uint16) that the first line has. Make the LMDB anew.')
            self.formats[match['key']] = (int(match['height']), int(match['width']), 3), match['dtype']
        self.views = {}

    def __getstate__(self):
        return {**self.__dict__, 'views': {}}  # a view belongs to its process

    def read(self, key):
        view = self.views.get(key)
        return self._view(key) if view is None else view

    def _view(self, key):
        (shape, dtype), content = self.formats[key], self.content(key)
        if len(content) != math.prod(shape) * np.dtype(dtype).itemsize:
            raise InputError(f'{self.location(key)}: has {len(content)} bytes, not the {shape} {dtype} pixels that '
                             'meta_info.txt says. Make the LMDB anew.')
        self.views[key] = np.frombuffer(content, np.dtype(dtype).newbyteorder('<')).reshape(shape)
        return self.views[key]


def read_meta_info(path):
    """The lines of an LMDB's meta_info.txt.

    Raises:
        InputError: It is missing or empty.
    """
    meta_info = osp.join(path, 'meta_info.txt')
    if not osp.isfile(meta_info):
        raise InputError(f'{path}: meta_info.txt is missing, so this is no finished LMDB. Make it with '
                         'scripts/create_lmdb.py.')
    with open(meta_info) as file:
        lines = [line.strip() for line in file if line.strip()]
    if not lines:
        raise InputError(f'{meta_info}: lists no image.')
    return lines


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
    paths = [part.strip() for part in roots.split(';')] if isinstance(roots, str) else list(roots)
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
        is_raw = '.raw ' in read_meta_info(path)[0]
        return RawStore(path) if is_raw else LmdbStore(path)
    return FolderStore(path)
