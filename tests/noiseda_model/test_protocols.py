"""noiseda-evaluate: the same figures as BasicSR's validation, whatever the images lie in; outputs; the messages."""
import csv
import json
import math
import os

import cv2
import numpy as np
import pytest
import scipy.io
import torch
import yaml
from basicsr.archs import build_network
from basicsr.data import build_dataloader, build_dataset
from basicsr.metrics import calculate_psnr, calculate_ssim
from cli import ROOT, run

from noiseda_basicsr import InputError
from noiseda_data.lmdb_writer import create_lmdb
from noiseda_data.sidd import BlockStore
from noiseda_data.store import open_one
from noiseda_model import NoiseDAModel, comparison
from noiseda_model.evaluation import METRICS, SMALLEST, measure
from noiseda_model.metrics import WEIGHTS_VARIABLE
from noiseda_model.protocols import (
    DEFINITIONS,
    NO_TRUTH,
    PROTOCOLS,
    RestoredStore,
    evaluate,
    main,
    means,
    save_png,
    to_8bit,
)
from noiseda_model.restorer import Restorer
from tests.noiseda_model.test_metrics import alexnet, weights  # noqa: F401  fixtures
from tests.noiseda_model.test_model import small_opt

NETWORK = {'type': 'RestorationUNet', 'width': 4, 'depth': 2}
QUICK = {'PSNR': METRICS['PSNR']}


def smooth(seed, shape=(64, 72)):
    image = cv2.GaussianBlur(np.random.default_rng(seed).uniform(0, 255, (*shape, 3)), (0, 0), 3)
    return ((image - image.min()) / (image.max() - image.min()) * 235 + 10).astype(np.uint8)


@pytest.fixture
def test_set(image_folder):
    """Folders (gt, lq) of two pairs."""
    rng = np.random.default_rng(0)
    clean = {f'{name}.png': smooth(seed) for seed, name in enumerate('ab')}
    noisy = {name: (image + rng.normal(scale=20, size=image.shape)).clip(0, 255).astype(np.uint8)
             for name, image in clean.items()}
    return image_folder('gt', clean), image_folder('lq', noisy)


@pytest.fixture
def network(tmp_path):
    """(option file, weights) of a small network whose EMA weights count."""
    net = build_network(dict(NETWORK))
    state = {name: value + 0.02 * torch.randn_like(value) for name, value in net.state_dict().items()}
    torch.save({'params': net.state_dict(), 'params_ema': state}, tmp_path / 'net_g.pth')
    (tmp_path / 'opt.yml').write_text(yaml.safe_dump({'network_g': NETWORK, 'val': {'tile': 48, 'tile_overlap': 8,
                                                                                   'size_multiple': 4}}))
    return str(tmp_path / 'opt.yml'), str(tmp_path / 'net_g.pth')


def summary(folder):
    """summary.json, read as strictly as the standard is."""
    def refuse(constant):
        raise AssertionError(f'{constant} is no JSON')
    return json.loads((folder / 'summary.json').read_text(), parse_constant=refuse)


