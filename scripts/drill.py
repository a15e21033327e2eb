"""Try to break a training run, and see what is left of it. Linux; images and networks are tiny and made up.

    python scripts/drill.py kill --times 30     # kill -9 at random moments; the result must equal an undisturbed run's
    python scripts/drill.py soak --minutes 60   # train for an hour; memory and open files must not grow
"""
import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from noiseda_basicsr.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = {
    'network_g:width': 4, 'network_diffusion:multipliers': [1], 'datasets:train:gt_size': 16,
    'datasets:train:dataroot_gt': 'gt', 'datasets:train:dataroot_real': 'real', 'path:pretrain_network_g': 'none',
    'logger:print_freq': 10, 'logger:keep_last': 3}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar='kill | soak')
    kill = commands.add_parser('kill')
    kill.add_argument('--times', type=int, default=30)
    kill.add_argument('--seed', type=int, default=0)
    kill.set_defaults(drill=kill_drill)
    soak = commands.add_parser('soak')
    soak.add_argument('--minutes', type=float, default=60)
    soak.set_defaults(drill=soak_drill)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder, rng = Path(folder), np.random.default_rng(0)
        for name in ('gt', 'real'):
            (folder / name).mkdir()
            for number in range(6):
                cv2.imwrite(str(folder / name / f'{number}.png'), rng.integers(0, 256, (64, 64, 3), np.uint8))
        sys.exit(args.drill(folder, args))


def start(folder, name, **options):
    forced = [f'{key}={value}' for key, value in {'name': name, **OPTIONS, **options}.items()]
    command = [sys.executable, ROOT / 'scripts/train.py', '-opt', ROOT / 'options/train/train_demo_adapted.yml',
               '--auto_resume', '--force_yml', *forced]
    with open(folder / f'{name}.log', 'a') as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True,
                                env={**os.environ, 'OMP_NUM_THREADS': '1'})


def kill_drill(folder, args):
    """Kill a run again and again, then let it end; its networks must be those of a run left alone, to the bit."""
    iterations = 40 * args.times
    options = {'train:total_iter': iterations, 'logger:save_checkpoint_freq': 1}
    if start(folder, 'whole', **options).wait():
        sys.exit((folder / 'whole.log').read_text())
    rng, during_a_save = random.Random(args.seed), 0
    models = folder / 'experiments/killed/models'
    for attempt in range(1, args.times + 1):
        process = start(folder, 'killed', **options)
        before = (folder / 'killed.log').read_text().count('Start training')
        while process.poll() is None and (folder / 'killed.log').read_text().count('Start training') == before:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        in_save = bool([*models.glob('*.partial'), *(models.parent / 'training_states').glob('*.partial')])
        during_a_save += in_save
        newest = max((int(path.stem) for path in models.parent.glob('training_states/*.state')), default=0)
        print(f'kill {attempt:2d}: newest state {newest}{", during a save" if in_save else ""}', flush=True)
    if start(folder, 'killed', **options).wait():
        print((folder / 'killed.log').read_text()[-3000:])
        return 1
    equal = all(same(load_checkpoint(models / name), load_checkpoint(folder / 'experiments/whole/models' / name))
                for name in ('net_g_latest.pth', 'net_diffusion_latest.pth'))
    passed_over = (folder / 'killed.log').read_text().count('passes over')
    print(f'{args.times} kills, {during_a_save} of them during a save, {passed_over} incomplete states passed over; '
          f'after {iterations} iterations the networks {"equal" if equal else "DO NOT EQUAL"} to the bit those of an '
          'undisturbed run')
    return 0 if equal else 1


def same(one, other):
    """Whether two files of networks hold the same weights; what else they hold says which network it is."""
    return all((value == other[key][name]).all()
               for key in one if key.startswith('params') for name, value in one[key].items())


def soak_drill(folder, args):
    """Train, validate and save for a while; compare memory and open files of the first and last third."""
    options = {'train:total_iter': 10**9, 'logger:save_checkpoint_freq': 500, 'train:diffusion_opt:ramp_iters': 1000,
               'train:diffusion_opt:monitor_freq': 100}
    process = start(folder, 'soak', **options)
    samples, end = [], time.monotonic() + 60 * args.minutes
    time.sleep(min(60, 20 * args.minutes))  # the start, when everything still grows
    while time.monotonic() < end and process.poll() is None:
        samples.append((resident(process.pid), len(os.listdir(f'/proc/{process.pid}/fd'))))
        time.sleep(5)
    if process.poll() is not None:
        sys.exit((folder / 'soak.log').read_text()[-3000:])
    process.terminate()
    process.wait()
    third = len(samples) // 3
    iterations = (folder / 'soak.log').read_text().rsplit('Stopped after iteration ', 1)[1].split(';')[0]
    parts = samples[:third], samples[-third:]
    memory, files = ([statistics.median(sample[column] for sample in part) for part in parts] for column in (0, 1))
    print(f'{args.minutes:g} minutes, {iterations} iterations: resident memory {memory[0]:.1f} -> {memory[1]:.1f} MiB, '
          f'open files {files[0]:.0f} -> {files[1]:.0f} (medians of the first and the last third)')
    return 0 if memory[1] < 1.02 * memory[0] and files[1] <= files[0] else 1


def resident(pid):
    """Resident memory in MiB."""
    return int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20


if __name__ == '__main__':
    main()
