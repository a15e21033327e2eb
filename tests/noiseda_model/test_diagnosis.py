"""The diagnosis, against diffusion networks whose gradient is known in closed form; the command; its messages."""
import csv
import json
import warnings

import numpy as np
import pytest
import torch
from cli import ROOT, run
from images import write_images
from scipy.stats import gamma
from small import SIZE, batch, build, small_opt, weights
from torch import nn
from torchvision.transforms.functional import gaussian_blur

from noiseda_model.diagnosis import align, cosine, diagnose, load_model, look, main, narrowness, read_probes
from noiseda_model.diffusion import draw, noise_levels


class Net(nn.Module):
    """A function of (x_t, first condition, second condition, alpha_bar) as a diffusion network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, alpha_bar):
        return self.function(*x.chunk(x.shape[1] // 3, dim=1), alpha_bar.view(-1, 1, 1, 1))


def probed(tmp_path, function, **diffusion_opt):
    """A model with this diffusion network, without shuffle and swap, and two batches of two probes."""
    options = {'channel_shuffle': False, 'residual_swap': False, **diffusion_opt}
    channels = 3 + 3 * len(options.get('conditions', ['syn', 'real']))
    model = build(small_opt(tmp_path, train__diffusion_opt=options, network_diffusion__in_channels=channels))
    model.net_diffusion = Net(function)
    batches = [{**batch(seed), 'truth': batch(seed + 10)['gt']} for seed in (1, 2)]
    return model, batches


def restored(model, data):
    with torch.no_grad():
        return model.net_g(data['lq']), model.net_g(data['real'])


def by_hand(a, b):
    a, b = a.double().numpy(), b.double().numpy()
    return np.array([np.vdot(x, y) / np.sqrt(np.vdot(x, x) * np.vdot(y, y)) for x, y in zip(a, b, strict=True)])


def test_a_linear_network_has_the_alignment_of_its_closed_form(tmp_path):
    """eps_hat = k syn + m real: -dL/dreal = -2 m (k syn + m real - eps) / n, linear in eps, so only its mean counts."""
    k, m, draws = -0.4, 0.7, 6
    model, batches = probed(tmp_path, lambda x_t, syn, real, alpha_bar: k * syn + m * real)
    torch.manual_seed(3)
    row = align(model, batches, (1, 999), draws)
    torch.manual_seed(3)
    expected = {'real': [], 'syn': []}
    for data in batches:
        noise = torch.stack([draw(data['gt'], noise_levels(), (1, 999)).noise for _ in range(draws)]).mean(dim=0)
        syn, real = restored(model, data)
        rest = noise - k * syn - m * real
        expected['real'].append(by_hand(m * rest, data['truth'] - real))
        expected['syn'].append(by_hand(k * rest, data['gt'] - syn))
    for name, values in expected.items():
        values = np.concatenate(values)
        assert row[f'align_{name}'] == pytest.approx(values.mean(), abs=1e-5)
        assert row[f'align_{name}_error'] == pytest.approx(values.std(ddof=1) / 2, abs=1e-5)  # of four probes
    assert min(abs(row['align_real']), abs(row['align_syn'])) > 0.03


def test_a_loss_that_measures_the_distance_to_the_truth_has_alignment_one(tmp_path):
    """The network knows eps from x_t and y, and errs by real - truth."""
    model, batches = probed(tmp_path, None)
    del batches[1:]
    clean, truth = batches[0]['gt'], batches[0]['truth']
    model.net_diffusion = Net(lambda x_t, syn, real, alpha_bar: (
        (x_t - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt() + real - truth))
    row = align(model, batches, (301, 999), 4)  # where alpha_bar is far from 1, or float32 would lose eps
    assert row['align_real'] == pytest.approx(1, abs=1e-3) and row['repeat_real'] == pytest.approx(1, abs=1e-3)
    _, real = restored(model, batches[0])
    assert row['l_noise'] == pytest.approx((real - truth).square().mean().item(), rel=1e-3)
    model.net_diffusion = Net(lambda x_t, syn, real, alpha_bar: (
        (x_t - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt() + real - (2 * real.detach() - truth)))
    assert align(model, batches, (301, 999), 4)['align_real'] == pytest.approx(-1, abs=1e-3)


def test_a_network_that_ignores_the_real_condition_has_no_alignment_there(tmp_path):
    model, batches = probed(tmp_path, lambda x_t, syn, real, alpha_bar: 0.3 * syn)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        rows = diagnose(model, batches, draws=2)
    for row in rows:
        assert np.isnan(row['align_real']) and np.isnan(row['repeat_real']) and np.isfinite(row['align_syn'])
    assert rows[0]['real_blur'] == rows[0]['real_noise'] == 0 != rows[0]['syn_noise']


def test_a_loss_that_asks_for_a_blurred_copy_is_called_smooth(tmp_path):
    """The network knows eps, and errs by real - its blurred copy."""
    model, batches = probed(tmp_path, None)
    del batches[1:]
    clean = batches[0]['gt']
    _, real = restored(model, batches[0])
    copy = gaussian_blur(real, 13, 2.0)
    model.net_diffusion = Net(lambda x_t, syn, real, alpha_bar: (
        (x_t - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt() + real - copy))
    assert align(model, batches, (301, 999), 4)['smooth_real'] == pytest.approx(1, abs=1e-3)
    batches[0]['truth'] = copy
    assert align(model, batches, (301, 999), 4)['align_real'] == pytest.approx(1, abs=1e-3)
    model.net_diffusion = Net(lambda x_t, syn, real, alpha_bar: real)
    assert look(model, batches)['smooth_truth'] == pytest.approx(1, abs=1e-6)


def test_one_condition_has_one_alignment(tmp_path):
    model, batches = probed(tmp_path, lambda x_t, real, alpha_bar: real, conditions=['real'])
    row = diagnose(model, batches, draws=2)[0]
    assert np.isnan(row['align_syn']) and np.isfinite(row['align_real']) and 'syn_blur' not in row
    assert np.isnan(row['gap']) and np.isnan(row['open'])


def test_the_mean_of_more_draws_is_better_determined(tmp_path):
    """The variance of a half of n draws is 2 / n of one's: the cosine of two halves is s / (s + 2 v / n)."""
    model, batches = probed(tmp_path, lambda x_t, syn, real, alpha_bar: 0.7 * real)
    few, many = (align(model, batches, (1, 999), draws)['repeat_real'] for draws in (2, 64))
    real = torch.cat([restored(model, data)[1] for data in batches])
    signal = 0.49 * real.square().mean(dim=(1, 2, 3))
    for found, draws in ((few, 2), (many, 64)):
        assert found == pytest.approx((signal / (signal + 2 / draws)).mean().item(), abs=0.05)
    assert few < many - 0.3