def table(folder):
    with open(folder / 'figures.csv', newline='') as file:
        comments, rows = [], []
        for line in file:
            (comments if line.startswith('#') else rows).append(line)
    return comments, list(csv.DictReader(rows))


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_basicsrs_validation_gives_the_same_figures(protocol, test_set, network, tmp_path, weights, monkeypatch):  # noqa: F811
    monkeypatch.setenv(WEIGHTS_VARIABLE, weights)
    gt, lq = test_set
    option_file, net_g = network
    main(['--protocol', protocol, '--gt', gt, '--lq', lq, '-opt', option_file, '--weights', net_g,
          '--out', str(tmp_path / 'out')])

    model = NoiseDAModel(small_opt(
        tmp_path, is_train=False, train=None, network_diffusion=None, network_g=dict(NETWORK),
        path__pretrain_network_g=net_g, path__param_key_g='params_ema',
        val={'save_img': True, 'suffix': 'x', 'metrics': PROTOCOLS[protocol].metrics, 'tile': 48, 'tile_overlap': 8,
             'size_multiple': 4}))
    options = {'name': 'test', 'type': 'PairedUnpairedDataset', 'phase': 'val', 'dataroot_gt': gt, 'dataroot_lq': lq}
    loader = build_dataloader(build_dataset(options), options, num_gpu=0, dist=False, sampler=None, seed=0)
    model.validation(loader, 0, None, save_img=True)
    measured = summary(tmp_path / 'out')['mean']
    assert measured.keys() == model.metric_results.keys()
    for metric, value in model.metric_results.items():
        assert measured[metric] == pytest.approx(float(value), abs=1e-6), metric

    # and the PNGs that validation saves measure the same
    main(['--protocol', protocol, '--gt', gt, '--results', str(tmp_path / 'visualization/test'),
          '--filename-tmpl', '{}_x', '--out', str(tmp_path / 'again')])
    assert summary(tmp_path / 'again')['mean'] == pytest.approx(measured, abs=1e-6)


def test_outputs(test_set, tmp_path, capsys):
    gt, lq = test_set
    main(['--protocol', 'spa', '--gt', gt, '--results', lq, '--no-lpips', '--out', str(tmp_path / 'out')])
    comments, rows = table(tmp_path / 'out')
    images = {name: [cv2.imread(f'{folder}/{name}.png') for folder in (lq, gt)] for name in 'ab'}
    expected = {name: {'PSNR': calculate_psnr(*pair, 0, test_y_channel=True),
                       'SSIM': calculate_ssim(*pair, 0, test_y_channel=True)} for name, pair in images.items()}
    expected['mean'] = {metric: (expected['a'][metric] + expected['b'][metric]) / 2 for metric in ('PSNR', 'SSIM')}
    assert [row['image'] for row in rows] == ['a', 'b', 'mean']
    for row in rows:
        assert {metric: float(row[metric]) for metric in ('PSNR', 'SSIM')} == pytest.approx(expected[row['image']])
    report = summary(tmp_path / 'out')
    assert report['mean'] == pytest.approx(expected.pop('mean'))
    assert {name: pytest.approx(row) for name, row in expected.items()} == report['per_image']
    assert report['images'] == 2 and report['complete_set'] == 1000 and report['gt'] == gt
    out = capsys.readouterr().out
    for text in ('rounded to 8 bit', 'data range 255', 'Y (YCbCr', 'sigma 1.5', 'no border is cut'):
        assert text in ''.join(comments) and text in out and text in str(report['definition'])
    assert report['definition']['alignment'] == 'none'
    assert f'spa, 2 images: PSNR {report["mean"]["PSNR"]:.4f}  SSIM' in out
    assert 'The complete test set has 1000 images: not comparable with published figures.' in out


def test_an_image_called_mean(image_folder, tmp_path):
    gt, lq = (image_folder(name, {f'{image}.png': smooth(seed) for seed, image in enumerate(('a', 'mean'), first)})
              for name, first in (('gt', 0), ('lq', 5)))
    main(['--protocol', 'folder', '--gt', gt, '--results', lq, '--no-lpips', '--out', str(tmp_path / 'out')])
    a, image, mean = (float(row['PSNR']) for row in table(tmp_path / 'out')[1])
    assert mean == pytest.approx((a + image) / 2) and a != image


def test_full_memory_is_told_with_what_helps(test_set, network, tmp_path, monkeypatch):
    def full(*args, **options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Restorer, '_network', full)
    with pytest.raises(SystemExit, match='lq/a.png: the memory is full. Give an option file with val:tile'):
        main(['--protocol', 'folder', '--no-lpips', '--gt', test_set[0], '--lq', test_set[1], '-opt', network[0],
              '--weights', network[1], '--out', str(tmp_path / 'out')])


