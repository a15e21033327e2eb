"""What one restored image measures.

Images here are uint8 arrays (H, W, 3), RGB. A figure is BasicSR's, on RGB, after clipping and rounding to 8 bit; SSIM
has the 11x11 Gaussian window and is averaged over channels.
"""
import numpy as np
from basicsr.metrics import calculate_metric

from noiseda_basicsr import InputError

METRICS = {  # as in an option file's val:metrics
    'PSNR': {'type': 'calculate_psnr', 'crop_border': 0},
    'SSIM': {'type': 'calculate_ssim', 'crop_border': 0},
    'LPIPS': {'type': 'calculate_lpips', 'better': 'lower'},
}
NO_TRUTH = {'NIQE': {'type': 'calculate_niqe', 'crop_border': 0, 'better': 'lower'}}  # they look at the image alone
NIQE_BLOCK = 96
SMALLEST = {  # side that a metric's windows, or AlexNet's layers, need
    'calculate_ssim': 11, 'calculate_ssim_skimage': 7, 'calculate_ssim_aligned': 11, 'calculate_lpips': 31,
    'calculate_lpips_aligned': 31}


def measure(image, truth, metrics, name='An image'):
    """Figures of one image.

    Args:
        image (ndarray): (H, W, 3), uint8, RGB.
        truth (ndarray | None): Its ground truth, of equal shape; None for metrics that need none.
        metrics (dict): Name -> block as in an option file's ``val:metrics``.
        name (str): What to call the image in an error.

    Returns:
        dict: Name -> float.

    Raises:
        InputError: It is too small, flat, or cannot be aligned, where a metric minds.
    """
    height, width = image.shape[:2]
    for metric, block in metrics.items():
        side = SMALLEST.get(block['type'], 1)
        if min(height, width) < side:
            raise InputError(f'{name} is {width}x{height}; {metric} needs sides of {side} pixels or more.')
    if 'NIQE' in metrics and not suits_niqe(image):
        raise InputError(f'{name} is {width}x{height}; NIQE needs two blocks of {NIQE_BLOCK}x{NIQE_BLOCK}. Give the '
                         'ground truth, or larger images.')
    data = {'img': image[..., ::-1]}  # BasicSR works in BGR
    if truth is not None:
        data['img2'] = truth[..., ::-1]
    try:
        return {metric: float(calculate_metric(data, block)) for metric, block in metrics.items()}
    except (InputError, np.linalg.LinAlgError) as error:  # the latter: NIQE of a flat image
        raise InputError(f'{name}: cannot be measured. {error}') from error


def suits_niqe(image):
    """Whether an image is large enough."""
    return (image.shape[0] // NIQE_BLOCK) * (image.shape[1] // NIQE_BLOCK) >= 2
