"""Noise-space domain adaptation, Eq. 1-5 of "Denoising as Adaptation" (Liao et al., ICLR 2025), in pure PyTorch.

Symbols, names and shapes:

    y                clean            image x_t is made of: y^s (gt), or y^u (ref) in the extension   (B, 3, H, W)
    x^s, x^r         lq, real         degraded images: synthetic, and real without ground truth       (B, 3, H, W)
    G(x^s), G(x^r)   restored_syn, restored_real                                                      (B, 3, H, W)
    eps              noise            N(0, 1)                                                         (B, 3, H, W)
    alpha_bar        alpha_bar        continuous noise level                                          (B,) in (0, 1)
    eps_phi          net              (x_t with its conditions, alpha_bar) -> predicted noise
    lambda           diffusion_weight weight of L_dif in the joint loss

Images are in [0, 1], or in [-1, 1] by the option diffusion_range. Every random draw is an argument; :func:`draw` makes
them. Nothing here knows of BasicSR.
"""
import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F

TIMESTEPS = 1000  # T


class Draws(NamedTuple):
    """What one step draws at random, for a batch of B."""
    alpha_bar: torch.Tensor  # (B,)
    noise: torch.Tensor  # (B, 3, H, W)
    swap: torch.Tensor  # (B,) bool: the positive conditions trade places
    swap_negative: torch.Tensor  # (B,) bool: the negative ones do


class DiffusionLoss(NamedTuple):
    """The scalars of one step."""
    noise: torch.Tensor  # L_noise, Eq. 1
    contrast: torch.Tensor | None  # L_con, the hinge of Eq. 3; None without residual swap
    gap: torch.Tensor | None  # what the hinge cuts off below zero, detached
    total: torch.Tensor  # L_dif


def noise_levels(beta_start=1e-6, beta_end=1e-2):
    """alpha_bar_t = prod (1 - beta), beta linear over T steps (Sec. 4).

    Returns:
        Tensor: (T,), float32, falling from 1 - beta_start to 0.0066.
    """
    betas = torch.linspace(beta_start, beta_end, TIMESTEPS, dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0).float()


def draw(image, levels, timesteps=(1, TIMESTEPS - 1), generator=None):
    """Draw everything random of one step.

    For each sample t is uniform in ``timesteps`` (both ends included) and alpha_bar uniform between alpha_bar_t and
    alpha_bar_{t-1}; each swap happens with probability 1/2.

    Args:
        image (Tensor): (B, 3, H, W); only its shape and device matter.
        levels (Tensor): Of :func:`noise_levels`, on any device.
        timesteps (tuple[int]): Within 1 .. T-1.
        generator (torch.Generator): On the image's device. Default: torch's own.

    Returns:
        Draws
    """
    batch, options = len(image), {'device': image.device, 'generator': generator}
    low, high = timesteps
    t = torch.randint(low, high + 1, (batch,), **options)
    levels = levels.to(image.device)
    alpha_bar = torch.lerp(levels[t], levels[t - 1], torch.rand(batch, **options))
    swap, swap_negative = torch.rand(2, batch, **options) < 0.5
    return Draws(alpha_bar, torch.randn(image.shape, **options), swap, swap_negative)


def diffuse(clean, noise, alpha_bar):
    """x_t = sqrt(alpha_bar) y + sqrt(1 - alpha_bar) eps (forward process, Sec. 3)."""
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def shuffle_channels(condition_a, condition_b, swap):
    """C of Eq. 1: concatenate two conditions along channels, exchanged where ``swap`` (the channel-shuffling layer)."""
    swap = swap.view(-1, 1, 1, 1)
    first = torch.where(swap, condition_b, condition_a)
    second = torch.where(swap, condition_a, condition_b)
    return torch.cat([first, second], dim=1)


def swap_residuals(lq, restored_syn, real, restored_real):
    """Eq. 2: negative conditions, each input with the other's residual R = restored - input.

    Returns:
        tuple[Tensor]: x^s + R^r and x^r + R^s. Neither is detached.
    """
    return lq + (restored_real - real), real + (restored_syn - lq)


def hinge(gap, is_open=lambda gap: gap > 0, expect_open=True, devices=()):
    """max(0, gap()). A closed hinge is a constant: for its gradient, which is zero, nothing is kept or computed.

    Args:
        gap (Callable): () -> scalar.
        is_open (Callable): Detached gap -> bool. Many processes, or parts of a batch, ask for the sign of the gap of
            all of them, and so compute what one would. Default: this gap's own sign.
        expect_open (bool): Whether to keep what the way back needs. If not and the hinge is open after all, the gap is
            computed once more, with the same random numbers.
        devices (list[torch.device]): GPUs it draws them on.

    Returns:
        tuple[Tensor]: The hinge, and the gap, detached.
    """
    keeps_nothing = torch.is_grad_enabled() and not expect_open
    with torch.random.fork_rng(devices), torch.no_grad() if keeps_nothing else nullcontext():
        value = gap()
    if not is_open(value.detach()):
        return torch.zeros_like(value), value.detach()
    if keeps_nothing:
        value = gap()
    return value, value.detach()


def diffusion_loss(net, clean, conditions, draws, negatives=None, margin=0.1, **options_of_hinge):
    """L_dif of Eq. 3, (L_noise + L_con) / 2; without negatives, L_noise of Eq. 1 alone.

    Positive and negative conditions share x_t, eps and alpha_bar. They pass through ``net`` one after the other: most
    of the time the hinge is closed, and then the second pass needs no way back, a third of all the work of ``net``.

    Args:
        net (Callable): (x, alpha_bar) -> noise.
        clean (Tensor): y.
        conditions (tuple[Tensor]): (restored_syn, restored_real), or one of the two alone.
        draws (Draws): Of :func:`draw`. ``swap`` all False switches the shuffle off.
        negatives (tuple[Tensor]): Of :func:`swap_residuals`, or None.
        margin (float): delta of Eq. 3.
        options_of_hinge: ``is_open`` and ``expect_open`` of :func:`hinge`.

    Returns:
        DiffusionLoss
    """
    noise, alpha_bar = draws.noise, draws.alpha_bar
    x_t = diffuse(clean, noise, alpha_bar)

    def distance(condition):
        return F.mse_loss(net(torch.cat([x_t, condition], dim=1), alpha_bar), noise)

    l_noise = distance(shuffle_channels(*conditions, draws.swap) if len(conditions) == 2 else conditions[0])
    if negatives is None:
        return DiffusionLoss(l_noise, None, None, l_noise)
    negative = shuffle_channels(*negatives, draws.swap_negative)
    gpus = [noise.device] if noise.is_cuda else []
    l_con, gap = hinge(lambda: l_noise - distance(negative) + margin, devices=gpus, **options_of_hinge)
    return DiffusionLoss(l_noise, l_con, gap, (l_noise + l_con) / 2)


def diffusion_weight(progress, beta=0.2, gamma=5.0):
    """lambda of Eq. 5: beta (2 / (1 + exp(-gamma p)) - 1), from 0 at p = 0 to 0.1973 at p = 1 with the defaults."""
    return beta * (2 / (1 + math.exp(-gamma * min(progress, 1.0))) - 1)
