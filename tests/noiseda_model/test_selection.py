"""Choosing without ground truth: each criterion against theory; ranking; agreement with the truth; the command."""
import csv

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
from noiseda_model import criteria
from noiseda_model.condition_study import NoisePredictor
from noiseda_model.criteria import (
    CRITERIA,
    neighbour_risk,
    noise_level,
    residual_edges,
    residual_signal,
    residual_whiteness,
    score,
    sure,
    transplant_risk,
)
from noiseda_model.evaluation import METRICS, measure
from noiseda_model.selection import agreement, choose_criteria, find_checkpoints, main, ranks, read_clean

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


def test_noise_does_not_correlate_with_the_photo_and_a_faded_photo_does():
    image = photo().astype(float)
    assert residual_signal(noise(), image) < 3 / 128
    assert residual_signal(5 - 0.2 * image, image) == pytest.approx(1)
    assert residual_signal(0 * image, image) == 1  # nothing removed says nothing


def test_edges_in_the_residual_are_seen():
    image = photo().astype(float)
    lost = image - cv2.GaussianBlur(image, (0, 0), 1.5)
    without, weak, strong = (residual_edges(noise() + share * lost, image) for share in (0, 0.5, 1))
    assert without < 0.1 < weak < strong


def test_noise_level_is_the_sigma_of_white_noise():
    ramp = np.add.outer(np.arange(128.0), 2 * np.arange(128.0))[..., None].repeat(3, axis=2)
    assert noise_level(ramp) == pytest.approx(0, abs=1e-4)
    assert noise_level(ramp + noise(12)) == pytest.approx(12, rel=0.03)


# ------------------------------------------------------------------ the network


