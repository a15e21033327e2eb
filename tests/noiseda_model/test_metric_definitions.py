"""PSNR, SSIM and NIQE: BasicSR's against scikit-image and by hand, MATLAB's SSIM and aligned metrics against others."""
import math

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_niqe, calculate_psnr, calculate_ssim
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from noiseda_basicsr import InputError
from noiseda_model import metrics
from noiseda_model.metrics import (
    align,
    calculate_lpips,
    calculate_lpips_aligned,
    calculate_psnr_aligned,
    calculate_ssim_aligned,
    calculate_ssim_matlab,
    calculate_ssim_skimage,
)
from tests.noiseda_model.test_metrics import alexnet, weights  # noqa: F401  fixtures


def smooth(shape=(60, 70), seed=0):
    """A smooth random colour image, float in [0, 255], BGR."""
    image = np.random.default_rng(seed).uniform(0, 255, (*shape, 3))
    image = cv2.GaussianBlur(image, (0, 0), 3)
    return (image - image.min()) / (image.max() - image.min()) * 235 + 10


@pytest.fixture(scope='module', params=[3, 25])
def pair(request):
    """A noisy image and its truth: uint8, BGR."""
    truth = smooth()
    noise = np.random.default_rng(1).normal(scale=request.param, size=truth.shape)
    return [image.clip(0, 255).round().astype(np.uint8) for image in (truth + noise, truth)]


def luma(image):
    """Y of YCbCr as MATLAB's rgb2ycbcr, not rounded."""
    blue, green, red = image.astype(np.float64).transpose(2, 0, 1) / 255
    return 16 + 65.481 * red + 128.553 * green + 24.966 * blue


SKIMAGE = {'data_range': 255, 'gaussian_weights': True, 'sigma': 1.5, 'use_sample_covariance': False}


def test_basicsr_agrees_with_scikit_image(pair):
    image, truth = pair
    assert calculate_psnr(image, truth, 0) == pytest.approx(peak_signal_noise_ratio(truth, image), abs=1e-6)
    expected = structural_similarity(truth.astype(float), image.astype(float), channel_axis=2, **SKIMAGE)
    assert calculate_ssim(image, truth, 0) == pytest.approx(expected, abs=1e-6)


def test_basicsr_agrees_with_scikit_image_on_luma(pair):
    image, truth = (luma(image) for image in pair)
    expected = 10 * math.log10(255**2 / np.mean((image - truth)**2))
    # BasicSR computes Y in float32
    assert calculate_psnr(*pair, 0, test_y_channel=True) == pytest.approx(expected, abs=1e-5)
    expected = structural_similarity(truth, image, **SKIMAGE)
    assert calculate_ssim(*pair, 0, test_y_channel=True) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(('low', 'high'), [(100, 110), (0, 255), (7, 7), (0, 1)])
def test_flat_images_by_hand(low, high):
    image, truth = (np.full((32, 32, 3), level, np.uint8) for level in (low, high))
    expected = 20 * math.log10(255 / (high - low)) if high > low else math.inf
    assert calculate_psnr(image, truth, 0) == pytest.approx(expected, abs=1e-9)
    luminance = (2 * low * high + 2.55**2) / (low**2 + high**2 + 2.55**2)  # no contrast: its term is 1
    for ssim in (calculate_ssim(image, truth, 0), calculate_ssim_matlab(image, truth),
                 calculate_ssim_skimage(image, truth)):
        assert ssim == pytest.approx(luminance, abs=1e-6)


def test_one_wrong_pixel_by_hand():
    image, truth = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30, 3), np.uint8)
    image[3, 4, 1] = 50
    assert calculate_psnr(image, truth, 0) == pytest.approx(10 * math.log10(255**2 / (50**2 / 1800)), abs=1e-9)
    expected = 10 * math.log10(255**2 / ((50 / 255 * 128.553)**2 / 600))
    assert calculate_psnr(image, truth, 0, test_y_channel=True) == pytest.approx(expected, abs=1e-4)


def ssim_of_volume(x, y):
    """MATLAB's definition, window by window: an 11x11x11 Gaussian of sigma 1.5 around every voxel, borders repeated."""
    profile = np.exp(-np.arange(-5, 6)**2 / (2 * 1.5**2))
    window = profile[:, None, None] * profile[:, None] * profile
    window /= window.sum()
    x, y = (np.pad(image.astype(float), 5, mode='edge') for image in (x, y))
    x, y = (np.lib.stride_tricks.sliding_window_view(image, (11, 11, 11)) for image in (x, y))

    def mean(values):
        return np.einsum('ijkabc,abc->ijk', values, window, optimize=True)

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x**2) - mean_x**2, mean(y**2) - mean_y**2
    c1, c2 = 2.55**2, 7.65**2
    return np.mean((2 * mean_x * mean_y + c1) * (2 * (mean(x * y) - mean_x * mean_y) + c2)
                   / (mean_x**2 + mean_y**2 + c1) / (variance_x + variance_y + c2))


def test_matlabs_ssim_against_its_definition(pair):
    image, truth = (image[:14, :17] for image in pair)
    assert calculate_ssim_matlab(image, truth) == pytest.approx(ssim_of_volume(image, truth), abs=1e-9)
    assert calculate_ssim_matlab(truth, truth) == pytest.approx(1, abs=1e-12)


def test_matlabs_ssim_is_another_figure_than_the_mean_over_channels(pair):
    image, truth = pair
    assert abs(calculate_ssim_matlab(image, truth) - calculate_ssim(image, truth, 0)) > 1e-3
    assert calculate_ssim_matlab(image[..., ::-1], truth[..., ::-1]) == pytest.approx(
        calculate_ssim_matlab(image, truth), abs=1e-12)


