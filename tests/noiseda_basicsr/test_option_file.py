"""A mistake in the option file or on the command line is told before anything is made of it."""
import os
import subprocess
import sys
from pathlib import Path

import basicsr.utils.dist_util as dist_util
import pytest
import torch
import yaml

from noiseda_basicsr import InputError, launch
from noiseda_basicsr.checkpoint import load_resume_state
from noiseda_basicsr.fixes import apply_fixes
from noiseda_basicsr.folders import FreshFolders

TINY = Path(__file__).with_name('tiny.yml').read_text()


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """parse(text, *arguments, is_train) is what the launcher makes of an option file."""
    apply_fixes()
    monkeypatch.chdir(tmp_path)

    def parse(text, *arguments, is_train=True):
        Path('opt.yml').write_text(text)
        monkeypatch.setattr('sys.argv', ['train.py', '-opt', 'opt.yml', *arguments])
        return launch.parse_options(os.getcwd(), is_train)[0]

    return parse


FORCED = {  # --force_yml, what the message must hold
    'total_iter as text': ('train:total_iter=abc', ['train:total_iter', "'abc'", 'whole number, 1 or more']),
    'half an iteration': ('val:val_freq=2.5', ['val:val_freq', '2.5', 'whole number']),
    'no frequency': ('logger:print_freq=0', ['logger:print_freq', '0', '1 or more']),
    'nothing kept': ('logger:keep_last=0', ['logger:keep_last', '1 or more']),
    'truth': ('train:total_iter=true', ['train:total_iter', 'True', 'whole number']),
    'tile': ('val:tile=abc', ['val:tile', "'abc'"]),
    'overlap': ('val:tile_overlap=-4', ['val:tile_overlap', '-4']),
    'seed': ('manual_seed=null', ['manual_seed', 'None']),
    'workers': ('datasets:train:num_worker_per_gpu=-1', ['datasets:train:num_worker_per_gpu', '-1']),
    'prefetch': ('datasets:train:prefetch_mode=gpu', ['datasets:train:prefetch_mode', "'gpu'", 'cpu, cuda']),
    'beside the blocks': ('degradation={type: awgn}', ['degradation stands directly under the option file',
                                                       'belongs to datasets:train']),
    'in no data set': ('datasets:degradation={type: awgn}', ['degradation stands directly under datasets']),
    'a value in no data set': ('datasets:gt_size=8', ['everything directly under datasets must be a block']),
    'no data set': ('datasets:val=none', ['directly under datasets must be a block', '--force_yml val=none']),
    'two equal signs': ('name=a=b', ['--force_yml', 'key=value']),
    'no equal sign': ('name', ['--force_yml', 'key=value']),
}


@pytest.mark.parametrize('name', FORCED)
def test_a_forced_mistake(name, parse):
    option, fragments = FORCED[name]
    with pytest.raises(InputError) as error:
        parse(TINY, '--force_yml', option)
    assert [fragment for fragment in fragments if fragment not in str(error.value)] == [], error.value


