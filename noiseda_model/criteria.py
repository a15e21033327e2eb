"""Criteria that rank checkpoints without ground truth; noiseda_model/selection.py is the command that uses them.

Every criterion is a number for one photo, lower is better; a checkpoint's is the mean over photos. docs/selection.md
says how each ranks checkpoints whose truth is known. Images are arrays (H, W, 3), RGB, in [0, 255]; R is the residual,
photo - restored.
"""
import itertools
from collections.abc import Callable
from os import path as osp
from typing import NamedTuple

import cv2
import numpy as np
import torch
import yaml
from basicsr.utils.options import ordered_yaml
from tqdm import tqdm

from noiseda_basicsr import InputError
from noiseda_data.degradations import build_degradation
from noiseda_data.store import to_float
from noiseda_model.condition_study import NoisePredictor, centre_crop
from noiseda_model.evaluation import measure
from noiseda_model.protocols import NO_TRUTH
from noiseda_model.restorer import Restorer

DIFFUSION_CROP, DIFFUSION_LEVELS = 64, 4  # what the noise predictor sees of a photo, and how often
PROBE = 2  # SURE's step, in grey levels

# ---------------------------------------------------------------------- of the residual and the restored photo


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


def residual_signal(residual, restored):
    """|correlation| of R with the restored photo, mean over channels: noise knows nothing of the image.

    Brunet, Vrscay & Wang, "The use of residuals in image denoising", ICIAR 2009. 1 where one of them is constant.
    """
    return float(np.mean([abs(_correlation(residual[..., c], restored[..., c])) for c in range(3)]))


def residual_edges(residual, restored, scale=2.0):
    """|correlation| of the local strength of R with that of the restored photo's gradient: edges left in the residual.

    Both are root mean squares under a Gaussian of standard deviation ``scale``. After Kong et al., "A new image quality
    metric for image auto-denoising", ICCV 2013, which compares the structure of the two.
    """
    grey = restored.mean(axis=2).astype(np.float32)
    gradient = cv2.Sobel(grey, cv2.CV_32F, 1, 0)**2 + cv2.Sobel(grey, cv2.CV_32F, 0, 1)**2
    energy = np.square(residual).mean(axis=2).astype(np.float32)
    strength = [np.sqrt(cv2.GaussianBlur(image, (0, 0), scale).clip(0)) for image in (energy, gradient)]
    return abs(_correlation(*strength))


def _correlation(a, b):
    """Pearson's; 1 where it is not defined, as nothing was removed or nothing is left."""
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm else 1.0


def noise_level(image):
    """Standard deviation of white noise in an image, mean over channels.

    Immerkaer, "Fast noise variance estimation", CVIU 1996: from the mean absolute response of a mask that is blind to
    planes. Fine texture counts as noise; noise that is correlated from pixel to pixel is underestimated.
    """
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = cv2.filter2D(image.astype(np.float32), cv2.CV_32F, mask)[1:-1, 1:-1]
    return float(np.sqrt(np.pi / 2) / 6 * np.abs(response).mean())


def niqe(restored):
    """BasicSR's NIQE of Y (Mittal et al., "Making a completely blind image quality analyzer", SPL 2013)."""
    try:
        return measure(restored, None, NO_TRUTH)['NIQE']
    except np.linalg.LinAlgError:  # flat
        return np.inf


# ---------------------------------------------------------------------- of the network


