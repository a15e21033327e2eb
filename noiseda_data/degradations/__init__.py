"""Synthetic degradations: from a clean image to x^s.

An option file names one by its ``type``, the other keys being the constructor's arguments, or gives a list of them,
applied in order::

    degradation: {type: awgn, sigma: [0, 75]}

    degradation:
      - {type: motion_blur, length: [0, 20], angle: [0, 180]}
      - {type: one_of, choices: [{type: awgn, sigma: 10}, {type: poisson_gaussian, gain: 0.01, sigma: 2}]}
      - {type: jpeg, quality: [60, 95]}

Each is a function of an image, float32 (H, W, 3), RGB, in [0, 1], and a numpy Generator, the source of all its
randomness; it returns a new image of that kind, which may leave [0, 1] where its docstring says so. Where an argument
may be [low, high], it is drawn from there uniformly for every image.
"""
import inspect
from numbers import Real

import numpy as np

from noiseda_basicsr import InputError
from noiseda_data.degradations.blur import DefocusBlur, GaussianBlur, MotionBlur
from noiseda_data.degradations.camera import Camera
from noiseda_data.degradations.jpeg import JPEG
from noiseda_data.degradations.noise import AWGN, CorrelatedNoise, PoissonGaussian
from noiseda_data.degradations.photo_noise import NoiseOfPhotos
from noiseda_data.degradations.rain import RainStreaks


class Chain:
    """Several degradations, one after the other; none leaves the image as it is.

    Args:
        blocks (list[dict]): What :func:`build_degradation` takes.
    """

    def __init__(self, blocks):
        self.parts = [build_degradation(block) for block in blocks]

    def __call__(self, image, rng):
        for degrade in self.parts:
            image = degrade(image, rng)
        return image


class OneOf:
    """One of several degradations, drawn for every image.

    Args:
        choices (list[dict | list[dict]]): Blocks, or lists of blocks; an empty list leaves the image as it is.
        weights (list[float]): How often each is drawn, in proportion. Default: all alike.
    """

    def __init__(self, choices, weights=None):
        if not isinstance(choices, (list, tuple)) or not choices:
            raise InputError(f'choices must be a list of blocks, not {choices!r}.')
        weights = [1] * len(choices) if weights is None else weights
        are_numbers = isinstance(weights, (list, tuple)) and all(isinstance(weight, Real) for weight in weights)
        if not are_numbers or len(weights) != len(choices) or min(weights) < 0 or not sum(weights):
            raise InputError(f'weights must be one number >= 0 for each of the {len(choices)} choices, not {weights}.')
        self.choices = [build_degradation(choice) for choice in choices]
        self.probabilities = np.array(weights) / sum(weights)

    def __call__(self, image, rng):
        return self.choices[rng.choice(len(self.choices), p=self.probabilities)](image, rng)


DEGRADATIONS = {
    'awgn': AWGN,
    'camera': Camera,
    'correlated_noise': CorrelatedNoise,
    'defocus_blur': DefocusBlur,
    'gaussian_blur': GaussianBlur,
    'jpeg': JPEG,
    'motion_blur': MotionBlur,
    'noise_of_photos': NoiseOfPhotos,
    'one_of': OneOf,
    'poisson_gaussian': PoissonGaussian,
    'rain_streaks': RainStreaks,
}


def build_degradation(options):
    """Build the degradation that an option block, or a list of them, describes.

    Args:
        options (dict | list[dict]): ``type`` and the constructor's arguments.

    Returns:
        Callable: (image, rng) -> degraded image.

    Raises:
        InputError: Unknown type, unknown, missing or impossible argument; the message names what is allowed.
    """
    if isinstance(options, (list, tuple)):
        return Chain(options)
    if not isinstance(options, dict):
        raise InputError(f'degradation: {options!r} must be a block, for example {{type: awgn, sigma: [0, 75]}}, or a '
                         'list of blocks.')
    arguments = dict(options)
    name = arguments.pop('type', None)
    if name not in DEGRADATIONS:
        raise InputError(f'degradation: unknown type {name!r}; known: {", ".join(DEGRADATIONS)}.')
    parameters = inspect.signature(DEGRADATIONS[name]).parameters
    unknown = sorted(set(arguments) - set(parameters))
    missing = [key for key, parameter in parameters.items()
               if parameter.default is parameter.empty and key not in arguments]
    if unknown or missing:
        fault = f'unknown argument {", ".join(unknown)}' if unknown else f'{", ".join(missing)} is missing'
        raise InputError(f'degradation {name}: {fault}; its arguments: {", ".join(parameters)}.')
    try:
        return DEGRADATIONS[name](**arguments)
    except InputError as error:
        raise InputError(f'degradation {name}: {error}') from error
