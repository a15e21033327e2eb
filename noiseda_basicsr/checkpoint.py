"""Checkpoints that are written whole or not at all, and found again after a crash."""
import contextlib
import json
import os
import re
from os import path as osp

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from basicsr.utils.misc import check_resume

from noiseda_basicsr.errors import InputError
from noiseda_basicsr.folders import held, hold

MAKE_ROOM = 'Make room, then continue with --auto_resume; earlier checkpoints are intact.'
EXPORTED = 'is an exported computation, for other programs. Give the .pth or .safetensors of its weights.'


@contextlib.contextmanager
def written_whole(path, mode='w', remedy=MAKE_ROOM):
    """A file to write, of which either the old or the complete new one is left.

    Raises:
        InputError: The file could not be written (a full disk, say); the old file is untouched.
    """
    partial, is_text = f'{path}.partial', 'b' not in mode
    try:
        os.makedirs(osp.dirname(osp.abspath(path)), exist_ok=True)
        with open(partial, mode, encoding='utf-8' if is_text else None, newline='' if is_text else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f'{path}: could not be written ({error}). {remedy}') from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)


def atomic_save(content, path, remedy=MAKE_ROOM):
    """``torch.save`` by :func:`written_whole`."""
    with written_whole(path, 'wb', remedy) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's words for a full disk
            raise OSError(error) from error


def read_json(path):
    """What a JSON file holds; nothing where there is none.

    Raises:
        InputError
    """
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:  # process 0 may put it aside at this moment
        return {}
    except ValueError as error:
        raise InputError(f'{path}: not readable as JSON ({error}). Remove it; the next validation writes it anew.') \
            from error


def load_checkpoint(path):
    """``torch.load`` on the CPU, of plain data only.

    Raises:
        InputError: The file is missing, truncated, or holds more than tensors and plain containers.
    """
    if osp.isdir(path):
        raise InputError(f'{path}: is a folder; give a file, models/net_g_latest.pth of an experiment for example.')
    if not osp.isfile(path):
        raise InputError(f'{path}: no such checkpoint file.')
    if osp.splitext(path)[1] == '.onnx':
        raise InputError(f'{path}: {EXPORTED}')
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises a different type for every way a file can be broken
        if foreign := re.search(r'GLOBAL (\S+) was not an allowed', str(error)):
            raise InputError(f'{path}: holds a Python object, {foreign[1]}, which could run code when loaded. Where it '
                             'comes from, save its state_dict() alone.') from error
        if 'TorchScript archive' in str(error):
            raise InputError(f'{path}: {EXPORTED}') from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if 'weights_only' in reason:  # torch's advice to load it all the same
            reason = 'nothing that torch.save writes'
        raise InputError(f'{path}: not a readable checkpoint ({reason}). It may be truncated; use another file.') \
            from error


@master_only
def save_network(self, net, net_label, current_iter, param_key='params'):
    """BaseModel.save_network, atomic; BasicSR 1.4.2 logs a failed save and trains on.

    The network's options are noted beside its parameters, so that the file can be used without the option file.
    """
    nets = net if isinstance(net, list) else [net]
    param_keys = param_key if isinstance(param_key, list) else [param_key]
    weights = {
        key: {name: value.cpu() for name, value in self.get_bare_model(bare).state_dict().items()}
        for key, bare in zip(param_keys, nets, strict=True)
    }
    network = net_label.replace('net_', 'network_')
    weights |= network_note(network, self.opt.get(network))
    label = 'latest' if current_iter == -1 else current_iter
    atomic_save(weights, osp.join(self.opt['path']['models'], f'{net_label}_{label}.pth'))


def network_note(key, network):
    """What is noted beside parameters: {key: the network's options}; of a SpandrelArch nothing, spandrel knows it."""
    if not network or network['type'] == 'SpandrelArch':
        return {}
    return {key: json.loads(json.dumps(network))}  # plain containers, which load with weights_only


@master_only
def save_training_state(self, epoch, current_iter, **more):
    """BaseModel.save_training_state, atomic, with ``more`` to keep; last, so a state implies the networks beside it."""
    if current_iter == -1:
        return
    state = {
        'epoch': epoch,
        'iter': current_iter,
        'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
        'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
        **more,
    }
    atomic_save(state, osp.join(self.opt['path']['training_states'], f'{current_iter}.state'))


def prune(path, keep_last, current_iter):
    """Remove the networks and states of all iterations saved until now but the last ``keep_last``.

    Those after ``current_iter`` are of another continuation of the training, and stay.

    A state goes first: without it nothing resumes from its networks, so a crash in between leaves no broken pair.
    """
    saved = [iteration for iteration in saved_iterations(path['training_states']) if iteration <= current_iter]
    for iteration in saved[:-keep_last]:
        os.remove(osp.join(path['training_states'], f'{iteration}.state'))
        for name in os.listdir(path['models']):
            if name.endswith(f'_{iteration}.pth') and not re.search('before_nan|best', name):
                os.remove(osp.join(path['models'], name))


