"""Faster convolutional networks on the CPU, with the same answers.

A batch normalisation that follows a convolution in an ``nn.Sequential`` becomes part of its weights, and
image tensors use the channels-last layout. Both are exact except for rounding. Other modules are left
unchanged.
"""

import itertools
from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def faster(model: nn.Module) -> int:
    """Optimise a float32 model in evaluation mode on the CPU in place; return the number of folded layers."""
    if model.training or any(p.device.type != "cpu" or p.dtype != torch.float32 for p in model.parameters()):
        return 0
    uses: Counter[int] = Counter(id(each) for _, each in model.named_modules(remove_duplicate=False))
    folded = sum([_fold(each, uses) for each in model.modules() if _is_chain(each)])
    if any(isinstance(each, nn.Conv2d) for each in model.modules()):
        model.to(memory_format=torch.channels_last)
    return folded


def _is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _fold(chain: Any, uses: Counter[int]) -> int:
    names = list(chain._modules)
    folded = 0
    for first, second in itertools.pairwise(names):
        conv, norm = chain._modules[first], chain._modules[second]
        if _is_plain(conv, nn.Conv2d, uses) and _is_plain(norm, nn.BatchNorm2d, uses):
            if norm.running_mean is None:  # it uses the statistics of each batch
                continue
            chain._modules[first] = fuse_conv_bn_eval(conv, norm)
            chain._modules[second] = nn.Identity()
            folded += 1
    return folded


def _is_plain(layer: Any, kind: type, uses: Counter[int]) -> bool:
    """Return whether a layer is of that class, used only once, and has no hooks."""
    is_watched = any(getattr(layer, hooks, None) for hooks in _HOOKS)
    return type(layer) is kind and uses[id(layer)] == 1 and not is_watched
