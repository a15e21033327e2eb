"""Write the data of options/study/rain.yml and blur.yml: synthetic pairs, and real photos without ground truth.

    python scripts/make_real_data.py DATA OUT

DATA holds, as their authors published them:

    derain/rain100l/{rainy,clean}   pairs of Rain100L
    derain/real_unlabelled          real rain: frames of one video (ntu_*), photos of SPA (spa_*)
    derain/real_yard/yard.mp4       a yard in the rain, filmed by a hand that holds nearly still (FastDeRain)
    deblur/gopro/{blur,sharp}       pairs of GoPro
    deblur/real_unlabelled          really blurred photos

OUT gets LMDBs, ``rain_lq`` and ``rain_gt``, ``blur_lq`` and ``blur_gt``, the pairs; ``rain_real`` and ``blur_real``,
photos to adapt to; and folders to measure on: ``yard`` with ``yard_truth``, ``gopro`` with ``gopro_truth`` (a scene
that is not trained on) and ``blur_test``, which has no truth. All show other scenes than the photos to adapt to.

The truth of the yard is weak: for every 30th frame the median of the 61 frames around it; of both the upper part, as
the rain shows there and not on the ground. How weak is printed.
"""
import argparse
from os import path as osp

import cv2
import numpy as np

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_data.lmdb_writer import create_lmdb
from noiseda_data.store import open_one
from noiseda_model.evaluation import METRICS, measure
from noiseda_model.protocols import save_png

EVERY, AROUND, ROWS = 30, 30, 256  # every 30th frame; so many before it and after it; the upper part
END = 361  # then the camera is moved
NTU = tuple(f'ntu_{number:05d}' for number in range(1, 61, 12))  # as many as there are photos of SPA
GOPRO_TEST = 'GOPR0384_11_00'  # one of GoPro's test scenes
BLUR_TEST = ('08', 'scene002-5', 'scene103-3', 'scene130-3')  # every second scene


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', metavar='DATA')
    parser.add_argument('out', metavar='OUT')
    args = parser.parse_args()
    with errors_in_one_line():
        run(args)


def run(args):
    derain, deblur = osp.join(args.data, 'derain'), osp.join(args.data, 'deblur')
    for name, source, is_wanted in (
            ('rain_lq', f'{derain}/rain100l/rainy', lambda key: True),
            ('rain_gt', f'{derain}/rain100l/clean', lambda key: True),
            ('rain_real', f'{derain}/real_unlabelled', lambda key: key in NTU or key.startswith('spa_')),
            ('blur_lq', f'{deblur}/gopro/blur', lambda key: not key.startswith(GOPRO_TEST)),
            ('blur_gt', f'{deblur}/gopro/sharp', lambda key: not key.startswith(GOPRO_TEST)),
            ('blur_real', f'{deblur}/real_unlabelled', lambda key: key not in BLUR_TEST)):
        keys = {key for key in open_one(source, 'DATA').keys if is_wanted(key)}
        count = create_lmdb(source, osp.join(args.out, f'{name}.lmdb'), keys=keys, raw=True)
        print(f'{name}: {count} images.')
    for name, source, is_wanted in (
            ('gopro', f'{deblur}/gopro/blur', lambda key: key.startswith(GOPRO_TEST)),
            ('gopro_truth', f'{deblur}/gopro/sharp', lambda key: key.startswith(GOPRO_TEST)),
            ('blur_test', f'{deblur}/real_unlabelled', lambda key: key in BLUR_TEST)):
        store = open_one(source, 'DATA')
        for key in filter(is_wanted, store.keys):
            save_png(osp.join(args.out, name, f'{key}.png'), store.read(key))
    make_yard(read_video(f'{derain}/real_yard/yard.mp4')[:END], args.out)


def read_video(path):
    """All frames, (N, H, W, 3), uint8, RGB."""
    video, frames = cv2.VideoCapture(path), []
    while (found := video.read())[0]:
        frames.append(found[1][..., ::-1])
    if not frames:
        raise InputError(f'{path}: cannot be read as a video.')
    return np.stack(frames)


def make_yard(frames, out):
    """Write frames and their truth; print how good it is."""
    quality, motion = [], []
    for number in range(EVERY, len(frames) - AROUND, EVERY):
        around = frames[number - AROUND:number + AROUND + 1, :ROWS]
        frame, truth, before, after = (frames[number, :ROWS], *map(median, (around, around[:AROUND], around[-AROUND:])))
        save_png(osp.join(out, 'yard', f'{number:03d}.png'), frame)
        save_png(osp.join(out, 'yard_truth', f'{number:03d}.png'), truth)
        even_odd = psnr(median(around[::2]), median(around[1::2]))
        quality.append([psnr(frame, truth), even_odd, psnr(before, after), share_of_brighter(frame, truth)])
        motion.append(shift(before, after))
    means = np.mean(quality, axis=0)
    print(f'yard: {len(quality)} frames. PSNR, means: frame and truth {means[0]:.2f}; medians of the even and the odd '
          f'frames {means[1]:.2f}; of those before and those after {means[2]:.2f}. Share of the squared difference '
          f'between frame and truth where the frame is brighter: {means[3]:.0%}. From those before to those after, the '
          f'camera moves by {np.mean(motion):.3f} pixels, {np.max(motion):.3f} at most.')


def median(frames):
    return np.median(frames, axis=0).round().astype(np.uint8)


def psnr(image, other):
    return measure(image, other, {'PSNR': METRICS['PSNR']})['PSNR']


def share_of_brighter(frame, truth):
    """Share of the squared difference; rain brightens, of noise and leaves in the wind it is a half."""
    difference = frame.astype(float) - truth
    return np.square(difference.clip(0)).sum() / np.square(difference).sum()


def shift(image, other):
    """Length of the displacement between two images, in pixels, by ECC."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (image, other)]
    _, warp = cv2.findTransformECC(*grey, np.eye(2, 3, dtype=np.float32), cv2.MOTION_TRANSLATION)
    return np.linalg.norm(warp[:, 2])


if __name__ == '__main__':
    main()