def test_every_metric_of_a_protocol_is_defined_in_words():
    for protocol in [*PROTOCOLS.values()]:
        assert {block['type'] for block in (protocol.metrics | NO_TRUTH).values()} <= DEFINITIONS.keys()


def test_equal_images(test_set, tmp_path):
    gt, _ = test_set
    main(['--protocol', 'folder', '--gt', gt, '--results', gt, '--no-lpips', '--out', str(tmp_path / 'out')])
    assert summary(tmp_path / 'out')['mean'] == {'PSNR': 'inf', 'SSIM': pytest.approx(1)}
    assert float(table(tmp_path / 'out')[1][-1]['PSNR']) == math.inf


def test_without_ground_truth(image_folder, tmp_path, capsys):
    folder = image_folder('x', {'a.png': smooth(0, (200, 200))})
    main(['--protocol', 'spa', '--results', folder, '--out', str(tmp_path / 'out')])
    report = summary(tmp_path / 'out')
    assert list(report['mean']) == ['NIQE'] and report['mean']['NIQE'] > 0 and report['comparable_with'] == ''
    assert 'no ground truth' in capsys.readouterr().out


def test_complete_sets_say_what_they_are_comparable_with(image_folder, tmp_path, capsys):
    folder = image_folder('x', {f'{number}.png': smooth(number, (16, 16)) for number in range(15)})
    main(['--protocol', 'cc', '--gt', folder, '--results', folder, '--no-lpips', '--out', str(tmp_path / 'out')])
    assert 'Comparable with the literature on CC.' in capsys.readouterr().out
    assert summary(tmp_path / 'out')['comparable_with'] == 'the literature on CC'


@pytest.mark.parametrize('kind', ['folder', 'lmdb', 'raw', 'mat'])
def test_sources(kind, image_folder, tmp_path):
    blocks = np.stack([smooth(seed, (24, 24)) for seed in range(4)]).reshape(2, 2, 24, 24, 3)
    names = ['0001_01', '0001_02', '0002_01', '0002_02']
    folder = image_folder('f', dict(zip((f'{name}.png' for name in names), blocks.reshape(4, 24, 24, 3), strict=True)))
    path = {'folder': folder, 'mat': f'{tmp_path}/x.mat'}.get(kind, f'{tmp_path}/x.lmdb')
    if kind == 'mat':
        scipy.io.savemat(path, {'ValidationGtBlocksSrgb': blocks})
    elif kind != 'folder':
        create_lmdb(folder, path, raw=kind == 'raw')
    other = image_folder('other', {f'{name}.png': np.zeros((24, 24, 3), np.uint8) for name in names})
    main(['--protocol', 'folder', '--gt', path, '--results', other, '--no-lpips', '--out', str(tmp_path / 'out')])
    assert summary(tmp_path / 'out')['per_image']['0002_01']['PSNR'] == pytest.approx(
        10 * math.log10(255**2 / np.mean(blocks[1, 0].astype(float)**2)))


def test_sidd_from_mat_to_submission(network, tmp_path, capsys):
    rng = np.random.default_rng(0)
    gt = np.stack([smooth(seed, (32, 32)) for seed in range(6)]).reshape(2, 3, 32, 32, 3)
    noisy = (gt + rng.normal(scale=15, size=gt.shape)).clip(0, 255).astype(np.uint8)
    scipy.io.savemat(tmp_path / 'Noisy.mat', {'ValidationNoisyBlocksSrgb': noisy})
    scipy.io.savemat(tmp_path / 'Gt.mat', {'ValidationGtBlocksSrgb': gt})
    option_file, net_g = network
    base = ['--protocol', 'sidd_val', '--gt', str(tmp_path / 'Gt.mat'), '--no-lpips']
    submission = str(tmp_path / 'SubmitSrgb.mat')
    main([*base, '--lq', str(tmp_path / 'Noisy.mat'), '-opt', option_file, '--weights', net_g, '--submit', submission,
          '--save', str(tmp_path / 'png'), '--out', str(tmp_path / 'a')])
    main([*base, '--results', submission, '--out', str(tmp_path / 'b')])
    main([*base, '--results', str(tmp_path / 'png'), '--out', str(tmp_path / 'c')])
    reports = [summary(tmp_path / name) for name in 'abc']
    assert list(reports[0]['mean']) == ['PSNR', 'SSIM', 'SSIM_matlab']
    assert reports[0]['per_image'] == reports[1]['per_image'] == reports[2]['per_image']
    restored = BlockStore(submission)
    np.testing.assert_array_equal(restored.read('0002_03'), Restorer(net_g, option_file)(noisy[1, 2]))
    assert scipy.io.loadmat(submission)['TimeMPSrgb'].item() > 0


