"""Choosing without ground truth: each criterion against theory; ranking; agreement with the truth; the command."""
import csv
import math

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from cli import ROOT, run
from scipy.signal import correlate2d
from scipy.stats import spearmanr

from noiseda_basicsr import InputError
from noiseda_model.condition_study import NoisePredictor
from noiseda_model.criteria import CRITERIA, noise_error, residual_edges, residual_whiteness, score, transplant_risk
from noiseda_model.evaluation import METRICS, measure
from noiseda_model.selection import VERDICT, agreement, choose_criteria, find_checkpoints, main, ranks, read_clean

NETWORK = {'type': 'RestorationUNet', 'width': 4, 'depth': 2}
DIFFUSION = {'type': 'ConditionalUNet', 'width': 32, 'multipliers': [1, 1, 1], 'blocks': 1}


def noise(sigma=10, shape=(128, 128), seed=0):
    return np.random.default_rng([99, seed]).normal(scale=sigma, size=(*shape, 3))


def photo(seed=0, shape=(128, 128)):
    """Smooth areas with edges between them, uint8."""
    field = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(*shape, 3)), (0, 0), 8)
    return (128 + 60 * np.sign(field) + 300 * field).clip(30, 225).astype(np.uint8)


def noisy(image, sigma=10, seed=0):
    return (image + noise(sigma, image.shape[:2], seed)).round().clip(0, 255).astype(np.uint8)


def identity(image):
    return image


def blur(image):
    return cv2.GaussianBlur(image, (0, 0), 1)


# ------------------------------------------------------------------ the residual


def test_white_noise_has_whiteness_one_and_edges_or_correlation_far_more():
    assert residual_whiteness(noise()) == pytest.approx(1, abs=0.3)  # 120 squares: standard deviation 0.13
    assert residual_whiteness(7 * noise() + 3) == pytest.approx(residual_whiteness(noise()))
    assert residual_whiteness(cv2.GaussianBlur(noise(), (0, 0), 1)) > 100
    image = photo().astype(float)
    assert residual_whiteness(noise() + image - cv2.GaussianBlur(image, (0, 0), 3)) > 20
    assert residual_whiteness(np.zeros((16, 16, 3))) == 256


def test_whiteness_is_scipys_autocorrelation():
    values = cv2.GaussianBlur(noise(shape=(20, 30)), (0, 0), 0.7)
    terms = []
    for channel in np.moveaxis(values - values.mean(axis=(0, 1)), 2, 0):
        sums, pixels = correlate2d(channel, channel), correlate2d(np.ones((20, 30)), np.ones((20, 30)))
        squares = pixels * (sums / pixels / channel.var())**2
        terms.append(squares[19 - 3:19 + 4, 29 - 3:29 + 4].sum() - 600)  # without the lag 0, where rho is 1
    assert residual_whiteness(values, lags=3) == pytest.approx(np.mean(terms) / 48)


def test_edges_in_the_residual_are_seen():
    image = photo().astype(float)
    lost = image - cv2.GaussianBlur(image, (0, 0), 1.5)
    without, weak, strong = (residual_edges(noise() + share * lost, image) for share in (0, 0.5, 1))
    assert without < 0.1 < weak < strong


# ------------------------------------------------------------------ the network


def test_transplanted_noise_is_the_photos_own():
    truth, clean = photo(0), photo(1)
    degraded = noisy(truth)
    assert transplant_risk(degraded, degraded.astype(float), clean, identity) == 0  # a consensus that removes nothing
    expected = np.square(degraded - truth.astype(float)).mean()
    assert transplant_risk(degraded, truth.astype(float), clean, identity) == pytest.approx(expected, rel=0.01)
    assert transplant_risk(degraded, truth.astype(float), clean, lambda image: clean) == 0


# ------------------------------------------------------------------ all of them


