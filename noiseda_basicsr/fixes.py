"""Repairs of BasicSR 1.4.2, one small function each. Only the launchers apply them (:func:`apply_fixes`)."""
import datetime
import difflib
import inspect
import os
import subprocess
from collections import deque

import basicsr.data.prefetch_dataloader as prefetch
import basicsr.models.sr_model as sr_model
import basicsr.train
import basicsr.utils
import basicsr.utils.dist_util as dist_util
import basicsr.utils.options as options
import torch
import yaml
from basicsr.models.base_model import BaseModel
from basicsr.utils.file_client import LmdbBackend
from basicsr.utils.registry import Registry
from torch.nn.parallel import DistributedDataParallel

from noiseda_basicsr import checkpoint
from noiseda_basicsr.errors import InputError
from noiseda_basicsr.lmdb_env import open_lmdb
from noiseda_basicsr.networks import build_network
from noiseda_basicsr.sampler import ResumableSampler

PATIENCE = datetime.timedelta(hours=2)
WAITING, LINES = 0.3, 5  # share of an iteration spent waiting for images that is told, if as many lines in turn show it


def apply_fixes():
    """Apply every repair below, once; a second call changes nothing."""
    BaseModel.model_to_device = model_to_device
    BaseModel.save_network = checkpoint.save_network
    BaseModel.save_training_state = checkpoint.save_training_state
    BaseModel.load_network = checkpoint.load_network
    basicsr.train.load_resume_state = checkpoint.load_resume_state
    basicsr.train.EnlargedSampler = ResumableSampler
    basicsr.train.MessageLogger = MessageLogger
    basicsr.train.create_train_val_dataloader = create_train_val_dataloader
    dist_util._init_dist_pytorch = init_dist_pytorch
    dist_util._init_dist_slurm = init_dist_slurm
    options._postprocess_yml_value = parse_forced_value
    prefetch.PrefetchGenerator.run = prefetch_run
    prefetch.PrefetchGenerator.__next__ = prefetch_next
    LmdbBackend.__init__ = lmdb_backend_init
    Registry.get = registry_get
    sr_model.build_network = build_network


def model_to_device(self, net):
    """DDP on CPU too (BasicSR passes a CUDA device id), and no buffer broadcast.

    Broadcasting buffers in ``forward`` hangs the other ranks when rank 0 alone restores with a network that has batch
    norm. Without it each rank keeps its own running statistics; validated and saved are rank 0's.
    """
    net = net.to(self.device)
    if self.opt['dist']:
        known = inspect.signature(DistributedDataParallel).parameters
        broadcast = 'forward_sync_buffers' if 'forward_sync_buffers' in known else 'broadcast_buffers'  # its old name
        return DistributedDataParallel(
            net,
            device_ids=[torch.cuda.current_device()] if self.device.type == 'cuda' else None,
            find_unused_parameters=self.opt.get('find_unused_parameters', False),
            **{broadcast: False})
    return net


