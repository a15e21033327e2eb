"""LPIPS as a BasicSR metric; PSNR, SSIM and NIQE are BasicSR's own."""
import functools
import os
import warnings
from os import path as osp

import lpips
import numpy as np
import torch
from basicsr.utils.registry import METRIC_REGISTRY

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
    net = _lpips_network(weights or os.environ.get(WEIGHTS_VARIABLE))
    device = next(net.parameters()).device
    with torch.no_grad():
        return net(_to_tensor(img, device), _to_tensor(img2, device)).item()


def _to_tensor(image, device):
    rgb = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(rgb).to(device)[None].float() / 127.5 - 1


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
                         f'{WEIGHTS_VARIABLE} to a file of them, or leave LPIPS out.') from error
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
