"""Write the controlled domains of docs/adapting.md: clean photos degraded in known ways.

    python scripts/make_study_data.py CLEAN OUT

CLEAN is a folder of clean photos. Of every five, OUT gets one to test and one to validate (centre crops of 256x256, in
``DOMAIN_test``, ``DOMAIN_val``, their truth in ``truth_test``, ``truth_val``) and three, whole, to adapt to without
truth (``DOMAIN_train``). Photos of ``large`` are enlarged first; their truth is in ``large_truth_*``.
"""
import argparse
from os import path as osp

import cv2
import numpy as np

from noiseda_basicsr import errors_in_one_line
from noiseda_data.degradations import build_degradation
from noiseda_data.store import centre, open_one, to_float
from noiseda_model.commands import refuse_existing
from noiseda_model.protocols import save_png

DOMAINS = {  # options/study/*.yml repeat them for the oracles
    'correlated': {'type': 'correlated_noise', 'sigma': 15, 'blur': 1.0, 'quality': 90},
    'camera': {'type': 'camera', 'shot': [0.0003, 0.006]},
}
LARGE = {'type': 'camera', 'shot': [0.0001, 0.001], 'quality': [90, 100]}  # on photos enlarged: soft, as at 100 %
ENLARGED = 3
SPLITS, CROP = ('test', 'val', 'train', 'train', 'train'), 256


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('clean', metavar='CLEAN')
    parser.add_argument('out', metavar='OUT')
    args = parser.parse_args(arguments)
    with errors_in_one_line():
        run(args)


def run(args):
    store = open_one(args.clean, 'CLEAN')
    refuse_existing(osp.join(args.out, f'{name}_{split}') for name in (*DOMAINS, 'large', 'truth', 'large_truth')
                    for split in dict.fromkeys(SPLITS))
    for domain, block in {**DOMAINS, 'large': LARGE}.items():
        degrade = build_degradation(block)
        factor, truth = (ENLARGED, 'large_truth') if domain == 'large' else (1, 'truth')
        for number, key in enumerate(store.keys):
            rng = np.random.default_rng([0, number])  # the noise belongs to the photo
            split = SPLITS[number % len(SPLITS)]
            image = cv2.resize(store.read(key), None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
            image = to_float(image if split == 'train' else centre(image, CROP))
            write(degrade(image, rng), args.out, f'{domain}_{split}', key)
            if split != 'train':
                write(image, args.out, f'{truth}_{split}', key)
    print(f'{args.out}: {", ".join(DOMAINS)}, large, of {len(store.keys)} photos each.')


def write(image, *where):
    save_png(osp.join(*where) + '.png', (image.clip(0, 1) * 255).round().astype(np.uint8))


if __name__ == '__main__':
    main()
