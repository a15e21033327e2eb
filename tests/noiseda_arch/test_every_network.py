"""Every restoration network: a joint step, an image of odd size, saving, reading back here and in spandrel."""
import math

import pytest
import spandrel
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY
from tiny_networks import TINY
from torch import nn

from noiseda_arch.padding import size_rule
from noiseda_arch.presets import PRESETS
from noiseda_arch.spandrel_archs import EXTRA_RESTORERS, NETWORKS, REGISTRY, RESTORERS, SPANDREL_NETWORKS, UNSUITED
from noiseda_basicsr.fixes import apply_fixes
from noiseda_model import NoiseDAModel
from noiseda_model.inference import restore

# Parameters without a gradient, by what their names contain; DDP needs find_unused_parameters: true for these.
UNUSED = {
    'ECBSR': ['mask'],  # constants
    'FDAT': ['.inter.'],
    'FFTformer': ['reduce_chan_level2'],
    'HVICIDNet': ['I_LCA5', 'I_LCA6'],
    'SPAN': ['eval_conv'],  # the merged convolution, made anew in eval()
    'SwiftSRGAN': ['act'],
}


def options(tmp_path, network):
    (tmp_path / 'models').mkdir(exist_ok=True)
    return {
        'name': 'small', 'model_type': 'NoiseDAModel', 'is_train': True, 'num_gpu': 0, 'manual_seed': 0,
        'dist': False, 'rank': 0, 'world_size': 1, 'network_g': network,
        'datasets': {'train': {'name': 'train', 'dataroot_real': 'real', 'dataroot_ref': 'ref'}},
        'network_diffusion': {'type': 'ConditionalUNet', 'width': 32, 'multipliers': [1, 1, 1], 'blocks': 1},
        'path': {'models': str(tmp_path / 'models')},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'optim_diffusion': {'type': 'Adam', 'lr': 1e-3},
            'ema_decay': 0.9,
            'total_iter': 10,
            'pixel_opt': {'type': 'CharbonnierLoss', 'eps': 1e-6},
            'diffusion_opt': {},
        },
    }


def patch_size(net):
    rule = size_rule(net)
    return max(16, rule['minimum'] + -rule['minimum'] % rule['multiple'], rule['multiple'])


def test_the_table_holds_every_network():
    others = {'BasicVSR', 'BasicVSRPlusPlus', 'DUF', 'EDVR', 'IconVSR', 'SpyNet', 'TOFlow',  # videos
              'DFDNet', 'HiFaceGAN', 'HiFaceGANDiscriminator', 'StyleGAN2Generator', 'StyleGAN2Discriminator',  # faces
              'UNetDiscriminatorSN', 'VGGStyleDiscriminator', 'VGGFeatureExtractor',
              'MSRResNet',  # does not run at scale 1
              'ConditionalUNet', 'SpandrelArch'}
    registered = {name.removesuffix('_basicsr') for name, arch in ARCH_REGISTRY
                  if arch.__module__.startswith(('basicsr', 'noiseda_arch'))}
    assert registered - others - set(PRESETS) == set(TINY)
    assert set(SPANDREL_NETWORKS) < set(TINY)


def test_every_network_of_spandrel_is_registered_or_has_a_reason():
    names = {name for name, _ in NETWORKS.values()}
    assert names == {*RESTORERS, *EXTRA_RESTORERS, *UNSUITED}
    assert not set(UNSUITED) & {*RESTORERS, *EXTRA_RESTORERS}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', TINY)
def test_trains_validates_saves_and_loads(name, tmp_path):
    apply_fixes()
    network = {'type': name, **TINY[name]}
    model = NoiseDAModel(options(tmp_path, network))
    for parameter in model.net_diffusion.parameters():
        nn.init.normal_(parameter, std=0.1)  # at zero it would hide its conditions
    size = patch_size(model.net_g)
    before = {key: value.clone() for key, value in model.net_g.named_parameters()}
    model.feed_data({key: torch.rand(2, 3, size, size) for key in ('lq', 'gt', 'real')})
    model.optimize_parameters(1)

    log = model.get_current_log()
    assert all(math.isfinite(value) for value in log.values())
    assert log['grad_dif_syn'] > 0 and log['grad_dif_real'] > 0
    without = {key for key, parameter in model.net_g.named_parameters() if parameter.grad is None}
    assert all(any(part in key for part in UNUSED.get(name, [])) for key in without), without
    assert any(not torch.equal(before[key], value) for key, value in model.net_g.named_parameters())

    image = torch.rand(1, 3, 21, 27)
    model.feed_data({'lq': image})
    model.test()
    assert model.output.shape == image.shape and torch.isfinite(model.output).all()
    assert not torch.equal(model.output, image)

    model.save_networks(1)
    path = str(tmp_path / 'models/net_g_1.pth')
    fresh = build_network(dict(network))
    model.load_network(fresh, path, param_key='params_ema')
    with torch.no_grad():
        assert torch.equal(restore(fresh.eval(), image), model.output)
        if name in SPANDREL_NETWORKS:
            rebuilt = build_network({'type': 'SpandrelArch', 'path': path}).eval()
            torch.testing.assert_close(restore(rebuilt, image), model.output)
            loaded = spandrel.ModelLoader(registry=REGISTRY).load_from_file(path).eval()
            assert loaded.scale == 1
            if size_rule(fresh) == {'multiple': 1, 'minimum': 0, 'square': False}:  # spandrel pads otherwise
                torch.testing.assert_close(loaded(image), model.output.clamp(0, 1))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', TINY)
def test_samples_of_a_batch_do_not_mix_and_stay_as_they_are(name):
    """Or synthetic and real ones could not be restored together, nor a residual taken."""
    net = build_network({'type': name, **TINY[name]}).eval()
    size = patch_size(net)
    images = torch.rand(2, 3, size, size)
    before = images.clone()
    with torch.no_grad():
        together = net(images)
        torch.testing.assert_close(together, torch.cat([net(images[:1]), net(images[1:])]), rtol=1e-4, atol=1e-4)
    assert torch.equal(images, before)
