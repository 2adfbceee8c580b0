"""What a training run will need: memory of a GPU, iterations, arithmetic (ours).

Counted without a GPU and without computing anything: the model's forward pass runs in training mode
on torch's fake tensors, which have shapes only, and what autograd keeps for the backward pass is
added up. The ``meta`` device will not do: autograd functions are left out there.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from .flops import _call_of, _one_line, check_shape, count

#: A weight, its gradient and AdamW's two moments, in float32.
BYTES_PER_PARAMETER = 16
#: A backward pass multiplies twice as much as the forward pass: for the inputs and for the weights.
PASSES = 3


@dataclass(frozen=True)
class TrainCost:
    """What one run needs.

    Attributes:
        params: Parameters of the model.
        kept: Bytes that the forward pass keeps for the backward pass, per GPU.
        madds: Multiply-adds of a training step, per GPU.
        iterations: Iterations of an epoch.
        epochs: Epochs of the recipe.
    """

    params: int
    kept: int
    madds: int
    iterations: int
    epochs: int

    @property
    def state(self) -> int:
        """Bytes of weights, gradients and AdamW's moments."""
        return self.params * BYTES_PER_PARAMETER

    def hours(self, seconds: float) -> float:
        """Hours of the whole run at ``seconds`` per iteration."""
        return self.iterations * self.epochs * seconds / 3600


def train_cost(
    model: nn.Module,
    shape: tuple[int, int],
    batch: int,
    gpus: int,
    images: int,
    epochs: int,
) -> TrainCost:
    """Count the cost of training ``model``.

    Args:
        model: An mmdet detector, or any module that takes one image batch; left as it was.
        shape: (H, W) in pixels of a batch, each at least 32.
        batch: Images per GPU.
        gpus: Number of GPUs.
        images: Images of the training set.
        epochs: Epochs.

    Raises:
        ValueError: If a number is below 1, the shape too small, or the model does not run so.
    """
    for name, value in dict(batch=batch, gpus=gpus, images=images, epochs=epochs).items():
        if value < 1:
            raise ValueError(f"{name} is {value}, but must be at least 1")
    counted = count(model, shape, batch)
    return TrainCost(
        params=counted.total_params,
        kept=kept_bytes(model, shape, batch),
        madds=PASSES * counted.total_madds,
        iterations=math.ceil(images / (batch * gpus)),
        epochs=epochs,
    )


def kept_bytes(model: nn.Module, shape: tuple[int, int], batch: int = 1) -> int:
    """Bytes of the tensors that a forward pass in training keeps for the backward pass.

    A storage counts once, however many operators keep it; parameters and buffers do not count. The
    loss is left out: it is small beside the features. Activation checkpointing is not seen.

    Args:
        model: As in :func:`train_cost`.
        shape: (H, W) in pixels, each at least 32.
        batch: Images in the batch.

    Raises:
        ValueError: If the model does not run on such a batch.
    """
    check_shape(shape)
    called = _Called(copy.deepcopy(model).train())
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    own: dict[str, Tensor] = {
        name: mode.from_tensor(tensor)
        for name, tensor in (*called.named_parameters(), *called.named_buffers())
    }
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        # The tensor is held, so that no later storage can take its address.
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    try:
        with mode, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = functional_call(called, own, (torch.zeros(batch, 3, *shape),))
    except Exception as error:
        size = "x".join(str(n) for n in (batch, 3, *shape))
        raise ValueError(f"{type(model).__name__} does not run on {size}: {_one_line(error)}") from error
    del result
    for tensor in own.values():
        kept.pop(tensor.untyped_storage()._cdata, None)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class _Called(nn.Module):
    """A model as a module that takes images alone, for functional_call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """Images (N, 3, H, W) to whatever the model gives."""
        return _call_of(self.model, images)()


def seconds_per_step(cfg: Any, size: int, batch: int = 2, steps: int = 3) -> float:
    """CPU time of a training step of the config's detector on this machine, all threads together.

    Unlike the clock it hardly depends on what else the machine does. The fastest of ``steps`` counts.

    Args:
        cfg: The config.
        size: Side of the images in pixels.
        batch: Images in the batch.
        steps: Steps that are timed, after one that is not.
    """
    from ..train.smoke import build_detector, random_batch

    model = build_detector(cfg).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    fastest = math.inf
    for step in range(steps + 1):
        data = model.data_preprocessor(random_batch(batch, size), True)
        start = time.process_time()
        loss, _ = model.parse_losses(model(**data, mode="loss"))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step:
            fastest = min(fastest, time.process_time() - start)
    return fastest
