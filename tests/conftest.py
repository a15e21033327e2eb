"""What several test files share: small images in temporary folders."""
import cv2
import numpy as np
import pytest
import torch

import noiseda_model  # noqa: F401  registers everything

torch.set_num_threads(1)  # tensors here are too small for more


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def image_folder(tmp_path):
    """image_folder(name, images) writes PNGs and returns the folder.

    ``images``: a number of random 40x48 images named 000, 001, ..., or a dict of file name -> array (RGB where it has
    three channels).
    """

    def make(name, images=3, seed=0):
        if isinstance(images, int):
            rng = np.random.default_rng(seed)
            images = {f'{number:03d}.png': rng.integers(0, 256, (40, 48, 3), np.uint8) for number in range(images)}
        for file_name, image in images.items():
            file = tmp_path / name / file_name
            file.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(file), image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image)
        return str(tmp_path / name)

    return make


@pytest.fixture
def pair_folders(image_folder):
    """pair_folders(count) writes different random images under equal names: (folder of gt, folder of lq)."""

    def make(count=3):
        return image_folder('gt', count, seed=1), image_folder('lq', count, seed=2)

    return make
