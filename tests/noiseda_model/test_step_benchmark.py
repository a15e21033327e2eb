"""What scripts/benchmark.py step compares is the same step, with the hinge held as it says."""
from pathlib import Path

import pytest

from noiseda_model import benchmark


@pytest.fixture
def opt(tmp_path):
    text = (Path(__file__).parents[2] / 'options/train/train_sidd.yml').read_text()
    for given, small in (('width: S', 'width: 4, depth: 2'),
                         ('type: ConditionalUNet', 'type: ConditionalUNet, width: 32, multipliers: [1], blocks: 1')):
        assert given in text
        text = text.replace(given, small)
    (tmp_path / 'opt.yml').write_text(text)
    return {**benchmark.options(str(tmp_path / 'opt.yml'), samples=2, size=16), 'num_gpu': 0}


@pytest.mark.parametrize('hinge', benchmark.MARGINS)
def test_the_literal_order_and_ours_lose_the_same(hinge, opt, monkeypatch):
    seen, step = [], benchmark.LiteralModel.optimize_parameters

    def literal_step(model, current_iter):
        step(model, current_iter)
        seen.append(model.log['l_con'] > 0)

    monkeypatch.setattr(benchmark.LiteralModel, 'optimize_parameters', literal_step)
    assert benchmark.loss_difference(opt, {}, steps=3, hinge=hinge) < 1e-5
    assert seen == [hinge == 'open'] * 3
    assert benchmark.loss_difference(opt, {'precision': 'bf16'}, steps=3, hinge=hinge) > 1e-5


def test_an_open_hinge_costs_more_and_a_row_says_what_it_measured(opt):
    told = []
    result = dict(benchmark.compare(opt, ['fp32', 'bf16, two parts'], 1, ('closed', 'open'), tell=told.append))
    assert [line.split(':')[0] for line in told] == [benchmark.LITERAL, 'fp32', 'bf16, two parts']
    flops = {hinge: {row['name']: row['flops'] for row in rows} for hinge, rows in result.items()}
    assert flops['closed'][benchmark.LITERAL] == flops['open'][benchmark.LITERAL] == flops['open']['fp32']
    assert flops['closed']['fp32'] < flops['open']['fp32']
    assert flops['open']['bf16, two parts'] == flops['open']['fp32']  # not computed twice
    for row in result['open']:
        assert row['share_of_peak'] > 0 and row['seconds'] > 0 and row['memory'] is None
        assert row['speedup'] == 1 or row['name'] != benchmark.LITERAL


@pytest.mark.parametrize('hinge', benchmark.MARGINS)
def test_memory_is_measured_in_the_state_it_names(hinge, opt, monkeypatch):
    """What a step keeps follows the hinge of the step before, so the first one must not be of the other state."""
    expected, timed = [], benchmark.timed

    def watched(model, *arguments):
        expected.append(model.hinge_was_open)
        return timed(model, *arguments)

    monkeypatch.setattr(benchmark, 'timed', watched)
    benchmark.peak_memory(opt, {}, hinge)
    assert expected == [hinge == 'open'] * 2
