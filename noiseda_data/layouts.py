"""What the usual data sets look like on disk: one row a data set, read by :mod:`noiseda_data.prepare`.

A data set is made of parts, a part of streams that belong together image by image (degraded and clean, say); each
stream becomes an LMDB of the name that the option files expect. A rule finds the files:

- :func:`match`: files whose path fits a stream's regular expression; the joined groups are the image's name, so two
  streams pair by what their expressions capture.
- :func:`listed`: a list file of the authors, two paths a line; what both paths say must agree.
- :func:`blocks`: SIDD's ``.mat`` files.

A rule is a function of the downloaded folder that returns one store a stream, or () where nothing of the part is
there. The stores' names differ where images lack their partner.
"""
import os
import re
from collections.abc import Callable
from os import path as osp
from typing import NamedTuple

from noiseda_basicsr import InputError
from noiseda_data.sidd import BlockStore
from noiseda_data.store import IMAGE_EXTENSIONS, FolderStore, files_below

IMAGE = '(?:' + '|'.join(re.escape(extension) for extension in IMAGE_EXTENSIONS) + ')'


class Part(NamedTuple):
    """A part of a data set; its streams hold images of the same names."""

    streams: tuple  # LMDB of each stream; None: must be there but is not written
    find: Callable  # the rule
    looks_like: str  # what the rule looks for, for messages
    images: int | None = None  # of a stream of the complete download, before any cut
    size: tuple | None = None  # (height, width) of every entry, where all are alike
    crop: int | None = None  # side of the sub-images to cut
    step: int | None = None  # their distance; default: their side
    tiles: int | None = None  # so many sub-images an image, drawn by its name; default: all
    skip_incomplete: bool = False  # what is missing is left out and named; default: an error


class FileStore(FolderStore):
    """Given files as an image store: ``files`` maps a name to a file below ``path``."""

    def __init__(self, path, files):
        self.path = path
        self.files = {name: osp.join(path, file) for name, file in files.items()}
        self.keys = sorted(files)


def match(*patterns):
    """Rule: files whose path below any folder fits an expression, one a stream; case does not matter."""
    expressions = [re.compile(f'(?:.*/)?{pattern}', re.IGNORECASE) for pattern in patterns]

    def find(folder):
        found = [{} for _ in expressions]
        own_name = osp.basename(osp.abspath(folder))  # --src may be the innermost folder of a pattern
        for file in _files_below(folder):
            for files, expression in zip(found, expressions, strict=True):
                if hit := expression.fullmatch(f'{own_name}/{file}'):
                    name = '_'.join(hit.groups())
                    if name in files:
                        raise InputError(f'{folder}: {files[name]} and {file} are both image {name}; keep one.')
                    files[name] = file
        return tuple(FileStore(folder, files) for files in found) if any(found) else ()
    return find


def listed(list_file, columns):
    """Rule: the pairs of a list file, which lies in the folder or below; its paths start from there.

    Args:
        list_file (str): Its name.
        columns (dict): Number of a column -> expression for its paths, in the order of the streams. Groups of one name
            must agree; all groups of the first stream are the image's name.
    """
    def find(folder):
        lists = [osp.join(folder, file) for file in _files_below(folder) if osp.basename(file) == list_file]
        if not lists:
            return ()
        if len(lists) > 1:
            raise InputError(f'{lists[0]} and {lists[1]}: two list files; give --src the folder of one.')
        base = osp.dirname(lists[0])
        names, found = set(), [{} for _ in columns]
        with open(lists[0]) as file:
            lines = [line.split() for line in file if line.strip()]
        for number, line in enumerate(lines, start=1):
            where = f'{lists[0]} line {number}'
            hits = [re.search(pattern, line[column]) if column < len(line) else None
                    for column, pattern in columns.items()]
            if None in hits:
                raise InputError(f'{where}: {" ".join(line)!r} is no pair of this data set. Download the list again.')
            first, *others = (hit.groupdict() for hit in hits)
            if any(first[group] != other[group] for other in others for group in first.keys() & other.keys()):
                raise InputError(f'{where}: its paths name different images. Download the list again.')
            name = '_'.join(hits[0].groups())
            if name in names:
                raise InputError(f'{where}: image {name} for the second time. Download the list again.')
            names.add(name)
            for files, column in zip(found, columns, strict=True):
                path = line[column].removeprefix('.').lstrip('/')
                if osp.isfile(osp.join(base, path)):
                    files[name] = path
        if not any(found):
            raise InputError(f'{lists[0]}: none of its files is there, {lines[0][0] if lines else "none named"} for '
                             'example; they are looked for from its own folder on. Move it, or unpack the images.')
        return tuple(FileStore(base, files) for files in found)
    return find


