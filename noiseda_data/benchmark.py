"""How fast training data comes, one worker alone: this project's stores, BasicSR's reader, arrays in memory.

All contestants are measured in turns, round after round, so that a busy machine slows every one of them alike. They are
compared by images: a sample of BasicSR's holds two, one of :class:`PairedUnpairedDataset` three.
"""
import itertools
import os
import time
from os import path as osp
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np
import torch
from basicsr.data import build_dataset

from noiseda_basicsr import InputError
from noiseda_basicsr.sampler import SampleIndex
from noiseda_data.degradations import build_degradation
from noiseda_data.lmdb_writer import create_lmdb
from noiseda_data.store import open_images

STREAMS = ('gt', 'lq', 'real')
BASELINE = "BasicSR's PairedImageDataset, PNG LMDB"
RATIOS = [('PairedUnpairedDataset, raw LMDB', 'arrays in memory'),
          ('raw LMDB, crop alone', 'arrays in memory, crop alone')]
EXAMPLES = [
    {'type': 'awgn', 'sigma': [0, 75]},
    {'type': 'poisson_gaussian', 'gain': [0.001, 0.02], 'sigma': [0, 5]},
    {'type': 'correlated_noise', 'sigma': 30},
    {'type': 'camera'},
    {'type': 'jpeg', 'quality': [60, 95]},
    {'type': 'gaussian_blur', 'sigma': [0.2, 3]},
    {'type': 'motion_blur', 'length': [5, 25]},
    {'type': 'defocus_blur', 'radius': [1, 5]},
    {'type': 'rain_streaks'},
]


class Speed(NamedTuple):
    """What was measured of one contestant."""
    images: int  # in a sample
    samples: list  # a second, for every round


def make_images(folder, source=None, count=200, size=512):
    """Write three streams of 8-bit images, each as a folder of PNGs, a PNG LMDB and a raw LMDB.

    Args:
        folder (str): Where ``gt``, ``gt.lmdb``, ``gt_raw.lmdb``, ``lq``, ... are put.
        source (str): Folder or LMDB to take crops from; lq and real are these with noise. Default: made-up images with
            the 1/f spectrum of photos.
        count (int): Images a stream.
        size (int): Their side.

    Raises:
        InputError: No image of ``source`` is as large as ``size``.
    """
    rng = np.random.default_rng(0)
    images = _crops(source, size) if source else (_made_up(rng, size) for _ in itertools.count())
    for number, image in enumerate(itertools.islice(images, count)):
        for stream, sigma in zip(STREAMS, (0, 15, 5), strict=True):
            noisy = (image + rng.normal(0, sigma, image.shape)).round().clip(0, 255).astype(np.uint8)
            os.makedirs(osp.join(folder, stream), exist_ok=True)
            cv2.imwrite(osp.join(folder, stream, f'{number:06d}.png'), noisy)
    for stream in STREAMS:
        path = osp.join(folder, stream)
        create_lmdb(path, f'{path}.lmdb')
        create_lmdb(f'{path}.lmdb', f'{path}_raw.lmdb', raw=True)


def compare_readers(folder, patch=128, rounds=7, seconds=0.4):
    """Images a second of every reader, on what :func:`make_images` wrote.

    Args:
        patch (int): Side of the crops.
        rounds (int): Turns of each contestant.
        seconds (float): Length of a turn.

    Returns:
        dict[str, Speed]: By contestant.
    """
    places, arrays = _places(folder, patch), _arrays(folder)
    contestants = {
        "BasicSR's PairedImageDataset, folder": (2, _basicsr(folder, 'disk', '', patch)),
        BASELINE: (2, _basicsr(folder, 'lmdb', '.lmdb', patch)),
        'PairedUnpairedDataset, folder': (3, _ours(folder, '', patch)),
        'PairedUnpairedDataset, PNG LMDB': (3, _ours(folder, '.lmdb', patch)),
        'PairedUnpairedDataset, raw LMDB': (3, _ours(folder, '_raw.lmdb', patch)),
        'arrays in memory': (3, _sliced(arrays, places, patch)),
        'raw LMDB, crop alone': (1, _cropped(folder, places, patch)),
        'arrays in memory, crop alone': (1, _cropped_arrays(arrays['gt'], places, patch)),
    }
    speeds = {name: Speed(images, []) for name, (images, _) in contestants.items()}
    for turn in range(-1, rounds):  # the first turn fills the caches and does not count
        for name, (_, sample) in contestants.items():
            rate = _rate(sample, seconds)
            if turn >= 0:
                speeds[name].samples.append(rate)
    return speeds


