"""The launchers from outside: plain, resumed, on two processes, and stock BasicSR's."""
import re
import shutil
from pathlib import Path

import basicsr
import pytest
import torch
from cli import ROOT, losses, run

TRAIN, TEST = ROOT / 'scripts/train.py', ROOT / 'scripts/test.py'
TINY, TINY_TEST = Path(__file__).with_name('tiny.yml'), Path(__file__).with_name('tiny_test.yml')


@pytest.fixture
def work(tmp_path, image_folder):
    """A folder with the images that tiny.yml names."""
    for seed, name in enumerate(['gt', 'lq', 'real']):
        image_folder(name, 6, seed)
    return tmp_path


def train(work, *more, opt=TINY, expect=0):
    process = run([TRAIN, '-opt', opt, *more], work)
    assert process.returncode == expect, process.stdout
    return process.stdout


def networks(work, name, label='latest'):
    return [torch.load(work / f'experiments/{name}/models/net_{net}_{label}.pth') for net in ('g', 'diffusion')]


def assert_equal(one, other):
    for net_one, net_other in zip(one, other, strict=True):
        assert net_one.keys() == net_other.keys()
        for key in net_one.keys() & {'params', 'params_ema'}:
            for name, weights in net_one[key].items():
                assert torch.equal(weights, net_other[key][name]), f'{key} {name}'


def test_train_resume_and_test(work):
    """One run of 8 iterations; one stopped in the middle of an epoch and resumed; the result restored twice."""
    output = train(work)
    assert f'BasicSR {basicsr.__version__} from' in output
    assert sorted(losses(output)) == list(range(1, 9))
    logged = {'l_pix', 'l_noise', 'l_con', 'lambda', 'grad_pix', 'grad_dif_syn', 'grad_dif_real'}
    assert logged <= set(losses(output)[8])
    assert (work / 'experiments/tiny/visualization/samples_8.png').is_file()
    assert list((work / 'tb_logger/tiny').iterdir())

    halves = ['--force_yml', 'name=halves', 'train:diffusion_opt:ramp_iters=8']
    train(work, *halves, 'train:total_iter=5')
    resumed = train(work, '--auto_resume', *halves, 'datasets:train:num_worker_per_gpu=0')
    assert losses(resumed) == {n: figures for n, figures in losses(output).items() if n > 3}
    assert_equal(networks(work, 'tiny'), networks(work, 'halves'))

    process = run([TEST, '-opt', TINY_TEST], work)
    assert process.returncode == 0, process.stdout
    assert len(list((work / 'results/tiny_test/visualization/pairs').glob('*.png'))) == 6
    best = re.search(r'psnr: ([\d.]+)', process.stdout)[1]
    assert best == re.findall(r'psnr: ([\d.]+)', output)[-1]  # as the last validation of the training

    metrics = 'val={metrics: {psnr: {type: calculate_psnr, crop_border: 0}}}'  # and nothing else
    for number, (more, images) in enumerate([([metrics], 0), ([metrics, 'val:save_img=true'], 6)]):
        process = run([TEST, '-opt', TINY_TEST, '--force_yml', f'name=test_{number}', *more], work)
        assert process.returncode == 0 and f'psnr: {best}' in process.stdout, process.stdout
        assert len(list((work / f'results/test_{number}').rglob('*.png'))) == images

    shutil.rmtree(work / 'results')  # four processes share the six images
    torchrun = ['-m', 'torch.distributed.run', '--nproc_per_node=4', '--standalone']
    process = run([*torchrun, TEST, '-opt', TINY_TEST, '--launcher', 'pytorch'], work)
    assert re.findall(r'psnr: ([\d.]+)', process.stdout) == [best], process.stdout
    assert len(list((work / 'results/tiny_test/visualization/pairs').glob('*.png'))) == 6


BATCH_NORM_NETWORK = """
import noiseda_model
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

PLUGIN = 'bn_network'

@ARCH_REGISTRY.register()
class BatchNormNetwork(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
"""


def test_two_processes_train_and_validate(work):
    """With batch norm and no EMA: rank 0 alone validates the very network whose buffers the ranks could share."""
    (work / 'bn_network.py').write_text(BATCH_NORM_NETWORK)
    options = TINY.read_text()
    for old, new in {'noiseda_model.PLUGIN': 'bn_network.PLUGIN', 'ema_decay: 0.99': 'ema_decay: 0',
                     '{type: RestorationUNet, width: 4, depth: 2}': '{type: BatchNormNetwork}'}.items():
        assert old in options
        options = options.replace(old, new)
    (work / 'bn.yml').write_text(options)
    launcher = ['-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone']
    env = {'PYTHONPATH': f'{work}:{ROOT}'}
    force = ['--force_yml', 'datasets:train:num_worker_per_gpu=0']  # each worker starts anew for every epoch
    process = run([*launcher, TRAIN, '-opt', 'bn.yml', '--launcher', 'pytorch', *force], work, env)
    assert process.returncode == 0, process.stdout
    assert sorted(losses(process.stdout)) == list(range(1, 9))
    assert 'Validation val' in process.stdout


INTERRUPTED = """
import os
import signal
from basicsr.utils.registry import MODEL_REGISTRY
from noiseda_model import NoiseDAModel

PLUGIN = 'interrupted'

@MODEL_REGISTRY.register()
class Interrupted(NoiseDAModel):
    def __init__(self, opt):
        super().__init__(opt)
        os.kill(os.getpid(), signal.SIGINT)  # before the first iteration
"""


