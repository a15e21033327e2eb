"""Noise measured in photos without ground truth, and made again on clean images."""
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from noiseda_basicsr import InputError
from noiseda_data.degradations.draws import Range, gaussian
from noiseda_data.store import centre, open_images, to_float

PHOTOS, CROP = 100, 1024  # so many photos are looked at, and their middle
PATCH, STEP = 16, 8  # pixels
KNOTS = 6  # of the level function
SMOOTH = 0.1  # share of the patches of like brightness that count as free of texture
CLIPPED = 0.02  # share of clipped values a patch may have
LEAST = 3  # patches a mean is taken of
TRUSTED = 0.5  # share of the photos whose profiles are used
REACH = 7  # pixels over which noise correlates


class NoiseProfile(NamedTuple):
    """Second-order statistics of a photo's noise."""
    signal: np.ndarray  # (3, KNOTS): rising values of red, green, blue in [0, 1]
    sigma: np.ndarray  # (3, KNOTS): standard deviation of the noise there
    kernel: np.ndarray  # (3, 3, k, k): makes white noise as correlated, over space and channels, and of unit variance
    trust: float  # 1: patches of like brightness vary alike, as pure noise does; near 0: texture everywhere


class NoiseOfPhotos:
    """Noise like that of given photos, which need no ground truth: clean + sigma(clean) * (kernel * white), clipped.

    Of each photo the smoothest patches are looked at, brightness by brightness, as in them variation is noise: its
    standard deviation as a function of the signal (Liu et al., "Automatic estimation and removal of noise from a
    single image", TPAMI 2008) and its correlation over space and channels (after Colom et al., "A non-parametric
    approach for the estimation of intensity-frequency dependent noise", ICIP 2014). Photos full of texture, which
    would pass for noise, are left out: the half of all that has the clearest smooth patches counts. Each image gets the
    noise of one of these, drawn at random. At most 100 photos are looked at, and 1024x1024 pixels of each.

    Args:
        photos (str): Folder or LMDB, or several joined by ``;``.
        strength (float | list[float]): Factor on the standard deviation, which is measured low, by 4 % for
            white noise and 15 % for noise that correlates over three pixels.
    """

    def __init__(self, photos, strength=1):
        store = open_images(photos, 'photos')
        self.strength = Range('strength', strength)
        keys = store.keys[::math.ceil(len(store.keys) / PHOTOS)]
        measured = filter(None, (measure_noise(to_float(centre(store.read(key), CROP))) for key in keys))
        measured = sorted(measured, key=lambda profile: -profile.trust)
        if not measured:
            raise InputError(f'photos {photos}: all are too small or too much clipped to measure noise; give others, '
                             f'with at least {KNOTS * LEAST} patches of {PATCH}x{PATCH} between black and white.')
        self.profiles = measured[:math.ceil(TRUSTED * len(measured))]

    def __call__(self, image, rng):
        profile = self.profiles[rng.integers(len(self.profiles))]
        noise = synthesise(profile, image, rng)
        return (image + np.float32(self.strength(rng)) * noise).clip(0, 1)


def measure_noise(image):
    """The :class:`NoiseProfile` of a photo, float32 (H, W, 3) in [0, 1]; None where it has too few usable patches."""
    patches = usable_patches(image)
    if len(patches) < KNOTS * LEAST:
        return None
    means, deviations = patches.mean(axis=(2, 3)), without_plane(patches)
    variances = deviations.var(axis=(2, 3)) * (PATCH**2 / (PATCH**2 - 3))
    total = variances.sum(axis=1)
    levels = [level_function(means[:, channel], variances[:, channel], total) for channel in range(3)]
    signal, sigma = (np.stack(parts) for parts in zip(*levels, strict=True))
    groups = bins(means.mean(axis=1))
    smooth = np.concatenate([least(group, total) for group in groups])
    trust = np.mean([spread(np.sort(total[group])) for group in groups])
    scale = np.stack([np.interp(means[smooth, channel], signal[channel], sigma[channel]) for channel in range(3)], 1)
    kernel = correlating_kernel(deviations[smooth] / scale[:, :, None, None].clip(1e-4))
    return NoiseProfile(signal, sigma, calibrated(kernel), trust)


