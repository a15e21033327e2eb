"""Photos as people have them: any common file in, the same kind of file out, all that is not pixels kept.

libvips does the work. It decodes what is asked for and encodes from a file, so a photo of any size takes little memory.
"""
import contextlib
import math
import os
import tempfile
from os import path as osp

import numpy as np
import pyvips

from noiseda_basicsr import InputError
from noiseda_data.store import check_name

WRITERS = {'.jpg': 'jpegsave', '.jpeg': 'jpegsave', '.png': 'pngsave', '.tif': 'tiffsave', '.tiff': 'tiffsave',
           '.webp': 'webpsave'}
LOSSY = ('jpegsave', 'webpsave')  # these hold 8 bit only
LONGEST = {'jpegsave': 65500, 'webpsave': 16383}  # side that the format can hold
ALL_BUT_EXIF = 2 | 4 | 8 | 16  # VipsForeignKeep; libvips would make EXIF up where there was none
DTYPES = {'uchar': np.dtype(np.uint8), 'ushort': np.dtype(np.uint16)}
PIXEL_FIELDS = {'width', 'height', 'bands', 'format', 'coding', 'interpretation', 'xoffset', 'yoffset', 'filename',
                'vips-loader', 'bits-per-sample', 'palette', 'n-pages', 'page-height', 'interlaced', 'jpeg-multiscan',
                'jpeg-chroma-subsample', 'orientation'}  # of the file that was read; the others describe the photo
THUMBNAIL_FIELDS = ('exif-ifd1-', 'jpeg-thumbnail-data')  # how they begin
GAIN_MAP_FIELDS = ('gainmap-',)  # a small picture of its own (Ultra HDR), which is not turned with the photo


class Photo:
    """One photo, opened but not yet decoded.

    Pixels are those of the upright photo: the EXIF orientation is applied, so a network sees what it was trained on,
    and the file written says that nothing is left to turn.

    Args:
        path (str): A JPEG, PNG, TIFF or WebP file of 8 or 16 bit, colour or grey, with or without alpha.

    Raises:
        InputError: It is not such a file. One that is cut short is found when its pixels are read.
    """

    def __init__(self, path):
        self.path = path
        if not osp.isfile(path):
            raise InputError(f'{path}: no such file.')
        if kind(path) not in WRITERS:
            raise InputError(f'{path}: not a {", ".join(sorted(WRITERS))} file.')
        check_name(path)
        with self._told():
            image = pyvips.Image.new_from_file(path, fail_on='error', revalidate=True)  # it may be another one by now
            self.image = image.autorot()
            self.is_turned = 'orientation' in image.get_fields() and image.get('orientation') > 1
        pages = image.get('n-pages') if 'n-pages' in image.get_fields() else 1
        if pages > 1:
            raise InputError(f'{path}: holds {pages} images; split it first.')
        if image.format not in DTYPES:
            raise InputError(f'{path}: {image.format} pixels; convert it to 8 or 16 bit.')
        if image.interpretation not in ('srgb', 'rgb', 'rgb16', 'b-w', 'grey16'):
            raise InputError(f'{path}: {image.interpretation} colours; convert it to RGB.')
        self.dtype = DTYPES[image.format]
        self.width, self.height = self.image.width, self.image.height
        self.is_grey = image.bands < 3
        self.has_alpha = image.hasalpha()

    def read(self, top=0, bottom=None):
        """Rows of the photo.

        Returns:
            ndarray: (bottom - top, width, 3), RGB, uint8 or uint16; grey photos have three equal channels.

        Raises:
            InputError: The file is damaged.
        """
        with self._told():
            rows = self.image.crop(0, top, self.width, (self.height if bottom is None else bottom) - top)
            pixels = rows.extract_band(0, n=1 if self.is_grey else 3).numpy()
        pixels = pixels.reshape(rows.height, rows.width, -1)  # pyvips leaves out what is 1
        return np.repeat(pixels, 3, axis=2) if self.is_grey else pixels

    @contextlib.contextmanager
    def _told(self):
        try:
            yield
        except pyvips.Error as error:
            reason = ' '.join(str(error).split())
            raise InputError(f'{self.path}: cannot be read as an image, it may be damaged ({reason}).') from error

    def check_target(self, path):
        """Refuse a file format that cannot hold this photo.

        Raises:
            InputError
        """
        if kind(path) not in WRITERS:
            raise InputError(f'{path}: cannot be written; the ending must be one of {", ".join(sorted(WRITERS))}.')
        save = WRITERS[kind(path)]
        if (longest := LONGEST.get(save, math.inf)) < max(self.width, self.height):
            raise InputError(f'{self.path}: is {self.width}x{self.height}, and a side in {kind(path)} files has '
                             f'{longest} pixels at most; choose png or tif.')
        if self.has_alpha and save == 'jpegsave':
            raise InputError(f'{self.path}: has an alpha channel, which JPEG cannot hold; choose png, tif or webp.')


