"""Activation checkpointing suits every network: same image, same gradient, same parameters' names."""
import copy

import pytest
import torch
from basicsr.archs import build_network
from tiny_networks import TINY

import noiseda_model  # noqa: F401  registers everything
from noiseda_arch.padding import pad_to_multiple, size_rule
from noiseda_model.engine import recompute_blocks

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.mark.parametrize('name', TINY)
def test_recomputing_changes_nothing(name):
    plain = build_network({'type': name, **TINY[name]})
    lean = copy.deepcopy(plain)
    recompute_blocks(lean)
    assert list(lean.state_dict()) == list(plain.state_dict())
    image = pad_to_multiple(torch.rand(2, 3, 16, 16), **size_rule(plain))
    outputs = []
    for net in (plain, lean):
        torch.manual_seed(3)  # dropout and stochastic depth
        output = net(image.clone())
        output.square().mean().backward()
        outputs.append(output)
    torch.testing.assert_close(*outputs)
    for one, other in zip(plain.buffers(), lean.buffers(), strict=True):
        torch.testing.assert_close(other, one)
    for one, other in zip(plain.parameters(), lean.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-7)
