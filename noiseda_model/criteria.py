"""Criteria that rank checkpoints without ground truth; noiseda_model/selection.py is the command that uses them.

Every criterion is a number for one photo, lower is better; a checkpoint's is the mean over photos. docs/selection.md
says how each ranks checkpoints whose truth is known, and which others were tried. Images are arrays (H, W, 3), RGB, in
[0, 255]; R is the residual, photo - restored.
"""
import itertools
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from tqdm import tqdm

from noiseda_basicsr import InputError
from noiseda_model.condition_study import NoisePredictor, centre_crop
from noiseda_model.evaluation import NO_TRUTH, measure

DIFFUSION_CROP, DIFFUSION_LEVELS = 64, 4  # what the noise predictor sees of a photo, and how often


def transplant_risk(photo, consensus, clean, restorer):
    """Mean squared error on a clean photo that carries this photo's noise.

    The noise is what the mean of all checkpoints' results (``consensus``) takes away. Noise of real photos on clean
    ones, for training: Chen et al., "Image blind denoising with GAN based noise modeling", CVPR 2018. One image with
    the residual of another is also the paper's own Eq. 2.

    Args:
        photo, clean (ndarray): uint8, of equal size.
        consensus (ndarray): Float, like ``photo``.
        restorer (Callable): Of a uint8 image.
    """
    noisy = (clean + (photo - consensus)).clip(0, 255).round().astype(np.uint8)
    return float(np.square(restorer(noisy).astype(np.float64) - clean).mean())


def niqe(restored):
    """BasicSR's NIQE of Y (Mittal et al., "Making a completely blind image quality analyzer", SPL 2013)."""
    try:
        return measure(restored, None, NO_TRUTH)['NIQE']
    except InputError:  # flat
        return np.inf


def residual_whiteness(residual, lags=4):
    """n rho^2, rho the autocorrelation of R and n the pixels it was taken from, mean over lags and channels.

    White noise has the expectation 1, whatever its strength: the squared correlations of independent values are 1/n.
    Almeida & Figueiredo, "Parameter estimation for blind and non-blind deblurring using residual whiteness measures",
    IEEE TIP 2013; Lanza, Pragliola & Sgallari, "Residual whiteness principle for parameter-free image restoration",
    ETNA 2020.

    Args:
        residual (ndarray): (H, W, 3).
        lags (int): Shifts of up to so many pixels in x and y count.

    Returns:
        float: The largest value there is, the pixels of the image, where R is constant.
    """
    centred = residual - residual.mean(axis=(0, 1))
    variance = np.square(centred).mean(axis=(0, 1))
    if not variance.all():
        return float(residual.shape[0] * residual.shape[1])
    height, width = residual.shape[:2]
    values = []
    for dy, dx in itertools.product(range(lags + 1), range(-lags, lags + 1)):
        if (dy, dx) > (0, 0):  # the other half is the same
            left, right = max(0, -dx), min(width, width - dx)
            first = centred[:height - dy, left:right]
            second = centred[dy:, left + dx:right + dx]
            rho = (first * second).mean(axis=(0, 1)) / variance
            values.append(first.shape[0] * first.shape[1] * np.square(rho).mean())
    return float(np.mean(values))


def residual_edges(residual, restored, scale=2.0):
    """|correlation| of the local strength of R with that of the restored photo's gradient: edges left in the residual.

    Both are root mean squares under a Gaussian of standard deviation ``scale``; 1 where one of them is constant, as
    nothing was removed or nothing is left. After Kong et al., "A new image quality metric for image auto-denoising",
    ICCV 2013, which compares the structure of the two.
    """
    grey = restored.mean(axis=2).astype(np.float32)
    gradient = cv2.Sobel(grey, cv2.CV_32F, 1, 0)**2 + cv2.Sobel(grey, cv2.CV_32F, 0, 1)**2
    energy = np.square(residual).mean(axis=2).astype(np.float32)
    strength = [np.sqrt(cv2.GaussianBlur(image, (0, 0), scale).clip(0)) for image in (energy, gradient)]
    strength, gradient = (image - image.mean(dtype=np.float64) for image in strength)
    norm = np.sqrt((strength**2).sum() * (gradient**2).sum())
    return float(abs((strength * gradient).sum()) / norm) if norm else 1.0


