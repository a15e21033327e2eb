"""Fig. 1(a): against diffusion networks whose error is known in closed form; the command; its messages."""
import csv

import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from cli import ROOT, run

from noiseda_basicsr import InputError
from noiseda_model.condition_study import NoisePredictor, error_curve, main, mean_and_error, read_crops
from noiseda_model.diffusion import draw, noise_levels

OPTIONS = {'conditions': ['syn'], 'timesteps': [1, 999], 'diffusion_range': [0, 1]}
LEVELS = torch.tensor([0.99, 0.5, 0.1])


def copying(x, alpha_bar):
    """Takes the condition for the clean image: exact for a clean one."""
    x_t, condition = x.chunk(2, dim=1)
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return (x_t - alpha_bar.sqrt() * condition) / (1 - alpha_bar).sqrt()


def images(count=2, size=64):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(('bounds', 'scale'), [([0, 1], 1), ([-1, 1], 2)])
def test_a_network_that_copies_has_the_error_of_the_closed_form(bounds, scale):
    """eps_hat - eps = sqrt(alpha_bar / (1 - alpha_bar)) * -sigma n, so the mean square is known."""
    predictor = NoisePredictor(copying, {**OPTIONS, 'diffusion_range': bounds})
    errors = error_curve(predictor, images(8), [0, 20, 40], LEVELS)
    assert errors.shape == (8, 3, 3)
    expected = (scale * np.array([0, 20, 40]) / 255)[:, None]**2 * (LEVELS / (1 - LEVELS)).numpy()
    np.testing.assert_allclose(errors.mean(axis=0), expected, rtol=0.02, atol=1e-9)  # the mean of 98304 squares
    np.testing.assert_allclose(errors[:, 2], 4 * errors[:, 1], rtol=1e-3)  # the noise of an image is only scaled


def test_a_network_that_does_not_look_has_a_flat_curve():
    errors = error_curve(NoisePredictor(lambda x, alpha_bar: 0 * x[:, :3], OPTIONS), images(), [0, 80], LEVELS)
    assert (errors == errors[:, :1, :1]).all()
    assert errors.mean() == pytest.approx(1, abs=0.05)


def test_levels_stand_for_those_of_training():
    """Their mean of a function is the mean over what training draws."""
    drawn = draw(torch.zeros(200_000, 1, 1, 1), noise_levels(), (1, 999)).alpha_bar
    levels = NoisePredictor(None, OPTIONS).levels(50)
    for function in (torch.sqrt, torch.square, lambda level: (1 - level).sqrt()):
        assert function(levels).mean() == pytest.approx(function(drawn).mean().item(), abs=3e-3)
    few = NoisePredictor(None, {**OPTIONS, 'timesteps': [100, 200]}).levels(7)
    assert noise_levels()[200] < few.min() < few.max() < noise_levels()[99]


def test_error_bars_are_the_standard_error_over_images():
    mean, error = mean_and_error(np.array([[1.0, 5], [3, 5], [5, 5]]))
    np.testing.assert_allclose(mean, [3, 5])
    np.testing.assert_allclose(error, [2 / np.sqrt(3), 0])


@pytest.fixture
def study(tmp_path, image_folder):
    """Arguments of the command: a tiny network with no weight at zero, three images of 40x48."""
    opt = yaml.load((ROOT / 'options/train/train_condition_study.yml').read_text(), Loader=yaml.UnsafeLoader)
    opt.pop('plugin')
    opt['network_diffusion'].update(width=32, multipliers=[1], blocks=1)
    (tmp_path / 'opt.yml').write_text(yaml.safe_dump(opt))
    net = build_network(dict(opt['network_diffusion']))
    for parameter in net.parameters():
        parameter.data.normal_(std=0.1)
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    return ['-opt', tmp_path / 'opt.yml', '--images', image_folder('images'), '--out', tmp_path / 'out', '--size', '32',
            '--levels', '4', '--sigmas', '0', '40', '40']


def test_the_command_writes_what_error_curve_computes(study, tmp_path):
    weights = tmp_path / 'net.pth'
    process = run([ROOT / 'scripts/condition_study.py', *study, f'tiny={weights}'], tmp_path)
    assert process.returncode == 0, process.stdout
    predictor = NoisePredictor.load(str(tmp_path / 'opt.yml'), str(weights))
    crops = list(read_crops(str(tmp_path / 'images'), 32))
    errors = error_curve(predictor, crops, [0, 40], predictor.levels(4))
    with open(tmp_path / 'out/condition_study.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 5  # sigmas; the mean and four levels
    means = {float(row['sigma']): float(row['noise_error']) for row in rows if row['alpha_bar'] == 'mean'}
    np.testing.assert_allclose([means[0], means[40]], errors.mean(axis=(0, 2)), rtol=1e-4)
    assert means[0] != means[40]
    assert f'| 40    | {errors[:, 1].mean():.4f} +- ' in process.stdout
    assert (tmp_path / 'out/condition_study.svg').read_text().startswith('<?xml')


def message(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    capsys.readouterr()
    return str(stopped.value)


def test_what_a_user_can_get_wrong(study, tmp_path, capsys):
    weights = f'tiny={tmp_path / "net.pth"}'
    assert 'the name tiny is taken' in message(capsys, *study, weights, weights)
    assert 'no such checkpoint' in message(capsys, *study, 'tiny=nowhere.pth')
    assert 'lower --size' in message(capsys, *study, weights, '--size', 64)
    assert 'two or more' in message(capsys, *study, weights, '--count', 1)
    assert 'does not fit network_diffusion' in message(capsys, *study, weights, '-opt', variant(tmp_path, width=64))
    two = variant(tmp_path, in_channels=9)
    torch.save({'params': build_network(read(two)['network_diffusion']).state_dict()}, tmp_path / 'two.pth')
    assert 'this study is of one condition' in message(capsys, *study, '-opt', two, f'two={tmp_path / "two.pth"}')


def read(file):
    return yaml.safe_load(file.read_text())


def variant(tmp_path, **network):
    """The option file with another network; with the conditions that its inputs are for."""
    opt = read(tmp_path / 'opt.yml')
    opt['network_diffusion'].update(network)
    opt['train']['diffusion_opt']['conditions'] = ['syn', 'real'][:opt['network_diffusion']['in_channels'] // 3 - 1]
    opt['datasets']['train']['dataroot_real'] = 'real'
    file = tmp_path / 'variant.yml'
    file.write_text(yaml.safe_dump(opt))
    return file


def test_an_option_file_without_a_diffusion_network_is_refused(study, tmp_path):
    (tmp_path / 'vanilla.yml').write_text(yaml.safe_dump({'network_g': {'type': 'RestorationUNet'}, 'train': {}}))
    with pytest.raises(InputError, match='has no network_diffusion'):
        NoisePredictor.load(str(tmp_path / 'vanilla.yml'), str(tmp_path / 'net.pth'))
    with pytest.raises(InputError, match='no such option file'):
        NoisePredictor.load('nowhere.yml', str(tmp_path / 'net.pth'))
