"""Noise measured in photos: against noise of known statistics, and the statistics of what is made of it."""
import cv2
import numpy as np
import pytest
from images import write_images
from scipy import ndimage

from noiseda_basicsr import InputError
from noiseda_data import PairedUnpairedDataset
from noiseda_data.degradations import build_degradation
from noiseda_data.degradations.photo_noise import REACH, NoiseProfile, measure_noise, synthesise, usable_patches

RAMP = np.broadcast_to(np.linspace(0.1, 0.9, 384, dtype=np.float32)[None, :, None], (384, 384, 3))
TEXTURE = np.sin(np.arange(384) * np.pi / 2 + 0.7)[:, None, None] * np.ones((384, 3))  # a grating of four rows


def noise(seed=0, blur=0, mix=0.0):
    """Unit variance; blurred over space by ``blur`` pixels, with correlation ``mix`` between channels."""
    rng = np.random.default_rng(seed)
    own, common = rng.normal(size=RAMP.shape), rng.normal(size=(*RAMP.shape[:2], 1))
    field = np.sqrt(1 - mix) * own + np.sqrt(mix) * common
    field = ndimage.gaussian_filter(field, (blur, blur, 0), mode='wrap') if blur else field
    return (field / field.std()).astype(np.float32)


def autocorrelation(field, lag):
    """Over ``lag`` columns, the mean of the channels."""
    field = field - field.mean(axis=(0, 1))
    return ((field[:, lag:] * field[:, :field.shape[1] - lag]).mean(axis=(0, 1)) / field.var(axis=(0, 1))).mean()


def test_white_noise_that_grows_with_the_signal():
    sigma = 0.01 + 0.04 * RAMP * np.array([1, 0.5, 0], np.float32)
    profile = measure_noise(RAMP + sigma * noise())
    for channel, slope in enumerate([0.04, 0.02, 0]):
        expected = 0.01 + slope * profile.signal[channel]
        np.testing.assert_allclose(profile.sigma[channel], expected, rtol=0.15)  # the smoothest tenth lies lower
    centre = profile.kernel[:, :, REACH, REACH]
    np.testing.assert_allclose(centre, np.eye(3), atol=0.05)
    assert (profile.kernel**2).sum() - (centre**2).sum() < 0.1  # and hardly anything beside it


@pytest.mark.parametrize(('blur', 'mix'), [(0.8, 0.5), (1.0, 0.0)])
def test_correlation_over_space_and_channels_comes_back(blur, mix):
    real = noise(blur=blur, mix=mix)
    flat = np.full(RAMP.shape, 0.5, np.float32)
    made = synthesise(measure_noise(0.5 + 0.03 * real), flat, np.random.default_rng(0))
    assert 0.8 * 0.03 < made.std() < 1.02 * 0.03  # the smoothest tenth lies lower, with correlation still more
    assert abs(made.mean()) < 0.002
    for lag, expected in [(1, np.exp(-1 / (4 * blur**2))), (2, np.exp(-4 / (4 * blur**2)))]:
        assert autocorrelation(real, lag) == pytest.approx(expected, abs=0.05)  # of a blur by a Gaussian
        assert autocorrelation(made, lag) == pytest.approx(expected, abs=0.06)
    assert np.corrcoef(made[..., 0].ravel(), made[..., 1].ravel())[0, 1] == pytest.approx(mix, abs=0.08)


def test_what_is_made_follows_its_profile():
    kernel = np.zeros((3, 3, 2 * REACH + 1, 2 * REACH + 1), np.float32)
    kernel[:, :, REACH, REACH] = np.eye(3)
    kernel[0, 0, REACH, REACH:REACH + 2] = np.sqrt(0.5)  # red: the mean of two neighbours, so half correlated
    signal, sigma = np.array([[0.2, 0.8]] * 3), np.array([[0.01, 0.05], [0.02, 0.02], [0.03, 0.01]])
    image = np.full((256, 256, 3), 0.5, np.float32)
    made = synthesise(NoiseProfile(signal, sigma, kernel, 1), image, np.random.default_rng(0))
    np.testing.assert_allclose(made.std(axis=(0, 1)), [0.03, 0.02, 0.02], rtol=0.02)  # halfway between the knots
    assert autocorrelation(made[..., :1], 1) == pytest.approx(0.5, abs=0.02)
    assert abs(autocorrelation(made[..., 1:], 1)) < 0.02
    beyond = synthesise(NoiseProfile(signal, sigma, kernel, 1), image + 0.49, np.random.default_rng(0))
    np.testing.assert_allclose(beyond.std(axis=(0, 1)), [0.05, 0.02, 0.01], rtol=0.02)  # as at the last knot


