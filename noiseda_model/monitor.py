"""Does the diffusion network look at both restored images? The paper's shortcut (Sec. 3.3), watched while training.

Its stage III: the network reads the synthetic condition, whose ground truth x_t is made of, and no longer cares for the
real one, whose gradient then says nothing.
"""
from types import SimpleNamespace

import torch
from basicsr.utils import get_root_logger
from torchvision.transforms.functional import gaussian_blur

SAMPLES = 8  # of the first batch, kept to look at the same ones each time
BLUR = 2.0  # pixels, standard deviation
BLIND = 0.01  # a rise of the error by less than this share counts as none


def is_blind(rises):
    """Whether the network makes use of the detail of the synthetic condition only.

    The blurred copy decides. Noise raises the error of any network, as one never met in training.
    """
    return 'real_blur' in rises and rises['real_blur'] < BLIND < rises.get('syn_blur', 1)


def blurred(image):
    return gaussian_blur(image, 2 * round(3 * BLUR) + 1, BLUR)


def sensitivity(error, conditions, generator):
    """How much the noise-prediction error rises when one condition is replaced by noise or by its own blurred copy.

    Args:
        error (Callable): Conditions, a dict -> L_noise, a scalar.
        conditions (dict[str, Tensor]): 'syn' and/or 'real': G(x^s), G(x^r), (B, 3, H, W) in [0, 1].
        generator (torch.Generator): On the CPU, for the noise: N(0.5, 0.25^2).

    Returns:
        dict[str, float]: ``syn_noise``, ``syn_blur``, ``real_noise``, ``real_blur``: error with the replacement over
        error without it, minus 1. 0: the network does not look.
    """
    usual = error(conditions)
    rises = {}
    for name, image in conditions.items():
        noise = torch.randn(image.shape, generator=generator).to(image.device) * 0.25 + 0.5
        for kind, other in (('noise', noise), ('blur', blurred(image))):
            rises[f'{name}_{kind}'] = (error({**conditions, name: other}) / usual - 1).item()
    return rises


class ShortcutMonitor:
    """:func:`sensitivity` on the first samples trained on (by process 0), every ``frequency`` iterations.

    It gives ``shortcut_*`` to the next log there is, and one warning when :func:`is_blind`. The draws are its own:
    training goes on as without it. ``batch`` belongs to the state of a run, so that a resumed one looks at the same
    samples.
    """

    def __init__(self, frequency):
        self.frequency = frequency
        self.batch = None
        self.unlogged = {}
        self.has_warned = False

    @torch.no_grad()
    def __call__(self, model, parts, current_iter):
        if not self.frequency:
            return
        if self.batch is None:
            self.batch = {key: value[:SAMPLES].clone() for key, value in vars(parts[0]).items()}
            if model.opt['dist']:
                for value in self.batch.values():
                    torch.distributed.broadcast(value, src=0)
        if current_iter % self.frequency:
            return
        rises = self.look(model)
        self.unlogged = {f'shortcut_{name}': torch.tensor(rise, device=model.device) for name, rise in rises.items()}
        if is_blind(rises) and not self.has_warned:
            self.has_warned = True
            get_root_logger().warning(
                f'Iteration {current_iter}: the diffusion network does not use the detail of the restored real images '
                f"(blurring them changes its error by {rises['real_blur']:+.1%}; of the synthetic ones by "
                f"{rises['syn_blur']:+.1%}), so what it sends back to them says little. See docs/reliability.md, "
                '"The shortcut".')

    def look(self, model):
        nets = [model.get_bare_model(net) for net in (model.net_g, model.net_diffusion)]
        modes = [net.training for net in nets]
        for net in nets:
            net.eval()
        part = SimpleNamespace(**self.batch)
        with torch.compiler.set_stance('force_eager'):  # a batch of another size is not worth compiling for
            restored = dict(zip(('syn', 'real'), model.restore_batch(part), strict=True))
            conditions = {name: restored[name] for name in model.diffusion_opt['conditions']}
            rises = sensitivity(lambda conditions: model.diffusion_loss(part, conditions).noise, conditions,
                                torch.Generator().manual_seed(0))
        for net, mode in zip(nets, modes, strict=True):
            net.train(mode)
        return rises
