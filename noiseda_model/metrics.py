"""Metrics for BasicSR's registry: LPIPS, the SSIMs of MATLAB and scikit-image, and metrics after alignment.

PSNR, SSIM and NIQE are BasicSR's own. Images are arrays (H, W, 3), BGR, in [0, 255].
"""
import functools
import os
import warnings
from os import path as osp

import cv2
import lpips
import numpy as np
import torch
from basicsr.utils.registry import METRIC_REGISTRY
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from noiseda_basicsr import InputError
from noiseda_basicsr.checkpoint import load_checkpoint

WEIGHTS_VARIABLE = 'NOISEDA_ALEXNET'


@METRIC_REGISTRY.register()
def calculate_lpips(img, img2, weights=None, better=None):
    """LPIPS 0.1 with AlexNet (Zhang et al., CVPR 2018): 0 for equal images, larger for more different ones.

    Usable in an option file: ``lpips: {type: calculate_lpips, better: lower}``.

    Args:
        img, img2 (ndarray): (H, W, 3), BGR, uint8 in [0, 255].
        weights (str): File with AlexNet's convolution weights in torchvision's key names. Default: the file named by
            the environment variable NOISEDA_ALEXNET, else torchvision's own (cached, or downloaded).
        better (str): Read by BasicSR, which hands the whole block on.

    Returns:
        float

    Raises:
        InputError: The weights are not to be had.
    """
    net = lpips_network(weights)
    device = next(net.parameters()).device
    with torch.no_grad():
        return net(_to_tensor(img, device), _to_tensor(img2, device)).item()


def _to_tensor(image, device):
    rgb = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(rgb).to(device)[None].float() / 127.5 - 1


def lpips_network(weights=None):
    """LPIPS 0.1 with AlexNet.

    Args:
        weights (str): A file of AlexNet's. Default: what the environment names, else a download.

    Raises:
        InputError: The weights are not to be had.
    """
    return _lpips_network(weights or os.environ.get(WEIGHTS_VARIABLE))


@functools.cache
def _lpips_network(weights):
    if weights is not None and not osp.isfile(weights):
        raise InputError(f'{weights}: no such file of AlexNet weights for LPIPS.')
    try:
        with warnings.catch_warnings():  # lpips uses torchvision's old argument names
            warnings.simplefilter('ignore', UserWarning)
            net = lpips.LPIPS(net='alex', pnet_rand=weights is not None, verbose=False)
    except OSError as error:
        raise InputError(f"LPIPS needs AlexNet's weights and they could not be downloaded ({error}). Set "
                         f'{WEIGHTS_VARIABLE} to a file of them, or leave LPIPS out (of val:metrics; noiseda-evaluate: '
                         '--no-lpips).') from error
    if weights is not None:
        _load_alexnet(net.net, load_checkpoint(weights), weights)
    return net.eval().to('cuda' if torch.cuda.is_available() else 'cpu')


def _load_alexnet(features, weights, path):
    """lpips cuts torchvision's ``features`` into slices but keeps each layer's number."""
    for name, parameter in features.named_parameters():
        number, kind = name.split('.')[-2:]
        key = f'features.{number}.{kind}'
        if key not in weights:
            raise InputError(f'{path}: no entry {key}; expected AlexNet weights in torchvision\'s key names.')
        if weights[key].shape != parameter.shape:
            raise InputError(f'{path}: {key} has the shape {tuple(weights[key].shape)}, not {tuple(parameter.shape)}.')
        parameter.data.copy_(weights[key])


@METRIC_REGISTRY.register()
def calculate_ssim_matlab(img, img2, better=None):
    """SSIM as MATLAB's ``ssim(A, ref)`` gives it for a colour image.

    MATLAB takes the H x W x 3 array for a volume: its Gaussian window, 11x11x11 with sigma 1.5, runs over the channels
    too, borders are replicated, and the map is averaged over all of it. The SIDD figures of MPRNet, Noise-DA and
    others are this one, which differs much from the usual mean over channels (``calculate_ssim``).

    Args:
        img, img2 (ndarray): (H, W, 3), in [0, 255]; RGB and BGR give the same.
        better (str): Read by BasicSR, which hands the whole block on.

    Returns:
        float
    """
    blur = functools.partial(gaussian_filter, sigma=1.5, radius=5, mode='nearest')
    x, y = img.astype(np.float64), img2.astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255)**2, (0.03 * 255)**2
    ssim_map = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)
                / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)))
    return float(ssim_map.mean())


