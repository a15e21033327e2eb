"""The engine's options change the cost of a step, not its result."""
import copy
import shutil
from functools import partialmethod

import pytest
import torch
from small import assert_equal, batch, build, small_opt, step, weights
from torch import nn

from noiseda_arch import ConditionalUNet, RestorationUNet
from noiseda_arch.conditional_unet_arch import Dropout
from noiseda_basicsr import InputError
from noiseda_basicsr.checkpoint import load_resume_state
from noiseda_basicsr.fixes import apply_fixes
from noiseda_model import NoiseDAModel
from noiseda_model.engine import prepare_network, recompute_blocks


def train(tmp_path, engine, steps=3, data=batch, **changes):
    """Losses and weights of some steps; with four samples a batch and no dropout but where asked for."""
    opt = small_opt(tmp_path, train__engine=engine, **changes)
    model = build(opt)
    logs = []
    for n in range(1, steps + 1):
        images = {key: torch.cat([a, b]) for (key, a), b in zip(data(n).items(), data(50 + n).values(), strict=True)}
        logs.append(step(model, n, images))
    return logs, weights(model), model


SGD = {f'train__optim_{net}': {'type': 'SGD', 'lr': 0.05} for net in ('g', 'diffusion')}


def assert_same_course(one, other, rel):
    for log_one, log_other in zip(one[0], other[0], strict=True):
        assert log_other == pytest.approx(log_one, rel=rel, abs=rel)
    for name, value in one[1].items():
        torch.testing.assert_close(other[1][name], value, rtol=rel, atol=rel)


@pytest.mark.parametrize('margin', [100, -100, 0.0], ids=['open', 'closed', 'opening and closing'])
@pytest.mark.parametrize('parts', [2, 4])
def test_parts_of_a_batch_give_the_gradient_of_the_batch(parts, margin, tmp_path):
    changes = {'train__diffusion_opt': {'margin': margin}, **SGD}
    whole = train(tmp_path, {}, **changes)
    cut = train(tmp_path, {'accumulate': parts}, **changes)
    assert_same_course(whole, cut, rel=2e-5)
    if margin:
        assert all((log['l_con'] > 0) == (margin > 0) for log in cut[0])


@pytest.mark.parametrize('engine', [{}, {'accumulate': 2}, {'precision': 'fp16'}], ids=['whole', 'parts', 'fp16'])
def test_a_longer_gradient_is_scaled_down_to_the_norm(engine, tmp_path):
    """By SGD weights move by -lr g min(1, max_grad_norm / |g|), for each network by its own |g|."""
    before = weights(build(small_opt(tmp_path, **SGD)))
    (log,), free, _ = train(tmp_path, engine, steps=1, **SGD)
    norms = {net: log[f'grad_{net}'] for net in ('g', 'diffusion')}
    limit = (norms['g'] * norms['diffusion'])**0.5  # one of the two is longer
    (log,), clipped, _ = train(tmp_path, {**engine, 'max_grad_norm': limit}, steps=1, **SGD)
    assert {net: log[f'grad_{net}'] for net in norms} == pytest.approx(norms)  # logged as it was
    shares = {net: min(1, limit / norm) for net, norm in norms.items()}
    assert min(shares.values()) < 0.99 and max(shares.values()) == 1
    for name, value in before.items():
        for net, share in shares.items():
            if name.startswith(f'net_{net}.'):
                torch.testing.assert_close(clipped[name] - value, share * (free[name] - value), rtol=1e-3, atol=1e-7)


def test_the_hinge_opens_by_all_parts_not_by_each(tmp_path):
    """One part's gap is positive, the other's negative: their hinges' mean would differ from the batch's hinge."""
    gaps = []
    model = build(small_opt(tmp_path, train__engine={'accumulate': 2}, train__diffusion_opt={'margin': 0.0}))
    original = model.adaptation_loss

    def watched(part, restored):
        before = model.log.get('gap', 0)
        loss = original(part, restored)
        gaps.append((model.log['gap'] - before).item())
        return loss

    model.adaptation_loss = watched
    for n in range(1, 30):
        log = step(model, n, batch(n))
        first, second = gaps[-2:]
        assert log['gap'] == pytest.approx((first + second) / 2, abs=1e-6)
        assert log['l_con'] == pytest.approx(max(0, (first + second) / 2), abs=1e-6)
        if first * second < 0:
            return
    pytest.fail('no step with gaps of both signs')


