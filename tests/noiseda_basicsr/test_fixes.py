"""Each repair of BasicSR, against the fault it repairs."""
import copy
import itertools
import logging
import os
from types import SimpleNamespace

import basicsr.data.prefetch_dataloader as prefetch
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch.utils.data import Dataset

from noiseda_basicsr import InputError, checkpoint, fixes, launch, watch
from noiseda_basicsr.sampler import ResumableSampler

fixes.apply_fixes()


@pytest.mark.parametrize('text, value', [
    ('1e-4', 1e-4), ('-1', -1), ('!!float 1e-4', 1e-4), ('0.5', 0.5), ('3', 3), ('true', True), ('False', False),
    ('~', None), ('none', None), ('[1, 1e-2]', [1, 1e-2]), ('{beta: 1e-3}', {'beta': 1e-3}),
    ('a/b.pth', 'a/b.pth')])
def test_forced_values_arrive_with_their_type(text, value):
    parsed = fixes.parse_forced_value(text)
    assert parsed == value and type(parsed) is type(value)


def test_slow_reading_is_told_once():
    """Five lines in turn in which more than 30 % of the time went into waiting; a start or an epoch's end is none."""
    log = fixes.MessageLogger({
        'name': 'slow', 'logger': {'print_freq': 1, 'use_tb_logger': False}, 'train': {'total_iter': 99},
        'datasets': {'train': {'num_worker_per_gpu': 3}}, 'world_size': 1})
    told, after = [], []
    log.logger = SimpleNamespace(info=lambda line: None, warning=told.append)
    for number, share in enumerate([0.9] * 4 + [0.2] + [0.31] * 12, 1):
        log({'epoch': 0, 'iter': number, 'lrs': [1e-4], 'time': 0.2, 'data_time': 0.2 * share})
        after.append(len(told))
    assert after == [0] * 9 + [1] * 8
    assert told[0].startswith('31% of the time') and 'num_worker_per_gpu (3 now)' in told[0]


class Failing(Dataset):

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            raise InputError('image 2 is broken')
        return index


@pytest.mark.parametrize('workers', [0, 1])
def test_prefetching_hands_on_what_a_worker_raises(workers):
    loader = prefetch.PrefetchDataLoader(num_prefetch_queue=1, dataset=Failing(), num_workers=workers)
    batches = iter(loader)
    assert [next(batches).item(), next(batches).item()] == [0, 1]
    with pytest.raises(InputError, match='image 2 is broken'):
        next(batches)


def test_workers_that_are_not_forked_write_to_the_log_file_too(tmp_path, monkeypatch):
    """BasicSR's file would be written over where another process has written meanwhile."""
    handler = logging.FileHandler(tmp_path / 'train.log', 'w')
    ours, theirs = logging.Logger('ours'), logging.Logger('theirs')
    ours.addHandler(handler)
    theirs.addHandler(logging.StreamHandler())
    monkeypatch.setattr(watch, 'get_root_logger', lambda: theirs)
    monkeypatch.setattr(watch, 'SIGNALS', ())
    ours.warning('before')
    files = launch.shared_log_files(ours)
    for worker in range(2):  # the second one finds its file open, as a forked one does
        watch.start_worker(None, files, worker)
    theirs.warning('image 3 is broken')
    ours.warning('after')
    assert (tmp_path / 'train.log').read_text().split('\n') == ['before', 'image 3 is broken', 'after', '']


def test_a_failed_save_is_an_error_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = str(tmp_path / 'net.pth')
    checkpoint.atomic_save({'a': 1}, path)

    def full_disk(content, file):
        file.write(b'half')
        raise OSError('No space left on device')

    monkeypatch.setattr(torch, 'save', full_disk)
    with pytest.raises(InputError, match='net.pth.*No space left'):
        checkpoint.atomic_save({'a': 2}, path)
    assert torch.load(path) == {'a': 1}
    assert os.listdir(tmp_path) == ['net.pth']


