"""Running a property on many cases: a few in the fast suite, several times as many under `slow`.

`FUZZ=random` draws other cases every time; otherwise they are the same in every run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from mmdet_mobileformer.train.errors import _sentence


def sizes(few: int, many: int) -> Any:
    """Parametrize a test by its number of cases, the large one marked slow."""
    values = [few, pytest.param(many, marks=pytest.mark.slow)]
    return pytest.mark.parametrize("cases", values)


def fuzz(cases: int, strategy: SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Run `check` on so many cases; hypothesis shrinks the first that fails."""

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=os.environ.get("FUZZ") != "random",
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(case: Any) -> None:
        check(case)

    run()


def assert_one_sentence(error: BaseException) -> None:
    """Fail, with the error, unless the tools would turn it into one clear sentence."""
    if isinstance(error, SystemExit):  # argparse has said it
        assert error.code == 2
        return
    sentence = _sentence(error)
    if sentence is None:
        raise error
    assert "\n" not in sentence and 10 < len(sentence) < 1000, sentence


def works_or_says_why(work: Callable[[], object]) -> bool:
    """Whether it worked; where it did not, it must have said so in one sentence."""
    try:
        work()
    except (Exception, SystemExit) as error:
        assert_one_sentence(error)
        return False
    return True