def test_saved_pngs_have_the_right_colours_and_clamp(image_folder, tmp_path):
    image = np.zeros((12, 12, 3), np.uint8)
    image[:, :4, 0], image[:, 4:8, 1], image[:, 8:, 2] = 255, 255, 250  # red, green, blue
    folder = image_folder('x', {'a.png': image})
    for by, change in ((0.2, 51), (-0.2, -51), (0, 0), (3, 765), (-3, -765)):
        (tmp_path / 'opt.yml').write_text(yaml.safe_dump({'network_g': {'type': 'Shift', 'by': by}}))
        torch.save({'params': {}}, tmp_path / 'none.pth')
        out = str(tmp_path / f'out{by}')
        main(['--protocol', 'folder', '--gt', folder, '--lq', folder, '-opt', str(tmp_path / 'opt.yml'), '--weights',
              str(tmp_path / 'none.pth'), '--no-lpips', '--save', out, '--out', out])
        saved = cv2.imread(f'{out}/a.png')[..., ::-1].astype(int)
        np.testing.assert_array_equal(saved, (image.astype(int) + change).clip(0, 255))


def test_basicsrs_pngs_have_the_right_colours_and_clamp(image_folder, tmp_path):
    image = np.zeros((8, 12, 3), np.uint8)
    image[:, :4, 0], image[:, 4:8, 1], image[:, 8:, 2] = 255, 255, 250
    options = {'name': 'test', 'type': 'PairedUnpairedDataset', 'phase': 'val',
               'dataroot_lq': image_folder('x', {'a.png': image})}
    loader = build_dataloader(build_dataset(options), options, num_gpu=0, dist=False, sampler=None, seed=0)
    for by, change in ((0.2, 51), (-0.2, -51)):
        model = NoiseDAModel(small_opt(tmp_path, is_train=False, train=None, network_diffusion=None,
                                       network_g={'type': 'Shift', 'by': by}, val={'save_img': True, 'suffix': 'x'}))
        model.validation(loader, 0, None, save_img=True)
        saved = cv2.imread(str(tmp_path / 'visualization/test/a_x.png'))[..., ::-1].astype(int)
        np.testing.assert_array_equal(saved, (image.astype(int) + change).clip(0, 255))


@pytest.fixture
def degraded_16_bit(test_set, image_folder):
    """The degraded photos of the test set with 16 bit."""
    store = open_one(test_set[1], '')
    return image_folder('lq16', {f'{name}.png': store.read(name).astype(np.uint16) * 257 for name in store.keys})