def blocks(*files):
    """Rule: SIDD's ``.mat`` files, one a stream."""
    def find(folder):
        there = {osp.basename(file): osp.join(folder, file) for file in _files_below(folder)}
        found = [there.get(file) for file in files]
        if not any(found):
            return ()
        if None in found:
            raise InputError(f'{folder}: {files[found.index(None)]} is missing. Download it too.')
        return tuple(BlockStore(path) for path in found)
    return find


def _files_below(folder):
    """Paths below ``folder`` with ``/``, sorted."""
    return sorted(file.replace(os.sep, '/') for file in files_below(folder))


# PolyU's scenes that are tested on; it has no official split of its photos.
POLYU_TEST = ('(?:Canon5D2_bag|Canon5D2_circu|Canon5D2_toy|Canon80D_ball|Canon80D_print|Nikon800_bulle|Nikon800_flowe|'
              'Nikon800_photo|Nikon800_stair|SonyA7II_class|SonyA7II_door|SonyA7II_stair)')
REALBLUR = {1: r'(?P<scene>[^/]+)/blur/blur_(?P<number>\d+)\.', 0: r'(?P<scene>[^/]+)/gt/gt_(?P<number>\d+)\.'}
SPA = {0: r'(?P<video>[^/]+)/[^/]+/(?P<frame>[^/]+)_(?P<x>[^/_]+)_(?P<y>[^/_]+)\.',
       1: r'(?P<video>[^/]+)/[^/]+_(?P<x>[^/_]+)_(?P<y>[^/_]+)\.'}

