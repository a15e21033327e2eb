"""A bad option ends at once in an InputError that names the key and what to do; options are only read."""
import copy
import logging

import pytest
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils.registry import METRIC_REGISTRY

from noiseda_basicsr import InputError
from noiseda_basicsr.fixes import apply_fixes
from noiseda_model import NoiseDAModel
from noiseda_model.options import DIFFUSION_DEFAULTS, check_validation, read_diffusion_options
from tests.noiseda_model.test_model import batch, small_opt, step


def diffusion(**options):
    return {'train__diffusion_opt': options}


def val(**options):
    return {'val': {'val_freq': 1, 'save_img': False, **options}}


BAD = {  # changes of the options, what the message must hold
    'unknown key': (diffusion(marginn=0.1), ['train:diffusion_opt', 'marginn', 'margin']),
    'clean': (diffusion(clean='lq'), ['diffusion_opt:clean', 'lq', 'gt or ref']),
    'conditions': (diffusion(conditions=['real', 'syn']), ['diffusion_opt:conditions', '[syn, real]']),
    'range': (diffusion(diffusion_range=[0, 255]), ['diffusion_opt:diffusion_range', '[-1, 1]']),
    'timesteps from 0': (diffusion(timesteps=[0, 999]), ['diffusion_opt:timesteps', '[0, 999]', '1 to 999']),
    'timesteps to T': (diffusion(timesteps=[900, 1000]), ['diffusion_opt:timesteps', '1 to 999']),
    'timesteps reversed': (diffusion(timesteps=[100, 1]), ['diffusion_opt:timesteps', '[low, high]']),
    'timesteps not a pair': (diffusion(timesteps=[1, 50, 100]), ['diffusion_opt:timesteps', '[low, high]']),
    'timesteps a number': (diffusion(timesteps=100), ['diffusion_opt:timesteps', '[low, high]']),
    'beta as text': (diffusion(beta='2e-1'), ['diffusion_opt:beta', "'2e-1'", '!!float']),
    'margin as text': (diffusion(margin='1e-1'), ['diffusion_opt:margin', "'1e-1'", '!!float']),
    'ramp_iters as text': (diffusion(ramp_iters='5e5'), ['diffusion_opt:ramp_iters', "'5e5'", '!!float']),
    'ref with swap': (diffusion(clean='ref', residual_swap=True), ['diffusion_opt:clean', 'residual_swap: false']),
    'ref with the default swap': (diffusion(clean='ref'), ['diffusion_opt:clean', 'residual_swap: false']),
    'one condition with swap': (diffusion(conditions=['syn']), ['diffusion_opt:conditions', 'residual_swap: false']),
    'one condition, 9 channels': (
        {**diffusion(conditions=['syn'], residual_swap=False), 'network_diffusion__in_channels': 9},
        ['network_diffusion:in_channels', '9', 'must be 6']),
    'two conditions, 6 channels': (
        {'network_diffusion__in_channels': 6}, ['network_diffusion:in_channels', '6', 'must be 9']),
    'no ref images': (
        {**diffusion(clean='ref', residual_swap=False), 'datasets__train__dataroot_ref': None},
        ['datasets:train:dataroot_ref', 'missing']),
    'no real images': ({'datasets__train__dataroot_real': None}, ['datasets:train:dataroot_real', 'missing']),
    'network without options': (
        {'train__diffusion_opt': None}, ['train:diffusion_opt', 'network_diffusion', 'remove network_diffusion']),
    'options without network': ({'network_diffusion': None}, ['network_diffusion', 'ConditionalUNet']),
    'no optimizer': ({'train__optim_diffusion': None}, ['train:optim_diffusion', 'Adam']),
    'lr as text': ({'train__optim_g__lr': '1e-4'}, ['train:optim_g:lr', "'1e-4'", '!!float']),
    'lr of the helper as text': ({'train__optim_diffusion__lr': '1e-4'}, ['train:optim_diffusion:lr', '!!float']),
    'no lr': ({'train__optim_g__lr': None}, ['train:optim_g:lr', 'None']),
    'unknown optimizer': ({'train__optim_g__type': 'Adamm'}, ['train:optim_g:type', 'Adamm']),
    'scale': ({'scale': 4}, ['scale: 4', 'scale 1']),
    'upscale': ({'network_g': {'type': 'SwinIR', 'upscale': 2}}, ['network_g', 'SwinIR', 'upscale: 1']),
    'upscale by default': (
        {'network_g': {'type': 'RCAN', 'num_in_ch': 3, 'num_out_ch': 3}}, ['network_g', 'RCAN', 'upscale: 1']),
    'unknown architecture': (
        {'network_g__type': 'RestorationUnet'}, ["'RestorationUnet'", 'did you mean RestorationUNet']),
    'no architecture': ({'network_diffusion__type': None}, ['network_diffusion:type', 'missing']),
    'unknown argument': ({'network_g__widht': 4}, ['network_g', 'RestorationUNet', 'widht', 'width, depth, channels']),
    'unknown argument of the helper': (
        {'network_diffusion__base': 4}, ['network_diffusion', 'ConditionalUNet', 'base', 'multipliers']),
    'missing argument': ({'network_g': {'type': 'RCAN', 'upscale': 1}}, ['network_g', 'RCAN', 'num_in_ch']),
    'tile and multiple': (val(tile=100, size_multiple=8), ['val:tile', '100', 'val:size_multiple (8)']),
    'a metric without truth': (
        {**val(metrics={'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}),
         'datasets__val': {'name': 'val', 'type': 'PairedUnpairedDataset', 'dataroot_lq': 'photos'}},
        ['datasets:val:dataroot_gt', 'calculate_psnr', 'val:metrics']),
    'a metric that does not exist': (
        val(metrics={'psnr': {'type': 'calculate_pnsr'}}), ["'calculate_pnsr'", 'did you mean calculate_psnr']),
    'a metric without an argument': (
        val(metrics={'psnr': {'type': 'calculate_psnr'}}), ['val:metrics:psnr', 'crop_border']),
    'a metric without a type': (val(metrics={'psnr': {'crop_border': 0}}), ['val:metrics:psnr', 'type']),
    'a metric that is no block': (val(metrics={'psnr': 'calculate_psnr'}), ['val:metrics:psnr', 'type']),
    'an optimizer argument': (
        {'train__optim_g__wieght_decay': 0.1}, ['train:optim_g', 'Adam', 'wieght_decay', 'weight_decay']),
    'a loss argument': ({'train__pixel_opt__epsilon': 0.1}, ['train:pixel_opt', 'CharbonnierLoss', 'epsilon', 'eps']),
    'an unknown loss': ({'train__pixel_opt__type': 'Charbonnier'}, ["'Charbonnier'", 'did you mean CharbonnierLoss']),
    'no loss': ({'train__pixel_opt': None}, ['train:pixel_opt', 'CharbonnierLoss']),
    'an unknown scheduler': (
        {'train__scheduler': {'type': 'CosineAnnealingLR'}}, ['train:scheduler:type', 'CosineAnnealingRestartLR']),
    'a scheduler without an argument': (
        {'train__scheduler': {'type': 'MultiStepLR'}}, ['train:scheduler', 'MultiStepLR', 'milestones']),
    'an average that never moves': ({'train__ema_decay': 1}, ['train:ema_decay', 'below 1']),
    'no ramp': (diffusion(ramp_iters=0), ['diffusion_opt:ramp_iters', 'above 0']),
    'a negative weight': (diffusion(beta=-0.2), ['diffusion_opt:beta', '0 or more']),
    'an unknown key of train': ({'train__ema_deacy': 0.9}, ['train: unknown key ema_deacy', 'ema_decay']),
    'an unknown key of val': (val(tile_overlp=8), ['val: unknown key tile_overlp', 'tile_overlap']),
    'an unknown key of logger': ({'logger': {'keep_lats': 3}}, ['logger: unknown key keep_lats', 'keep_last']),
    'an unknown key of path': (
        {'path__pretrained_network_g': 'a.pth'}, ['path: unknown key pretrained_network_g', 'pretrain_network_g']),
    'a width that is none': ({'network_g__width': 'Q'}, ['RestorationUNet', 'width', "'Q'"]),
    "a width the helper's groups do not divide": ({'network_diffusion__width': 30}, ['ConditionalUNet', 'width', '30']),
    'tile within the overlap': (val(tile=32), ['val:tile', '32', 'val:tile_overlap']),
    'patch and multiple': (
        {**val(size_multiple=16), 'datasets__train__gt_size': 24},
        ['datasets:train:gt_size', '24', 'val:size_multiple (16)']),
    'no val_freq': ({'val__val_freq': None}, ['val:val_freq']),
    "patch and the network's multiple": (
        {'network_g': {'type': 'DRUNet', 'in_nc': 4, 'out_nc': 3, 'nc': [4] * 4, 'nb': 2},
         'datasets__train__gt_size': 20},
        ['datasets:train:gt_size', '20', 'multiple of 8, as DRUNet requires']),
    "patch and the network's minimum": (
        {'network_g': {'type': 'SCUNet', 'config': [1] * 7}}, ['datasets:train:gt_size', '8', 'at least 40']),
    "tile and the network's minimum": (
        {**val(tile=34), 'network_g': {'type': 'SCUNet', 'config': [1] * 7}, 'datasets__train__gt_size': 40},
        ['val:tile', '34', 'at least 40']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_option_is_named_with_its_remedy(name, tmp_path):
    apply_fixes()  # the launchers' registry suggests names
    changes, fragments = BAD[name]
    with pytest.raises(InputError) as error:
        NoiseDAModel(small_opt(tmp_path, **changes))
    message = str(error.value)
    assert [fragment for fragment in fragments if fragment not in message] == [], message


def test_the_defaults_are_the_papers(tmp_path):
    options = read_diffusion_options(small_opt(tmp_path, train__total_iter=600))
    assert options == {
        'clean': 'gt', 'conditions': ['syn', 'real'], 'channel_shuffle': True, 'residual_swap': True, 'margin': 0.1,
        'timesteps': [1, 999], 'diffusion_range': [0, 1], 'beta': 0.2, 'gamma': 5, 'ramp_iters': 600,
        'monitor_freq': 500}
    assert read_diffusion_options(small_opt(tmp_path, **diffusion(ramp_iters=50)))['ramp_iters'] == 50
    assert DIFFUSION_DEFAULTS['ramp_iters'] is None


def test_a_subclass_may_have_keys_of_its_own(tmp_path):
    class Mine(NoiseDAModel):
        known_keys = {**NoiseDAModel.known_keys, 'train': (*NoiseDAModel.known_keys['train'], 'my_weight')}

    opt = small_opt(tmp_path, train__my_weight=0.1)
    assert Mine(opt).opt['train']['my_weight'] == 0.1
    with pytest.raises(InputError, match='train: unknown key my_weight'):
        NoiseDAModel(opt)


def test_the_best_niqe_and_lpips_are_the_lowest(tmp_path):
    metrics = {'niqe': {'type': 'calculate_niqe', 'crop_border': 0}, 'lpips': {'type': 'calculate_lpips'},
               'psnr': {'type': 'calculate_psnr', 'crop_border': 0},
               'odd': {'type': 'calculate_niqe', 'crop_border': 0, 'better': 'higher'}}
    check_validation(small_opt(tmp_path, **val(metrics=metrics)))
    assert [metric.get('better', 'higher') for metric in metrics.values()] == ['lower', 'lower', 'higher', 'higher']


@METRIC_REGISTRY.register()
def calculate_no_truth(img, crop_border, **kwargs):
    return 0


@METRIC_REGISTRY.register()
def calculate_my_lpips(*, img, img2):
    return 0


def test_metrics_of_ones_own_are_taken_as_basicsr_calls_them(tmp_path):
    metrics = {'a': {'type': 'calculate_no_truth', 'crop_border': 0}, 'b': {'type': 'calculate_my_lpips'}}
    check_validation(small_opt(tmp_path, **val(metrics=metrics)))
    images = {'img': None, 'img2': None}
    assert [calculate_metric(images, metric) for metric in metrics.values()] == [0, 0]
    with pytest.raises(InputError, match='val:metrics:a: .*crop_border'):
        check_validation(small_opt(tmp_path, **val(metrics={'a': {'type': 'calculate_no_truth'}})))


def test_tiles_are_advised_against_where_spandrel_does(tmp_path, caplog):
    network = {'type': 'SwinIR_spandrel', 'img_size': 16, 'window_size': 4, 'embed_dim': 8, 'depths': [1],
               'num_heads': [2]}
    opt = small_opt(tmp_path, network_g=network, datasets__train__gt_size=16)
    for tile in (None, 64):
        logger = logging.getLogger('basicsr')
        logger.propagate, caplog.handler.level = True, 0
        caplog.clear()
        NoiseDAModel({**opt, **val(tile=tile)})
        assert ('advises against tiles with SwinIR' in caplog.text) == (tile is not None)


def test_timesteps_reach_the_draws(tmp_path):
    model = NoiseDAModel(small_opt(tmp_path, **diffusion(timesteps=[900, 999])))
    model.feed_data({'gt': torch.empty(1000, 3, 1, 1)})
    drawn = model.draw().alpha_bar
    assert model.levels[999] <= drawn.min() and drawn.max() <= model.levels[899]


def test_only_needed_images_are_asked_for(tmp_path):
    read_diffusion_options(small_opt(tmp_path, datasets__train__dataroot_ref=None))
    read_diffusion_options(small_opt(
        tmp_path, datasets__train__dataroot_real=None, **diffusion(conditions=['syn'], residual_swap=False)))


@pytest.mark.parametrize('changes', [
    {},
    {'train__scheduler': {'type': 'MultiStepLR', 'milestones': [1], 'gamma': 0.5}},
    {'train__diffusion_opt': None, 'network_diffusion': None},
], ids=['joint', 'scheduler', 'vanilla'])
def test_options_are_never_changed(changes, tmp_path):
    opt = small_opt(tmp_path, **changes)
    before = copy.deepcopy(opt)
    model = NoiseDAModel(opt)
    for iteration in (1, 2):
        model.update_learning_rate(iteration)
        step(model, iteration, batch())
    model.save(0, 2)
    assert opt == before


def test_scheduler_drives_both_optimizers(tmp_path):
    scheduler = {'type': 'MultiStepLR', 'milestones': [1], 'gamma': 0.5}
    model = NoiseDAModel(small_opt(tmp_path, train__scheduler=scheduler))
    for iteration in (1, 2):
        model.update_learning_rate(iteration)
        step(model, iteration, batch())
    assert [optimizer.param_groups[0]['lr'] for optimizer in model.optimizers] == [0.5e-3, 1e-3]