def degradation_costs(patch=128, rounds=5, seconds=0.2):
    """Milliseconds a patch of every degradation, with the arguments of its example.

    Returns:
        dict[str, float]: The median over ``rounds``, by type.
    """
    image = np.random.default_rng(0).random((patch, patch, 3), np.float32)
    rng = np.random.default_rng(0)
    degrade = {block['type']: build_degradation(block) for block in EXAMPLES}
    rates = {name: [] for name in degrade}
    for _ in range(rounds):
        for name, function in degrade.items():
            rates[name].append(_rate(lambda function=function: function(image, rng), seconds))
    return {name: 1000 / median(values) for name, values in rates.items()}


def ratio(one, other):
    """Median over the rounds of one :class:`Speed` over another, counted in images."""
    return median(a / b for a, b in zip(one.samples, other.samples, strict=True)) * one.images / other.images


def _rate(function, seconds):
    """Calls a second."""
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or calls == 0:
        function()
        calls += 1
    return calls / elapsed


def _basicsr(folder, backend, suffix, patch):
    dataset = build_dataset({
        'name': 'benchmark', 'type': 'PairedImageDataset', 'phase': 'train', 'scale': 1, 'gt_size': patch,
        'use_hflip': True, 'use_rot': True, 'io_backend': {'type': backend},
        **{f'dataroot_{stream}': osp.join(folder, stream) + suffix for stream in ('gt', 'lq')}})
    numbers = itertools.cycle(_shuffled(len(dataset)))
    return lambda: dataset[next(numbers)]


def _ours(folder, suffix, patch):
    dataset = build_dataset({
        'name': 'benchmark', 'type': 'PairedUnpairedDataset', 'phase': 'train', 'gt_size': patch,
        **{f'dataroot_{stream}': osp.join(folder, stream) + suffix for stream in STREAMS}})
    numbers, draws = itertools.cycle(_shuffled(len(dataset))), itertools.count()
    return lambda: dataset[SampleIndex(next(numbers), (0, next(draws)))]


def _sliced(arrays, places, patch):
    """The crops, views and tensors of PairedUnpairedDataset, from lists of arrays, with nothing left to draw."""
    turns = itertools.cycle(places)

    def sample():
        item = {}
        for stream, (number, top, left, flip_x, flip_y, transpose) in zip(STREAMS, next(turns), strict=True):
            crop = arrays[stream][number][top:top + patch, left:left + patch].copy()
            crop = crop[:, ::-1] if flip_x else crop
            crop = crop[::-1] if flip_y else crop
            crop = crop.transpose(1, 0, 2) if transpose else crop
            pixels = np.ascontiguousarray(crop.transpose(2, 0, 1)).astype(np.float32)
            pixels /= 255
            item[stream] = torch.from_numpy(pixels)
        return item

    return sample


def _cropped(folder, places, patch):
    store = open_images(osp.join(folder, 'gt_raw.lmdb'), 'data')
    turns = itertools.cycle([(store.keys[number], top, left) for (number, top, left, *_), *_ in places])

    def sample():
        key, top, left = next(turns)
        return store.read(key)[top:top + patch, left:left + patch].copy()

    return sample


def _cropped_arrays(arrays, places, patch):
    turns = itertools.cycle([(number, top, left) for (number, top, left, *_), *_ in places])

    def sample():
        number, top, left = next(turns)
        return arrays[number][top:top + patch, left:left + patch].copy()

    return sample


def _arrays(folder):
    stores = {stream: open_images(osp.join(folder, stream) + '_raw.lmdb', 'data') for stream in STREAMS}
    return {stream: [store.read(key).copy() for key in store.keys] for stream, store in stores.items()}


def _places(folder, patch, count=4096):
    """For each sample and stream (image, top, left, flip_x, flip_y, transpose); gt and lq share theirs."""
    store = open_images(osp.join(folder, 'gt_raw.lmdb'), 'data')
    height, width, _ = store.read(store.keys[0]).shape
    rng = np.random.default_rng(0)
    draw = [len(store.keys), height - patch + 1, width - patch + 1, 2, 2, 2]
    return [(pair, pair, real) for pair, real in rng.integers(draw, size=(count, 2, 6)).tolist()]


def _shuffled(length):
    return np.random.default_rng(0).permutation(length).tolist()


def _made_up(rng, size):
    """Noise with the 1/f amplitude spectrum of natural photos (Field 1987), as uint8 (size, size, 3)."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.normal(size=(3, size, size))) / frequency
    image = np.fft.irfft2(spectrum, s=(size, size))
    image = 128 + 50 * (image - image.mean()) / image.std()
    return image.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def _crops(source, size):
    """Non-overlapping squares of the images of ``source``, over and over."""
    store = open_images(source, 'data')
    crops = [image[top:top + size, left:left + size] for image in map(store.read, store.keys)
             for top in range(0, image.shape[0] - size + 1, size) for left in range(0, image.shape[1] - size + 1, size)]
    if not crops:
        raise InputError(f'{source}: no image is as large as {size}x{size}; give a smaller --size.')
    return itertools.cycle(crops)
