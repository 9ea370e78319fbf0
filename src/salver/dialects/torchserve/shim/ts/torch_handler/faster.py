"""How does a network of convolutions run faster on a CPU, and say the same?

A batch normalisation that follows a convolution in an ``nn.Sequential`` becomes a part of its weights, and
tensors of images lie channels last. Both are exact but for rounding. What cannot be seen to be so is left
alone.
"""

import itertools
from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def faster(model: nn.Module) -> int:
    """Change an evaluating model of 32-bit numbers on the CPU in place; how many layers it has less."""
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
            if norm.running_mean is None:  # it looks at each batch by itself
                continue
            chain._modules[first] = fuse_conv_bn_eval(conv, norm)
            chain._modules[second] = nn.Identity()
            folded += 1
    return folded


def _is_plain(layer: Any, kind: type, uses: Counter[int]) -> bool:
    """Is it of that kind, used nowhere else, and watched by nobody?"""
    is_watched = any(getattr(layer, hooks, None) for hooks in _HOOKS)
    return type(layer) is kind and uses[id(layer)] == 1 and not is_watched
