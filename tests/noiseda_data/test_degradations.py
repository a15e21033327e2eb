"""Degradations: what their docstrings promise, against closed forms and independent re-implementations."""
import cv2
import numpy as np
import pytest
from scipy import ndimage, stats

from noiseda_basicsr import InputError
from noiseda_data import PairedUnpairedDataset
from noiseda_data.benchmark import EXAMPLES, degradation_costs
from noiseda_data.degradations import DEGRADATIONS, blur, build_degradation, camera, rain
from noiseda_data.degradations.draws import Range
from noiseda_data.degradations.noise import CorrelatedNoise

SIGMA = 30
MIXTURE = {'type': 'one_of', 'choices': [[], {'type': 'awgn', 'sigma': 5}, [{'type': 'jpeg', 'quality': 50}] * 2]}
PHOTO = cv2.GaussianBlur(np.random.default_rng(0).random((96, 96, 3), np.float32), (0, 0), 3)
PHOTO = ((PHOTO - PHOTO.min()) / np.ptp(PHOTO)).astype(np.float32)


def flat(level, size=256):
    return np.full((size, size, 3), level, np.float32)


def degrade(options, image, seed=0):
    return build_degradation(options)(image, np.random.default_rng(seed))


# ---------------------------------------------------------------------- all of them


@pytest.mark.parametrize('options', [*EXAMPLES, MIXTURE, [], EXAMPLES], ids=str)
@pytest.mark.parametrize('size', [(96, 96), (37, 23), (8, 9)])
def test_an_image_in_an_image_out_and_all_randomness_from_the_generator(options, size):
    image = PHOTO[:size[0], :size[1]]
    before = image.copy()
    one, again, other = (degrade(options, image, seed) for seed in (0, 0, 1))
    assert one.shape == image.shape and one.dtype == np.float32 and np.isfinite(one).all()
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(one, again)
    if options not in ([], MIXTURE):
        assert not np.array_equal(one, other)


def test_every_type_has_an_example_whose_cost_is_measured():
    types = [block['type'] for block in EXAMPLES]
    assert sorted([*types, 'noise_of_photos', 'one_of']) == sorted(DEGRADATIONS)
    costs = degradation_costs(16, rounds=1, seconds=0)
    assert list(costs) == types and all(0 < milliseconds < 1000 for milliseconds in costs.values())


def test_a_list_is_applied_in_order():
    awgn, jpeg = {'type': 'awgn', 'sigma': 20}, {'type': 'jpeg', 'quality': 30}
    last = degrade([awgn, jpeg], PHOTO) * 255
    np.testing.assert_allclose(last, last.round(), atol=1e-4)
    rng = np.random.default_rng(0)
    expected = build_degradation(jpeg)(build_degradation(awgn)(PHOTO, rng), rng)
    np.testing.assert_array_equal(degrade([awgn, jpeg], PHOTO), expected)
    assert degrade([jpeg, awgn], PHOTO).min() < 0
    np.testing.assert_array_equal(degrade([], PHOTO), PHOTO)


@pytest.mark.parametrize('weights', [None, [1, 3, 0]])
def test_one_of_draws_by_weight(weights):
    choices = [[], {'type': 'awgn', 'sigma': 1}, [{'type': 'awgn', 'sigma': 100}]]
    choose = build_degradation({'type': 'one_of', 'choices': choices, 'weights': weights})
    rng = np.random.default_rng(0)
    spreads = [choose(flat(0.5, 8), rng).std() for _ in range(400)]
    counts = np.histogram(spreads, [0, 1e-6, 0.1, 1])[0]
    expected = 400 * np.array(weights or [1, 1, 1]) / sum(weights or [1, 1, 1])
    assert (counts[expected == 0] == 0).all()
    assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 0.001


