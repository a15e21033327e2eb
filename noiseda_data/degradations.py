"""Synthetic degradations: from a clean image to x^s. Images are float32 arrays (H, W, 3), RGB, in [0, 1].

An option file names one by its ``type``; the other keys are the constructor's arguments::

    degradation: {type: awgn, sigma: [0, 75]}
"""
import cv2
import numpy as np

from noiseda_basicsr import InputError


class AWGN:
    """Additive white Gaussian noise, not clipped: x^s = y^s + N(0, s^2).

    The paper's denoising source draws s uniformly from [0, 75]/255 for every image (Sec. 4.1).

    Args:
        sigma (float | list[float]): Standard deviation, or [low, high] of its uniform distribution, on the 0-255 scale.
    """

    def __init__(self, sigma):
        bounds = [sigma, sigma] if np.isscalar(sigma) else list(sigma)
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1]:
            raise InputError(f'degradation: sigma must be s or [low, high] with 0 <= low <= high, not {sigma}.')
        self.low, self.high = bounds[0] / 255, bounds[1] / 255

    def __call__(self, image, rng):
        sigma = rng.uniform(self.low, self.high)
        return image + rng.normal(0, sigma, image.shape).astype(np.float32)


class CorrelatedNoise:
    """Zero-mean, signal-dependent, spatially correlated noise, then JPEG: a stand-in for a small camera's output.

    White noise is blurred with a Gaussian (demosaicing and in-camera filtering correlate neighbours), scaled back to
    unit variance, and multiplied by sigma(y) = sigma * 2 sqrt(y (1 - y)). That vanishes at black and white, so clipping
    does not shift the mean and PSNR measures noise, not a colour cast.

    Args:
        sigma (float): Standard deviation in the mid-tones, on the 0-255 scale; JPEG then takes some of it away.
        blur (float): Standard deviation of the correlating Gaussian, in pixels.
        quality (int): JPEG quality, 1-100.
    """

    def __init__(self, sigma, blur=0.8, quality=90):
        self.sigma, self.blur, self.quality = sigma / 255, blur, quality

    def __call__(self, image, rng):
        bgr = (self.add_noise(image, rng)[..., ::-1].clip(0, 1) * 255).round().astype(np.uint8)
        _, jpeg = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        return cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255

    def add_noise(self, image, rng):
        noise = cv2.GaussianBlur(rng.normal(size=image.shape), (0, 0), self.blur)
        noise /= noise.std()
        return image + self.sigma * 2 * np.sqrt(np.clip(image * (1 - image), 0, None)) * noise


DEGRADATIONS = {'awgn': AWGN, 'correlated_noise': CorrelatedNoise}


def build_degradation(options):
    """Build the degradation an option block describes.

    Args:
        options (dict): ``type`` and the constructor's arguments.

    Raises:
        InputError: Unknown type or argument; the message names the known ones.
    """
    if not isinstance(options, dict):
        raise InputError(f'degradation: {options!r} must be a block, for example {{type: awgn, sigma: [0, 75]}}.')
    arguments = dict(options)
    name = arguments.pop('type', None)
    if name not in DEGRADATIONS:
        raise InputError(f'degradation: unknown type {name!r}; known: {", ".join(DEGRADATIONS)}.')
    try:
        return DEGRADATIONS[name](**arguments)
    except TypeError as error:
        raise InputError(f'degradation {name}: {error}') from error

EXAMPLES = [{'type': 'awgn', 'sigma': [0, 75]}]
