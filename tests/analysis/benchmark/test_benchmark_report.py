"""Numbers from runs, tables, the JSON file, and the page in the docs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mmdet.models")
from mmdet_mobileformer.analysis.benchmark import page, report, run  # noqa: E402
from mmdet_mobileformer.analysis.benchmark.worker import Case  # noqa: E402

MACHINE = dict(product_gflops=100.0, copy_gbs=10.0)


def result(name: str, seconds: list[float], shape: tuple[int, int] = (320, 320)) -> dict[str, Any]:
    """A result as a process with these times would give it."""
    runs = [dict(times=dict(network=0.9 * s, postprocessing=0.1 * s), cpu=2 * s) for s in seconds]
    info = dict(madds=int(1e9), params=2_000_000, prepared="deploy()", memory=50_000_000)
    made: Any = SimpleNamespace(case=Case(name, shape=shape), runs=runs, info=info)
    return run.summary(made, MACHINE)


def results() -> list[dict[str, Any]]:
    return [
        result(name, [scale * s for s in (0.1, 0.2, 0.3, 0.9)], shape)
        for shape in ((320, 320), (640, 640))
        for name, scale in (("ours.py", 1.0), ("theirs.py", 2.0))
    ]


def test_summary() -> None:
    found = result("a.py", [0.1, 0.3, 0.2])
    assert (found["median_ms"], found["least_ms"], found["core_ms"]) == (200.0, 100.0, 400.0)
    assert found["p95_ms"] == pytest.approx(290)
    assert found["steps_ms"] == dict(network=180.0, postprocessing=20.0)
    # 2e9 operations in the network's 0.18 s, of the machine's 100e9 per second.
    assert found["gflops"] == pytest.approx(11.11) and found["share"] == pytest.approx(0.1111)
    assert (found["memory_mb"], found["madds_g"], found["params_m"]) == (50.0, 1.0, 2.0)


def test_ratios_are_within_a_size() -> None:
    found = results()
    run.compare(found, "theirs.py")
    assert [r["ratio"] for r in found] == [0.5, 1.0, 0.5, 1.0]
    with pytest.raises(ValueError, match="--baseline other.py is none"):
        run.compare(found, "other.py")
    text = report.table(found)
    assert text.splitlines()[0].startswith("| size ") and "| ratio " in text and "0.500" in text
    assert len({len(line) for line in text.splitlines()}) == 1


def test_the_better_engine_of_each() -> None:
    found = []
    for engine, ours, theirs in (("onnxruntime", 0.3, 0.4), ("openvino", 0.2, 0.8)):
        for name, seconds in (("ours.py", ours), ("theirs.py", theirs)):
            found.append({**result(name, [seconds]), "engine": engine})
    lines = report.better_engine(found, "theirs.py")
    assert lines[0].endswith("`ours.py` 200.0 ms (openvino), ratio 0.500")
    assert lines[1].endswith("`theirs.py` 400.0 ms (onnxruntime), ratio 1.000")
    assert report.better_engine(found[:2], "theirs.py") == []


def test_engines_that_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "missing", lambda name: ["openvino"] if name == "openvino" else [])
    assert run.check_engines(["eager", "openvino"]) == (
        ["eager"], ["engine openvino left out: pip install openvino"]
    )
    with pytest.raises(ValueError, match="pip install openvino"):
        run.check_engines(["openvino"])
    with pytest.raises(ValueError, match="there is no engine tensorrt: choose from eager"):
        run.check_engines(["tensorrt"])


def write(file: Path, version: str = "0.2.0") -> None:
    machine = dict(processor="A CPU", cores=2, load=0.5, torch="2.13.0", package=version)
    report.write(file, results(), machine, "python tools/analysis_tools/benchmark.py ours.py")


def test_json(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    report.check_new(file)
    write(file)
    assert report.read(file)["results"] == results()
    with pytest.raises(FileExistsError, match="would be overwritten"):
        report.check_new(file)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        report.check_new(tmp_path / "none" / "a.json")
    for content, message in (("[1]", "lacks"), ("{", "no JSON"), (json.dumps({}), "lacks")):
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            report.read(file)


def test_page(tmp_path: Path) -> None:
    (tmp_path / page.RESULTS).mkdir(parents=True)
    (tmp_path / page.PAGE).write_text("# Speed\n<!-- results -->\nold\n<!-- end -->\nafter\n")
    write(tmp_path / page.RESULTS / "0.9.0-goals.json", "0.9.0")
    write(tmp_path / page.RESULTS / "0.10.0-at_all_sizes.json", "0.10.0")
    text = page.page(tmp_path)
    assert text.index("### 0.10.0: at all sizes") < text.index("### 0.9.0: goals")
    assert "old" not in text and text.endswith("<!-- end -->\nafter\n")
    assert "```text\npython tools/analysis_tools/benchmark.py ours.py\n```" in text
    assert "| `ours.py`   | eager  | 250.0 (1.0) | 250.0 (1.0) |" in text
    (tmp_path / page.PAGE).write_text("# Speed\n")
    with pytest.raises(ValueError, match="needs <!-- results -->"):
        page.page(tmp_path)


def test_our_page_has_our_results() -> None:
    root = Path(__file__).resolve().parents[3]
    assert (root / page.PAGE).read_text() == page.page(root)