def test_compare_measures_the_same(test_set, network, degraded_16_bit, tmp_path, capsys):
    gt, lq = test_set
    option_file, net_g = network
    truth_16_bit = tmp_path / 'truth_16_bit'
    truth_16_bit.mkdir()
    for file in os.listdir(gt):
        in_8_bit = cv2.imread(f'{gt}/{file}').astype(int)
        cv2.imwrite(str(truth_16_bit / file), (in_8_bit * 257 + 100).clip(max=65535).astype(np.uint16))  # rounds to it
    for folder, truth in ((lq, gt), (degraded_16_bit, str(truth_16_bit))):
        comparison.main([f'net={net_g}', '-opt', option_file, '--lq', folder, '--gt', truth, '--show', '1', '--out',
                         str(tmp_path / 'out')])
        metrics, restorer = {name: METRICS[name] for name in ('PSNR', 'SSIM')}, Restorer(net_g, option_file)
        expected = {version: evaluate(store, open_one(gt, ''), metrics) for version, store in (
            ('degraded', open_one(lq, '')), ('net', RestoredStore(open_one(folder, ''), restorer)))}
        with open(tmp_path / 'out/figures.csv', newline='') as file:
            for row in csv.DictReader(file):
                figures = expected[row['version']][row['photo']]
                assert {metric: float(row[metric]) for metric in figures} == pytest.approx(figures, rel=1e-5)
        figures = means(expected['net'])
        assert f'| net      | {figures["PSNR"]:.2f} | {figures["SSIM"]:.4f} |' in capsys.readouterr().out
        picture = cv2.imread(str(tmp_path / 'out/comparison.png'))
        assert picture.shape == (280, 3 * 260, 3)  # one photo; degraded, net, truth
        np.testing.assert_array_equal(picture[24:88, :72], cv2.imread(f'{lq}/a.png'))
        np.testing.assert_array_equal(picture[24:88, 520:592], cv2.imread(f'{gt}/a.png'))


@pytest.mark.parametrize(('arguments', 'message'), [
    (['NET', '--show', '0'], '--show 0: must be above 0'),
    (['degraded=NET'], 'networks: the name degraded is taken; choose another, as other='),
    (['a=NET', 'a=NET'], 'networks: the name a is taken'),
    (['a='], "networks: 'a=' is not of the form NAME=PATH"),
    (['a=NET', '--lq', 'nowhere'], '--lq: nowhere does not exist'),
])
def test_mistakes_in_a_comparison(arguments, message, test_set, network, tmp_path):
    arguments = [argument.replace('NET', network[1]) for argument in arguments]
    with pytest.raises(SystemExit, match=f'^error: {message}'):
        comparison.main(['-opt', network[0], '--lq', test_set[1], '--gt', test_set[0], '--out', str(tmp_path / 'out'),
                         *arguments])


def test_16_bit_images_are_rounded_to_8():
    image = np.array([[[0, 128, 129], [257, 65535, 65535 - 129]]], np.uint16)
    np.testing.assert_array_equal(to_8bit(image), [[[0, 0, 1], [1, 255, 254]]])


def test_a_png_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='a.png: could not be written .*Is the disk full'):
        save_png(str(tmp_path / 'file' / 'a.png'), smooth(0))


def test_a_png_takes_the_place_of_a_link_not_of_what_it_leads_to(tmp_path):
    original, link = tmp_path / 'original.png', tmp_path / 'link.png'
    save_png(str(original), smooth(0))
    before = original.read_bytes()
    link.symlink_to(original)
    save_png(str(link), smooth(1))
    assert original.read_bytes() == before and not link.is_symlink()
    np.testing.assert_array_equal(cv2.imread(str(link))[..., ::-1], smooth(1))


def test_means():
    figures = {'a': {'PSNR': 30.0, 'SSIM': 0.5}, 'b': {'PSNR': 34.0, 'SSIM': 0.9}}
    assert means(figures) == {'PSNR': 32, 'SSIM': pytest.approx(0.7)}


# ------------------------------------------------------------------ wrong input

@pytest.mark.parametrize(('names', 'template', 'odd'), [
    (['a', 'c'], '{}', 'b'), (['a'], '{}', 'b'), (['a', 'b', 'c'], '{}', 'c'), (['a_x', 'b'], '{}_x', 'b'),
    (['a', 'b'], '{}_x', 'a')])
def test_names_must_match(names, template, odd, test_set, image_folder):
    gt, _ = test_set
    results = image_folder('results', {f'{name}.png': np.zeros((64, 72, 3), np.uint8) for name in names})
    message = rf'results \({len(names)} images\) and .*gt \(2\) hold different names, {odd} for example'
    with pytest.raises(InputError, match=message):
        evaluate(open_one(results, ''), open_one(gt, ''), QUICK, template)


