"""The two networks: published size and cost, every image size, and formulas against re-implementations."""
import math

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from noiseda_arch import ConditionalUNet, RestorationUNet
from noiseda_arch.conditional_unet_arch import ResidualBlock, SelfAttention, sinusoidal_embedding

SMALL = {
    'conditional': {'type': 'ConditionalUNet', 'width': 64, 'multipliers': (1, 1, 2), 'blocks': 1, 'dropout': 0},
    'restoration': {'type': 'RestorationUNet', 'width': 4, 'depth': 3},
}


def randomised(net):
    """No weight at zero, where residual branches, FiLM and attention are invisible."""
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


@pytest.fixture(params=SMALL)
def network(request):
    """(channels in, function of an image batch, network) of either network."""
    net = randomised(build_network(SMALL[request.param]))
    if request.param == 'restoration':
        return 3, net, net
    return 9, lambda x: net(x, torch.linspace(0.2, 0.9, len(x))), net


def cost(net, *inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(*inputs)
    return sum(p.numel() for p in net.parameters()), counter.get_total_flops() / 2


def test_conditional_unet_has_the_published_size_and_cost():
    with torch.device('meta'):
        parameters, macs = cost(ConditionalUNet(), torch.zeros(1, 9, 128, 128), torch.zeros(1))
    assert parameters == 62_643_075
    assert macs == pytest.approx(51.4e9, rel=0.01)


@pytest.mark.parametrize(('preset', 'millions', 'gmacs'), [('T', 2.14, 3.14), ('S', 8.56, 12.48), ('B', 12.07, 17.58)])
def test_restoration_unet_has_the_published_size_and_cost(preset, millions, gmacs):
    with torch.device('meta'):
        parameters, macs = cost(RestorationUNet(preset), torch.zeros(1, 3, 128, 128))
    assert parameters == pytest.approx(millions * 1e6, rel=0.01)
    assert macs == pytest.approx(gmacs * 1e9, rel=0.01)


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (2, 3), (5, 4), (37, 53), (8, 16)])
def test_any_size_gives_the_corner_of_the_padded_image(network, size):
    channels, run, net = network
    image = torch.rand(2, channels, *size)
    bottom, right = (math.ceil(side / 4) * 4 - side for side in size)
    mode = 'reflect' if bottom < size[0] and right < size[1] else 'edge'
    padded = torch.from_numpy(np.pad(image, [(0, 0), (0, 0), (0, bottom), (0, right)], mode=mode))
    with torch.no_grad():
        output = run(image)
        torch.testing.assert_close(output, run(padded)[..., :size[0], :size[1]])
    assert output.shape == (2, 3, *size)
    assert net.size_multiple == 4


def test_gradient_reaches_every_parameter(network):
    channels, run, net = network
    run(torch.rand(2, channels, 13, 11)).square().mean().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-9]
    assert not dead


def test_weights_load_strictly_into_a_freshly_built_network(network):
    channels, run, net = network
    name = 'restoration' if channels == 3 else 'conditional'
    fresh = build_network(SMALL[name]).eval()
    fresh.load_state_dict(net.state_dict(), strict=True)
    image = torch.rand(2, channels, 8, 8)
    levels = () if channels == 3 else (torch.linspace(0.2, 0.9, 2),)
    with torch.no_grad():
        assert torch.equal(run(image), fresh(image, *levels))


def test_untrained_conditional_unet_predicts_zero():
    net = ConditionalUNet(width=32, multipliers=(1, 2), blocks=1)
    assert not net(torch.randn(2, 9, 8, 8), torch.rand(2)).any()


def test_every_sample_is_denoised_at_its_own_noise_level():
    net = randomised(build_network(SMALL['conditional']))
    x, alpha_bar = torch.randn(1, 9, 8, 8).expand(2, -1, -1, -1), torch.tensor([0.1, 0.9])
    with torch.no_grad():
        both = net(x, alpha_bar)
        each = torch.cat([net(x[:1], level[None]) for level in alpha_bar])
    torch.testing.assert_close(both, each)
    assert (both[0] - both[1]).abs().mean() > 0.01 * both.std()