EDITED = {  # of tiny.yml: what is replaced, by what, what the message must hold
    'empty': (TINY, '', ['The option file']),
    'a module elsewhere': ('name:noiseda_model', 'name:no_such_module', [
        "cannot find module 'no_such_module'", 'PYTHONPATH']),
    'empty path': ('path: {}', 'path:', ['The option file', 'empty']),
    'empty data set': (TINY[TINY.index('    name: val'):TINY.index('network_g')], '', ['The option file', 'empty']),
    'a list of folders': (
        'dataroot_gt: gt\n    degradation', 'dataroot_gt: [a, b]\n    degradation', ['a path is a number or a list']),
    'a set to test on': ('  val:\n    name', '  test:\n    name', ['datasets:test', 'train, val']),
    'a number as text': ('eps: 0.000001', 'eps: 1e-6', ['train:pixel_opt:eps', "'1e-6'", '!!float 1e-6']),
    'a number as text in a list': ('lr: 0.001}\n  optim_diffusion', 'lr: 0.001, betas: [9e-1, 0.9]}\n  optim_diffusion',
                                   ['train:optim_g:betas', "'9e-1'"]),
    'no val_freq': ('  val_freq: 4\n', '', ['val:val_freq is missing']),
    'an empty block of validation': (TINY[TINY.index('val:\n  val_freq'):TINY.index('logger:')], 'val: {}\n',
                                     ['val:val_freq is missing']),
    'no optimizer': ('  optim_g: {type: Adam, lr: 0.001}\n', '', ['train:optim_g is missing']),
    'no save_checkpoint_freq': (', save_checkpoint_freq: 3', '', ['logger:save_checkpoint_freq is missing']),
    'no name of a set': ('    name: val\n', '', ['datasets:val:name is missing']),
    'a number for a name': ('name: tiny\n', 'name: 20261127\n', ['The option file', 'name', 'is a number']),
    'no end': ('total_iter: 8', 'total_iter: .inf', ['train:total_iter', 'inf', 'whole number']),
    'two sets to train on': ('  val:\n    name', '  train_2:\n    name', ['datasets:train_2', 'train, val']),
    'no batch size': ('    batch_size_per_gpu: 2\n', '', ['datasets:train:batch_size_per_gpu is missing']),
    'no workers': ('    num_worker_per_gpu: 1\n', '', ['datasets:train:num_worker_per_gpu is missing']),
    'no model': ('model_type: NoiseDAModel\n', '', ['model_type is missing']),
}


@pytest.mark.parametrize('name', EDITED)
def test_a_mistake_in_the_file(name, parse):
    old, new, fragments = EDITED[name]
    assert TINY.count(old) == 1
    with pytest.raises(InputError) as error:
        parse(TINY.replace(old, new))
    assert [fragment for fragment in fragments if fragment not in str(error.value)] == [], error.value


def test_what_is_right_passes_and_whole_numbers_are_ints(parse):
    opt = parse(TINY.replace('total_iter: 8', 'total_iter: !!float 8e0').replace('name: tiny', "name: '1e-4'"))
    assert (opt['train']['total_iter'], opt['name']) == (8, '1e-4')
    assert isinstance(opt['train']['total_iter'], int)
    assert yaml.safe_load('a: 1e-4') == {'a': '1e-4'}  # why numbers are looked for in texts
    parse(TINY, '--force_yml', 'val:tile=null', 'datasets:train:gt_size=null')
    parse(TINY.replace('dataroot_gt: gt\n    degr', "dataroot_gt: '1e5'\n    degr").replace('name: val', "name: '2e3'"))