def noise_error(restored, predictor, seed=0):
    """Noise-prediction error of a diffusion network, y and every condition the restored photo.

    Mean over noise levels spread evenly over t, of the middle of the photo.

    Args:
        restored (ndarray): uint8.
        predictor (NoisePredictor): With one condition or two.
        seed (int): Of the noise.
    """
    image = centre_crop(restored, min(DIFFUSION_CROP, *restored.shape[:2]), '')
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    levels = predictor.levels(DIFFUSION_LEVELS)
    image, noise = (values.expand(len(levels), *values.shape) for values in (image, noise))
    return predictor.error(image, [image] * len(predictor.conditions), levels, noise).mean().item()


class Case(NamedTuple):
    """One photo and one checkpoint; what a criterion may look at."""

    number: int  # of the photo, for random draws that all checkpoints share
    photo: np.ndarray
    restored: np.ndarray
    consensus: np.ndarray  # mean of all checkpoints' results
    restorer: Callable
    clean: np.ndarray | None = None  # another photo, clean, of the same size
    diffusion: NoisePredictor | None = None

    @property
    def residual(self):
        return self.photo.astype(np.float64) - self.restored


class Criterion(NamedTuple):
    """A number of a :class:`Case`, lower is better; ``needs`` names a field of the case that may be missing."""

    value: Callable[[Case], float]
    text: str
    needs: str | None = None


CRITERIA = {
    'transplant': Criterion(lambda case: transplant_risk(case.photo, case.consensus, case.clean, case.restorer),
                            "error on clean photos that carry the photos' noise", 'clean'),
    'niqe': Criterion(lambda case: niqe(case.restored), 'NIQE of the restored photo'),
    'whiteness': Criterion(lambda case: residual_whiteness(case.residual),
                           'autocorrelation of the residual; 1: white noise'),
    'residual_edges': Criterion(lambda case: residual_edges(case.residual, case.restored),
                                "correlation of the residual's strength with the gradient"),
    'noise_error': Criterion(lambda case: noise_error(case.restored, case.diffusion, case.number),
                             'noise-prediction error with the restored photo as y and condition', 'diffusion'),
}


def score(candidates, photos, criteria, clean=None, diffusion=None):
    """Every criterion of every checkpoint.

    Args:
        candidates (dict): Name -> function that loads the restorer, a function of a uint8 image.
        photos (list[ndarray]): uint8.
        criteria (Iterable[str]): Of :data:`CRITERIA`.
        clean (list[ndarray]): A clean photo for each, of equal size.
        diffusion (NoisePredictor)

    Returns:
        tuple: {checkpoint: {criterion: float}} and {checkpoint: restored photos}. A damaged one, which gives NaN, has
        infinity for every criterion and no restored photos.
    """
    results, scores = {}, {name: dict.fromkeys(criteria, np.inf) for name in candidates}
    for name, load in tqdm(candidates.items(), unit='checkpoint', desc='restoring'):
        restorer = load()
        try:
            results[name] = [restorer(photo) for photo in photos]
        except InputError as error:
            tqdm.write(f'{name} ranks last. {error}')
    consensus = [np.mean(restored, axis=0, dtype=np.float64) for restored in zip(*results.values(), strict=True)]
    for name in tqdm(results, unit='checkpoint', desc='measuring'):
        restorer = candidates[name]()
        cases = [Case(number, photo, results[name][number], consensus[number], restorer, clean and clean[number],
                      diffusion) for number, photo in enumerate(photos)]
        scores[name] = {criterion: float(np.mean([CRITERIA[criterion].value(case) for case in cases]))
                        for criterion in criteria}
    return scores, results
