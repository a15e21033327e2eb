"""The study: what it trains and skips, and its figures against hand-made ones."""
import csv
import math
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.metrics import calculate_niqe
from cli import ROOT
from images import write_images

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_model.evaluation import NIQE_BLOCK
from noiseda_model.restorer import Restorer
from noiseda_model.study import KEYS, Training, main, plan, read_study, train
from noiseda_model.study_table import markdown, summarise

OPTION_FILE = ROOT / 'tests/noiseda_basicsr/tiny.yml'


def study(tmp_path, **changes):
    """A study file on disk; None removes a key."""
    content = {
        'seeds': [0, 1],
        'options': ['logger:print_freq=1'],
        'metrics': ['PSNR'],
        'domains': {name: {'lq': f'{name}_lq', 'gt': 'gt', 'noise': f'{{type: awgn, sigma: {sigma}}}'}
                    for name, sigma in (('weak', 5), ('strong', 50))},
        'variants': {
            'start': {'opt': str(OPTION_FILE), 'options': ['train:total_iter=2']},
            'vanilla': {'opt': str(OPTION_FILE), 'start': 'start', 'options': ['train:total_iter=3']},
            'oracle': {'opt': str(OPTION_FILE), 'start': 'start',
                       'options': ['train:total_iter=3', 'datasets:train:degradation=$noise']},
        },
        **changes,
    }
    path = tmp_path / 'study.yml'
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def test_what_is_the_same_in_all_domains_is_trained_once_a_seed(tmp_path):
    cells = plan(read_study(study(tmp_path)))
    assert len(cells) == 3 * 2 * 2
    assert cells['vanilla', 'weak', 0] is not cells['vanilla', 'weak', 1]
    assert cells['vanilla', 'weak', 0] == cells['vanilla', 'strong', 0]
    assert cells['oracle', 'weak', 0] != cells['oracle', 'strong', 0]
    assert cells['oracle', 'weak', 1].start == cells['start', 'strong', 1]
    assert 'datasets:train:degradation={type: awgn, sigma: 50}' in cells['oracle', 'strong', 0].forced
    assert 'manual_seed=1' in cells['oracle', 'strong', 1].forced
    trainings = set(cells.values())
    assert len({training.name for training in trainings}) == len(trainings) == 2 * (1 + 1 + 2)


def test_a_training_that_starts_from_one_of_its_domain_is_of_that_domain(tmp_path):
    variants = {
        'oracle': {'opt': 'a.yml', 'options': ['datasets:train:degradation=$noise']},
        'longer': {'opt': 'a.yml', 'start': 'oracle'},
    }
    cells = plan(read_study(study(tmp_path, variants=variants)))
    assert cells['longer', 'weak', 0] != cells['longer', 'strong', 0]


