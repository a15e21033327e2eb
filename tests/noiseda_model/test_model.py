"""NoiseDAModel against an independent implementation of the method, and what it promises around training."""
import copy
import math

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model
from basicsr.utils.registry import ARCH_REGISTRY, METRIC_REGISTRY
from small import SIZE, assert_equal, batch, build, fixed_draws, networks, small_opt, step, weights
from torch import nn
from torch.nn import functional as F

from noiseda_basicsr import InputError
from noiseda_basicsr.checkpoint import load_resume_state
from noiseda_basicsr.fixes import apply_fixes
from noiseda_model import NoiseDAModel

# ---------------------------------------------------------------------- (1) parity


VARIANTS = {
    'paired': {},
    'hinge closed': {'margin': -100},
    'no shuffle': {'channel_shuffle': False},
    'no swap': {'residual_swap': False},
    'extension': {'clean': 'ref', 'residual_swap': False},
    'syn': {'conditions': ['syn'], 'residual_swap': False},
    'real': {'conditions': ['real'], 'residual_swap': False},
    'range -1 1': {'diffusion_range': [-1, 1]},
    'ramp': {'ramp_iters': 2, 'beta': 0.7, 'gamma': 3},
    'vanilla': None,
}


class Reference:
    """The method by its formulas, one image at a time."""

    def __init__(self, model, options):
        self.options = options
        self.g, self.ema = copy.deepcopy(model.net_g), copy.deepcopy(model.net_g)
        self.adam_g = torch.optim.Adam(self.g.parameters(), lr=1e-3)
        if options is not None:
            self.phi = copy.deepcopy(model.net_diffusion)
            self.adam_phi = torch.optim.Adam(self.phi.parameters(), lr=2e-3)

    def networks(self):
        return {'net_g': self.g, 'net_g_ema': self.ema, **({} if self.options is None else {'net_diffusion': self.phi})}

    def distance(self, clean, pairs, draws, swap):
        shift = (lambda x: 2 * x - 1) if self.options.get('diffusion_range') == [-1, 1] else (lambda x: x)
        total = 0
        for i, (y, conditions) in enumerate(zip(clean, zip(*pairs, strict=True), strict=True)):
            x_t = draws.alpha_bar[i]**0.5 * shift(y) + (1 - draws.alpha_bar[i])**0.5 * draws.noise[i]
            if swap[i] and self.options.get('channel_shuffle', True):
                conditions = conditions[::-1]
            x = torch.cat([x_t, *map(shift, conditions)])[None]
            total += ((self.phi(x, draws.alpha_bar[i:i + 1])[0] - draws.noise[i])**2).sum()
        return total / clean.numel()

    def step(self, n, data, draws):
        lq, gt, real, ref = (data[key] for key in ('lq', 'gt', 'real', 'ref'))
        self.adam_g.zero_grad()
        syn, adapted = self.g(lq), self.g(real)
        log = {'l_pix': ((syn - gt)**2 + 1e-6).sqrt().mean()}
        loss = log['l_pix']
        options = self.options
        if options is not None:
            self.adam_phi.zero_grad()
            pair = [{'syn': syn, 'real': adapted}[name] for name in options.get('conditions', ['syn', 'real'])]
            clean = ref if options.get('clean') == 'ref' else gt
            l_dif = log['l_noise'] = self.distance(clean, pair, draws, draws.swap)
            if options.get('residual_swap', True):
                negatives = [lq + (adapted - real), real + (syn - lq)]
                d_neg = self.distance(clean, negatives, draws, draws.swap_negative)
                log['l_con'] = (log['l_noise'] - d_neg + options.get('margin', 0.1)).clamp(min=0)
                l_dif = 0.5 * (log['l_noise'] + log['l_con'])
            p = min(n / options.get('ramp_iters', 10), 1)
            weight = options.get('beta', 0.2) * (2 / (1 + math.exp(-options.get('gamma', 5) * p)) - 1)
            loss = loss + weight * l_dif
            log['lambda'] = torch.tensor(weight)
        loss.backward()
        self.adam_g.step()
        if options is not None:
            self.adam_phi.step()
        decay = min(0.9999, (1 + n) / (10 + n))
        with torch.no_grad():
            for average, parameter in zip(self.ema.parameters(), self.g.parameters(), strict=True):
                average.copy_(decay * average + (1 - decay) * parameter)
        return {name: value.item() for name, value in log.items()}