@pytest.mark.parametrize('parts', [1, 2])
def test_a_pass_is_kept_where_the_hinge_was_open_in_the_step_before(parts, tmp_path):
    """With dropout: a pass that is repeated draws the same, so the course is that of a model that keeps everything."""
    opt = small_opt(tmp_path, train__engine={'accumulate': parts})
    opt['network_diffusion']['dropout'] = 0.5
    model, keeper = build(opt), build(opt)
    keeper.is_open = keeper.gap_is_open
    recorded = []
    model.net_diffusion.register_forward_pre_hook(lambda *_: recorded.append(torch.is_grad_enabled()))

    def passes(n, margin):
        model.diffusion_opt['margin'] = keeper.diffusion_opt['margin'] = margin
        recorded.clear()
        log = step(model, n, batch(n))
        if parts == 1:
            assert step(keeper, n, batch(n)) == log
        return list(recorded)

    kept, not_kept = [True, True] * parts, [True, False] * parts
    assert passes(1, 100) == kept
    assert passes(2, -100) == (kept if parts == 1 else kept + not_kept)
    assert passes(3, -100) == not_kept
    model.save(0, 3)
    state = torch.load(tmp_path / 'training_states' / '3.state', weights_only=True)
    model.hinge_was_open = True
    model.resume_training(state)
    assert passes(4, -100) == not_kept
    assert passes(5, 100) == ([True, False, True] if parts == 1 else not_kept + kept)
    assert passes(6, 100) == kept
    if parts == 1:
        assert_equal(weights(keeper), weights(model))


@pytest.mark.parametrize('engine, rel', [
    ({'activation_checkpointing': ['g', 'diffusion']}, 1e-6), ({'channels_last': True}, 1e-4)])
def test_memory_options_change_nothing(engine, rel, tmp_path):
    changes = SGD if 'channels_last' in engine else {'network_diffusion__dropout': 0.3}
    assert_same_course(train(tmp_path, {}, **changes), train(tmp_path, engine, **changes), rel)


@pytest.mark.parametrize('then, now', [(False, True), (True, False)])
def test_channels_last_may_be_switched_by_a_resumption(then, now, tmp_path):
    """Fused Adam goes through memory, so moments of another layout would move other weights."""
    def resumed(channels_last):
        opt = small_opt(tmp_path, path__resume_state=str(tmp_path / 'training_states/3.state'),
                        train__engine={'channels_last': channels_last})
        state = load_resume_state(opt)
        model = NoiseDAModel(opt)
        model.resume_training(state)
        return model

    apply_fixes()

    first = build(small_opt(tmp_path, train__engine={'channels_last': then}))
    for n in range(1, 4):
        step(first, n, batch(n))
    first.save(0, 3)
    same, switched = resumed(then), resumed(now)
    for optimizer in switched.optimizers:
        for parameter, state in optimizer.state.items():
            assert state['exp_avg'].stride() == state['exp_avg_sq'].stride() == parameter.stride()
    before = copy.deepcopy(weights(same))
    assert_equal(before, weights(switched))
    step(same, 4, batch(4))
    step(switched, 4, batch(4))
    for name, value in weights(switched).items():
        if value.dim() == 4 and 'ema' not in name:
            moved = (weights(same)[name] - before[name]).abs().max().item()
            torch.testing.assert_close(value, weights(same)[name], rtol=0, atol=0.02 * moved)


def test_the_averaged_network_lies_in_memory_as_the_trained_one(tmp_path):
    model = build(small_opt(tmp_path, train__engine={'channels_last': True}))
    strides = [[parameter.stride() for parameter in net.parameters()] for net in (model.net_g, model.net_g_ema)]
    assert strides[0] == strides[1]
    assert strides[0] != [parameter.stride() for parameter in build(small_opt(tmp_path)).net_g.parameters()]


