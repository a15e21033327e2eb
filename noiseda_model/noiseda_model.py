"""The joint training of a restoration network and a diffusion network."""
import copy
from collections import OrderedDict
from os import path as osp

import numpy as np
import torch
from basicsr.archs import build_network
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.registry import MODEL_REGISTRY
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.utils import make_grid

from noiseda_basicsr import InputError
from noiseda_model.diffusion import diffusion_loss, diffusion_weight, draw, noise_levels, swap_residuals
from noiseda_model.inference import restore
from noiseda_model.options import (
    check_networks,
    check_optimizer,
    check_sizes,
    check_validation,
    read_diffusion_options,
)


@MODEL_REGISTRY.register()
class NoiseDAModel(SRModel):
    """Noise-space domain adaptation (Eq. 4): min over theta, phi of L_res + lambda L_dif.

    New against SRModel: ``net_diffusion`` (eps_phi) with an optimizer of its own, built only for training and saved
    beside ``net_g`` but never in it; :meth:`optimize_parameters`; EMA with warm-up, of buffers too; validation that
    pads, tiles and writes a sample grid. Inherited: networks and losses from the option file, metrics, logging,
    saving, resuming. Without ``train:diffusion_opt`` it trains ``net_g`` alone (vanilla).
    """

    def __init__(self, opt):
        check_networks(opt)
        check_validation(opt)
        self.diffusion_opt = read_diffusion_options(opt) if opt['is_train'] else None
        super().__init__(opt)
        check_sizes(opt, self.get_bare_model(self.net_g))

    # ------------------------------------------------------------------ setting up

    def init_training_settings(self):
        if self.diffusion_opt:
            self.net_diffusion = self._build_diffusion_network()
            self.levels = noise_levels().to(self.device)
        self.normalises_by_batch = any(isinstance(layer, _BatchNorm) for layer in self.net_g.modules())
        super().init_training_settings()

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
        for key in ('lq', 'gt', 'real', 'ref'):
            self.__dict__.pop(key, None)  # never measure against the ground truth of an earlier batch
            if key in data:
                setattr(self, key, data[key].to(self.device, non_blocking=True))

    def optimize_parameters(self, current_iter):
        self.seed_step(current_iter)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        restored_syn, restored_real = self.restore_batch()
        self.log = OrderedDict()
        seen_by_pixel_loss = _tap(restored_syn)
        loss = self.restoration_loss(seen_by_pixel_loss)
        if self.diffusion_opt:
            conditions = {'syn': _tap(restored_syn), 'real': _tap(restored_real)}
            weight = self.diffusion_weight(current_iter)
            loss = loss + weight * self.adaptation_loss(conditions)
        self.stop_unless_finite(loss, current_iter)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        if self.ema_decay > 0:
            self.model_ema(min(self.ema_decay, (1 + current_iter) / (10 + current_iter)))
        self.log['grad_pix'] = seen_by_pixel_loss.grad.norm()
        if self.diffusion_opt:
            self.log['lambda'] = torch.tensor(weight, device=self.device)
            for name in self.diffusion_opt['conditions']:
                self.log[f'grad_dif_{name}'] = conditions[name].grad.norm()

    def seed_step(self, current_iter):
        """Everything drawn in a step (t, noise, swaps, dropout) follows from (seed, rank, iteration) alone."""
        words = [self.opt['manual_seed'], self.opt['rank'], current_iter]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    def restore_batch(self):
        """G(x^s) and G(x^r), in one pass where the network does not mix the samples of a batch.

        Returns:
            tuple[Tensor]: The second is None where no real image is needed.
        """
        if not self.diffusion_opt or 'real' not in self.diffusion_opt['conditions']:
            restored, restored_real = self.net_g(self.lq), None
        elif self.normalises_by_batch:  # batch statistics stay those of one domain
            restored, restored_real = self.net_g(self.lq), self.net_g(self.real)
        else:
            restored, restored_real = self.net_g(torch.cat([self.lq, self.real])).chunk(2)
        if restored.shape != self.lq.shape:
            raise InputError(f'network_g turns {tuple(self.lq.shape)} into {tuple(restored.shape)}; it must map an '
                             'image to an image of the same size and channels.')
        return restored, restored_real

    def restoration_loss(self, restored):
        """L_res: train:pixel_opt (the paper's is Charbonnier) and, if given, train:perceptual_opt."""
        losses = OrderedDict()
        if self.cri_pix:
            losses['l_pix'] = self.cri_pix(restored, self.gt)
        if self.cri_perceptual:
            losses['l_percep'], losses['l_style'] = self.cri_perceptual(restored, self.gt)
        losses = {name: loss for name, loss in losses.items() if loss is not None}
        self.log.update((name, loss.detach()) for name, loss in losses.items())
        return sum(losses.values())

    def adaptation_loss(self, restored):
        """L_dif (Eq. 1-3) of ``restored``, a dict of the conditions G(x^s) ('syn') and G(x^r) ('real')."""
        options = self.diffusion_opt
        clean = getattr(self, options['clean'])
        draws = self.draw(clean)
        if not options['channel_shuffle']:
            draws = draws._replace(swap=torch.zeros_like(draws.swap), swap_negative=torch.zeros_like(draws.swap))
        negatives = None
        if options['residual_swap']:
            negatives = swap_residuals(self.lq, restored['syn'], self.real, restored['real'])
        loss = diffusion_loss(
            self.net_diffusion, self.to_range(clean), [self.to_range(restored[name]) for name in options['conditions']],
            draws, negatives and [self.to_range(image) for image in negatives], options['margin'], self.mean_over_ranks)
        self.log['l_noise'] = loss.noise.detach()
        if loss.contrast is not None:
            self.log['l_con'] = loss.contrast.detach()
        return loss.total

    def draw(self, clean):
        """Everything random of a step, see :func:`noiseda_model.diffusion.draw`."""
        return draw(clean, self.levels, self.diffusion_opt['timesteps'])

    def to_range(self, image):
        """From [0, 1] to the range the diffusion network works in."""
        low, high = self.diffusion_opt['diffusion_range']
        return image * (high - low) + low

    def mean_over_ranks(self, value):
        if self.opt['dist']:
            torch.distributed.all_reduce(value)
            value /= self.opt['world_size']
        return value

    def diffusion_weight(self, current_iter):
        """lambda at this iteration (Eq. 5)."""
        options = self.diffusion_opt
        return diffusion_weight(current_iter / options['ramp_iters'], options['beta'], options['gamma'])

    def stop_unless_finite(self, loss, current_iter):
        """Stop before a NaN reaches the weights; they are saved as they are."""
        if torch.isfinite(loss):
            return
        self.save_networks(f'before_nan_{current_iter}')
        values = ', '.join(f'{name} {value.item():.3g}' for name, value in self.log.items())
        raise InputError(f'iteration {current_iter}: the loss is not finite ({values}). The networks before this step '
                         f"are in {self.opt['path']['models']} as net_*_before_nan_{current_iter}.pth. Lower "
                         'train:optim_g:lr or train:diffusion_opt:beta, or look for broken images, then continue with '
                         '--auto_resume.')

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

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        batch = {key: getattr(self, key)[:4] for key in ('lq', 'gt', 'real') if hasattr(self, key)}
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        if self.is_train and batch:
            self.write_samples(batch, current_iter, tb_logger)
            self.feed_data(batch)

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


def _tap(image):
    """The same image as a node of its own, whose ``.grad`` is what one loss sends back to the network."""
    if image is None:
        return None
    tap = image.view_as(image)
    tap.retain_grad()
    return tap