def sure(photo, restored, restorer, sigma, seed=0):
    """Stein's unbiased estimate of the mean squared error, if the noise is white and Gaussian of ``sigma``.

    mean R^2 - sigma^2 + 2 sigma^2 div, the divergence of the network found with one random probe: Stein, Annals of
    Statistics 1981; Ramani, Blu & Unser, "Monte-Carlo SURE", IEEE TIP 2008.

    Args:
        photo, restored (ndarray): uint8.
        restorer (Callable): Of a uint8 image.
        sigma (float): Standard deviation of the noise.
        seed (int): Of the probe.
    """
    signs = np.random.default_rng(seed).choice([-1, 1], photo.shape)
    signs = np.where((photo < PROBE) | (photo > 255 - PROBE), 0, signs)  # what would be clipped is left out
    probed = restorer((photo.astype(int) + PROBE * signs).astype(np.uint8))
    divergence = (signs * (probed - restored.astype(float))).sum() / PROBE / max(1, np.abs(signs).sum())
    return float(_mse(photo, restored) - sigma**2 + 2 * sigma**2 * divergence)


def neighbour_risk(photo, restorer):
    """How well every other pixel, restored, predicts its diagonal neighbour, which the network has not seen.

    Mean squared error. Where the noise of the two is independent, it is the error against the truth plus constants:
    Huang et al., "Neighbor2Neighbor", CVPR 2021. Correlated noise rewards a network that leaves it in.
    """
    height, width = photo.shape[0] // 2 * 2, photo.shape[1] // 2 * 2
    seen, unseen = photo[:height:2, :width:2], photo[1:height:2, 1:width:2]
    return _mse(restorer(np.ascontiguousarray(seen)), unseen)


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
    return _mse(restorer(noisy), clean)


def _mse(a, b):
    return float(np.square(np.asarray(a, np.float64) - b).mean())


# ---------------------------------------------------------------------- of the diffusion network


class Judge:
    """A trained diffusion network, and what it takes to give it the synthetic condition it was trained with.

    Args:
        option_file (str): Of its training.
        weights (str): net_diffusion_*.pth; with two conditions the net_g of the same iteration lies beside it.

    Raises:
        InputError
    """

    def __init__(self, option_file, weights):
        self.predictor = NoisePredictor.load(option_file, weights)
        self.device = next(self.predictor.net.parameters()).device
        if self.has_two:
            with open(option_file) as file:
                train_set = yaml.load(file, Loader=ordered_yaml()[0])['datasets']['train']
            if not train_set.get('degradation'):
                raise InputError(f'{option_file}: datasets:train:degradation is missing; the synthetic condition is '
                                 'made with it.')
            self.degrade = build_degradation(train_set['degradation'])
            partner = osp.join(osp.dirname(weights), osp.basename(weights).replace('net_diffusion', 'net_g'))
            self.restorer = Restorer(partner, option_file)

    @property
    def has_two(self):
        return len(self.predictor.conditions) == 2

    def degraded(self, clean, number):
        """A clean photo with the synthetic degradation of training, 8 bit."""
        image = self.degrade(to_float(clean), np.random.default_rng([0, number]))
        return (image.clip(0, 1) * 255).round().astype(np.uint8)

    def error(self, clean, conditions, number):
        """Noise-prediction error, mean over noise levels spread evenly over t; the noise follows from ``number``."""
        size = min(DIFFUSION_CROP, *clean.shape[:2])
        clean, *conditions = (centre_crop(image, size, '') for image in (clean, *conditions))
        levels = self.predictor.levels(DIFFUSION_LEVELS)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(number))
        batch = [image.expand(len(levels), *image.shape).to(self.device) for image in (clean, noise, *conditions)]
        return self.predictor.error(batch[0], batch[2:], levels.to(self.device), batch[1]).mean().item()


# ---------------------------------------------------------------------- all of them


class Case(NamedTuple):
    """One photo and one checkpoint; what a criterion may look at."""

    number: int  # of the photo, for random draws that all checkpoints share
    photo: np.ndarray
    restored: np.ndarray
    consensus: np.ndarray  # mean of all checkpoints' results
    restorer: Callable
    clean: np.ndarray | None = None  # another photo, clean, of the same size
    one: Judge | None = None  # with one condition
    two: Judge | None = None  # with two

    @property
    def residual(self):
        return self.photo.astype(np.float64) - self.restored