def test_sizes_must_match(test_set, image_folder):
    gt, _ = test_set
    results = image_folder('results', {f'{name}.png': np.zeros((64, 70, 3), np.uint8) for name in 'ab'})
    with pytest.raises(InputError, match=r'results/a.png is 70x64 and .*gt/a.png is 72x64; a pair must be of equal'):
        evaluate(open_one(results, ''), open_one(gt, ''), QUICK)


@pytest.mark.parametrize('protocol', ['realblur_j', 'realblur_j_aligned'])
def test_images_too_small_for_a_metric_are_told(protocol, weights, monkeypatch):  # noqa: F811
    monkeypatch.setenv(WEIGHTS_VARIABLE, weights)
    for name, block in PROTOCOLS[protocol].metrics.items():
        side = SMALLEST.get(block['type'], 5)
        large, small = smooth(0)[:side], smooth(0)[:side - 1]
        assert np.isfinite(measure(large, smooth(0)[:side] + 1, {name: block})[name])
        if block['type'] in SMALLEST:
            with pytest.raises(InputError, match=f'a.png is 72x{side - 1}; {name} needs sides of {side} pixels or'):
                measure(small, small, {name: block}, 'a.png')


@pytest.mark.parametrize('destroyed', ['gt', 'lq', 'results', 'other name', 'mat'])
def test_what_is_read_is_not_written_over(destroyed, test_set, network, tmp_path):
    gt, lq = test_set
    option_file, net_g = network
    source = ['--results', lq] if destroyed == 'results' else ['--lq', lq, '-opt', option_file, '--weights', net_g]
    (tmp_path / 'link').symlink_to(gt)
    target = {'gt': gt, 'lq': lq, 'results': lq, 'other name': str(tmp_path / 'link'), 'mat': gt}[destroyed]
    before = {name: (tmp_path / name).read_bytes() for name in ('gt/a.png', 'lq/a.png')}
    with pytest.raises(SystemExit, match=f'error: {target}: is read and would be overwritten'):
        main(['--protocol', 'folder', '--no-lpips', '--gt', gt, *source, '--out', str(tmp_path / 'out'),
              '--submit' if destroyed == 'mat' else '--save', target])
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_a_network_that_gives_no_numbers_has_no_figures(test_set, network, tmp_path):
    option_file, net_g = network
    content = torch.load(net_g)
    next(iter(content['params_ema'].values())).fill_(torch.nan)
    torch.save(content, net_g)
    with pytest.raises(SystemExit, match='net_g.pth: these weights restore an image to NaN or infinity.'):
        main(['--protocol', 'folder', '--no-lpips', '--gt', test_set[0], '--lq', test_set[1], '-opt', option_file,
              '--weights', net_g, '--out', str(tmp_path / 'out')])


@pytest.mark.parametrize(('image', 'message'), [
    (np.zeros((100, 191, 3), np.uint8), r'a.png is 191x100; NIQE needs two blocks of 96x96. Give the ground truth'),
    (np.zeros((200, 200, 3), np.uint8), r'a.png: cannot be measured'),
])
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_niqe_of_unsuitable_images(image, message, image_folder):
    with pytest.raises(InputError, match=message):
        evaluate(open_one(image_folder('x', {'a.png': image}), ''), None, NO_TRUTH)


def test_what_cannot_be_aligned_is_named(test_set, image_folder):
    gt, _ = test_set
    results = image_folder('results', {f'{name}.png': np.full((64, 72, 3), 9, np.uint8) for name in 'ab'})
    with pytest.raises(InputError, match=r'results/a.png: cannot be measured. ECC found no homography'):
        evaluate(open_one(results, ''), open_one(gt, ''), PROTOCOLS['realblur_j_aligned'].metrics)


