"""analysis/learning_ablation.py: every variant is what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from test_learning import result_of  # noqa: E402

from mmdet_mobileformer.analysis.learning_ablation import (  # noqa: E402
    PARTS,
    ablation_runs,
    ablation_table,
    missing_runs,
    options_of,
    variants,
)
from mmdet_mobileformer.analysis.learning_config import config_hash, run_config  # noqa: E402

RUNS = {run.model: run for run in ablation_runs(base_seeds=(0,))}


def config(name: str) -> Any:
    return run_config(RUNS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", variants())
def test_every_variant_builds(name: str) -> None:
    register_all_modules(init_default_scope=True)
    with torch.device("meta"):
        model = MODELS.build(config(name).model)
    assert sum(p.numel() for p in model.parameters()) > 1e6


def test_all_variants_differ() -> None:
    hashes = {name: config_hash(run) for name, run in RUNS.items()}
    assert len(set(hashes.values())) == len(hashes)


def test_all_parts_are_the_recipe_and_none_is_plain() -> None:
    assert options_of(PARTS) == {}
    plain = config("plain")
    head = plain.model.bbox_head
    assert head.loss_cls.type == "CrossEntropyLoss" and not head.loss_cls.use_sigmoid
    assert plain.model.train_cfg.assigner.match_costs[0].type == "ClassificationCost"
    assert head.denoising is None and plain.model.aux_head is None
    assert head.reference_boxes is False and head.dropout == 0.1
    assert not plain.optim_wrapper.get("paramwise_cfg")
    assert plain.optim_wrapper.optimizer.type == "AdamW"
    assert not [hook for hook in plain.custom_hooks if hook.type == "EMAHook"]
    with pytest.raises(ValueError, match="no part 'x'"):
        options_of(["x"])


def test_queries_wait_only_where_a_variant_says_so() -> None:
    told = {name: config(name).model.get("dense_first") for name in RUNS}
    waiting = {name for name, share in told.items() if share}
    assert waiting == {"dense_first", "dense_first_growing"}
    # No wait is hashed as a recipe without the option.
    assert {share for share in told.values() if not share} == {None}
    assert [bool(config(name).get("find_unused_parameters")) for name in ("fast", "dense_first")] == [False, True]


def test_a_part_left_out_is_the_only_difference() -> None:
    whole, without = config("fast").to_dict(), config("without_dense").to_dict()
    assert without["model"].pop("aux_head") is None and whole["model"].pop("aux_head")
    assert whole == without
    # Queries without boxes start on a grid where that part stays.
    assert config("without_boxes").model.bbox_head.query_init == "grid"
    assert config("without_init").model.bbox_head.reference_boxes == "pyramid"
    assert "query_init" not in config("only_dense").model.bbox_head
    assert config("only_init").model.bbox_head.query_init == "grid"


@pytest.mark.parametrize("part, option", [("rivals", "rivals"), ("read", "read_boxes")])
def test_what_needs_boxes_is_measured_with_boxes(part: str, option: str) -> None:
    names = ("without_boxes", f"only_{part}", "only_boxes")
    heads = [config(name).model.bbox_head for name in names]
    assert [head[option] for head in heads] == [False, True, False]
    assert heads[1].reference_boxes
    whole, without = config("fast").to_dict(), config(f"without_{part}").to_dict()
    assert whole["model"]["bbox_head"].pop(option) and not without["model"]["bbox_head"].pop(option)
    assert whole == without


def test_classes_of_near_boxes_need_near_boxes_and_quality() -> None:
    names = ("fast", "without_near", "without_quality", "without_near_classes", "only_near_classes")
    heads = [config(name).model.bbox_head for name in names]
    assert [head.near_classes for head in heads] == [3, 0, 0, 0, 3]
    assert heads[3].near and heads[4].near and heads[4].loss_cls.type == "QualityFocalLoss"
    assert [config(f"only_{name}").model.bbox_head.near_classes for name in ("near", "quality")] == [0, 0]
    assert not heads[4].reference_boxes


def test_adamw_has_its_own_learning_rate() -> None:
    rate = config("fast").optim_wrapper.optimizer.lr
    for name, factor in (("without_muon", 1 / 2), ("only_dense", 1 / 2), ("only_muon", 1.0)):
        optimizer = config(name).optim_wrapper.optimizer
        assert optimizer.type == ("MuonAdamW" if factor == 1 else "AdamW")
        assert optimizer.lr == pytest.approx(rate * factor)
    (run,) = ablation_runs(["without_muon"], lr=0.03)
    assert run.lr == pytest.approx(0.015)


def test_the_paper_s_switches() -> None:
    register_all_modules(init_default_scope=True)
    with torch.device("meta"):
        one = MODELS.build(config("one_scale").model)
        single = MODELS.build(config("tokens_1").model)
    assert [len(scale.blocks) for scale in one.bbox_head.scales] == [4]
    assert len(single.backbone.tokens) == 1
    assert config("shared_position").model.bbox_head.position == "shared"
    assert config("first_token").model.backbone.dynamic_relu == "first-token"


def test_missing_runs_and_table() -> None:
    runs = ablation_runs()
    assert [run.seed for run in runs if run.model == "fast"] == [0, 1, 2]
    done = [result_of(run, 0.03 + 0.002 * run.seed) for run in runs if run.model == "fast"]
    done += [result_of(RUNS["without_dense"], 0.01), result_of(RUNS["tokens_1"], 0.03, diverged=True)]
    here = done[0].cpu
    assert len(missing_runs(runs, done, here)) == len(runs) - 5
    # Another processor has the recipe to train first, and no other variant again.
    again = missing_runs(runs, done, "another")
    assert again[0] == runs[0] and len(again) == len(runs) - 4
    text = ablation_table(done)
    assert "| recipe | the whole recipe, queries from the first step | 0.032 (0.030-0.034) | - |" in text
    assert "| left out | dense auxiliary head (or none) | 0.010 | -0.022 |" in text
    assert "0.030, diverged" in text and "by 0.004 (highest minus lowest of 3)" in text
    other = [replace(result_of(run, 0.05), cpu="another") for run in (runs[0], RUNS["without_near"])]
    tables = ablation_table([*done, *other]).split("\n\n**")
    assert len(tables) == 2 and tables[0] == text and "; another**" in tables[1]
    assert "| the whole recipe, queries from the first step | 0.050 | - |" in tables[1] and "| +0.000 |" in tables[1]
    assert ablation_table([]).startswith("There is no run")
    with pytest.raises(ValueError, match="no variant 'x'"):
        ablation_runs(["x"])