class Criterion(NamedTuple):
    """A number of a :class:`Case`, lower is better; ``needs`` names the fields of the case that may be missing."""

    value: Callable[[Case], float]
    text: str
    needs: tuple = ()


def _with_fixed_synthetic(case):
    fixed = case.two.restorer(case.two.degraded(case.clean, case.number))
    return case.two.error(case.clean, [fixed, case.restored], case.number)


def _as_in_training(case):
    own = case.restorer(case.two.degraded(case.clean, case.number))
    return case.two.error(case.clean, [own, case.restored], case.number)


CRITERIA = {
    'niqe': Criterion(lambda case: niqe(case.restored), 'NIQE of the restored photo'),
    'noise_left': Criterion(lambda case: noise_level(case.restored), 'estimated noise of the restored photo'),
    'whiteness': Criterion(lambda case: residual_whiteness(case.residual), 'autocorrelation of R; 1: white noise'),
    'residual_signal': Criterion(lambda case: residual_signal(case.residual, case.restored),
                                 'correlation of R with the restored photo'),
    'residual_edges': Criterion(lambda case: residual_edges(case.residual, case.restored),
                                'correlation of the strength of R with the gradient'),
    'sure': Criterion(lambda case: sure(case.photo, case.restored, case.restorer, noise_level(case.photo), case.number),
                      "Stein's estimate of the error, for white noise of the estimated strength"),
    'neighbours': Criterion(lambda case: neighbour_risk(case.photo, case.restorer),
                            'error of predicting pixels the network has not seen'),
    'consensus': Criterion(lambda case: _mse(case.restored, case.consensus),
                           'distance to the mean of all results'),
    'transplant': Criterion(lambda case: transplant_risk(case.photo, case.consensus, case.clean, case.restorer),
                            "error on clean photos that carry the photos' noise", ('clean',)),
    'diffusion_one': Criterion(lambda case: case.one.error(case.restored, [case.restored], case.number),
                               'noise-prediction error, y and the one condition the restored photo', ('one',)),
    'diffusion_both': Criterion(lambda case: case.two.error(case.restored, [case.restored] * 2, case.number),
                                'noise-prediction error, y and both conditions the restored photo', ('two',)),
    'diffusion_pair': Criterion(_with_fixed_synthetic, 'noise-prediction error, y clean, conditions: its synthetic '
                                'degradation restored by the net_g beside the diffusion network; the restored photo',
                                ('clean', 'two')),
    'diffusion_joint': Criterion(_as_in_training, 'noise-prediction error, y clean, conditions: its synthetic '
                                 'degradation and the photo, both restored by the checkpoint (Eq. 1)',
                                 ('clean', 'two')),
}


def score(candidates, photos, criteria, clean=None, one=None, two=None):
    """Every criterion of every checkpoint.

    Args:
        candidates (dict): Name -> function that loads the restorer, a function of a uint8 image.
        photos (list[ndarray]): uint8.
        criteria (Iterable[str]): Of :data:`CRITERIA`.
        clean (list[ndarray]): A clean photo for each, of equal size.
        one, two (Judge): Diffusion networks of one and two conditions.

    Returns:
        tuple: {checkpoint: {criterion: float}} and {checkpoint: restored photos}.
    """
    results = {}
    for name, load in tqdm(candidates.items(), unit='checkpoint', desc='restoring'):
        restorer = load()
        results[name] = [restorer(photo) for photo in photos]
    consensus = [np.mean(restored, axis=0, dtype=np.float64) for restored in zip(*results.values(), strict=True)]
    scores = {}
    for name, load in tqdm(candidates.items(), unit='checkpoint', desc='measuring'):
        restorer = load()
        cases = [Case(number, photo, results[name][number], consensus[number], restorer, clean and clean[number], one,
                      two) for number, photo in enumerate(photos)]
        scores[name] = {criterion: float(np.mean([CRITERIA[criterion].value(case) for case in cases]))
                        for criterion in criteria}
    return scores, results
