"""Where the time of a model goes: each part's own, without that of the parts inside it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from ...backbone import MobileFormer
from ...head import E2EMFHead
from ...layers import (
    DynamicReLU,
    Former,
    FormerToMobile,
    LiteBottleneck,
    MobileFormerBlock,
    MobileToFormer,
)
from ...layers.blocks import DownsampleBlock, MobileBlock

#: Parts of the backbone by their class. What a block does itself is to mix its tokens' logits.
_BACKBONE: dict[type[nn.Module], str] = {
    MobileToFormer: "Mobile→Former",
    Former: "Former",
    FormerToMobile: "Mobile←Former",
    DynamicReLU: "dynamic ReLU",
    MobileBlock: "Mobile",
    DownsampleBlock: "Mobile",
    LiteBottleneck: "Mobile",
    MobileFormerBlock: "token mixture",
}
#: Parts of a block of the head by their name.
_HEAD_BLOCK = {
    "mobile_to_former": "Mobile→Former",
    "former": "Former",
    "mobile": "feature side",
    "former_to_mobile": "Mobile←Former",
    "adapt_position": "queries' position",
}
_PREDICTION = ("reg_ffn", "fc_reg", "fc_cls", "activate")


def parts_of(model: nn.Module) -> dict[nn.Module, str]:
    """The modules with which a new part begins; all others belong to the part around them.

    Our backbone and head are taken apart as the paper does; of other models every direct child of
    the detector is one part.
    """
    found: dict[nn.Module, str] = {}
    if isinstance(model, (MobileFormer, E2EMFHead)):
        _take_apart(model, found)
        return found
    for name, child in model.named_children():
        found[child] = name
        _take_apart(child, found)
    return found


def _take_apart(module: nn.Module, found: dict[nn.Module, str]) -> None:
    if isinstance(module, MobileFormer):
        found[module] = "backbone: rest"
        found[module.stem] = "backbone: stem"
        for child in module.blocks.modules():
            kind = next((part for cls, part in _BACKBONE.items() if isinstance(child, cls)), None)
            if kind is not None:
                found[child] = f"backbone: {kind}"
    elif isinstance(module, E2EMFHead):
        found[module] = "head: rest"
        for name, child in module.named_children():
            if name in _PREDICTION:
                found[child] = "head: prediction"
        if module.closing is not None:
            found[module.closing] = "head closing: Mobile→Former"
        for stride, scale in zip(module.scale_strides, module.scales):
            for name, child in scale.named_children():
                if name != "blocks":
                    found[child] = f"head 1/{stride}: entry"
            for name, child in scale.named_modules():
                part = _HEAD_BLOCK.get(name.rpartition(".")[2])
                # blocks.0.mobile, but not what is inside it
                if part is not None and name.count(".") == 2:
                    found[child] = f"head 1/{stride}: {part}"


def _methods(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Module, method and part, for what is no module's forward pass."""
    for module in model.modules():
        if isinstance(module, E2EMFHead):
            yield module, "_refine_boxes", "head: prediction"
            for stride, scale in zip(module.scale_strides, module.scales):
                yield scale, "enter", f"head 1/{stride}: entry"


class Stopwatch:
    """Time goes to the part that was entered last and not yet left."""

    def __init__(self, outermost: str) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open = [outermost]
        self._since = time.perf_counter()

    def _book(self) -> None:
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def enter(self, part: str) -> None:
        """A part begins."""
        self._book()
        self._open.append(part)

    def leave(self) -> None:
        """It ends."""
        self._book()
        self._open.pop()

    def stop(self) -> None:
        """The whole ends."""
        self._book()


@contextmanager
def watched(model: nn.Module, watch: Callable[[], Stopwatch]) -> Iterator[None]:
    """Tell a stopwatch, fetched anew for each event, of every part that begins and ends."""
    handles: list[Any] = []
    for module, part in parts_of(model).items():

        def before(_module: nn.Module, _args: Any, part: str = part) -> None:
            watch().enter(part)

        def after(_module: nn.Module, _args: Any, _output: Any) -> None:
            watch().leave()

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))
    wrapped = list(_methods(model))
    for module, name, part in wrapped:
        setattr(module, name, _timed(getattr(module, name), part, watch))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, name, _ in wrapped:
            delattr(module, name)


def _timed(
    function: Callable[..., Any], part: str, watch: Callable[[], Stopwatch]
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        watch().enter(part)
        try:
            return function(*args, **kwargs)
        finally:
            watch().leave()

    return call


def breakdown(model: nn.Module, run: Callable[[], Any], runs: int) -> dict[str, float]:
    """Median milliseconds of every part over some runs, in the order of their first call.

    Args:
        model: What ``run`` runs, eagerly.
        run: A forward pass.
        runs: How many, after one that is not timed.
    """
    watches: list[Stopwatch] = []
    with watched(model, lambda: watches[-1]):
        for _ in range(runs + 1):
            watches.append(Stopwatch("rest"))
            run()
            watches[-1].stop()
    names = list(dict.fromkeys(part for watch in watches for part in watch.seconds))
    return {
        name: round(1e3 * float(np.median([watch.seconds[name] for watch in watches[1:]])), 3)
        for name in names
    }
