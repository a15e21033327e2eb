"""Blur: light averaged over space or over an exposure.

Light adds up linearly, pixel values do not: images are taken to linear light (value ** gamma), averaged there, and
brought back, as Nah et al. made the GoPro set ("Deep multi-scale convolutional neural network for dynamic scene
deblurring", CVPR 2017; gamma 2.2). ``gamma: 1`` averages the values themselves. Beyond the border lies the mirrored
image.
"""
import cv2
import numpy as np

from noiseda_data.degradations.draws import Range, number


class GaussianBlur:
    """Isotropic Gaussian point spread, the usual model of optics out of their best.

    Args:
        sigma (float | list[float]): Standard deviation in pixels.
        gamma (float): Exponent to linear light.
    """

    def __init__(self, sigma, gamma=2.2):
        self.sigma, self.gamma = Range('sigma', sigma), number('gamma', gamma, 1)

    def __call__(self, image, rng):
        return average_light(image, gaussian_kernel(self.sigma(rng)), self.gamma)


class DefocusBlur:
    """A lens out of focus: every point becomes a uniform disk (geometric optics' pillbox).

    Args:
        radius (float | list[float]): Of the disk, in pixels.
        gamma (float): Exponent to linear light.
    """

    def __init__(self, radius, gamma=2.2):
        self.radius, self.gamma = Range('radius', radius), number('gamma', gamma, 1)

    def __call__(self, image, rng):
        return average_light(image, disk_kernel(self.radius(rng)), self.gamma)


class MotionBlur:
    """Straight, uniform motion of the whole image during the exposure.

    With ``frames``, what a GoPro-like synthesis gives: the average of that many sharp frames, evenly spaced along the
    path from end to end. Without, the shutter is open all the time.

    Args:
        length (float | list[float]): Of the path, in pixels.
        angle (float | list[float]): Its direction in degrees, from the horizontal, counterclockwise.
        frames (int): 2 or more; Nah et al. took 7 to 13. Default: continuous.
        gamma (float): Exponent to linear light.
    """

    def __init__(self, length, angle=(0, 180), frames=None, gamma=2.2):
        self.length, self.angle = Range('length', length), Range('angle', angle, -360, 360)
        self.frames = None if frames is None else number('frames', frames, 2, whole=True)
        self.gamma = number('gamma', gamma, 1)

    def __call__(self, image, rng):
        return average_light(image, line_kernel(self.length(rng), self.angle(rng), self.frames), self.gamma)


def average_light(image, kernel, gamma):
    """Filter ``image`` with ``kernel`` in linear light; values below 0 count as 0 unless gamma is 1."""
    if gamma == 1:
        return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT)
    light = cv2.filter2D(np.clip(image, 0, None)**np.float32(gamma), -1, kernel, borderType=cv2.BORDER_REFLECT)
    return np.clip(light, 0, None)**np.float32(1 / gamma)


def gaussian_kernel(sigma):
    """Square kernel of sum 1 out to 4 sigma; 0 is no blur."""
    radius = int(np.ceil(4 * sigma))
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-3))**2)
    return np.outer(line, line) / line.sum()**2


def disk_kernel(radius, samples=8):
    """Square kernel of sum 1, each pixel weighted by the part of it that lies in the disk; 0 is no blur."""
    reach = int(np.ceil(radius + 0.5))
    inside = (np.arange(samples) + 0.5) / samples - 0.5
    places = (np.arange(-reach, reach + 1)[:, None] + inside).ravel()
    disk = np.hypot(places[:, None], places) <= max(radius, 0.5)
    kernel = disk.reshape(2 * reach + 1, samples, 2 * reach + 1, samples).mean(axis=(1, 3))
    return kernel / kernel.sum()


def line_kernel(length, angle, frames=None):
    """Square kernel of sum 1: points along a centred line, each shared among its four neighbours (bilinearly).

    Args:
        length (float): In pixels, from end to end.
        angle (float): Degrees from the horizontal, counterclockwise.
        frames (int): Points, evenly spaced from end to end. Default: so many that the line has no gaps.
    """
    count = frames or 4 * int(np.ceil(length)) + 1
    reach = int(np.ceil(length / 2)) + 1
    along = np.linspace(-length / 2, length / 2, count) if frames else length * ((np.arange(count) + 0.5) / count - 0.5)
    x, y = reach + along * np.cos(np.deg2rad(angle)), reach - along * np.sin(np.deg2rad(angle))
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        np.add.at(kernel, (row + dy, column + dx), (1 - abs(y - row - dy)) * (1 - abs(x - column - dx)))
    return kernel / count
