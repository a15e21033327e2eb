"""BasicSR's option file, checked before anything is made of it: BasicSR stops at a mistake when it comes to it."""
import re

from noiseda_basicsr.errors import InputError

NEEDED = ('name', 'model_type', 'datasets', 'network_g', 'path')
NEEDED_TO_TRAIN = ('datasets:train', 'datasets:train:batch_size_per_gpu', 'datasets:train:num_worker_per_gpu',
                   'train:total_iter', 'train:optim_g', 'logger:print_freq', 'logger:save_checkpoint_freq',
                   'logger:use_tb_logger')
WHOLE_NUMBERS = {  # key -> the least it may be
    'manual_seed': 0,
    'datasets:train:batch_size_per_gpu': 1,
    'datasets:train:num_worker_per_gpu': 0,
    'datasets:train:gt_size': 1,
    'train:total_iter': 1,
    'train:warmup_iter': -1,
    'val:val_freq': 1,
    'val:tile': 1,
    'val:tile_overlap': 0,
    'logger:print_freq': 1,
    'logger:save_checkpoint_freq': 1,
    'logger:keep_last': 1,
}
MAY_BE_EMPTY = ('datasets:train:gt_size', 'val:tile', 'logger:keep_last')
ARE_TEXT = ('name', 'suffix', 'resume_id', 'dataroot', 'pretrain')  # how keys begin whose values may look like numbers
NUMBER = re.compile(r'[+-]?\d+(\.\d*)?[eE][+-]?\d+')
PREFETCH_MODES = (None, 'cpu', 'cuda')
BLOCKS = {  # where keys belong that are found beside the blocks
    'datasets:train': ('dataroot_gt', 'dataroot_lq', 'dataroot_real', 'dataroot_ref', 'degradation', 'enlarge',
                       'batch_size_per_gpu', 'num_worker_per_gpu'),  # a gt_size beside them is Real-ESRGAN's
    'train': ('total_iter', 'optim_g', 'optim_diffusion', 'diffusion_opt', 'pixel_opt', 'engine', 'ema_decay'),
    'val': ('val_freq', 'save_img', 'metrics'),
    'path': ('pretrain_network_g', 'pretrain_network_diffusion', 'resume_state'),
}
MISSING = object()


def check_option_file(opt):
    """Keys that are needed, and numbers that are none or too small; whole numbers are made ints.

    Args:
        opt (dict): What BasicSR's parse_options returns.

    Raises:
        InputError: Names the key.
    """
    for block, keys in BLOCKS.items():
        for key in keys:
            for where, beside in (('the option file', opt), ('datasets', opt.get('datasets') or {})):
                if key in beside:
                    raise InputError(f'{key} stands directly under {where}; it belongs to {block}.')
    needed = list(NEEDED)
    if opt['is_train']:
        needed += NEEDED_TO_TRAIN + (('val:val_freq',) if opt.get('val') is not None else ())
    needed += [f'datasets:{phase}:{key}' for phase in opt['datasets'] for key in ('name', 'type')]
    for key in needed:
        if look_up(opt, key) is MISSING:
            raise InputError(f'{key} is missing in the option file; the files in options/ show every key.')
    if not opt['is_train'] and opt.get('val') is None:
        raise InputError('val is missing in the option file: what to measure, and whether to save images.')
    if not opt['is_train'] and 'train' in opt['datasets']:
        raise InputError('datasets:train: this option file is one of a training, and here is tested. Take one of '
                         'options/test, or noiseda-evaluate.')
    for key, least in WHOLE_NUMBERS.items():
        check_whole_number(opt, key, least)
    for phase in opt['datasets']:
        if opt['is_train'] and phase != 'train' and phase.split('_')[0] != 'val':
            raise InputError(f'datasets:{phase}: a training knows train, val, val_2 and so on.')
    mode = opt['datasets'].get('train', {}).get('prefetch_mode')
    if mode not in PREFETCH_MODES:
        raise InputError(f'datasets:train:prefetch_mode is {mode!r}; it must be cpu, cuda, or left out.')
    check_numbers_are_no_text(opt)


def explain_yaml(error):
    """What to tell the user of a yaml.YAMLError."""
    if 'find module' in str(error):
        return (f'names a module that cannot be imported ({error.problem}). Put the folder that holds it in the '
                'variable PYTHONPATH.')
    if 'cannot find' in str(error):
        return (f'names something that is not there ({error.problem}). After !!python/name: stands FILE.NAME, as '
                'my_network.NAME: a Python file, and a name that is defined in it.')
    return f'not valid YAML. {error}'


def look_up(opt, key):
    """The value at ``block:block:key``, or MISSING."""
    for part in key.split(':'):
        if not isinstance(opt, dict) or part not in opt:
            return MISSING
        opt = opt[part]
    return opt


def check_whole_number(opt, key, least):
    value = look_up(opt, key)
    if value is MISSING or (value is None and key in MAY_BE_EMPTY):
        return
    is_whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value % 1 == 0  # so not inf, nan
    if not is_whole or value < least:
        raise InputError(f'{key} is {value!r}; it must be a whole number, {least} or more.')
    *blocks, last = key.split(':')
    (look_up(opt, ':'.join(blocks)) if blocks else opt)[last] = int(value)


def check_numbers_are_no_text(value, key=''):
    """1e-4 is text in YAML 1.1, which wants a dot: 1.0e-4."""
    if isinstance(value, dict):
        for name, inner in value.items():
            check_numbers_are_no_text(inner, f'{key}:{name}' if key else name)
    elif isinstance(value, list):
        for inner in value:
            check_numbers_are_no_text(inner, key)
    elif isinstance(value, str) and NUMBER.fullmatch(value) and not key.split(':')[-1].startswith(ARE_TEXT):
        raise InputError(f'{key} is {value!r}, which YAML takes for text; write !!float {value}.')
