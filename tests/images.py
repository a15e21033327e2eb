"""Small images in folders."""
import cv2
import numpy as np


def write_images(folder, images=3, seed=0):
    """Write PNGs.

    Args:
        folder (Path): Made where missing.
        images (int | dict): A number of random 40x48 images named 000, 001, ..., or file name -> array (RGB where it
            has three channels).
        seed (int): Of the random images.
    """
    if isinstance(images, int):
        rng = np.random.default_rng(seed)
        images = {f'{number:03d}.png': rng.integers(0, 256, (40, 48, 3), np.uint8) for number in range(images)}
    for file_name, image in images.items():
        file = folder / file_name
        file.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(file), image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image)
