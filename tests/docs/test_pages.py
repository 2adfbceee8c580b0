"""What the pages state: numbers against their source, quoted messages against the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope

sys.path.insert(0, str(Path(__file__).parent))
from pages import ROOT  # noqa: E402

from mmdet_mobileformer import ARCHS, MobileFormer  # noqa: E402
from mmdet_mobileformer.imagenet import RECIPES  # noqa: E402


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def rows(text: str, columns: int) -> list[list[str]]:
    """Rows of all tables with that many columns, without heads and rules."""
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in cells if len(row) == columns and not set(row[0]) <= set("-: ")]


def test_links_lead_somewhere() -> None:
    for file in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", file.read_text()):
            assert "://" in target or (file.parent / target).exists(), f"{file.name}: {target}"


def test_imagenet_s_table_is_the_recipes() -> None:
    found = {row[0]: row[1:] for row in rows(page("imagenet.md"), 8)[1:]}
    assert len(found) == len(ARCHS)
    for name, arch in ARCHS.items():
        recipe = RECIPES[name]
        top1, *numbers, augment = found[f"`configs/imagenet/mobileformer_{name}_in1k.py`"]
        assert float(top1) == arch.top1
        expected = (recipe.lr, recipe.weight_decay, arch.dropout, recipe.mixup, recipe.random_erase)
        assert tuple(map(float, numbers)) == expected
        assert augment == ("m9, mstd 0.5" if recipe.rand_augment else "none")


def test_imagenet_s_versions_are_one_set() -> None:
    text = page("imagenet.md")
    for pin in ("torch==2.14.1", "torchvision==0.29.1", "mmcv-lite==2.1.0", "mmpretrain==1.2.0"):
        assert pin in text
    # mmengine and mmcv are those of detection.
    set_up = (ROOT / "tools" / "setup_env.sh").read_text()
    assert "mmengine==0.10.7" in text and "mmengine==0.10.7" in set_up and "mmcv==2.1.0" in set_up


class TestFullRun:
    text = page("full_coco_run.md")

    def printed(self) -> dict[str, float]:
        """The numbers of the page's output block."""
        block = self.text.split("```\nper GPU")[1].split("```")[0]
        lines = [re.match(r" +(.+?) +([\d.]+)(?: |$)", line) for line in block.splitlines()[1:]]
        return {match[1]: float(match[2]) for match in lines if match}

    def test_hours(self) -> None:
        iterations = self.printed()["iterations"]
        table = rows(self.text.split("seconds per iteration | hours")[1].split("\n\n")[0], 3)
        assert len(table) == 4
        for seconds, hours, days in table:
            exact = iterations * float(seconds) / 3600
            assert round(exact) == int(hours) and round(exact / 24, 1) == float(days)
        assert f"{iterations:,.0f}" in self.text

    @pytest.mark.slow
    def test_the_counted_numbers_are_today_s(self) -> None:
        pytest.importorskip("mmdet.models")
        from mmdet_mobileformer.analysis.flops import model_from_config
        from mmdet_mobileformer.analysis.train_cost import train_cost

        config = ROOT / "configs" / "e2emf_508m_coco.py"
        cfg = Config.fromfile(str(config))
        batch, epochs = cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs
        cost = train_cost(model_from_config(config), (800, 1333), batch, 8, 118287, epochs)
        stated = self.printed()
        # Two per cent, so that a small change of the model need not touch the page.
        assert cost.kept / 1e9 == pytest.approx(stated["kept for the backward pass"], rel=0.02)
        assert cost.state / 1e9 == pytest.approx(
            stated["weights, gradients, AdamW's state"], rel=0.02
        )
        assert cost.madds / 1e9 == pytest.approx(stated["multiply-adds of a step"], rel=0.02)
        assert cost.iterations == stated["iterations of an epoch"]
        assert cost.iterations * epochs == stated["iterations"]

    def test_the_schedule_is_the_config_s(self) -> None:
        cfg = Config.fromfile(str(ROOT / "configs" / "e2emf_508m_coco.py"))
        assert cfg.param_scheduler[0].milestones == [200] and cfg.train_cfg.max_epochs == 300
        assert "epoch 200, before the learning rate drops" in self.text
        assert cfg.default_hooks.logger.interval == 50 and "| iteration 50 |" in self.text


class TestPitfalls:
    """Every message quoted in the table is one that somebody sees."""

    quoted = [re.findall(r"`([^`]+)`", row[0]) for row in rows(page("use_it_in_your_config.md"), 3)]

    def matches(self, message: str) -> bool:
        patterns = [
            ".*".join(re.escape(part) for part in text.split("..."))
            for texts in self.quoted
            for text in texts
        ]
        return any(re.search(pattern, message, re.DOTALL) for pattern in patterns)

    def raised(self, build: Any) -> str:
        with pytest.raises((KeyError, TypeError, ValueError, RuntimeError)) as error:
            build()
        return str(error.value)

    def test_not_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(ROOT_MODELS.module_dict, "MobileFormer")
        # Other tests may have left mmdet's scope behind.
        with DefaultScope.overwrite_default_scope("mmengine"):
            message = self.raised(lambda: ROOT_MODELS.build(dict(type="MobileFormer")))
        assert self.matches(message), message

    def test_merged_with_the_base(self) -> None:
        base = dict(type="MobileFormer", arch="26m", depth=50)
        message = self.raised(lambda: ROOT_MODELS.build(base))
        assert self.matches(message), message

    def test_wrong_widths(self) -> None:
        pytest.importorskip("mmdet.models")
        from mmdet.models.necks import FPN

        from mmdet_mobileformer import MobileFormerFPN

        maps = MobileFormer("26m", out_indices=(1, 2, 3))(torch.zeros(2, 3, 64, 64))
        message = self.raised(lambda: MobileFormerFPN("96m")(maps))
        assert self.matches(message), message
        message = self.raised(lambda: FPN([32, 88, 128], 16, 3)(maps))
        assert self.matches(message), message

    def test_small_images(self) -> None:
        model = MobileFormer("26m").train()
        message = self.raised(lambda: model(torch.zeros(1, 3, 32, 32)))
        assert self.matches(message), message
        message = self.raised(lambda: model(torch.zeros(2, 3, 31, 64)))
        assert self.matches(message), message

    def test_other_messages_do_not_match(self) -> None:
        assert not self.matches("something else")

    def test_normalisation_is_the_one_of_our_configs(self) -> None:
        cfg = Config.fromfile(str(ROOT / "configs" / "_base_" / "retinanet.py"))
        preprocessor = cfg.model.data_preprocessor
        text = page("use_it_in_your_config.md")
        assert f"mean={preprocessor.mean}, std={preprocessor.std}, bgr_to_rgb=True" in text

    def test_frozen_stages(self) -> None:
        model = MobileFormer("26m", frozen_stages=1)
        frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
        assert frozen == {"tokens", "stem", "blocks"}
        assert all(p.requires_grad for p in MobileFormer("26m").parameters())
        first = MobileFormer("26m", frozen_stages=0)
        assert not first.tokens.requires_grad
        assert all(p.requires_grad for p in first.blocks.parameters())
