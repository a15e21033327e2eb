"""Two processes compute what one process computes on the doubled batch."""
import json
import os

import pytest
import torch
from cli import ROOT, run
from small import batch, build, small_opt, step
from torch import nn

from noiseda_basicsr.fixes import apply_fixes

NORMS = ('grad_pix', 'grad_dif_syn', 'grad_dif_real')
LOSSES = ('l_pix', 'l_noise', 'l_con', 'lambda')


def options(margin):
    return {
        'name': 'ddp', 'is_train': True, 'num_gpu': 0, 'manual_seed': 0, 'path': {},
        'network_g': {'type': 'RestorationUNet', 'width': 4, 'depth': 2},
        'network_diffusion': {'type': 'ConditionalUNet', 'width': 32, 'multipliers': [1], 'blocks': 1, 'dropout': 0},
        'train': {
            'optim_g': {'type': 'SGD', 'lr': 0.1}, 'optim_diffusion': {'type': 'SGD', 'lr': 0.1}, 'ema_decay': 0.9,
            'total_iter': 10, 'pixel_opt': {'type': 'CharbonnierLoss', 'eps': 1e-6},
            'diffusion_opt': {'margin': margin},
        },
    }


@pytest.mark.parametrize('margin', [0.1, 0.0], ids=['open hinge', 'hinge near its corner'])
def test_two_processes_equal_one_with_the_doubled_batch(tmp_path, margin):
    (tmp_path / 'opt.json').write_text(json.dumps(options(margin)))
    results = []
    torchrun = ['-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone']
    for name, launcher in {'one': [], 'two': torchrun}.items():
        process = run([*launcher, ROOT / 'tests/ddp_step.py', tmp_path / name, tmp_path / 'opt.json'], tmp_path)
        assert process.returncode == 0, process.stdout
        results.append(torch.load(tmp_path / name))
    one, two = results
    for step_one, step_two in zip(one['losses'], two['losses'], strict=True):
        for name in LOSSES:
            # The hinge is a difference of errors near 1, each rounded to 1.2e-7.
            assert step_two[name] == pytest.approx(step_one[name], rel=1e-5, abs=5e-7), name
        for name in NORMS:  # a mean over processes of the norms of their shares
            assert step_two[name] == pytest.approx(step_one[name], rel=0.1), name
    for net_one, net_two in zip(one['weights'], two['weights'], strict=True):
        for name, weights in net_one.items():
            torch.testing.assert_close(net_two[name], weights, rtol=1e-5, atol=1e-6)


def test_all_processes_validate_the_network_of_process_0(tmp_path):
    """Batch normalisation has other statistics on each until then."""
    torch.multiprocessing.spawn(validate_one_network, [tmp_path], nprocs=2)
    one, two = (torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1))
    for before_one, before_two in zip(one['before'], two['before'], strict=True):
        assert before_one.eq(before_two).all() == (before_one.numel() == 1)  # but for the count of batches
    for after_two, before_one in zip(two['after'], one['before'], strict=True):
        torch.testing.assert_close(after_two, before_one, rtol=0, atol=0)


def validate_one_network(rank, folder):
    from basicsr.utils.registry import ARCH_REGISTRY  # imports only after noiseda_basicsr, in a process of its own
    ARCH_REGISTRY.register(Normalised)
    os.chdir(folder)
    torch.set_num_threads(1)
    apply_fixes()
    torch.distributed.init_process_group('gloo', f'file://{folder}/group', rank=rank, world_size=2)
    model = build(small_opt(folder, dist=True, rank=rank, world_size=2, network_g={'type': 'Normalised'},
                            network_diffusion=None, train__diffusion_opt=None))
    step(model, 1, batch(rank))
    before = [buffer.clone() for buffer in model.evaluation_net().buffers()]
    images = [{'lq': torch.rand(3, 8, 8), 'lq_path': f'{name}.png'} for name in 'ab']
    data_set = ValidationImages(images)
    data_set.opt = {'name': 'x'}
    model.validation(torch.utils.data.DataLoader(data_set), 1, None)
    model.log = {'gap': torch.tensor(float('nan') if rank else 1.0)}  # of a closed hinge: it has no gradient
    model.engine['on_nan'] = 'skip'
    norms = model.unscale_gradients()
    assert not model.gradients_are_finite(norms, 2) and model.skipped_steps == 1, 'the processes do not agree'
    torch.save({'before': before, 'after': list(model.evaluation_net().buffers())}, f'{rank}.pth')
    torch.distributed.barrier()
    os._exit(0)  # an orderly end with a DDP network alive can abort in gloo


class Normalised(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))


class ValidationImages(list):
    """A data set may have options."""