def experiment(tmp_path, iterations):
    opt = {'name': 'a', 'auto_resume': True, 'rank': 0, 'network_g': {}, 'network_diffusion': {},
           'train': {'total_iter': 20},
           'path': {'training_states': str(tmp_path / 'states'), 'models': str(tmp_path / 'models')}}
    for folder in ('states', 'models'):
        (tmp_path / folder).mkdir(exist_ok=True)
    for iteration in iterations:
        torch.save({'iter': iteration, 'epoch': 0}, tmp_path / 'states' / f'{iteration}.state')
        for net in ('g', 'diffusion'):
            torch.save({'params': {'w': torch.ones(1000)}}, tmp_path / 'models' / f'net_{net}_{iteration}.pth')
    return opt


@pytest.mark.parametrize('broken, how', [
    *itertools.product(
        ['states/20.state', 'models/net_g_20.pth', 'models/net_diffusion_20.pth'], ['truncated', 'empty']),
    ('models/net_g_20.pth', 'missing'), ('models/net_diffusion_20.pth', 'missing')])
def test_auto_resume_passes_over_an_incomplete_checkpoint(tmp_path, broken, how, capsys):
    opt = experiment(tmp_path, [9, 10, 20])
    file = tmp_path / broken
    content = file.read_bytes()
    file.unlink() if how == 'missing' else file.write_bytes(content[:len(content) // 2] if how == 'truncated' else b'')
    assert checkpoint.load_resume_state(opt)['iter'] == 10  # by number: 9 is the larger text
    assert opt['path']['pretrain_network_g'].endswith('net_g_10.pth')
    assert opt['path']['pretrain_network_diffusion'].endswith('net_diffusion_10.pth')
    assert os.path.basename(broken) in capsys.readouterr().out


def test_nothing_to_resume_starts_afresh(tmp_path):
    assert checkpoint.load_resume_state(experiment(tmp_path, [])) is None


def test_to_resume_where_no_state_is_complete_is_refused(tmp_path):
    """To start afresh, as if nothing had been trained, would put it all aside."""
    opt = experiment(tmp_path, [10])
    (tmp_path / 'models/net_diffusion_10.pth').unlink()
    with pytest.raises(InputError, match='of the states in .* none is complete'):
        checkpoint.load_resume_state(opt)


@pytest.mark.parametrize('auto_resume', [False, True])
def test_a_training_shorter_than_what_is_saved_is_refused(auto_resume, tmp_path):
    """The network of iteration 10 would take the place of net_g_latest.pth, which may be of a later one."""
    opt = experiment(tmp_path, [10])
    if not auto_resume:
        opt |= {'auto_resume': False, 'path': {**opt['path'], 'resume_state': str(tmp_path / 'states/10.state')}}
    opt['train']['total_iter'] = 9
    with pytest.raises(InputError, match='train:total_iter is 9, and iteration 10 is saved already. Raise it'):
        checkpoint.load_resume_state(copy.deepcopy(opt))
    opt['train']['total_iter'] = 10  # the end of a finished training may be come to again
    assert checkpoint.load_resume_state(opt)['iter'] == 10


@pytest.mark.parametrize('auto_resume', [False, True])
def test_the_state_of_another_experiment_is_refused(auto_resume, tmp_path):
    """Its networks would be this experiment's, of the same iteration."""
    folders = [tmp_path / name for name in 'ab']
    for folder in folders:
        folder.mkdir()
    opt = experiment(folders[0], [] if auto_resume else [10])
    experiment(folders[1], [10])
    opt['auto_resume'], opt['path']['resume_state'] = auto_resume, str(folders[1] / 'states/10.state')
    with pytest.raises(InputError, match='does not lie in'):
        checkpoint.load_resume_state(opt)


def test_a_named_state_that_is_broken_is_refused(tmp_path):
    opt = experiment(tmp_path, [10])
    opt['auto_resume'] = False
    opt['path']['resume_state'] = str(tmp_path / 'nowhere.state')
    with pytest.raises(InputError, match='nowhere.state'):
        checkpoint.load_resume_state(opt)


def test_a_checkpoint_that_runs_code_is_refused(tmp_path):
    torch.save({'params': SimpleNamespace()}, tmp_path / 'net.pth')
    with pytest.raises(InputError, match='net.pth: holds a Python object, types.SimpleNamespace') as info:
        checkpoint.load_checkpoint(str(tmp_path / 'net.pth'))
    assert 'weights_only' not in str(info.value)  # torch advises to switch its guard off


def test_exported_computations_are_no_weights(tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / 'net.pt')
    (tmp_path / 'net.onnx').touch()
    for name in ('net.pt', 'net.onnx'):
        with pytest.raises(InputError, match=f'{name}: is an exported computation'):
            checkpoint.load_checkpoint(tmp_path / name)


@pytest.mark.parametrize('content, key, message', [
    ({'weight': torch.ones(1)}, 'params', 'no entry .params.'),
    ({'params': {'other': torch.ones(1)}}, 'params', 'do not fit'),
    ({'params': {'weight': torch.ones(3, 1), 'bias': torch.ones(2)}}, 'params', 'do not fit'),
])
def test_foreign_weights_are_refused(tmp_path, content, key, message):
    path = str(tmp_path / 'net.pth')
    torch.save(content, path)
    model = SimpleNamespace(get_bare_model=lambda net: net)
    with pytest.raises(InputError, match=f'net.pth.*{message}'):
        checkpoint.load_network(model, torch.nn.Linear(1, 2), path, True, key)


@pytest.mark.parametrize('name, hint', [('SwinIr', 'SwinIR'), ('RestorationUnet', 'RestorationUNet'), ('@', 'known:')])
def test_an_unknown_name_gets_a_suggestion(name, hint):
    with pytest.raises(InputError, match=hint):
        ARCH_REGISTRY.get(name)


def loaders(monkeypatch, images, batch, **opt):
    """What the launcher's create_train_val_dataloader makes of a data set of ``images`` images."""
    sampler = ResumableSampler(range(images), 1, 0, 1)
    loader = torch.utils.data.DataLoader(range(images), batch, sampler=sampler, drop_last=True)
    stock_epochs = -(-100 // -(-images // batch))
    monkeypatch.setattr(fixes, '_stock_create_train_val_dataloader',
                        lambda opt, logger: (loader, sampler, [], stock_epochs, 100))
    return fixes.create_train_val_dataloader(opt, None)


def test_all_iterations_are_trained_where_the_last_batch_is_dropped(monkeypatch):
    loader, _, _, last_epoch, total = loaders(monkeypatch, images=15, batch=8)
    assert (last_epoch + 1) * len(loader) == total  # BasicSR plans 50 epochs of one iteration


def test_too_few_images_for_a_batch(monkeypatch):
    with pytest.raises(InputError, match='dataset_enlarge_ratio'):
        loaders(monkeypatch, images=3, batch=4)


@pytest.mark.parametrize('iteration, epoch', [(1, 0), (3, 1), (5, 1), (6, 2)])
def test_a_resumed_run_goes_on_where_it_stopped(monkeypatch, iteration, epoch):
    def order(loader, sampler, epochs):
        for number in epochs:
            sampler.set_epoch(number)
            yield from (batch.tolist() for batch in loader)

    loader, sampler, *_ = loaders(monkeypatch, images=12, batch=4)
    whole = list(order(loader, sampler, range(4)))
    loader, sampler, *_ = loaders(monkeypatch, 12, 4, resume_iter=iteration)
    assert sampler.resume_epoch == epoch
    assert list(order(loader, sampler, range(epoch, 4))) == whole[iteration:]


@pytest.mark.parametrize('batch', [1, 2, 3, 5, 12])
def test_a_batch_of_another_size_ends_no_resumed_run_early(monkeypatch, batch):
    loader, sampler, _, last_epoch, total = loaders(monkeypatch, 12, batch, resume_iter=20)
    left = 20
    for number in range(sampler.resume_epoch, last_epoch + 1):
        sampler.set_epoch(number)
        left += sum(1 for _ in loader)
    assert total <= left < total + len(loader)


def test_options_for_a_gpu_fit_a_machine_without_one(capsys):
    opt = {'num_gpu': 4, 'datasets': {'train': {'prefetch_mode': 'cuda', 'pin_memory': True}}}
    launch._fit_to_cpu(opt)
    assert opt == {'num_gpu': 0, 'datasets': {'train': {'prefetch_mode': None, 'pin_memory': False}}}
    assert 'num_gpu 4 -> 0' in capsys.readouterr().out


def test_slurm_variables_become_torchruns(monkeypatch):
    started = {}
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda **options: started.update(options))
    names = {('scontrol', 'show', 'hostname', 'node[7-8]'): 'node7\nnode8\n'}
    monkeypatch.setattr(fixes.subprocess, 'check_output', lambda command, text: names[tuple(command)])
    for name in ('MASTER_ADDR', 'MASTER_PORT', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.setenv(name, 'x')
        monkeypatch.delenv(name)
    for name, value in {'NODELIST': 'node[7-8]', 'PROCID': '3', 'NTASKS': '4', 'LOCALID': '1'}.items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    fixes.init_dist_slurm('nccl')
    assert [os.environ[name] for name in ('MASTER_ADDR', 'MASTER_PORT', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK')] \
        == ['node7', '29500', '3', '4', '1']
    assert started['backend'] == ('nccl' if torch.cuda.is_available() else 'gloo')


def test_slurm_without_scontrol(monkeypatch):
    monkeypatch.setenv('MASTER_ADDR', 'x')
    monkeypatch.delenv('MASTER_ADDR')
    monkeypatch.setenv('SLURM_NODELIST', 'node[7-8]')
    monkeypatch.setenv('PATH', '')
    with pytest.raises(InputError, match=r'scontrol does not name the first of the nodes node\[7-8\].*MASTER_ADDR'):
        fixes.init_dist_slurm('nccl')


def parsed(monkeypatch, is_train=False, **changes):
    """What the launcher makes of options, on a machine with GPUs."""
    opt = {'name': 'a', 'model_type': 'b', 'datasets': {}, 'network_g': {}, 'path': {}, 'manual_seed': 0, 'rank': 0,
           'num_gpu': 2, 'dist': False, 'is_train': is_train, 'val': {}, **changes}
    monkeypatch.setattr(launch, 'stock_parse_options', lambda *args: (opt, SimpleNamespace(opt='a.yml')))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    return launch.parse_options('.', is_train)[0]


def test_processes_of_torchrun_that_know_of_each_other_are_right(monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'x')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert parsed(monkeypatch, dist=True)['dist']
    monkeypatch.delenv('TORCHELASTIC_RUN_ID')
    assert not parsed(monkeypatch)['dist']  # a cluster may set the other for reasons of its own


def test_of_several_gpus_one_is_used_without_torchrun(monkeypatch, capsys):
    assert parsed(monkeypatch)['num_gpu'] == 1
    assert 'torchrun --nproc_per_node=2' in capsys.readouterr().out
    assert parsed(monkeypatch, dist=True)['num_gpu'] == 2
    assert not capsys.readouterr().out


def test_processes_on_cpus_beside_gpus_are_refused(monkeypatch):
    with pytest.raises(InputError, match='num_gpu: 0 with a launcher.*CUDA_VISIBLE_DEVICES='):
        parsed(monkeypatch, dist=True, num_gpu=0)
    assert parsed(monkeypatch, num_gpu=0)['num_gpu'] == 0


def test_the_copy_of_the_option_file_is_refused(monkeypatch, tmp_path):
    """BasicSR would copy it onto itself, or put it aside with its folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='a.yml is the copy'):
        parsed(monkeypatch, path={'experiments_root': str(tmp_path)})


def parsed_train_set(monkeypatch, **changes):
    train_set = {'name': 'a', 'type': 'b', 'batch_size_per_gpu': 1, 'num_worker_per_gpu': 1, **changes}
    return parsed(monkeypatch, True, datasets={'train': train_set}, train={'total_iter': 1, 'optim_g': {}}, val=None,
                  logger={'print_freq': 1, 'save_checkpoint_freq': 1, 'use_tb_logger': False})['datasets']['train']


def test_without_workers_none_are_kept(monkeypatch):
    """torch refuses persistent_workers then, which the option files ask for."""
    for workers in (0, 1):
        train_set = parsed_train_set(monkeypatch, num_worker_per_gpu=workers, persistent_workers=True)
        assert train_set.get('persistent_workers', False) == (workers > 0)


def test_prefetching_to_the_gpu_pins_memory(monkeypatch):
    """BasicSR refuses it otherwise, after the networks are built."""
    assert parsed_train_set(monkeypatch, prefetch_mode='cuda')['pin_memory']
    assert 'pin_memory' not in parsed_train_set(monkeypatch, prefetch_mode='cpu')
