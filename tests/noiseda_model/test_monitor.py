"""The shortcut monitor tells a network that looks at a condition from one that does not, and disturbs nothing."""
from functools import partialmethod

import pytest
import torch
from small import assert_equal, batch, build, small_opt, step, weights

from noiseda_model.monitor import ShortcutMonitor, is_blind, sensitivity


def test_the_rise_of_a_known_error():
    """An error that reads the synthetic condition's mean square and ignores the real one."""
    syn, real = torch.rand(2, 4, 3, 16, 16)
    rises = sensitivity(lambda conditions: conditions['syn'].square().mean(), {'syn': syn, 'real': real},
                        torch.Generator().manual_seed(0))
    assert set(rises) == {'syn_noise', 'syn_blur', 'real_noise', 'real_blur'}
    assert rises['real_noise'] == rises['real_blur'] == 0
    noise = 0.25 + 0.25**2  # E[n^2] of N(0.5, 0.25^2); of the uniform image 1/3
    assert rises['syn_noise'] == pytest.approx(noise / syn.square().mean().item() - 1, abs=0.05)
    assert rises['syn_blur'] < -0.2  # the blur takes the variance away: 1/4 is left


@pytest.mark.parametrize('real, syn, blind', [
    (-0.02, 0.05, True), (0.005, 0.05, True), (0.03, 0.05, False), (0.001, 0.002, False)])
def test_blind_is_who_reads_the_synthetic_detail_only(real, syn, blind):
    assert is_blind({'real_blur': real, 'syn_blur': syn, 'real_noise': 4.0}) is blind
    assert not is_blind({'syn_blur': syn})


def test_a_blind_network_is_told_once(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr('noiseda_model.monitor.get_root_logger',
                        lambda: type('Log', (), {'warning': lambda self, text: warnings.append(text)})())
    monkeypatch.setattr('noiseda_model.monitor.BLIND', 1e-6)  # an untrained network does not look closely
    model = build(small_opt(tmp_path, train__diffusion_opt={'monitor_freq': 2, 'channel_shuffle': False}))
    log = step(model, 2, batch())
    assert abs(log['shortcut_real_blur']) > 1e-6
    model.optimizers[1].param_groups[0]['lr'] = 0
    model.net_diffusion.stem.weight.data[:, 6:] = 0  # the real condition's channels
    model.monitor.has_warned = False
    warnings.clear()
    monkeypatch.setattr('noiseda_model.monitor.is_blind', lambda rises: abs(rises['real_blur']) < 1e-6)
    for n in (4, 5, 6):
        log = step(model, n, batch())
        assert ('shortcut_real_noise' in log) == (n % 2 == 0)
        assert abs(log.get('shortcut_real_noise', 0)) < 1e-6 < abs(log.get('shortcut_syn_noise', 1))
    assert len(warnings) == 1 and 'Iteration 4' in warnings[0]


def test_a_look_at_an_iteration_that_is_not_logged_is_told_at_the_next_that_is(tmp_path):
    model = build(small_opt(tmp_path, train__diffusion_opt={'monitor_freq': 2}))
    for n in (2, 3):  # print_freq is 3, say
        model.feed_data(batch(n))
        model.optimize_parameters(n)
    assert 'shortcut_real_blur' in model.get_current_log()
    assert 'shortcut_real_blur' not in step(model, 5, batch())


def test_looking_changes_nothing(tmp_path):
    courses = []
    for frequency in (0, 1):
        opt = small_opt(tmp_path, train__diffusion_opt={'monitor_freq': frequency}, network_diffusion__dropout=0.3)
        model = build(opt)
        for n in range(1, 4):
            step(model, n, batch(n))
        assert model.net_g.training and model.net_diffusion.training
        courses.append(weights(model))
    assert_equal(*courses)
    assert ShortcutMonitor(1).batch is None


def test_looking_and_validating_compile_nothing(tmp_path, monkeypatch):
    """In evaluation mode, at images of other sizes: on a large network a compilation takes minutes."""
    monkeypatch.setattr(torch.nn.Module, 'compile', partialmethod(torch.nn.Module.compile, backend='eager'))
    torch._dynamo.reset()
    model = build(small_opt(tmp_path, train__engine={'compile': ['g', 'diffusion']}, train__ema_decay=0,
                            train__diffusion_opt={'monitor_freq': 2}))
    log = step(model, 1, batch())
    graphs = torch._dynamo.utils.counters['stats']['unique_graphs']
    assert graphs > 0 and not any(name.startswith('shortcut') for name in log)
    log = step(model, 2, batch(1))
    assert any(name.startswith('shortcut') for name in log)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == graphs
    for size in (8, 10):
        model.feed_data({'lq': torch.rand(1, 3, size, size)})
        model.test()
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == graphs
