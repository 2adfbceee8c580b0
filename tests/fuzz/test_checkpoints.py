"""Any checkpoint is loaded, or refused in one sentence: bytes, keys, shapes, states of a training."""

from __future__ import annotations

import copy
import io
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_run import config, train
from fuzzing import fuzz, sizes, works_or_says_why
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tiny_run import CONFIG

from mmdet_mobileformer.backbone import MobileFormer
from mmdet_mobileformer.checkpoint import load_pretrained_backbone
from mmdet_mobileformer.stack import allow_mmengine_checkpoints
from mmdet_mobileformer.train import guards
from mmdet_mobileformer.train.safe_loading import read_file

WRONG = st.sampled_from(
    [None, 3, -1.5, "text", [], {}, (1, 2), True, float("nan"), b"bytes", {"a": {}}, 10**30]
)


class FakeRunner:
    """A Runner as far as the checks look at it."""

    def __init__(self, model: Any, file: Path, resume: bool) -> None:
        self.model, self._load_from, self._resume = model, str(file), resume


@pytest.fixture(scope="module")
def model() -> Any:
    init_default_scope("mmdet")
    torch.manual_seed(0)
    return MODELS.build(Config.fromstring(CONFIG, ".py").model)


@sizes(60, 300)
def test_bytes(cases: int, tmp_path: Path) -> None:
    """Files cut off and with other bytes in between, zipped or not; or nothing but such bytes."""
    content = dict(state_dict={"a.weight": torch.ones(3, 4)}, meta=dict(epoch=1, cfg="x = 1"))
    originals = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        originals.append(buffer.getvalue())
    file = tmp_path / "a.pth"
    read = []

    def check(case: tuple[bytes, int, bytes, bool]) -> None:
        original, position, inserted, cut = case
        position %= len(original) + 1
        tail = b"" if cut else original[position + len(inserted) :]
        file.write_bytes(original[:position] + inserted + tail)
        read.append(works_or_says_why(lambda: read_file(file)))

    changes = st.tuples(
        st.sampled_from([*originals, b""]),
        st.integers(0, 10**6),
        st.binary(max_size=9),
        st.booleans(),
    )
    fuzz(cases, changes, check)
    assert any(read) and not all(read)


def mutations(names: list[str]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    name = st.sampled_from(names)
    shape = st.lists(st.integers(0, 5), max_size=4)
    one = st.one_of(
        st.tuples(st.just("drop"), name),
        st.tuples(st.just("drop all that start with"), name.map(lambda n: n.split(".")[0])),
        st.tuples(st.just("add"), st.text(max_size=8), shape),
        st.tuples(st.just("shape"), name, shape),
        st.tuples(st.just("replace"), name, WRONG),
        st.tuples(st.just("dtype"), name, st.sampled_from([torch.int8, torch.bool, torch.float64])),
        st.tuples(st.just("prefix"), st.sampled_from(["module.", "model.", "_orig_mod.", "x"])),
    )
    return st.lists(one, max_size=4)


def mutate(state: dict[str, Any], changes: list[tuple[Any, ...]]) -> dict[str, Any]:
    state = dict(state)
    for kind, *values in changes:
        if kind == "drop":
            state.pop(values[0], None)
        elif kind == "drop all that start with":
            state = {k: v for k, v in state.items() if not k.startswith(values[0])}
        elif kind in ("add", "shape"):
            state[values[0]] = torch.zeros(values[1])
        elif kind == "replace":
            state[values[0]] = values[1]
        elif kind == "dtype" and isinstance(state.get(values[0]), torch.Tensor):
            state[values[0]] = state[values[0]].to(values[1])
        elif kind == "prefix":
            state = {values[0] + k: v for k, v in state.items()}
    return state


WRAPPERS = st.sampled_from(["state_dict", "state_dict", "model", None, "weights"])


@sizes(20, 100)
def test_weights(cases: int, model: Any, tmp_path: Path) -> None:
    """For testing, resuming and as a start; what is accepted, mmengine loads without an error."""
    original = {k: v.clone() for k, v in model.state_dict().items()}
    file = tmp_path / "a.pth"
    worked = []

    def check(case: tuple[list[tuple[Any, ...]], str | None, bool]) -> None:
        changes, wrapper, resume = case
        state = mutate(original, changes)
        torch.save(state if wrapper is None else {wrapper: state}, file)

        def work() -> None:
            guards.check_checkpoint(str(file))
            guards.check_start(FakeRunner(model, file, resume))

        worked.append(works_or_says_why(work))

    fuzz(cases, st.tuples(mutations(list(original)), WRAPPERS, st.booleans()), check)
    assert any(worked) and not all(worked)


@sizes(20, 100)
def test_weights_of_a_backbone(cases: int, tmp_path: Path) -> None:
    backbone = MobileFormer("26m")
    original = {f"backbone.{k}": v.clone() for k, v in backbone.state_dict().items()}
    file = tmp_path / "a.pth"
    worked = []

    def check(case: tuple[list[tuple[Any, ...]], str | None]) -> None:
        changes, wrapper = case
        state = mutate(original, changes)
        torch.save(state if wrapper is None else {wrapper: state}, file)
        worked.append(works_or_says_why(lambda: load_pretrained_backbone(backbone, file)))

    fuzz(cases, st.tuples(mutations(list(original)), WRAPPERS), check)
    assert any(worked) and not all(worked)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested dicts and lists, three levels deep."""
    if len(path) == 3 or not isinstance(value, (dict, list)):
        return []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [place for k, v in items for place in [(*path, k), *places(v, (*path, k))]]


@sizes(10, 70)
def test_states_of_a_training(cases: int, tmp_path: Path) -> None:
    """A value of another type, or none, anywhere in what a run is resumed from."""
    allow_mmengine_checkpoints()
    train(config(tmp_path / "first"), stop=7)
    original = torch.load(tmp_path / "first" / "iter_7.pth", weights_only=True)
    file = tmp_path / "changed.pth"
    number = itertools.count()
    worked = []

    def check(case: tuple[tuple[Any, ...], bool, Any]) -> None:
        path, drop, value = case
        changed = copy.deepcopy(original)
        owner = changed
        for key in path[:-1]:
            owner = owner[key]
        if drop:
            del owner[path[-1]]
        else:
            owner[path[-1]] = value
        torch.save(changed, file)

        def work() -> None:
            cfg = config(tmp_path / f"work_{next(number)}")
            cfg.load_from = None
            guards.set_resume(cfg, str(file))
            train(cfg, stop=9, resume=str(file))

        worked.append(works_or_says_why(work))

    fuzz(cases, st.tuples(st.sampled_from(places(original)), st.booleans(), WRONG), check)
    assert any(worked) and not all(worked)
