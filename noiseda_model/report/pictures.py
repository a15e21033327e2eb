"""Images as they stand in a page: which ones, which part of them, and in what encoding.

Pixels are shown as they are wherever that fits: PNG. Images too large are cut, not shrunk, to where the versions differ
most; too many are thinned out, evenly over the gain; what is still too much for the page becomes JPEG, and then fewer.
"""
import base64
from typing import NamedTuple

import cv2

from noiseda_basicsr import InputError

THUMBNAIL = 112  # longest side
JPEG_QUALITIES = (95, 90, 80)


class Encoding(NamedTuple):
    """How pictures are written."""

    type: str  # of the data URI
    extension: str
    parameters: tuple  # for cv2.imencode
    words: str

    def __call__(self, image):
        """A data URI of an RGB image."""
        _, content = cv2.imencode(self.extension, image[..., ::-1], self.parameters)
        return f'data:{self.type};base64,{base64.b64encode(content).decode()}'


def jpeg(quality):
    """The :class:`Encoding` as a JPEG of this quality."""
    parameters = (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                  cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    return Encoding('image/jpeg', '.jpg', parameters, f'JPEG of quality {quality} (4:4:4), so not exact: as PNG they '
                                                      'are larger than --max-mb')


PNG = Encoding('image/png', '.png', (cv2.IMWRITE_PNG_COMPRESSION, 6), 'PNG: exact pixels')
ENCODINGS = (PNG, *map(jpeg, JPEG_QUALITIES))


def choose(measured, count, gain=None):
    """Names of the images to show.

    Args:
        measured (dict): Of :func:`~noiseda_model.report.versions.measure_all`.
        count (int): As many at most.
        gain (Callable): Name -> float; they are then evenly spread over it, lowest and highest among them. Without it
            they are spread over the names.

    Returns:
        list[str]: In the order of ``measured``.
    """
    ranked = sorted(measured, key=gain) if gain else list(measured)
    if len(ranked) <= count:
        return list(measured)
    last = len(ranked) - 1
    places = {round(number * last / max(1, count - 1)) for number in range(count)}
    return sorted((ranked[place] for place in places), key=list(measured).index)


def window(measured, side):
    """The part of an image that is shown: (top, left, height, width), around its focus, no larger than ``side``."""
    height, width = min(side, measured.height), min(side, measured.width)
    top = min(max(0, measured.focus[0] - height // 2), measured.height - height)
    left = min(max(0, measured.focus[1] - width // 2), measured.width - width)
    return top, left, height, width


def thumbnail(image):
    """A small JPEG of the whole image as a data URI."""
    scale = THUMBNAIL / max(image.shape[:2])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    return jpeg(80)(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) if scale < 1 else image)


def encode_all(pick, count, versions, measured, side, limit):
    """Pictures of every version of some images, in the most exact encoding that fits; of fewer images if none does.

    Args:
        pick (Callable): int -> names of so many images.
        count (int): Of the images to show.
        versions (list[Version]): Of each.
        measured (dict): name -> Measured.
        side (int): Of the largest picture.
        limit (float): Bytes for all of them.

    Returns:
        tuple: {name: {label: data URI}} and the :class:`Encoding` used.

    Raises:
        InputError: Not even one image fits.
    """
    while count:
        names = pick(count)
        for encoding in ENCODINGS:
            if pictures := _encode(names, versions, measured, side, encoding, limit):
                return pictures, encoding
        count = len(names) // 2
    raise InputError(f'The pictures of one image are larger than the {limit / 1e6:g} MB of --max-mb even as JPEGs of '
                     f'quality {JPEG_QUALITIES[-1]}. Raise it, or lower --max-side ({side}).')


def _encode(names, versions, measured, side, encoding, limit):
    """{name: {label: data URI}}, or None if they are larger than the limit."""
    pictures, total = {}, 0
    for name in names:
        top, left, height, width = window(measured[name], side)
        pictures[name] = {version.label: encoding(version.read(name)[top:top + height, left:left + width])
                          for version in versions}
        total += sum(map(len, pictures[name].values()))
        if total > limit:
            return None
    return pictures