def saved_iterations(folder):
    """Iterations with a state in ``folder``, rising."""
    names = os.listdir(folder) if osp.isdir(folder) else []
    return sorted(int(name[:-6]) for name in names if name.endswith('.state') and name[:-6].isdigit())


def load_network(self, net, load_path, strict=True, param_key='params'):
    """BaseModel.load_network with one clear message for a file that does not fit.

    ``param_key`` None takes the file's top level; a missing ``params_ema``, which BasicSR asks for to begin the average
    with, falls back to ``path:param_key_g``, and that to ``params``.
    """
    weights = load_checkpoint(load_path)
    if param_key == 'params_ema' and param_key not in weights:
        given = self.opt['path'].get('param_key_g', 'params')
        param_key = 'params' if given == 'params_ema' else given
        get_root_logger().info(f'{load_path} has no params_ema; using {param_key or "what it holds"}.')
    if param_key is not None:
        if param_key not in weights:
            raise InputError(f'{load_path}: no entry {param_key!r} (it has {sorted(weights)[:4]}); set '
                             'path:param_key_g, or ~ where the file holds the weights themselves.')
        weights = weights[param_key]
    elif entries := [key for key in ('params', 'params_ema') if key in weights]:
        raise InputError(f'{load_path}: holds the entries {entries}; set path:param_key_g to one of them.')
    weights = {name.removeprefix('module.'): value for name, value in weights.items()}
    net = self.get_bare_model(net)
    get_root_logger().info(f'Loading {type(net).__name__} from {load_path}, entry {param_key}.')
    try:
        net.load_state_dict(weights, strict=strict)
    except RuntimeError as error:
        lines = '\n'.join(str(error).splitlines()[:6])
        raise InputError(f'{load_path}: these weights do not fit the network of the option file. {lines}') from error


def load_resume_state(opt):
    """basicsr.train.load_resume_state for CPU and GPU that passes over states a crash left incomplete.

    With ``--auto_resume`` the newest state whose networks all load is taken; each one passed over is named. A
    ``path:resume_state`` is taken as it is, or refused. Its iteration is noted as ``opt['resume_iter']``.
    """
    if opt['auto_resume']:
        opt['path']['resume_state'] = _newest_complete_state(opt) or opt['path'].get('resume_state')
    path = opt['path'].get('resume_state')
    if path is None:
        return None
    state = load_checkpoint(path)
    folder = opt['path']['training_states']
    if osp.realpath(osp.dirname(path)) != osp.realpath(folder):
        raise InputError(f"path:resume_state is {path}, which does not lie in {folder}, where a training called "
                         f"{opt['name']} goes on. Give it the name it had, or start a new one with the saved network "
                         'as path:pretrain_network_g.')
    if state['iter'] > (total := opt['train']['total_iter']):  # the network of that iteration would become the latest
        raise InputError(f"train:total_iter is {total}, and iteration {state['iter']} is saved already. Raise it to "
                         'train on.')
    newest = max(saved_iterations(folder), default=0)
    if newest > state['iter'] and not opt['auto_resume'] and opt['rank'] == 0:
        print(f"{folder} holds later states too, up to iteration {newest}, which --auto_resume "
              'would take. Remove those you give up.', flush=True)
    if opt['rank'] == 0:
        held.append(hold(osp.dirname(folder)))
    opt['resume_iter'] = state['iter']
    check_resume(opt, state['iter'])
    ignored = opt['path'].get('ignore_resume_networks') or ()
    for key in opt['path']:  # these were of the pretrained file
        if key.startswith('param_key') and key.replace('param_key', 'network') not in ignored:
            opt['path'][key] = 'params'
    return state


def _newest_complete_state(opt):
    folder = opt['path']['training_states']
    labels = [key.removeprefix('network_') for key in opt if key.startswith('network_')]
    iterations = saved_iterations(folder)
    for iteration in reversed(iterations):
        state = osp.join(folder, f'{iteration}.state')
        networks = [osp.join(opt['path']['models'], f'net_{label}_{iteration}.pth') for label in labels]
        try:
            for path in [state, *networks]:
                load_checkpoint(path)
        except InputError as error:
            print(f'auto_resume passes over iteration {iteration}: {error}', flush=True)
        else:
            return state
    if iterations:
        raise InputError(f'--auto_resume: of the states in {folder} none is complete. Put back what is missing, or '
                         'leave --auto_resume out to train anew.')
    return None
