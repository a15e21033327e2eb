"""Scratch: remedies of F, deliverable 4, not yet tried."""
import torch
import torch.nn.functional as F
from basicsr.utils.registry import MODEL_REGISTRY
import noiseda_model
from noiseda_model.noiseda_model import NoiseDAModel
from noiseda_model.options import KNOWN_KEYS
PLUGIN = noiseda_model.PLUGIN


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -g


@MODEL_REGISTRY.register()
class RemedyModel(NoiseDAModel):
    known_keys = {**KNOWN_KEYS, 'train': (*KNOWN_KEYS['train'], 'remedy')}

    @property
    def remedy(self):
        return self.opt['train']['remedy']

    # --- on the paper's method
    def adaptation_loss(self, part, restored):
        if self.remedy.get('sign'):
            restored = {**restored, 'real': Reverse.apply(restored['real'])}
        return super().adaptation_loss(part, restored)

    def backward(self, parts, current_iter):
        if not self.remedy.get('project'):
            return super().backward(parts, current_iter)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        from collections import OrderedDict
        self.log = OrderedDict()
        part, = parts
        self.seed(current_iter, 0)
        syn, real = self.restore_batch(part)
        l_res = self.restoration_loss(syn, part.gt)
        l_dif = self.diffusion_weight(current_iter) * self.adaptation_loss(part, {'syn': syn, 'real': real})
        g = list(self.net_g.parameters())
        phi = list(self.net_diffusion.parameters())
        g_res = torch.autograd.grad(l_res, g, retain_graph=True)
        both = torch.autograd.grad(l_dif, g + phi, allow_unused=True)
        g_dif, g_phi = both[:len(g)], both[len(g):]
        dot = sum((a * b).sum() for a, b in zip(g_res, g_dif))
        norm2 = sum((a * a).sum() for a in g_res)
        k = torch.clamp(dot / norm2, max=0)
        self.log['cos'] = dot / (norm2.sqrt() * sum((b * b).sum() for b in g_dif).sqrt() + 1e-12)
        for p, a, b in zip(g, g_res, g_dif):
            p.grad = a + b - k * a
        for p, b in zip(phi, g_phi):
            p.grad = b

    # --- self-supervision on the real branch
    def joint_loss(self, part, current_iter):
        loss, outputs = super().joint_loss(part, current_iter)
        kind = self.remedy.get('kind')
        if kind:
            value = getattr(self, kind)(part.real)
            self.record(l_self=value)
            loss = loss + self.remedy.get('weight', 1) * value
        return loss, outputs

    def n2n(self, x):
        """Neighbor2Neighbor (Huang et al., CVPR 2021): of each 2x2 cell two neighbouring pixels."""
        with torch.no_grad():
            full = self.forward(self.net_g, x)
        b, c, h, w = x.shape

        def cells(image):
            return image.unfold(2, 2, 2).unfold(3, 2, 2).reshape(b, c, h // 2, w // 2, 4)
        pairs = torch.tensor([[0, 1], [0, 2], [1, 3], [2, 3], [1, 0], [2, 0], [3, 1], [3, 2]], device=x.device)
        draw = pairs[torch.randint(8, (b, 1, h // 2, w // 2), device=x.device)]
        first, second = (draw[..., i:i + 1].expand(b, c, h // 2, w // 2, 1) for i in (0, 1))

        def sub(image, index):
            return cells(image).gather(-1, index).squeeze(-1)
        out = self.forward(self.net_g, sub(x, first))
        diff = out - sub(x, second)
        reg = diff - (sub(full, first) - sub(full, second))
        return (diff ** 2).mean() + (reg ** 2).mean()

    def teacher(self, x):
        """Mean teacher: what the averaged network makes of the photo, from the photo with more noise."""
        with torch.no_grad():
            target = self.forward(self.net_g_ema, x)
        sigma = torch.rand(len(x), 1, 1, 1, device=x.device) * 15 / 255
        return self.cri_pix(self.forward(self.net_g, x + sigma * torch.randn_like(x)), target)

    def cover(self, x):
        """Blocks of the image covered by their mean surroundings."""
        size, ratio = self.remedy.get('block', 4), self.remedy.get('ratio', 0.3)
        b, _, h, w = x.shape
        mask = (torch.rand(b, 1, h // size, w // size, device=x.device) < ratio).float()
        mask = F.interpolate(mask, scale_factor=size)
        if self.remedy.get('mode') == 'mean':
            return x * (1 - mask) + x.mean((2, 3), keepdim=True) * mask
        around = F.interpolate(F.avg_pool2d(x, size), scale_factor=size, mode=self.remedy.get('mode', 'bilinear'))
        return x * (1 - mask) + around * mask

    def masked(self, x):
        """The averaged network's result, from the photo with blocks covered."""
        with torch.no_grad():
            target = self.forward(self.net_g_ema, x)
        return self.cri_pix(self.forward(self.net_g, self.cover(x)), target)

    def plain(self, x):
        """The same without covering: does the covering matter?"""
        with torch.no_grad():
            target = self.forward(self.net_g_ema, x)
        return self.cri_pix(self.forward(self.net_g, x), target)

    def restore_batch(self, part):
        if self.remedy.get('cover_syn'):
            from types import SimpleNamespace
            part = SimpleNamespace(**{**vars(part), 'lq': self.cover(part.lq)})
        return super().restore_batch(part)

    def recorrupt(self, x):
        """Noise of the photos, once more: the restored photo (teacher) degraded anew, restored to the teacher's."""
        return self.teacher(x)
