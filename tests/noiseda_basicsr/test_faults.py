"""What ends a run, and what is left of it: signals, kills, broken images, dead processes, changed options."""
import importlib.util
import os
import random
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cli import ROOT, losses, run, start
from images import write_images

from noiseda_basicsr import InputError
from noiseda_basicsr.watch import Interrupted, Watch, explain

TRAIN, TINY = ROOT / 'scripts/train.py', Path(__file__).with_name('tiny.yml')
TORCHRUN = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']


@pytest.fixture
def work(tmp_path, image_folder):
    """A folder with the images that tiny.yml names."""
    for seed, name in enumerate(['gt', 'lq', 'real']):
        image_folder(name, 6, seed)
    return tmp_path


def command(name, *force, total=40):
    """Arguments of a run that says each iteration and saves every third."""
    options = [f'name={name}', f'train:total_iter={total}', 'train:diffusion_opt:ramp_iters=40', 'val:val_freq=1000',
               'logger:use_tb_logger=false', *force]
    return [TRAIN, '-opt', TINY, '--auto_resume', '--force_yml', *options]


def wait_for(process, text):
    """Read the output up to a line with ``text``."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return ''.join(lines)
    pytest.fail(f'no {text!r} in\n' + ''.join(lines))


def result(work, name):
    folder = work / 'experiments' / name / 'models'
    return [torch.load(folder / f'net_{net}_latest.pth') for net in ('g', 'diffusion')]


def assert_same(one, other):
    for net_one, net_other in zip(one, other, strict=True):
        assert net_one.keys() == net_other.keys()
        for entry in net_one.keys() & {'params', 'params_ema'}:
            for key, value in net_one[entry].items():
                assert torch.equal(value, net_other[entry][key]), key


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    """The networks of forty iterations that nothing disturbed, by number of processes."""
    folder = tmp_path_factory.mktemp('undisturbed')
    for seed, name in enumerate(['gt', 'lq', 'real']):
        write_images(folder / name, 6, seed)
    assert run(command('whole'), folder).returncode == 0
    return result(folder, 'whole')


def iterations_saved(work, name):
    states = (work / 'experiments' / name / 'training_states').glob('*.state')
    return sorted(int(state.stem) for state in states)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_as_if_nothing_had_been(work, undisturbed, number):
    process = start(command('stopped'), work)
    wait_for(process, 'iter:       4')
    os.killpg(process.pid, number)  # Ctrl-C reaches the data loader's workers too
    rest, _ = process.communicate(timeout=200)
    assert process.returncode == 128 + number, rest
    last = int(re.search(r'Stopped after iteration (\d+); continue with --auto_resume', rest)[1])
    assert iterations_saved(work, 'stopped')[-1] == last < 40
    assert 'Traceback' not in rest
    resumed = run(command('stopped'), work)
    assert resumed.returncode == 0 and min(losses(resumed.stdout)) == last + 1
    assert_same(result(work, 'stopped'), undisturbed)


def test_kill_minus_nine_at_any_moment(work, undisturbed):
    """Thirty times in scripts/drill.py; three here, among them one while a state is being written."""
    rng = random.Random(0)
    for attempt in range(3):
        process = start(command('killed', 'logger:save_checkpoint_freq=1'), work)
        wait_for(process, 'Saving models and training states' if attempt == 0 else 'Start training')
        time.sleep(rng.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert run(command('killed', 'logger:save_checkpoint_freq=1'), work).returncode == 0
    assert_same(result(work, 'killed'), undisturbed)


def test_processes_stop_together_and_restart_after_a_death(work):
    """A signal to torchrun; then one of its two processes dies, and it starts both again."""
    no_workers = 'datasets:train:num_worker_per_gpu=0'  # under torchrun each starts anew, seconds, for every epoch
    process = start([*TORCHRUN, *command('stopped', no_workers), '--launcher', 'pytorch'], work)
    wait_for(process, 'iter:       4')
    process.terminate()
    rest, _ = process.communicate(timeout=200)
    last = int(re.search(r'Stopped after iteration (\d+)', rest)[1])
    assert iterations_saved(work, 'stopped')[-1] == last, rest

    total = last + 8
    again = command('stopped', no_workers, total=total)
    process = start([*TORCHRUN, '--max-restarts=1', *again, '--launcher', 'pytorch'], work)
    wait_for(process, 'Saved iteration')
    os.kill(worker_of(process.pid), signal.SIGKILL)
    rest, _ = process.communicate(timeout=280)
    assert process.returncode == 0, rest
    assert 'Resuming training from epoch' in rest and 'End of training' in rest


def worker_of(torchrun):
    """A training process, by its parent."""
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            fields = (folder / 'stat').read_text().rsplit(')', 1)[1].split()
            words = (folder / 'cmdline').read_text()
        except OSError:
            continue
        if int(fields[1]) == torchrun and 'train.py' in words:
            return int(folder.name)
    raise AssertionError('no worker')


@pytest.mark.parametrize('workers', [0, 1])
def test_a_broken_image_in_mid_epoch_stops_with_its_name_and_a_saved_state(work, workers):
    """With a worker it is the worker's error, which keeps the loader alive, and the worker ignores SIGTERM."""
    process = start(command('broken', f'datasets:train:num_worker_per_gpu={workers}',
                            'logger:save_checkpoint_freq=1000'), work)
    wait_for(process, 'iter:       2')
    (work / 'real/003.png').write_bytes(b'no image')
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.search(r'^error: \S*real/003\.png: cannot be decoded', rest, re.MULTILINE), rest
    assert 'Traceback' not in rest
    assert iterations_saved(work, 'broken')[-1] >= 2


