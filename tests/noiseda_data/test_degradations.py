"""The demo's camera noise: what its docstring promises."""
import cv2
import numpy as np
import pytest

from noiseda_data.degradations import CorrelatedNoise, build_degradation

SIGMA = 30


def noise(level, blur=1.0, size=256):
    image = np.full((size, size, 3), level, np.float32)
    return CorrelatedNoise(SIGMA, blur).add_noise(image, np.random.default_rng(0)) - image


@pytest.mark.parametrize('level', [0.0, 0.2, 0.5, 0.8, 1.0])
def test_zero_mean_and_signal_dependent(level):
    """sigma(y) = sigma 2 sqrt(y (1 - y)): no colour shift, nothing at black and white."""
    values = noise(level)
    expected = SIGMA / 255 * 2 * np.sqrt(level * (1 - level))
    assert abs(values.mean()) < 0.003
    assert values.std() == pytest.approx(expected, rel=0.01, abs=1e-6)
    after_jpeg = CorrelatedNoise(SIGMA)(np.full((256, 256, 3), level, np.float32), np.random.default_rng(0))
    assert abs(after_jpeg.mean() - level) < 0.004


@pytest.mark.parametrize('blur', [0.7, 1.0, 1.5])
def test_spatially_correlated(blur):
    """White noise under a Gaussian of standard deviation s has correlation exp(-1 / (4 s^2)) one pixel away."""
    values = noise(0.5, blur)[..., 1]
    neighbours = np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]
    assert neighbours == pytest.approx(np.exp(-1 / (4 * blur**2)), abs=0.02)


def test_jpeg_adds_its_own_error():
    image = cv2.GaussianBlur(np.random.default_rng(0).random((64, 64, 3), np.float32), (0, 0), 2)
    errors = []
    for quality in (20, 95):
        degrade = build_degradation({'type': 'correlated_noise', 'sigma': 0, 'quality': quality})
        errors.append(np.abs(degrade(image, np.random.default_rng(0)) - image).mean())
    assert errors[0] > 1.5 * errors[1] > 0