def test_in_the_data_set(image_folder):
    dataset = PairedUnpairedDataset({
        'name': 'x', 'phase': 'train', 'gt_size': 16, 'dataroot_gt': image_folder('gt'),
        'degradation': [{'type': 'gaussian_blur', 'sigma': 1}, MIXTURE]})
    item = dataset[0]
    assert item['lq'].shape == (3, 16, 16) and item['lq'].is_contiguous()
    assert 0.01 < (item['lq'] - item['gt']).abs().mean() < 0.5


def test_ranges_are_uniform():
    values = Range('x', [2, 5])(np.random.default_rng(0), 2000)
    assert stats.kstest(values, stats.uniform(2, 3).cdf).pvalue > 0.01
    assert Range('x', 3)(np.random.default_rng(0)) == 3


@pytest.mark.parametrize(('options', 'message'), [
    ('awgn', "degradation: 'awgn' must be a block, .* or a list of blocks"),
    ([{'type': 'awgn', 'sigma': 3}, 7], 'degradation: 7 must be a block'),
    ({'type': 'snow'}, "unknown type 'snow'; known: awgn, camera"),
    ({'type': 'awgn'}, 'degradation awgn: sigma is missing; its arguments: sigma, per_channel'),
    ({'type': 'awgn', 'sigmas': 3}, 'degradation awgn: unknown argument sigmas; its arguments: sigma, per_channel'),
    ({'type': 'awgn', 'sigma': '1e-4'}, "degradation awgn: sigma must be a number or .low, high. .* not '1e-4'"),
    ({'type': 'awgn', 'sigma': [1, 2, 3]}, r'sigma must be .* not \[1, 2, 3\]'),
    ({'type': 'awgn', 'sigma': None}, 'sigma must be .* not None'),
    ({'type': 'correlated_noise', 'sigma': -1}, 'degradation correlated_noise: sigma must be'),
    ({'type': 'correlated_noise', 'sigma': 1, 'quality': 0}, 'degradation correlated_noise: quality must be'),
    ({'type': 'poisson_gaussian', 'gain': 0}, 'gain must be a number or .low, high. with 1e-06 <= low'),
    ({'type': 'jpeg', 'quality': 101}, 'quality must be .* with 1 <= low <= high <= 100, not 101'),
    ({'type': 'gaussian_blur', 'sigma': 1, 'gamma': 0.5}, 'degradation gaussian_blur: gamma must be'),
    ({'type': 'defocus_blur', 'radius': [3, 1]}, 'radius must be'),
    ({'type': 'motion_blur', 'length': 3, 'angle': 400}, 'angle must be'),
    ({'type': 'motion_blur', 'length': 3, 'frames': 1}, 'frames must be'),
    ({'type': 'motion_blur', 'length': 3, 'frames': [7, 13]}, r'frames must be one whole number.* not \[7, 13\]'),
    ({'type': 'motion_blur', 'length': 3, 'frames': 7.9}, 'frames must be one whole number, at least 2, not 7.9'),
    ({'type': 'gaussian_blur', 'sigma': 1, 'gamma': [1, 2.2]}, 'gamma must be one number, at least 1, not'),
    ({'type': 'correlated_noise', 'sigma': [0, 30]}, r'sigma must be one number, at least 0, not \[0, 30\]'),
    ({'type': 'correlated_noise', 'sigma': 1, 'quality': 90.5}, 'quality must be one whole number'),
    ({'type': 'awgn', 'sigma': float('inf')}, 'sigma must be'),
    ({'type': 'camera', 'shot': 2}, 'shot must be'),
    ({'type': 'rain_streaks', 'density': 2}, 'density must be'),
    ({'type': 'one_of', 'choices': []}, 'degradation one_of: choices must be a list of blocks'),
    ({'type': 'one_of', 'choices': [[]], 'weights': [1, 2]}, 'weights must be one number >= 0 for each of the 1'),
    ({'type': 'one_of', 'choices': [[], []], 'weights': [0, 0]}, 'weights must be'),
    ({'type': 'one_of', 'choices': [[]], 'weights': 3}, 'weights must be'),
    ({'type': 'one_of', 'choices': [[]], 'weights': ['a']}, 'weights must be'),
    ({'type': 'noise_of_photos', 'photos': 3}, 'photos is 3; it must be a folder, or several'),
    ({'type': 'one_of', 'choices': [{'type': 'jpeg'}]}, 'degradation one_of: degradation jpeg: quality is missing'),
], ids=str)
def test_errors(options, message):
    with pytest.raises(InputError, match=message):
        build_degradation(options)


