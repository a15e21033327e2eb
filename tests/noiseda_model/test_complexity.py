"""Costs against hand-counted ones, and the table beside the paper's."""
import csv

import pytest
import torch
from cli import ROOT, run
from torch import nn

from noiseda_basicsr import InputError
from noiseda_model.complexity import build, markdown, measure, rows


class TwoLayers(nn.Sequential):

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Conv2d(8, 3, 1))


def test_costs_of_two_convolutions_counted_by_hand():
    cost = measure(TwoLayers(), 16, seconds=0)
    assert cost['parameters'] == 8 * (3 * 9 + 1) + 3 * (8 + 1)
    assert cost['macs'] == 16 * 16 * (8 * 3 * 9 + 3 * 8)
    assert cost['activations'] == 4 * 16 * 16 * (3 + 8)  # the image, and the sigmoid's output once: both need it
    assert cost['images_per_second'] > 0


def test_the_image_is_padded_as_the_network_needs_it():
    net = TwoLayers()
    net.size_multiple, net.size_minimum = 8, 24
    assert measure(net, 17, seconds=0)['macs'] == 24 * 24 * (8 * 3 * 9 + 3 * 8)


def test_the_table_tells_where_ours_differs():
    cost = {'parameters': 8.56e6, 'macs': 6.24e9, 'activations': 2**20, 'images_per_second': 12.345}
    head, unet, other = rows({'Unet-S': cost, 'mine': cost}, 128)
    assert unet == ['Unet-S', '8.56', '6.24', '1', '12.3', '8.56', '12.48 (128x128)', 'parameters +0.0%, GMACs -50.0%']
    assert other[-3:] == ['', '', '']
    assert 'GMACs' not in rows({'Unet-S': cost}, 256)[1][-1]  # the paper has none at this size
    assert markdown([head, unet]).splitlines()[1] == '|---|' + '---:|' * 7


def test_networks_without_default_arguments_are_explained():
    with pytest.raises(InputError, match='num_in_ch'):
        build('RCAN')
    with pytest.raises(InputError, match='no such option file'):
        build('missing.yml')


def test_the_command(tmp_path):
    (tmp_path / 'tiny.yml').write_text('network_g: {type: RestorationUNet, width: 4, depth: 2}')
    process = run([ROOT / 'scripts/complexity.py', 'tiny.yml', '--size', '32', '--csv', 'costs.csv'], tmp_path)
    assert process.returncode == 0, process.stdout
    assert '| tiny.yml |' in process.stdout and f'PyTorch {torch.__version__}' in process.stdout
    with open(tmp_path / 'costs.csv') as file:
        assert [row[0] for row in csv.reader(file)] == ['network', 'tiny.yml']