def usable_patches(image):
    """All patches (N, 3, PATCH, PATCH) on a grid of STEP with hardly a clipped pixel."""
    if min(image.shape[:2]) < PATCH:
        return np.empty((0, 3, PATCH, PATCH), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(image, (PATCH, PATCH), axis=(0, 1))[::STEP, ::STEP]
    patches = windows.reshape(-1, 3, PATCH, PATCH)
    return patches[((patches <= 0) | (patches >= 1)).mean(axis=(1, 2, 3)) <= CLIPPED]


def without_plane(patches):
    """Patches less their least-squares plane: shading is not noise."""
    line = np.arange(PATCH) - (PATCH - 1) / 2
    plane = np.stack([np.ones((PATCH, PATCH)), *np.meshgrid(line, line)]).reshape(3, -1)
    plane = (plane / np.linalg.norm(plane, axis=1, keepdims=True)).astype(np.float32)
    flat = patches.reshape(*patches.shape[:2], -1)
    return (flat - flat @ plane.T @ plane).reshape(patches.shape)


def bins(values):
    """Indices of KNOTS groups of equal size, by value."""
    return np.array_split(np.argsort(values), KNOTS)


def least(indices, order):
    """The SMOOTH share of ``indices`` that comes first by ``order``."""
    return indices[np.argsort(order[indices])[:max(LEAST, round(SMOOTH * len(indices)))]]


def spread(rising):
    """How much less the smoothest half of the smoothest patches varies than the next ones."""
    count = max(2, round(SMOOTH * len(rising)))
    return rising[:count // 2].mean() / max(rising[count:2 * count].mean(), 1e-12)


def level_function(means, variances, order):
    """(signal, sigma), each (KNOTS,): the noise of the smoothest patches of each brightness."""
    chosen = [least(group, order) for group in bins(means)]
    signal = np.array([means[group].mean() for group in chosen])
    sigma = np.array([np.sqrt(variances[group].mean()) for group in chosen])
    rising = np.argsort(signal)
    return signal[rising], sigma[rising]


def correlating_kernel(patches):
    """The symmetric square root of the noise's spectrum as a convolution kernel (3, 3, 2 REACH + 1, 2 REACH + 1).

    Args:
        patches (ndarray): Noise of unit variance, (N, 3, PATCH, PATCH).
    """
    size = 2 * PATCH
    spectrum = np.fft.rfft2(patches, s=(size, size))
    power = np.einsum('nahw,nbhw->abhw', spectrum, spectrum.conj()) / len(patches)
    overlap = np.fft.irfft2(abs(np.fft.rfft2(np.ones((PATCH, PATCH)), s=(size, size)))**2, s=(size, size))
    lag = abs(np.fft.fftfreq(size, 1 / size))
    taper = np.clip((REACH + 1 - lag) / (REACH / 2 + 1), 0, 1)
    covariance = np.fft.irfft2(power, s=(size, size)) / overlap.clip(1) * np.outer(taper, taper)
    values, vectors = np.linalg.eigh(np.fft.fft2(covariance).transpose(2, 3, 0, 1))
    root = (vectors * np.sqrt(values.clip(0))[..., None, :]) @ vectors.conj().swapaxes(-1, -2)
    kernel = np.fft.fftshift(np.fft.ifft2(root.transpose(2, 3, 0, 1)).real, axes=(2, 3))
    near = slice(PATCH - REACH, PATCH + REACH + 1)
    return unit(kernel[:, :, near, near])


def calibrated(kernel):
    """What the measurement loses, low frequencies above all, is seen on noise of a known kernel, and given back."""
    deviations = without_plane(usable_patches(0.5 + 0.05 * correlate(kernel, (512, 512), np.random.default_rng(0))))
    smooth = least(np.arange(len(deviations)), deviations.var(axis=(1, 2, 3)))
    had, found = (power_of(part) for part in (kernel, correlating_kernel(deviations[smooth] / 0.05)))
    gain = np.sqrt(had / found.clip(1e-9)).clip(0.5, 2)
    return unit(np.fft.irfft2(np.fft.rfft2(kernel) * gain, s=kernel.shape[2:]))


def power_of(kernel):
    return (abs(np.fft.rfft2(kernel))**2).sum(axis=(0, 1))


def unit(kernel):
    """The kernel that makes noise of unit variance."""
    return (kernel / np.sqrt((kernel**2).sum(axis=(1, 2, 3), keepdims=True)).clip(1e-9)).astype(np.float32)


def correlate(kernel, size, rng):
    """White noise, (height, width) in ``size``, correlated: float32 (H, W, 3)."""
    white = torch.from_numpy(gaussian(rng, (1, 3, size[0] + 2 * REACH, size[1] + 2 * REACH)))
    kernel = torch.from_numpy(kernel).flip(2, 3)  # what torch calls a convolution does not mirror the kernel
    return F.conv2d(white, kernel)[0].permute(1, 2, 0).numpy()


def synthesise(profile, image, rng):
    """Noise of ``profile`` on a clean ``image``, both float32 (H, W, 3)."""
    noise = correlate(profile.kernel, image.shape[:2], rng)
    sigma = [np.interp(image[..., channel], profile.signal[channel], profile.sigma[channel]) for channel in range(3)]
    return noise * np.stack(sigma, axis=-1).astype(np.float32)