@pytest.mark.parametrize(('launcher', 'variable'), [('pytorch', 'RANK'), ('slurm', 'SLURM_')])
def test_a_launcher_without_its_environment(launcher, variable, parse, monkeypatch):
    for name in ('RANK', 'SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(dist_util.mp, 'get_start_method', lambda **options: 'fork')  # BasicSR would set spawn for good
    with pytest.raises(InputError, match=f'--launcher: .* torchrun .*{variable}'):
        parse(TINY, '--launcher', launcher)


def test_folders_of_a_run_that_came_to_nothing_are_taken_back(tmp_path, capsys):
    old, logs = tmp_path / 'old', tmp_path / 'logs'
    old.mkdir()
    (old / 'net_g_latest.pth').write_text('weights')

    def start(*results):
        folders = FreshFolders()
        for path in (old, logs):
            folders.make(str(path))
        for name in ('train.log', 'opt.yml', *results):
            (old / name).write_text('')
        (logs / 'events.out.tfevents.1').write_text('')
        folders.take_back()

    start()
    assert [path.name for path in tmp_path.iterdir()] == ['old']
    assert (old / 'net_g_latest.pth').read_text() == 'weights'
    assert f'{old} is again what it was.' in capsys.readouterr().out
    start('net_g_before_nan_1.pth')
    assert sorted(path.name[:13] for path in tmp_path.iterdir()) == ['logs', 'old', 'old_archived_']
    assert (old / 'net_g_before_nan_1.pth').exists() and not (old / 'net_g_latest.pth').exists()


def test_a_test_has_to_say_what_it_measures(parse):
    before, rest = TINY.replace('  train:\n    name: train', '  test:\n    name: test').split('val:\n  val_freq')
    rest = rest[rest.index('logger:'):]
    for val in ('', 'val:\n'):
        with pytest.raises(InputError, match='val is missing'):
            parse(before + val + rest, is_train=False)
    assert parse(f'{before}val: {{}}\n{rest}', is_train=False)['val'] == {'save_img': False, 'suffix': None}


def test_an_option_file_of_a_training_is_not_tested(parse):
    with pytest.raises(InputError, match='datasets:train: this option file is one of a training.*options/test'):
        parse(TINY, is_train=False)


def test_torchrun_without_its_launcher_is_told(parse, monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'x')
    monkeypatch.setenv('WORLD_SIZE', '1')
    parse(TINY)
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(InputError, match='torchrun has started 2 processes.*add --launcher pytorch'):
        parse(TINY)


MODULE = 'from basicsr.utils.registry import ARCH_REGISTRY\n@ARCH_REGISTRY.register()\nclass {}: pass\n'


@pytest.mark.parametrize('line, message', [
    ('own_arch.NAFNet', "class has a name that is taken: .*'NAFNet' was already registered.* Rename the class"),
    ('own_arch.NAME', 'names something that is not there .*After !!python/name: stands FILE.NAME'),
    ('own_arch', 'names something that is not there .*After !!python/name: stands FILE.NAME'),
    ('nowhere.NAME', 'names a module that cannot be imported .*PYTHONPATH'),
])
def test_the_line_that_imports_a_network_of_ones_own(parse, tmp_path, monkeypatch, line, message):
    name = 'NAFNet' if 'NAFNet' in line else f'Mine{len(message)}'
    (tmp_path / 'own_arch.py').write_text(MODULE.format(name))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, 'own_arch', raising=False)
    with pytest.raises(InputError, match=message):
        parse(f'{TINY}\nmine: !!python/name:{line}\n')


def test_a_folder_in_which_another_process_trains_is_left_to_it(tmp_path):
    path = tmp_path / 'run'
    (path / 'training_states').mkdir(parents=True)
    torch.save({'iter': 3, 'epoch': 0}, path / 'training_states/3.state')
    opt = {'auto_resume': True, 'rank': 0, 'train': {'total_iter': 9},
           'path': {'models': str(path), 'training_states': str(path / 'training_states')}}
    hold = ('import sys; from noiseda_basicsr.folders import hold\n'
            'lock = hold(sys.argv[1]); print("held", flush=True); sys.stdin.read()')
    other = subprocess.Popen([sys.executable, '-c', hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b'held\n'
    with pytest.raises(InputError, match='run: another process is at work there'):
        FreshFolders().make(str(path))
    with pytest.raises(InputError, match='run: another process is at work there'):
        load_resume_state(opt)
    assert [child.name for child in tmp_path.iterdir()] == ['run']
    other.kill()  # the system lets go of it
    other.wait()
    other.stdin.close()
    other.stdout.close()
    assert load_resume_state(opt)['iter'] == 3
    FreshFolders().make(str(path))
    assert len(list(tmp_path.iterdir())) == 2


def test_what_another_run_has_put_aside_is_left_to_it(tmp_path):
    ours, path = FreshFolders(), tmp_path / 'run'
    path.mkdir()
    (path / 'oldest').touch()
    ours.make(str(path))
    FreshFolders().make(str(path))  # within the same second, too
    (path / 'train.log').touch()
    ours.take_back()
    assert (path / 'train.log').exists() and len(list(tmp_path.iterdir())) == 3
