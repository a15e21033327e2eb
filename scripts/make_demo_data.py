"""Write the demo's photos: clean ones for the source domain, degraded ones of other scenes for the target domain.

    python scripts/make_demo_data.py demo/data

All come with scikit-image. The target's degradation is noise as a small camera makes it (signal-dependent, spatially
correlated, JPEG), zero-mean; training sees the target photos without their ground truth.
"""
import argparse
import os
import sys
from os import path as osp

import cv2
import numpy as np
from skimage import data

from noiseda_data.degradations import CorrelatedNoise

SOURCE = ['astronaut', 'brick', 'grass', 'hubble_deep_field', 'immunohistochemistry', 'moon', 'motorcycle']
TARGET_TRAIN = ['gravel', 'retina', 'rocket']
TARGET_TEST = ['camera', 'chelsea', 'coffee']
DEGRADATION = CorrelatedNoise(sigma=30, blur=1.0, quality=90)  # options/train/train_demo_oracle.yml repeats it


def main():
    if len(sys.argv) == 1:
        sys.argv.append('--help')
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder')
    folder = parser.parse_args().folder
    rng = np.random.default_rng(0)
    for name in SOURCE:
        write(photo(name), folder, 'source_clean', name)
    for name in TARGET_TRAIN:
        write(DEGRADATION(photo(name), rng), folder, 'target_train', name)
    for name in TARGET_TEST:
        write(DEGRADATION(photo(name), rng), folder, 'target_test/degraded', name)
        write(photo(name), folder, 'target_test/truth', name)
    print(f'{folder}: {len(SOURCE)} clean source photos, {len(TARGET_TRAIN)} degraded target photos to adapt to, '
          f'{len(TARGET_TEST)} target pairs to test on.')


def photo(name):
    """A photo as float32 (H, W, 3), RGB, in [0, 1]; large ones at half size."""
    image = data.stereo_motorcycle()[0] if name == 'motorcycle' else getattr(data, name)()
    image = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image[..., :3]
    if min(image.shape[:2]) > 600:
        image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return image.astype(np.float32) / 255


def write(image, *where):
    path = osp.join(*where) + '.png'
    os.makedirs(osp.dirname(path), exist_ok=True)
    cv2.imwrite(path, (image[..., ::-1] * 255).round().astype(np.uint8))


if __name__ == '__main__':
    main()
