"""What a resumed training takes from its state, and what from the option file."""
import json

import pytest
import torch
from basicsr.archs import build_network
from small import assert_equal, batch, build, small_opt, step, weights

from noiseda_basicsr import InputError
from noiseda_basicsr.checkpoint import load_resume_state, prune
from noiseda_basicsr.fixes import apply_fixes
from noiseda_model import NoiseDAModel

SAVED = 3


@pytest.fixture(autouse=True)
def _fixes():
    apply_fixes()


def train(opt, first, last, model=None):
    """Learning rates of these iterations, as BasicSR's loop has them."""
    model = model or build(opt)
    rates = []
    for n in range(first, last + 1):
        model.update_learning_rate(n, warmup_iter=opt['train'].get('warmup_iter', -1))
        step(model, n, batch(n))
        rates.append([group['lr'] for optimizer in model.optimizers for group in optimizer.param_groups])
    return model, rates


def save(tmp_path, **changes):
    """A training saved at iteration SAVED."""
    model, _ = train(small_opt(tmp_path, **changes), 1, SAVED)
    model.save(0, SAVED)
    return model


def resume(tmp_path, **changes):
    opt = small_opt(tmp_path, path__resume_state=str(tmp_path / 'training_states' / f'{SAVED}.state'), **changes)
    state = load_resume_state(opt)
    model = NoiseDAModel(opt)
    model.resume_training(state)
    return model, opt


STEPS = {'type': 'MultiStepLR', 'milestones': [2, 5], 'gamma': 0.5}
COSINE = {'type': 'CosineAnnealingRestartLR', 'periods': [10], 'restart_weights': [1], 'eta_min': 1e-5}
RATES = {
    'none': {},
    'steps': {'train__scheduler': STEPS},
    'other steps': {'train__scheduler': {**STEPS, 'milestones': [1, 4], 'gamma': 0.1}},
    'cosine': {'train__scheduler': COSINE},
    'another rate': {'train__scheduler': COSINE, 'train__optim_g': {'type': 'Adam', 'lr': 3e-4}},
    'warm-up': {'train__warmup_iter': 5},
    'warm-up, steps': {'train__warmup_iter': 2, 'train__scheduler': STEPS},
    'a step within the warm-up': {'train__warmup_iter': 4, 'train__scheduler': STEPS},
    'warm-up, cosine': {'train__warmup_iter': 5, 'train__scheduler': COSINE},
}


NAMES = list(RATES)
CHANGES = [*zip(NAMES, NAMES, strict=True), *zip(NAMES, NAMES[1:] + NAMES[:1], strict=True)]


@pytest.mark.parametrize(('before', 'after'), CHANGES)
def test_learning_rates_are_those_of_a_training_that_always_had_these_options(before, after, tmp_path):
    save(tmp_path, **RATES[before])
    model, opt = resume(tmp_path, **RATES[after])
    _, rates = train(opt, SAVED + 1, 8, model)
    _, undisturbed = train(small_opt(tmp_path, **RATES[after]), 1, 8)
    assert rates == undisturbed[SAVED:]


def test_a_warm_up_rises_to_the_full_rate_and_stays_there(tmp_path):
    for schedule in ({}, {'train__scheduler': {**STEPS, 'milestones': [100]}}):
        _, rates = train(small_opt(tmp_path, train__warmup_iter=4, **schedule), 1, 6)
        assert [rate[0] for rate in rates] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])


def test_an_option_taken_out_has_its_default_again(tmp_path):
    save(tmp_path, train__optim_g={'type': 'Adam', 'lr': 1e-3, 'betas': [0.5, 0.9], 'weight_decay': 0.5})
    group = resume(tmp_path)[0].optimizers[0].param_groups[0]
    assert (tuple(group['betas']), group['weight_decay']) == ((0.9, 0.999), 0)


def test_other_optimizers_are_refused(tmp_path):
    save(tmp_path)
    with pytest.raises(InputError, match='train:optim_g:type is SGD, the saved state is of Adam'):
        resume(tmp_path, train__optim_g={'type': 'SGD', 'lr': 1e-3})
    with pytest.raises(InputError, match='2 networks were trained under this name, the option file trains 1'):
        resume(tmp_path, train__diffusion_opt=None, network_diffusion=None)


def test_the_monitor_takes_a_new_batch_where_the_saved_one_lacks_a_stream(tmp_path):
    model = save(tmp_path)
    assert_equal(resume(tmp_path)[0].monitor.batch, model.monitor.batch)
    torch.save({**torch.load(tmp_path / 'training_states' / f'{SAVED}.state'),
                'monitor': {key: value for key, value in model.monitor.batch.items() if key != 'ref'}},
               tmp_path / 'training_states' / f'{SAVED}.state')
    extension = {'clean': 'ref', 'residual_swap': False, 'monitor_freq': 1}
    model, _ = resume(tmp_path, train__diffusion_opt=extension)
    assert any(name.startswith('shortcut_') for name in step(model, SAVED + 1, batch()))


def test_the_best_figures_are_those_until_the_state(tmp_path):
    """The state of an iteration is saved before its validation; the record of that is read from its own file."""
    model = save(tmp_path)
    metrics = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
    val = {'val_freq': 1, 'save_img': False, 'metrics': metrics}
    for iteration, expected in ((SAVED, 30.0), (SAVED + 1, None)):
        record = {'better': 'higher', 'val': 30.0, 'iter': iteration}
        model.best_metric_results = {'val': {'psnr': record}}
        model.save_best(iteration)
        best = resume(tmp_path, val=val)[0].best_metric_results
        assert best == ({} if expected is None else {'val': {'psnr': record}})
        label = 'best' if expected else f'best_{iteration}'  # one that does not count is kept, not overwritten
        assert json.loads((tmp_path / f'models/net_g_{label}.json').read_text()) == model.best_metric_results
        assert sorted(path.name for path in (tmp_path / 'models').glob('net_g_best*.pth')) == [f'net_g_{label}.pth']


