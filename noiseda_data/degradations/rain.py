"""Rain."""
import cv2
import numpy as np

from noiseda_data.degradations.blur import gaussian_kernel, line_kernel
from noiseda_data.degradations.draws import Range


class RainStreaks:
    """Bright parallel streaks added to the image, clipped to [0, 1]: x^s = min(y^s + S, 1).

    The additive model of Li et al., "Rain streak removal using layer priors", CVPR 2016, and Yang et al., "Deep joint
    rain detection and removal from a single image", CVPR 2017. S is a shot process: streaks lie at Poisson-distributed
    places; each is a line k of the given length, spread over ``width``, times a strength a of its own. By Campbell's
    theorem S has mean ``density * E[a] * sum(k)`` and variance ``density * E[a^2] * sum(k^2)``. Streaks are grey.

    Args:
        density (float | list[float]): Streaks a pixel.
        length (float | list[float]): Of a streak, in pixels.
        angle (float | list[float]): Tilt from the vertical in degrees, clockwise; one for an image.
        width (float | list[float]): Standard deviation across, in pixels.
        strength (float | list[float]): a, for every streak by itself: what a thin one adds; a wider one spreads this.
    """

    def __init__(self, density=(0.0005, 0.003), length=(15, 45), angle=(-25, 25), width=(0.4, 0.8),
                 strength=(0.1, 0.6)):
        self.density, self.length = Range('density', density, 0, 1), Range('length', length, 1)
        self.angle, self.width = Range('angle', angle, -90, 90), Range('width', width)
        self.strength = Range('strength', strength)

    def __call__(self, image, rng):
        kernel = streak_kernel(self.length(rng), self.angle(rng), self.width(rng))
        layer = streaks(image.shape[:2], self.density(rng), kernel, self.strength, rng)
        return np.clip(image + layer[..., None], 0, 1)


def streak_kernel(length, angle, width):
    """One streak of strength 1; its sum is ``length`` whatever the width."""
    line = np.pad(line_kernel(length, 90 - angle), int(np.ceil(4 * width)))
    return length * cv2.filter2D(line, -1, gaussian_kernel(width), borderType=cv2.BORDER_CONSTANT)


def streaks(shape, density, kernel, strength, rng):
    """float32 (H, W): ``kernel`` at Poisson-distributed places, those beyond the border included."""
    reach = len(kernel) // 2
    height, width = shape[0] + 2 * reach, shape[1] + 2 * reach
    count = rng.poisson(density * height * width)
    places = rng.integers(height * width, size=count)
    starts = np.bincount(places, strength(rng, count), height * width).reshape(height, width).astype(np.float32)
    return cv2.filter2D(starts, -1, kernel)[reach:reach + shape[0], reach:reach + shape[1]]
