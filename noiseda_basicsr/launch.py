"""BasicSR's ``train.py`` and ``test.py`` with the repairs on. All of BasicSR's flags work unchanged."""
import gc
import logging
import os
import sys
import traceback
from functools import partial
from os import path as osp

import basicsr
import basicsr.test
import basicsr.train
import basicsr.utils.misc
import torch
import yaml
from basicsr.utils import set_random_seed
from basicsr.utils.options import parse_options as stock_parse_options

from noiseda_basicsr.errors import InputError
from noiseda_basicsr.fixes import apply_fixes
from noiseda_basicsr.folders import FreshFolders
from noiseda_basicsr.option_file import check_option_file, explain_yaml
from noiseda_basicsr.watch import Interrupted, Watch, end_workers, explain, ignore_dead_workers, start_worker

SMALL = 2**16  # pixels of a batch, four patches of 128x128


def train():
    """Train as the option file says; experiments/ and tb_logger/ appear in the current folder."""
    apply_fixes()
    watch = Watch()
    watch.listen()
    show_to(watch)
    _run(basicsr.train.train_pipeline, watch)


def test():
    """Test as the option file says; results/ appears in the current folder."""
    apply_fixes()
    _run(basicsr.test.test_pipeline, Watch())


def make_fresh_folders():
    """Let BasicSR's folders be made by the :class:`FreshFolders` that is returned."""
    folders = FreshFolders()
    basicsr.utils.misc.mkdir_and_rename = basicsr.train.mkdir_and_rename = folders.make
    return folders


def show_to(watch):
    """Let ``watch`` see the model and the sampler that basicsr.train makes."""
    build_model, create_loaders = basicsr.train.build_model, basicsr.train.create_train_val_dataloader

    def build_and_attach(opt):
        model = build_model(opt)
        watch.attach(model, opt)
        resume_training = model.resume_training

        def resume_at_epoch(state):
            state['epoch'] = watch.sampler.resume_epoch  # where BasicSR's loop begins
            resume_training(state)

        model.resume_training = resume_at_epoch
        return model

    def create_and_keep(opt, logger):
        loaders = create_loaders(opt, logger)
        train_loader, watch.sampler = loaders[:2]
        train_loader.worker_init_fn = partial(start_worker, train_loader.worker_init_fn, shared_log_files(logger))
        return loaders

    basicsr.train.build_model, basicsr.train.create_train_val_dataloader = build_and_attach, create_and_keep


def shared_log_files(logger):
    """The files a logger writes, from now on at their end, so that other processes may write there, too."""
    handlers = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    for handler in handlers:
        handler.close()  # opened again by the next message
        handler.mode = 'a'
    return [handler.baseFilename for handler in handlers]


def _run(pipeline, watch):
    basicsr.train.parse_options = basicsr.test.parse_options = parse_options
    folders = make_fresh_folders()
    print(f'BasicSR {basicsr.__version__} from {basicsr.__file__}', flush=True)
    try:
        try:
            pipeline(os.getcwd())
        finally:
            ignore_dead_workers()
    except Interrupted:
        if watch.finished == watch.begun:
            folders.take_back()
        raise
    except Exception as error:
        message = explain(error)
        if message is None:
            traceback.print_exc()
        else:
            print(f'\nerror: {message}', file=sys.stderr, flush=True)
        watch.save_after_error()
        if watch.finished == watch.begun:
            folders.take_back()
        status = 1 if message is None else 2
        end_workers()
        if torch.distributed.is_initialized():
            os._exit(status)  # an orderly end would wait for the other processes, which wait for this one
        sys.exit(status)
    finally:
        if torch.distributed.is_initialized():
            gc.collect()  # a DDP network that outlives its process group can hang gloo at exit (seen with torch 2.13)
            torch.distributed.destroy_process_group()


