"""LPIPS against the lpips package itself, and BasicSR's PSNR on what validation hands it."""
import math

import lpips
import numpy as np
import pytest
import torch
import torchvision
from basicsr.metrics import calculate_metric
from basicsr.utils.registry import ARCH_REGISTRY, METRIC_REGISTRY
from torch import nn

from noiseda_basicsr import InputError
from noiseda_model import NoiseDAModel
from noiseda_model.metrics import WEIGHTS_VARIABLE, calculate_lpips
from tests.noiseda_model.test_model import Loader, small_opt


@pytest.fixture(scope='module')
def alexnet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = torchvision.models.alexnet(weights=None).features
        for parameter in features.parameters():
            nn.init.normal_(parameter, std=0.05)  # biases too
    return features


@pytest.fixture(scope='module')
def weights(alexnet, tmp_path_factory):
    path = tmp_path_factory.mktemp('lpips') / 'alexnet.pth'
    torch.save({f'features.{name}': value for name, value in alexnet.state_dict().items()}, path)
    return str(path)


@pytest.fixture(scope='module')
def images():
    """An image, and the same with less and more noise: BGR, uint8."""
    rng = np.random.default_rng(0)
    clean = rng.integers(40, 216, (64, 64, 3))
    noise = rng.normal(size=clean.shape)
    return [(clean + sigma * noise).clip(0, 255).astype(np.uint8) for sigma in (0, 5, 30)]


def test_lpips_orders_images(weights, images):
    clean, near, far = images
    assert calculate_lpips(clean, clean, weights) == 0
    assert 0 < calculate_lpips(clean, near, weights) < calculate_lpips(clean, far, weights)
    assert calculate_lpips(clean, far, weights) == pytest.approx(calculate_lpips(far, clean, weights), rel=1e-5)


def test_lpips_equals_the_package_called_directly(weights, alexnet, images):
    net = lpips.LPIPS(net='alex', pnet_rand=True, verbose=False)
    theirs = [layer for part in (getattr(net.net, f'slice{i}') for i in range(1, 6)) for layer in part]
    for layer, source in zip(theirs, alexnet, strict=False):
        layer.load_state_dict(source.state_dict())
    rgb = [torch.from_numpy(image[..., ::-1].astype(np.float32) / 255).permute(2, 0, 1)[None] for image in images]
    for other in (1, 2):
        expected = net(rgb[0], rgb[other], normalize=True).item()
        assert calculate_lpips(images[0], images[other], weights) == pytest.approx(expected, rel=1e-4)
    assert calculate_lpips(images[0][..., ::-1], images[2][..., ::-1], weights) != pytest.approx(expected, rel=1e-3)


def test_lpips_is_usable_from_an_option_file(weights, images, monkeypatch):
    monkeypatch.setenv(WEIGHTS_VARIABLE, weights)
    assert METRIC_REGISTRY.get('calculate_lpips') is calculate_lpips
    expected = calculate_lpips(images[0], images[1], weights)
    for options in ({'type': 'calculate_lpips', 'weights': weights}, {'type': 'calculate_lpips', 'better': 'lower'}):
        assert calculate_metric({'img': images[0], 'img2': images[1]}, options) == expected


@pytest.mark.parametrize('content, message', [
    (None, r'none\.pth: no such file'),
    ({'conv1.weight': torch.zeros(64, 3, 11, 11)}, r'bad\.pth: no entry features\.0\.weight'),
    ({'features.0.weight': torch.zeros(1)}, r'bad\.pth.*features\.0\.weight'),
    ('text', r'bad\.pth'),
])
def test_unusable_weights_are_named(content, message, images, tmp_path):
    path = tmp_path / ('none.pth' if content is None else 'bad.pth')
    if content == 'text':
        path.write_text('<html>404</html>')
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=message):
        calculate_lpips(images[0], images[1], str(path))


@ARCH_REGISTRY.register()
class Shift(nn.Module):
    """Adds a constant to an image."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, image):
        return image + self.by


@pytest.mark.parametrize('by, level', [(-0.01, 0), (-3, 0), (0.01, 1), (3, 1)])
def test_psnr_of_validation_clamps_what_leaves_the_range(by, level, tmp_path):
    metrics = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
    opt = small_opt(tmp_path, is_train=False, train=None, network_diffusion=None,
                    network_g={'type': 'Shift', 'by': by}, val={'save_img': False, 'metrics': metrics})
    model = NoiseDAModel(opt)
    flat = torch.full((1, 3, 8, 8), float(level))
    model.validation(Loader({'lq': flat, 'gt': flat}), 0, None)
    assert model.metric_results['psnr'] == math.inf
    model.validation(Loader({'lq': flat, 'gt': (flat - 51 / 255).abs()}), 0, None)
    assert model.metric_results['psnr'] == pytest.approx(20 * math.log10(5))