@pytest.mark.parametrize('before_validation', [False, True])
def test_a_newer_record_of_the_file_counts_and_one_that_is_better_otherwise_does_not(before_validation, tmp_path):
    model = save(tmp_path)
    old, new = ({'better': 'higher', 'val': value, 'iter': iteration} for value, iteration in ((30.0, 1), (31.0, 3)))
    state = tmp_path / f'training_states/{SAVED}.state'
    best = {} if before_validation else {'val': {'psnr': old}}
    torch.save({**torch.load(state), 'best': json.dumps(best)}, state)
    model.best_metric_results = {'val': {'psnr': new}}
    model.save_best(SAVED)
    psnr = {'type': 'calculate_psnr', 'crop_border': 0}
    for options, expected in ((psnr, {'val': {'psnr': new}}), ({**psnr, 'better': 'lower'}, {})):
        resumed, _ = resume(tmp_path, val={'val_freq': 1, 'save_img': False, 'metrics': {'psnr': options}})
        assert resumed.best_metric_results == expected
    (tmp_path / 'models/net_g_best.json').write_text('')
    with pytest.raises(InputError, match='net_g_best.json: not readable as JSON .* Remove it'):
        resume(tmp_path)


def test_only_process_0_writes_the_record(tmp_path):
    model = build(small_opt(tmp_path))
    model.best_metric_results = {'val': {'psnr': {'better': 'higher', 'val': 30.0, 'iter': 1}}}
    model.opt['rank'] = 1
    model.save_best(2)
    assert not (tmp_path / 'models/net_g_best.json').exists()


def test_pruning_leaves_what_lies_ahead(tmp_path):
    model = save(tmp_path)
    for iteration in (1, 2, 8):
        model.save(0, iteration)
    aside = tmp_path / 'models/net_g_best_2.pth'  # it was put aside under its iteration's name
    aside.touch()
    prune(model.opt['path'], 1, SAVED)
    aside.unlink()
    assert sorted(path.name for path in (tmp_path / 'training_states').iterdir()) == ['3.state', '8.state']
    assert sorted(path.name for path in (tmp_path / 'models').glob('net_g_*')) == ['net_g_3.pth', 'net_g_8.pth']


def test_a_chosen_state_tells_of_later_ones_and_wants_its_folder(tmp_path, capsys):
    model = save(tmp_path)
    resume(tmp_path)
    assert 'later states' not in capsys.readouterr().out
    model.save(0, 8)
    resume(tmp_path)
    assert 'holds later states too, up to iteration 8' in capsys.readouterr().out
    path = {name: str(tmp_path / name) for name in ('models', 'training_states')}
    (tmp_path / 'models/net_g_8.pth').unlink()  # so iteration 8 is passed over, and told to be
    load_resume_state({**small_opt(tmp_path), 'auto_resume': True, 'network_diffusion': {}, 'path': path})
    assert 'later states' not in capsys.readouterr().out
    opt = small_opt(tmp_path, path__resume_state=str(tmp_path / 'training_states' / f'{SAVED}.state'))
    opt['path']['training_states'] = str(tmp_path / 'other')
    with pytest.raises(InputError, match='path:resume_state is .*where a training called small goes on'):
        load_resume_state(opt)


@pytest.mark.parametrize('key', [None, 'state_dict', 'params_ema', 'params'])
def test_the_average_begins_with_the_pretrained_weights_under_any_key(key, tmp_path):
    """BasicSR asks for params_ema whatever the file is; and a resumed run reads files of its own."""
    pretrained = build_network(small_opt(tmp_path)['network_g']).state_dict()
    torch.save(pretrained if key is None else {key: pretrained}, tmp_path / 'pretrained.pth')
    opt = small_opt(tmp_path, path__pretrain_network_g=str(tmp_path / 'pretrained.pth'))
    opt['path']['param_key_g'] = key
    model = NoiseDAModel(opt)
    for name in ('net_g', 'net_g_ema'):
        assert_equal(getattr(model, name).state_dict(), pretrained)
    step(model, 1, batch())
    model.save(0, 1)
    opt['path']['resume_state'] = str(tmp_path / 'training_states/1.state')
    load_resume_state(opt)
    assert_equal(weights(NoiseDAModel(opt)), weights(model))


def test_entries_that_are_not_asked_for_are_named(tmp_path):
    net = build_network(small_opt(tmp_path)['network_g'])
    torch.save({'params': net.state_dict()}, tmp_path / 'pretrained.pth')
    opt = small_opt(tmp_path, path__pretrain_network_g=str(tmp_path / 'pretrained.pth'))
    opt['path']['param_key_g'] = None
    with pytest.raises(InputError, match=r"pretrained.pth: holds the entries \['params'\]; set path:param_key_g"):
        NoiseDAModel(opt)


@pytest.mark.parametrize('name', ['net_g', 'net_diffusion'])
def test_an_overflow_in_one_network_leaves_both_as_they_are(name, tmp_path):
    model = build(small_opt(tmp_path, train__engine={'precision': 'fp16'}))
    step(model, 1, batch())
    before, scale = weights(model), model.scaler.get_scale()
    parameter = next(getattr(model, name).parameters())
    handle = parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    step(model, 2, batch())
    assert_equal(weights(model), before)
    assert model.scaler.get_scale() == scale / 2
    handle.remove()
    step(model, 3, batch())
    after = weights(model)
    assert all(any(not torch.equal(after[key], before[key]) for key in before if key.startswith(net))
               for net in ('net_g.', 'net_g_ema.', 'net_diffusion.'))
