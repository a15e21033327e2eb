"""The joint step on a GPU computes what it computes on the CPU."""
import pytest
import torch

from noiseda_model.diffusion import Draws, diffusion_loss, draw, noise_levels, swap_residuals

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU, there is none here')


def test_losses_and_gradients_equal_the_cpu():
    from noiseda_arch import ConditionalUNet, RestorationUNet
    torch.manual_seed(0)
    nets = RestorationUNet(8, depth=2), ConditionalUNet(width=32, multipliers=(1, 1), blocks=1, dropout=0)
    for net in nets:
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    gt, lq, real = torch.rand(3, 2, 3, 16, 16)
    draws = draw(gt, noise_levels())
    results = []
    for device in ('cpu', 'cuda'):
        net_g, net_diffusion = (net.to(device) for net in nets)
        clean, syn, photo = (image.to(device) for image in (gt, lq, real))
        restored = net_g(syn), net_g(photo)
        negatives = swap_residuals(syn, restored[0], photo, restored[1])
        moved = Draws(*(values.to(device) for values in draws))
        loss = diffusion_loss(net_diffusion, clean, restored, moved, negatives).total
        parameters = [p for net in nets for p in net.parameters()]
        results.append([loss, *torch.autograd.grad(loss, parameters)])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu.detach(), rtol=1e-3, atol=1e-5)