def test_better_denoisers_rank_first():
    """Gaussian filters on white noise: noise transplanted to other photos finds the best, as the truth does."""
    truths = [blur(photo(seed)) for seed in range(2)]
    degraded = [noisy(truth, 15, seed) for seed, truth in enumerate(truths)]
    widths = {'none': 0.01, 'narrow': 0.5, 'middle': 0.9, 'wide': 2.5, 'very wide': 6}
    candidates = {name: lambda width=width: lambda image: cv2.GaussianBlur(image, (0, 0), width)
                  for name, width in widths.items()}
    scores, results = score(candidates, degraded, ['transplant', 'whiteness'], clean=[blur(photo(7)), blur(photo(8))])
    psnr = [np.mean([measure(image, truth, {'PSNR': METRICS['PSNR']})['PSNR']
                     for image, truth in zip(results[name], truths, strict=True)]) for name in widths]
    found = agreement([row['transplant'] for row in scores.values()], psnr)
    assert found.rho > 0.89 and found.loss == 0
    consensus = np.mean([results[name][0] for name in widths], axis=0)  # of all candidates, the same for each
    expected = [transplant_risk(photo, consensus, blur(photo), candidates['wide']()) for photo in degraded[:1]]
    again, _ = score(candidates, degraded[:1], ['transplant'], clean=[blur(degraded[0])])
    assert again['wide']['transplant'] == expected[0]
    assert scores['wide']['whiteness'] == np.mean([residual_whiteness(image.astype(float) - restored) for
                                                   image, restored in zip(degraded, results['wide'], strict=True)])


def test_ranks_share_ties_and_do_not_care_for_scale():
    scores = {name: {'x': value, 'y': np.exp(value)} for name, value in zip('abcd', [2, 0.5, 2, 3], strict=True)}
    assert ranks(scores, 'x') == {'a': 2, 'b': 1, 'c': 2, 'd': 4} == ranks(scores, 'y')


def test_agreement_is_spearmans_with_the_sign_that_one_is_good():
    rng = np.random.default_rng(0)
    psnr = rng.normal(30, 2, 25)
    values = -psnr + rng.normal(0, 2, 25)
    found = agreement(values, psnr)
    assert found.rho == pytest.approx(-spearmanr(values, psnr).statistic)
    assert found.low < found.rho < found.high and found.high - found.low < 0.8
    assert found.loss == pytest.approx(psnr.max() - psnr[values.argmin()])
    assert agreement(-psnr, psnr)[:2] == (25, pytest.approx(1)) and agreement(-psnr, psnr).loss == 0
    assert agreement(np.exp(psnr), psnr).rho == pytest.approx(-1)
    assert np.isnan(agreement(np.ones(5), psnr[:5]).rho)


def test_agreement_of_nothing_includes_zero():
    rng = np.random.default_rng(1)
    found = agreement(rng.normal(size=30), rng.normal(size=30))
    assert found.low < 0 < found.high


# ------------------------------------------------------------------ the diffusion network


def predictor(function, conditions=('syn',)):
    return NoisePredictor(function, {'conditions': conditions, 'timesteps': [1, 999], 'diffusion_range': [0, 1]})


@pytest.mark.parametrize('conditions', [('syn',), ('syn', 'real')])
def test_noise_error_takes_the_restored_photo_for_all(conditions):
    def copying(x, alpha_bar):  # takes the last condition for y, which it is
        alpha_bar = alpha_bar.view(-1, 1, 1, 1)
        assert x.shape[1] == 3 * (1 + len(conditions)) and (x[:, 3:6] == x[:, -3:]).all()
        middle = photo()[32:96, 32:96].transpose(2, 0, 1) / np.float32(255)
        torch.testing.assert_close(x[:, -3:], torch.from_numpy(middle).expand(len(x), 3, 64, 64))
        return (x[:, :3] - alpha_bar.sqrt() * x[:, -3:]) / (1 - alpha_bar).sqrt()

    assert noise_error(photo(), predictor(copying, conditions)) == pytest.approx(0, abs=1e-6)


def test_checkpoints_are_compared_under_the_same_noise():
    silent = predictor(lambda x, alpha_bar: 0 * x[:, :3])
    assert noise_error(photo(), silent, 3) == noise_error(photo(1), silent, 3) != noise_error(photo(), silent, 4)
    assert noise_error(photo(), silent) == pytest.approx(1, abs=0.04)  # the mean square of the noise
    assert noise_error(photo()[:20, :30], silent) == pytest.approx(1, abs=0.15)  # smaller than the crop


# ------------------------------------------------------------------ the command


