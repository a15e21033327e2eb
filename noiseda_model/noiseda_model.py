"""The joint training of a restoration network and a diffusion network."""
import copy
import json
from collections import OrderedDict
from contextlib import ExitStack
from functools import partial
from os import path as osp
from types import SimpleNamespace

import numpy as np
import torch
from basicsr.archs import build_network
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.registry import MODEL_REGISTRY
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader, Subset
from torchvision.utils import make_grid

from noiseda_basicsr import InputError, checkpoint
from noiseda_model.diffusion import Draws, diffusion_loss, diffusion_weight, draw, noise_levels, swap_residuals
from noiseda_model.engine import DTYPES, prepare_network
from noiseda_model.inference import restore
from noiseda_model.monitor import ShortcutMonitor
from noiseda_model.options import (
    check_networks,
    check_optimizer,
    check_sizes,
    check_validation,
    differences,
    read_diffusion_options,
    read_engine_options,
)

STREAMS = ('lq', 'gt', 'real', 'ref')


@MODEL_REGISTRY.register()
class NoiseDAModel(SRModel):
    """Noise-space domain adaptation (Eq. 4): min over theta, phi of L_res + lambda L_dif.

    New against SRModel: ``net_diffusion`` (eps_phi) with an optimizer of its own, built only for training and saved
    beside ``net_g`` but never in it; :meth:`optimize_parameters` with the engine's precisions and accumulation; EMA
    with warm-up, of buffers too; validation that pads, tiles, is shared among processes and writes a sample grid.
    Inherited: networks and losses from the option file, metrics, logging. Without ``train:diffusion_opt`` it trains
    ``net_g`` alone (vanilla).
    """

    def __init__(self, opt):
        check_networks(opt)
        check_validation(opt)
        self.diffusion_opt = read_diffusion_options(opt) if opt['is_train'] else None
        super().__init__(opt)
        check_sizes(opt, self.get_bare_model(self.net_g))

    # ------------------------------------------------------------------ setting up

    def init_training_settings(self):
        self.engine = read_engine_options(self.opt)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.engine['precision'] == 'fp16')
        self.hinge_was_open = False
        self.skipped_steps = 0
        if self.diffusion_opt:
            self.net_diffusion = self._build_diffusion_network()
            self.levels = noise_levels().to(self.device)
            self.monitor = ShortcutMonitor(self.diffusion_opt['monitor_freq'])
        self.normalises_by_batch = any(isinstance(layer, _BatchNorm) for layer in self.net_g.modules())
        super().init_training_settings()

    def model_to_device(self, net):
        if self.is_train:
            engine, name = read_engine_options(self.opt), 'g' if net is getattr(self, 'net_g', None) else 'diffusion'
            prepare_network(net, engine['channels_last'], name in engine['activation_checkpointing'],
                            name in engine['compile'])
        return super().model_to_device(net)

    def _build_diffusion_network(self):
        net = build_network(self.opt['network_diffusion'])
        channels = 3 + 3 * len(self.diffusion_opt['conditions'])
        if getattr(net, 'in_channels', channels) != channels:
            raise InputError(f"network_diffusion:in_channels is {net.in_channels}; with conditions "
                             f"{self.diffusion_opt['conditions']} it must be {channels}.")
        net = self.model_to_device(net)
        self.print_network(net)
        load_path = self.opt['path'].get('pretrain_network_diffusion')
        if load_path is not None:
            self.load_network(net, load_path)
        return net.train()

    def setup_optimizers(self):
        self.optimizer_g = self._add_optimizer('optim_g', self.net_g)
        if self.diffusion_opt:
            self.optimizer_diffusion = self._add_optimizer('optim_diffusion', self.net_diffusion)

    def _add_optimizer(self, block, net):
        options = dict(self.opt['train'][block])
        check_optimizer(f'train:{block}', options)
        optimizer_type = getattr(torch.optim, options.pop('type'))
        if optimizer_type in (torch.optim.Adam, torch.optim.AdamW) and 'foreach' not in options:
            options = {'fused': True, **options}  # one pass over the memory instead of ten
        optimizer = optimizer_type([p for p in net.parameters() if p.requires_grad], **options)
        self.optimizers.append(optimizer)
        return optimizer

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

    def optimize_parameters(self, current_iter):
        """One step of Eq. 4 on both networks."""
        parts = self.split_batch(current_iter)
        self.compute_gradients(parts, current_iter, self.gap_is_open)
        if self.gradients_are_finite(current_iter):
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
            if self.ema_decay > 0:
                self.model_ema(min(self.ema_decay, (1 + current_iter) / (10 + current_iter)))
        self.scaler.update()
        if self.diffusion_opt:
            self.monitor(self, parts, current_iter)

    def split_batch(self, current_iter):
        """What a step needs, drawn for the whole batch and cut into ``train:engine:accumulate`` parts."""
        self.seed(current_iter)
        batch = {key: getattr(self, key) for key in STREAMS if hasattr(self, key)}
        if self.diffusion_opt:
            draws = self.draw(batch[self.diffusion_opt['clean']])
            batch.update(draws._asdict())
        count = self.engine['accumulate']
        chunks = {key: value.chunk(count) for key, value in batch.items()}
        return [SimpleNamespace(**{key: chunk[part] for key, chunk in chunks.items()}) for part in range(count)]

    def compute_gradients(self, parts, current_iter, is_open):
        """Gradients of L_res + lambda L_dif over the whole batch.

        Whether the hinge is open follows from all parts, when the graphs of the first ones are long gone. So they are
        computed as if it were what it was last time, and once more if it turns out otherwise.
        """
        if len(parts) == 1:
            self.backward(parts, current_iter, is_open)
            return
        for guess in (self.hinge_was_open, not self.hinge_was_open):
            self.backward(parts, current_iter, lambda gap, guess=guess: guess)
            if 'gap' not in self.log or is_open(self.log['gap']) == guess:
                break
        self.hinge_was_open = guess

    def backward(self, parts, current_iter, is_open):
        """Gradients of the mean of all parts' losses, and what there is to log of them."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.log = OrderedDict()
        for number, part in enumerate(parts):
            self.seed(current_iter, number)  # dropout: a repeated pass draws the same
            with ExitStack() as stack:
                for net in self.distributed_networks() if part is not parts[-1] else ():
                    stack.enter_context(net.no_sync())  # gradients are averaged over processes once a step
                loss, outputs = self.joint_loss(part, current_iter, is_open)
                self.scaler.scale(loss / len(parts)).backward()
            for name, output in outputs.items():
                self.log[name] = self.log.get(name, 0) + (output.grad / self.scaler.get_scale()).square().sum()
        for name in self.log:
            self.log[name] = self.log[name].sqrt() if name.startswith('grad_') else self.log[name] / len(parts)
        if self.diffusion_opt:
            self.log['lambda'] = torch.full((), self.diffusion_weight(current_iter), device=self.device)

    def joint_loss(self, part, current_iter, is_open):
        """L_res + lambda L_dif (Eq. 4), and the restored images as each loss sees them, to read its gradient there."""
        restored_syn, restored_real = self.restore_batch(part)
        outputs = {'grad_pix': _tap(restored_syn)}
        loss = self.restoration_loss(outputs['grad_pix'], part.gt)
        if self.diffusion_opt:
            restored = {'syn': restored_syn, 'real': restored_real}
            restored = {name: _tap(restored[name]) for name in self.diffusion_opt['conditions']}
            outputs.update((f'grad_dif_{name}', image) for name, image in restored.items())
            loss = loss + self.diffusion_weight(current_iter) * self.adaptation_loss(part, restored, is_open)
        return loss, outputs

    def restore_batch(self, part):
        """G(x^s) and G(x^r), in one pass where the network does not mix the samples of a batch.

        Returns:
            tuple[Tensor]: The second is None where no real image is needed.
        """
        if not self.diffusion_opt or 'real' not in self.diffusion_opt['conditions']:
            restored, restored_real = self.forward(self.net_g, part.lq), None
        elif self.normalises_by_batch:  # batch statistics stay those of one domain
            restored, restored_real = self.forward(self.net_g, part.lq), self.forward(self.net_g, part.real)
        else:
            restored, restored_real = self.forward(self.net_g, torch.cat([part.lq, part.real])).chunk(2)
        if restored.shape != part.lq.shape:
            raise InputError(f'network_g turns {tuple(part.lq.shape)} into {tuple(restored.shape)}; it must map an '
                             'image to an image of the same size and channels.')
        return restored, restored_real

    def forward(self, net, *inputs):
        """A network in the precision of train:engine; what comes out is float32 again, for the losses."""
        precision = self.engine['precision']
        with torch.autocast(self.device.type, DTYPES[precision], enabled=precision != 'fp32'):
            output = net(*inputs)
        return output.float() if precision != 'fp32' else output

    def restoration_loss(self, restored, gt):
        """L_res: train:pixel_opt (the paper's is Charbonnier) and, if given, train:perceptual_opt."""
        losses = OrderedDict()
        if self.cri_pix:
            losses['l_pix'] = self.cri_pix(restored, gt)
        if self.cri_perceptual:
            losses['l_percep'], losses['l_style'] = self.cri_perceptual(restored, gt)
        losses = {name: loss for name, loss in losses.items() if loss is not None}
        self.record(**losses)
        return sum(losses.values())

    def adaptation_loss(self, part, restored, is_open):
        """L_dif (Eq. 1-3) of ``restored``, a dict of the conditions G(x^s) ('syn') and G(x^r) ('real')."""
        negatives = None
        if self.diffusion_opt['residual_swap']:
            swapped = swap_residuals(part.lq, restored['syn'], part.real, restored['real'])
            negatives = dict(zip(('syn', 'real'), swapped, strict=True))
        loss = self.diffusion_loss(part, restored, negatives, is_open)
        self.record(l_noise=loss.noise, l_con=loss.contrast, gap=loss.gap)
        return loss.total

    def diffusion_loss(self, part, conditions, negatives=None, is_open=None):
        """:func:`noiseda_model.diffusion.diffusion_loss` with the options' range, margin and shuffle."""
        options = self.diffusion_opt
        draws = Draws(**{field: getattr(part, field) for field in Draws._fields})
        if not options['channel_shuffle']:
            draws = draws._replace(swap=torch.zeros_like(draws.swap), swap_negative=torch.zeros_like(draws.swap))

        def in_range(images):
            return images and [self.to_range(images[name]) for name in options['conditions']]

        return diffusion_loss(partial(self.forward, self.net_diffusion), self.to_range(getattr(part, options['clean'])),
                              in_range(conditions), draws, in_range(negatives), options['margin'], is_open)

    def record(self, **values):
        """Sum up what the parts of a batch have to log."""
        for name, value in values.items():
            if value is not None:
                self.log[name] = self.log.get(name, 0) + value.detach()

    def draw(self, clean):
        """Everything random of a step, see :func:`noiseda_model.diffusion.draw`."""
        return draw(clean, self.levels, self.diffusion_opt['timesteps'])

    def to_range(self, image):
        """From [0, 1] to the range the diffusion network works in."""
        low, high = self.diffusion_opt['diffusion_range']
        return image * (high - low) + low

    def gap_is_open(self, gap):
        """Whether the hinge is open for the batch of all processes."""
        if self.opt['dist']:
            gap = gap.clone()
            torch.distributed.all_reduce(gap)
        return bool(gap > 0)

    def seed(self, current_iter, *part):
        """Everything drawn in a step (t, noise, swaps, dropout) follows from (seed, rank, iteration) alone."""
        words = [self.opt['manual_seed'], self.opt['rank'], current_iter, *part]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    def distributed_networks(self):
        nets = [self.net_g, *([self.net_diffusion] if self.diffusion_opt else [])]
        return [net for net in nets if isinstance(net, DistributedDataParallel)]

    def diffusion_weight(self, current_iter):
        """lambda at this iteration (Eq. 5)."""
        options = self.diffusion_opt
        return diffusion_weight(current_iter / options['ramp_iters'], options['beta'], options['gamma'])

    def gradients_are_finite(self, current_iter):
        """Whether the step may be taken: a NaN must not reach the weights.

        The gradients are those of all processes, so all of them come to the same answer. With fp16 an overflow is
        nothing to worry about, and left to the scaler.
        """
        nets, fp16 = {'g': self.net_g}, self.scaler.is_enabled()
        if self.diffusion_opt:
            nets['diffusion'] = self.net_diffusion
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norms = [get_total_norm([p.grad for p in net.parameters() if p.grad is not None]) for net in nets.values()]
        self.log.update((f'grad_{name}', norm) for name, norm in zip(nets, norms, strict=True))
        checked = [value for name, value in self.log.items() if not (fp16 and name.startswith('grad_'))]
        if torch.stack(checked).isfinite().all():
            return True
        values = ', '.join(f'{name} {value.item():.3g}' for name, value in self.log.items())
        if self.engine['on_nan'] == 'skip':
            self.skipped_steps += 1
            get_root_logger().warning(f'Iteration {current_iter} skipped, not finite ({values}); '
                                      f'{self.skipped_steps} so far.')
            return False
        self.save_networks(f'before_nan_{current_iter}')
        raise InputError(f'iteration {current_iter}: the loss or its gradient is not finite ({values}). The networks '
                         f"before this step are net_*_before_nan_{current_iter}.pth in {self.opt['path']['models']}. "
                         'Lower train:optim_g:lr or train:diffusion_opt:beta, or look for broken images, then continue '
                         'with --auto_resume; train:engine:on_nan: skip leaves such steps out.')

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

    # ------------------------------------------------------------------ validating and saving

    @torch.no_grad()
    def test(self):
        """The averaged network where there is one; always the bare one, as rank 0 may be alone here."""
        net = self.evaluation_net()
        was_training = net.training
        net.eval()
        keys = ('size_multiple', 'tile', 'tile_overlap')
        options = self.opt.get('val') or {}
        self.output = restore(net, self.lq, **{key: options[key] for key in keys if key in options})
        net.train(was_training)

    def evaluation_net(self):
        return self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)

    def validation(self, dataloader, current_iter, tb_logger, save_img=False):
        """Each process restores and measures its share of the images; BasicSR's way is rank 0 alone."""
        batch = {key: getattr(self, key)[:4] for key in STREAMS if hasattr(self, key)}
        rank, processes = self.opt['rank'], self.opt['world_size']
        mine = range(rank, len(dataloader.dataset), processes) if self.opt['dist'] else None
        self.share_of_images = 1
        if mine is not None:
            self.share_of_images = len(mine) / len(dataloader.dataset)
            data_set = Subset(dataloader.dataset, mine or [0])  # with nothing to do, an image that does not count
            data_set.opt = dataloader.dataset.opt
            dataloader = DataLoader(data_set, num_workers=dataloader.num_workers)
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        if self.is_train:
            self.save_best(current_iter)
        if self.is_train and batch:
            if rank == 0:
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
        """net_g_best.pth: best by the first metric on the first validation set."""
        records = next(iter(getattr(self, 'best_metric_results', {}).values()), {})
        if next(iter(records.values()), {}).get('iter') == current_iter:
            self.save_restoration_network('best')

    def write_samples(self, batch, current_iter, tb_logger):
        """A grid of the last training batch: degraded, restored, ground truth, real degraded, real restored."""
        columns = []
        for degraded in ('lq', 'real'):
            if degraded in batch:
                self.lq = batch[degraded]
                self.test()
                columns += [self.lq, self.output]
            if degraded == 'lq':
                columns.append(batch['gt'])
        rows = torch.stack(columns, dim=1).flatten(0, 1).clamp(0, 1).cpu()
        grid = make_grid(rows, nrow=len(columns))
        imwrite(tensor2img(grid), osp.join(self.opt['path']['visualization'], f'samples_{current_iter}.png'))
        if tb_logger:
            tb_logger.add_image('samples', grid, current_iter)

    def save_networks(self, label):
        if self.diffusion_opt:
            self.save_network(self.net_diffusion, 'net_diffusion', label)
        self.save_restoration_network(label)

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
                checkpoint.prune(self.opt['path'], self.opt['logger']['keep_last'])

    def save_training_state(self, epoch, current_iter):
        checkpoint.save_training_state(
            self, epoch, current_iter, scaler=self.scaler.state_dict(), skipped_steps=self.skipped_steps,
            best=json.dumps(getattr(self, 'best_metric_results', {})), options=json.dumps(self.resumable_options()))

    def resumable_options(self):
        """What may change between stopping and resuming, and is told if it does."""
        train_set = self.opt.get('datasets', {}).get('train', {})
        return {'manual_seed': self.opt['manual_seed'], 'world_size': self.opt['world_size'],
                'train': self.opt['train'], 'datasets': {'train': {k: v for k, v in train_set.items() if k != 'phase'}}}

    def resume_training(self, resume_state):
        """Continue as saved, but where the option file now says otherwise follow it, and say so."""
        super().resume_training(resume_state)
        if resume_state.get('scaler'):
            self.scaler.load_state_dict(resume_state['scaler'])
        self.skipped_steps = resume_state.get('skipped_steps', 0)
        if best := json.loads(resume_state.get('best', '{}')):
            self.best_metric_results = best
        for block, optimizer in zip(('optim_g', 'optim_diffusion'), self.optimizers, strict=False):
            self.follow_option_file(optimizer, self.opt['train'][block])
        if 'options' in resume_state:
            for change in differences(json.loads(resume_state['options']), self.resumable_options()):
                get_root_logger().info(f"Resuming iteration {resume_state['iter']} with {change}.")

    def follow_option_file(self, optimizer, options):
        """Learning rate and the rest as in the option file; a schedule continues from the new rate."""
        for group in optimizer.param_groups:
            ratio = options['lr'] / group.get('initial_lr', group['lr'])
            group['lr'] *= ratio
            if 'initial_lr' in group:
                group['initial_lr'] = options['lr']
            group.update((key, value) for key, value in options.items() if key in group and key != 'lr')
        for scheduler in self.schedulers:
            if scheduler.optimizer is optimizer:
                scheduler.base_lrs = [group['initial_lr'] for group in optimizer.param_groups]


def _tap(image):
    """The same image as a node of its own, whose ``.grad`` is what one loss sends back to the network."""
    if image is None:
        return None
    tap = image.view_as(image)
    tap.retain_grad()
    return tap
