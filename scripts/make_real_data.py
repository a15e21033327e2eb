"""Write the data of options/study/rain.yml and blur.yml: synthetic pairs, and real photos without ground truth.

    python scripts/make_real_data.py DATA OUT

DATA is a collection of ours that cannot be downloaded as a whole: its terms do not allow it. It holds

    derain/rain100l/{rainy,clean}   60 pairs of Rain100L (KaneWANG0816/RR on GitHub)
    derain/real_unlabelled          real rain: 60 frames of a video, ntu_00001.jpg ... (zsyOAOA/S2VD); five photos of
                                    SPA, spa_1.png ... (published with Noise-DA)
    derain/real_yard/yard.mp4       a yard in the rain, by a hand that holds nearly still (uestctensorgroup/FastDeRain)
    deblur/gopro/{blur,sharp}       8 pairs of GoPro (jeffreywolberg/deblurring_dataset_generator)
    deblur/real_unlabelled          9 really blurred photos (RealBlur-J, from Noise-DA; jiangsutx/SRN-Deblur)

OUT gets LMDBs, ``rain_lq`` and ``rain_gt``, ``blur_lq`` and ``blur_gt``, the pairs; ``rain_real`` and ``blur_real``,
photos to adapt to; and folders to measure on: ``yard`` with ``yard_truth``, ``gopro`` with ``gopro_truth`` (a scene
that is not trained on) and ``blur_test``, which has no truth. All show other scenes than the photos to adapt to. Not so
``ntu`` with ``ntu_truth``: five frames of that video are among them, so it is a test for vanilla networks alone.

The truth of the videos is weak: the median of the frames around one. In the yard every 30th frame and 30 before and
after it, the upper part, as the rain shows there and not on the ground; of ntu every 8th and 6 before and after it,
which are aligned, as the camera pans. How weak is printed.
"""
import argparse
from os import path as osp

import cv2
import numpy as np

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_data.lmdb_writer import create_lmdb
from noiseda_data.store import open_one
from noiseda_model.evaluation import METRICS, measure
from noiseda_model.metrics import homography
from noiseda_model.protocols import save_png

YARD_END, YARD_ROWS = 361, 256  # then the camera is moved
NTU_MARGIN = 48, 64  # as far as the camera pans
NTU = tuple(f'ntu_{number:05d}' for number in range(1, 61, 12))  # as many as there are photos of SPA
GOPRO_TEST = 'GOPR0384_11_00'  # one of GoPro's test scenes
BLUR_TEST = ('08', 'scene002-5', 'scene103-3', 'scene130-3')  # every second scene


def is_gopro_test(key):
    return key.startswith(GOPRO_TEST)


LMDBS = {  # name -> folder of DATA, which of its images
    'rain_lq': ('derain/rain100l/rainy', lambda key: True),
    'rain_gt': ('derain/rain100l/clean', lambda key: True),
    'rain_real': ('derain/real_unlabelled', lambda key: key in NTU or key.startswith('spa_')),
    'blur_lq': ('deblur/gopro/blur', lambda key: not is_gopro_test(key)),
    'blur_gt': ('deblur/gopro/sharp', lambda key: not is_gopro_test(key)),
    'blur_real': ('deblur/real_unlabelled', lambda key: key not in BLUR_TEST),
}
FOLDERS = {
    'gopro': ('deblur/gopro/blur', is_gopro_test),
    'gopro_truth': ('deblur/gopro/sharp', is_gopro_test),
    'blur_test': ('deblur/real_unlabelled', lambda key: key in BLUR_TEST),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', metavar='DATA')
    parser.add_argument('out', metavar='OUT')
    args = parser.parse_args()
    with errors_in_one_line():
        run(args)


def run(args):
    for name, (folder, is_wanted) in LMDBS.items():
        source = osp.join(args.data, folder)
        keys = {key for key in open_one(source, 'DATA').keys if is_wanted(key)}
        count = create_lmdb(source, osp.join(args.out, f'{name}.lmdb'), keys=keys, raw=True)
        print(f'{name}: {count} images.')
    for name, (folder, is_wanted) in FOLDERS.items():
        store = open_one(osp.join(args.data, folder), 'DATA')
        for key in filter(is_wanted, store.keys):
            save_png(osp.join(args.out, name, f'{key}.png'), store.read(key))
    derain = osp.join(args.data, 'derain')
    yard = read_video(f'{derain}/real_yard/yard.mp4')[:YARD_END, :YARD_ROWS]
    make_truth('yard', {number: yard[number - 30:number + 31] for number in range(30, len(yard) - 30, 30)}, args.out)
    store = open_one(f'{derain}/real_unlabelled', 'DATA')
    ntu = [store.read(key) for key in store.keys if key.startswith('ntu_')]
    make_truth('ntu', {number: aligned(ntu[number - 6:number + 7]) for number in range(6, len(ntu) - 6, 8)}, args.out)


def read_video(path):
    """All frames, (N, H, W, 3), uint8, RGB."""
    video, frames = cv2.VideoCapture(path), []
    while (found := video.read())[0]:
        frames.append(found[1][..., ::-1])
    if not frames:
        raise InputError(f'{path}: cannot be read as a video.')
    return np.stack(frames)


def aligned(frames):
    """Frames (a list of (H, W, 3), uint8) warped onto the middle one by a homography (ECC), without their margins."""
    (height, width), (top, left), middle = frames[0].shape[:2], NTU_MARGIN, frames[len(frames) // 2]
    warped = [cv2.warpPerspective(frame, homography(frame[..., ::-1], middle[..., ::-1]), (width, height),
                                  flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP) for frame in frames]
    return np.stack(warped)[:, top:height - top, left:width - left]


def make_truth(name, windows, out):
    """Write the middle frame of each window, {number: (N, H, W, 3), uint8}, and its truth; print how good it is."""
    quality, motion = [], []
    for number, frames in windows.items():
        half = len(frames) // 2
        frame, truth, before, after = (frames[half], *map(median, (frames, frames[:half], frames[-half:])))
        save_png(osp.join(out, name, f'{number:03d}.png'), frame)
        save_png(osp.join(out, f'{name}_truth', f'{number:03d}.png'), truth)
        even_odd = psnr(median(frames[::2]), median(frames[1::2]))
        quality.append([psnr(frame, truth), even_odd, psnr(before, after), share_of_brighter(frame, truth)])
        motion.append(shift(before, after))
    means = np.mean(quality, axis=0)
    print(f'{name}: {len(quality)} frames. PSNR, means: frame and truth {means[0]:.2f}; medians of even and odd frames '
          f'{means[1]:.2f}; of those before and those after {means[2]:.2f}. Share of the squared difference '
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
