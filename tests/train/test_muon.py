"""train/muon.py."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from mmdet_mobileformer.train import muon
from mmdet_mobileformer.train.muon import MuonAdamW, orthogonal

SETTINGS = dict(lr=0.01, weight_decay=0.1)


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def steps(pairs: list[tuple[torch.optim.Optimizer, list[nn.Parameter]]], count: int = 4) -> None:
    """Steps of optimizers of equal parameters, which may be shaped otherwise, with equal gradients."""
    torch.manual_seed(1)
    for _ in range(count):
        gradients = [torch.randn_like(parameter) for parameter in pairs[0][1]]
        for optimizer, members in pairs:
            for parameter, gradient in zip(members, gradients):
                parameter.grad = gradient.reshape(parameter.shape).clone()
            optimizer.step()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_matrices_and_kernels_move_as_torchs_muon_moves_matrices() -> None:
    ours = parameters((16, 24), (32, 9), (16, 4, 3, 3), (24, 16, 1, 1), (16, 24))
    theirs = [nn.Parameter(parameter.detach().flatten(1).clone()) for parameter in ours]
    steps([
        (MuonAdamW(ours, bf16=True, **SETTINGS), ours),
        (torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **SETTINGS), theirs),
    ])
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one.flatten(1), other)


def test_all_else_moves_as_adamw_moves_it() -> None:
    # Norms, tokens, depthwise kernels, predictions of few channels; and a matrix that is to be AdamW's.
    ours = parameters((16,), (1, 6, 16), (16, 1, 3, 3), (4, 16), (16, 16))
    theirs = copy.deepcopy(ours)
    groups = [dict(params=ours[:4]), dict(params=ours[4:], muon=False)]
    steps([(MuonAdamW(groups, **SETTINGS), ours), (torch.optim.AdamW(theirs, **SETTINGS), theirs)])
    for one, other in zip(ours, theirs):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
def test_updates_are_about_orthogonal_however_large(dtype: torch.dtype, scale: float) -> None:
    matrices = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(0))
    # Singular values that differ a hundredfold.
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    matrices = left @ torch.diag(torch.logspace(-2, 0, 16)) @ right * scale
    found = torch.linalg.svdvals(orthogonal(matrices.to(dtype)).float())
    assert found.max() < 1.3 and found.min() > 0.3
    assert not orthogonal(torch.zeros(1, 8, 8)).any()


@pytest.mark.parametrize("exponent", range(8, 46, 2))
def test_gradients_that_have_ended_move_nothing(exponent: int) -> None:
    """As the average fades, its squares underflow: at once where denormals are flushed, as in training."""
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    try:
        made = orthogonal(torch.randn(1, 32, 384) * 10.0**-exponent)
    finally:
        torch.set_flush_denormal(False)
    # The random matrix has a norm of about 110, and singular values of about 20.
    assert made.abs().max() < (1.0 if exponent < 12 else 0.1)
    assert made.isfinite().all()


def test_gradients_stay_and_parameters_without_any_do_not_move() -> None:
    matrix, still, bias = members = parameters((16, 16), (8, 8), (16,))
    before = [parameter.detach().clone() for parameter in members]
    optimizer = MuonAdamW(members, **SETTINGS)
    matrix.grad, bias.grad = torch.ones_like(matrix), torch.ones_like(bias)

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        return torch.tensor(3.0)

    assert optimizer.step(closure) == 3
    assert matrix.grad is not None and torch.equal(matrix.grad, torch.ones(16, 16))
    moved = [not torch.equal(parameter, old) for parameter, old in zip(members, before)]
    assert moved == [True, False, True] and still.grad is None


def test_a_resumed_optimizer_goes_on_as_the_first() -> None:
    first = parameters((16, 8), (16,))
    optimizer = MuonAdamW(first, **SETTINGS)
    steps([(optimizer, first)])
    second = copy.deepcopy(first)
    resumed = MuonAdamW(second, **SETTINGS)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps([(optimizer, first), (resumed, second)])
    for one, other in zip(first, second):
        assert torch.equal(one, other)


def test_groups_keep_their_settings() -> None:
    matrix, bias, other = parameters((8, 8), (8,), (16, 8))
    optimizer = MuonAdamW([dict(params=[matrix, bias], lr=0.5), dict(params=other)], lr=0.1)
    found = [(group["lr"], group["muon"], len(group["params"])) for group in optimizer.param_groups]
    assert found == [(0.5, True, 1), (0.5, False, 1), (0.1, True, 1)]
    with pytest.raises(ValueError, match=r"momentum=1.0: give a number from 0 to below 1"):
        MuonAdamW([matrix], momentum=1.0)


def test_configs_get_it_fused_and_with_tables_of_vectors_left_to_adamw() -> None:
    model = nn.ModuleDict(dict(table=nn.Embedding(16, 8), layer=nn.Linear(8, 16)))
    wrapper = dict(
        type="OptimWrapper", constructor="MergedOptimWrapperConstructor",
        optimizer=dict(type="MuonAdamW", **SETTINGS), paramwise_cfg=dict(bias_decay_mult=0.0),
    )
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    assert isinstance(optimizer, MuonAdamW) and optimizer.defaults["fused"] is True
    by_muon = [p for group in optimizer.param_groups if group["muon"] for p in group["params"]]
    assert [id(parameter) for parameter in by_muon] == [id(model["layer"].weight)]
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays[id(model["layer"].bias)] == 0 and decays[id(model["table"].weight)] == 0.1


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_the_work_and_move_alike(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(16, 24), (8, 8), (16, 24), (24, 16), (8, 32), (16, 24), (16,)]
    alone = parameters(*shapes)
    told: dict[int, Tensor] = {}
    seen: list[int] = []

    def counted(matrices: Tensor) -> Tensor:
        seen.append(len(matrices))
        return orthogonal(matrices)

    def step_of(rank: int) -> list[nn.Parameter]:
        members = copy.deepcopy(alone)

        def all_gather(mine: Tensor) -> list[Tensor]:
            told[rank] = mine.clone()
            return [told.get(other, torch.zeros_like(mine)) for other in range(ranks)]

        monkeypatch.setattr(muon, "get_world_size", lambda: ranks)
        monkeypatch.setattr(muon, "get_rank", lambda: rank)
        monkeypatch.setattr(muon, "all_gather", all_gather)
        monkeypatch.setattr(muon, "orthogonal", counted)
        steps([(MuonAdamW(members, **SETTINGS), members)], count=1)
        return members

    # First what each would tell the others, then with all of it known.
    for rank in range(ranks):
        step_of(rank)
    # Each of the six matrices once, by one of them.
    assert sum(seen) == 6
    moved = [step_of(rank) for rank in range(ranks)]
    monkeypatch.undo()
    steps([(MuonAdamW(alone, **SETTINGS), alone)], count=1)
    for members in moved:
        for one, other in zip(members, alone):
            torch.testing.assert_close(one, other)