DATASETS = {
    'div2k': (
        Part(('DIV2K',), match(rf'DIV2K_train_HR/(\d+){IMAGE}'), 'DIV2K_train_HR/0001.png', 800, crop=512),
        Part(('DIV2K_valid',), match(rf'DIV2K_valid_HR/(\d+){IMAGE}'), 'DIV2K_valid_HR/0801.png', 100, crop=512),
    ),
    'flickr2k': (
        Part(('Flickr2K',), match(rf'Flickr2K_HR/(\d+){IMAGE}'), 'Flickr2K/Flickr2K_HR/000001.png', 2650, crop=512),
    ),
    'wed': (
        Part(('WED',), match(rf'pristine_images/(\d+){IMAGE}'), 'pristine_images/00001.bmp', 4744),
    ),
    'bsds500': (
        # without val, which holds the photos of the usual test set CBSD68
        Part(('BSD500',), match(rf'images/(?:train|test)/(\d+){IMAGE}'), 'images/{train,test}/100075.jpg', 400),
        Part(('bsds500_train',), match(rf'images/train/(\d+){IMAGE}'), 'images/train/100075.jpg', 200),
        Part(('bsds500_val',), match(rf'images/val/(\d+){IMAGE}'), 'images/val/101085.jpg', 100),
    ),
    'sidd_medium': (
        Part(('SIDD_medium_noisy', 'SIDD_medium_gt'),
             match(rf'([^/]+)/\d+_NOISY_SRGB_(\d+){IMAGE}', rf'([^/]+)/\d+_GT_SRGB_(\d+){IMAGE}'),
             'Data/0001_001_S6_00100_00060_3200_L/0001_{NOISY,GT}_SRGB_010.PNG', 320, crop=512),
    ),
    'sidd_val': (
        Part(('SIDD_val_noisy', 'SIDD_val_gt'), blocks('ValidationNoisyBlocksSrgb.mat', 'ValidationGtBlocksSrgb.mat'),
             'Validation{Noisy,Gt}BlocksSrgb.mat', 1280, size=(256, 256)),
    ),
    'sidd_benchmark': (
        Part(('SIDD_benchmark_noisy',), blocks('BenchmarkNoisyBlocksSrgb.mat'), 'BenchmarkNoisyBlocksSrgb.mat', 1280,
             size=(256, 256)),
    ),
    'rain13k': (
        Part(('Rain13K_rainy', 'Rain13K_gt'),
             match(rf'Rain13K/input/([^/]+){IMAGE}', rf'Rain13K/target/([^/]+){IMAGE}'),
             'Rain13K/{input,target}/1.jpg', 13712),
    ),
    'rain100l': (
        Part(('Rain100L_rainy', 'Rain100L_gt'),
             match(rf'Rain100L/(?:input/|rainy/rain-|rainy/norain-)(\d+){IMAGE}',
                   rf'Rain100L/(?:target/|norain-|clean/norain-)(\d+){IMAGE}'),
             'Rain100L/{input,target}/1.png or Rain100L/{rainy/rain-001,norain-001}.png', 100),
    ),
    'spa': (
        # the clean photos of the training set are not written: the method needs none
        Part(('SPA_train_rainy', None), listed('real_world.txt', SPA),
             'real_world.txt, real_world/000/000-1/000-1_0_0.png', 638492, size=(256, 256)),
        Part(('SPA_test_rainy', 'SPA_test_gt'),
             match(rf'real_test_1000/rain/(\d+){IMAGE}', rf'real_test_1000/gt/(\d+)gt{IMAGE}'),
             'real_test_1000/{rain/000.png,gt/000gt.png}', 1000, size=(512, 512)),
    ),
    'gopro': (
        Part(('GoPro_blur', 'GoPro_sharp'),
             match(rf'train/([^/]+)/blur/(\d+){IMAGE}', rf'train/([^/]+)/sharp/(\d+){IMAGE}'),
             'train/GOPR0372_07_00/{blur,sharp}/000047.png', 2103, crop=512),
        Part(('GoPro_test_blur', 'GoPro_test_sharp'),
             match(rf'test/([^/]+)/blur/(\d+){IMAGE}', rf'test/([^/]+)/sharp/(\d+){IMAGE}'),
             'test/GOPR0384_11_00/{blur,sharp}/000001.png', 1111, size=(720, 1280)),
    ),
    'realblur_j': (
        Part(('RealBlurJ_train_blur', 'RealBlurJ_train_gt'), listed('RealBlur_J_train_list.txt', REALBLUR),
             'RealBlur_J_train_list.txt', 3758),
        Part(('RealBlurJ_test_blur', 'RealBlurJ_test_gt'), listed('RealBlur_J_test_list.txt', REALBLUR),
             'RealBlur_J_test_list.txt', 980),
    ),
    'coco': (
        Part(('COCO',), match(rf'train2017/(\d+){IMAGE}'), 'train2017/000000000009.jpg', 118287),
    ),
    'polyu': (
        Part(('polyu_train_noisy', None),
             match(*(rf'OriginalImages/(?!{POLYU_TEST}_)(.+)_{side}{IMAGE}' for side in ('Real', 'mean'))),
             'OriginalImages/Canon5D2_chair_{Real,mean}.JPG', 28, (512, 512), crop=512, tiles=3, skip_incomplete=True),
        Part(('polyu_test_noisy', 'polyu_test_clean'),
             match(*(rf'OriginalImages/({POLYU_TEST})_{side}{IMAGE}' for side in ('Real', 'mean'))),
             'OriginalImages/Canon5D2_bag_{Real,mean}.JPG', 12, (512, 512), crop=512, tiles=3, skip_incomplete=True),
        Part(('polyu_cropped_noisy', 'polyu_cropped_clean'),
             match(rf'CroppedImages/(.+)_real{IMAGE}', rf'CroppedImages/(.+)_mean{IMAGE}'),
             'CroppedImages/Canon5D2_5_160_3200_chair_5_{real,mean}.JPG', 100, size=(512, 512)),
    ),
    'cc': (
        Part(('CC_noisy', 'CC_gt'), match(rf'(\w+_iso\d+_\d+)_real{IMAGE}', rf'(\w+_iso\d+_\d+)_mean{IMAGE}'),
             '5dmark3_iso3200_1_{real,mean}.png', 15, size=(512, 512)),
    ),
}
