"""Networks by name and by file: what is built, what is refused and in which words; the paper's presets."""
import inspect

import pytest
import safetensors.torch
import spandrel
import torch
from basicsr.archs import build_network
from basicsr.archs.swinir_arch import SwinIR
from basicsr.utils.registry import ARCH_REGISTRY
from tiny_networks import TINY

from noiseda_arch import SpandrelArch, spandrel_archs
from noiseda_arch.padding import pad_to_multiple, size_rule
from noiseda_arch.presets import PRESETS
from noiseda_basicsr import InputError
from noiseda_model.options import check_networks


def tiny(name, **changes):
    return build_network({'type': name, **TINY[name], **changes}).eval()


@pytest.fixture
def saved(tmp_path):
    """saved(weights) writes them as a .pth and returns its path."""

    def save(weights):
        torch.save(weights, tmp_path / 'network.pth')
        return str(tmp_path / 'network.pth')

    return save


# ---------------------------------------------------------------------- names and arguments


def test_basicsr_keeps_its_names():
    assert ARCH_REGISTRY.get('SwinIR') is SwinIR
    assert type(tiny('SwinIR_spandrel')).__module__.startswith('spandrel')


@pytest.mark.parametrize(('network', 'words'), [
    ({'type': 'NAFNet', 'widht': 8}, ['NAFNet', 'widht', 'width']),
    ({'type': 'SwinIR', 'upscale': 1, 'embed_dims': 60}, ['SwinIR', 'embed_dims', 'embed_dim']),
    ({'type': 'HAT', 'upscale': 4}, ['HAT', 'enlarge 4', 'upscale: 1']),
    ({'type': 'SAFMN'}, ['SAFMN', 'dim']),
])
def test_wrong_arguments_are_named(network, words):
    with pytest.raises(InputError) as error:
        check_networks({'network_g': network})
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(('name', 'arguments', 'word'), [
    ('OmniSR', {'up_scale': 2}, 'up_scale is 2'),
    ('DRCT', {'upsampler': ''}, 'upsampler'),
    ('RCAN_spandrel', {'n_feats': 8}, 'spandrel cannot read'),
    ('ESRGAN', {'in_nc': 3, 'out_nc': 1}, 'RGB to RGB, or grey to grey'),
    ('DnCNN', {'in_nc': 1, 'out_nc': 3}, 'DnCNN cannot be built'),
])
def test_what_does_not_restore_at_scale_1_is_refused(name, arguments, word):
    with pytest.raises(InputError, match=word):
        build_network({'type': name, **TINY[name], **arguments})


def test_signature_is_that_of_the_architecture_at_scale_1():
    parameters = inspect.signature(ARCH_REGISTRY.get('DAT')).parameters
    assert parameters['upscale'].default == 1 and parameters['embed_dim'].default == 180


def test_a_missing_extra_is_explained(monkeypatch, saved):
    with pytest.raises(InputError, match='Restormer needs the package spandrel_extra_arches'):
        spandrel_archs._missing('Restormer')(dim=8)
    path = saved({'params': tiny('Restormer').state_dict()})
    monkeypatch.setattr(spandrel_archs, 'REGISTRY', spandrel.MAIN_REGISTRY)
    with pytest.raises(InputError, match='does not recognise.*spandrel_extra_arches'):
        SpandrelArch(path)


# ---------------------------------------------------------------------- files


def test_a_file_is_rebuilt_with_its_averaged_weights(saved, tmp_path):
    net, average = tiny('SCUNet'), tiny('SCUNet')
    image = torch.rand(1, 3, 40, 44)
    rebuilt = SpandrelArch(saved({'params': net.state_dict(), 'params_ema': average.state_dict()}))
    assert (rebuilt.size_multiple, rebuilt.size_minimum, rebuilt.tiling_discouraged) == (1, 40, True)
    assert all(parameter.requires_grad for parameter in rebuilt.parameters())
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(image), average(image))
    safetensors.torch.save_file(net.state_dict(), tmp_path / 'network.safetensors')
    with torch.no_grad():
        assert torch.equal(SpandrelArch(str(tmp_path / 'network.safetensors')).eval()(image), net(image))


@pytest.mark.parametrize(('content', 'words'), [
    (lambda: spandrel_archs.importlib.import_module('spandrel.architectures.HAT').HAT(
        **{**TINY['HAT'], 'upscale': 2}).state_dict(), ['enlarges 2 times']),
    (lambda: spandrel_archs.importlib.import_module('spandrel.architectures.LaMa').LaMa(in_nc=4).state_dict(),
     ['LaMa', 'masked holes']),
    (lambda: tiny('RestorationUNet').state_dict(), ['does not recognise', 'path:pretrain_network_g']),
    (lambda: {}, ['does not recognise']),
])
def test_a_file_for_another_purpose_is_refused(content, words, saved):
    path = saved({'params': content()})
    with pytest.raises(InputError) as error:
        SpandrelArch(path)
    assert path in str(error.value) and all(word in str(error.value) for word in words)


