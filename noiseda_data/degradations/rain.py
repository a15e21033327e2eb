"""Rain."""
import cv2
import numpy as np

from noiseda_data.degradations.blur import gaussian_kernel, line_kernel
from noiseda_data.degradations.draws import Range


class RainStreaks:
    """Bright parallel streaks added to the image, clipped to [0, 1]: x^s = min(y^s + S, 1).

    The additive model of Li et al., "Rain streak removal using layer priors", CVPR 2016, Eq. 1, and Yang et al., "Deep
    joint rain detection and removal from a single image", CVPR 2017, Eq. 1. S is a shot process: streaks start at
    Poisson-distributed places; each is a line of the given length, spread over ``width``. So, by Campbell's theorem, S
    has mean ``density * sum(k)`` and variance ``density * sum(k ** 2)``, k being one streak. Streaks are grey.

    Args:
        density (float | list[float]): Streaks a pixel.
        length (float | list[float]): Of a streak, in pixels.
        angle (float | list[float]): Tilt from the vertical in degrees, clockwise; one for an image.
        width (float | list[float]): Standard deviation across, in pixels.
        strength (float | list[float]): What a thin streak adds; a wider one spreads this.
    """

    def __init__(self, density=(0.0005, 0.003), length=(15, 45), angle=(-25, 25), width=(0.4, 0.8),
                 strength=(0.5, 1.0)):
        self.density, self.length = Range('density', density, 0, 1), Range('length', length, 1)
        self.angle, self.width = Range('angle', angle, -90, 90), Range('width', width)
        self.strength = Range('strength', strength)

    def __call__(self, image, rng):
        kernel = streak_kernel(self.length(rng), self.angle(rng), self.width(rng), self.strength(rng))
        layer = streaks(image.shape[:2], self.density(rng), kernel, rng)
        return np.clip(image + layer[..., None], 0, 1)


def streak_kernel(length, angle, width, strength):
    """One streak; its sum is ``strength * length`` whatever the width."""
    line = np.pad(line_kernel(length, 90 - angle), int(np.ceil(4 * width)))
    return strength * length * cv2.filter2D(line, -1, gaussian_kernel(width), borderType=cv2.BORDER_CONSTANT)


def streaks(shape, density, kernel, rng):
    """float32 (H, W): ``kernel`` at Poisson-distributed places, those beyond the border included."""
    reach = len(kernel) // 2
    height, width = shape[0] + 2 * reach, shape[1] + 2 * reach
    places = rng.integers(height * width, size=rng.poisson(density * height * width))
    starts = np.bincount(places, minlength=height * width).reshape(height, width).astype(np.float32)
    return cv2.filter2D(starts, -1, kernel[::-1, ::-1])[reach:reach + shape[0], reach:reach + shape[1]]