def init_dist_pytorch(backend, **kwargs):
    """nccl with a GPU, gloo without one; BasicSR divides by a GPU count of zero. LOCAL_RANK names the GPU.

    Ranks wait two hours for each other, not nccl's ten minutes: one may restore larger photos.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', os.environ['RANK'])) % torch.cuda.device_count())
    else:
        backend = 'gloo'
    kwargs.setdefault('timeout', PATIENCE)
    torch.distributed.init_process_group(backend=backend, **_store_of_this_attempt(), **kwargs)


def _store_of_this_attempt():
    """Where the processes of torchrun find each other, apart for each restart.

    torch 2.13 reads the addresses of the processes that died (seen with --standalone --max-restarts=1: "Gloo
    connectFullMesh failed").
    """
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        return {}
    rank, processes = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
    store = torch.distributed.TCPStore(os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']), processes, False)
    prefix = f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    return {'store': torch.distributed.PrefixStore(prefix, store), 'rank': rank, 'world_size': processes}


def init_dist_slurm(backend, port=None):
    """Translate SLURM's variables to torchrun's, then start as under torchrun."""
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_node(os.environ['SLURM_NODELIST'])
    os.environ.setdefault('MASTER_PORT', str(port or 29500))
    os.environ['RANK'] = os.environ['SLURM_PROCID']
    os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
    os.environ['LOCAL_RANK'] = os.environ['SLURM_LOCALID']
    init_dist_pytorch(backend)


def _first_node(nodes):
    try:
        return subprocess.check_output(['scontrol', 'show', 'hostname', nodes], text=True).split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise InputError(f'--launcher slurm: scontrol does not name the first of the nodes {nodes} ({error}). Put its '
                         'name in the variable MASTER_ADDR.') from error


def parse_forced_value(text):
    """Value of ``--force_yml key=value`` as YAML reads it, and 1e-4 as a number; BasicSR keeps 1e-4 and -1 as text."""
    return _as_number(yaml.safe_load(text.removeprefix('!!float')))


def _as_number(value):
    if isinstance(value, list):
        return [_as_number(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_number(item) for key, item in value.items()}
    if isinstance(value, str) and value.lower() == 'none':
        return None
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


_stock_create_train_val_dataloader = basicsr.train.create_train_val_dataloader


def create_train_val_dataloader(opt, logger):
    """Continue inside an epoch, and train for all of total_iter.

    BasicSR restarts the epoch on resume. Epochs are counted as this loader has them, so that a batch or data set of
    another size does not end a resumed training early. BasicSR also rounds the iterations of an epoch up while its
    loader drops the last batch, so small sets end early: 15 images at batch 8 and total_iter 100 stop at 51.
    """
    train_loader, sampler, val_loaders, _, total_iters = _stock_create_train_val_dataloader(opt, logger)
    per_epoch = len(train_loader)
    if per_epoch == 0:
        raise InputError(f'datasets:train: {len(sampler)} images a process do not fill one batch of '
                         f'{train_loader.batch_size}; raise dataset_enlarge_ratio or lower batch_size_per_gpu.')
    if 'resume_iter' in opt:
        sampler.resume_epoch, batches_seen = divmod(opt['resume_iter'], per_epoch)
        sampler.samples_seen = batches_seen * train_loader.batch_size
    last_epoch = -(-total_iters // per_epoch) - 1  # BasicSR loops over range(start, this + 1)
    return train_loader, sampler, val_loaders, last_epoch, total_iters


class MessageLogger(basicsr.utils.MessageLogger):
    """Counts the remaining time to 0 (BasicSR's ends at "eta: -1 day, 23:59:59"), tells images/s, and slow reading."""

    def __init__(self, opt, start_iter=1, tb_logger=None):
        super().__init__(opt, start_iter, tb_logger)
        self.max_iters += 1
        self.train_set = opt['datasets']['train']
        self.batch = self.train_set.get('batch_size_per_gpu', 1) * opt['world_size']
        self.waiting = deque(maxlen=LINES)

    def __call__(self, log_vars):
        super().__call__({**log_vars, 'images_per_s': self.batch / log_vars['time']})
        self.waiting.append(log_vars['data_time'] / log_vars['time'])
        if len(self.waiting) == LINES and min(self.waiting) > WAITING:
            workers = self.train_set.get('num_worker_per_gpu', 0)
            self.logger.warning(f'{self.waiting[-1]:.0%} of the time goes into waiting for images. Raise datasets:'
                                f'train:num_worker_per_gpu ({workers} now) or read raw LMDBs (create_lmdb.py --raw).')
            self.waiting = deque(maxlen=0)  # once is enough


def prefetch_run(self):
    """PrefetchGenerator.run that hands a worker's exception on; BasicSR's thread dies and the run waits for ever."""
    try:
        for item in self.generator:
            self.queue.put(item)
        self.queue.put(None)
    except Exception as error:
        self.queue.put(error)


def prefetch_next(self):
    """The other end of :func:`prefetch_run`."""
    item = self.queue.get()
    if isinstance(item, Exception):
        raise item
    if item is None:
        raise StopIteration
    return item


def lmdb_backend_init(self, db_paths, client_keys='default', **kwargs):
    """LmdbBackend through :func:`open_lmdb`: two data sets on one database crash with lmdb >= 2."""
    self.db_paths = db_paths if isinstance(db_paths, list) else [db_paths]
    keys = client_keys if isinstance(client_keys, list) else [client_keys]
    self._client = {key: open_lmdb(path) for key, path in zip(keys, self.db_paths, strict=True)}


def registry_get(self, name, suffix='basicsr'):
    """Registry.get that suggests the nearest names; BasicSR prints that it uses a name that does not exist."""
    for candidate in (name, f'{name}_{suffix}'):
        if candidate in self._obj_map:
            return self._obj_map[candidate]
    near = difflib.get_close_matches(str(name), self._obj_map, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(self._obj_map))}."
    if self._name == 'arch':
        hint += ' One of your own needs a line that imports it, my_file: !!python/name:my_file.NAME (docs/networks.md).'
    raise InputError(f"No {self._name} is called {name!r}; {hint}")
