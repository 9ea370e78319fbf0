"""Layers are folded where that is exact but for rounding, and left alone where it cannot be seen to be."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from ts.torch_handler.faster import faster
from ts.torch_handler.model_files import wants_speed


def _trained(*layers: nn.Module) -> nn.Sequential:
    """Return a chain whose normalisations have statistics."""
    torch.manual_seed(3)
    net = nn.Sequential(*layers)
    for _ in range(3):
        net(torch.randn(4, 3, 9, 9) * 2 + 1)
    return net.eval()


def _pair() -> nn.Sequential:
    return _trained(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU6())


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.BatchNorm2d(3))

    def forward(self, x: Any) -> Any:
        return x + self.branch(x)


class _Backwards(nn.Sequential):
    def forward(self, x: Any) -> Any:
        for layer in reversed(list(self)):
            x = layer(x)
        return x


def _watched() -> nn.Sequential:
    net = _pair()
    net[0].register_forward_hook(lambda module, given, out: out * 2)
    return net


def _shared() -> nn.Sequential:
    conv, norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    return _trained(conv, norm, conv)


@pytest.mark.clause("TS-A4")
@pytest.mark.parametrize(
    ("make", "folded"),
    [
        (_pair, 1),
        (lambda: _trained(_Residual(), _Residual()), 2),
        (lambda: _trained(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)), 0),
        (lambda: _trained(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), 0),
        (lambda: _trained(_Backwards(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3))), 0),
        (_watched, 0),
        (_shared, 0),
        (lambda: _pair().double(), 0),
        (lambda: _pair().train(), 0),
    ],
)
def test_layers_are_folded_where_nobody_can_tell(make: Callable[[], nn.Sequential], folded: int) -> None:
    net = make()
    same = copy.deepcopy(net)
    x = torch.randn(2, 3, 9, 9, dtype=next(net.parameters()).dtype)
    assert faster(net) == folded
    with torch.inference_mode():
        assert torch.allclose(net(x), same(x), rtol=1e-5, atol=1e-5)


@pytest.mark.clause("TS-A4")
def test_a_net_without_convolutions_stays_bit_for_bit() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).eval()
    x = torch.randn(3, 4)
    before = net(x)
    assert faster(net) == 0
    assert torch.equal(net(x), before)


@pytest.mark.clause("TS-Y4")
@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (None, True),
        ({}, True),
        ({"handler": "a text"}, True),
        ({"handler": {"optimize": True}}, True),
        ({"handler": {"optimize": False}}, False),
    ],
)
def test_owners_may_want_every_bit(config: Any, wanted: bool) -> None:
    assert wants_speed(config) is wanted
