"""BasicSR's training loop, watched from the calls it makes: a progress bar, and a saved state however it ends."""
import contextlib
import logging
import multiprocessing
import os
import re
import signal
import sys

import torch
from basicsr.utils import get_root_logger
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from noiseda_basicsr.checkpoint import saved_iterations
from noiseda_basicsr.errors import InputError
from noiseda_basicsr.fixes import PATIENCE

SIGCHLD = getattr(signal, 'SIGCHLD', None)  # a child, as a data loader's worker, has ended; not on Windows
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; what schedulers and torchrun send before they kill
FAILED = 127  # in place of a signal's number: another process came upon an error


class Interrupted(SystemExit):
    """Ends the process after a signal, with the exit status a shell expects; the state is saved."""


class Watch:
    """Knows where the loop is.

    The loop calls ``model.update_learning_rate(n)`` first and ``model.optimize_parameters(n)`` last of what belongs to
    iteration n; in between and after, the model is as iteration n - 1, or n, left it.
    """

    def __init__(self):
        self.signal = None
        self.model = None
        self.sampler = None  # knows the epoch
        self.begun = self.finished = 0  # iterations before this process, and till now
        self.total = None
        self.doing = None  # 'step', 'validation', 'stopping', or between these None
        self.validated = {}  # loader -> iteration
        self.group = None  # of processes, for CPU tensors
        self.process = os.getpid()

    def listen(self):
        """Take note of SIGINT and SIGTERM; a second one ends the process at once."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number, _frame):
        if os.getpid() != self.process:  # a forked child
            os._exit(128 + number)
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(self.process, number)
        self.signal = number
        print(f'\n{signal.Signals(number).name}: saving after this iteration.', file=sys.stderr, flush=True)

    def attach(self, model, opt):
        """Watch this model's training."""
        self.model, self.begun = model, opt.get('resume_iter', 0)
        self.finished = self.begun
        self.total = opt['train'].get('total_iter')
        if opt['dist']:
            self.group = torch.distributed.new_group(backend='gloo', timeout=PATIENCE)
        bar = self._progress_bar(opt)
        update, optimize, validate = model.update_learning_rate, model.optimize_parameters, model.validation

        def update_learning_rate(current_iter, **options):
            if number := self.signal_anywhere():
                self.doing = 'stopping'
                self.save_together()
                print(f'Stopped after iteration {self.finished}{self.how_to_go_on(opt)}.', flush=True)
                raise Interrupted(128 + number)
            update(current_iter, **options)

        def optimize_parameters(current_iter):
            self.doing = 'step'
            with deaths_of_workers_told_later():
                optimize(current_iter)
                self.doing, self.finished = None, current_iter
            bar.update()
            if current_iter == self.total:
                bar.close()

        def validation(dataloader, current_iter, *args, **options):
            current_iter = min(current_iter, self.total)  # BasicSR's loop ends at total + 1 ...
            if self.validated.get(id(dataloader)) == current_iter:  # ... and then validates what it just has
                return
            self.doing = 'validation'
            validate(dataloader, current_iter, *args, **options)
            self.doing, self.validated[id(dataloader)] = None, current_iter

        model.update_learning_rate, model.optimize_parameters = update_learning_rate, optimize_parameters
        model.validation = validation

    def signal_anywhere(self):
        """The signal some process has received, so that all stop after the same iteration."""
        if self.group is None:
            return self.signal
        number = torch.tensor(self.signal or 0)
        torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, group=self.group)
        return number.item()

    def how_to_go_on(self, opt):
        if self.finished == self.begun:  # by the same command
            return ''
        folder = opt['path'].get('training_states', '')
        if max(saved_iterations(folder), default=0) <= self.finished:
            return '; continue with --auto_resume'
        state = os.path.join(folder, f'{self.finished}.state')
        return f'; continue with --force_yml path:resume_state={state}, as there are later states, too'

    def save(self):
        if self.finished > self.begun:  # else the state it resumed from is there, and may not have been taken in
            self.model.save(self.sampler.epoch, self.finished)

    def save_together(self):
        self.save()
        if self.group:
            torch.distributed.barrier(self.group)  # torchrun kills the rest as soon as one is gone

    def save_after_error(self):
        """Lose nothing to an error outside a step (a broken image, say); within one, the weights may be half new.

        It is process 0 that saves. Of an error in another one it learns where it begins the next iteration.
        """
        if self.model is None or self.doing == 'step' or self.finished == self.begun:
            return
        with contextlib.suppress(Exception):  # the error itself has been told
            if self.group and torch.distributed.get_rank() and self.doing is None and self.finished < self.total:
                self.signal = FAILED
                self.signal_anywhere()
                self.save_together()
            else:
                self.save()

    def _progress_bar(self, opt):
        bar = tqdm(total=opt['train'].get('total_iter'), initial=self.finished, unit='it', dynamic_ncols=True,
                   disable=True if opt['rank'] else None)  # None: no bar where nobody looks at a terminal
        if not bar.disable:
            self.lines_above_bar = logging_redirect_tqdm([get_root_logger(), logging.getLogger()])
            self.lines_above_bar.__enter__()  # till the process ends
        return bar