@pytest.fixture
def run_folder(tmp_path):
    """experiments/tiny: at iteration 2 a network that changes nothing, at 10 one that spoils; both averaged."""
    models = tmp_path / 'experiments/tiny/models'
    models.mkdir(parents=True)
    net = build_network(dict(NETWORK))
    still = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    spoiling = {name: 0.3 * torch.randn_like(value) for name, value in net.state_dict().items()}
    for name, weights in (('2', still), ('10', spoiling), ('latest', spoiling)):
        torch.save({'params': still, 'params_ema': weights}, models / f'net_g_{name}.pth')
    opt = {'network_g': NETWORK, 'network_diffusion': DIFFUSION,
           'datasets': {'train': {'degradation': {'type': 'awgn', 'sigma': 25}, 'dataroot_real': 'real'}},
           'train': {'total_iter': 10, 'optim_diffusion': {'type': 'Adam', 'lr': 1e-4}, 'diffusion_opt': {}}}
    (tmp_path / 'opt.yml').write_text(yaml.safe_dump(opt))
    torch.save({'params': build_network(dict(DIFFUSION)).state_dict()}, models / 'net_diffusion_10.pth')
    return tmp_path


@pytest.fixture
def photos(image_folder):
    """Folders of degraded photos, their truth, and other clean ones."""
    truth = {f'{name}.png': photo(seed, (90, 200)) for seed, name in enumerate('ab')}
    degraded = {name: noisy(image, 8) for name, image in truth.items()}
    clean = {f'{seed}.png': photo(seed, (200, 210)) for seed in (5, 6)}
    return image_folder('lq', degraded), image_folder('gt', truth), image_folder('clean', clean)


def rows(file):
    with open(file, newline='') as opened:
        return list(csv.DictReader(opened))


def test_the_command_ranks_and_measures(run_folder, photos):
    lq, gt, clean = photos
    models = run_folder / 'experiments/tiny/models'
    process = run([ROOT / 'scripts/select_checkpoint.py', 'experiments/tiny', '--lq', lq, '--gt', gt, '--clean', clean,
                   '-opt', 'opt.yml', '--out', 'out', '--crop', '192', '--diffusion', 'opt.yml',
                   models / 'net_diffusion_10.pth', '--group', 'tiny/*'], run_folder)
    assert process.returncode == 0, process.stdout
    found = rows(run_folder / 'out/ranking.csv')
    measured = [name for name in CRITERIA if name != 'niqe']  # for which the photos are too flat
    assert list(found[0]) == ['checkpoint', 'psnr', *measured, *(f'rank_{name}' for name in measured)]
    by_name = {row['checkpoint']: row for row in found}
    assert set(by_name) == {'tiny/2', 'tiny/10'}
    expected = np.mean([measure(cv2.imread(f'{lq}/{name}.png')[:, 4:196], cv2.imread(f'{gt}/{name}.png')[:, 4:196],
                                {'PSNR': METRICS['PSNR']})['PSNR'] for name in 'ab'])
    assert float(by_name['tiny/2']['psnr']) == pytest.approx(expected, abs=1e-4)
    assert float(by_name['tiny/2']['psnr']) > float(by_name['tiny/10']['psnr'])
    assert by_name['tiny/2']['rank_transplant'] == '1'
    untrained = float(by_name['tiny/2']['noise_error'])  # predicts 0: the mean square of the noise
    assert untrained == pytest.approx(1, abs=0.03) and untrained == float(by_name['tiny/10']['noise_error'])
    table = {(row['group'], row['criterion']): row for row in rows(run_folder / 'out/agreement.csv')}
    assert len(table) == 2 * len(measured)
    assert float(table['tiny/*', 'transplant']['rho']) == 1 and float(table['*', 'transplant']['loss']) == 0
    assert f'First by transplant: tiny/2 (experiments/tiny/models/net_g_2.pth)\n{VERDICT}' in process.stdout


def damage(file):
    content = torch.load(file)
    next(iter(content['params_ema'].values())).fill_(torch.nan)
    torch.save(content, file)


