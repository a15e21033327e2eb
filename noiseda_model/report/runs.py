"""Training runs as they lie in experiments/NAME and tb_logger/NAME: curves and option files."""
import glob
import math
import os
from os import path as osp

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

from noiseda_basicsr import InputError

POINTS = 1500  # of a curve that the page holds


def read_run(folder, label):
    """One training run.

    Args:
        folder (str): experiments/NAME of a run started in the folder above; its events are in tb_logger/NAME there.
            Or a folder of events itself.
        label (str): What to call it.

    Returns:
        dict: ``label``; ``curves``, {tag: [steps, values]}; ``options``, [[file name, text]].

    Raises:
        InputError: No such folder, or neither events nor an option file in it.
    """
    folder = osp.abspath(osp.expanduser(folder))
    if not osp.isdir(folder):
        raise InputError(f'--runs: {folder} does not exist. Give experiments/NAME of a training run.')
    beside = osp.join(osp.dirname(osp.dirname(folder)), 'tb_logger', osp.basename(folder))
    curves = read_curves(folder) or read_curves(beside)
    options = []
    for file in sorted(glob.glob(osp.join(glob.escape(folder), '*.yml'))):
        with open(file, encoding='utf-8', errors='replace') as opened:
            options.append([osp.basename(file), opened.read()])
    if not curves and not options:
        raise InputError(f'--runs: {folder} holds no option file (*.yml), and neither it nor {beside} curves of '
                         'TensorBoard. Give experiments/NAME of a training run.')
    return {'label': label, 'curves': curves, 'options': options}


def read_curves(folder):
    """The scalars in a folder of TensorBoard events.

    A run that was stopped and resumed writes a second file, which may start before the end of the first: what it
    repeats replaces what was there.

    Returns:
        dict: tag -> [steps, values], in the order in which the tags appear; empty without events.

    Raises:
        InputError: A file cannot be read.
    """
    files = glob.glob(osp.join(glob.escape(folder), '*tfevents*'))
    curves = {}
    for file in sorted(files, key=lambda file: (osp.basename(file).split('.')[3:4], os.stat(file).st_mtime)):
        resumed = {}
        for step, tag, value in _scalars(file):
            resumed.setdefault(tag, []).append((step, value))
        for tag, points in resumed.items():
            kept = [point for point in curves.get(tag, []) if point[0] < points[0][0]]
            curves[tag] = kept + points
    return {tag: [[step for step, _ in points], [value for _, value in points]] for tag, points in curves.items()}


def _scalars(file):
    """(step, tag, float) of each scalar in an events file."""
    try:
        for event in EventFileLoader(file).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == 'scalars':
                    yield event.step, value.tag, make_ndarray(value.tensor).item()
    except Exception as error:  # TensorFlow's error classes, which differ from version to version
        raise InputError(f'{file}: cannot be read as TensorBoard events ({error}). Remove it.') from error


def thin(curves):
    """Curves with at most 1500 points each, evenly taken, the last one always; and values that JSON knows."""
    thinned = {}
    for tag, (steps, values) in curves.items():
        stride = math.ceil(len(steps) / POINTS)
        chosen = sorted({*range(0, len(steps), stride), len(steps) - 1})
        thinned[tag] = [[steps[i] for i in chosen],
                        [values[i] if math.isfinite(values[i]) else None for i in chosen]]
    return thinned