class PhotoWriter:
    """Takes the rows of a restored photo, then writes them in one go: the file is complete or not there.

    Args:
        photo (Photo): The original: alpha channel, ICC profile, EXIF and other metadata are taken from it, a grey one
            becomes grey again.
        path (str): File to write; its ending chooses the format. 16 bit stay 16 bit in PNG and TIFF.
        quality (int): Of JPEG and WebP, 1-100.

    Use as a context; the rows wait in a temporary file beside ``path``.
    """

    def __init__(self, photo, path, quality=95):
        photo.check_target(path)
        self.photo, self.path, self.quality = photo, path, quality
        self.save = WRITERS[kind(path)]
        self.dtype = np.dtype(np.uint8) if self.save in LOSSY else photo.dtype
        with self._told():
            os.makedirs(osp.dirname(osp.abspath(path)), exist_ok=True)
            self.rows = tempfile.NamedTemporaryFile(  # noqa: SIM115  close() removes it
                dir=osp.dirname(osp.abspath(path)), prefix='.restoring-')

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Remove the temporary file."""
        self.rows.close()

    def write(self, pixels):
        """Append rows: (rows, width, 3), float in [0, 1] (clipped), RGB."""
        if self.photo.is_grey:
            pixels = pixels.mean(axis=2, keepdims=True)
        white = np.iinfo(self.dtype).max
        with self._told():
            self.rows.write((pixels.clip(0, 1) * white).round().astype(self.dtype).tobytes())

    def finish(self):
        """Encode the rows and put the file in its place.

        Raises:
            InputError: It cannot be written (a full disk, say).
        """
        partial = osp.join(osp.dirname(self.path), f'.partial-{os.getpid()}-{osp.basename(self.path)}')
        try:
            with self._told():
                self.rows.flush()
                image = self._with_metadata(self._image())
                getattr(image, self.save)(partial, **self._options())
                os.replace(partial, self.path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(partial)

    def _image(self):
        photo, is_16_bit = self.photo, self.dtype == np.uint16
        bands = 1 if photo.is_grey else 3
        image = pyvips.Image.rawload(self.rows.name, photo.width, photo.height, bands,
                                     format='ushort' if is_16_bit else 'uchar')
        alpha = photo.image.extract_band(photo.image.bands - 1) if photo.has_alpha else None
        if alpha is not None and self.dtype != photo.dtype:
            alpha = (alpha / 257).rint().cast('uchar')
        names = {1: ('b-w', 'grey16'), 3: ('srgb', 'rgb16')}[bands]
        return (image if alpha is None else image.bandjoin(alpha)).copy(interpretation=names[is_16_bit])

    def _with_metadata(self, image):
        original = self.photo.image
        image = image.copy(xres=original.xres, yres=original.yres)
        for name in set(original.get_fields()) - PIXEL_FIELDS:
            image.set_type(original.get_typeof(name), name, original.get(name))
        stale = THUMBNAIL_FIELDS + GAIN_MAP_FIELDS * self.photo.is_turned  # of the degraded photo, or not upright
        for name in image.get_fields():
            if name.startswith(stale):
                image.remove(name)
        if 'exif-data' in original.get_fields():
            image.set_type(pyvips.GValue.gint_type, 'orientation', 1)
        return image

    def _options(self):
        options = {} if 'exif-data' in self.photo.image.get_fields() else {'keep': ALL_BUT_EXIF}
        if self.save in LOSSY:
            options['Q'] = self.quality
        if self.save == 'tiffsave':
            options.update(compression='deflate', predictor='horizontal')
        return options

    @contextlib.contextmanager
    def _told(self):
        try:
            yield
        except (OSError, pyvips.Error) as error:
            reason = ' '.join(str(error).split())
            remedy = '' if isinstance(error, PermissionError) else ' Is the disk full?'
            raise InputError(f'{self.path}: cannot be written ({reason}).{remedy}') from error


def kind(path):
    """The ending of a file name, in small letters, with its dot."""
    return osp.splitext(path)[1].lower()
