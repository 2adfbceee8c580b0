"""kernels/build.py."""

from __future__ import annotations

import pytest
import torch

from mmdet_mobileformer.kernels import build


@pytest.mark.parametrize("gpu", [True, False])
def test_kernels_of_training_are_for_machines_without_a_gpu(
    gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(build, "kernels_available", lambda: not asked.append(True))
    assert build.use_kernels_on_cpu() is not gpu
    assert bool(asked) is not gpu


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("ninja: error\nops.cpp:3: error: no such thing\nmore", r"ops.cpp:3: error: no such thing"),
        ("no compiler", "no compiler"),
        ("", "RuntimeError"),
    ],
)
def test_the_sentence_names_what_the_compiler_says(
    raised: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError(raised)

    monkeypatch.setattr(build, "_build", fail)
    monkeypatch.setattr(build.sys, "platform", "linux")
    monkeypatch.delenv(build.SWITCH, raising=False)
    with pytest.warns(RuntimeWarning, match=said):
        reason = build.why_no_kernels.__wrapped__()
    assert reason is not None and said in reason and "\n" not in reason