# ---------------------------------------------------------------------- noise


def test_awgn_per_channel():
    options = {'type': 'awgn', 'sigma': [0, 75], 'per_channel': True}
    noise = np.array([degrade(options, flat(0, 64), seed).std(axis=(0, 1)) for seed in range(200)]) * 255
    assert (np.abs(np.corrcoef(noise.T) - np.eye(3)) < 0.25).all()
    for channel in noise.T:
        assert stats.kstest(channel, stats.uniform(0, 75).cdf).pvalue > 0.001


@pytest.mark.parametrize(('level', 'gain', 'sigma'), [(0, 0.01, 10), (0.3, 0.002, 0), (0.5, 0.02, 5), (1, 0.01, 0)])
def test_poisson_gaussian_moments(level, gain, sigma):
    """Mean y, variance a y + s^2 and third central moment a^2 y."""
    values = degrade({'type': 'poisson_gaussian', 'gain': gain, 'sigma': sigma}, flat(level)).astype(np.float64)
    variance = gain * level + (sigma / 255)**2
    assert values.mean() == pytest.approx(level, abs=4 * np.sqrt(variance / values.size) + 1e-7)
    assert values.var() == pytest.approx(variance, rel=0.03)
    assert stats.moment(values.ravel(), 3) == pytest.approx(gain**2 * level, abs=12 * variance**1.5 / values.size**0.5)


def test_poisson_gaussian_counts_photons():
    values = degrade({'type': 'poisson_gaussian', 'gain': 0.05}, flat(0.4)) / 0.05
    np.testing.assert_allclose(values, values.round(), atol=1e-4)
    counts = np.bincount(values.round().astype(int).ravel())[:20]
    expected = stats.poisson(0.4 / 0.05).pmf(np.arange(20)) * values.size
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 1).all()


def correlated(level, blurred=1.0, size=256):
    return CorrelatedNoise(SIGMA, blurred).add_noise(flat(level, size), np.random.default_rng(0)) - flat(level, size)


@pytest.mark.parametrize('level', [0.0, 0.2, 0.5, 0.8, 1.0])
def test_correlated_noise_is_zero_mean_and_signal_dependent(level):
    """sigma(y) = sigma 2 sqrt(y (1 - y)): no colour shift, nothing at black and white."""
    values = correlated(level)
    expected = SIGMA / 255 * 2 * np.sqrt(level * (1 - level))
    assert abs(values.mean()) < 0.003
    assert values.std() == pytest.approx(expected, rel=0.01, abs=1e-6)
    after_jpeg = CorrelatedNoise(SIGMA)(flat(level), np.random.default_rng(0))
    assert abs(after_jpeg.mean() - level) < 0.004


@pytest.mark.parametrize('blurred', [0.7, 1.0, 1.5])
def test_correlated_noise_is_spatially_correlated(blurred):
    """White noise under a Gaussian of standard deviation s has correlation exp(-1 / (4 s^2)) one pixel away."""
    values = correlated(0.5, blurred)[..., 1]
    neighbours = np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]
    assert neighbours == pytest.approx(np.exp(-1 / (4 * blurred**2)), abs=0.02)


# ---------------------------------------------------------------------- JPEG