def test_a_full_memory_while_validating_names_the_tiles(tmp_path, monkeypatch):
    model = build(small_opt(tmp_path))
    full = torch.OutOfMemoryError('CUDA out of memory.')
    monkeypatch.setattr(model.net_g_ema, 'forward', lambda image: (_ for _ in ()).throw(full))
    with pytest.raises(InputError, match='While validating or testing the memory is full. Set val:tile: 512'):
        model.restore_images(torch.rand(1, 3, 16, 24))


def test_activation_checkpointing_keeps_less_and_keeps_the_parameters(tmp_path):
    def kept(net):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            net(torch.rand(2, 9, 32, 32), torch.rand(2))
        return sum(sizes)

    opt = small_opt(tmp_path, network_diffusion__multipliers=[1, 2])
    net = build(opt).net_diffusion
    lean = copy.deepcopy(net)
    recompute_blocks(lean)
    assert list(lean.state_dict()) == list(net.state_dict())
    assert kept(lean) < 0.5 * kept(net)


@pytest.mark.parametrize('precision, rel', [('bf16', 0.05), ('fp16', 0.01)])
def test_low_precision_stays_near_fp32_with_losses_and_weights_in_fp32(precision, rel, tmp_path):
    full, low = (train(tmp_path, {'precision': name}, **SGD) for name in ('fp32', precision))
    for log_full, log_low in zip(full[0], low[0], strict=True):
        for name in ('l_pix', 'l_noise', 'grad_pix', 'grad_g', 'grad_diffusion'):
            assert log_low[name] == pytest.approx(log_full[name], rel=rel), name
            assert log_low[name] != log_full[name]
    assert all(value.dtype == torch.float32 for value in low[1].values() if value.is_floating_point())


def test_the_scaler_skips_an_overflow_and_resumes(tmp_path):
    _, _, model = train(tmp_path, {'precision': 'fp16'}, steps=1)
    model.scaler._scale.fill_(2.0**60)
    before = copy.deepcopy((model.net_g.state_dict(), model.net_diffusion.state_dict()))
    step(model, 2, batch())
    assert model.scaler.get_scale() == 2.0**59
    for net, weights_before in zip((model.net_g, model.net_diffusion), before, strict=True):
        assert_equal(net.state_dict(), weights_before)
    model.save(0, 2)
    state = torch.load(tmp_path / 'training_states' / '2.state', weights_only=True)
    other = NoiseDAModel(small_opt(tmp_path, train__engine={'precision': 'fp16'}))
    other.resume_training(state)
    assert other.scaler.state_dict() == model.scaler.state_dict()


@pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile wants a C++ compiler on a CPU')
def test_compiling_keeps_class_names_and_numbers(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.SiLU())
    image = torch.rand(1, 3, 8, 8)
    plain, names = net(image), list(net.state_dict())
    assert prepare_network(net, compiled=True) is net
    torch.testing.assert_close(net(image), plain)
    assert list(net.state_dict()) == names and type(net) is nn.Sequential


@pytest.mark.parametrize('net, more', [
    (RestorationUNet(4, depth=3), ()),
    (ConditionalUNet(width=32, multipliers=(1, 1), blocks=1), (torch.rand(2, dtype=torch.float64),)),
], ids=['g', 'diffusion'])
def test_a_network_is_compiled_in_one_piece_and_stays_what_it_is(net, more):
    """Its compiled form is written otherwise (GroupNorm, upsampling): same values, same gradients."""
    net = net.double().to(memory_format=torch.channels_last)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    image = torch.rand(2, 9 if more else 3, 8, 12, dtype=torch.float64)
    operations = []

    def backend(graph, inputs):
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(net, backend=backend, fullgraph=True)  # raises where it would be cut
    compiled(image, *more)
    assert operations and not [name for name in operations if 'group_norm' in name or 'interpolate' in name]
    net.eval()  # without dropout, whose draws differ
    results = []
    for module in (net, compiled):
        output = module(image, *more)
        results.append([output, *torch.autograd.grad(output.square().mean(), [*net.parameters()])])
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-9, atol=1e-13)


