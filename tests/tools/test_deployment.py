"""tools/deployment: flags, sentences, and nothing heavy before they are read."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet.models")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools" / "deployment"


def run(monkeypatch: pytest.MonkeyPatch, tool: str, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", [tool, *map(str, args)])
    runpy.run_path(str(TOOLS / tool), run_name="__main__")


@pytest.mark.parametrize(
    ("tool", "args", "sentence"),
    [
        ("export.py", ("absent.py", "a.pth"), "config absent.py does not exist"),
        ("export.py", (ROOT / "configs/e2emf_demo.py", "absent.pth"), "absent.pth does not exist"),
        ("export.py", ("absent.py", "a.pth", "--out", "a.txt"), "a.txt must end in .onnx"),
        ("quantize.py", ("absent.onnx", ".", "-o", "b.onnx"), "model absent.onnx does not exist"),
        ("quantize.py", ("a.pth", ".", "-o", "b.onnx"), "from .onnx to .onnx, not from a.pth"),
    ],
)
def test_one_sentence(
    tool: str,
    args: tuple[object, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, tool, *args)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{tool}: ") and sentence in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tool", ["export.py", "quantize.py"])
def test_flags_are_read_before_torch_is(tool: str) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{tool!r}, 'a', 'b', '--out', 'c', '--no-such-flag']\n"
        "try:\n"
        f"    runpy.run_path({str(TOOLS / tool)!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 2\n"
        "assert 'mmdet' not in sys.modules and 'onnxruntime' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "--no-such-flag" in done.stderr, done.stderr