def test_a_state_of_any_name_and_another_batch_size_is_resumed_to_the_end(work):
    """Four epochs of 6 iterations are two of 12: counted as they were saved, none would be left."""
    no_workers = 'datasets:train:num_worker_per_gpu=0'
    run(command('large', no_workers, total=24), work)
    state = work / 'experiments/large/training_states'
    (state / '24.state').rename(state / 'mine.state')
    again = command('large', no_workers, 'datasets:train:batch_size_per_gpu=1', total=30)
    again.remove('--auto_resume')
    output = run([*again, f'path:resume_state={state}/mine.state'], work).stdout
    assert 'iter:      30' in output and 'End of training' in output, output
    assert (state / '30.state').is_file()


def test_the_last_validation_bears_the_last_iteration_and_an_earlier_end_is_refused(work):
    output = run([*command('validated', 'datasets:train:num_worker_per_gpu=0', total=4), 'val:val_freq=4'], work).stdout
    assert output.count('# psnr') == 1 and '@ 4 iter' in output and '@ 5 iter' not in output, output
    latest, saved = result(work, 'validated'), iterations_saved(work, 'validated')
    process = run(command('validated', 'datasets:train:num_worker_per_gpu=0', total=saved[-1] - 1), work)
    assert process.returncode == 2
    assert f'train:total_iter is {saved[-1] - 1}, and iteration {saved[-1]} is saved already' in process.stdout
    assert_same(latest, result(work, 'validated'))
    assert iterations_saved(work, 'validated') == saved
    assert 'End of training' in run(command('validated', 'datasets:train:num_worker_per_gpu=0', total=4), work).stdout


def test_an_error_of_one_process_stops_all_after_the_same_iteration_with_a_saved_state(tmp_path):
    """Process 1 fails to read the images of iteration 4; process 0 saves iteration 3."""
    both = torch.multiprocessing.spawn(train_until_an_error, [str(tmp_path)], nprocs=2, join=False)
    ended = both.join(timeout=120) or both.join(timeout=120)  # the first to end, and the other
    for process in both.processes:
        process.kill()
    assert ended
    assert sorted(os.listdir(tmp_path)) == ['group', 'process 0 saved 3', 'process 1 saved 3']  # the model sees to who


def test_an_error_of_process_0_waits_for_no_other(tmp_path):
    """It cannot save, say, after an iteration that the others validate: they wait for it there."""
    both = torch.multiprocessing.spawn(fail_before_validation, [str(tmp_path)], nprocs=2, join=False)
    both.processes[0].join(60)
    ended = both.processes[0].exitcode
    for process in both.processes:
        process.kill()
    assert ended == 0
    assert sorted(os.listdir(tmp_path)) == ['group', 'process 0 saved 3']


def fail_before_validation(rank, folder):
    torch.distributed.init_process_group('gloo', f'file://{folder}/group', rank=rank, world_size=2)
    model, watch = Recording(folder, rank), Watch()
    watch.sampler = SimpleNamespace(epoch=0)
    watch.attach(model, {'path': {}, 'dist': True, 'rank': 1, 'train': {'total_iter': 10}})
    for n in range(1, 4):
        model.update_learning_rate(n)
        model.optimize_parameters(n)
    if rank == 0:
        watch.save_after_error()
        os._exit(0)
    torch.distributed.barrier()  # as in validation


class Recording:
    """What Watch calls of a model."""

    def __init__(self, folder, rank):
        self.folder, self.rank = Path(folder), rank

    def update_learning_rate(self, current_iter):
        pass

    optimize_parameters = validation = update_learning_rate

    def save(self, epoch, current_iter):
        (self.folder / f'process {self.rank} saved {current_iter}').touch()


