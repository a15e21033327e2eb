"""A tiny joint training, for the tests of the model and the engine."""
import torch

from noiseda_model import NoiseDAModel
from noiseda_model.diffusion import Draws

SIZE = 8


def small_opt(tmp_path, **changes):
    """Options of a tiny joint training as BasicSR hands them to a model.

    A change names its key with '__' between the levels, ``train__ema_decay=0``; None removes the key.
    """
    for folder in ('models', 'training_states', 'visualization'):
        (tmp_path / folder).mkdir(exist_ok=True)
    opt = {
        'name': 'small', 'model_type': 'NoiseDAModel', 'is_train': True, 'num_gpu': 0, 'manual_seed': 0,
        'dist': False, 'rank': 0, 'world_size': 1, 'auto_resume': False,
        'datasets': {'train': {'name': 'train', 'gt_size': SIZE, 'dataroot_real': 'real', 'dataroot_ref': 'ref'}},
        'network_g': {'type': 'RestorationUNet', 'width': 4, 'depth': 2},
        'network_diffusion': {'type': 'ConditionalUNet', 'width': 32, 'multipliers': [1], 'blocks': 1, 'dropout': 0},
        'path': {name: str(tmp_path / name) for name in ('models', 'training_states', 'visualization')},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'optim_diffusion': {'type': 'Adam', 'lr': 2e-3},
            'ema_decay': 0.9999,
            'total_iter': 10,
            'pixel_opt': {'type': 'CharbonnierLoss', 'eps': 1e-6},
            'diffusion_opt': {},
        },
        'val': {'val_freq': 1, 'save_img': False},
    }
    for key, value in changes.items():
        *parents, last = key.split('__')
        block = opt
        for parent in parents:
            block = block[parent]
        if value is None:
            del block[last]
        else:
            block[last] = value
    return opt


def batch(seed=0, size=SIZE, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.rand(2, 3, size, size, generator=generator, dtype=dtype) for key in ('lq', 'gt', 'real', 'ref')}


def fixed_draws(n, dtype):
    generator = torch.Generator().manual_seed(100 + n)
    alpha_bar = torch.rand(2, generator=generator, dtype=dtype) * 0.8 + 0.1
    noise = torch.randn(2, 3, SIZE, SIZE, generator=generator, dtype=dtype)
    swap = torch.tensor([n % 2 == 0, True])
    return Draws(alpha_bar, noise, swap, torch.tensor([False, n % 3 == 0]))


def build(opt, dtype=torch.float32, std=0.1):
    """A model with no weight at zero, where the diffusion network would hide its conditions."""
    model = NoiseDAModel(opt)
    torch.manual_seed(1)
    for net in networks(model).values():
        for parameter in net.parameters():
            parameter.data.copy_(torch.empty(parameter.shape).normal_(std=std))  # as drawn in any memory layout
        net.to(dtype)
    if hasattr(model, 'net_g_ema'):
        model.model_ema(0)
    if dtype == torch.float64:
        model.draw = lambda: fixed_draws(1, dtype)
    return model


def networks(model):
    names = ('net_g', 'net_g_ema', 'net_diffusion')
    return {name: getattr(model, name) for name in names if hasattr(model, name)}


def weights(model):
    return {f'{name}.{key}': value.clone()
            for name, net in networks(model).items() for key, value in net.state_dict().items()}


def step(model, iteration, data):
    model.feed_data(data)
    model.optimize_parameters(iteration)
    return model.get_current_log()


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    different = [key for key in actual if not torch.equal(actual[key], expected[key])]
    assert not different, different
