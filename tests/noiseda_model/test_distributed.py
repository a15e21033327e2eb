"""Two processes compute what one process computes on the doubled batch."""
import json

import pytest
import torch
from cli import ROOT, run

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
    for net_one, net_two in zip(one['weights'], two['weights'], strict=True):
        for name, weights in net_one.items():
            torch.testing.assert_close(net_two[name], weights, rtol=1e-5, atol=1e-6)