@pytest.mark.parametrize('margin, opened', [(0.1, 1.0), (-0.1, 0.0)])
def test_the_gap_of_a_network_that_sees_no_difference_is_the_margin(tmp_path, margin, opened):
    model, batches = probed(tmp_path, lambda x_t, syn, real, alpha_bar: 0 * real, residual_swap=True, margin=margin)
    row = align(model, batches, (1, 999), 2)
    assert row['gap'] == pytest.approx(margin) and row['open'] == opened


@pytest.mark.parametrize('trained, rows', [
    ([1, 999], ['1-999', '1-100', '101-300', '301-999']), ([1, 100], ['1-100']), ([900, 999], ['900-999']),
    ([50, 200], ['50-200', '50-100', '101-200'])])
def test_bands_lie_within_what_was_trained(tmp_path, trained, rows):
    seen = []
    model, batches = probed(tmp_path, lambda x_t, syn, real, alpha_bar: (seen.append(alpha_bar), real)[1],
                            timesteps=trained)
    assert [row['timesteps'] for row in diagnose(model, batches, draws=2)] == rows
    assert noise_levels()[trained[1]] <= min(level.min() for level in seen)
    assert max(level.max() for level in seen) <= noise_levels()[trained[0] - 1]


def test_both_networks_are_in_evaluation_mode(tmp_path):
    modes = set()
    model, batches = probed(tmp_path, lambda x_t, syn, real, alpha_bar: (
        modes.add((model.net_g.training, model.net_diffusion.training)), real)[1])
    for net in (model.net_g, model.net_diffusion):
        net.train()
    diagnose(model, batches, draws=2)
    assert modes == {(False, False)}


def test_cosine_of_zero_is_undefined():
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    b = torch.tensor([[4.0, 3.0], [1.0, 0.0]])
    found = cosine(a, b)
    assert found[0] == pytest.approx(24 / 25) and found[1].isnan()


def test_stripes_are_narrow_and_noise_is_broad():
    stripes = torch.sin(torch.arange(48) * 2 * torch.pi / 6).expand(1, 3, 48, 48)
    noise = torch.randn(4, 3, 48, 48)
    assert narrowness(stripes) == pytest.approx(1) and narrowness(torch.zeros(1, 3, 48, 48)).isnan()
    assert narrowness(noise).mean() == pytest.approx(expected_of_noise(), abs=0.005)
    assert narrowness(noise + 10 * stripes).min() > 0.9


def expected_of_noise():
    """The power of a frequency of three channels is Gamma(3): the share above its 98 % quantile."""
    return gamma(4).sf(gamma(3).ppf(0.98))


# ---------------------------------------------------------------------- the command


@pytest.fixture
def trained(tmp_path, image_folder):
    """Arguments of the command: experiments/small, saved at iterations 2 and 10 as training saves; three photos."""
    (tmp_path / 'experiments/small').mkdir(parents=True)
    model = build(small_opt(tmp_path / 'experiments/small', datasets__train={
        'name': 'train', 'type': 'PairedUnpairedDataset', 'dataroot_gt': image_folder('gt', seed=1), 'gt_size': SIZE,
        'degradation': {'type': 'awgn', 'sigma': 25}, 'dataroot_real': image_folder('real', seed=2),
        'batch_size_per_gpu': 2}, datasets__val={'name': 'val'}))
    for iteration in (10, 2):
        for parameter in model.net_g.parameters():
            parameter.data *= 0.9  # so that trained and averaged weights differ
        model.save(0, iteration)
    return [tmp_path / 'experiments/small', '--lq', image_folder('lq', seed=3), '--gt', image_folder('truth', seed=4),
            '--out', tmp_path / 'out', '--draws', '2']


