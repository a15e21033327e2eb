"""Checks of the option file, early and in the user's words."""
import inspect

import torch
import yaml
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR
from basicsr.utils import get_root_logger
from basicsr.utils.options import ordered_yaml
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY

from noiseda_arch.padding import size_rule
from noiseda_basicsr import InputError
from noiseda_basicsr.option_file import explain_yaml
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
    'max_grad_norm': None,  # of each network: a longer gradient is scaled down to it
    'on_nan': 'stop',  # a step whose loss or gradient is not finite: stop, or skip it and go on
}

KNOWN_KEYS = {
    'train': ('total_iter', 'warmup_iter', 'optim_g', 'optim_diffusion', 'scheduler', 'ema_decay', 'pixel_opt',
              'perceptual_opt', 'diffusion_opt', 'engine'),
    'val': ('val_freq', 'save_img', 'suffix', 'pbar', 'metrics', 'size_multiple', 'tile', 'tile_overlap'),
    'logger': ('print_freq', 'save_checkpoint_freq', 'keep_last', 'use_tb_logger', 'wandb'),
    'path': ('pretrain_network_g', 'param_key_g', 'strict_load_g', 'pretrain_network_diffusion', 'resume_state',
             'ignore_resume_networks', 'experiments_root', 'models', 'training_states', 'log', 'visualization'),
}
SCHEDULERS = {'MultiStepLR': MultiStepRestartLR, 'MultiStepRestartLR': MultiStepRestartLR,
              'CosineAnnealingRestartLR': CosineAnnealingRestartLR}
LOWER_IS_BETTER = ('niqe', 'lpips')  # in a metric's name


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
    if options['ramp_iters'] is None:
        options['ramp_iters'] = int(opt['train']['total_iter'])

    def require(holds, key, remedy):
        if not holds:
            raise InputError(f'train:diffusion_opt:{key} is {options[key]!r}; {remedy}')

    for key in ('margin', 'beta', 'gamma', 'ramp_iters', 'monitor_freq'):
        require(isinstance(options[key], (int, float)), key, 'it must be a number; YAML wants !!float 1e-4 or 0.0001.')
    require(options['ramp_iters'] > 0, 'ramp_iters', 'it must be above 0.')
    require(options['beta'] >= 0, 'beta', 'it must be 0 or more.')
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
        raise InputError(f'{path}: {explain_yaml(error)}') from error


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
    _check_keys(block, given, defaults)
    return {**defaults, **given}


def _check_keys(block, given, known):
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"{block}: unknown key {', '.join(unknown)}; known: {', '.join(known)}.")


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
    norm = options['max_grad_norm']
    require(norm is None or (isinstance(norm, (int, float)) and norm > 0), 'max_grad_norm', 'a number above 0, or ~.')
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


def check_registered(network, who):
    """Refuse a network whose class no import has registered.

    Args:
        network (dict): An option block.
        who (str): What names it, for the error: ``FILE is of``.

    Raises:
        InputError
    """
    try:
        ARCH_REGISTRY.get(network['type'])
    except (KeyError, InputError) as error:  # the latter from the registry as noiseda_basicsr mends it
        raise InputError(f"{who} the network {network['type']}, which is not registered; give the option file whose "
                         'line imports it with -opt.') from error


def _check_network(block, arguments):
    if 'type' not in arguments:
        raise InputError(f'{block}:type, the name of an architecture, is missing.')
    arch = ARCH_REGISTRY.get(arguments.pop('type'))
    signature = inspect.signature(arch)
    if inspect.isclass(arch):  # BasicSR's SwinIR swallows whatever it does not know
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        signature = signature.replace(parameters=named)
    bound = _bind(block, arch.__name__, signature, (), arguments)
    bound.apply_defaults()
    for key in ('upscale', 'scale'):
        if bound.arguments.get(key, 1) != 1:
            raise InputError(f'{block}: {arch.__name__} would enlarge {bound.arguments[key]} times; this project '
                             f'restores at scale 1: set {key}: 1.')


