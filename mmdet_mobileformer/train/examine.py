"""Where a NaN or an infinity of a training step comes from (ours)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Finding(NamedTuple):
    """What a step's forward and backward gave.

    Attributes:
        losses: Every loss by name.
        where: The first thing that is not finite, in words; None if all is finite.
    """

    losses: dict[str, float]
    where: str | None

    def bad_losses(self) -> str:
        """The losses that are not finite, as ``loss_iou is nan``."""
        bad = {k: v for k, v in self.losses.items() if not math.isfinite(v)}
        named = [f"{k} is {v}" for k, v in bad.items() if k != "loss" or len(bad) == 1]
        rest = f" and {len(named) - 4} more" if len(named) > 4 else ""
        return ", ".join(named[:4]) + rest


def is_finite(tensors: list[Tensor]) -> bool:
    """Whether all elements of all tensors are finite; usually one synchronisation with the device."""
    tensors = [tensor.detach() for tensor in tensors]
    dense = [tensor for tensor in tensors if not tensor.is_sparse and tensor.numel()]
    sparse = [tensor.coalesce().values() for tensor in tensors if tensor.is_sparse]
    dense += [tensor for tensor in sparse if tensor.numel()]
    if not dense:
        return True
    # The usual norm is fast, and finite only if every element is; the largest magnitude tells a sum
    # that is too large from an element that is not finite.
    return any(_all_finite(torch._foreach_norm(dense, order)) for order in (2.0, float("inf")))


def _all_finite(norms: Sequence[Tensor]) -> bool:
    values = [norm.to(norms[0].device, torch.float64) for norm in norms]
    return bool(torch.stack(values).isfinite().all())


def examine(model: Any, batch: Any, context: Any = None) -> Finding:
    """Run one forward and backward and find the first thing that is not finite.

    Args:
        model: A detector of mmdet in training mode; its gradients are overwritten.
        batch: As a data loader gives it.
        context: Context manager around the forward, such as autocast; it also hands out the losses
            as they are before scaling.

    Returns:
        The losses, and in the order of the computation: a weight, an input image, the layer whose
        output is not finite while its inputs are, a loss, or the layer whose gradient is first.
    """
    model.zero_grad()
    weights = [name for name, value in model.named_parameters() if not is_finite([value])]
    data = model.data_preprocessor(batch, True)
    images = _tensors(data.get("inputs") if isinstance(data, dict) else data)
    losses: dict[str, float] = {}
    watch = _Watch(model)
    try:
        with nullcontext() if context is None else context:
            parts = model._run_forward(data, mode="loss")
        total, log = model.parse_losses(parts)
        losses = {name: float(value.detach()) for name, value in log.items()}
        where = watch.found
        if where is None and math.isfinite(losses["loss"]):
            total.backward()
            where = watch.found
        elif where is None:
            where = "the losses, computed from layers that are all finite"
    except Exception:
        # Code behind the layer may fail on what is not finite.
        if watch.found is None:
            raise
        where = watch.found
    finally:
        watch.close()
    if weights:
        where = f"the weight {weights[0]}, before the step"
    elif not is_finite(images):
        where = "the images after the preprocessor"
    return Finding(losses, where)


class _Edge(NamedTuple):
    """A tensor between layers: who made it, who takes it, and itself, so that its id stays its own."""

    producer: str
    consumers: list[str]
    tensor: Tensor


class _Watch:
    """Hooks on every layer that note the first output and the first gradient that is not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.found: str | None = None
        self.handles: list[Any] = []
        self.edges: dict[int, _Edge] = {}
        for name, module in model.named_modules():
            if name and not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                before, after = self._before(name), self._after(name)
                self.handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                self.handles.append(module.register_forward_hook(after, with_kwargs=True))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.handles.append(parameter.register_hook(self._parameter(name)))

    def _before(self, name: str) -> Any:
        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            for tensor in _tensors((args, kwargs)):
                self._edge(tensor, "").consumers.append(name)

        return note

    def _after(self, name: str) -> Any:
        def check(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                taken = self._edge(tensor, name).consumers
                if name in taken:
                    taken.remove(name)  # it hands its input on, as dropout of 0 does
            if self.found is not None or is_finite(_tensors(output)):
                return
            kind = type(module).__name__
            if is_finite(_tensors((args, kwargs))):
                self.found = f"the output of {name} ({kind})"
            else:
                # No layer gave this input, so the layer around it computed it.
                around = name.rpartition(".")[0] or "the detector"
                self.found = f"what {around} computes before {name} ({kind})"

        return check

    def _edge(self, tensor: Tensor, producer: str) -> _Edge:
        if id(tensor) not in self.edges:
            edge = self.edges[id(tensor)] = _Edge(producer, [], tensor)
            if tensor.requires_grad:
                self.handles.append(tensor.register_hook(self._gradient(edge)))
        return self.edges[id(tensor)]

    def _gradient(self, edge: _Edge) -> Any:
        def check(gradient: Tensor) -> None:
            if self.found is None and not is_finite([gradient]):
                names = edge.consumers
                inner = [n for n in names if not any(o.startswith(f"{n}.") for o in names)]
                end = " and ".join(dict.fromkeys(inner)) or "the losses"
                start = (
                    f"what {edge.producer} gives to {end}" if edge.producer else f"{end}'s input"
                )
                self.found = f"the gradient of {start}; all layers and losses are finite"

        return check

    def _parameter(self, name: str) -> Any:
        def check(gradient: Tensor) -> None:
            if self.found is None and not is_finite([gradient]):
                self.found = f"the gradient of {name}; all layers and losses are finite"

        return check

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.edges.clear()


def _tensors(value: Any) -> list[Tensor]:
    """Floating-point tensors in nested containers and data samples."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "all_items"):  # mmengine's data elements
        value = [item for _, item in value.items()]
    elif hasattr(value, "tensor") and isinstance(value.tensor, Tensor):  # mmdet's boxes
        value = [value.tensor]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