@pytest.mark.parametrize('variant', VARIANTS)
def test_five_steps_equal_an_independent_implementation(variant, tmp_path, monkeypatch):
    # In float64, where Adam's division by small gradients does not blow up the rounding of another order of summation.
    dtype, options = torch.float64, VARIANTS[variant]
    opt = small_opt(tmp_path, train__diffusion_opt=options)
    if options is None:
        del opt['network_diffusion'], opt['train']['optim_diffusion']
    elif 'conditions' in options:
        opt['network_diffusion']['in_channels'] = 6
    model = build(opt, dtype)
    reference = Reference(model, options)

    def draw():
        return fixed_draws(n, dtype)

    monkeypatch.setattr(model, 'draw', draw)
    for n in range(1, 6):
        data = batch(n, dtype=dtype)
        log = step(model, n, data)
        expected = reference.step(n, data, fixed_draws(n, dtype))
        assert {name for name in set(log) - set(expected) if not name.startswith('grad_')} <= {'gap'}
        assert {name: log[name] for name in expected} == pytest.approx(expected, rel=1e-6)
        assert networks(model).keys() == reference.networks().keys()
        for name, net in reference.networks().items():
            for value, wanted in zip(getattr(model, name).parameters(), net.parameters(), strict=True):
                torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-9)
    if 'l_con' in log:
        assert (log['l_con'] == 0) == (variant == 'hinge closed')