def parse_options(root_path, is_train=True):
    """BasicSR's parse_options with clear errors, and options that fit a machine without a GPU."""
    try:
        opt, args = stock_parse_options(root_path, is_train)
    except FileNotFoundError as error:
        raise InputError(f'{error.filename}: no such option file.') from error
    except yaml.YAMLError as error:
        raise InputError(f'The option file: {explain_yaml(error)}') from error
    except AssertionError as error:  # of an import in it
        if 'already registered' not in str(error):
            raise
        raise InputError(f'The option file imports a file of yours whose class has a name that is taken: {error} '
                         'Rename the class.') from error
    except KeyError as error:
        if error.args[0].isupper():
            raise _not_launched(error) from error
        raise InputError(f'The option file lacks the key {error}.') from error
    except (AttributeError, TypeError) as error:
        raise InputError('The option file: a block that should hold keys is empty or a single value (everything '
                         'directly under datasets must be a block; without validation --force_yml val=none), or name '
                         f'or a path is a number or a list ({error}).') from error
    except ValueError as error:
        if 'environment variable' in str(error):
            raise _not_launched(error) from error
        if 'unpack' in str(error):
            raise InputError('--force_yml wants key=value with one "=" each, as train:total_iter=100.') from error
        raise
    check_option_file(opt)
    if 'TORCHELASTIC_RUN_ID' in os.environ and os.environ['WORLD_SIZE'] != '1' and not opt['dist']:
        raise InputError(f"torchrun has started {os.environ['WORLD_SIZE']} processes, each of which would train alone; "
                         'add --launcher pytorch.')
    experiment = opt['path'].get('experiments_root')
    if experiment and osp.realpath(osp.dirname(args.opt)) == osp.realpath(experiment):
        raise InputError(f'{args.opt} is the copy that the training keeps of its option file. Give the file itself, or '
                         'another copy elsewhere.')
    if opt.get('val') is not None:
        opt['val'] = {'save_img': False, 'suffix': None, **opt['val']}  # BasicSR looks them up
    train_set = opt['datasets'].get('train', {})
    if not train_set.get('num_worker_per_gpu'):
        train_set.pop('persistent_workers', None)  # torch refuses to keep workers where there are none
    set_random_seed(opt['manual_seed'] + opt['rank'])  # BasicSR seeds before --force_yml manual_seed=... is read
    if not torch.cuda.is_available():
        _fit_to_cpu(opt)
    elif opt['num_gpu'] == 0 and opt['dist']:
        raise InputError('num_gpu: 0 with a launcher: the processes would talk to each other through the GPUs. Hide '
                         'these, CUDA_VISIBLE_DEVICES= torchrun ..., or set num_gpu: auto.')
    elif opt['num_gpu'] > 1 and not opt['dist']:
        print(f"Of {opt['num_gpu']} GPUs one is used; for all: torchrun --nproc_per_node={opt['num_gpu']} ... "
              '--launcher pytorch (docs/performance.md).', flush=True)
        opt['num_gpu'] = 1  # torch's DataParallel runs compiled and recomputed networks with the first GPU's weights
    if train_set.get('prefetch_mode') == 'cuda':
        train_set['pin_memory'] = True  # BasicSR demands it
    return opt, args


def _not_launched(error):
    return InputError(f'--launcher: pytorch is for processes that torchrun starts, slurm for those of srun; here is '
                      f'neither ({error}).')


def _fit_to_cpu(opt):
    changed = []
    if opt['num_gpu'] != 0:
        changed.append(f"num_gpu {opt['num_gpu']} -> 0")
        opt['num_gpu'] = 0
    train_set = opt['datasets'].get('train', {})
    if train_set.get('prefetch_mode') == 'cuda':
        changed.append('prefetch_mode cuda -> none')
        train_set['prefetch_mode'] = None
    if train_set.get('pin_memory'):
        changed.append('pin_memory true -> false')
        train_set['pin_memory'] = False
    if changed:
        print(f"No CUDA GPU here: {', '.join(changed)}.", flush=True)
    pixels = train_set.get('batch_size_per_gpu', 1) * (train_set.get('gt_size') or 0)**2
    if opt.get('network_diffusion') and pixels > SMALL and opt['rank'] == 0:
        print('A joint training without a GPU wants small networks and batches, as in train_demo_adapted.yml: at the '
              "paper's sizes, a sample takes seconds a step and more than 1 GiB.", flush=True)
