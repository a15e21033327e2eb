"""What photos without ground truth are like, how noisy and how soft, and the options that make clean photos alike."""
import argparse
import math

import cv2
import numpy as np
import yaml

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_data.degradations.photo_noise import NoiseOfPhotos
from noiseda_data.store import centre, open_images, to_float

FINE, COARSE = 1.0, 2.0  # pixels, the two scales at which the gradient of an edge is compared
FINER = 2  # as the top of an edge lies between pixels
STRONG, SHARPEST = 0.03, 0.1  # share of the pixels that may be edges; share of the edges that count as sharp
LEAST = 0.01  # gradient of an edge, a pixel
PHOTOS, CROP = 30, 384  # so many photos of each folder are looked at, and their middle
FACTORS = np.arange(1, 5.01, 0.25)
SOFT = 2  # below, a demosaicing alone may have widened them
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def edge_width(image):
    """Width of a photo's sharpest edges: the standard deviation, in pixels, of the Gaussian that would blur a step so.

    The gradient of a step blurred by b, looked at through a Gaussian of s, is 1 / sqrt(2 pi (b^2 + s^2)) at its top, so
    its ratio at two s gives b (Zhuo and Sim, "Defocus map estimation from a single image", Pattern Recognition 2011).
    Only strong edges count. Noise narrows them: at sigma 5 of 255 by 10 to 40 %, soft and weak ones most. Thin lines
    have no width.

    Args:
        image (ndarray): float32 (H, W, 3) in [0, 1].

    Returns:
        float: NaN where there is no edge.
    """
    grey = cv2.resize(image.mean(axis=2), None, fx=FINER, fy=FINER, interpolation=cv2.INTER_CUBIC)
    fine, coarse = (gradient(grey, scale * FINER) for scale in (FINE, COARSE))
    ridge = (coarse >= dilate(coarse, 4 * FINER)) & (coarse >= max(LEAST / FINER, np.quantile(coarse, 1 - STRONG)))
    if not ridge.any():
        return np.nan
    ratio = (dilate(fine, FINER) / coarse.clip(1e-9))[ridge].clip(1 + 1e-3, COARSE / FINE)
    return np.quantile(np.sqrt((COARSE**2 - (ratio * FINE)**2) / (ratio**2 - 1)), SHARPEST)


def gradient(image, scale):
    blurred = cv2.GaussianBlur(image, (0, 0), scale)
    return np.hypot(cv2.Sobel(blurred, -1, 1, 0, scale=1 / 8), cv2.Sobel(blurred, -1, 0, 1, scale=1 / 8))


def dilate(image, reach):
    return cv2.dilate(image, np.ones((2 * reach + 1, 2 * reach + 1)))


def enlargement(photos, clean, noise):
    """By what factor, 1 to 5, clean photos must be enlarged for their edges to be as wide as those of ``photos``.

    Noise narrows edges, so the clean photos get the photos' own before they are compared.

    Args:
        photos (str): Folder or LMDB, or several joined by ``;``.
        clean (str): The same.
        noise (Callable): (image, rng) -> noisy image, :class:`NoiseOfPhotos` of ``photos``.

    Raises:
        InputError: No photo of the one or the other has an edge.
    """
    width = typical_width(crops(photos, 'PHOTOS', CROP), photos)
    sharp = crops(clean, '--clean', CROP // 2)
    widths = []
    for factor in FACTORS:
        images = (cv2.resize(crop, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) for crop in sharp)
        widths.append(typical_width([noise(image, np.random.default_rng(0)) for image in images], clean))
        if widths[-1] >= width:
            break
    return float(np.interp(width, np.maximum.accumulate(widths), FACTORS[:len(widths)]))


def crops(photos, name, size):
    """The middle of up to PHOTOS photos, float32."""
    store = open_images(photos, name)
    return [to_float(centre(store.read(key), size)) for key in store.keys[::math.ceil(len(store.keys) / PHOTOS)]]


def typical_width(images, where):
    """Median :func:`edge_width`; images without an edge do not count."""
    widths = [edge_width(image) for image in images]
    if np.isnan(widths).all():
        raise InputError(f'{where}: no photo has an edge in its middle to tell how soft they are. Give others.')
    return np.nanmedian(widths)


def describe_noise(noise):
    """Lines on the noise that :class:`NoiseOfPhotos` measured."""
    profiles = noise.profiles
    sigma = [np.mean([np.interp(level, profile.signal[channel], profile.sigma[channel])
                      for profile in profiles for channel in range(3)]) for level in LEVELS]
    beside = np.mean([neighbours(profile.kernel) for profile in profiles])
    return [f'Noise, in the {len(profiles)} photos with the clearest smooth areas:',
            f"  standard deviation {' / '.join(f'{255 * value:.1f}' for value in sigma)} of 255",
            f"  at brightness      {' / '.join(f'{255 * level:.0f}' for level in LEVELS)}",
            f'  correlation of a pixel with the next one {beside:.2f}']


def neighbours(kernel):
    """Correlation of horizontal and vertical neighbours in noise that ``kernel`` makes of white noise."""
    size = 2 * kernel.shape[-1]
    covariance = np.fft.ifft2((abs(np.fft.fft2(kernel, s=(size, size)))**2).sum(axis=1)).real
    return ((covariance[:, 0, 1] + covariance[:, 1, 0]) / (2 * covariance[:, 0, 0])).mean()


def describe_softness(factor):
    """A line on how soft the photos are, and the ``enlarge`` that follows, None where it is not needed."""
    said = f'Edges as wide as those of the clean photos enlarged {factor:.1f} times'
    if factor < SOFT:
        return f'{said}: no need to enlarge, or too much noise to see it.', None
    more = ' or more' if factor == FACTORS[-1] else ''
    return f'{said}{more}.', [round(2 * factor / 3, 1), round(4 * factor / 3, 1)]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description='Measure the noise and the softness of photos without ground truth, and print the options that '
                    'make training images alike.')
    parser.add_argument('photos', help='folder or LMDB of the photos to restore')
    parser.add_argument('--clean', required=True, metavar='CLEAN', help='folder or LMDB of the clean photos')
    args = parser.parse_args(arguments)
    with errors_in_one_line():
        noise = NoiseOfPhotos(args.photos)
        softness, enlarge = describe_softness(enlargement(args.photos, args.clean, noise))
        options = {'degradation': {'type': 'noise_of_photos', 'photos': args.photos, 'strength': [0.7, 2]}}
        options |= {'enlarge': enlarge} if enlarge else {}
        lines = [f'    {key}: {flow(value)}' for key, value in options.items()]
        print('\n'.join([*describe_noise(noise), softness,
                         'In the option file, in place of what datasets: train says:', *lines]))


def flow(value):
    """YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).strip()


if __name__ == '__main__':
    main()
