"""Write the controlled domain *processed* of docs/results.md: photos of a camera that works otherwise than ours.

    python scripts/make_processed_data.py CLEAN OUT [--plain]

Its processing is none of noiseda_data's degradations: a lens's blur, demosaicing along edges, noise reduction,
sharpening, JPEG. CLEAN is a folder of clean photos, 512x512 or larger. Of every three, OUT gets one to test (its middle
in ``processed_test``), one to validate and one to adapt to (its four corners, ``processed_train``). The truth, in
``processed_truth_*``, is what the same camera makes of the scene without noise. With --plain it has no noise reduction,
and less noise: ``plain_*``.
"""
import argparse
from os import path as osp

import cv2
import numpy as np

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_data.degradations.jpeg import compress
from noiseda_data.store import open_one, to_float
from noiseda_model.commands import refuse_existing
from noiseda_model.protocols import save_png

SPLITS, CROP = ('test', 'val', 'train'), 512
LENS = 1.2  # pixels
SHOT, SHOT_PLAIN = (0.0007, 0.008), (0.0002, 0.003)  # variance per unit of signal
BLACK, WHITE = 2048, 60000  # of the sensor at 16 bit; noise below black is kept
GAMMA = np.float32(2.2)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('clean', metavar='CLEAN')
    parser.add_argument('out', metavar='OUT')
    parser.add_argument('--plain', action='store_true', help='a camera without noise reduction')
    args = parser.parse_args(arguments)
    with errors_in_one_line():
        run(args)


def run(args):
    store, domain = open_one(args.clean, 'CLEAN'), 'plain' if args.plain else 'processed'
    refuse_existing(osp.join(args.out, f'{name}_{split}') for name in (domain, f'{domain}_truth') for split in SPLITS)
    for number, key in enumerate(store.keys):
        photo, split = store.read(key), SPLITS[number % len(SPLITS)]
        if min(photo.shape[:2]) < CROP:
            raise InputError(f'{store.location(key)} is smaller than {CROP}x{CROP}; take it out of {args.clean}.')
        for part, (top, left) in enumerate(corners(photo, split)):
            scene = cv2.GaussianBlur(to_float(photo[top:top + CROP, left:left + CROP]), (0, 0), LENS)
            for folder, noisy in ((domain, True), (f'{domain}_truth', False)):
                rng = np.random.default_rng([1, number, part])  # the noise belongs to the photo
                write(take(scene, rng, noisy, args.plain), args.out, f'{folder}_{split}', f'{key}_{part}')
    print(f'{args.out}: {domain}, of {len(store.keys)} photos.')


def corners(photo, split):
    """Where the crops of a photo begin."""
    bottom, right = photo.shape[0] - CROP, photo.shape[1] - CROP
    if split == 'train':
        return [(top, left) for top in (0, bottom) for left in (0, right)]
    return [(bottom // 2, right // 2)]


def take(scene, rng, noisy, plain=False):
    """A photo of ``scene``, both float32 (H, W, 3) in [0, 1]."""
    gains = np.array([rng.uniform(1.8, 2.4), 1, rng.uniform(1.4, 1.9)], np.float32)
    raw = mosaic(scene.clip(0, 1)**GAMMA / gains)
    if noisy:
        shot = np.exp(rng.uniform(*np.log(SHOT_PLAIN if plain else SHOT)))
        raw = raw + np.sqrt(shot * raw + 0.06 * shot**1.5 + 1e-6) * rng.standard_normal(raw.shape)
    bayer = (raw * (WHITE - BLACK) + BLACK).clip(0, 65535).round().astype(np.uint16)
    linear = (cv2.demosaicing(bayer, cv2.COLOR_BayerGR2RGB_EA).astype(np.float32) - BLACK) / (WHITE - BLACK)
    finished = finish((linear * gains).clip(0, 1)**(1 / GAMMA), plain)
    return compress(finished, int(rng.integers(90, 98)))


def mosaic(image):
    """The value of one colour at each pixel, GBRG from the top left."""
    raw = image[..., 1].copy()
    raw[::2, 1::2], raw[1::2, ::2] = image[::2, 1::2, 2], image[1::2, ::2, 0]
    return raw


def finish(image, plain):
    """Noise reduction, of brightness by non-local means and of colour by a blur, unless ``plain``; then sharpening."""
    luma, *chroma = np.moveaxis(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb), 2, 0)
    if not plain:
        smooth = cv2.fastNlMeansDenoising((luma * 255).round().clip(0, 255).astype(np.uint8), None, 9, 3, 9)
        luma = 0.3 * luma + 0.7 * smooth.astype(np.float32) / 255
        chroma = [cv2.GaussianBlur(channel, (0, 0), 0.8) for channel in chroma]
    luma = luma + 0.5 * (luma - cv2.GaussianBlur(luma, (0, 0), 1.2))
    return cv2.cvtColor(np.dstack([luma, *chroma]), cv2.COLOR_YCrCb2RGB).clip(0, 1).astype(np.float32)


def write(image, *where):
    save_png(osp.join(*where) + '.png', (image.clip(0, 1) * 255).round().astype(np.uint8))


if __name__ == '__main__':
    main()
