"""The versions of each image: found by name, measured against the truth.

Images here are uint8 arrays (H, W, 3), RGB.
"""
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from noiseda_basicsr import InputError
from noiseda_data.store import open_one
from noiseda_model.evaluation import measure
from noiseda_model.protocols import to_8bit

DEGRADED, TRUTH = 'degraded', 'truth'
FOCUS = 96  # side of the window in which versions are compared


class Version(NamedTuple):
    """One of the images that are compared, for every name."""

    label: str
    store: object
    template: str  # key of the image called {}

    def key(self, name):
        return self.template.replace('{}', name)

    def location(self, name):
        return self.store.location(self.key(name))

    def read(self, name):
        return to_8bit(self.store.read(self.key(name)))


class Measured(NamedTuple):
    """What is known of one image without keeping its pixels."""

    height: int
    width: int
    focus: tuple  # row and column around which the versions differ most
    figures: dict  # version -> {metric: float}; without truth empty


def open_versions(results, lq=None, gt=None, template=None):
    """Open what is to be compared.

    Args:
        results (dict): Label -> folder or LMDB of restored images; none is called 'degraded' or 'truth'.
        lq, gt (str): Degraded images and ground truth; the names are those of the first of lq, gt, results.
        template (str): Key of a restored image called ``{}``, as "{}_restored". Default: found from the names.

    Returns:
        tuple: names, list[Version] in the order degraded, results, truth.

    Raises:
        InputError: A folder is missing or empty; a name is not found in it.
    """
    if template is not None and '{}' not in template:
        raise InputError(f'--filename-tmpl {template}: must hold {{}}, for the name of the photo.')
    sources = ([(DEGRADED, lq, '--lq')] if lq else []) + [(label, path, 'results') for label, path in results.items()]
    sources += [(TRUTH, gt, '--gt')] if gt else []
    stores = {label: open_one(path, option) for label, path, option in sources}
    reference = stores[DEGRADED if lq else TRUTH if gt else next(iter(results))]
    versions = []
    for label, store in stores.items():
        given = template if label in results and store is not reference else None
        versions.append(Version(label, store, given or find_template(reference, store)))
        missing = {versions[-1].key(name) for name in reference.keys} - set(store.keys)
        if missing:
            raise InputError(f'{store.path} has no image {min(missing)}, which --filename-tmpl {given} makes of the '
                             f'names in {reference.path}; it has {store.keys[0]}, for example.')
    return reference.keys, versions


def find_template(reference, store):
    """How the keys of ``store`` come from those of ``reference``: the name, ``{}``, and what stands around it.

    BasicSR's test writes ``visualization/DATASET/NAME_SUFFIX.png``, its validation
    ``visualization/NAME/NAME_ITERATION.png``; the suffix and the folders may be left unsaid.

    Raises:
        InputError: No such rule, or several.
    """
    names, keys = reference.keys, set(store.keys)
    if keys.issuperset(names):
        return '{}'
    longest = max(names, key=len)  # the one least likely to be a part of a wrong key
    found = {key[:at] + '{}' + key[at + len(longest):] for key in keys for at in _places(longest, key)}
    found |= {key.replace(longest, '{}') for key in keys if longest in key}
    found = sorted(rule for rule in found if all(rule.replace('{}', name) in keys for name in names))
    if not found:
        raise InputError(f'{store.path} ({len(keys)} images, {store.keys[0]} for example) does not hold an image for '
                         f'each of the {len(names)} names in {reference.path}, {_first_missing(names, keys)} for '
                         'example. Names must be equal but for what stands before and after all of them, as in '
                         'NAME_restored.png.')
    if len(found) > 1:
        some = ', '.join(found[:4]) + ' ...' * (len(found) > 4)
        raise InputError(f'{store.path} holds several images of each name: {some}. Give one of the folders '
                         'below it, or --filename-tmpl.')
    return found[0]


def _first_missing(names, keys):
    return next((name for name in names if not any(name in key for key in keys)), names[0])


def _places(part, text):
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def measure_all(names, versions, metrics):
    """Measure every version of every image.

    Args:
        names, versions: Of :func:`open_versions`.
        metrics (dict): Name -> block as in ``val:metrics``.

    Returns:
        dict: name -> :class:`Measured`.

    Raises:
        InputError: An image cannot be read or measured; the versions of an image differ in size.
    """
    return {name: _measure_one(name, versions, metrics) for name in tqdm(names, unit='image', desc='measuring')}


def _measure_one(name, versions, metrics):
    images = {version.label: version.read(name) for version in versions}
    shape = images[versions[0].label].shape
    for version in versions:
        other = images[version.label].shape
        if other != shape:
            raise InputError(f'{versions[0].location(name)} is {shape[1]}x{shape[0]} and {version.location(name)} is '
                             f'{other[1]}x{other[0]}; the versions of an image must be of equal size.')
    truth, figures = images.pop(TRUTH, None), {}
    if truth is not None:
        figures = {label: measure(image, truth, metrics, f'{name} ({label})') for label, image in images.items()}
    return Measured(*shape[:2], find_focus(*_most_telling(images, truth)), figures)


def _most_telling(images, truth):
    """The two versions whose difference says where to look: the first and the last restored one if there are two."""
    restored = [image for label, image in images.items() if label != DEGRADED]
    if len(restored) > 1:
        return restored[0], restored[-1]
    return restored[0], images.get(DEGRADED, restored[0] if truth is None else truth)


def find_focus(one, other):
    """The place where two images differ most: centre (row, column) of the window of 96x96, or of the image if smaller.

    Where they are equal it is the middle.
    """
    height, width = one.shape[:2]
    difference = cv2.absdiff(np.ascontiguousarray(one), np.ascontiguousarray(other)).mean(axis=2, dtype=np.float32)
    sides = min(FOCUS, height), min(FOCUS, width)
    means = cv2.blur(difference, sides[::-1])[sides[0] // 2:height - (sides[0] - 1) // 2,
                                              sides[1] // 2:width - (sides[1] - 1) // 2]
    if np.ptp(means) == 0:
        return height // 2, width // 2
    row, column = np.unravel_index(means.argmax(), means.shape)
    return int(row) + sides[0] // 2, int(column) + sides[1] // 2
