"""Eq. 1-5 against closed forms, values and gradients both."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noiseda_model.diffusion import (
    DiffusionLoss,
    Draws,
    diffuse,
    diffusion_loss,
    diffusion_weight,
    draw,
    hinge,
    noise_levels,
    shuffle_channels,
    swap_residuals,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count, batch=2, size=4, dtype=torch.float64):
    return [torch.rand(batch, 3, size, size, generator=generator(10 + seed), dtype=dtype) for seed in range(count)]


def draws_for(image, swap=False, swap_negative=False, seed=1):
    batch = len(image)
    alpha_bar = torch.linspace(0.2, 0.9, batch, dtype=image.dtype)
    noise = torch.randn(image.shape, generator=generator(seed), dtype=image.dtype)
    return Draws(alpha_bar, noise, torch.full((batch,), swap), torch.full((batch,), swap_negative))


# ---------------------------------------------------------------------- noise levels and draws


def test_noise_levels_are_the_product_of_one_minus_beta():
    levels = noise_levels()
    expected, product = [], 1.0
    for step in range(1000):
        product *= 1 - (1e-6 + (1e-2 - 1e-6) * step / 999)
        expected.append(product)
    np.testing.assert_allclose(levels.numpy(), expected, rtol=1e-6)
    assert levels.dtype == torch.float32 and (levels.diff() < 0).all()
    assert levels[0].item() == pytest.approx(1 - 1e-6, abs=1e-7)
    # ln prod(1 - beta) = -sum(beta) - sum(beta^2) / 2 - sum(beta^3) / 3 - ..., the sums of a linear beta
    mean, mean_square, mean_cube = 1e-2 / 2, 1e-4 / 3, 1e-6 / 4
    assert levels[-1].item() == pytest.approx(math.exp(-1000 * (mean + mean_square / 2 + mean_cube / 3)), rel=1e-3)
    assert levels[-1].item() == pytest.approx(0.0066, abs=5e-5)


@pytest.mark.parametrize('low, high', [(1, 999), (1, 100), (900, 999), (500, 500)])
def test_alpha_bar_is_continuous_between_the_levels_of_the_range(low, high):
    levels = noise_levels()
    alpha_bar = draw(torch.empty(20000, 3, 1, 1), levels, (low, high), generator()).alpha_bar
    assert alpha_bar.shape == (20000,)
    assert (alpha_bar >= levels[high]).all() and (alpha_bar <= levels[low - 1]).all()
    t = (levels > alpha_bar[:, None]).sum(1).double()  # of the interval it lies in
    spread = (high - low + 1) / math.sqrt(12 * 20000)
    assert abs(t.mean() - (low + high) / 2) < 5 * spread + 0.01
    if low == high:
        place = (alpha_bar - levels[high]) / (levels[low - 1] - levels[high])
        counts = torch.histc(place.clamp(0, 1), bins=10, min=0, max=1)
        assert (counts - 2000).abs().max() < 5 * math.sqrt(2000)


def test_ends_of_the_range_are_drawn():
    levels = noise_levels()
    alpha_bar = draw(torch.empty(2000, 3, 1, 1), levels, (7, 9), generator()).alpha_bar
    t = torch.bucketize(-alpha_bar, -levels)
    assert set(t.tolist()) >= {7, 8, 9}


def test_swaps_are_fair_and_independent_of_each_other():
    _, noise, swap, swap_negative = draw(torch.empty(4000, 3, 2, 2), noise_levels(), generator=generator())
    assert swap.dtype == swap_negative.dtype == torch.bool
    for event in (swap, swap_negative, swap == swap_negative):
        assert abs(event.double().mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)
    assert abs(noise.mean()) < 5 / math.sqrt(noise.numel())
    assert abs(noise.var() - 1) < 5 * math.sqrt(2 / noise.numel())


def test_draws_follow_from_the_generator_alone():
    image, levels = torch.empty(4, 3, 5, 6), noise_levels()
    torch.manual_seed(1)
    first = draw(image, levels, generator=generator(3))
    torch.manual_seed(2)
    again = draw(image, levels, generator=generator(3))
    other = draw(image, levels, generator=generator(4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.alpha_bar, other.alpha_bar) and not torch.equal(first.noise, other.noise)
    assert first.noise.shape == image.shape


# ---------------------------------------------------------------------- forward process and conditions


@given(alpha_bar=st.floats(1e-3, 1 - 1e-3))
@settings(max_examples=10, deadline=None)
def test_diffuse_preserves_variance(alpha_bar):
    clean = torch.randn(1, 3, 64, 64, generator=generator(1), dtype=torch.float64)
    noise = torch.randn(1, 3, 64, 64, generator=generator(2), dtype=torch.float64)
    x_t = diffuse(clean, noise, torch.tensor([alpha_bar], dtype=torch.float64))
    assert x_t.var().item() == pytest.approx(1, abs=0.06)
    assert (x_t * clean).mean().item() == pytest.approx(math.sqrt(alpha_bar), abs=0.05)
    assert (x_t * noise).mean().item() == pytest.approx(math.sqrt(1 - alpha_bar), abs=0.05)


def test_diffuse_takes_one_level_a_sample():
    clean, noise = images(2, batch=3)
    alpha_bar = torch.tensor([1.0, 0.0, 0.64], dtype=torch.float64)
    expected = torch.stack([clean[0], noise[1], 0.8 * clean[2] + 0.6 * noise[2]])
    torch.testing.assert_close(diffuse(clean, noise, alpha_bar), expected)


def test_shuffle_exchanges_whole_rgb_blocks_of_the_samples_drawn():
    a, b = images(2, batch=3)
    shuffled = shuffle_channels(a, b, torch.tensor([False, True, False]))
    for sample, order in enumerate([(a, b), (b, a), (a, b)]):
        assert torch.equal(shuffled[sample], torch.cat([order[0][sample], order[1][sample]]))


def test_swap_residuals_gives_each_input_the_residual_of_the_other():
    lq, restored_syn, real, restored_real = images(4)
    residual_syn, residual_real = restored_syn - lq, restored_real - real
    negative_syn, negative_real = swap_residuals(lq, restored_syn, real, restored_real)
    torch.testing.assert_close(negative_syn, lq + residual_real)
    torch.testing.assert_close(negative_real, real + residual_syn)
    twice = swap_residuals(lq, negative_syn, real, negative_real)
    torch.testing.assert_close(twice, (restored_syn, restored_real))


def test_equal_residuals_make_the_negatives_positive():
    lq, real, residual = images(3)
    negatives = swap_residuals(lq, lq + residual, real, real + residual)
    torch.testing.assert_close(negatives, (lq + residual, real + residual))


# ---------------------------------------------------------------------- losses


@pytest.mark.parametrize('positive, negative, margin, active', [
    (0.5, 0.5, 0.1, True), (0.5, 0.59, 0.1, True), (0.5, 0.61, 0.1, False), (0.2, 0.9, 0.1, False),
    (0.9, 0.2, 0, True)])
@pytest.mark.parametrize('expected', [True, False])
def test_hinge_and_the_derivatives_of_l_dif(positive, negative, margin, active, expected):
    d_pos = torch.tensor(positive, dtype=torch.float64, requires_grad=True)
    d_neg = torch.tensor(negative, dtype=torch.float64, requires_grad=True)
    l_con, gap = hinge(lambda: d_pos - d_neg + margin, expect_open=expected)
    assert gap.item() == pytest.approx(positive - negative + margin, abs=1e-12) and not gap.requires_grad
    assert l_con.item() == pytest.approx(max(0, positive - negative + margin), abs=1e-12)
    gradients = torch.autograd.grad((d_pos + l_con) / 2, [d_pos, d_neg], allow_unused=True)
    assert [g and g.item() for g in gradients] == ([1, -0.5] if active else [0.5, None])


def test_hinge_opens_for_all_processes_and_keeps_the_own_gap():
    own = torch.tensor(0.3, requires_grad=True)
    closed, gap = hinge(lambda: own * 1, lambda own: (own - 0.9) / 2 > 0)  # the other process' gap is -0.9
    assert closed.item() == 0 and not closed.requires_grad and gap.item() == pytest.approx(0.3)
    opened, gap = hinge(lambda: -own, lambda own: (own + 0.5) / 2 > 0)
    assert opened.item() == gap.item() == pytest.approx(-0.3)


@pytest.mark.parametrize('expected, is_open, passes', [
    (True, True, [True]), (True, False, [True]), (False, False, [False]), (False, True, [False, True])])
def test_a_hinge_keeps_what_it_expects_to_need_and_repeats_the_same_draws(expected, is_open, passes):
    """Whether a pass is recorded, and that one repeated draws what the first drew."""
    scale, recorded, values = torch.ones((), requires_grad=True), [], []

    def gap():
        recorded.append(torch.is_grad_enabled())
        values.append(scale * torch.rand(()))
        return values[-1]

    torch.manual_seed(3)
    l_con, seen = hinge(gap, lambda gap: is_open, expected)
    assert recorded == passes and len({value.item() for value in values}) == 1
    assert (l_con == seen and l_con.requires_grad) if is_open else (l_con == 0 and seen == values[0])
    with torch.no_grad():  # as when measured only
        hinge(gap, lambda gap: is_open, expected)
    assert recorded[len(passes):] == [False]


class LinearNet:
    """A one-layer eps_phi whose distances can be worked out by hand; remembers what it saw."""

    def __init__(self, channels, seed=5):
        self.weight = torch.randn(3, channels, generator=generator(seed), dtype=torch.float64, requires_grad=True)
        self.seen = []

    def __call__(self, x, alpha_bar):
        self.seen.append((x, alpha_bar))
        return torch.einsum('oc,bchw->bohw', self.weight, x) * alpha_bar.view(-1, 1, 1, 1)


def by_hand(weight, clean, draws, conditions, swap):
    """||eps - eps_phi||^2, sample by sample."""
    squares = []
    for i in range(len(clean)):
        level = draws.alpha_bar[i]
        x_t = level**0.5 * clean[i] + (1 - level)**0.5 * draws.noise[i]
        order = conditions[::-1] if swap[i] else conditions
        x = torch.cat([x_t, *[condition[i] for condition in order]])
        squares.append(((weight @ x.flatten(1)).view_as(x_t) * level - draws.noise[i])**2)
    return torch.stack(squares).mean()


@pytest.mark.parametrize('swaps', [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize('margin', [-100, 100])
def test_l_dif_value_and_gradients_against_a_computation_by_hand(swaps, margin):
    clean, lq, real, *restored = images(5, batch=3)
    restored = [image.requires_grad_() for image in restored]
    draws = draws_for(clean, *swaps)
    net = LinearNet(9)
    negatives = swap_residuals(lq, restored[0], real, restored[1])
    loss = diffusion_loss(net, clean, restored, draws, negatives, margin)

    d_pos = by_hand(net.weight, clean, draws, restored, draws.swap)
    hand_negatives = [lq + restored[1] - real, real + restored[0] - lq]
    d_neg = by_hand(net.weight, clean, draws, hand_negatives, draws.swap_negative)
    l_con = (d_pos - d_neg + margin).clamp(min=0)
    gap = (d_pos - d_neg + margin).detach()
    torch.testing.assert_close(loss, DiffusionLoss(d_pos, l_con, gap, (d_pos + l_con) / 2))
    wanted = [net.weight, *restored]
    expected = torch.autograd.grad((d_pos + l_con) / 2, wanted)
    torch.testing.assert_close(torch.autograd.grad(loss.total, wanted), expected)


def test_negatives_are_not_detached():
    clean, lq, real, *restored = images(5)
    restored = [image.requires_grad_() for image in restored]
    negatives = swap_residuals(lq, restored[0], real, restored[1])
    blind = [image.detach() for image in restored]
    loss = diffusion_loss(LinearNet(9), clean, blind, draws_for(clean), negatives, margin=100)
    assert all(gradient.abs().min() > 0 for gradient in torch.autograd.grad(loss.total, restored))


def test_positive_and_negative_share_x_t_and_level():
    clean, *others = images(5)
    draws, net = draws_for(clean), LinearNet(9)
    diffusion_loss(net, clean, others[:2], draws, others[2:])
    for x, alpha_bar in net.seen:
        assert torch.equal(x[:, :3], diffuse(clean, draws.noise, draws.alpha_bar))
        assert torch.equal(alpha_bar, draws.alpha_bar)
    assert len(net.seen) == 2


@pytest.mark.parametrize('margin, backward_passes', [(-100, 1), (100, 2)])
def test_a_closed_hinge_costs_no_backward_pass(margin, backward_passes):
    clean, *others = images(5)
    net = LinearNet(9)
    others = [image.requires_grad_() for image in others]
    passes = []

    def watched(x, alpha_bar):
        x.register_hook(lambda gradient: passes.append(1))
        return net(x, alpha_bar)

    diffusion_loss(watched, clean, others[:2], draws_for(clean), others[2:], margin).total.backward()
    assert len(passes) == backward_passes


@pytest.mark.parametrize('count', [1, 2])
def test_without_negatives_l_dif_is_l_noise(count):
    clean, *conditions = images(1 + count)
    draws, net = draws_for(clean, swap=True), LinearNet(3 + 3 * count)
    loss = diffusion_loss(net, clean, conditions, draws)
    torch.testing.assert_close(loss.total, by_hand(net.weight, clean, draws, conditions, draws.swap))
    assert loss.contrast is None and loss.total is loss.noise


# ---------------------------------------------------------------------- lambda


def test_lambda_by_its_closed_form():
    assert diffusion_weight(0) == 0
    assert diffusion_weight(1) == pytest.approx(0.1973, abs=5e-5)
    assert diffusion_weight(3) == diffusion_weight(1)
    # 2 / (1 + exp(-x)) - 1 = tanh(x / 2)
    assert diffusion_weight(0.3, beta=0.7, gamma=4) == pytest.approx(0.7 * math.tanh(0.6))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted))
@settings(max_examples=30, deadline=None)
def test_lambda_rises(pair):
    low, high = map(diffusion_weight, pair)
    assert 0 <= low <= high < 0.2