def train_until_an_error(rank, folder):
    torch.distributed.init_process_group('gloo', f'file://{folder}/group', rank=rank, world_size=2)
    model, watch = Recording(folder, rank), Watch()
    watch.sampler = SimpleNamespace(epoch=0)
    watch.attach(model, {'path': {}, 'dist': True, 'rank': 1, 'train': {'total_iter': 10}})  # no progress bar
    try:
        for n in range(1, 11):
            if n == 4 and rank == 1:
                raise InputError('broken image')  # from the data loader
            model.update_learning_rate(n)
            model.optimize_parameters(n)
    except InputError:
        watch.save_after_error()
        os._exit(0)
    except Interrupted as end:
        os._exit(0 if rank == 0 and end.code == 128 + 127 else 3)
    os._exit(4)


def test_an_error_while_stopping_waits_for_no_other_process(tmp_path, monkeypatch):
    """The others wait at a barrier then, so to ask them anything would never be answered."""
    model, watch, asked = Recording(tmp_path, 0), Watch(), []
    watch.sampler = SimpleNamespace(epoch=0)
    watch.attach(model, {'path': {}, 'dist': False, 'rank': 1, 'train': {'total_iter': 10}})
    model.optimize_parameters(1)
    watch.group, watch.signal = 'two processes', signal.SIGTERM
    monkeypatch.setattr(watch, 'signal_anywhere', lambda: asked.append(watch.signal) or watch.signal)
    monkeypatch.setattr(model, 'save', lambda *args: (_ for _ in ()).throw(InputError('the disk is full')))
    with pytest.raises(InputError):
        model.update_learning_rate(2)
    watch.save_after_error()
    assert asked == [signal.SIGTERM]


def report_death(*_):
    """As torch's handler of SIGCHLD does, wherever the process is."""
    raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.')


def test_a_worker_that_dies_during_a_step_does_not_cut_it_short(tmp_path):
    """Else the weights were half new, and everything since the last saved state lost."""
    model, watch, whole = Recording(tmp_path, 0), Watch(), []

    def optimize_parameters(_):
        os.kill(os.getpid(), signal.SIGCHLD)
        whole.append(True)

    model.optimize_parameters = optimize_parameters
    watch.sampler = SimpleNamespace(epoch=0)
    watch.attach(model, {'path': {}, 'dist': False, 'rank': 1, 'train': {'total_iter': 10}})
    before = signal.signal(signal.SIGCHLD, report_death)
    try:
        with pytest.raises(RuntimeError, match='is killed'):
            model.optimize_parameters(1)
        assert signal.getsignal(signal.SIGCHLD) is report_death
    finally:
        signal.signal(signal.SIGCHLD, before)
    watch.save_after_error()
    assert whole and (tmp_path / 'process 0 saved 1').exists()


def test_before_the_first_iteration_nothing_is_saved_and_nobody_asked(tmp_path, monkeypatch):
    """The state it resumed from is there, and may not have been taken in; the other processes fail, too, or wait."""
    model, watch, asked = Recording(tmp_path, 1), Watch(), []
    watch.sampler = SimpleNamespace(epoch=0)
    watch.attach(model, {'path': {}, 'dist': False, 'rank': 1, 'resume_iter': 3, 'train': {'total_iter': 10}})
    watch.group = 'two processes'
    monkeypatch.setattr(torch.distributed, 'get_rank', lambda: 1)
    monkeypatch.setattr(watch, 'signal_anywhere', lambda: asked.append(True))
    watch.save_after_error()
    watch.save()
    assert not asked and not list(tmp_path.iterdir())
    model.optimize_parameters(4)
    watch.save()
    assert (tmp_path / 'process 1 saved 4').exists()


@pytest.mark.parametrize(('saved', 'advice'), [
    ((), '--auto_resume'), ((3,), '--force_yml path:resume_state=.*/2.state')])
def test_what_to_do_after_a_stop(saved, advice, tmp_path, capsys):
    """--auto_resume takes the latest state, which may be of another continuation."""
    model, watch = Recording(tmp_path, 0), Watch()
    for iteration in (1, *saved):
        (tmp_path / f'{iteration}.state').touch()
    watch.sampler = SimpleNamespace(epoch=0)
    watch.attach(model, {'path': {'training_states': str(tmp_path)}, 'dist': False, 'rank': 1, 'resume_iter': 1,
                         'train': {'total_iter': 10}})
    model.optimize_parameters(2)
    watch.signal = signal.SIGTERM
    with pytest.raises(Interrupted):
        model.update_learning_rate(3)
    assert re.search(f'Stopped after iteration 2; continue with {advice}', capsys.readouterr().out)
    assert (tmp_path / 'process 0 saved 2').exists()


