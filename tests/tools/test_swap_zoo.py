"""tools/misc/swap_zoo.py, with the command of docs/swap_table.md shortened to one family."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet.models")
from mmdet_mobileformer.swap import zoo  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", ["swap_zoo.py", *args])
    runpy.run_path(str(ROOT / "tools" / "misc" / "swap_zoo.py"), run_name="__main__")


def test_the_command_of_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "swap_table.md").read_text()
    found = re.search(r"^python tools/misc/swap_zoo\.py (.*)$", page, re.MULTILINE)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zoo, "SHAPE", (64, 64))
    run(monkeypatch, *found[1].split(), "--families", "yolof")
    said = capsys.readouterr().out
    assert "configs yolof/yolof_r50-c5_8xb8-1x_coco.py: rewritten" in said
    assert "- detectors that work: 1\n" in said
    written = (tmp_path / "docs" / "swap_table.md").read_text()
    assert re.search(r"^\| YOLOF \| DilatedEncoder \| YOLOFHead \| 32 \| 30 \| \d \| yolof \|", written, re.M)
    # The page of the repository comes from the same program, of another run.
    assert written.split("\n- configs:")[0] == page.split("\n- configs:")[0]

    run(monkeypatch, "--arch", "26m", "--table")
    assert "- detectors that work: 1\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(monkeypatch, "--arch", "96m")
    assert "holds results of 26m, not of 96m" in capsys.readouterr().err


def test_the_page_shows_what_the_project_promises() -> None:
    page = (ROOT / "docs" / "swap_table.md").read_text()
    detectors = re.search(r"^- detectors that work: (\d+)$", page, re.MULTILINE)
    heads = re.search(r"^- combinations of detector and heads that work: (\d+) ", page, re.MULTILINE)
    assert detectors is not None and int(detectors[1]) >= 40
    assert heads is not None and int(heads[1]) >= 60
    # The totals are those of the table below them.
    works = page.split("## Works\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in works.splitlines() if line.startswith("| ")][2:]
    assert len({row[0] for row in rows}) == int(detectors[1])
    assert len({(row[0], row[2]) for row in rows}) == int(heads[1])
    families = {path.name for path in zoo.config_root().iterdir() if path.is_dir()}
    missing = {name for name in families - set(zoo._PARTS) if not re.search(rf"\b{re.escape(name)}\b", page)}
    assert not missing, "every family stands somewhere on the page"