def test_the_command_writes_what_diagnose_computes(trained, tmp_path):
    process = run([ROOT / 'scripts/diagnose.py', 'experiments/small/', *trained[1:]], tmp_path)
    assert process.returncode == 0, process.stdout
    with open(tmp_path / 'out/diagnosis.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['run'], row['iteration']) for row in rows[::4]] == [('small', '2'), ('small', '10')]
    model = load_model(str(trained[0]), 10)
    assert model.opt['datasets'].keys() == {'train'}  # with others it would be tried out on other sizes than trained
    saved = torch.load(trained[0] / 'models/net_g_10.pth')['params']
    assert all(torch.equal(weights(model)[f'net_g.{key}'], value) for key, value in saved.items())
    batches = read_probes(model, trained[2], trained[4])
    assert [len(data['real']) for data in batches] == [2, 1]
    expected = diagnose(model, batches, 2)
    for row, values in zip(rows[4:], expected, strict=True):
        for name, value in values.items():
            assert name == 'timesteps' or float(row[name]) == pytest.approx(value, rel=1e-4, nan_ok=True)
    mse = [(model.net_g(data['real']).clamp(0, 1) - data['truth']).square().mean(dim=(1, 2, 3)) for data in batches]
    assert expected[0]['psnr'] == pytest.approx(-10 * torch.cat(mse).log10().mean().item())
    assert (tmp_path / 'out/diagnosis.svg').read_text().startswith('<?xml')
    assert (tmp_path / 'out/diagnosis.md').read_text() in process.stdout and 'nan' not in process.stdout


def test_probes_are_the_middle_of_the_photos_and_pairs_as_in_training(trained):
    model = load_model(str(trained[0]), 2)
    probes = [{key: torch.cat([data[key] for data in read_probes(model, trained[2], trained[4], size=24)])
               for key in ('lq', 'gt', 'real', 'truth')} for _ in range(2)]
    for key, value in probes[0].items():
        assert value.shape == (3, 3, 24, 24)
        assert torch.equal(value, probes[1][key])
    assert (probes[0]['lq'] - probes[0]['gt']).std().item() == pytest.approx(25 / 255, rel=0.05)


def test_what_made_the_training_fast_does_not_touch_the_diagnosis(trained):
    """Gradients of fp16 vanish without a scaler, parts go by the hinge of the step before, compiling takes minutes."""
    path = trained[0] / 'training_states/2.state'
    state = torch.load(path)
    options = json.loads(state['options'])
    options['train']['engine'] = {'precision': 'fp16', 'accumulate': 2, 'compile': ['g'],
                                  'activation_checkpointing': ['diffusion']}
    torch.save({**state, 'options': json.dumps(options)}, path)
    model = load_model(str(trained[0]), 2)
    assert {key: model.engine[key] for key in options['train']['engine']} == {
        'precision': 'fp32', 'accumulate': 1, 'compile': [], 'activation_checkpointing': ['diffusion']}
    assert [len(data['real']) for data in read_probes(model, trained[2], trained[4])] == [1, 1, 1]  # as fits the memory


def message(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    capsys.readouterr()
    return str(stopped.value)


def test_what_a_user_can_get_wrong(trained, tmp_path, capsys):
    assert 'must be 2 or more' in message(capsys, *trained, '--draws', 1)
    assert 'holds no iteration' in message(capsys, tmp_path, *trained[1:])
    assert 'lower --size' in message(capsys, *trained, '--size', 64)
    write_images(tmp_path / 'one', 1)
    assert 'holds one photo' in message(capsys, *trained, '--lq', tmp_path / 'one')
    file = trained[0] / 'models/net_g_2.pth'
    content = torch.load(file)
    torch.save({**content, 'network_g': {'type': 'Mine'}}, file)  # a class that is not imported here
    assert 'is of the network Mine, which is not registered; give the option file' in message(capsys, *trained)
    del content['network_g']
    torch.save(content, file)
    assert 'give the option file with -opt' in message(capsys, *trained)
    other = 'network_diffusion: {type: ConditionalUNet, width: 96}\n'  # is noted, so not asked for
    (tmp_path / 'opt.yml').write_text('network_g: {type: RestorationUNet, width: 4, depth: 2}\n' + other)
    main([*map(str, trained), '-opt', str(tmp_path / 'opt.yml')])
    (tmp_path / 'opt.yml').write_text('network_g: {type: RestorationUNet, width: 6, depth: 2}\n')
    assert 'do not fit' in message(capsys, *trained, '-opt', tmp_path / 'opt.yml')
