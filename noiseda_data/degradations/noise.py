"""Noise. Standard deviations are given on the 0-255 scale, as the field does."""
import cv2
import numpy as np

from noiseda_data.degradations.draws import Range, gaussian, number
from noiseda_data.degradations.jpeg import compress


class AWGN:
    """Additive white Gaussian noise, not clipped: x^s = y^s + N(0, s^2).

    The paper's denoising source draws s uniformly from [0, 75]/255 for every image (Sec. 4.1).

    Args:
        sigma (float | list[float]): Standard deviation, or [low, high], on the 0-255 scale.
        per_channel (bool): Draw sigma for red, green and blue by themselves.
    """

    def __init__(self, sigma, per_channel=False):
        self.sigma, self.channels = Range('sigma', sigma), 3 if per_channel else 1

    def __call__(self, image, rng):
        sigma = self.sigma(rng, self.channels).astype(np.float32) / 255
        return image + sigma * gaussian(rng, image.shape)


class PoissonGaussian:
    """Photon and read-out noise of a sensor, not clipped: x^s = a Poisson(y^s / a) + N(0, s^2).

    Mean y, variance a y + s^2. Source: Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for
    single-image raw-data", IEEE TIP 2008.

    Args:
        gain (float | list[float]): a, above 0: the variance per unit of signal (white is 1).
        sigma (float | list[float]): s, on the 0-255 scale.
    """

    def __init__(self, gain, sigma=0):
        self.gain, self.sigma = Range('gain', gain, 1e-6), Range('sigma', sigma)

    def __call__(self, image, rng):
        gain, sigma = self.gain(rng), self.sigma(rng) / 255
        photons = rng.poisson(np.clip(image, 0, None) / gain)
        return (gain * photons).astype(np.float32) + np.float32(sigma) * gaussian(rng, image.shape)


class CorrelatedNoise:
    """Zero-mean, signal-dependent, spatially correlated noise, then JPEG: a stand-in for a small camera's output.

    White noise is blurred with a Gaussian (demosaicing and in-camera filtering correlate neighbours), scaled back to
    unit variance, and multiplied by sigma(y) = sigma * 2 sqrt(y (1 - y)). That vanishes at black and white, so clipping
    does not shift the mean and PSNR measures noise, not a colour cast. The model is this project's own.

    Args:
        sigma (float): Standard deviation in the mid-tones, on the 0-255 scale; JPEG then takes some of it away.
        blur (float): Standard deviation of the correlating Gaussian, in pixels.
        quality (int): JPEG quality, 1-100.
    """

    def __init__(self, sigma, blur=0.8, quality=90):
        self.sigma, self.blur = number('sigma', sigma) / 255, number('blur', blur, 0.1)
        self.quality = number('quality', quality, 1, 100, whole=True)

    def __call__(self, image, rng):
        return compress(self.add_noise(image, rng), self.quality)

    def add_noise(self, image, rng):
        noise = cv2.GaussianBlur(rng.normal(size=image.shape), (0, 0), self.blur)
        noise /= noise.std()
        return image + self.sigma * 2 * np.sqrt(np.clip(image * (1 - image), 0, None)) * noise