def test_a_damaged_checkpoint_ranks_last_and_is_named(run_folder, photos, capsys):
    lq, gt, clean = photos
    select = [str(run_folder / 'experiments/tiny'), '--lq', lq, '--gt', gt, '--clean', clean, '-opt',
              str(run_folder / 'opt.yml'), '--out', str(run_folder / 'out')]
    damage(run_folder / 'experiments/tiny/models/net_g_10.pth')
    (run_folder / 'out').mkdir()
    (run_folder / 'out/agreement.csv').touch()  # of another selection, with truth
    main([*select[:3], *select[5:]])
    assert not (run_folder / 'out/agreement.csv').exists()
    main(select)
    *whole, last = rows(run_folder / 'out/ranking.csv')
    assert (last['checkpoint'], last['psnr'], last['transplant']) == ('tiny/10', '-inf', 'inf')
    assert all(math.isfinite(float(row['transplant'])) for row in whole)
    assert 'net_g_10.pth: these weights restore' in capsys.readouterr().out
    damage(run_folder / 'experiments/tiny/models/net_g_2.pth')
    with pytest.raises(SystemExit, match='No checkpoint restores the photos'):
        main(select)


def message(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    capsys.readouterr()
    return str(stopped.value)


def test_what_a_user_can_get_wrong(run_folder, photos, capsys, image_folder):
    lq, gt, clean = photos
    models = run_folder / 'experiments/tiny/models'
    usual = [run_folder / 'experiments/tiny', '--lq', lq, '-opt', run_folder / 'opt.yml', '--out', run_folder / 'out']

    def told(*more):
        return message(capsys, *usual, '--by', 'whiteness', *more)

    assert '--by transplant: needs --clean' in message(capsys, *usual)
    assert '--by noise_error: needs --diffusion' in told('--by', 'noise_error')
    assert 'two blocks of 96x96 (--crop); or sort by whiteness, residual_edges.' in told('--by', 'niqe')
    assert 'names must match those of --lq' in told('--gt', clean)
    assert 'two photos have the same name' in message(capsys, *usual[:2], f'{lq};{gt}', *usual[3:], '--by', 'whiteness')
    small = image_folder('small', {f'{name}.png': photo(0, (64, 64)) for name in 'ab'})
    assert 'differs in size' in told('--gt', small)
    assert 'no photo of 200x90 or more' in told('--clean', image_folder('little', {'x.png': photo(0, (64, 64))}))
    assert '--group tiny/*: says how criteria agree with the truth; give --gt' in told('--group', 'tiny/*')
    assert '--count 0: must be above 0' in told('--count', 0) and '--crop 0: must' in told('--crop', 0)
    assert 'matches 0 of the checkpoints' in told('--gt', gt, '--group', 'other/*')
    assert 'a choice needs two' in message(capsys, models / 'net_g_2.pth', *usual[1:])
    assert 'neither a file nor a folder with net_g_*.pth' in message(capsys, run_folder / 'nowhere', *usual[1:])


def test_checkpoints_are_named_by_run_and_iteration(run_folder, tmp_path):
    models = run_folder / 'experiments/tiny/models'
    assert list(find_checkpoints([run_folder / 'experiments/tiny'])) == ['tiny/2', 'tiny/10']  # by number; no copies
    assert find_checkpoints([models]) == find_checkpoints([models.parent])
    both = find_checkpoints([models / 'net_g_latest.pth', models])
    assert list(both) == ['tiny/latest', 'tiny/2', 'tiny/10']
    twin = tmp_path / 'elsewhere/tiny/models'
    twin.mkdir(parents=True)
    (twin / 'net_g_2.pth').write_bytes(b'')
    with pytest.raises(InputError, match='would both be called tiny/2'):
        find_checkpoints([models, twin])


def test_what_is_not_given_is_not_measured():
    large, low = np.zeros((192, 192, 3), np.uint8), np.zeros((95, 400, 3), np.uint8)
    assert choose_criteria('niqe', {}, [large]) == ['niqe', 'whiteness', 'residual_edges']
    assert choose_criteria('transplant', {'clean', 'diffusion'}, [large]) == list(CRITERIA)
    assert 'niqe' not in choose_criteria('whiteness', {}, [large, low])


def test_clean_photos_are_cut_to_their_photos(image_folder):
    root = image_folder('clean', {'0.png': photo(0, (60, 90)), '1.png': photo(1, (90, 60))})
    sizes = [(60, 80), (80, 60), (50, 50)]
    matched = read_clean(root, [np.zeros((*size, 3), np.uint8) for size in sizes])
    assert [image.shape[:2] for image in matched] == sizes
