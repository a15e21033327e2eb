"""The shortcut monitor tells a network that looks at a condition from one that does not, and disturbs nothing."""
import pytest
import torch
from small import assert_equal, batch, build, small_opt, step, weights

from noiseda_model.monitor import ShortcutMonitor, sensitivity


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


def test_a_blind_network_is_told(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr('noiseda_model.monitor.get_root_logger',
                        lambda: type('Log', (), {'warning': lambda self, text: warnings.append(text)})())
    model = build(small_opt(tmp_path, train__diffusion_opt={'monitor_freq': 2, 'channel_shuffle': False}))
    with torch.no_grad():
        model.net_diffusion.stem.weight[:, 3:] *= 20
    log = step(model, 2, batch())
    assert not warnings and log['shortcut_real_noise'] > 0.01
    with torch.no_grad():
        model.net_diffusion.stem.weight[:, 6:] = 0  # the real condition's channels
        step(model, 3, batch())
        model.net_diffusion.stem.weight[:, 6:] = 0
    log = step(model, 4, batch())
    assert abs(log['shortcut_real_noise']) < 0.01 < log['shortcut_syn_noise']
    assert len(warnings) == 1 and 'Iteration 4' in warnings[0]


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