@METRIC_REGISTRY.register()
def calculate_ssim_skimage(img, img2, better=None):
    """SSIM with scikit-image's defaults: flat 7x7 window, sample covariance, mean over pixels and channels.

    Noise-DA's published code measures RealBlur-J so.
    """
    return float(structural_similarity(img, img2, channel_axis=2, data_range=255))


@METRIC_REGISTRY.register()
def calculate_psnr_aligned(img, img2, better=None):
    """PSNR after :func:`align`, over the pixels that the aligned image covers."""
    aligned, truth, covered = align(img, img2)
    error = np.sum((aligned - truth)**2, dtype=np.float64) / (covered.sum() * aligned.shape[2])
    return float(10 * np.log10(1 / error)) if error else float('inf')


@METRIC_REGISTRY.register()
def calculate_ssim_aligned(img, img2, better=None):
    """SSIM (Gaussian 11x11 window, sigma 1.5, mean over channels) after :func:`align`, over the covered pixels."""
    aligned, truth, covered = align(img, img2)
    _, ssim_map = structural_similarity(truth, aligned, data_range=1, gaussian_weights=True,
                                        use_sample_covariance=False, channel_axis=2, full=True)
    inside = slice(5, -5)  # where the window fits
    return float(np.mean(ssim_map[inside, inside][covered[inside, inside] > 0]))


@METRIC_REGISTRY.register()
def calculate_lpips_aligned(img, img2, weights=None, better=None):
    """:func:`calculate_lpips` after :func:`align`; uncovered pixels are black in both images."""
    aligned, truth, _ = align(img, img2)
    return calculate_lpips(aligned * 255, truth * 255, weights)


def align(img, img2):
    """Warp a restored image onto its ground truth, as the evaluation of RealBlur does (Rim et al., ECCV 2020).

    One factor fits its intensity; a homography is found by ECC (100 iterations, Gaussian filter of 5 pixels) and
    applied with bicubic interpolation.

    Args:
        img, img2 (ndarray): (H, W, 3), in [0, 255], BGR: restored image and ground truth.

    Returns:
        tuple[ndarray]: Aligned image and ground truth, float32 in about [0, 1], zero where not covered; and (H, W), 1
        where covered.

    Raises:
        InputError: ECC finds no homography.
    """
    restored, truth = ((image.astype(np.float32) / 255).tobytes() for image in (img, img2))
    return _align(restored, truth, img.shape)


def homography(image, target):
    """(3, 3), from pixels of ``target`` to those of ``image``, as ECC finds it.

    Args:
        image, target (ndarray): (H, W, 3), BGR; both uint8 or float32.

    Raises:
        InputError: ECC finds none.
    """
    grey = [cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in (target, image)]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    try:
        return cv2.findTransformECC(*grey, np.eye(3, dtype=np.float32), cv2.MOTION_HOMOGRAPHY, criteria,
                                    inputMask=None, gaussFiltSize=5)[1]
    except cv2.error as error:
        raise InputError('ECC found no homography between two images, a result and its ground truth for example; do '
                         'they show the same scene?') from error


@functools.lru_cache(maxsize=1)
def _align(restored, truth, shape):
    """:func:`align` on bytes, so that the metrics of one image share one alignment."""
    restored, truth = (np.frombuffer(data, np.float32).reshape(shape) for data in (restored, truth))
    restored = restored * np.float32(np.sum(truth * restored) / max(np.sum(restored * restored), 1e-12))
    height, width = shape[:2]
    warp = functools.partial(cv2.warpPerspective, M=homography(restored, truth), dsize=(width, height))
    aligned = warp(restored, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT)
    covered = warp(np.ones(shape[:2], np.float32), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    return aligned * covered[..., None], truth * covered[..., None], covered
