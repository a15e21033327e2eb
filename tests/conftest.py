"""What several test files share: small images in temporary folders."""
import pytest
import torch
from images import write_images

import noiseda_model  # noqa: F401  registers everything

torch.set_num_threads(1)  # tensors here are too small for more


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def image_folder(tmp_path):
    """image_folder(name, images, seed) writes PNGs, see :func:`images.write_images`, and returns the folder."""

    def make(name, images=3, seed=0):
        write_images(tmp_path / name, images, seed)
        return str(tmp_path / name)

    return make


@pytest.fixture
def pair_folders(image_folder):
    """pair_folders(count) writes different random images under equal names: (folder of gt, folder of lq)."""

    def make(count=3):
        return image_folder('gt', count, seed=1), image_folder('lq', count, seed=2)

    return make
