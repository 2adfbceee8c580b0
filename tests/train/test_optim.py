"""train/optim.py."""

from __future__ import annotations

import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmdet_mobileformer.train.optim import MergedOptimWrapperConstructor

WRAPPER = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.1, weight_decay=0.05))
PARAMWISE = dict(
    norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={"backbone": dict(lr_mult=2.0)}
)


def test_every_parameter_keeps_its_settings_in_few_groups() -> None:
    model = nn.ModuleDict(
        dict(
            backbone=nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 4)),
            head=nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
        )
    )
    settings = []
    for constructor in (DefaultOptimWrapperConstructor, MergedOptimWrapperConstructor):
        optimizer = constructor(WRAPPER, PARAMWISE)(model).optimizer
        settings.append(
            {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
        )
        groups = len(optimizer.param_groups)
    assert settings[0] == settings[1]
    assert len(settings[1]) == len(list(model.parameters()))
    # The backbone, matrices of the head, and its norms and biases.
    assert groups == 3


def test_on_cpus_the_optimizer_is_fused_unless_the_config_says_otherwise() -> None:
    model = nn.Linear(2, 2)
    assert MergedOptimWrapperConstructor(WRAPPER)(model).optimizer.defaults["fused"] is True
    for choice in (dict(foreach=True), dict(fused=False)):
        wrapper = dict(WRAPPER, optimizer=dict(WRAPPER["optimizer"], **choice))
        defaults = MergedOptimWrapperConstructor(wrapper)(model).optimizer.defaults
        assert not defaults["fused"] and {**defaults, **choice} == defaults
    unknown = dict(WRAPPER, optimizer=dict(type="Adamax", lr=0.1))
    assert not MergedOptimWrapperConstructor(unknown)(model).optimizer.defaults.get("fused")


def test_a_fused_step_is_the_same_step() -> None:
    results = []
    for constructor in (DefaultOptimWrapperConstructor, MergedOptimWrapperConstructor):
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        wrapper = constructor(WRAPPER)(model)
        for _ in range(3):
            wrapper.update_params(model(torch.ones(2, 5)).square().sum())
        results.append(model.weight.detach())
    torch.testing.assert_close(*results)