def test_sure_is_the_true_error_under_white_noise():
    truth = photo()
    degraded = noisy(truth, 10)
    for restorer in (identity, blur, lambda image: cv2.GaussianBlur(image, (0, 0), 3), lambda image: image // 2 + 64):
        restored = restorer(degraded)
        true = np.square(restored - truth.astype(float)).mean()
        assert sure(degraded, restored, restorer, 10) == pytest.approx(true, rel=0.06)


def test_sure_of_the_two_extremes_is_exact():
    degraded = noisy(photo())
    assert sure(degraded, degraded, identity, 10) == pytest.approx(100)  # residual 0, divergence 1
    grey = np.full_like(degraded, 128)
    expected = np.square(degraded - 128.0).mean() - 100
    assert sure(degraded, grey, lambda image: grey, 10) == pytest.approx(expected)  # divergence 0
    assert np.isfinite(sure(np.full_like(degraded, 255), grey, identity, 10))  # nothing can be probed


def test_neighbour_risk_is_error_plus_variance_for_independent_noise():
    degraded = noisy(np.full((256, 256, 3), 128, np.uint8))
    assert neighbour_risk(degraded, identity) == pytest.approx(200, rel=0.03)
    assert neighbour_risk(degraded, lambda image: np.full_like(image, 128)) == pytest.approx(100, rel=0.03)
    odd = degraded[:65, :63]
    assert neighbour_risk(odd, identity) == pytest.approx(
        np.square(odd[:64:2, :62:2].astype(float) - odd[1:64:2, 1:62:2]).mean())


def test_transplanted_noise_is_the_photos_own():
    truth, clean = photo(0), photo(1)
    degraded = noisy(truth)
    assert transplant_risk(degraded, degraded.astype(float), clean, identity) == 0  # a consensus that removes nothing
    expected = np.square(degraded - truth.astype(float)).mean()
    assert transplant_risk(degraded, truth.astype(float), clean, identity) == pytest.approx(expected, rel=0.01)
    assert transplant_risk(degraded, truth.astype(float), clean, lambda image: clean) == 0


# ------------------------------------------------------------------ all of them


def test_consensus_ranks_as_the_distance_to_the_mean_of_the_others():
    outputs = {name: noisy(photo(), sigma, seed) for seed, (name, sigma) in enumerate([('a', 5), ('b', 12), ('c', 25)])}
    scores, results = score({name: lambda image=image: lambda _: image for name, image in outputs.items()}, [photo()],
                            ['consensus', 'noise_left'])
    others = {name: np.square(outputs[name] - np.mean([outputs[o] for o in outputs if o != name], axis=0)).mean()
              for name in outputs}
    for name in outputs:  # 1 - 1/3 of the distance, squared
        assert scores[name]['consensus'] == pytest.approx(others[name] * (2 / 3)**2)
        assert scores[name]['noise_left'] == noise_level(outputs[name])
        assert (results[name][0] == outputs[name]).all()


def test_better_denoisers_rank_first_where_theory_says_so():
    """Gaussian filters on white noise: SURE, transplanted noise and neighbours find the best, as the truth does."""
    truths = [blur(photo(seed)) for seed in range(2)]  # sharp edges would count as noise
    degraded = [noisy(truth, 15, seed) for seed, truth in enumerate(truths)]
    widths = {'none': 0.01, 'narrow': 0.5, 'middle': 0.9, 'wide': 2.5, 'very wide': 6}
    candidates = {name: lambda width=width: lambda image: cv2.GaussianBlur(image, (0, 0), width)
                  for name, width in widths.items()}
    scores, results = score(candidates, degraded, ['sure', 'transplant'], clean=[blur(photo(7)), blur(photo(8))])
    psnr = [np.mean([measure(image, truth, {'PSNR': METRICS['PSNR']})['PSNR']
                     for image, truth in zip(results[name], truths, strict=True)]) for name in widths]
    for criterion in scores['none']:
        found = agreement([row[criterion] for row in scores.values()], psnr)
        assert found.rho > 0.89 and found.loss == 0, criterion


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


def judge(function, conditions, **more):
    """A Judge whose network is a function."""
    made = criteria.Judge.__new__(criteria.Judge)
    options = {'conditions': conditions, 'timesteps': [1, 999], 'diffusion_range': [0, 1]}
    made.predictor = NoisePredictor(function, options)
    made.device = 'cpu'
    made.__dict__.update(more)
    return made


def second_copied(x, alpha_bar):
    """Takes the last condition for y."""
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return (x[:, :3] - alpha_bar.sqrt() * x[:, -3:]) / (1 - alpha_bar).sqrt()


def first_copied(x, alpha_bar):
    return second_copied(x[:, :6], alpha_bar)


def test_diffusion_criteria_put_their_images_where_they_say():
    restored, clean = photo(0), photo(1)
    one = judge(second_copied, ['syn'])
    case = criteria.Case(0, noisy(restored), restored, None, identity, clean, one)
    assert CRITERIA['diffusion_one'].value(case) == pytest.approx(0, abs=1e-6)  # y is its condition

    offset = noisy(clean, 10)
    two = judge(second_copied, ['syn', 'real'], restorer=lambda image: offset, degraded=lambda image, number: image)
    case = case._replace(two=two)
    assert CRITERIA['diffusion_both'].value(case) == pytest.approx(0, abs=1e-6)
    levels = two.predictor.levels(criteria.DIFFUSION_LEVELS)
    gain = (levels / (1 - levels)).mean().item()

    def expected(image):
        middle = (slice(32, 96), slice(32, 96))
        return gain * np.square((image[middle] - clean[middle].astype(float)) / 255).mean()

    assert CRITERIA['diffusion_pair'].value(case) == pytest.approx(expected(restored), rel=1e-3)
    two.predictor.net = first_copied
    assert CRITERIA['diffusion_pair'].value(case) == pytest.approx(expected(offset), rel=1e-3)
    assert CRITERIA['diffusion_joint'].value(case) == pytest.approx(0, abs=1e-6)  # G is the identity here
    case = case._replace(restorer=blur)
    assert CRITERIA['diffusion_joint'].value(case) == pytest.approx(expected(blur(clean)), rel=1e-3)


def test_checkpoints_are_compared_under_the_same_noise():
    one, image = judge(lambda x, alpha_bar: 0 * x[:, :3], ['syn']), photo()
    assert one.error(image, [image], 3) == one.error(photo(1), [image], 3) != one.error(image, [image], 4)


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
                   models / 'net_diffusion_10.pth', '--group', 'tiny/*', '--by', 'consensus'], run_folder)
    assert process.returncode == 0, process.stdout
    found = rows(run_folder / 'out/ranking.csv')
    measured = [name for name in CRITERIA if name not in ('niqe', 'diffusion_one')]  # photos too flat; no such network
    assert list(found[0]) == ['checkpoint', 'psnr', *measured, *(f'rank_{name}' for name in measured)]
    by_name = {row['checkpoint']: row for row in found}
    assert set(by_name) == {'tiny/2', 'tiny/10'}
    expected = np.mean([measure(cv2.imread(f'{lq}/{name}.png')[:, 4:196], cv2.imread(f'{gt}/{name}.png')[:, 4:196],
                                {'PSNR': METRICS['PSNR']})['PSNR'] for name in 'ab'])
    assert float(by_name['tiny/2']['psnr']) == pytest.approx(expected, abs=1e-4)
    assert float(by_name['tiny/2']['psnr']) > float(by_name['tiny/10']['psnr'])
    assert by_name['tiny/2']['rank_transplant'] == '1'
    untrained = float(by_name['tiny/2']['diffusion_joint'])  # predicts 0: the mean square of the noise
    assert untrained == pytest.approx(1, abs=0.02) and untrained == float(by_name['tiny/10']['diffusion_joint'])
    table = {(row['group'], row['criterion']): row for row in rows(run_folder / 'out/agreement.csv')}
    assert len(table) == 2 * len(measured)
    assert float(table['tiny/*', 'transplant']['rho']) == 1 and float(table['*', 'transplant']['loss']) == 0
    assert 'First by consensus: tiny/' in process.stdout


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
        return message(capsys, *usual, *more)

    assert 'unknown; known: niqe' in told('--criteria', 'psnr')
    assert '--criteria transplant needs --clean' in told('--criteria', 'transplant')
    assert 'needs --diffusion with a network of one condition' in told('--criteria', 'diffusion_one')
    assert 'two blocks of 96x96' in told('--criteria', 'niqe', '--crop', 100)
    assert '--by niqe: not among the criteria measured, sure' in told('--criteria', 'sure', '--by', 'niqe')
    assert 'names must match those of --lq' in told('--gt', clean)
    small = image_folder('small', {f'{name}.png': photo(0, (64, 64)) for name in 'ab'})
    assert 'differs in size' in told('--gt', small)
    assert 'no photo of 200x90 or more' in told('--clean', image_folder('little', {'x.png': photo(0, (64, 64))}))
    assert 'matches 0 of the checkpoints' in told('--gt', gt, '--group', 'other/*', '--criteria', 'consensus')
    twice = ['--diffusion', run_folder / 'opt.yml', models / 'net_diffusion_10.pth'] * 2
    assert 'a second network with two conditions' in told(*twice)
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
    large = [np.zeros((192, 192, 3), np.uint8)]
    assert choose_criteria(None, {}, large) == [name for name in CRITERIA if not CRITERIA[name].needs]
    assert 'niqe' not in choose_criteria(None, {}, [np.zeros((95, 400, 3), np.uint8)])
    assert choose_criteria(['sure'], {}, large) == ['sure']


def test_clean_photos_are_cut_to_their_photos(image_folder):
    root = image_folder('clean', {'0.png': photo(0, (60, 90)), '1.png': photo(1, (90, 60))})
    sizes = [(60, 80), (80, 60), (50, 50)]
    matched = read_clean(root, [np.zeros((*size, 3), np.uint8) for size in sizes])
    assert [image.shape[:2] for image in matched] == sizes


def test_a_judge_wants_what_its_training_had(run_folder):
    opt = yaml.safe_load((run_folder / 'opt.yml').read_text())
    del opt['datasets']['train']['degradation']
    (run_folder / 'pairs.yml').write_text(yaml.safe_dump(opt))
    with pytest.raises(InputError, match='degradation is missing'):
        criteria.Judge(str(run_folder / 'pairs.yml'), str(run_folder / 'experiments/tiny/models/net_diffusion_10.pth'))
