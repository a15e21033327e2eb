"""What there is to training besides the method: precision, accumulation, validation, saving, resuming."""
import copy
import json
import warnings
from collections import OrderedDict
from contextlib import ExitStack
from os import path as osp
from types import SimpleNamespace

import numpy as np
import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils.data import DataLoader, Subset

from noiseda_basicsr import InputError, checkpoint
from noiseda_model import best_network
from noiseda_model.engine import DTYPES, has_native_bf16, lay_out_as_parameters, prepare_network
from noiseda_model.inference import full_memory_told, restore
from noiseda_model.options import KNOWN_KEYS, check_optimizer, check_training, differences, read_engine_options

STREAMS = ('lq', 'gt', 'real', 'ref')


class EngineModel(SRModel):
    """BasicSR's SRModel with ``train:engine`` (see :data:`noiseda_model.options.ENGINE_DEFAULTS`).

    A subclass gives ``joint_loss`` and calls :meth:`split_batch`, :meth:`backward` and :meth:`take_step`. Different
    besides: EMA with warm-up, of buffers too; validation that pads, tiles and is shared among processes; a non-finite
    step is not taken; a resumed run follows the option file where it changed. Unknown keys of the option file are
    refused; one with keys of its own adds them to ``known_keys``.
    """

    known_keys = KNOWN_KEYS

    def init_training_settings(self):
        check_training(self.opt, self.known_keys)
        self.engine = read_engine_options(self.opt)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.engine['precision'] == 'fp16')
        self.skipped_steps = 0
        if self.engine['precision'] == 'bf16' and not has_native_bf16(self.device):
            get_root_logger().warning('train:engine:precision is bf16, for which this machine has no instructions: it '
                                      'will be slower than fp32.')
        if self.scaler.is_enabled() and self.device.type == 'cpu':
            get_root_logger().warning('train:engine:precision is fp16, which a CPU is slow at: take fp32, or bf16.')
        super().init_training_settings()
        if self.engine['channels_last'] and hasattr(self, 'net_g_ema'):
            self.net_g_ema.to(memory_format=torch.channels_last)  # else its update is one operation a parameter

    def trained_networks(self):
        """Name -> network, in the order of ``self.optimizers``; files are called net_<name>_<iteration>.pth."""
        return {'g': self.net_g}

    def model_to_device(self, net):
        if self.is_train:
            engine, name = read_engine_options(self.opt), 'g' if net is getattr(self, 'net_g', None) else 'diffusion'
            prepare_network(net, engine['channels_last'], name in engine['activation_checkpointing'],
                            name in engine['compile'])
        return super().model_to_device(net)

    def add_optimizer(self, block, net):
        """torch.optim's ``type`` of an option block, for the parameters of ``net``."""
        options = dict(self.opt['train'][block])
        check_optimizer(f'train:{block}', options)
        optimizer_type = getattr(torch.optim, options.pop('type'))
        if optimizer_type in (torch.optim.Adam, torch.optim.AdamW) and 'foreach' not in options:
            options = {'fused': True, **options}  # one pass over the memory instead of ten
        optimizer = optimizer_type([p for p in net.parameters() if p.requires_grad], **options)
        for group in optimizer.param_groups:
            group['initial_lr'] = group['lr']  # warm-up wants it, with a schedule or without
        self.optimizers.append(optimizer)
        return optimizer

    def update_learning_rate(self, current_iter, warmup_iter=-1):
        if current_iter == warmup_iter:  # BasicSR's warm-up ends one step below the full rate, and stays there
            self._set_lr(self._get_init_lr())
        super().update_learning_rate(current_iter, warmup_iter)

    def setup_schedulers(self):
        """The paper's learning rate is constant: train:scheduler may be missing."""
        if self.opt['train'].get('scheduler'):
            given = self.opt
            self.opt = {**given, 'train': copy.deepcopy(given['train'])}  # BasicSR pops ``type``
            super().setup_schedulers()
            self.opt = given

    # ------------------------------------------------------------------ one step

    def feed_data(self, data):
        for key in STREAMS:
            self.__dict__.pop(key, None)  # never measure against the ground truth of an earlier batch
            if key in data:
                setattr(self, key, data[key].to(self.device, non_blocking=True))

    def split_batch(self, **draws):
        """The batch and what was drawn for it, cut into ``train:engine:accumulate`` parts.

        Returns:
            list[SimpleNamespace]: With lq, gt, real, ref (as far as there are) and ``draws``.
        """
        batch = {key: getattr(self, key) for key in STREAMS if hasattr(self, key)}
        count = self.engine['accumulate']
        chunks = {key: value.chunk(count) for key, value in {**batch, **draws}.items()}
        return [SimpleNamespace(**{key: chunk[part] for key, chunk in chunks.items()}) for part in range(count)]

    def seed(self, current_iter, *part):
        """Everything drawn in a step (t, noise, swaps, dropout) follows from (seed, rank, iteration) alone."""
        words = [self.opt['manual_seed'], self.opt['rank'], current_iter, *part]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    def forward(self, net, *inputs):
        """A network in the precision of train:engine; what comes out is float32 again, for the losses."""
        precision = self.engine['precision']
        with torch.autocast(self.device.type, DTYPES[precision], enabled=precision != 'fp32'):
            output = net(*inputs)
        return output.float() if precision != 'fp32' else output

    def backward(self, parts, current_iter):
        """Gradients of the mean over ``parts`` of ``joint_loss(part, current_iter)``, and ``self.log``.

        ``joint_loss`` returns the loss and {name: image}; the norm of the loss's gradient at each image is logged.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.log = OrderedDict()
        loss_scale = self.scaler.get_scale()
        for number, part in enumerate(parts):
            self.seed(current_iter, number)  # dropout: a repeated pass draws the same
            with ExitStack() as stack:
                for net in self.trained_networks().values():
                    if isinstance(net, DistributedDataParallel) and part is not parts[-1]:
                        stack.enter_context(net.no_sync())  # gradients are averaged over processes once a step
                loss, outputs = self.joint_loss(part, current_iter)
                self.scaler.scale(loss / len(parts)).backward()
            for name, output in outputs.items():
                self.log[name] = self.log.get(name, 0) + (output.grad / loss_scale).square().sum()
        for name, value in self.log.items():  # of several processes, each has a share of the batch
            is_norm = name.startswith('grad_')
            self.log[name] = (value / self.opt['world_size']).sqrt() if is_norm else value / len(parts)

    def record(self, **values):
        """Sum up what the parts of a batch have to log."""
        for name, value in values.items():
            if value is not None:
                self.log[name] = self.log.get(name, 0) + value.detach()

    def take_step(self, current_iter):
        """Update all weights with the gradients there are, or none if these are not finite."""
        norms = self.unscale_gradients()
        if self.gradients_are_finite(norms, current_iter):
            if self.engine['max_grad_norm']:
                for net, norm in zip(self.trained_networks().values(), norms, strict=True):
                    clip_grads_with_norm_(net.parameters(), self.engine['max_grad_norm'], norm)
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
            if self.ema_decay > 0:
                self.model_ema(min(self.ema_decay, (1 + current_iter) / (10 + current_iter)))
        self.scaler.update()

    def unscale_gradients(self):
        """Undo the scaling of fp16, and log the norm of each network's gradient.

        Returns:
            list[Tensor]: These norms.
        """
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        nets = self.trained_networks()
        norms = [get_total_norm([p.grad for p in net.parameters() if p.grad is not None]) for net in nets.values()]
        self.log.update((f'grad_{name}', norm) for name, norm in zip(nets, norms, strict=True))
        return norms

    def gradients_are_finite(self, norms, current_iter):
        """Whether the step may be taken: a NaN must not reach the weights.

        All processes come to the same answer. With fp16 an overflow of the gradient is nothing to worry about, as the
        scaler takes note and scales the next step less, unless that goes on till it does not scale at all.
        """
        fp16 = self.scaler.is_enabled()
        losses = [value for name, value in self.log.items() if not name.startswith('grad_')]
        finite = torch.stack([torch.stack(values).isfinite().all() for values in (losses, norms)]).float()
        if self.opt['dist']:
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        losses_are_finite, gradients_are_finite = finite.tolist()
        if losses_are_finite and gradients_are_finite:
            return True
        if losses_are_finite and fp16 and self.scaler.get_scale() > 1:
            return False
        values = ', '.join(f'{name} {value.item():.3g}' for name, value in self.log.items())
        if self.engine['on_nan'] == 'skip':
            self.skipped_steps += 1
            get_root_logger().warning(f'Iteration {current_iter} skipped, not finite ({values}); '
                                      f'{self.skipped_steps} so far.')
            return False
        self.save_networks(f'before_nan_{current_iter}')
        bf16 = ', take precision: bf16,' if fp16 else ''
        raise InputError(f'iteration {current_iter}: the loss or its gradient is not finite ({values}). The networks '
                         f"before this step are net_*_before_nan_{current_iter}.pth in {self.opt['path']['models']}. "
                         f'Lower train:optim_g:lr or train:diffusion_opt:beta{bf16} or look for broken images, then '
                         'continue with --auto_resume; train:engine:on_nan: skip leaves such steps out.')

    @torch.no_grad()
    def model_ema(self, decay=0.999):
        """Exponential moving average of the parameters; buffers (batch norm's) are copied."""
        net = self.get_bare_model(self.net_g)
        torch._foreach_lerp_(list(self.net_g_ema.parameters()), list(net.parameters()), 1 - decay)
        for average, buffer in zip(self.net_g_ema.buffers(), net.buffers(), strict=True):
            average.copy_(buffer)

    def get_current_log(self):
        """Mean over ranks of the last step's values. Called on every rank, at print_freq only."""
        return self.reduce_loss_dict(self.log)

    # ------------------------------------------------------------------ validating

    def test(self):
        """The averaged network where there is one; always the bare one, as rank 0 may be alone here."""
        self.output = self.restore_images(self.lq)

    @torch.no_grad()
    def restore_images(self, images):
        """(B, 3, H, W), of any size, through the network that is evaluated; not compiled for so many sizes."""
        net = self.evaluation_net()
        was_training = net.training
        net.eval()
        keys = ('size_multiple', 'tile', 'tile_overlap')
        options = self.opt.get('val') or {}
        with torch.compiler.set_stance('force_eager'), \
                full_memory_told('While validating or testing the memory is full. Set val:tile: 512, or less.'):
            output = restore(net, images, **{key: options[key] for key in keys if key in options})
        net.train(was_training)
        return output

    def try_out(self):
        """Before a training: restore an image of a patch's size and, where images are validated, of one pixel more.

        Raises:
            InputError: The network does not; told now, not by the first step or the first validation.
        """
        data_sets = self.opt.get('datasets', {})
        if side := data_sets.get('train', {}).get('gt_size'):
            for size in [side, side + 1] if len(data_sets) > 1 else [side]:
                self.restore_images(torch.zeros(1, 3, size, size, device=self.device))

    def evaluation_net(self):
        return self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)

    def validation(self, dataloader, current_iter, tb_logger, save_img=False):
        """Each process restores and measures its share of the images; BasicSR's way is rank 0 alone."""
        batch = {key: getattr(self, key)[:4] for key in STREAMS if hasattr(self, key)}
        rank, processes = self.opt['rank'], self.opt['world_size']
        if self.opt['dist']:  # all measure the network that rank 0 saves, of batch normalisation too
            for buffer in self.evaluation_net().buffers():
                torch.distributed.broadcast(buffer, src=0)
        mine = range(rank, len(dataloader.dataset), processes) if self.opt['dist'] else None
        self.share_of_images = 1
        if mine is not None:
            self.share_of_images = len(mine) / len(dataloader.dataset)
            data_set = Subset(dataloader.dataset, mine or [0])  # with nothing to do, an image that does not count
            data_set.opt = dataloader.dataset.opt
            dataloader = DataLoader(data_set, num_workers=dataloader.num_workers)
        given = self.opt
        if self.is_train and len(given['datasets']) > 2:  # of several sets, which may name their images alike
            folder = osp.join(given['path']['visualization'], dataloader.dataset.opt['name'])
            self.opt = {**given, 'path': {**given['path'], 'visualization': folder}}
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        self.opt = given
        if self.is_train:
            self.save_best(current_iter)
            if batch and rank == 0:
                self.write_samples(batch, current_iter, tb_logger)
        self.feed_data(batch)

    def _update_best_metric_result(self, dataset_name, metric, val, current_iter):
        """Called with the mean over this process's images; goes on with the mean over all."""
        if self.opt['dist']:
            total = torch.tensor(float(val) * self.share_of_images, dtype=torch.float64, device=self.device)
            torch.distributed.all_reduce(total)
            val = self.metric_results[metric] = total.item()
        super()._update_best_metric_result(dataset_name, metric, val, current_iter)

    def save_best(self, current_iter):
        """Keep the network of this iteration if it is the best, and the figures (:mod:`noiseda_model.best_network`)."""
        best = getattr(self, 'best_metric_results', {})
        if decides := best_network.deciding(best):
            if decides[1]['iter'] == current_iter:
                self.save_restoration_network('best')
            if self.opt['rank'] == 0:
                best_network.write_record(self.opt, best)

    # ------------------------------------------------------------------ saving and resuming

    save_network, load_network = checkpoint.save_network, checkpoint.load_network

    def save_networks(self, label):
        for name, net in self.trained_networks().items():
            if name == 'g':
                self.save_restoration_network(label)
            else:
                self.save_network(net, f'net_{name}', label)

    def save_restoration_network(self, label):
        if hasattr(self, 'net_g_ema'):
            self.save_network([self.net_g, self.net_g_ema], 'net_g', label, param_key=['params', 'params_ema'])
        else:
            self.save_network(self.net_g, 'net_g', label)

    def save(self, epoch, current_iter):
        """The state comes last, so where there is one the networks are complete."""
        self.save_networks(current_iter)
        self.save_training_state(epoch, current_iter)
        if current_iter != -1:
            get_root_logger().info(f"Saved iteration {current_iter} in {self.opt['path']['models']}.")
            if self.opt['rank'] == 0 and self.opt.get('logger', {}).get('keep_last'):
                checkpoint.prune(self.opt['path'], self.opt['logger']['keep_last'], current_iter)

    def save_training_state(self, epoch, current_iter, **more):
        checkpoint.save_training_state(
            self, epoch, current_iter, **more, scaler=self.scaler.state_dict(), skipped_steps=self.skipped_steps,
            best=json.dumps(getattr(self, 'best_metric_results', {})), options=json.dumps(self.resumable_options()))

    def resumable_options(self):
        """What may change between stopping and resuming, and is told if it does."""
        data_sets = {phase: {key: value for key, value in options.items() if key != 'phase'}
                     for phase, options in self.opt.get('datasets', {}).items()}
        return {'manual_seed': self.opt['manual_seed'], 'world_size': self.opt['world_size'],
                'train': self.opt['train'], 'datasets': data_sets}

    def resume_training(self, resume_state):
        """Continue as saved, but where the option file now says otherwise follow it, and say so."""
        before = json.loads(resume_state.get('options', '{}'))
        self.check_optimizers(resume_state, before.get('train', {}))
        for optimizer, saved in zip(self.optimizers, resume_state['optimizers'], strict=True):
            groups = [{**group, 'params': then['params']}
                      for group, then in zip(optimizer.param_groups, saved['param_groups'], strict=True)]
            optimizer.load_state_dict({**saved, 'param_groups': groups})
            lay_out_as_parameters(optimizer)
        self.replay_schedules(resume_state['iter'])
        if resume_state.get('scaler'):
            self.scaler.load_state_dict(resume_state['scaler'])
        self.skipped_steps = resume_state.get('skipped_steps', 0)
        self.best_metric_results = best_network.best_until(self.opt, resume_state)
        if self.opt['rank'] == 0:
            best_network.put_aside(self.opt, self.best_metric_results)
        for change in differences(before, self.resumable_options()) if before else ():
            get_root_logger().info(f"Resuming iteration {resume_state['iter']} with {change}.")

    def check_optimizers(self, resume_state, before):
        """Refuse the state of other optimizers than the option file's."""
        blocks = ('optim_g', 'optim_diffusion')[:len(self.optimizers)]
        count = len(resume_state['optimizers'])
        if count != len(self.optimizers):
            raise InputError(f'name: {count} networks were trained under this name, the option file trains '
                             f'{len(self.optimizers)}. Give it another name, and the saved network as '
                             'path:pretrain_network_g.')
        for block in blocks:
            then, now = before.get(block, {}).get('type'), self.opt['train'][block]['type']
            if then not in (None, now):
                raise InputError(f'train:{block}:type is {now}, the saved state is of {then}. Put it as it was, or '
                                 'start from the saved networks with path:pretrain_network_g.')

    def replay_schedules(self, iterations):
        """The learning rates of a training that had this option file from its beginning."""
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # no step of an optimizer lies between
            for iteration in range(1, iterations + 1):
                EngineModel.update_learning_rate(self, iteration, self.opt['train'].get('warmup_iter', -1))
