"""Any command line works or gives one sentence."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import fuzz, sizes, works_or_says_why
from hypothesis import strategies as st
from mmengine.config import Config, ConfigDict

from mmdet_mobileformer.train import build

ROOT = Path(__file__).resolve().parents[2]
WORDS = """
    0 -1 1e999 nan None True [] () [1,2 ((3),] {} / . .. ~ * $HOME http://x/y.pth s3://a/b '' = a= =b
    file:///x -- --amp a.b=c 🙂 ../.. /dev/null /dev/zero
"""
JUNK = st.one_of(
    st.text(max_size=12).filter(lambda text: "\0" not in text),
    st.sampled_from(WORDS.split()),
    st.integers().map(str),
    st.floats().map(str),
)


def keys(value: Any, prefix: str = "") -> Iterator[str]:
    """The dotted name of everything in a config."""
    if isinstance(value, (dict, ConfigDict)):
        items = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, (list, tuple)) else []
    for key, item in items:
        name = f"{prefix}{key}"
        yield name
        yield from keys(item, f"{name}.")


@pytest.fixture(scope="module")
def known(tiny: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Values that make sense, for the mixture."""
    config, data = tiny
    folder = tmp_path_factory.mktemp("known")
    weights = folder / "weights.pth"
    torch.save(dict(state_dict={"a": torch.ones(1)}), weights)
    names = list(keys(Config.fromfile(str(config))._cfg_dict))
    return dict(
        config=str(config), data=str(data), weights=str(weights), work=str(folder), keys=names
    )


def command_line(known: dict[str, Any], tool: str) -> st.SearchStrategy[list[str]]:
    values = JUNK | st.sampled_from([known[k] for k in ("config", "data", "weights", "work")])
    option = st.tuples(st.sampled_from(known["keys"]) | JUNK, JUNK).map("=".join)
    flags: list[Any] = [
        st.tuples(st.just("--work-dir"), values),
        st.tuples(st.just("--data-root"), values | st.just(known["data"])),
        st.tuples(st.just("--cfg-options"), option),
        st.tuples(st.just("--cfg-options"), option, option | JUNK),
        st.tuples(
            st.just("--launcher"), JUNK | st.sampled_from(["none", "pytorch", "slurm", "mpi"])
        ),
        st.tuples(st.just("--trust-checkpoint")),
        st.tuples(JUNK),
    ]
    if tool == "train":
        flags += [
            st.tuples(st.just("--amp")),
            st.tuples(st.just("--auto-scale-lr")),
            st.tuples(st.just("--resume"), values),
            st.tuples(st.just("--resume")),
        ]
    else:
        flags += [
            st.tuples(st.just("--out"), values | st.just("a.pkl")),
            st.tuples(st.just("--tta")),
            st.tuples(st.just("--show-dir"), values),
            st.tuples(st.just("--wait-time"), JUNK),
        ]
    # Mostly right, so that the junk comes further than to the first check.
    right = [known["config"]] + ([known["weights"]] if tool == "test" else [])
    start = st.lists(values, max_size=2) | st.just(right) | st.just(right) | st.just(right)
    rest = st.lists(st.one_of(flags), max_size=4).map(lambda found: [x for f in found for x in f])
    return st.tuples(start, st.just(["--data-root", known["data"]]) | st.just([]), rest).map(
        lambda parts: [*parts[0], *parts[1], *parts[2]]
    )


@sizes(40, 300)
@pytest.mark.parametrize("tool", ["train", "test"])
def test_command_lines(
    tool: str,
    cases: int,
    known: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    module = runpy.run_path(str(ROOT / "tools" / f"{tool}.py"))
    read = build.train_config if tool == "train" else build.test_config
    worked = []

    def check(argv: list[str]) -> None:
        worked.append(works_or_says_why(lambda: read(module["parse_args"](argv))))
        capsys.readouterr()

    fuzz(cases, command_line(known, tool), check)
    assert any(worked) and not all(worked)


@sizes(8, 60)
def test_configs_that_cannot_be_built(
    cases: int, known: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wrong value anywhere: when the parts are built, before the first step."""
    monkeypatch.chdir(tmp_path)
    module = runpy.run_path(str(ROOT / "tools" / "train.py"))
    start = [known["config"], "--data-root", known["data"], "--work-dir", str(tmp_path / "work")]
    names = [
        k for k in known["keys"] if k.startswith(("model", "optim_wrapper", "train_dataloader"))
    ]
    number = iter(range(10**9))

    def check(option: tuple[str, str]) -> None:
        argv = [*start, "--cfg-options", "=".join(option)]

        def work() -> None:
            cfg = build.train_config(module["parse_args"](argv))
            cfg.experiment_name = f"fuzz_{next(number)}"
            cfg.train_cfg.max_epochs = 0
            cfg.log_level = "ERROR"
            cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
            cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
            build.build_runner(cfg).train()

        works_or_says_why(work)

    values = st.sampled_from(["-1", "0", "abc", "[]", "None", "3.7", "(1,2)", "True", "x.y"])
    fuzz(cases, st.tuples(st.sampled_from(names), values), check)