def test_a_killed_data_loader_worker_is_explained(work):
    process = start(command('worker', 'logger:save_checkpoint_freq=4000', total=4000), work)
    wait_for(process, 'iter:       4')
    os.kill(worker_of(process.pid), signal.SIGKILL)
    rest, _ = process.communicate(timeout=200)
    assert process.returncode == 2, rest
    assert 'error: A process that reads images was killed' in rest, rest
    assert iterations_saved(work, 'worker')


REPORTED_TWICE = """
import os, signal
from noiseda_basicsr import launch, watch

def report(*_):
    raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.')

class Reset(ConnectionResetError):
    def __str__(self):  # called while the error is told
        os.kill(os.getpid(), signal.SIGCHLD)
        return 'connection reset'

def pipeline(root):
    signal.signal(signal.SIGCHLD, report)
    raise Reset

launch._run(pipeline, watch.Watch())
"""


def test_a_worker_whose_death_two_errors_report(tmp_path):
    """Its socket is found closed; before that is told and a state saved, the system's signal comes, too."""
    ended = run(['-c', REPORTED_TWICE], tmp_path)
    assert ended.returncode == 2, ended.stdout
    assert 'was killed (connection reset)' in ended.stdout and 'Traceback' not in ended.stdout


def test_changed_options_are_followed_and_told(work):
    assert run(command('changed', total=3), work).returncode == 0
    force = ['train:optim_g:lr=0.0005', 'train:diffusion_opt:beta=0.1']
    resumed = run(command('changed', *force, total=6), work).stdout
    for change in ('total_iter 3 -> 6', 'optim_g:lr 0.001 -> 0.0005', 'diffusion_opt:beta None -> 0.1'):
        assert f'Resuming iteration 3 with train:{change}.' in resumed
    assert 'iter:       4, lr:(5.000e-04,)' in resumed
    first, last = (float(losses(resumed)[n]['lambda']) for n in (4, 6))
    assert 0 < first < last < 0.1


def test_a_resumption_that_is_refused_leaves_the_state_as_it_was(work):
    assert run(command('refused', total=3), work).returncode == 0
    state = work / 'experiments/refused/training_states/3.state'
    before = state.read_bytes()
    for change in (['train:optim_g:type=AdamW'], ['network_diffusion=none', 'train:diffusion_opt=none']):
        refused = run(command('refused', *change, total=6), work)
        assert refused.returncode == 2 and 'error: ' in refused.stdout, refused.stdout
        assert 'Saved iteration' not in refused.stdout and state.read_bytes() == before
    assert run(command('refused', total=6), work).returncode == 0
    assert iterations_saved(work, 'refused') == [3, 6]


def test_only_the_last_states_and_the_best_network_are_kept(work):
    output = run([*command('kept', total=12), 'logger:keep_last=2', 'val:val_freq=4'], work).stdout
    assert iterations_saved(work, 'kept') == [9, 12], output
    models = {path.name for path in (work / 'experiments/kept/models').iterdir()}
    assert models == {f'net_{net}_{label}.pth' for net in ('g', 'diffusion') for label in (9, 12, 'latest')} | {
        'net_g_best.pth', 'net_g_best.json'}


def test_the_drill_tells_equal_networks_from_others():
    spec = importlib.util.spec_from_file_location('drill', ROOT / 'scripts/drill.py')
    drill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drill)

    def saved(value):
        return {'params': {'weight': torch.ones(2)}, 'params_ema': {'weight': torch.tensor([1.0, value])},
                'network_g': {'type': 'RestorationUNet', 'width': 4}}

    assert drill.same(saved(1), saved(1)) and not drill.same(saved(1), saved(2))


def test_out_of_memory_names_three_settings():
    message = explain(torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'))
    for setting in ('accumulate', 'activation_checkpointing', 'precision: bf16'):
        assert setting in message
    assert explain(RuntimeError('something else')) is None
    unused = 'Expected to have finished reduction in the prior iteration before starting a new one. This error ...'
    assert 'find_unused_parameters: true' in explain(RuntimeError(unused))


def test_errors_of_workers():
    """As torch words them: raised in a worker's reading, and the death of a worker."""
    told = 'Caught {0} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  ...\n{0}: {1}\n'
    broken = InputError(told.format('InputError', 'a.png: cannot be decoded'))
    assert explain(broken) == 'a.png: cannot be decoded'
    assert explain(RuntimeError(told.format('RuntimeError', 'stack expects each tensor to be equal size'))) is None
    for death in ('DataLoader worker (pid 7) is killed by signal: Killed.', 'Pin memory thread exited unexpectedly'):
        assert 'was killed' in explain(RuntimeError(death))
