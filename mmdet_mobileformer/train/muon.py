"""Muon for matrices, AdamW for all else: more is learned per step (ours to choose; not the paper's)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, get_rank, get_world_size
from mmengine.registry import OPTIMIZERS
from torch import Tensor

#: Coefficients of the quintic that drives singular values towards one, and how often it is applied:
#: those of torch.optim.Muon.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
#: An orthogonal update, made as large as AdamW's usually are: then one learning rate suits both.
RMS_OF_ADAMW = 0.2
#: Least size of an update (Frobenius norm) that is made orthogonal, torch.optim.Muon's. What is smaller is no
#: direction to go: the average of gradients that have ended. Where squares underflow, the size is wrong and
#: the iteration diverges.
LEAST_SIZE = 1e-7
#: Matrices with fewer rows or columns are better off with a rate for each weight.
LEAST_SIDE = 8


@OPTIMIZERS.register_module()
class MuonAdamW(torch.optim.AdamW):
    """Muon (https://kellerjordan.github.io/posts/muon/) for matrices, AdamW for the rest.

    A matrix moves by its gradients' average, made orthogonal: along all its directions alike, not only
    along the few that dominate the gradient. Kernels of convolutions count as matrices of (output,
    everything else). Depthwise kernels, norms, biases, tokens and predictions of few channels stay
    AdamW's, as does every group of parameters with ``muon=False``: so are embeddings marked by
    MergedOptimWrapperConstructor where there is a ``paramwise_cfg``.

    torch.optim.Muon takes matrices alone, no kernels, and goes over them one by one, which is slow for
    many small ones. Here those of a shape are one batch, and the processes of a distributed training,
    whose gradients DDP has made the same, make a part of each batch orthogonal and tell the others.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate of both; a matrix (A, B) moves by ``0.2 * sqrt(max(A, B)) * lr`` along each
            direction, so that its weights move as far as AdamW's (arXiv 2502.16982).
        momentum: Share of the average of gradients that the next step keeps, in matrices.
        bf16: Precision of the iteration that makes updates orthogonal; None for bfloat16 where the
            device multiplies that faster, else float32.
        kwargs: Arguments of AdamW. Its ``weight_decay`` is decoupled in both.

    Raises:
        ValueError: If ``momentum`` is not in [0, 1).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        bf16: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"MuonAdamW got momentum={momentum}: give a number from 0 to below 1")
        self.momentum = momentum
        self.bf16 = bf16
        super().__init__(params, lr=lr, **kwargs)
        # A fused AdamW would leave it to this step to undo a GradScaler's factor.
        self._step_supports_amp_scaling = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as one of matrices and one of the rest."""
        members = param_group["params"]
        members = [members] if isinstance(members, Tensor) else list(members)
        wanted = param_group.get("muon", True)
        matrices = [parameter for parameter in members if wanted and is_matrix(parameter)]
        rest = [parameter for parameter in members if not (wanted and is_matrix(parameter))]
        for muon, part in ((True, matrices), (False, rest)):
            if part:
                super().add_param_group({**param_group, "params": part, "muon": muon})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step; ``closure``, if given, computes the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found = [
            (parameter, parameter.grad, group)
            for group in self.param_groups
            for parameter in group["params"]
            if group["muon"] and parameter.grad is not None
        ]
        # Without a gradient, AdamW leaves them alone.
        for parameter, _, _ in found:
            parameter.grad = None
        super().step()
        for parameter, gradient, _ in found:
            parameter.grad = gradient
        self._move_matrices(found)
        return loss

    def _move_matrices(self, found: list[tuple[Tensor, Tensor, dict[str, Any]]]) -> None:
        """Move every matrix by its orthogonal update; those of a shape are one batch."""
        batches: dict[tuple[int, ...], list[tuple[Tensor, Tensor, dict[str, Any]]]] = {}
        for parameter, gradient, group in found:
            state = self.state[parameter]
            if not state:
                # AdamW looks for a step when it loads its state.
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["momentum_buffer"] = torch.zeros_like(gradient)
            state["step"] += 1
            average = state["momentum_buffer"].lerp_(gradient, 1 - self.momentum)
            # Nesterov's: the average with this gradient once more.
            update = gradient.lerp(average, self.momentum).flatten(1)
            wide = update if update.shape[0] <= update.shape[1] else update.T
            batches.setdefault(tuple(wide.shape), []).append((parameter, wide, group))
        stacks = [torch.stack([update for _, update, _ in batch]) for batch in batches.values()]
        for (shape, batch), updates in zip(batches.items(), self._made_orthogonal(stacks)):
            length = RMS_OF_ADAMW * math.sqrt(shape[1])
            for (parameter, _, group), update in zip(batch, updates):
                is_tall = parameter.shape[0] > shape[0]
                update = (update.T if is_tall else update).reshape(parameter.shape)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * length)

    def _made_orthogonal(self, stacks: list[Tensor]) -> list[Tensor]:
        """Stacks of matrices made orthogonal; processes, whose gradients are the same, share the work."""
        if not stacks:
            return []
        bf16 = _multiplies_bf16_faster(stacks[0].device) if self.bf16 is None else self.bf16
        ranks, rank = get_world_size(), get_rank()
        parts = []
        for index, stack in enumerate(stacks):
            share = -(-len(stack) // ranks)
            # In turns, so that not one process has all the stacks of one.
            first = (rank + index) % ranks * share
            part = stack[first : first + share]
            done = orthogonal(part.bfloat16() if bf16 else part).to(stack.dtype)
            parts.append(F.pad(done, (0, 0, 0, 0, 0, share - len(part))))
        if ranks == 1:
            return parts
        sizes = [part.numel() for part in parts]
        gathered = all_gather(torch.cat([part.flatten() for part in parts]))
        by_rank = [whole.split(sizes) for whole in gathered]
        made = []
        for index, (stack, part) in enumerate(zip(stacks, parts)):
            turns = [by_rank[(turn - index) % ranks][index] for turn in range(ranks)]
            made.append(torch.cat([turn.view_as(part) for turn in turns])[: len(stack)])
        return made


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon suits a parameter: a matrix, or the kernels of a convolution over all channels."""
    if parameter.dim() not in (2, 4) or (parameter.dim() == 4 and parameter.shape[1] == 1):
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= LEAST_SIDE


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices whose singular values are about one, by Newton and Schulz.

    Those smaller than :data:`LEAST_SIZE` stay the smaller the smaller they are.

    Args:
        matrices: (N, A, B) with A <= B.

    Returns:
        (N, A, B); zeros stay zeros.
    """
    a, b, c = QUINTIC
    size = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    matrices = matrices / size.clamp(min=LEAST_SIZE)
    for _ in range(ITERATIONS):
        gram = matrices @ matrices.transpose(1, 2)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        matrices = torch.baddbmm(matrices, polynomial, matrices, beta=a)
    return matrices


def _multiplies_bf16_faster(device: torch.device) -> bool:
    """Whether bfloat16 pays on a device: on CPUs that have instructions for it."""
    if device.type != "cpu":
        return True
    # Missing in older versions of torch.
    knows = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(knows is not None and knows())
