"""The best network so far: net_g_best.pth, and beside it, in net_g_best.json, the figures that made it so.

The figures are BasicSR's ``best_metric_results``: {validation set: {metric: {'better', 'val', 'iter'}}}. The first
metric on the first set decides. The file tells more than the state of an iteration, saved before it is validated.
"""
import json
import os
from os import path as osp

from basicsr.utils import get_root_logger

from noiseda_basicsr.checkpoint import read_json, written_whole


def record_file(opt):
    """Where the figures are kept."""
    return osp.join(opt['path']['models'], 'net_g_best.json')


def deciding(best):
    """(metric, its record) of figures; None where there are none."""
    return next(iter(next(iter(best.values()), {}).items()), None)


def write_record(opt, best):
    """Keep the figures."""
    with written_whole(record_file(opt)) as file:
        json.dump(best, file)


def best_until(opt, resume_state):
    """The best figures of the iterations up to the state's, of metrics that are those of the option file."""
    best = json.loads(resume_state.get('best', '{}'))
    for name, records in read_json(record_file(opt)).items():
        kept = {metric: record for metric, record in records.items() if record['iter'] <= resume_state['iter']}
        best[name] = {**best.get(name, {}), **kept}
    metrics = (opt.get('val') or {}).get('metrics') or {}
    better = {metric: options.get('better', 'higher') for metric, options in metrics.items()}
    return {name: of for name, of in best.items()
            if {metric: record['better'] for metric, record in of.items()} == better}


def put_aside(opt, best):
    """A network whose figures no longer count, as ``best`` has others, is kept under its iteration's name."""
    stem = osp.splitext(record_file(opt))[0]
    recorded = deciding(read_json(record_file(opt)))
    if recorded in (None, deciding(best)) or not osp.isfile(f'{stem}.pth'):
        return
    iteration = recorded[1]['iter']
    for ending in ('.pth', '.json'):
        os.replace(f'{stem}{ending}', f'{stem}_{iteration}{ending}')
    get_root_logger().info(f'The best network so far, of iteration {iteration}, is now {stem}_{iteration}.pth: its '
                           'figures are later than this state, or by other metrics.')