@pytest.mark.parametrize('variant', ['paired', 'extension', 'syn'])
def test_a_step_in_fp32_equals_an_independent_implementation(variant, tmp_path, monkeypatch):
    options = VARIANTS[variant]
    optimizers = {f'train__optim_{net}': {'type': 'SGD', 'lr': 0.1} for net in ('g', 'diffusion')}
    opt = small_opt(tmp_path, train__diffusion_opt=options, **optimizers)
    opt['network_diffusion']['in_channels'] = 3 + 3 * len(options.get('conditions', ['syn', 'real']))
    model = build(opt)
    reference = Reference(model, options)
    reference.adam_g = torch.optim.SGD(reference.g.parameters(), lr=0.1)
    reference.adam_phi = torch.optim.SGD(reference.phi.parameters(), lr=0.1)
    monkeypatch.setattr(model, 'draw', lambda: fixed_draws(5, torch.float32))
    log, expected = step(model, 5, batch()), reference.step(5, batch(), fixed_draws(5, torch.float32))
    assert {name: log[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    for net, other in ((model.net_g, reference.g), (model.net_diffusion, reference.phi)):
        update, wanted = (torch.cat([p.grad.flatten() for p in nets.parameters()]) for nets in (net, other))
        assert (update - wanted).norm() <= 1e-5 * wanted.norm() > 0  # SGD: the update is -0.1 of it


# ---------------------------------------------------------------------- (2) gradients


def losses_of(model, iteration=5):
    """L_res, L_dif and the two restored images, as the model computes them."""
    model.feed_data(batch(dtype=next(model.net_g.parameters()).dtype))
    model.log = {}
    model.seed(iteration)
    part, = model.split_batch(**model.draw()._asdict())
    restored = dict(zip(('syn', 'real'), model.restore_batch(part), strict=True))
    model.seed(iteration, 0)
    l_dif = model.adaptation_loss(part, restored)
    return model.restoration_loss(restored['syn'], part.gt), l_dif, restored


@pytest.mark.parametrize('variant', ['paired', 'no swap', 'extension'])
def test_l_dif_reaches_theta_through_both_conditions_and_l_res_gives_phi_nothing(variant, tmp_path):
    model = build(small_opt(tmp_path, train__diffusion_opt=VARIANTS[variant]), torch.float64)
    l_res, l_dif, restored = losses_of(model)
    theta, phi = list(model.net_g.parameters()), list(model.net_diffusion.parameters())
    assert all(g is None for g in torch.autograd.grad(l_res, phi, retain_graph=True, allow_unused=True))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(l_dif, phi, retain_graph=True))

    at_outputs = torch.autograd.grad(l_dif, restored.values(), retain_graph=True)
    through = [torch.autograd.grad(image, theta, gradient, retain_graph=True)
               for image, gradient in zip(restored.values(), at_outputs, strict=True)]
    for gradients in through:
        assert all(g.abs().sum() > 0 for g in gradients)
    total = torch.autograd.grad(l_dif, theta)
    for syn, real, both in zip(*through, total, strict=True):
        torch.testing.assert_close(syn + real, both)


def test_at_lambda_zero_l_dif_moves_nothing(tmp_path):
    joint = build(small_opt(tmp_path, train__diffusion_opt={'beta': 0.0}), torch.float64)
    vanilla = build(small_opt(tmp_path, train__diffusion_opt=None, network_diffusion=None), torch.float64)
    vanilla.net_g.load_state_dict(joint.net_g.state_dict())
    vanilla.model_ema(0)
    phi = copy.deepcopy(joint.net_diffusion.state_dict())
    assert step(joint, 1, batch(dtype=torch.float64))['lambda'] == 0
    step(vanilla, 1, batch(dtype=torch.float64))
    assert_equal(joint.net_diffusion.state_dict(), phi)
    for key, value in vanilla.net_g.state_dict().items():
        torch.testing.assert_close(joint.net_g.state_dict()[key], value)


@pytest.mark.parametrize('conditions', [['syn', 'real'], ['syn'], ['real']])
def test_logged_gradients_are_those_at_the_network_output(conditions, tmp_path):
    options = {'conditions': conditions, 'residual_swap': len(conditions) == 2}
    opt = small_opt(tmp_path, train__diffusion_opt=options)
    opt['network_diffusion']['in_channels'] = 3 + 3 * len(conditions)
    model = build(opt, torch.float64)
    l_res, l_dif, restored = losses_of(model, iteration=5)
    expected = {'grad_pix': torch.autograd.grad(l_res, restored['syn'], retain_graph=True)[0].norm().item()}
    for name in conditions:  # of lambda L_dif, what the network gets
        gradient, = torch.autograd.grad(l_dif, restored[name], retain_graph=True)
        expected[f'grad_dif_{name}'] = 0.2 * math.tanh(5 * 0.5 / 2) * gradient.norm().item()
    log = step(model, 5, batch(dtype=torch.float64))
    assert {name: log[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    for name, net in (('grad_g', model.net_g), ('grad_diffusion', model.net_diffusion)):
        assert log[name] == pytest.approx(torch.cat([p.grad.flatten() for p in net.parameters()]).norm().item())


# ---------------------------------------------------------------------- (3) a golden curve, (4) the seed


GOLDEN = {
    'l_pix': [0.357908, 0.339354, 0.348232, 0.321059, 0.361302],
    'l_noise': [1.00838, 1.03753, 0.917237, 1.0006, 0.946234],
    'l_con': [0.106481, 0.113713, 0.0963425, 0.0974643, 0.103475],
    'lambda': [0.0489837, 0.0924234, 0.12703, 0.152319, 0.169657],
}


def test_golden_curve(tmp_path):
    opt = small_opt(tmp_path)
    opt['network_diffusion'].update(multipliers=[1, 1], dropout=0.2)
    model = build(opt)
    logs = [step(model, n, batch(n)) for n in range(1, 6)]
    for name, values in GOLDEN.items():
        assert [log[name] for log in logs] == pytest.approx(values, rel=1e-4), name


def test_draws_follow_from_seed_rank_and_iteration_alone(tmp_path):
    opt = small_opt(tmp_path)
    opt['network_diffusion']['dropout'] = 0.5
    model = build(opt)
    before = weights(model)

    def drawn(iteration, history=0, **changes):
        """What the step draws, and the loss, which dropout alters too."""
        model.opt = {**opt, **changes}
        for name, net in networks(model).items():
            net.load_state_dict({key: before[f'{name}.{key}'] for key in net.state_dict()})
        torch.manual_seed(1000 + history)
        torch.rand(history)
        seen = []
        original = NoiseDAModel.draw
        model.draw = lambda: seen.append(original(model)) or seen[0]
        log = step(model, iteration, batch())
        return torch.cat([part.flatten().float() for part in seen[0]] + [torch.tensor([log['l_noise']])])

    first = drawn(7)
    assert torch.equal(first, drawn(7, history=3))
    for other in (drawn(8), drawn(7, rank=1), drawn(7, manual_seed=1), drawn(8, rank=1), drawn(0, rank=7)):
        assert not torch.equal(first[4:-1], other[4:-1])
    # (seed, rank) = (0, 1) and (1, 0) must not meet, as they do where the two are added.
    assert not torch.equal(drawn(7, rank=1), drawn(7, manual_seed=1))


# ---------------------------------------------------------------------- (5) saving and resuming


def test_resume_continues_bit_identically(tmp_path):
    apply_fixes()
    opt = small_opt(tmp_path)
    opt['network_diffusion']['dropout'] = 0.2
    first = build(opt)
    for n in range(1, 4):
        step(first, n, batch(n))
    first.save(0, 3)
    logs = [step(first, n, batch(n)) for n in range(4, 7)]

    opt = small_opt(tmp_path, path__resume_state=str(tmp_path / 'training_states' / '3.state'))
    opt['network_diffusion']['dropout'] = 0.2
    state = load_resume_state(opt)
    assert (state['epoch'], state['iter']) == (0, 3)
    torch.manual_seed(99)
    second = NoiseDAModel(opt)
    second.resume_training(state)
    assert [step(second, n, batch(n)) for n in range(4, 7)] == logs
    assert_equal(weights(second), weights(first))
    for ours, theirs in zip(second.optimizers, first.optimizers, strict=True):
        for mine, other in zip(ours.state_dict()['state'].values(), theirs.state_dict()['state'].values(), strict=True):
            assert_equal(mine, other)


def test_a_record_of_other_metrics_is_forgotten(tmp_path):
    first = build(small_opt(tmp_path))
    record = {'better': 'higher', 'val': 30.0, 'iter': 1}
    first.best_metric_results = {'val': {'psnr': record}}
    step(first, 1, batch())
    first.save(0, 1)
    for metrics in ({'psnr': {}}, {'psnr': {}, 'ssim': {}}):
        opt = small_opt(tmp_path, path__resume_state=str(tmp_path / 'training_states' / '1.state'))
        second = build(opt)
        opt['val'] = {'metrics': metrics}
        second.opt = opt
        second.resume_training(load_resume_state(opt))
        assert second.best_metric_results == ({'val': {'psnr': record}} if len(metrics) == 1 else {})


@pytest.mark.parametrize('ema_decay', [0.9, 0])
def test_saved_restoration_network_stands_alone(ema_decay, tmp_path):
    opt = small_opt(tmp_path, train__ema_decay=ema_decay)
    model = build(opt)
    step(model, 1, batch())
    model.save(0, 1)
    saved = torch.load(tmp_path / 'models' / 'net_g_1.pth', weights_only=True)
    assert saved.pop('network_g') == opt['network_g']
    assert set(saved) == ({'params', 'params_ema'} if ema_decay else {'params'})
    for key, name in [('params', 'net_g'), ('params_ema', 'net_g_ema')][:len(saved)]:
        assert_equal(saved[key], getattr(model, name).state_dict())
        build_network(opt['network_g']).load_state_dict(saved[key], strict=True)
    assert (tmp_path / 'models' / 'net_diffusion_1.pth').is_file()


def test_test_phase_has_no_diffusion_network_and_takes_the_average(tmp_path):
    model = build(small_opt(tmp_path, train__ema_decay=0.5))
    step(model, 1, batch())
    model.save(0, 1)
    path = {'pretrain_network_g': str(tmp_path / 'models' / 'net_g_1.pth'), 'param_key_g': 'params_ema'}
    opt = small_opt(tmp_path, is_train=False, train=None)
    opt['path'].update(path)
    tester = NoiseDAModel(opt)
    assert not hasattr(tester, 'net_diffusion') and not tester.optimizers
    data = batch(5)
    for each in (tester, model):
        each.feed_data(data)
        each.test()
    assert torch.equal(tester.output, model.output)
    assert torch.equal(tester.output, model.net_g_ema(data['lq']))
    assert not torch.equal(tester.output, model.net_g(data['lq']))


def test_training_starts_from_pretrained_networks(tmp_path):
    first = build(small_opt(tmp_path))
    step(first, 1, batch())
    first.save(0, 1)
    files = {name: str(tmp_path / 'models' / f'net_{name}_1.pth') for name in ('g', 'diffusion')}
    paths = {f'path__pretrain_network_{name}': file for name, file in files.items()}
    assert_equal(weights(NoiseDAModel(small_opt(tmp_path, **paths))), weights(first))


# ---------------------------------------------------------------------- (6) EMA, batch norm, the fused pass


@ARCH_REGISTRY.register()
class TinyBatchNorm(nn.Module):

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image):
        return image + self.conv(self.norm(image))


def test_batch_norm_sees_one_domain_at_a_time_and_its_buffers_reach_the_average(tmp_path):
    model = NoiseDAModel(small_opt(tmp_path, network_g={'type': 'TinyBatchNorm'}))
    data = batch()
    data['real'] = data['real'] * 5 + 7
    expected = torch.zeros(3), torch.ones(3)
    for name in ('lq', 'real'):
        for running, statistic in zip(expected, (data[name].mean((0, 2, 3)), data[name].var((0, 2, 3))), strict=True):
            running.lerp_(statistic, 0.1)
    net = copy.deepcopy(model.net_g)
    model.feed_data(data)
    restored = model.restore_batch(*model.split_batch())
    for actual, name in zip(restored, ('lq', 'real'), strict=True):
        image = data[name]
        normal = (image - image.mean((0, 2, 3), True)) / (image.var((0, 2, 3), False, keepdim=True) + 1e-5).sqrt()
        normal = normal * net.norm.weight.view(-1, 1, 1) + net.norm.bias.view(-1, 1, 1)
        torch.testing.assert_close(actual, image + net.conv(normal))
    torch.testing.assert_close((model.net_g.norm.running_mean, model.net_g.norm.running_var), expected)

    step(model, 1, data)
    buffers = dict(model.net_g_ema.named_buffers())
    assert_equal(buffers, dict(model.net_g.named_buffers()))
    assert buffers['norm.num_batches_tracked'] == 4


@pytest.mark.parametrize('n, decay', [(1, 2 / 11), (8, 0.5), (89, 90 / 99), (10**6, 0.99)])
def test_ema_warms_up(n, decay, tmp_path):
    model = build(small_opt(tmp_path, train__ema_decay=0.99))
    before = copy.deepcopy(model.net_g_ema.state_dict())
    for parameter in model.net_g.parameters():
        parameter.data += 1  # away from the average
    step(model, n, batch())
    for key, value in model.net_g.state_dict().items():
        torch.testing.assert_close(model.net_g_ema.state_dict()[key], decay * before[key] + (1 - decay) * value)


def test_fused_pass_equals_two_passes(tmp_path):
    model = build(small_opt(tmp_path))
    model.feed_data(batch())
    passes = []
    handle = model.net_g.register_forward_hook(lambda *_: passes.append(1))
    restored = model.restore_batch(*model.split_batch())
    assert len(passes) == 1
    handle.remove()
    for actual, name in zip(restored, ('lq', 'real'), strict=True):
        torch.testing.assert_close(actual, model.net_g(batch()[name]))


# ---------------------------------------------------------------------- (7) NaN, (8) validation


@pytest.mark.parametrize('key', ['gt', 'real'])
def test_a_nan_stops_the_run_before_it_reaches_the_weights(key, tmp_path):
    model = build(small_opt(tmp_path))
    step(model, 6, batch())
    before, states = weights(model), copy.deepcopy([o.state_dict() for o in model.optimizers])
    data = batch()
    data[key][0, 0, 0, 0] = float('nan')
    with pytest.raises(InputError, match=r'iteration 7.*l_pix.*lr'):
        step(model, 7, data)
    assert_equal(weights(model), before)
    assert str([o.state_dict() for o in model.optimizers]) == str(states)
    saved = torch.load(tmp_path / 'models' / 'net_g_before_nan_7.pth', weights_only=True)
    assert_equal(saved['params'], model.net_g.state_dict())
    assert_equal(saved['params_ema'], model.net_g_ema.state_dict())
    assert (tmp_path / 'models' / 'net_diffusion_before_nan_7.pth').is_file()


class Loader(list):
    """Batches of one image, as far as validation looks at a data loader."""

    def __init__(self, *batches, name='val'):
        super().__init__({**images, 'lq_path': [f'{name}_{number}.png']} for number, images in enumerate(batches))
        self.dataset = type('', (), {'opt': {'name': name}})


MEASURED = []


@METRIC_REGISTRY.register()
def record_images(img, img2=None, **_):
    MEASURED.append((img, img2))
    return 0


def one(tensor):
    return tensor[:1]


def test_no_image_is_measured_against_the_ground_truth_of_another(tmp_path):
    val = {'val_freq': 1, 'save_img': False, 'metrics': {'record': {'type': 'record_images'}}}
    model = build(small_opt(tmp_path, val=val))
    step(model, 1, batch())
    MEASURED.clear()
    with_gt = {'lq': one(batch(1)['lq']), 'gt': one(batch(1)['gt'])}
    without = {'lq': one(batch(2)['lq'])}
    model.validation(Loader(without), 1, None)
    model.validation(Loader(with_gt, name='paired'), 1, None)
    model.validation(Loader(without), 1, None)
    assert [img2 is None for _, img2 in MEASURED] == [True, False, True]


@pytest.mark.parametrize('sets', [1, 2])
def test_images_of_equal_names_in_several_sets_are_kept_apart(tmp_path, sets):
    names = ['first set', 'second'][:sets]
    opt = small_opt(tmp_path, val={'val_freq': 1, 'save_img': True, 'suffix': None})
    opt['datasets'] |= {f'val_{number}': {'name': name, 'dataroot_gt': 'gt'} for number, name in enumerate(names)}
    model = build(opt)
    for number, name in enumerate(names):
        loader = Loader({'lq': one(batch(number)['lq'])}, name='photo')  # photo_0.png
        loader.dataset.opt = {'name': name}
        model.validation(loader, 5, None, save_img=True)
    folder = tmp_path / 'visualization'
    saved = [(folder / name if sets == 2 else folder) / 'photo_0/photo_0_5.png' for name in names]
    assert sorted(folder.rglob('photo_0*.png')) == sorted(saved)
    assert len({path.read_bytes() for path in saved}) == sets
    assert model.opt is opt


def test_samples_of_the_training_batch_are_drawn_and_training_goes_on(tmp_path):
    model = build(small_opt(tmp_path))
    data = batch(3)
    step(model, 1, data)
    model.validation(Loader({'lq': one(batch(4)['lq']), 'gt': one(batch(4)['gt'])}), 1, None)
    grid = cv2.imread(str(tmp_path / 'visualization' / 'samples_1.png'))[..., ::-1]
    for row in range(2):
        restored = [model.net_g_ema(data[name])[row] for name in ('lq', 'real')]
        for column, image in enumerate([data['lq'][row], restored[0], data['gt'][row], data['real'][row], restored[1]]):
            top, left = 2 + row * (SIZE + 2), 2 + column * (SIZE + 2)
            expected = (image.detach().clamp(0, 1) * 255).permute(1, 2, 0).numpy()
            assert np.abs(grid[top:top + SIZE, left:left + SIZE] - expected).max() < 0.6
    assert model.net_g.training and model.net_diffusion.training
    step(model, 2, batch(4))


def test_validation_pads_and_tiles_as_val_says(tmp_path):
    val = {'val_freq': 1, 'save_img': False, 'size_multiple': 2, 'tile': 4, 'tile_overlap': 1}
    model = build(small_opt(tmp_path, val=val))
    sizes = []
    model.net_g_ema.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    model.feed_data({'lq': torch.rand(1, 3, 7, 5)})
    model.test()
    assert set(sizes) == {(4, 4)} and len(sizes) > 1
    assert model.output.shape == (1, 3, 7, 5)


# ---------------------------------------------------------------------- (9) any network of BasicSR


@pytest.mark.parametrize('network', [
    {'type': 'SwinIR', 'img_size': 8, 'window_size': 4, 'depths': [2], 'num_heads': [2], 'embed_dim': 12,
     'mlp_ratio': 2, 'upscale': 1, 'upsampler': '', 'drop_path_rate': 0.0},
    {'type': 'RCAN', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_group': 1, 'num_block': 1,
     'squeeze_factor': 4, 'upscale': 1, 'img_range': 1.0},
], ids=lambda network: network['type'])
def test_any_network_of_basicsr_takes_a_joint_step(network, tmp_path):
    model = NoiseDAModel(small_opt(tmp_path, network_g=network))
    for parameter in model.net_diffusion.parameters():
        nn.init.normal_(parameter, std=0.1)
    before = weights(model)
    log = step(model, 1, batch())
    assert all(math.isfinite(value) for value in log.values()) and log['grad_dif_real'] > 0
    after = weights(model)
    unmoved = [f'{name}.{key}' for name, net in networks(model).items() for key, parameter in net.named_parameters()
               if torch.equal(before[f'{name}.{key}'], after[f'{name}.{key}'])]
    assert not unmoved


@ARCH_REGISTRY.register()
class Odd(nn.Module):
    """A network that does not map an image to an image, in the way it is told."""

    def __init__(self, way):
        super().__init__()
        self.way, self.scale = way, nn.Parameter(torch.ones(1))

    def forward(self, image):
        ways = {'enlarges': lambda: F.interpolate(image, scale_factor=2) * self.scale, 'lists': lambda: [image],
                'grey': lambda: F.conv2d(image, torch.ones(1, 1, 3, 3)), 'slips': lambda: image.nothing,
                'slips in numpy': lambda: np.stack([np.zeros(2), np.zeros(3)]),
                'halves': lambda: F.interpolate(image[..., ::2, ::2], scale_factor=2) * self.scale,
                'halves and adds': lambda: image + F.interpolate(image[..., ::2, ::2], scale_factor=2) * self.scale}
        return ways[self.way]()


@pytest.mark.parametrize('way, message', [
    ('enlarges', r'Odd turns \(1, 3, 8, 8\) into \(1, 3, 16, 16\); it must map an image to an image of the same size'),
    ('lists', 'Odd turns .* into a list; it must map an image to an image'),
    ('grey', r'Odd does not take an RGB image of 8x8 \(RuntimeError: .*channels.*; test_model.py, line \d+\)'),
    ('slips', r"Odd does not take .*'Tensor' object has no attribute 'nothing'; test_model.py, line \d+\)"),
])
def test_a_network_that_is_none_for_images_is_told_before_it_is_trained(tmp_path, way, message):
    with pytest.raises(InputError, match=message):
        NoiseDAModel(small_opt(tmp_path, network_g={'type': 'Odd', 'way': way}))


@pytest.mark.parametrize('way, message', [
    ('halves', r'turns \(1, 3, 9, 9\) into'), ('halves and adds', 'does not take an RGB image of 9x9')])
def test_a_network_for_certain_sizes_only_is_told_where_there_are_others_to_validate(tmp_path, way, message):
    opt = small_opt(tmp_path, network_g={'type': 'Odd', 'way': way})
    step(NoiseDAModel(opt), 1, batch())
    opt['datasets']['val'] = {'name': 'val', 'dataroot_gt': 'gt'}
    with pytest.raises(InputError, match=f'Odd .*{message}.*same size|{message}.*size_multiple in its class'):
        NoiseDAModel(opt)
    NoiseDAModel({**opt, 'val': {'val_freq': 1, 'size_multiple': 2}})


@ARCH_REGISTRY.register()
class Normalised(nn.Module):
    """Draws at random and counts its batches, in training."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))

    def forward(self, image):
        return self.net(image)


def test_trying_the_network_out_changes_nothing(tmp_path):
    opt = small_opt(tmp_path, network_g={'type': 'Normalised'}, train__ema_decay=0)
    opt['datasets']['val'] = {'name': 'val', 'dataroot_gt': 'gt'}
    model = NoiseDAModel(opt)
    before, state = weights(model), torch.get_rng_state()
    model.try_out()
    assert_equal(weights(model), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.net_g.training and not model.restore_images(batch()['lq']).requires_grad


def test_the_place_of_an_error_is_in_ones_own_file(tmp_path):
    with pytest.raises(InputError, match=r'ValueError: .*; test_model.py, line \d+\)'):
        NoiseDAModel(small_opt(tmp_path, network_g={'type': 'Odd', 'way': 'slips in numpy'}))


@pytest.mark.parametrize('block, change, words', [
    ('network_g', {'depth': 'two'}, 'RestorationUNet cannot be built with {width: 4, depth: two} .TypeError: .*, line'),
    ('network_diffusion', {'multipliers': 7}, 'ConditionalUNet cannot be built with {width: 32, multipliers: 7, .*Ty'),
])
def test_arguments_that_do_not_build_a_network_are_told(block, change, words, tmp_path):
    apply_fixes()
    opt = small_opt(tmp_path)
    opt[block].update(change)
    with pytest.raises(InputError, match=words):
        NoiseDAModel(opt)


def test_a_step_of_other_sizes_is_refused(tmp_path):
    """A channel of its own in training, say, would be compared with all three."""
    model = NoiseDAModel(small_opt(tmp_path))
    model.net_g.forward = lambda image: image[:, :1]
    with pytest.raises(InputError, match=r'RestorationUNet turns \(2, 3, 8, 8\) into \(2, 1, 8, 8\); it must map'):
        step(model, 1, batch())


def test_basicsr_builds_the_model_by_its_name(tmp_path):
    assert isinstance(build_model(small_opt(tmp_path)), NoiseDAModel)
