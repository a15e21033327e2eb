"""Checks of the option file, early and in the user's words."""
import inspect

import torch
import yaml
from basicsr.utils import get_root_logger
from basicsr.utils.options import ordered_yaml
from basicsr.utils.registry import ARCH_REGISTRY

from noiseda_arch.padding import size_rule
from noiseda_basicsr import InputError
from noiseda_model.diffusion import TIMESTEPS
from noiseda_model.engine import DTYPES

DIFFUSION_DEFAULTS = {
    'clean': 'gt',  # y in x_t: gt (paired, Eq. 1) or ref (extension: unpaired clean images)
    'conditions': ['syn', 'real'],  # or [syn], [real]: one restored image alone (Tab. 4)
    'channel_shuffle': True,
    'residual_swap': True,  # Eq. 2-3
    'margin': 0.1,  # delta of Eq. 3
    'timesteps': [1, TIMESTEPS - 1],  # t is drawn from this range
    'diffusion_range': [0, 1],  # of the images the diffusion network sees: [0, 1] or [-1, 1]
    'beta': 0.2,  # Eq. 5: lambda ends at about beta ...
    'gamma': 5,  # ... and rises this fast
    'ramp_iters': None,  # iterations of the ramp; default: train:total_iter
    'monitor_freq': 500,  # iterations between looks at the shortcut (monitor.py); 0: never
}

ENGINE_DEFAULTS = {
    'precision': 'fp32',  # of both networks' passes: fp32, bf16, fp16; losses, weights and optimizers stay in fp32
    'channels_last': False,  # memory layout of both networks
    'compile': [],  # torch.compile for g, diffusion
    'activation_checkpointing': [],  # less memory, a third more work, for g, diffusion
    'accumulate': 1,  # parts a batch is computed in: less memory, same result
    'on_nan': 'stop',  # a step whose loss or gradient is not finite: stop, or skip it and go on
}


def read_diffusion_options(opt):
    """train:diffusion_opt with its defaults filled in, checked against the rest of the option file.

    Returns:
        dict | None: None without the block: vanilla training, no diffusion loss.

    Raises:
        InputError: Names the key and what is allowed.
    """
    given = opt['train'].get('diffusion_opt')
    if given is None:
        if opt.get('network_diffusion'):
            raise InputError('network_diffusion is there but train:diffusion_opt is not; add it (an empty {} takes the '
                             "paper's settings), or remove network_diffusion to train without adaptation.")
        return None
    options = _with_defaults('train:diffusion_opt', given, DIFFUSION_DEFAULTS)
    options['ramp_iters'] = options['ramp_iters'] or int(opt['train']['total_iter'])

    def require(holds, key, remedy):
        if not holds:
            raise InputError(f'train:diffusion_opt:{key} is {options[key]!r}; {remedy}')

    for key in ('margin', 'beta', 'gamma', 'ramp_iters', 'monitor_freq'):
        require(isinstance(options[key], (int, float)), key, 'it must be a number; YAML wants !!float 1e-4 or 0.0001.')
    require(options['clean'] in ('gt', 'ref'), 'clean', 'it must be gt or ref.')
    require(options['conditions'] in (['syn', 'real'], ['syn'], ['real']), 'conditions',
            'it must be [syn, real], [syn] or [real].')
    steps = options['timesteps']
    is_pair = isinstance(steps, (list, tuple)) and len(steps) == 2 and all(isinstance(step, int) for step in steps)
    require(is_pair and 1 <= steps[0] <= steps[1] < TIMESTEPS, 'timesteps',
            f'it must be [low, high] within 1 to {TIMESTEPS - 1}.')
    require(options['diffusion_range'] in ([0, 1], [-1, 1]), 'diffusion_range', 'it must be [0, 1] or [-1, 1].')
    if options['residual_swap']:
        require(options['clean'] == 'gt', 'clean', 'with ref, Eq. 2 and 3 fall away: set residual_swap: false.')
        require(len(options['conditions']) == 2, 'conditions', 'a swap needs both: set residual_swap: false.')
    if not opt.get('network_diffusion'):
        raise InputError('train:diffusion_opt needs a network_diffusion block, for example {type: ConditionalUNet}.')
    if not opt['train'].get('optim_diffusion'):
        raise InputError('train:diffusion_opt needs train:optim_diffusion, for example {type: Adam, lr: !!float 1e-4}.')
    train_set = opt.get('datasets', {}).get('train')
    needed = {'dataroot_real': 'real' in options['conditions'], 'dataroot_ref': options['clean'] == 'ref'}
    for key, is_needed in needed.items():
        if train_set and is_needed and not train_set.get(key):
            raise InputError(f'datasets:train:{key} is missing; train:diffusion_opt asks for these images.')
    return options


def read_option_file(path):
    """An option file as it is written, before BasicSR's launcher adds to it.

    Raises:
        InputError: There is no such file, or it is not YAML.
    """
    try:
        with open(path) as file:
            return yaml.load(file, Loader=ordered_yaml()[0]) or {}
    except OSError as error:
        raise InputError(f'{path}: no such option file.') from error
    except yaml.YAMLError as error:
        raise InputError(f'{path}: not valid YAML. {error}') from error


def read_network(option_file):
    """The network_g block of an option file, checked.

    Raises:
        InputError: There is no such file, or its network cannot be built.
    """
    opt = read_option_file(option_file)
    if not opt.get('network_g'):
        raise InputError(f'{option_file}: has no network_g; give the option file of a training.')
    check_networks(opt)
    return opt['network_g']


def _with_defaults(block, given, defaults):
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise InputError(f"{block}: unknown key {', '.join(unknown)}; known: {', '.join(defaults)}.")
    return {**defaults, **given}