def test_dropout_acts_in_training_alone():
    net = randomised(ConditionalUNet(width=32, multipliers=(1, 2), blocks=1, dropout=0.2))
    inputs = torch.randn(1, 9, 8, 8), torch.rand(1)
    assert torch.equal(net(*inputs), net(*inputs))
    net.train()
    assert not torch.equal(net(*inputs), net(*inputs))


@pytest.mark.parametrize('resample', [None, 'down', 'up'])
def test_residual_block_against_its_formula(resample):
    block = randomised(ResidualBlock(32, 64, 5, dropout=0.2, resample=resample))
    x, embedding = torch.randn(2, 32, 6, 6), torch.randn(2, 5)
    change = {
        None: lambda image: image,
        'down': lambda image: image.unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5)),
        'up': lambda image: image.repeat_interleave(2, 2).repeat_interleave(2, 3),
    }[resample]
    with torch.no_grad():
        h = block.conv1(change(F.silu(F.group_norm(x, 32, block.norm1.weight, block.norm1.bias))))
        film = F.silu(embedding) @ block.film.weight.T + block.film.bias
        scale, shift = film[:, :64, None, None], film[:, 64:, None, None]
        h = F.group_norm(h, 32, block.norm2.weight, block.norm2.bias) * (1 + scale) + shift
        expected = block.shortcut(change(x)) + block.conv2(F.silu(h))
        torch.testing.assert_close(block(x, embedding), expected)


def test_self_attention_is_softmax_of_scaled_products():
    attention = randomised(SelfAttention(64, 32))
    x = torch.randn(2, 64, 3, 5)
    with torch.no_grad():
        normed = F.group_norm(x, 32, attention.norm.weight, attention.norm.bias).flatten(2)
        q, k, v = (attention.qkv.weight[:, :, 0, 0] @ normed + attention.qkv.bias[:, None]).chunk(3, dim=1)
        heads = [slice(0, 32), slice(32, 64)]
        # rows are channels, columns positions
        attended = torch.cat([
            v[:, head] @ torch.softmax(q[:, head].mT @ k[:, head] / math.sqrt(32), dim=-1).mT for head in heads
        ], dim=1)
        expected = x.flatten(2) + attention.project.weight[:, :, 0, 0] @ attended + attention.project.bias[:, None]
        torch.testing.assert_close(attention(x), expected.view_as(x))


def test_sinusoidal_embedding_closed_form():
    levels = [1e-4, 0.3, 1.0]
    expected = [[math.cos(a * 1e4**(-i / 4)) for i in range(4)] + [math.sin(a * 1e4**(-i / 4)) for i in range(4)]
                for a in levels]
    torch.testing.assert_close(sinusoidal_embedding(torch.tensor(levels), 8), torch.tensor(expected))


def test_restoration_unet_against_its_recursive_definition():
    net = randomised(RestorationUNet(width=4, depth=3))
    image = torch.rand(2, 3, 16, 24)

    def stage(convolutions, x):
        for conv in (convolutions[0], convolutions[2]):
            x = conv(x)
            x = torch.maximum(x, 0.2 * x)
        return x

    def level(number, x):
        x = stage(net.encoder[number], x)
        if number == 2:
            return x
        below = level(number + 1, x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5)))
        larger = F.interpolate(below, size=x.shape[2:], mode='bilinear', align_corners=True)
        return stage(net.decoder[1 - number], torch.cat([net.up[1 - number](larger), x], dim=1))

    with torch.no_grad():
        torch.testing.assert_close(net(image), image + net.to_residual(level(0, image)))


def test_restoration_unet_without_a_residual_is_the_identity():
    net = RestorationUNet(width=4, depth=3)
    torch.nn.init.zeros_(net.to_residual.weight)
    torch.nn.init.zeros_(net.to_residual.bias)
    image = torch.randn(2, 3, 7, 10)
    assert torch.equal(net(image), image)


@pytest.mark.parametrize(('arch', 'width'), [(ConditionalUNet, 40), (RestorationUNet, 'M'), (RestorationUNet, 0),
                                             (RestorationUNet, 1.5)])
def test_wrong_width_is_named(arch, width):
    with pytest.raises(ValueError, match=rf'{arch.__name__}: width must .*{width}'):
        arch(width=width)