def test_a_shift_between_channels_keeps_its_direction():
    """Blue is green one pixel further right and down, as lateral chromatic aberration makes it."""
    real = noise()
    real[1:, 1:, 2] = real[:-1, :-1, 1]
    made = synthesise(measure_noise(0.5 + 0.03 * real), np.full(RAMP.shape, 0.5, np.float32), np.random.default_rng(0))
    for image in (real, made):
        green, blue = image[1:-1, 1:-1, 1], image[..., 2]
        there, back = (np.corrcoef(green.ravel(), part.ravel())[0, 1] for part in (blue[2:, 2:], blue[:-2, :-2]))
        assert there > 0.8 and abs(back) < 0.1


def test_shading_is_no_noise():
    columns, rows = np.meshgrid(np.linspace(0, 1, 384), np.linspace(0, 1, 384))
    steep = (0.1 + 0.4 * columns + 0.4 * rows)[..., None] * np.ones(3)
    assert measure_noise(steep.astype(np.float32)).sigma.max() < 1e-4
    profile = measure_noise((steep + 0.02 * noise()).astype(np.float32))
    np.testing.assert_allclose(profile.sigma, 0.02, rtol=0.15)


def test_texture_beside_smooth_places_is_no_noise_and_texture_everywhere_is_not_trusted():
    plain = 0.5 + 0.02 * noise()
    half = plain.copy()
    half[192:] += 0.2 * TEXTURE[192:]
    np.testing.assert_allclose(measure_noise(half).sigma, 0.02, rtol=0.15)
    rising = plain + 0.2 * TEXTURE * np.linspace(0.1, 1, 384)[None, :, None]
    assert measure_noise(plain).trust > 0.8 > measure_noise(rising).trust


def test_half_of_the_photos_count_and_each_image_gets_the_noise_of_one(tmp_path):
    photos = {f'smooth{number}.png': 0.5 + sigma * noise(number) for number, sigma in enumerate([0.01, 0.05])}
    rough = 0.5 + 0.3 * TEXTURE * np.linspace(0.1, 1, 384)[None, :, None]
    photos |= {f'rough{number}.png': rough + 0.01 * noise(number) for number in range(2)}
    write_images(tmp_path / 'photos', {name: (255 * np.clip(photo, 0, 1)).astype(np.uint8)
                                       for name, photo in photos.items()})
    degrade = build_degradation({'type': 'noise_of_photos', 'photos': str(tmp_path / 'photos'), 'strength': 2})
    image, rng = np.full((64, 64, 3), 0.5, np.float32), np.random.default_rng(0)
    spreads = np.array([(degrade(image, rng) - image).std() for _ in range(20)])
    weak, strong = abs(spreads / 0.02 - 1) < 0.2, abs(spreads / 0.1 - 1) < 0.2
    assert (weak | strong).all() and 4 < weak.sum() < 16
    again = [degrade(image, np.random.default_rng(3)) for _ in range(2)]
    np.testing.assert_array_equal(*again)
    white = degrade(np.ones_like(image), rng)
    assert white.max() == 1 and white.min() < 1  # clipped, as photos are


def test_clipped_patches_do_not_count():
    image = 0.5 + 0.02 * noise()
    image[:200], image[-100:] = 0, 1
    patches = usable_patches(image.astype(np.float32))
    assert 0 < len(patches) < 47 * 12
    np.testing.assert_allclose(patches.mean(), 0.5, atol=0.02)


def test_in_the_data_set(tmp_path, image_folder):
    write_images(tmp_path / 'photos', {'0.png': (255 * (0.5 + 0.03 * noise())).astype(np.uint8)})
    item = PairedUnpairedDataset({
        'name': 'x', 'phase': 'train', 'gt_size': 16, 'dataroot_gt': image_folder('gt'),
        'degradation': {'type': 'noise_of_photos', 'photos': str(tmp_path / 'photos')}})[0]
    assert item['lq'].dtype == item['gt'].dtype and 0.005 < (item['lq'] - item['gt']).abs().mean() < 0.05


@pytest.mark.parametrize('image', [np.full((40, 40, 3), 128, np.uint8), np.full((400, 400, 3), 255, np.uint8),
                                   np.full((9, 400, 3), 128, np.uint8)], ids=['small', 'white', 'thin'])
def test_photos_that_tell_nothing(tmp_path, image):
    cv2.imwrite(str(tmp_path / 'photo.png'), image)
    with pytest.raises(InputError, match='noise_of_photos: photos .* too small or too much clipped'):
        build_degradation({'type': 'noise_of_photos', 'photos': str(tmp_path)})


def test_a_photo_without_noise_gives_none():
    profile = measure_noise(np.full((256, 256, 3), 0.5, np.float32))
    assert np.isfinite(profile.kernel).all() and profile.sigma.max() < 1e-6