def test_jpeg_is_that_of_an_encoder():
    bgr = (PHOTO[..., ::-1] * 255).round().astype(np.uint8)
    expected = cv2.imdecode(cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    np.testing.assert_allclose(degrade({'type': 'jpeg', 'quality': 40}, PHOTO)[..., ::-1] * 255, expected, atol=1e-4)


def test_jpeg_errs_less_at_higher_quality_and_clips():
    errors = [np.abs(degrade({'type': 'jpeg', 'quality': q}, PHOTO) - PHOTO).mean() for q in (5, 20, 60, 95)]
    assert (np.diff(errors) < 0).all() and errors[-1] < 0.01
    for level in (-3, 0, 0.5, 1, 4):
        np.testing.assert_allclose(degrade({'type': 'jpeg', 'quality': 90}, flat(level, 32)), np.clip(level, 0, 1),
                                   atol=1.5 / 255)


# ---------------------------------------------------------------------- blur


def moments(kernel):
    """Sum, centroid (right, up) and covariance of a kernel."""
    reach = len(kernel) // 2
    y, x = np.mgrid[reach:-reach - 1:-1, -reach:reach + 1]
    places = np.stack([x.ravel(), y.ravel()])
    mean = places @ kernel.ravel()
    return kernel.sum(), mean, (places * kernel.ravel()) @ places.T - np.outer(mean, mean)


@pytest.mark.parametrize('sigma', [0.7, 1, 2.5])
def test_gaussian_kernel(sigma):
    total, centre, covariance = moments(blur.gaussian_kernel(sigma))
    assert total == pytest.approx(1)
    np.testing.assert_allclose(centre, 0, atol=1e-12)
    np.testing.assert_allclose(covariance, sigma**2 * np.eye(2), rtol=3e-3, atol=1e-9)


@pytest.mark.parametrize(('radius', 'variance'), [(1, 0.391), (2.5, 2.5**2 / 4 + 1 / 12), (6, 6**2 / 4 + 1 / 12)])
def test_disk_kernel(radius, variance):
    """A disk of radius r has variance r^2 / 4 along any axis; collecting it in pixels adds 1/12.

    Not so at radius 1, where it is the part of the disk outside the middle column: 1 - (sqrt(3) / 2 + pi / 3) / pi.
    """
    kernel = blur.disk_kernel(radius)
    total, centre, covariance = moments(kernel)
    assert total == pytest.approx(1)
    np.testing.assert_allclose(centre, 0, atol=1e-12)
    np.testing.assert_allclose(covariance, variance * np.eye(2), rtol=0.04, atol=1e-9)
    assert kernel.max() == pytest.approx(1 / (np.pi * radius**2), rel=0.05 if radius > 2 else 0.3)


@pytest.mark.parametrize('angle', [0, 30, 45, 90, 135])
def test_line_kernel(angle):
    """Uniform on a line: variance L^2 / 12 along it; sharing a point among neighbours adds 1/6 where it is off-grid."""
    total, centre, covariance = moments(blur.line_kernel(15.3, angle))
    direction = np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
    assert total == pytest.approx(1)
    np.testing.assert_allclose(centre, 0, atol=1e-9)
    shared = np.diag((np.abs(direction) > 1e-9) / 6)
    np.testing.assert_allclose(covariance, 15.3**2 / 12 * np.outer(direction, direction) + shared, atol=0.12)


@pytest.mark.parametrize(('frames', 'length'), [(2, 4), (7, 12), (13, 12), (3, 2)])
def test_frames_are_evenly_spaced_points(frames, length):
    """n points from end to end have variance L^2 / 12 (n + 1) / (n - 1)."""
    kernel = blur.line_kernel(length, 0, frames)
    _, _, covariance = moments(kernel)
    assert np.count_nonzero(kernel.round(9)) == frames
    np.testing.assert_allclose(covariance, np.diag([length**2 / 12 * (frames + 1) / (frames - 1), 0]), atol=1e-9)


@pytest.mark.parametrize('gamma', [1, 2.2])
def test_frames_are_averaged_in_linear_light(gamma):
    options = {'type': 'motion_blur', 'length': 12, 'angle': 90, 'frames': 7, 'gamma': gamma}
    frames = [np.roll(PHOTO, shift, axis=0) for shift in range(-6, 7, 2)]
    expected = np.mean([frame.astype(np.float64)**gamma for frame in frames], axis=0)**(1 / gamma)
    np.testing.assert_allclose(degrade(options, PHOTO)[6:-6], expected[6:-6], atol=1e-5)


@pytest.mark.parametrize('options', [
    {'type': 'gaussian_blur', 'sigma': 1.5}, {'type': 'gaussian_blur', 'sigma': 0},
    {'type': 'defocus_blur', 'radius': 3}, {'type': 'defocus_blur', 'radius': 0},
    {'type': 'motion_blur', 'length': 9}, {'type': 'motion_blur', 'length': 0},
], ids=str)
def test_blur_keeps_flat_images_and_none_is_no_change(options):
    np.testing.assert_allclose(degrade(options, flat(0.3, 32)), 0.3, rtol=1e-5)
    if 0 in options.values():
        np.testing.assert_allclose(degrade(options, PHOTO), PHOTO, atol=1e-5)


@pytest.mark.parametrize(('options', 'kernel'), [
    ({'type': 'gaussian_blur', 'sigma': 2}, blur.gaussian_kernel(2)),
    ({'type': 'defocus_blur', 'radius': 3.3}, blur.disk_kernel(3.3)),
    ({'type': 'motion_blur', 'length': 11, 'angle': 20}, blur.line_kernel(11, 20)),
])
def test_blur_mirrors_the_border(options, kernel):
    expected = [ndimage.correlate(PHOTO[..., channel], kernel, mode='reflect') for channel in range(3)]
    np.testing.assert_allclose(degrade({**options, 'gamma': 1}, PHOTO), np.stack(expected, -1), atol=1e-5)


# ---------------------------------------------------------------------- rain


def test_rain_has_the_moments_of_campbells_theorem():
    kernel = rain.streak_kernel(20, 15, 0.6)
    assert kernel.sum() == pytest.approx(20)
    strength, rng = Range('strength', [0.2, 0.8]), np.random.default_rng(0)
    layers = np.stack([rain.streaks((200, 200), 0.004, kernel, strength, rng) for _ in range(20)])
    second = 0.5**2 + 0.6**2 / 12
    assert layers.mean() == pytest.approx(0.004 * 0.5 * 20, rel=0.05)
    assert layers.var() == pytest.approx(0.004 * second * (kernel**2).sum(), rel=0.1)
    assert layers[:, :3].mean() == pytest.approx(layers.mean(), rel=0.3)  # the border is as wet as the middle


@pytest.mark.parametrize(('angle', 'shift'), [(0, (4, 0)), (45, (3, -3)), (-45, (3, 3)), (90, (0, 4))])
def test_rain_falls_at_the_angle(angle, shift):
    layer = degrade({'type': 'rain_streaks', 'angle': angle, 'density': 0.003, 'length': 20}, flat(0))[..., 0]

    def correlation(dy, dx):
        return (layer * np.roll(layer, (dy, dx), (0, 1))).mean()

    across = (-shift[1], shift[0])
    assert correlation(*shift) > 3 * correlation(*across)


def test_rain_adds_grey_light_and_saturates():
    rainy = degrade({'type': 'rain_streaks', 'density': 0.01, 'strength': 1}, PHOTO)
    added = rainy - PHOTO
    assert added.min() > -1e-6 and rainy.max() == 1
    inside = (rainy < 1).all(axis=-1)
    np.testing.assert_allclose(added[inside], np.repeat(added[inside][:, :1], 3, axis=-1), atol=1e-6)
    assert (added > 0.1).any()


# ---------------------------------------------------------------------- camera


def test_noise_levels_follow_brooks_et_al():
    rng = np.random.default_rng(0)
    shot, read = np.log([camera.draw_noise_level(Range('shot', [1e-4, 0.012]), rng) for _ in range(3000)]).T
    span = np.log(0.012) - np.log(1e-4)
    assert stats.kstest(shot, stats.uniform(np.log(1e-4), span).cdf).pvalue > 0.01
    fit = stats.linregress(shot, read)
    assert (fit.slope, fit.intercept) == pytest.approx((2.18, 1.20), abs=0.08)
    assert (read - 2.18 * shot - 1.20).std() == pytest.approx(0.26, rel=0.05)


def test_cameras_keep_white_and_gains_are_those_of_brooks_et_al():
    drawn = [camera.draw_camera(np.random.default_rng(seed)) for seed in range(500)]
    for to_camera, _ in drawn:
        np.testing.assert_allclose(to_camera @ np.ones(3), 1, atol=1e-6)
    red, green, blue = np.array([gains for _, gains in drawn]).T
    assert (1 / green).mean() == pytest.approx(0.8, abs=0.02) and (1 / green).std() == pytest.approx(0.1, rel=0.1)
    assert stats.kstest(red / green, stats.uniform(1.9, 0.5).cdf).pvalue > 0.01
    assert stats.kstest(blue / green, stats.uniform(1.5, 0.4).cdf).pvalue > 0.01


@pytest.mark.parametrize('level', [0, 0.2, 0.7])
def test_sensor_noise_is_white_of_variance_shot_y_plus_read(level):
    raw = np.full((400, 400), level, np.float32)
    noise = camera.add_noise(raw, 0.01, 0.0004, np.random.default_rng(0)) - raw
    assert abs(noise.mean()) < 4 * noise.std() / 400
    assert noise.var() == pytest.approx(0.01 * level + 0.0004, rel=0.02)
    assert abs((noise * np.roll(noise, 1, axis=1)).mean()) < 4 * noise.var() / 400


def test_mosaic_is_rggb_and_demosaicing_is_exact_on_ramps():
    y, x = np.mgrid[:20, :22] / 60
    image = np.stack([0.1 + x, 0.2 + y, 0.5 + x / 2 - y], axis=-1).astype(np.float32)
    raw = camera.mosaic(image)
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        np.testing.assert_array_equal(raw[row::2, column::2], image[row::2, column::2, channel])
    display = image**(1 / 2.2)
    expected = 3 * display**2 - 2 * display**3
    result = camera.process(raw, np.eye(3, dtype=np.float32), np.ones(3, np.float32))
    np.testing.assert_allclose(result[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-3)


@pytest.mark.parametrize('seed', range(5))
def test_without_noise_the_camera_gives_the_image_back(seed):
    smooth = cv2.GaussianBlur(PHOTO, (0, 0), 6)
    options = {'type': 'camera', 'shot': 1e-9, 'quality': None}
    result = degrade(options, smooth, seed)
    assert np.abs(result - smooth)[2:-2, 2:-2].max() < 0.02
    for level in (0, 0.3, 0.9, 1):
        np.testing.assert_allclose(degrade(options, flat(level, 16), seed), level, atol=0.005)


def test_the_cameras_colour_shift():
    """Clipping lifts shadows, red most (its gain is highest), as docs/data.md tells; elsewhere gamma's bend lowers."""
    options = {'type': 'camera', 'shot': 0.012, 'quality': None}

    def shift(level):
        shifts = [degrade(options, flat(level, 48), seed).mean(axis=(0, 1)) - level for seed in range(60)]
        return 255 * np.mean(shifts, axis=0)

    red, green, blue = shift(0)
    assert 15 < red < 24 and 5 < green < 9 and 11 < blue < 18
    assert (np.abs(shift(0.5) + [6.2, 2.9, 4.0]) < 1.5).all()
    assert np.abs(shift(1)).max() < 1
