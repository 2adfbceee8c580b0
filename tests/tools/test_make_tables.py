"""tools/misc/make_tables.py: what is in the repository is what the table says."""

from __future__ import annotations

import dataclasses
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmdet_mobileformer import models
from mmdet_mobileformer.analysis import tables
from mmdet_mobileformer.models import DETECTORS, config_names, config_path

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "misc" / "make_tables.py"


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, args)])
    runpy.run_path(str(TOOL), run_name="__main__")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "configs").mkdir()
    for name in ("README.md", "model-index.yml", "configs/metafile.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_repository_has_not_drifted(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "--check")


def test_a_changed_number_is_drift(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tuple(
        dataclasses.replace(d, ap=12.3) if d.config == "e2emf_26m_coco" else d for d in DETECTORS
    )
    monkeypatch.setattr(models, "DETECTORS", changed)
    monkeypatch.setattr(tables, "DETECTORS", changed)
    before = (checkout / "README.md").read_text()
    with pytest.raises(SystemExit, match=r"README.md, configs/metafile.yml differ from the table"):
        run(monkeypatch, "--check", "--root", checkout)
    assert (checkout / "README.md").read_text() == before, "--check writes nothing"

    run(monkeypatch, "--root", checkout)
    printed = capsys.readouterr().out
    assert printed.splitlines() == ["written: README.md", "written: configs/metafile.yml"]
    (row,) = [
        line
        for line in (checkout / "README.md").read_text().splitlines()
        if line.startswith("| `configs/e2emf_26m_coco.py`")
    ]
    assert row.endswith("| 12.3 |")
    entries = yaml.safe_load((checkout / "configs/metafile.yml").read_text())["Models"]
    (entry,) = [e for e in entries if e["Name"] == "e2emf_26m_coco"]
    assert entry["Results"][0]["Metrics"] == {"box AP": 12.3}
    run(monkeypatch, "--check", "--root", checkout)


def test_a_file_edited_by_hand_is_drift(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "model-index.yml").unlink()
    readme = checkout / "README.md"
    readme.write_text(readme.read_text().replace("| 26.81 |", "| 25.00 |"))
    with pytest.raises(SystemExit, match=r"README.md, model-index.yml differ"):
        run(monkeypatch, "--check", "--root", checkout)
    run(monkeypatch, "--root", checkout)
    assert readme.read_text() == (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("old", "new"),
    [("<!-- table: detectors -->", ""), ("<!-- table: detectors -->", "<!-- table: other -->")],
)
def test_a_readme_without_its_blocks_is_one_sentence(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    readme = checkout / "README.md"
    readme.write_text(readme.read_text().replace(old, new))
    with pytest.raises(SystemExit, match="make_tables: README.md has the blocks .* needs each of"):
        run(monkeypatch, "--root", checkout)


def test_another_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="is no checkout of this repository"):
        run(monkeypatch, "--root", tmp_path)


def test_the_metafile_is_whole() -> None:
    """What mim and others read: every config once, in a collection that exists, a file that exists."""
    content: dict[str, Any] = yaml.safe_load(tables.metafile())
    collections = {c["Name"] for c in content["Collections"]}
    for model in content["Models"]:
        assert model["In Collection"] in collections
        assert Path(config_path(model["Name"])) == ROOT / model["Config"]
        assert "Weights" not in model and "Results" not in model, "nothing of ours was trained"
        # `mim search` fails on anything else.
        for value in model["Metadata"].values():
            assert isinstance(value, (str, int))
    assert len({m["Name"] for m in content["Models"]}) == len(DETECTORS) == len(content["Models"])
    imported = yaml.safe_load(tables.model_index())["Import"]
    assert [(ROOT / file).is_file() for file in imported] == [True]


def test_every_config_that_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text()
    named = {part.split("`")[0] for part in text.split("`configs/")[1:] if ".py" in part[:60]}
    assert len(named) >= len(DETECTORS)
    assert {name.split(".py")[0] for name in named} <= set(config_names())


def test_recount_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    (right,) = [d for d in DETECTORS if d.config == "e2emf_26m_coco"]
    wrong = dataclasses.replace(right, madds=1.0)
    monkeypatch.setattr(tables, "DETECTORS", (wrong,))
    assert tables.recount() == [
        f"e2emf_26m_coco: params={right.params:.3f}, madds={right.madds:.3f}, but models.py has "
        f"params={right.params:.3f}, madds=1.000"
    ]
    monkeypatch.setattr(tables, "DETECTORS", (right,))
    assert tables.recount() == []
