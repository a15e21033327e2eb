"""The network that is shipped: small, safe to load, what restores where none is named, and it removes noise alone."""
import cv2
import numpy as np
import pytest
import torch
from images import write_images

from noiseda_model.options import read_network
from noiseda_model.restore_command import main
from noiseda_model.restorer import SHIPPED, Restorer


@pytest.fixture(scope='module')
def restorer():
    return Restorer()


@pytest.fixture(scope='module')
def smooth():
    """A colourful image without detail, all values well inside the range."""
    return cv2.resize(np.random.default_rng(0).uniform(60, 195, (5, 6, 3)), (192, 160), interpolation=cv2.INTER_CUBIC)


def noisy(image, sigma):
    return (image + np.random.default_rng(1).normal(0, sigma, image.shape)).clip(0, 255).round().astype(np.uint8)


def psnr(image, truth):
    return 10 * np.log10(255**2 / np.mean((image - truth)**2))


def test_the_file_is_small_plain_and_of_half_precision():
    content = torch.load(SHIPPED, weights_only=True)
    assert {value.dtype for value in content['params'].values()} == {torch.float16}
    assert content['network_g'] == read_network(SHIPPED.replace('.pth', '.yml'))
    with open(SHIPPED, 'rb') as file:
        assert len(file.read()) <= 5e6


def test_it_restores_where_no_network_is_named(tmp_path, smooth, capsys):
    write_images(tmp_path / 'photos', {'a.png': noisy(smooth, 10), 'b.png': noisy(smooth[:50, :70], 20)})
    for out, more, source in (('unnamed', [], 'the shipped denoiser (--weights takes another)'),
                              ('named', ['--weights', SHIPPED, '-opt', SHIPPED.replace('.pth', '.yml')], SHIPPED)):
        with pytest.raises(SystemExit) as info:
            main([str(tmp_path / 'photos'), '-o', str(tmp_path / out), *more])
        assert info.value.code == 0
        assert f'RestorationUNet of {source} on' in capsys.readouterr().out
    for name in ('a.png', 'b.png'):
        assert (tmp_path / 'unnamed' / name).read_bytes() == (tmp_path / 'named' / name).read_bytes()
        assert (tmp_path / 'unnamed' / name).read_bytes() != (tmp_path / 'photos' / name).read_bytes()


@pytest.mark.parametrize('sigma, gain', [(5, 3), (15, 6), (25, 8)])
def test_it_removes_noise(restorer, smooth, sigma, gain):
    image = noisy(smooth, sigma)
    assert psnr(restorer(image), smooth) > psnr(image, smooth) + gain


@pytest.mark.parametrize('sigma', [0, 5, 15, 25])
def test_it_shifts_no_colour(restorer, smooth, sigma):
    shift = restorer(noisy(smooth, sigma)).mean(axis=(0, 1)) - smooth.mean(axis=(0, 1))
    assert np.abs(shift).max() < 0.5


def test_it_leaves_edges(restorer):
    checkers = np.kron(np.indices((8, 10)).sum(0) % 2, np.ones((16, 16)))[..., None] * [110, 80, 60] + [70, 90, 100]
    assert psnr(restorer(noisy(checkers, 15)), checkers) > psnr(noisy(checkers, 15), checkers) + 4
