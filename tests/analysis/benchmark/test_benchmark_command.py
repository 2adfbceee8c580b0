"""tools/analysis_tools/benchmark.py, tools/misc/speed_page.py and tools/analysis_tools/data_time.py."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet.models")
sys.path.insert(0, str(Path(__file__).parents[2] / "train"))
from tiny_run import CONFIG  # noqa: E402

from mmdet_mobileformer.analysis.benchmark import run, worker  # noqa: E402
from mmdet_mobileformer.analysis.benchmark.worker import Case  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]


def command(monkeypatch: pytest.MonkeyPatch, tool: str, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", [tool, *flags])
    runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("nowhere.py",), "config nowhere.py does not exist"),
        (("mmdet::detr/none.py",), "config mmdet::detr/none.py does not exist"),
        (("CONFIG", "--baseline", "other.py"), "--baseline other.py is none of the configs"),
        (("CONFIG", "--engines", "tensorrt"), "there is no engine tensorrt"),
        (("CONFIG", "--sizes", "16x64"), "at least 32 pixels"),
        (("CONFIG", "--train", "--breakdown"), "--breakdown is of the forward pass"),
        (("CONFIG", "--train", "--engines", "onnxruntime"), "--train works with the engines"),
        (("CONFIG", "--json", "CONFIG"), "would be overwritten"),
        (("CONFIG", "--sizes", "800"), "size '800' is not HEIGHTxWIDTH"),
        (("CONFIG", "--runs", "0"), "--runs is 0, but must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    message: str,
) -> None:
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG)
    monkeypatch.setattr(run, "missing", lambda name: [])
    given = [str(config) if flag == "CONFIG" else flag for flag in flags]
    with pytest.raises(SystemExit):
        command(monkeypatch, "analysis_tools/benchmark.py", *given)
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1] and "Traceback" not in "".join(said)


@pytest.mark.slow
def test_processes_are_interleaved_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "tiny.py", tmp_path / "out.json"
    config.write_text(CONFIG)
    backbone = f"{config}#backbone"
    flags = ["--baseline", str(config), "--sizes", "64x64", "--runs", "3", "--warmup", "1"]
    flags += ["--threads", "1", "--prepare", "fold", "--breakdown", "--json", str(out)]
    command(monkeypatch, "analysis_tools/benchmark.py", str(config), backbone, *flags)
    printed = capsys.readouterr().out
    assert "of the network" in printed and "3 interleaved runs" in printed
    content = json.loads(out.read_text())
    whole, part = content["results"]
    assert (whole["config"], part["config"]) == (str(config), backbone)
    assert whole["ratio"] == 1.0 and 0 < part["core_ratio"] < 1.5
    assert part["params_m"] < whole["params_m"] and whole["memory_mb"] > 4 * whole["params_m"]
    assert "backbone: stem" in part["parts_ms"]
    assert content["command"].startswith(f"python tools/analysis_tools/benchmark.py {config} ")
    assert "json" not in content["command"]


@pytest.mark.slow
def test_a_model_that_fails_ends_the_run_with_its_sentence(tmp_path: Path) -> None:
    config = tmp_path / "broken.py"
    config.write_text(CONFIG.replace("type='E2EMF',", "type='Nothing',"))
    with pytest.raises(ValueError, match="broken.py cannot be built: ") as error:
        run.measure([Case(str(config), shape=(64, 64), threads=1)], 1, None, lambda line: None)
    assert "\n" not in str(error.value)


def test_a_process_that_dies_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead:
        def poll(self, seconds: float) -> bool:
            return True

        def recv(self) -> None:
            raise EOFError

    made = object.__new__(run.Worker)
    made.case, made._pipe = Case("a.py"), Dead()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"the process of a.py \(eager\) died"):
        made._answer()


def test_the_machine_s_rates() -> None:
    machine = worker.Machine()
    times = machine()
    assert min(times.values()) > 0
    made = type("Made", (), dict(runs=[dict(times=times)], info=machine.info))()
    rates = run.rates(made)
    assert rates["product_gflops"] == pytest.approx(2 * 1536**3 / times["product"] / 1e9)
    assert rates["copy_gbs"] == pytest.approx(8 * 2**25 / times["copy"] / 1e9)


def test_the_page_s_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    file = tmp_path / "docs" / "speed.md"
    file.write_text("<!-- results -->\nold\n<!-- end -->\n")
    flags = ("misc/speed_page.py", "--root", str(tmp_path))
    with pytest.raises(SystemExit, match="differs from docs/speed"):
        command(monkeypatch, *flags, "--check")
    command(monkeypatch, *flags)
    assert file.read_text() == "<!-- results -->\n<!-- end -->\n"
    command(monkeypatch, *flags, "--check")
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no checkout"):
        command(monkeypatch, "misc/speed_page.py", "--root", str(tmp_path / "docs"))


def test_data_time_s_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = dict(loss=1.0, iter=1, time=0.5, data_time=0.01)
    (tmp_path / "scalars.json").write_text(json.dumps(record) + "\n")
    command(monkeypatch, "analysis_tools/data_time.py", str(tmp_path / "scalars.json"))
    assert "2.0 % is waiting" in capsys.readouterr().out
    for what in ("nowhere", "nowhere.py"):
        with pytest.raises(SystemExit):
            command(monkeypatch, "analysis_tools/data_time.py", what)
        assert "nowhere" in capsys.readouterr().err