def test_ctrl_c_before_the_first_iteration_leaves_the_earlier_run(work):
    train(work, '--force_yml', 'train:total_iter=3')
    (work / 'interrupted.py').write_text(INTERRUPTED)
    options = TINY.read_text().replace('noiseda_model.PLUGIN', 'interrupted.PLUGIN')
    (work / 'interrupted.yml').write_text(options.replace('model_type: NoiseDAModel', 'model_type: Interrupted'))
    process = run([TRAIN, '-opt', 'interrupted.yml'], work, {'PYTHONPATH': f'{work}:{ROOT}'})
    assert process.returncode == 130 and 'Stopped after iteration 0.' in process.stdout, process.stdout
    assert 'experiments/tiny is again what it was.' in process.stdout
    assert [path.name for path in (work / 'experiments').iterdir()] == ['tiny']
    assert (work / 'experiments/tiny/models/net_g_latest.pth').is_file()


FAILING_LOSS = """
import noiseda_model
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn

PLUGIN = 'failing_loss'

@LOSS_REGISTRY.register()
class FailingLoss(nn.Module):
    calls = 0

    def forward(self, image, target):
        self.calls += 1
        assert self.calls < 3
        return (image - target).abs().mean()
"""


def test_a_start_that_fails_leaves_the_earlier_run_and_a_crash_its_log(work):
    train(work, '--force_yml', 'train:total_iter=3')
    output = train(work, '--force_yml', 'train:optim_g:type=Adamx', expect=2)
    assert 'error: train:optim_g:type' in output and 'experiments/tiny is again what it was.' in output
    assert [path.name for path in (work / 'experiments').iterdir()] == ['tiny']
    assert [path.name for path in (work / 'tb_logger').iterdir()] == ['tiny']
    assert (work / 'experiments/tiny/models/net_g_latest.pth').is_file()

    (work / 'failing_loss.py').write_text(FAILING_LOSS)
    options = TINY.read_text().replace('noiseda_model.PLUGIN', 'failing_loss.PLUGIN')
    (work / 'failing.yml').write_text(options.replace('{type: CharbonnierLoss, eps: 0.000001}', '{type: FailingLoss}'))
    process = run([TRAIN, '-opt', 'failing.yml'], work, {'PYTHONPATH': f'{work}:{ROOT}'})
    assert process.returncode == 1 and 'AssertionError' in process.stdout
    assert sorted(path.name[:13] for path in (work / 'experiments').iterdir()) == ['tiny', 'tiny_archived']
    assert 'iter:       2' in next((work / 'experiments/tiny').glob('*.log')).read_text()


def test_debug_flag(work):
    train(work, '--debug', '--force_yml', 'train:total_iter=1')
    assert (work / 'experiments/debug_tiny/models/net_g_latest.pth').is_file()


@pytest.mark.parametrize('force, message', [
    (['network_g:type=RestorationUnet'], 'did you mean RestorationUNet'),
    (['network_g:wdith=3'], 'wdith'),
    (['val={save_img: true}'], 'val:val_freq is missing'),
    (['train={total_iter: 8}'], 'train:optim_g is missing'),
    (['logger={print_freq: 1, save_checkpoint_freq: 3}'], 'logger:use_tb_logger is missing'),
    (['datasets:train:dataroot_real=nowhere'], 'dataroot_real: nowhere does not exist'),
])
def test_bad_input_is_one_message_and_no_traceback(work, force, message):
    output = train(work, '--force_yml', *force, expect=2)
    assert message in output.split('error: ')[-1]
    assert 'Traceback' not in output


def test_a_missing_option_file_is_named(work):
    assert 'nowhere.yml: no such option file' in train(work, opt='nowhere.yml', expect=2)


def test_manual_seed_can_be_forced(work):
    """BasicSR seeds before it reads --force_yml."""
    first = [losses(train(work, '--force_yml', f'manual_seed={seed}', 'train:total_iter=1'))[1] for seed in (0, 1)]
    assert first[0]['l_pix'] != first[1]['l_pix']


def test_stock_basicsr_trains_and_tests(work):
    """``python basicsr/train.py`` of a checkout, with the import fix that BasicSR's master has."""
    checkout = work / 'checkout'
    shutil.copytree(Path(basicsr.__file__).parent, checkout / 'basicsr', ignore=shutil.ignore_patterns('__pycache__'))
    degradations = checkout / 'basicsr/data/degradations.py'
    degradations.write_text(degradations.read_text().replace('functional_tensor', 'functional'))
    if not torch.cuda.is_available():  # beside a torch without CUDA torchvision itself needs help to import
        (checkout / 'sitecustomize.py').write_text(
            'import noiseda_basicsr.imports\nnoiseda_basicsr.imports._declare_missing_torchvision_operators()\n')
    env = {'PYTHONPATH': f'{checkout}:{ROOT}'}
    for name in ('gt', 'lq', 'real'):
        shutil.copytree(work / name, checkout / name)
    process = run(['basicsr/train.py', '-opt', TINY], checkout, env)
    assert process.returncode == 0, process.stdout
    assert sorted(losses(process.stdout)) == list(range(1, 9))
    assert 'Set pretrain' not in process.stdout
    process = run(['basicsr/test.py', '-opt', TINY_TEST], checkout, env)
    assert process.returncode == 0, process.stdout
    assert 'psnr' in process.stdout