def start_worker(stock_init, log_files, worker_id):
    """Begin a data loader's worker that outlives a signal (schedulers and Ctrl-C send it to all processes).

    It ends with its loader. What it logs goes to ``log_files`` too, of which one that was not forked does not know.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    logger = get_root_logger()
    if not any(isinstance(handler, logging.FileHandler) for handler in logger.handlers):
        for path in log_files:
            logger.addHandler(logging.FileHandler(path))
            logger.handlers[-1].setFormatter(logger.handlers[0].formatter)
    if stock_init:
        stock_init(worker_id)


@contextlib.contextmanager
def deaths_of_workers_told_later():
    """Outside this block torch reports the death of a worker from its handler of SIGCHLD, at once, by an error."""
    if not SIGCHLD:
        yield
        return
    came = []
    handler = signal.signal(SIGCHLD, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(SIGCHLD, handler)
    if came:
        signal.raise_signal(SIGCHLD)


def ignore_dead_workers():
    """Let no late SIGCHLD replace the error that is being told, or stop the saving after it."""
    if SIGCHLD:
        signal.signal(SIGCHLD, signal.SIG_DFL)


def end_workers():
    """After an error: what raised it keeps the loader alive, and Python would wait for its workers for ever."""
    ignore_dead_workers()
    for worker in multiprocessing.active_children():
        worker.kill()


def explain(error):
    """What to tell the user of an error that torch raises; None for any other."""
    if isinstance(error, InputError):  # from a loader's worker it comes with a traceback before it
        return str(error).rsplit(f'{InputError.__name__}: ', 1)[-1].strip()
    if isinstance(error, torch.OutOfMemoryError):
        return (f"The GPU's memory is full ({str(error).splitlines()[0]}). In the option file set "
                'train:engine:accumulate: 2 (or more; same result), train:engine:activation_checkpointing: '
                '[g, diffusion] (same result, a third slower) or train:engine:precision: bf16; or lower '
                'datasets:train:gt_size or batch_size_per_gpu.')
    if 'Expected to have finished reduction' in str(error):
        return ('A network has parameters that get no gradient, which several processes cannot average. Set '
                'find_unused_parameters: true at the top of the option file, or take them out of the network.')
    dead_worker = isinstance(error, RuntimeError) and re.search(r'DataLoader worker \(pid|Pin memory thread exited',
                                                                str(error))
    if dead_worker or isinstance(error, (ConnectionError, EOFError)):  # the rest are sockets to such a worker
        return (f'A process that reads images was killed ({error}), most often for want of memory: lower '
                'datasets:train:num_worker_per_gpu, then continue with --auto_resume.')
    return None