def read_engine_options(opt):
    """train:engine with its defaults filled in.

    Returns:
        dict

    Raises:
        InputError: Names the key and what is allowed.
    """
    options = _with_defaults('train:engine', opt['train'].get('engine') or {}, ENGINE_DEFAULTS)

    def require(holds, key, remedy):
        if not holds:
            raise InputError(f'train:engine:{key} is {options[key]!r}; it must be {remedy}')

    require(options['precision'] in DTYPES, 'precision', f"one of {', '.join(DTYPES)}.")
    require(options['on_nan'] in ('stop', 'skip'), 'on_nan', 'stop or skip.')
    require(isinstance(options['channels_last'], bool), 'channels_last', 'true or false.')
    for key in ('compile', 'activation_checkpointing'):
        is_list = isinstance(options[key], list) and set(options[key]) <= {'g', 'diffusion'}
        require(is_list, key, 'a list of networks: [], [g], [diffusion] or [g, diffusion].')
    parts, batch = options['accumulate'], opt.get('datasets', {}).get('train', {}).get('batch_size_per_gpu')
    require(isinstance(parts, int) and parts >= 1, 'accumulate', 'a number of parts, 1 or more.')
    require(batch is None or batch % parts == 0, 'accumulate', f'a divisor of batch_size_per_gpu ({batch}).')
    return options


def differences(before, after, name=''):
    """Where two nested option blocks differ, as a sentence each: ``train:total_iter 100 -> 200``."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from differences(before.get(key), after.get(key), f'{name}:{key}' if name else key)
    elif before != after:
        yield f'{name} {before} -> {after}'


def check_networks(opt):
    """Refuse an unknown architecture, a constructor argument it does not have, and a scale other than 1.

    Raises:
        InputError: Names the block, the key, and the arguments the architecture has.
    """
    if opt.get('scale', 1) != 1:
        raise InputError(f"scale: {opt['scale']} is super-resolution; this project restores at scale 1.")
    for block in ('network_g', 'network_diffusion'):
        if opt.get(block):
            _check_network(block, dict(opt[block]))


def _check_network(block, arguments):
    if 'type' not in arguments:
        raise InputError(f'{block}:type, the name of an architecture, is missing.')
    arch = ARCH_REGISTRY.get(arguments.pop('type'))
    signature = inspect.signature(arch)
    if inspect.isclass(arch):  # BasicSR's SwinIR swallows whatever it does not know
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        signature = signature.replace(parameters=named)
    try:
        bound = signature.bind(**arguments)
    except TypeError as error:
        raise InputError(f"{block}: {arch.__name__} {error}; its arguments: "
                         f"{', '.join(signature.parameters)}.") from error
    bound.apply_defaults()
    for key in ('upscale', 'scale'):
        if bound.arguments.get(key, 1) != 1:
            raise InputError(f'{block}: {arch.__name__} would enlarge {bound.arguments[key]} times; this project '
                             f'restores at scale 1: set {key}: 1.')


def check_optimizer(block, options):
    """A learning rate written 1e-4 is text in YAML; say so.

    Raises:
        InputError
    """
    if not hasattr(torch.optim, str(options.get('type'))):
        raise InputError(f"{block}:type is {options.get('type')!r}, unknown to torch.optim; the paper's is Adam.")
    if not isinstance(options.get('lr'), (int, float)):
        raise InputError(f"{block}:lr is {options.get('lr')!r}, not a number; YAML wants !!float 1e-4 or 0.0001.")


def check_validation(opt):
    """The metrics of val: fit the images there are.

    Raises:
        InputError
    """
    if opt.get('is_train') and opt.get('val') is not None and 'val_freq' not in opt['val']:
        raise InputError('val:val_freq, the iterations between two validations, is missing.')
    metrics = (opt.get('val') or {}).get('metrics') or {}
    metrics = [metric['type'] for metric in metrics.values() if metric['type'] != 'calculate_niqe']
    for phase, data_set in opt.get('datasets', {}).items():
        without_truth = not data_set.get('dataroot_gt') and data_set.get('type') == 'PairedUnpairedDataset'
        if phase != 'train' and metrics and without_truth:
            raise InputError(f'datasets:{phase}:dataroot_gt is missing and {metrics[0]} needs it; give it, or remove '
                             'val:metrics (calculate_niqe alone needs no ground truth).')


def check_sizes(opt, net):
    """The patches of training and the tiles of validation have sizes that the restoration network takes.

    Raises:
        InputError
    """
    val = opt.get('val') or {}
    rule = size_rule(net, val.get('size_multiple'))
    multiple, minimum = rule['multiple'], rule['minimum']
    name = f"val:size_multiple ({multiple})" if val.get('size_multiple') else \
        f'{multiple}, as {type(net).__name__} requires'
    tile, overlap = val.get('tile'), val.get('tile_overlap', 32)
    if tile is not None and (tile % multiple or tile < minimum or tile <= overlap):
        raise InputError(f'val:tile is {tile}; it must be a multiple of {name}, at least {minimum} and larger than '
                         f'val:tile_overlap ({overlap}).')
    if tile is not None and getattr(net, 'tiling_discouraged', False):
        get_root_logger().warning(f'val:tile is {tile}; spandrel advises against tiles with {type(net).__name__}, '
                                  'which looks at the whole image. Remove it where memory allows.')
    patch = opt.get('datasets', {}).get('train', {}).get('gt_size', max(multiple, minimum))
    if patch % multiple or patch < minimum:
        raise InputError(f'datasets:train:gt_size is {patch}; it must be a multiple of {name}, and at least '
                         f'{minimum or multiple}.')
