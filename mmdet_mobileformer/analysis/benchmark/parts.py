"""Where the time of a model goes: each part's own, without that of the parts inside it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

#: Parts of the backbone and of the head's scales by class, as built and as deploy() leaves them.
#: What a block of the backbone does itself is to mix its tokens' logits.
_BY_CLASS = {
    "MobileToFormer": "Mobile→Former",
    "Former": "Former",
    "FormerToMobile": "Mobile←Former",
    "DynamicReLU": "dynamic ReLU",
    "MobileBlock": "Mobile",
    "DownsampleBlock": "Mobile",
    "TransformerSide": "feature side",
    "LiteSide": "feature side",
    "LiteBottleneck": "Mobile",
    "MobileFormerBlock": "token mixture",
    "FoldedMobile": "Mobile with the bridges",
    "FoldedTransformer": "feature side",
    "FoldedUpdate": "Mobile→Former's update",
    "FoldedFormer": "Former",
    "FoldedSlopes": "dynamic ReLU's slopes",
    "Products": "products of tokens",
    "FoldedBlock": "token mixture",
}
#: By the name that the part has in what is around it, which counts before its class.
_BY_NAME = {
    "stem": "stem",
    "start": "stem and first block",
    "adapt_position": "queries' position",
    "lite": "feature side with the bridges",
    "enlarge": "entry",
}
#: In a scale of the head, methods that are parts.
_SCALE_METHODS = {"enter": "entry", "features": "bridges"}
_PREDICTION = ("reg_ffn", "fc_reg", "fc_cls", "activate")
_PREDICTION_METHODS = ("refine_boxes", "boxes_of")


def parts_of(model: nn.Module) -> tuple[dict[nn.Module, str], list[tuple[nn.Module, str, str]]]:
    """Where parts begin.

    Our backbone and head are taken apart as the paper does; of other models every direct child of
    the detector is one part.

    Returns:
        The modules with which a part begins, and methods as (module, name, part). All else belongs
        to the part around it.
    """
    found: dict[nn.Module, str] = {}
    methods: list[tuple[nn.Module, str, str]] = []
    if _is_backbone(model) or _is_head(model):
        _walk(model, "", found, methods)
    for name, child in model.named_children():
        found.setdefault(child, name)
        _walk(child, "", found, methods)
    return found, methods


def _is_backbone(module: nn.Module) -> bool:
    return type(module).__name__ in ("MobileFormer", "FoldedMobileFormer")


def _is_head(module: nn.Module) -> bool:
    return hasattr(module, "scale_strides") and isinstance(getattr(module, "scales", None), nn.ModuleList)


def _walk(
    module: nn.Module,
    place: str,
    found: dict[nn.Module, str],
    methods: list[tuple[nn.Module, str, str]],
) -> None:
    """Find the parts inside a module; ``place`` is what their names begin with, '' outside of ours."""
    if _is_backbone(module):
        place = "backbone"
        found[module] = "backbone: rest"
    elif _is_head(module):
        _walk_head(module, found, methods)
        return
    elif place.startswith("head 1/"):
        methods += [
            (module, name, f"{place}: {part}")
            for name, part in _SCALE_METHODS.items()
            if hasattr(module, name)
        ]
    for name, child in module.named_children():
        if place and (part := _BY_NAME.get(name) or _by_class(child)):
            found[child] = f"{place}: {part}"
        _walk(child, place, found, methods)


def _walk_head(
    head: Any, found: dict[nn.Module, str], methods: list[tuple[nn.Module, str, str]]
) -> None:
    found[head] = "head: rest"
    methods += [
        (head, name, "head: prediction") for name in _PREDICTION_METHODS if hasattr(head, name)
    ]
    for name, child in head.named_children():
        if name in _PREDICTION:
            found[child] = "head: prediction"
        elif name == "scales":
            for stride, scale in zip(head.scale_strides, child):
                _walk(scale, f"head 1/{stride}", found, methods)
        elif name == "closing":
            found[child] = "head closing: Mobile→Former"
        elif name != "positional_encoding":
            _walk(child, "head", found, methods)


def _by_class(module: nn.Module) -> str | None:
    names = (cls.__name__ for cls in type(module).__mro__)
    return next((_BY_CLASS[name] for name in names if name in _BY_CLASS), None)


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
    modules, methods = parts_of(model)
    for module, part in modules.items():

        def before(_module: nn.Module, _args: Any, part: str = part) -> None:
            watch().enter(part)

        def after(_module: nn.Module, _args: Any, _output: Any) -> None:
            watch().leave()

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))
    for module, name, part in methods:
        setattr(module, name, _timed(getattr(module, name), part, watch))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, name, _ in methods:
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