def _bind(block, name, signature, given, options):
    """Bind the options of a block, and what the code itself gives, to the arguments of what is called."""
    try:
        return signature.bind(*given, **options)
    except TypeError as error:
        known = ', '.join(list(signature.parameters)[len(given):])
        raise InputError(f'{block}: {name} {error}; its arguments: {known}.') from error


def check_optimizer(block, options):
    """A type, a learning rate (written 1e-4 it is text in YAML) and arguments that torch.optim knows.

    Raises:
        InputError
    """
    optimizer = getattr(torch.optim, str(options.get('type')), None)
    if optimizer is None:
        raise InputError(f"{block}:type is {options.get('type')!r}, unknown to torch.optim; the paper's is Adam.")
    if not isinstance(options.get('lr'), (int, float)):
        raise InputError(f"{block}:lr is {options.get('lr')!r}, not a number; YAML wants !!float 1e-4 or 0.0001.")
    arguments = {key: value for key, value in options.items() if key != 'type'}
    _bind(block, options['type'], inspect.signature(optimizer), ['params'], arguments)


def check_training(opt, known_keys):
    """What EngineModel takes from train besides the optimizers, and no unknown key in the blocks around it.

    Args:
        opt (dict): Of a training.
        known_keys (dict): Block -> its keys, :data:`KNOWN_KEYS` or more.

    Raises:
        InputError
    """
    train = opt['train']
    if not 0 <= train.get('ema_decay', 0) < 1:
        raise InputError(f"train:ema_decay is {train['ema_decay']}; it must be at least 0, for none, and below 1.")
    losses = [f'{kind}_opt' for kind in ('pixel', 'perceptual') if train.get(f'{kind}_opt')]
    if not losses:
        raise InputError("train:pixel_opt, the restoration loss, is missing; the paper's is {type: CharbonnierLoss, "
                         'eps: !!float 1e-6}.')
    for loss in losses:
        _check_registered(f'train:{loss}', train[loss], LOSS_REGISTRY)
    if train.get('scheduler'):
        _check_scheduler(dict(train['scheduler']))
    for block, known in known_keys.items():
        _check_keys(block, {key for key, value in (opt.get(block) or {}).items() if value is not None}, known)


def _check_registered(block, options, registry, images=()):
    if not isinstance(options, dict) or 'type' not in options:
        raise InputError(f'{block} is {options!r}; it must be a block with the key type.')
    signature = inspect.signature(registry.get(options['type']))
    arguments = {key: None for key in images if key in signature.parameters}  # a metric without truth takes one alone
    arguments.update((key, value) for key, value in options.items() if key != 'type')
    _bind(block, options['type'], signature, (), arguments)
    return signature.parameters.values()


def _check_scheduler(arguments):
    kind = arguments.pop('type', None)
    if kind not in SCHEDULERS:
        raise InputError(f"train:scheduler:type is {kind!r}; BasicSR has {', '.join(SCHEDULERS)}.")
    _bind('train:scheduler', kind, inspect.signature(SCHEDULERS[kind]), ['optimizer'], arguments)


def check_validation(opt):
    """The metrics of val: are there, and fit the images; of those that are better when lower it is noted.

    Raises:
        InputError
    """
    if opt.get('is_train') and opt.get('val') is not None and 'val_freq' not in opt['val']:
        raise InputError('val:val_freq, the iterations between two validations, is missing.')
    metrics = (opt.get('val') or {}).get('metrics') or {}
    for name, metric in metrics.items():
        parameters = _check_registered(f'val:metrics:{name}', metric, METRIC_REGISTRY, ('img', 'img2'))
        may_be_told = any(p.name == 'better' or p.kind is p.VAR_KEYWORD for p in parameters)
        if may_be_told and any(word in metric['type'] for word in LOWER_IS_BETTER):
            metric.setdefault('better', 'lower')
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
