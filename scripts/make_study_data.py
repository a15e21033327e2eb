"""Write the controlled domains of docs/adapting.md: clean photos degraded in known ways.

    python scripts/make_study_data.py CLEAN OUT

CLEAN is a folder of clean photos. Of every five, OUT gets one to test and one to validate (centre crops of 256x256, in
``DOMAIN_test``, ``DOMAIN_val``, their truth in ``truth_test``, ``truth_val``) and three, whole, to adapt to without
truth (``DOMAIN_train``).
"""
import argparse
import os
import sys
from os import path as osp

import cv2
import numpy as np

from noiseda_basicsr import InputError
from noiseda_data.degradations import build_degradation
from noiseda_data.store import open_one, to_float

DOMAINS = {  # options/study/*.yml repeat them for the oracles
    'correlated': {'type': 'correlated_noise', 'sigma': 15, 'blur': 1.0, 'quality': 90},
    'camera': {'type': 'camera', 'shot': [0.0003, 0.006]},
}
SPLITS, CROP = ('test', 'val', 'train', 'train', 'train'), 256


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('clean', metavar='CLEAN')
    parser.add_argument('out', metavar='OUT')
    args = parser.parse_args()
    try:
        run(args)
    except InputError as error:
        sys.exit(f'error: {error}')


def run(args):
    store = open_one(args.clean, 'CLEAN')
    for domain, block in DOMAINS.items():
        degrade = build_degradation(block)
        for number, key in enumerate(store.keys):
            rng = np.random.default_rng([0, number])  # the noise belongs to the photo
            split = SPLITS[number % len(SPLITS)]
            image = store.read(key) if split == 'train' else centre(store.read(key))
            write(degrade(to_float(image), rng), args.out, f'{domain}_{split}', key)
            if split != 'train':
                write(to_float(image), args.out, f'truth_{split}', key)
    print(f'{args.out}: {" and ".join(DOMAINS)}, of {len(store.keys)} photos each.')


def centre(image):
    top, left = ((side - CROP) // 2 for side in image.shape[:2])
    return np.ascontiguousarray(image[top:top + CROP, left:left + CROP])


def write(image, *where):
    path = osp.join(*where) + '.png'
    os.makedirs(osp.dirname(path), exist_ok=True)
    cv2.imwrite(path, (image[..., ::-1].clip(0, 1) * 255).round().astype(np.uint8))


if __name__ == '__main__':
    main()