@pytest.mark.parametrize(('changes', 'message'), [
    ({'seeds': None}, 'needs seeds'),
    ({'seeds': 3}, 'seeds is 3; it must be a list of whole numbers'),
    ({'seeds': 0}, 'seeds is 0; it must be a list of whole numbers'),
    ({'metrics': 'PSNR'}, "metrics is 'PSNR'; it must be a list of texts"),
    ({'options': [{'datasets:train:gt_size': 48}]}, 'options is .* it must be a list of texts'),
    ({'domains': {'a': None}}, 'domains:a: is None; it must be a mapping with lq, gt'),
    ({'variants': ['v.yml']}, r"variants is \['v.yml'\]; it must be a mapping"),
    ({'variants': {'vanilla': 'v.yml'}}, "variants:vanilla: is 'v.yml'; it must be a mapping with opt, options, start"),
    ({'variants': {'a': {'opt': 'x', 'options': 'y=1'}}}, "variants:a: options is 'y=1'; it must be a list of texts"),
    ({'speed': 3}, 'unknown speed'),
    ({'metrics': ['FID']}, 'unknown FID'),
    ({'domains': {'a': {'gt': 'x'}}}, 'domains:a:lq is missing'),
    ({'domains': {'a': {'lq': 'x'}}, 'metrics': ['NIQE', 'LPIPS']}, 'a:gt is missing, the truth that LPIPS needs'),
    ({'variants': {'a': {'options': []}}}, 'variants:a:opt'),
    ({'variants': {'a': {'opt': 'x', 'iterations': 3}}}, 'unknown iterations'),
    ({'variants': {'a': {'opt': 'x', 'start': 'b'}, 'b': {'opt': 'x'}}}, 'must be one of those before it'),
    ({'variants': {'a': {'opt': 'x', 'start': 'a'}}}, 'must be one of those before it'),
])
def test_bad_study_files(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_study(study(tmp_path, **changes))


@pytest.mark.parametrize('file', sorted((ROOT / 'options/study').glob('*.yml')), ids=lambda file: file.stem)
def test_study_files_of_the_project(file):
    content = read_study(str(file))
    trainings = set(plan(content).values())
    assert len({training.name for training in trainings}) == len(trainings)
    assert all((ROOT / training.option_file).is_file() for training in trainings)


def test_an_unknown_placeholder_is_named(tmp_path):
    variants = {'a': {'opt': 'x', 'options': ['datasets:train:dataroot_real=$real']}}
    with pytest.raises(InputError, match=r'\$real.*domains:weak'):
        plan(read_study(study(tmp_path, variants=variants)))


def test_photos_without_truth_need_metrics_that_need_none(tmp_path):
    assert read_study(study(tmp_path, domains={'a': {'lq': 'x'}}, metrics=['NIQE']))['domains'] == {'a': {'lq': 'x'}}


def squeezed(table):
    """A Markdown table without the spaces that align it."""
    return re.sub(' +', ' ', table)


def rows(metric='PSNR', **figures):
    """Rows of one domain from {variant: a figure for each seed}."""
    return [{**dict(zip(KEYS, (variant, 'd', str(seed)), strict=True)), 'iterations': '10', 'seconds': '60',
             metric: str(value)} for variant, values in figures.items() for seed, value in enumerate(values)]


def test_means_deviations_and_the_share_of_the_gap():
    table = summarise(rows(vanilla=[20, 22], oracle=[24, 26], adapted=[22, 21], longer=[18, 20]), ['PSNR'])
    by_name = {entry['variant']: entry for entry in table}
    assert by_name['adapted']['PSNR'] == pytest.approx((21.5, math.sqrt(0.5)))
    assert by_name['adapted']['share'] == pytest.approx(0.5 / 4)
    assert by_name['longer']['share'] == pytest.approx(-2 / 4)
    assert (by_name['vanilla']['share'], by_name['oracle']['share']) == (0, 1)
    assert by_name['adapted']['won'] == 1 and by_name['oracle']['won'] == 2 and by_name['vanilla']['won'] is None
    text = squeezed(markdown(table, ['PSNR']))
    assert '| d | adapted | 21.50 ± 0.71 | 12% | 1 of 2 | 10 | 1.0 |' in text


def test_without_oracle_there_is_no_share():
    entry = summarise(rows(vanilla=[20], adapted=[22]), ['PSNR'])[1]
    assert entry['share'] is None and entry['won'] == 1 and entry['PSNR'] == (22, None)
    assert '| d | adapted | 22.00 | | 1 of 1 |' in squeezed(markdown([entry], ['PSNR']))


def test_only_seeds_that_vanilla_has_too_are_compared_with_it():
    table = summarise(rows(vanilla=[20], adapted=[22, 23, 24]), ['PSNR'])
    assert '| 1 of 1 |' in squeezed(markdown(table, ['PSNR']))


def test_of_lpips_the_lower_is_the_better():
    table = summarise(rows('LPIPS', vanilla=[0.4, 0.4], oracle=[0.2, 0.2], adapted=[0.3, 0.5]), ['LPIPS'])
    by_name = {entry['variant']: entry for entry in table}
    assert by_name['oracle']['won'] == 2 and by_name['adapted']['won'] == 1
    assert by_name['oracle']['share'] == 1 and by_name['adapted']['share'] == pytest.approx(0)


def test_niqe_makes_nothing_better_than_vanilla():
    table = summarise(rows('NIQE', vanilla=[5, 5], oracle=[3, 3], adapted=[4, 6]), ['NIQE'])
    assert [(entry['share'], entry['won']) for entry in table] == [(None, None)] * 3
    assert '| d | adapted | 5.0000 ± 1.4142 | | | 10 | 1.0 |' in squeezed(markdown(table, ['NIQE']))


def test_photos_without_truth(tmp_path, monkeypatch):
    rng, size = np.random.default_rng(0), (NIQE_BLOCK, 2 * NIQE_BLOCK, 3)
    photos = {f'{name}.png': rng.integers(0, 256, size, np.uint8) for name in 'ab'}
    write_images(tmp_path / 'photos', photos)
    for folder in ('gt', 'lq', 'real'):
        write_images(tmp_path / folder, 2)
    variants = {name: {'opt': str(OPTION_FILE), 'options': [f'train:total_iter={iterations}']}
                for name, iterations in (('vanilla', 1), ('longer', 4))}
    file = study(tmp_path, seeds=[0], variants=variants, domains={'real': {'lq': 'photos'}}, metrics=['NIQE'])
    monkeypatch.chdir(tmp_path)
    main([file, '--out', 'out'])
    with open(tmp_path / 'out/results.csv') as stream:
        found = list(csv.DictReader(stream))
    assert len(found) == 2 and found[0]['NIQE'] != found[1]['NIQE']
    for row in found:
        restorer = Restorer(f'experiments/{row["variant"]}_seed0/models/net_g_latest.pth')
        figures = [calculate_niqe(restorer(photo)[..., ::-1], crop_border=0) for photo in photos.values()]
        assert float(row['NIQE']) == pytest.approx(np.mean(figures), abs=1e-4)


def test_it_trains_measures_and_keeps_what_is_done(tmp_path, monkeypatch):
    for folder in ('gt', 'lq', 'real', 'weak_lq'):
        write_images(tmp_path / folder, 2, seed=1)
    variants = {
        'start': {'opt': str(OPTION_FILE), 'options': ['train:total_iter=2']},
        'vanilla': {'opt': str(OPTION_FILE), 'start': 'start', 'options': ['train:total_iter=3']},
    }
    file = study(tmp_path, seeds=[0], variants=variants, domains={'weak': {'lq': 'weak_lq', 'gt': 'gt'}})
    monkeypatch.chdir(tmp_path)
    main([file, '--out', 'out'])
    with open(tmp_path / 'out/results.csv') as stream:
        found = list(csv.DictReader(stream))
    assert [(row['variant'], row['iterations']) for row in found] == [('start', '2'), ('vanilla', '5')]
    assert float(found[1]['seconds']) >= float(found[0]['seconds'])
    start, longer = (torch.load(tmp_path / f'experiments/{name}_seed0/models/net_g_latest.pth', weights_only=True)
                     for name in ('start', 'vanilla'))
    assert any(not torch.equal(start['params'][key], longer['params'][key]) for key in start['params'])
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {
        '.lock', 'results.csv', 'table.csv', 'table.md', 'study.svg'}

    monkeypatch.setattr('subprocess.Popen', lambda *args, **kwargs: pytest.fail('nothing is left to train'))
    before = (tmp_path / 'out/results.csv').read_text()
    main([file, '--out', 'out'])
    (tmp_path / 'out/results.csv').write_text('\n'.join(before.splitlines()[:2]) + '\n')  # one not measured yet
    main([file, '--out', 'out'])
    assert (tmp_path / 'out/results.csv').read_text() == before
    without_ssim = '\n'.join(line.rpartition(',')[0] for line in before.splitlines()) + '\n'
    (tmp_path / 'out/results.csv').write_text(without_ssim)  # as if SSIM had been added to the study since
    with pytest.raises(SystemExit, match='not all its metrics'):
        main([file, '--out', 'out', '--table'])
    main([file, '--out', 'out'])
    assert (tmp_path / 'out/results.csv').read_text() == before

    variants['vanilla']['options'] = ['train:total_iter=4']
    changed = study(tmp_path, seeds=[0], variants=variants, domains={'weak': {'lq': 'weak_lq', 'gt': 'gt'}})
    with pytest.raises(SystemExit, match='vanilla_seed0 was trained with other options'):
        main([changed, '--out', 'elsewhere'])


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """trained(**changes) runs a study of one network, untrained, in a folder of its own; returns table and rows."""
    def fake_training(training, processes):
        folder = tmp_path / f'experiments/{training.name}'
        (folder / 'models').mkdir(parents=True, exist_ok=True)
        (folder / 'train_1.log').write_text('2026-01-01 10:00:00,000 INFO: total_iter: 2\n')
        net = {'type': 'RestorationUNet', 'width': 4, 'depth': 2}
        torch.save({'params': build_network(dict(net)).state_dict(), 'network_g': net}, tmp_path / training.weights)

    def run(**changes):
        main([study(tmp_path, **{'seeds': [0], 'domains': DOMAINS, 'variants': {'vanilla': {'opt': 'tiny.yml'}},
                                 **changes}), '--out', 'out'])
        with open('out/results.csv') as stream:
            return squeezed((tmp_path / 'out/table.md').read_text()), list(csv.DictReader(stream))

    for name in ('lq', 'gt', 'other'):
        write_images(tmp_path / name, 2, seed=len(name))
    (tmp_path / 'tiny.yml').write_text(OPTION_FILE.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('noiseda_model.study.train', fake_training)
    return run


DOMAINS = {'a': {'lq': 'lq', 'gt': 'gt'}}


def test_other_photos_are_measured_anew(trained, tmp_path):
    _, before = trained()
    _, after = trained(domains={'a': {'lq': 'other', 'gt': 'gt'}})
    assert len(before) == len(after) == 1 and before[0]['PSNR'] != after[0]['PSNR'] and after[0]['lq'] == 'other'
    older = {key: value for key, value in after[0].items() if key not in ('lq', 'gt')} | {'PSNR': '12.3400'}
    (tmp_path / 'out/results.csv').write_text(f'{",".join(older)}\n{",".join(older.values())}\n')
    assert '| a | vanilla | 12.34 |' in trained()[0]  # nobody knows what an old row was measured on


def test_variants_that_the_study_does_not_name_are_in_no_table(trained):
    trained()
    table, found = trained(variants={'renamed': {'opt': 'tiny.yml'}})
    assert '| renamed | ' in table and 'vanilla |' not in table.splitlines()[-1] and ' of 1' not in table
    assert [row['variant'] for row in found] == ['vanilla', 'renamed']  # which may come back


def test_a_changed_option_file_is_noticed(trained, tmp_path):
    trained()
    recipe, option_file = tmp_path / 'experiments/vanilla_seed0.txt', tmp_path / 'tiny.yml'
    option_file.write_text('# a comment\n' + option_file.read_text())
    trained()
    option_file.write_text(option_file.read_text().replace('print_freq: 1', 'print_freq: 9'))
    trained()
    option_file.write_text(option_file.read_text().replace('width: 4', 'width: 8'))
    with pytest.raises(SystemExit, match=r'vanilla_seed0 was trained with other options \(network_g:width 4 -> 8\)'):
        trained()
    recipe.write_text(recipe.read_text().partition('{')[0])  # of a training made before that was noted
    trained()
    assert '{' not in recipe.read_text()


def test_a_finished_study_wants_its_figures_only(trained, tmp_path):
    table, _ = trained()
    shutil.rmtree(tmp_path / 'lq')
    (tmp_path / 'tiny.yml').unlink()
    assert trained()[0] == table


SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.6), sys.exit(7)))
print('ready', flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_training_too(number, status, tmp_path, monkeypatch):
    """It gets one and saves its state then, for which the study waits. Left alone it would train on, unseen.

    Ctrl-C goes to all processes of the session; the training is of another, for a second signal ends it at once.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'experiments').mkdir()
    monkeypatch.setattr('noiseda_model.study.TRAIN', SAVES)

    def interrupt(*_):
        if 'ready' not in (tmp_path / 'experiments/x.log').read_text():
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            return
        assert os.getsid(started[0].pid) != os.getsid(0)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's parent may ignore it
    signal.signal(signal.SIGALRM, interrupt)
    started, popen = [], subprocess.Popen
    monkeypatch.setattr('subprocess.Popen', lambda *args, **options: started.append(popen(*args, **options))
                        or signal.setitimer(signal.ITIMER_REAL, 0.5) and None or started[-1])
    with pytest.raises(SystemExit) as stopped, errors_in_one_line():
        train(Training('x', str(OPTION_FILE), (), None))
    signal.signal(signal.SIGINT, before)
    assert stopped.value.code == status and started[0].returncode == 7


CHAIN = {'start': {'opt': 'tiny.yml', 'options': ['train:total_iter=2']},
         'vanilla': {'opt': 'tiny.yml', 'start': 'start'}}
OTHER_START = {**CHAIN, 'start': {'opt': 'tiny.yml', 'options': ['train:total_iter=3']}}


def test_what_went_on_from_a_start_that_was_trained_anew_is_refused(trained, tmp_path):
    trained(variants=CHAIN)
    shutil.rmtree(tmp_path / 'experiments/start_seed0')
    with open(tmp_path / 'out/results.csv') as stream:
        lines = stream.readlines()
    (tmp_path / 'out/results.csv').write_text(''.join(line for line in lines if not line.startswith('start')))
    with pytest.raises(SystemExit, match=r'vanilla_seed0 was trained with other options \(start'):
        trained(variants=OTHER_START)


def test_a_finished_row_of_other_options_is_refused_without_its_folder(trained, tmp_path):
    trained(variants=CHAIN)
    for name in ('start', 'vanilla'):
        shutil.rmtree(tmp_path / f'experiments/{name}_seed0')
    with pytest.raises(SystemExit, match='start_seed0 was trained with other options'):
        trained(variants=OTHER_START)
    trained(variants=CHAIN)


def test_another_metric_is_added(trained):
    trained(metrics=['PSNR'])
    _, (row,) = trained(metrics=['SSIM'])
    assert row['PSNR'] and row['SSIM']


def test_of_two_studies_in_one_folder_one_is_refused(trained, tmp_path):
    trained()
    hold = 'from noiseda_basicsr.folders import hold; kept = hold("out"); print(flush=True); input()'
    other = subprocess.Popen([sys.executable, '-c', hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(SystemExit, match='out: another process is at work there'):
        trained()
    other.communicate(b'\n')
    trained()


@pytest.mark.parametrize(('changes', 'message'), [
    ({'domains': {**DOMAINS, 'b': {'lq': 'nowhere', 'gt': 'gt'}}}, 'domains:b:lq: nowhere does not exist'),
    ({'domains': {**DOMAINS, 'b': {'lq': 'lq', 'gt': 'nowhere'}}}, 'domains:b:gt: nowhere does not exist'),
    ({'variants': {'vanilla': {'opt': 'tiny.yml'}, 'b': {'opt': 'missing.yml'}}}, 'missing.yml: no such option file'),
])
def test_what_is_missing_is_told_before_any_training(trained, tmp_path, changes, message):
    with pytest.raises(SystemExit, match=f'error: {message}'):
        trained(**changes)
    assert not (tmp_path / 'experiments').exists()


def test_a_training_that_fails_ends_the_study_with_what_its_log_says(tmp_path, monkeypatch):
    variants = {'vanilla': {'opt': str(OPTION_FILE), 'options': ['datasets:train:dataroot_gt=nowhere']}}
    for name in ('lq', 'gt'):
        write_images(tmp_path / name, 2)
    file = study(tmp_path, seeds=[0], variants=variants, domains=DOMAINS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match='error: vanilla_seed0: training ended with status') as stopped:
        main([file, '--out', 'out'])
    assert 'nowhere does not exist' in str(stopped.value)
