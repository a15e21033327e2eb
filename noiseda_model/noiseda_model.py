"""The joint training of a restoration network and a diffusion network."""
from collections import OrderedDict
from functools import partial
from os import path as osp

import torch
from basicsr.utils import imwrite, tensor2img
from basicsr.utils.registry import MODEL_REGISTRY
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.utils import make_grid

from noiseda_basicsr import InputError
from noiseda_basicsr.networks import build_network
from noiseda_model import diffusion
from noiseda_model.engine_model import EngineModel
from noiseda_model.inference import check_output
from noiseda_model.monitor import ShortcutMonitor
from noiseda_model.options import check_networks, check_sizes, check_validation, read_diffusion_options


@MODEL_REGISTRY.register()
class NoiseDAModel(EngineModel):
    """Noise-space domain adaptation (Eq. 4): min over theta, phi of L_res + lambda L_dif.

    New against its base: ``net_diffusion`` (eps_phi) with an optimizer of its own, built only for training and saved
    beside ``net_g`` but never in it; :meth:`optimize_parameters`; a sample grid at each validation. Without
    ``train:diffusion_opt`` it trains ``net_g`` alone (vanilla).
    """

    def __init__(self, opt):
        check_networks(opt)
        check_validation(opt)
        self.diffusion_opt = read_diffusion_options(opt) if opt['is_train'] else None
        super().__init__(opt)
        check_sizes(opt, self.get_bare_model(self.net_g))
        self.try_out()

    # ------------------------------------------------------------------ setting up

    def init_training_settings(self):
        self.hinge_was_open = True  # a new diffusion network tells nothing apart: the gap is the margin
        if self.diffusion_opt:
            self.net_diffusion = self._build_diffusion_network()
            self.levels = diffusion.noise_levels().to(self.device)
            self.monitor = ShortcutMonitor(self.diffusion_opt['monitor_freq'])
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
        self.add_optimizer('optim_g', self.net_g)
        if self.diffusion_opt:
            self.add_optimizer('optim_diffusion', self.net_diffusion)

    def trained_networks(self):
        diffusion = {'diffusion': self.net_diffusion} if self.diffusion_opt else {}
        return {**super().trained_networks(), **diffusion}

    # ------------------------------------------------------------------ one step

    def optimize_parameters(self, current_iter):
        """One step of Eq. 4 on both networks."""
        self.seed(current_iter)
        parts = self.split_batch(**self.draw()._asdict()) if self.diffusion_opt else self.split_batch()
        self.compute_gradients(parts, current_iter)
        self.take_step(current_iter)
        if self.diffusion_opt:
            self.log['lambda'] = torch.full((), self.diffusion_weight(current_iter), device=self.device)
            self.monitor(self, parts, current_iter)

    def get_current_log(self):
        if self.diffusion_opt:
            self.log.update(self.monitor.unlogged)  # of this step, or of one that was not logged
            self.monitor.unlogged = {}
        return super().get_current_log()

    def compute_gradients(self, parts, current_iter):
        """Gradients of L_res + lambda L_dif over the whole batch.

        Whether the hinge is open follows from all parts, when the graphs of the first ones are long gone. So they are
        computed as if it were what it was last time, and once more if it turns out otherwise.
        """
        if len(parts) == 1:
            self.backward(parts, current_iter)
            return
        for guess in (self.hinge_was_open, not self.hinge_was_open):
            self.hinge_was_open = guess
            self.backward(parts, current_iter)
            if 'gap' not in self.log or self.gap_is_open(self.log['gap']) == guess:
                break

    def joint_loss(self, part, current_iter):
        """L_res + lambda L_dif (Eq. 4), and the restored images as each loss sees them, to read its gradient there."""
        restored_syn, restored_real = self.restore_batch(part)
        outputs = {'grad_pix': _tap(restored_syn)}
        loss = self.restoration_loss(outputs['grad_pix'], part.gt)
        if self.diffusion_opt:
            restored = {'syn': restored_syn, 'real': restored_real}
            restored = {name: _tap(restored[name]) for name in self.diffusion_opt['conditions']}
            outputs.update((f'grad_dif_{name}', image) for name, image in restored.items())
            loss = loss + self.diffusion_weight(current_iter) * self.adaptation_loss(part, restored)
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
        check_output(self.get_bare_model(self.net_g), part.lq, restored)
        return restored, restored_real

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

    def adaptation_loss(self, part, restored):
        """L_dif (Eq. 1-3) of ``restored``, a dict of the conditions G(x^s) ('syn') and G(x^r) ('real')."""
        negatives = None
        if self.diffusion_opt['residual_swap']:
            swapped = diffusion.swap_residuals(part.lq, restored['syn'], part.real, restored['real'])
            negatives = dict(zip(('syn', 'real'), swapped, strict=True))
        loss = self.diffusion_loss(part, restored, negatives)
        self.record(l_noise=loss.noise, l_con=loss.contrast, gap=loss.gap)
        return loss.total

    def diffusion_loss(self, part, conditions, negatives=None):
        """:func:`noiseda_model.diffusion.diffusion_loss` with the options' range, margin and shuffle."""
        options = self.diffusion_opt
        draws = diffusion.Draws(**{field: getattr(part, field) for field in diffusion.Draws._fields})
        if not options['channel_shuffle']:
            draws = draws._replace(swap=torch.zeros_like(draws.swap), swap_negative=torch.zeros_like(draws.swap))

        def in_range(images):
            return images and [self.to_range(images[name]) for name in options['conditions']]

        return diffusion.diffusion_loss(
            partial(self.forward, self.net_diffusion), self.to_range(getattr(part, options['clean'])),
            in_range(conditions), draws, in_range(negatives), options['margin'], is_open=self.is_open,
            expect_open=self.hinge_was_open)

    def draw(self):
        """Everything random of a step, see :func:`noiseda_model.diffusion.draw`."""
        return diffusion.draw(getattr(self, self.diffusion_opt['clean']), self.levels, self.diffusion_opt['timesteps'])

    def to_range(self, image):
        """From [0, 1] to the range the diffusion network works in."""
        low, high = self.diffusion_opt['diffusion_range']
        return image * (high - low) + low

    def is_open(self, gap):
        """Whether the hinge is open, by the gap of the whole batch; one of several parts follows the guess."""
        if self.engine['accumulate'] == 1:
            self.hinge_was_open = self.gap_is_open(gap)
        return self.hinge_was_open

    def gap_is_open(self, gap):
        """Whether this gap, averaged over all processes, is open."""
        if self.opt['dist']:
            gap = gap.clone()
            torch.distributed.all_reduce(gap)
        return bool(gap > 0)

    def diffusion_weight(self, current_iter):
        """lambda at this iteration (Eq. 5)."""
        options = self.diffusion_opt
        return diffusion.diffusion_weight(current_iter / options['ramp_iters'], options['beta'], options['gamma'])

    def write_samples(self, batch, current_iter, tb_logger):
        """A grid of the last training batch: degraded, restored, ground truth, real degraded, real restored."""
        columns = []
        for degraded in ('lq', 'real'):
            if degraded in batch:
                columns += [batch[degraded], self.restore_images(batch[degraded])]
            if degraded == 'lq':
                columns.append(batch['gt'])
        rows = torch.stack(columns, dim=1).flatten(0, 1).clamp(0, 1).cpu()
        grid = make_grid(rows, nrow=len(columns))
        imwrite(tensor2img(grid), osp.join(self.opt['path']['visualization'], f'samples_{current_iter}.png'))
        if tb_logger:
            tb_logger.add_image('samples', grid, current_iter)

    def save_training_state(self, epoch, current_iter):
        more = {'monitor': self.monitor.batch} if self.diffusion_opt else {}
        super().save_training_state(epoch, current_iter, **more, hinge_was_open=self.hinge_was_open)

    def resume_training(self, resume_state):
        super().resume_training(resume_state)
        self.hinge_was_open = resume_state.get('hinge_was_open', True)
        if self.diffusion_opt and self.diffusion_opt['clean'] in (batch := resume_state.get('monitor') or {}):
            self.monitor.batch = {key: value.to(self.device) for key, value in batch.items()}


def _tap(image):
    """The same image as a node of its own, whose ``.grad`` is what one loss sends back to the network."""
    if image is None:
        return None
    tap = image.view_as(image)
    tap.retain_grad()
    return tap