@pytest.mark.parametrize(('arguments', 'message'), [
    ([], 'Give --results, or --lq with --weights'),
    (['--lq', 'LQ', '-opt', 'OPT'], 'Give --results, or --lq with --weights'),
    (['--lq', 'LQ', '--weights', 'NET'], 'spandrel does not recognise'),
    (['--results', 'LQ', '--lq', 'LQ'], 'Give --results, or'),
    (['--results', 'nowhere', '--gt', 'GT'], '--results: nowhere does not exist'),
    (['--results', 'LQ', '--gt', 'nowhere.mat'], 'nowhere.mat: no such file'),
    (['--results', 'LQ', '--gt', 'GT', '--filename-tmpl', 'x_{a}'], r'--filename-tmpl x_\{a\}: must hold \{\}'),
    (['--results', 'LQ', '--filename-tmpl', '{}_x'], '--filename-tmpl {}_x: names results by ground truth; give --gt'),
    (['--results', 'LQ', '--gt', 'GT', '--save', 'OPT'], 'opt.yml: this folder cannot be made .* Choose another'),
    (['--results', 'LQ', '--gt', 'GT', '--submit', 'out.mat'], 'out.mat: a submission needs every block'),
    (['--lq', 'LQ', '--gt', 'GT', '-opt', 'OPT', '--weights', 'nowhere.pth'], 'nowhere.pth'),
    (['--lq', 'LQ', '--gt', 'GT', '-opt', 'nowhere.yml', '--weights', 'NET'], 'nowhere.yml: no such option file'),
])
def test_wrong_arguments(arguments, message, test_set, network, tmp_path):
    places = dict(zip(('GT', 'LQ', 'OPT', 'NET'), (*test_set, *network), strict=True))
    with pytest.raises(SystemExit, match=f'^error: .*{message}'):
        main(['--protocol', 'folder', '--no-lpips', '--out', str(tmp_path / 'out'),
              *(places.get(argument, argument) for argument in arguments)])
    assert not list((tmp_path / 'out').glob('*'))


def test_missing_weights_of_lpips_are_no_images_fault(test_set, tmp_path, monkeypatch):
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / 'alexnet.pth'))
    with pytest.raises(SystemExit, match='^error: [^:]*alexnet.pth: no such file of AlexNet weights'):
        main(['--protocol', 'folder', '--out', str(tmp_path / 'out'), '--results', test_set[1], '--gt', test_set[0]])


def test_weights_that_name_their_network_need_no_option_file(test_set, network, tmp_path):
    option_file, net_g = network
    gt, lq = test_set
    content = torch.load(net_g, weights_only=True)
    torch.save({**content, 'network_g': NETWORK}, tmp_path / 'named.pth')
    figures = []
    for name, more in (('with', ['-opt', option_file, '--weights', net_g]),
                       ('without', ['--weights', str(tmp_path / 'named.pth')])):
        main(['--protocol', 'folder', '--no-lpips', '--gt', gt, '--lq', lq, *more, '--out', str(tmp_path / name)])
        figures.append(summary(tmp_path / name)['mean'])
    assert figures[0] == pytest.approx(figures[1], rel=1e-3)  # the option file has tiles


def test_missing_lpips_weights_are_told(test_set, tmp_path, monkeypatch):
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / 'none.pth'))
    with pytest.raises(SystemExit, match='none.pth: no such file of AlexNet weights'):
        main(['--protocol', 'folder', '--gt', test_set[0], '--results', test_set[1], '--out', str(tmp_path / 'out')])


def test_script(test_set, tmp_path):
    process = run([ROOT / 'scripts/evaluate.py', '--protocol', 'polyu', '--gt', test_set[0], '--results', test_set[1],
                   '--no-lpips', '--out', 'out'], tmp_path)
    assert process.returncode == 0, process.stdout
    assert sorted(os.listdir(tmp_path / 'out')) == ['figures.csv', 'summary.json']
    save_png(str(tmp_path / 'new/folder/a.png'), smooth(0))
    assert (tmp_path / 'new/folder/a.png').is_file()