def test_scikit_images_default_ssim_against_its_definition(pair):
    """Flat 7x7 windows, variances with 48 in place of 49."""
    image, truth = (np.lib.stride_tricks.sliding_window_view(image[:20, :23].astype(float), (7, 7), axis=(0, 1))
                    for image in pair)
    mean_x, mean_y = (windows.mean((-1, -2)) for windows in (image, truth))
    variance_x, variance_y = (windows.var((-1, -2), ddof=1) for windows in (image, truth))
    covariance = ((image * truth).mean((-1, -2)) - mean_x * mean_y) * 49 / 48
    c1, c2 = 2.55**2, 7.65**2
    expected = np.mean((2 * mean_x * mean_y + c1) * (2 * covariance + c2)
                       / (mean_x**2 + mean_y**2 + c1) / (variance_x + variance_y + c2))
    assert calculate_ssim_skimage(*(image[:20, :23] for image in pair)) == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------------------------ after alignment

def test_alignment_undoes_a_shift_and_a_factor():
    truth = smooth((80, 90))
    shifted = cv2.warpAffine(truth, np.float32([[1, 0, 1.5], [0, 1, -0.7]]), (90, 80), flags=cv2.INTER_CUBIC,
                             borderMode=cv2.BORDER_REFLECT)
    image, truth = ((level * 0.8).clip(0, 255).round().astype(np.uint8) if number == 0 else
                    level.round().astype(np.uint8) for number, level in enumerate((shifted, truth)))
    assert calculate_psnr(image, truth, 0) < 20
    assert calculate_psnr_aligned(image, truth) > 40
    assert calculate_ssim_aligned(image, truth) > 0.99
    aligned, target, covered = align(image, truth)
    assert aligned.shape == target.shape == (80, 90, 3) and covered.shape == (80, 90)
    assert set(np.unique(covered)) == {0, 1} and 0.9 < covered.mean() < 1
    assert not aligned[covered == 0].any() and not target[covered == 0].any()
    np.testing.assert_allclose(target[covered == 1], truth[covered == 1] / 255, atol=1e-6)


@pytest.fixture
def half_covered(pair, monkeypatch):
    """align() as if the right part were not covered."""
    image, truth = (image.astype(np.float32) / 255 for image in pair)
    covered = np.ones(image.shape[:2], np.float32)
    covered[:, 40:] = 0
    monkeypatch.setattr(metrics, 'align', lambda *_: (image * covered[..., None], truth * covered[..., None], covered))
    return pair


def test_aligned_psnr_counts_covered_pixels_only(half_covered):
    image, truth = half_covered
    expected = calculate_psnr(image[:, :40], truth[:, :40], 0)
    assert calculate_psnr_aligned(image, truth) == pytest.approx(expected, abs=1e-5)


def test_aligned_ssim_counts_covered_pixels_only(half_covered):
    image, truth = half_covered
    masked = [np.where(np.arange(70)[:, None] < 40, image, 0).astype(float) for image in (image, truth)]
    _, ssim_map = structural_similarity(*masked[::-1], channel_axis=2, full=True, **SKIMAGE)
    expected = ssim_map[5:-5, 5:40].mean()
    assert calculate_ssim_aligned(image, truth) == pytest.approx(expected, abs=1e-5)


def test_aligned_metrics_are_the_plain_ones_where_nothing_moves(pair, monkeypatch, weights):  # noqa: F811
    image, truth = pair
    monkeypatch.setattr(metrics, 'align', lambda img, img2: (
        img.astype(np.float32) / 255, img2.astype(np.float32) / 255, np.ones(img.shape[:2], np.float32)))
    assert calculate_psnr_aligned(image, truth) == pytest.approx(calculate_psnr(image, truth, 0), abs=1e-5)
    assert calculate_ssim_aligned(image, truth) == pytest.approx(calculate_ssim(image, truth, 0), abs=1e-5)
    assert calculate_lpips_aligned(image, truth, weights) == pytest.approx(calculate_lpips(image, truth, weights),
                                                                           abs=1e-5)
    assert calculate_psnr_aligned(truth, truth) == math.inf


def test_alignment_is_done_once_for_all_metrics_of_an_image(pair, monkeypatch):
    calls, found = [], cv2.findTransformECC
    monkeypatch.setattr(cv2, 'findTransformECC', lambda *args, **kwargs: calls.append(1) or found(*args, **kwargs))
    metrics._align.cache_clear()
    image, truth = pair
    first = calculate_psnr_aligned(image, truth), calculate_ssim_aligned(image, truth)
    assert len(calls) == 1
    assert calculate_psnr_aligned(truth, truth) != first[0] and len(calls) == 2


def test_images_that_cannot_be_aligned():
    flat, truth = np.full((60, 70, 3), 90, np.uint8), smooth().astype(np.uint8)
    with pytest.raises(InputError, match='ECC found no homography'):
        calculate_psnr_aligned(flat, truth)


def test_lpips_without_any_weights(monkeypatch):
    def offline(**_):
        raise OSError('no route to host')
    monkeypatch.delenv(metrics.WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setattr(metrics.lpips, 'LPIPS', offline)
    metrics._lpips_network.cache_clear()
    with pytest.raises(InputError, match=r'could not be downloaded \(no route to host\). Set NOISEDA_ALEXNET'):
        calculate_lpips(*2 * [np.zeros((64, 64, 3), np.uint8)])


# ------------------------------------------------------------------ NIQE

def test_basicsrs_niqe_works_here_and_dislikes_noise():
    clean = data.astronaut()[:288, :288, ::-1]
    noisy = (clean + np.random.default_rng(0).normal(scale=25, size=clean.shape)).clip(0, 255).astype(np.uint8)
    assert 1 < calculate_niqe(clean, 0) < calculate_niqe(noisy, 0) < 50