def test_a_broken_file_is_named(tmp_path):
    for name in ('missing.pth', 'missing.safetensors', 'broken.pth', 'broken.safetensors'):
        if 'broken' in name:
            (tmp_path / name).write_bytes(b'PK nonsense')
        with pytest.raises(InputError, match=name):
            SpandrelArch(str(tmp_path / name))


# ---------------------------------------------------------------------- one image in, one out


def test_a_grey_network_restores_every_colour_by_itself():
    net = tiny('DnCNN', in_nc=1, out_nc=1)
    image = torch.rand(2, 3, 9, 7)
    with torch.no_grad():
        expected = torch.cat([net(image[:, channel:channel + 1]) for channel in range(3)], dim=1)
        torch.testing.assert_close(net(image), expected)


@pytest.mark.parametrize(('name', 'arguments'), [('DRUNet', {}), ('DnCNN', {'in_nc': 4, 'mode': 'FDnCNN'})])
def test_a_noise_level_map_is_that_of_spandrel(name, arguments):
    net = tiny(name, **arguments)
    image = torch.rand(2, 3, 16, 24)
    expected = torch.cat([spandrel.MAIN_REGISTRY.load(net.state_dict()).eval()(one[None]) for one in image])
    with torch.no_grad():
        torch.testing.assert_close(net(image).clamp(0, 1), expected)


@pytest.mark.parametrize(('size', 'rule', 'padded'), [
    ((5, 8), {'multiple': 4}, (8, 8)),
    ((5, 8), {'multiple': 4, 'minimum': 16}, (16, 16)),
    ((5, 30), {'multiple': 8, 'minimum': 10}, (16, 32)),
    ((5, 30), {'multiple': 8, 'square': True}, (32, 32)),
    ((16, 16), {'multiple': 8, 'minimum': 16, 'square': True}, (16, 16)),
])
def test_padding_satisfies_the_rule_as_spandrel_does(size, rule, padded):
    image = torch.rand(1, 3, *size)
    result = pad_to_multiple(image, **rule)
    assert result.shape[-2:] == padded and torch.equal(result[..., :size[0], :size[1]], image)
    sizes = spandrel.SizeRequirements(rule.get('minimum', 0), rule['multiple'], rule.get('square', False))
    assert sizes.get_padding(size[1], size[0]) == (padded[1] - size[1], padded[0] - size[0])


def test_sizes_come_from_the_network_unless_val_says_otherwise():
    assert size_rule(tiny('Uformer')) == {'multiple': 128, 'minimum': 0, 'square': True}
    assert size_rule(tiny('Uformer'), 64) == {'multiple': 64, 'minimum': 0, 'square': True}
    assert size_rule(tiny('SwinIR'))['multiple'] == 4
    assert size_rule(tiny('RRDBNet'))['multiple'] == 4
    assert size_rule(tiny('RestorationUNet'))['multiple'] == 2
    assert size_rule(torch.nn.Identity()) == {'multiple': 1, 'minimum': 0, 'square': False}


# ---------------------------------------------------------------------- presets


@pytest.mark.parametrize(('name', 'millions'), {
    'Unet-T': 2.14, 'Unet-S': 8.56, 'Unet-B': 12.07, 'Unet-deep': 65.19, 'Uformer-T': 5.23, 'Uformer-S': 20.63,
    'DnCNN-C': 0.67, 'SwinIR-M': 11.5, 'Restormer-48': 26.11, 'NAFNet-32': 29.16, 'RCAN-10x20': 15.3,
}.items())
def test_presets_have_their_published_sizes(name, millions):
    """Of the U-Nets: this paper's; of the others: their own papers' and repositories'."""
    net = build_network({'type': name})
    assert sum(parameter.numel() for parameter in net.parameters()) == pytest.approx(millions * 1e6, rel=0.005)


def test_a_preset_takes_changes_and_refuses_unknown_ones():
    assert build_network({'type': 'Unet-S', 'width': 8}).to_residual.in_channels == 8
    with pytest.raises(InputError, match='Uformer-B.*embed_dims.*embed_dim'):
        check_networks({'network_g': {'type': 'Uformer-B', 'embed_dims': 8}})
    assert {'Uformer-B', 'Unet-deep'} <= set(PRESETS)
