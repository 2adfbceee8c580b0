"""Our own errors become one sentence; everything else keeps its traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdet_mobileformer.train.build import read_config
from mmdet_mobileformer.train.errors import one_sentence_errors


def test_ours_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_, one_sentence_errors():
        read_config("no/such.py")
    assert exit_.value.code == 1
    text = capsys.readouterr().err
    assert "config no/such.py does not exist" in text and text.count("\n") == 1


def test_ours_inside_anothers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), one_sentence_errors():
        try:
            read_config("no/such.py")
        except FileNotFoundError as error:
            raise type(error)(f"class `X`: {error}") from None
    assert "config no/such.py does not exist" in capsys.readouterr().err


def test_others_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="from elsewhere"), one_sentence_errors():
        raise ValueError("from elsewhere")
    with pytest.raises(FileNotFoundError), one_sentence_errors():
        (tmp_path / "absent").read_text()


def test_only_the_first_process_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit), one_sentence_errors():
        read_config("no/such.py")
    assert capsys.readouterr().err == ""
