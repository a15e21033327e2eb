"""Write the photos of docs/selection.md: degraded domains made of the same clean photos.

    python scripts/make_selection_data.py CLEAN OTHERS OUT

CLEAN and OTHERS are clean photos. OUT gets, for each domain, ``<domain>_test``: a degraded centre crop of 256x256 of
every fifth photo of CLEAN, their ``truth``, and ``<domain>_train``: the other photos, degraded, to adapt to without
truth. The domain ``soft`` is that of large photos seen at 100 %: the middle 128x128, enlarged twice, with the noise of
``mild``; ``soft_clean`` are photos of OTHERS, enlarged alike.
"""
import argparse
from os import path as osp

import cv2
import make_study_data
import numpy as np
from make_study_data import CROP, write

from noiseda_basicsr import errors_in_one_line
from noiseda_data.degradations import build_degradation
from noiseda_data.store import centre, open_one, to_float
from noiseda_model.commands import refuse_existing

DOMAINS = {  # scripts/selection_study.sh repeats those of the study for the oracles
    **make_study_data.DOMAINS,
    'mild': {'type': 'correlated_noise', 'sigma': 5, 'blur': 1.0, 'quality': 95},  # about as noisy as PolyU
}
EVERY = 5


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('clean', metavar='CLEAN')
    parser.add_argument('others', metavar='OTHERS')
    parser.add_argument('out', metavar='OUT')
    args = parser.parse_args(arguments)
    with errors_in_one_line():
        run(args)


def run(args):
    store = open_one(args.clean, 'CLEAN')
    folders = [f'{domain}_{split}' for domain in (*DOMAINS, 'soft') for split in ('test', 'train', 'truth', 'clean')]
    refuse_existing(osp.join(args.out, name) for name in ('truth', *folders))
    for domain, block in DOMAINS.items():
        degrade = build_degradation(block)
        for number, key in enumerate(store.keys):
            rng = np.random.default_rng([0, number])  # the noise belongs to the photo
            is_test = number % EVERY == 0
            image = centre(store.read(key), CROP) if is_test else store.read(key)
            write(degrade(to_float(image), rng), args.out, f'{domain}_{"test" if is_test else "train"}', key)
            if is_test:
                write(to_float(image), args.out, 'truth', key)
    make_soft(store, open_one(args.others, 'OTHERS'), args.out)
    tests = len(range(0, len(store.keys), EVERY))
    print(f'{args.out}: {", ".join(DOMAINS)}, soft; {tests} photos to measure, {len(store.keys) - tests} to adapt to.')


def make_soft(store, others, out):
    degrade, tests = build_degradation(DOMAINS['mild']), store.keys[::EVERY]
    for number, key in enumerate(tests):
        image = to_float(enlarged(store.read(key)))
        write(image, out, 'soft_truth', key)
        write(degrade(image, np.random.default_rng([0, number])), out, 'soft_test', key)
    for key in others.keys[:len(tests)]:
        write(to_float(enlarged(others.read(key))), out, 'soft_clean', key)


def enlarged(image):
    return cv2.resize(centre(image, CROP // 2), (CROP, CROP), interpolation=cv2.INTER_CUBIC)


if __name__ == '__main__':
    main()
