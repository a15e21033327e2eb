"""On a GPU: the joint step computes what it computes on the CPU, compiled or not; a full memory is told."""
import copy

import pytest
import torch
from cli import ROOT, losses, run

from noiseda_arch import ConditionalUNet, RestorationUNet
from noiseda_model.diffusion import Draws, diffusion_loss, draw, noise_levels, swap_residuals
from noiseda_model.engine import prepare_network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU, there is none here')


def test_losses_and_gradients_equal_the_cpu():
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


@pytest.mark.parametrize('net, more', [
    (RestorationUNet(8, depth=2), ()), (ConditionalUNet(width=32, multipliers=(1, 1), blocks=1, dropout=0), (0.5,)),
], ids=['g', 'diffusion'])
def test_a_compiled_network_computes_the_same(net, more):
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    net = net.cuda()
    image = torch.rand(2, 9 if more else 3, 16, 24, device='cuda')
    levels = [torch.full((2,), level, device='cuda') for level in more]
    results = []
    for module in (copy.deepcopy(net), prepare_network(net, channels_last=True, compiled=True)):
        output = module(image, *levels)
        results.append([output, *torch.autograd.grad(output.square().mean(), [*module.parameters()])])
    largest = max(gradient.abs().max().item() for gradient in results[0][1:])
    for plain, compiled in zip(*results, strict=True):  # a bias before GroupNorm has a gradient of zero
        atol = max(1e-2 * plain.abs().max().item(), 1e-6 * largest)
        torch.testing.assert_close(compiled, plain, rtol=1e-2, atol=atol)  # TF32


def test_a_full_memory_is_told_and_accumulate_helps(image_folder, tmp_path):
    """Of 400 MB; the step wants over a gigabyte."""
    for seed, name in enumerate(['gt', 'lq', 'real']):
        image_folder(name, 6, seed)
    limited = ('import runpy, sys, torch; _, total = torch.cuda.mem_get_info(); '
               'torch.cuda.set_per_process_memory_fraction(4e8 / total); del sys.argv[0]; '
               "runpy.run_path(sys.argv[0], run_name='__main__')")
    options = ['num_gpu=1', 'datasets:train:batch_size_per_gpu=256', 'datasets:train:gt_size=32', 'train:total_iter=2',
               'datasets:train:dataset_enlarge_ratio=200', 'val:val_freq=1000', 'logger:use_tb_logger=false']
    command = ['-c', limited, ROOT / 'scripts/train.py', '-opt', ROOT / 'tests/noiseda_basicsr/tiny.yml', '--force_yml',
               *options]
    full, divided = (run([*command, *more], tmp_path, {'CUDA_VISIBLE_DEVICES': '0'})
                     for more in (['name=full'], ['name=divided', 'train:engine={accumulate: 32}']))
    assert full.returncode and "The GPU's memory is full" in full.stdout and 'accumulate: 2' in full.stdout, full.stdout
    assert 'Traceback' not in full.stdout
    assert divided.returncode == 0 and len(losses(divided.stdout)) == 2, divided.stdout
