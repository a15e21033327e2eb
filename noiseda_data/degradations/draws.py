"""What the degradations draw."""
import math
from numbers import Real

import torch

from noiseda_basicsr import InputError


class Range:
    """An argument that is a number, or [low, high] to draw from uniformly.

    Args:
        name (str): The argument's name, for the error.
        value (float | list[float]): What the user gave.
        least (float): Smallest value allowed.
        most (float): Largest value allowed.

    Raises:
        InputError: Not of that form, or out of bounds.
    """

    def __init__(self, name, value, least=0, most=math.inf):
        bounds = list(value) if isinstance(value, (list, tuple)) else [value, value]
        is_range = len(bounds) == 2 and all(isinstance(bound, Real) for bound in bounds)
        if not (is_range and least <= bounds[0] <= bounds[1] <= most and math.isfinite(bounds[1])):
            raise InputError(f'{name} must be a number or [low, high] with {least} <= low <= high'
                             f'{"" if most == math.inf else f" <= {most}"}, not {value!r}.')
        self.low, self.high = bounds

    def __call__(self, rng, size=None):
        return rng.uniform(self.low, self.high, size)


def number(name, value, least=0, most=math.inf, whole=False):
    """An argument that is one number; arguments and error as for :class:`Range`."""
    is_number = isinstance(value, Real) and least <= value <= most and math.isfinite(value)
    if not is_number or (whole and value % 1):
        raise InputError(f'{name} must be one {"whole " if whole else ""}number, at least {least}'
                         f'{"" if most == math.inf else f" and at most {most}"}, not {value!r}.')
    return int(value) if whole else value


def gaussian(rng, shape):
    """Standard normal float32 values, by torch, which takes a third of numpy's time."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    return torch.randn(shape, generator=generator).numpy()
