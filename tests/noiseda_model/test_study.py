"""The study: what it trains and skips, and its figures against hand-made ones."""
import csv
import math

import numpy as np
import pytest
import torch
import yaml
from basicsr.metrics import calculate_niqe
from cli import ROOT
from images import write_images

from noiseda_basicsr import InputError
from noiseda_model.protocols import NIQE_BLOCK
from noiseda_model.restorer import Restorer
from noiseda_model.study import KEYS, main, markdown, plan, read_study, summarise

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
    text = markdown(table, ['PSNR'])
    assert '| d | adapted | 21.50 ± 0.71 | 12% | 1 of 2 | 10 | 1.0 |' in text


def test_without_oracle_there_is_no_share():
    entry = summarise(rows(vanilla=[20], adapted=[22]), ['PSNR'])[1]
    assert entry['share'] is None and entry['won'] == 1 and entry['PSNR'] == (22, None)
    assert '| d | adapted | 22.00 |  | 1 of 1 |' in markdown([entry], ['PSNR'])


def test_of_lpips_the_lower_is_the_better():
    table = summarise(rows('LPIPS', vanilla=[0.4, 0.4], oracle=[0.2, 0.2], adapted=[0.3, 0.5]), ['LPIPS'])
    by_name = {entry['variant']: entry for entry in table}
    assert by_name['oracle']['won'] == 2 and by_name['adapted']['won'] == 1
    assert by_name['oracle']['share'] == 1 and by_name['adapted']['share'] == pytest.approx(0)


def test_niqe_makes_nothing_better_than_vanilla():
    table = summarise(rows('NIQE', vanilla=[5, 5], oracle=[3, 3], adapted=[4, 6]), ['NIQE'])
    assert [(entry['share'], entry['won']) for entry in table] == [(None, None)] * 3
    assert '| d | adapted | 5.0000 ± 1.4142 |  |  | 10 | 1.0 |' in markdown(table, ['NIQE'])


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
        'results.csv', 'table.csv', 'table.md', 'study.svg'}

    monkeypatch.setattr('subprocess.run', lambda *args, **kwargs: pytest.fail('nothing is left to train'))
    before = (tmp_path / 'out/results.csv').read_text()
    main([file, '--out', 'out'])
    (tmp_path / 'out/results.csv').write_text('\n'.join(before.splitlines()[:2]) + '\n')  # one not measured yet
    main([file, '--out', 'out'])
    assert (tmp_path / 'out/results.csv').read_text() == before
    without_ssim = '\n'.join(line.rpartition(',')[0] for line in before.splitlines()) + '\n'
    (tmp_path / 'out/results.csv').write_text(without_ssim)  # as if SSIM had been added to the study since
    with pytest.raises(SystemExit, match='not all the metrics'):
        main([file, '--out', 'out', '--table'])
    main([file, '--out', 'out'])
    assert (tmp_path / 'out/results.csv').read_text() == before

    variants['vanilla']['options'] = ['train:total_iter=4']
    changed = study(tmp_path, seeds=[0], variants=variants, domains={'weak': {'lq': 'weak_lq', 'gt': 'gt'}})
    with pytest.raises(SystemExit, match='vanilla_seed0 was trained with other options'):
        main([changed, '--out', 'elsewhere'])


def test_a_training_that_fails_ends_the_study_with_what_its_log_says(tmp_path, monkeypatch):
    variants = {'vanilla': {'opt': 'missing.yml'}}
    file = study(tmp_path, seeds=[0], variants=variants)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match='error: vanilla_seed0: training ended with status') as stopped:
        main([file, '--out', 'out'])
    assert 'missing.yml: no such option file' in str(stopped.value)
