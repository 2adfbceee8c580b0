"""The table says what the results say."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("mmdet.models")
from mmdet_mobileformer.swap.zoo_table import table, totals  # noqa: E402


def entry(status: str, detector: str = "", heads: str = "H", **more: Any) -> dict[str, Any]:
    named = dict(detector=detector, necks="FPN", heads=heads) if detector else {}
    return dict(status=status, **named, **more)


RESULTS: dict[str, Any] = dict(
    arch="26m",
    mmdet="3.3.0",
    extras={"scikit-learn": "1.9.1", "mmpretrain": None},
    configs={
        "a/one_r50.py": entry("rewritten", "A", strides=[4, 8], model="m1"),
        "b/two.py": entry("rewritten", "A", strides=[4, 8], model="m1"),
        "b/three.py": entry("rewritten", "A", strides=[4, 8], model="m2"),
        "c/other.py": entry("rewritten", "C", "H | J", strides=[32], model="m3"),
        "d/refused.py": entry("refused", "D", reason="too old"),
        "d/part.py": dict(status="no model"),
        "e/broken.py": dict(status="unreadable", reason="KeyError: x"),
    },
    models={
        "m1": dict(status="works", config="a/one_r50.py", predictions=30),
        "m2": dict(status="fails before too", config="b/three.py", reason="a bug"),
        "m3": dict(status="not here", config="c/other.py", reason="no operator"),
    },
    costs={
        "a/one_r50.py": dict(
            before=dict(params=41_750_000, madds=20_000_000_000), after=dict(reason="did not run")
        )
    },
)


def test_totals() -> None:
    assert totals(RESULTS).splitlines() == [
        "- configs: 7 in 5 families; 4 rewritten, 1 refused, 1 no model, 1 unreadable",
        "- distinct models after rewriting: 3; 1 works, 1 fails before too, 1 not here",
        "- detectors that work: 1",
        "- combinations of detector and heads that work: 1 (1 with the necks told apart)",
    ]


def test_the_page() -> None:
    page = table(RESULTS)
    sections = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    rows = {
        name: [line for line in text.splitlines() if line.startswith("| ")][2:]
        for name, text in sections.items()
    }
    assert rows == {
        "Works": ["| A | FPN | H | 4, 8 | 30 | 2 | a, b | 41.8 → - | 20.0 → - |"],
        "Rewritten, but not shown to work here": [
            "| A | FPN | H | 1 | b | `b/three.py` | before too: a bug |",
            "| C | FPN | H \\| J | 1 | c | `c/other.py` | no operator |",
        ],
        "Refused": ["| D | H | 1 | d | too old |"],
        "Not looked at": [
            "| 1 | d | it holds settings to include, and no model |",
            "| 1 | e | mmdet's config cannot be read: KeyError: x |",
        ],
    }
    assert "python tools/misc/swap_zoo.py --arch 26m --out docs/swap_table.md" in page
    assert totals(RESULTS) in page
    assert "scikit-learn 1.9.1, mmpretrain absent" in page


def test_an_empty_section_says_so() -> None:
    empty = dict(RESULTS, configs={}, models={}, costs={})
    assert table(empty).count("None.\n") == 4