def test_every_size_of_a_batch_is_compiled_for_itself(monkeypatch):
    sizes = []

    def backend(graph, inputs):
        sizes.extend(len(value) for value in inputs if isinstance(value, torch.Tensor) and value.shape[1:] == (3, 8, 8))
        return graph.forward

    monkeypatch.setattr(nn.Module, 'compile', partialmethod(nn.Module.compile, backend=backend))
    torch._dynamo.reset()
    net = prepare_network(RestorationUNet(4, depth=2), compiled=True)
    for size in (2, 4, 3, 2):
        net(torch.rand(size, 3, 8, 8))
    assert sizes == [2, 4, 3]


def test_dropout_on_a_cpu_has_the_moments_of_dropout():
    x = torch.ones(2, 3, 301, 201, requires_grad=True)
    torch.manual_seed(0)
    y = Dropout(0.2)(x)
    y.sum().backward()
    kept = y > 0
    n, p = y.numel(), 0.8
    assert abs(kept.float().mean() - p) < 4 * (p * (1 - p) / n)**0.5
    assert y.unique().tolist() == pytest.approx([0, 1 / p], rel=1e-4)
    assert torch.equal(x.grad, y)
    flat = kept.flatten().float() - kept.float().mean()
    for lag in (1, 2, 3, 4, 201):  # four values share a draw
        assert abs((flat[:-lag] * flat[lag:]).mean()) < 4 * p * (1 - p) / n**0.5
    torch.manual_seed(0)
    assert torch.equal(Dropout(0.2)(x), y)
    assert torch.equal(Dropout(0.2).eval()(x), x)


@pytest.mark.parametrize('engine, message', [
    ({'amp': True}, 'train:engine: unknown key amp'),
    ({'precision': 'half'}, "precision is 'half'.*fp32, bf16, fp16"),
    ({'accumulate': 3}, r'accumulate is 3.*batch_size_per_gpu \(4\)'),
    ({'accumulate': 0}, 'accumulate is 0'),
    ({'activation_checkpointing': True}, r'a list of networks'),
    ({'compile': ['net_g']}, r'a list of networks'),
    ({'channels_last': 'yes'}, 'true or false'),
    ({'max_grad_norm': 0}, 'a number above 0'),
    ({'on_nan': 'ignore'}, 'stop or skip')])
def test_bad_engine_options_are_named(engine, message, tmp_path):
    with pytest.raises(InputError, match=message):
        NoiseDAModel(small_opt(tmp_path, train__engine=engine, datasets__train__batch_size_per_gpu=4))


def test_a_step_that_is_not_finite_can_be_skipped(tmp_path, caplog):
    model = build(small_opt(tmp_path, train__engine={'on_nan': 'skip'}))
    step(model, 1, batch())
    before = weights(model)
    data = batch()
    data['real'][0, 0, 0, 0] = float('nan')
    step(model, 2, data)
    assert_equal(weights(model), before)
    assert model.skipped_steps == 1
    step(model, 3, batch())
    assert all(value.isfinite().all() for value in weights(model).values())


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    """The losses may all be finite: |x|^0.5 at 0."""
    model = build(small_opt(tmp_path, train__diffusion_opt=None, network_diffusion=None))
    model.cri_pix = lambda restored, gt: ((restored - restored.detach()).abs()**0.5).mean()
    with pytest.raises(InputError, match=r'iteration 1: the loss or its gradient is not finite \(l_pix 0'):
        step(model, 1, batch())


def test_fp16_that_never_comes_to_a_finite_gradient_stops(tmp_path):
    model = build(small_opt(tmp_path, train__engine={'precision': 'fp16'}, train__diffusion_opt=None,
                            network_diffusion=None))
    model.cri_pix = lambda restored, gt: ((restored - restored.detach()).abs()**0.5).mean()
    with pytest.raises(InputError, match='iteration 17: the loss or its gradient is not finite.*precision: bf16'):
        for n in range(1, 20):
            step(model, n, batch())
    assert model.scaler.get_scale() == 1


@pytest.mark.parametrize('native', [True, False])
def test_bf16_without_instructions_for_it_is_advised_against(native, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr('noiseda_model.engine_model.has_native_bf16', lambda device: native)
    monkeypatch.setattr('noiseda_model.engine_model.get_root_logger',
                        lambda: type('Log', (), {'warning': lambda self, text: warnings.append(text)})())
    NoiseDAModel(small_opt(tmp_path, train__engine={'precision': 'bf16'}))
    assert len(warnings) == (0 if native else 1)
