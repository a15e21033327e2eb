"""Noise and softness of photos, against edges blurred and images enlarged by known amounts."""
import re

import cv2
import numpy as np
import pytest
import yaml
from cli import ROOT
from images import write_images
from scipy import ndimage, special

from noiseda_basicsr import InputError
from noiseda_data.degradations import build_degradation
from noiseda_data.measure import describe_softness, edge_width, enlargement, main, neighbours


def step(blur, noise=0.0):
    """A step at every 64th column, blurred by a Gaussian."""
    columns = np.arange(256)
    image = sum((-1)**n * special.ndtr((columns - at) / blur) for n, at in enumerate(range(32, 256, 64)))
    image = np.broadcast_to((0.2 + 0.6 * image)[None, :, None], (256, 256, 3))
    return (image + noise * np.random.default_rng(0).normal(size=image.shape)).astype(np.float32)


def scene(seed, size=(240, 200), contrast=120):
    """Dark and bright regions with edges as sharp as the area of a pixel allows, uint8 (H, W, 3)."""
    field = ndimage.zoom(np.random.default_rng(seed).normal(size=(12, 10)), 80, order=3)
    image = cv2.resize(60 + contrast * 1.0 * (field > 0), size[::-1], interpolation=cv2.INTER_AREA)
    return np.repeat(image[..., None], 3, axis=2).astype(np.uint8)


def enlarged(image, factor):
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize('blur', [1.5, 2, 3, 12])
def test_width_of_a_blurred_step(blur):
    assert edge_width(step(blur)) == pytest.approx(blur, rel=0.03)


@pytest.mark.parametrize('blur', [1.5, 3])
def test_noise_narrows_edges(blur):
    assert 0.7 * blur < edge_width(step(blur, 5 / 255)) < blur


def test_a_step_from_one_pixel_to_the_next_has_hardly_a_width():
    assert edge_width((step(0.01) > 0.5).astype(np.float32)) < 0.5


@pytest.mark.parametrize(('sigma', 'contrast', 'factor'),
                         [(0, 120, 1), (0, 40, 3), (4, 120, 3), (10, 40, 1), (10, 40, 3)])
def test_enlargement_is_found(tmp_path, sigma, contrast, factor):
    """Under noise that narrows the edges, too: the clean photos get as much."""
    write_images(tmp_path / 'clean', {f'{n}.png': scene(n, contrast=contrast) for n in range(3)})
    noise = build_degradation({'type': 'awgn', 'sigma': sigma})
    photos = {f'{n}.png': enlarged(scene(n + 10, contrast=contrast), factor) / np.float32(255) for n in range(3)}
    write_images(tmp_path / 'photos', {
        name: (noise(image, np.random.default_rng(1)) * 255).round().clip(0, 255).astype(np.uint8)
        for name, image in photos.items()})
    found = enlargement(str(tmp_path / 'photos'), str(tmp_path / 'clean'), noise)
    assert found == pytest.approx(factor, rel=0.15) if factor > 1 else found < 1.6


def test_what_is_advised():
    assert describe_softness(1.9)[1] is None
    assert describe_softness(3) == ('Edges as wide as those of the clean photos enlarged 3.0 times.', [2, 4])
    assert '5.0 times or more' in describe_softness(5.0)[0]  # where the search ends


def test_correlation_of_neighbours():
    kernel = np.zeros((3, 3, 5, 5))
    kernel[range(3), range(3), 2, 2] = 1
    assert neighbours(kernel) == pytest.approx(0)
    kernel[range(3), range(3), 2, 3] = 1  # means of two in a row share half with the next
    assert neighbours(kernel) == pytest.approx(0.25)


def in_place_of_its_own(printed):
    """What the option file to copy says of the training data with these lines put in it as they are."""
    text = (ROOT / 'options/train/train_my_photos_fast.yml').read_text()
    text = re.sub(r'^    (degradation|enlarge):.*\n', '', text, flags=re.MULTILINE)
    text = text.replace('    gt_size', printed + '    gt_size').replace('!!python/name:', '')
    return yaml.safe_load(text)['datasets']['train']


@pytest.mark.parametrize('factor', [1, 3])
def test_the_command_prints_options_that_training_takes(tmp_path, factor, capsys):
    rng = np.random.default_rng(0)
    write_images(tmp_path / 'clean', {f'{n}.png': scene(n) for n in range(3)})
    write_images(tmp_path / 'my photos, 2024', {
        f'{n}.png': (enlarged(scene(n + 10), factor) + 6 * rng.normal(size=(240 * factor, 200 * factor, 3)))
        .round().clip(0, 255).astype(np.uint8) for n in range(3)})
    main([str(tmp_path / 'my photos, 2024'), '--clean', str(tmp_path / 'clean')])
    printed = capsys.readouterr().out
    said, _, options = printed.partition('In the option file, in place of what datasets: train says:\n')
    options = in_place_of_its_own(options)
    assert 'Noise, in the 2 photos with the clearest smooth areas' in said
    sigma = [float(value) for value in said.split('standard deviation ')[1].split(' of 255')[0].split(' / ')]
    assert len(sigma) == 5 and all(4.5 < value < 6.5 for value in (sigma[0], sigma[-1]))
    low, high = options.get('enlarge', (1, 1))
    assert low <= factor <= high and (high > 1) == (factor > 1)
    degrade = build_degradation(options['degradation'])
    assert degrade(np.full((32, 32, 3), 0.5, np.float32), rng).std() > 0.01


def test_photos_without_an_edge(tmp_path):
    assert np.isnan(edge_width(np.full((64, 64, 3), 0.5, np.float32)))
    assert np.isnan(edge_width((0.5 + 0.03 * np.random.default_rng(0).normal(size=(256, 256, 3))).astype(np.float32)))
    flat = np.full((64, 64, 3), 99, np.uint8)
    write_images(tmp_path / 'flat', {'0.png': flat})
    write_images(tmp_path / 'some', {'0.png': flat, '1.png': enlarged(scene(0), 3), '2.png': flat})
    write_images(tmp_path / 'clean', {'0.png': scene(1)})
    noise = build_degradation({'type': 'awgn', 'sigma': 1})
    assert enlargement(str(tmp_path / 'some'), str(tmp_path / 'clean'), noise) == pytest.approx(3, rel=0.15)
    with pytest.raises(InputError, match='flat: no photo has an edge'):
        enlargement(str(tmp_path / 'flat'), str(tmp_path / 'clean'), noise)


def test_missing_folder(tmp_path):
    write_images(tmp_path / 'clean', 1)
    with pytest.raises(SystemExit, match='^error: photos: .*nowhere'):
        main([str(tmp_path / 'nowhere'), '--clean', str(tmp_path / 'clean')])
    with pytest.raises(SystemExit, match='^error: --clean: .*nowhere'):
        main([str(tmp_path / 'clean'), '--clean', str(tmp_path / 'nowhere')])
