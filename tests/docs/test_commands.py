"""Every command and program of README and docs runs, shortened where it must be (sandbox.py)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from pages import ROOT, Block, blocks, pages  # noqa: E402
from sandbox import Sandbox, runs_here, shorten  # noqa: E402

PAGES = {str(page.relative_to(ROOT)): blocks(page.read_text()) for page in pages()}


class Run:
    """One page: its blocks run in their order, each once."""

    def __init__(self, sandbox: Sandbox, page: list[Block]) -> None:
        self.sandbox = sandbox
        self.todo = iter(block for block in page if runs_here(block))
        self.failures: dict[int, str | None] = {}

    def until(self, block: Block) -> str | None:
        """What the block printed if it failed; runs those before it first."""
        while block.line not in self.failures:
            following = next(self.todo)
            failure = self.sandbox.run(following)
            self.failures[following.line] = self.failures.get(following.line) or failure
        return self.failures[block.line]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    made: dict[str, Run] = {}
    yield made
    for run in made.values():
        run.sandbox.close()


CASES = [
    pytest.param(page, block, id=f"{page}:{block.line}")
    for page, found in PAGES.items()
    for block in found
]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), CASES)
def test_command(
    page: str,
    block: Block,
    runs: dict[str, Run],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if not runs_here(block):
        pytest.skip("meant for the other environment")
    if page not in runs:
        runs[page] = Run(
            Sandbox(tmp_path_factory.mktemp("clone"), (ROOT / page).read_text()), PAGES[page]
        )
    failure = runs[page].until(block)
    assert failure is None, failure


def test_pages_are_read() -> None:
    text = """Run `make demo` and `python tools/a.py` but not `model.neck` or `--flag`.

```bash
first \\
    --flag
second
```
```python
# my_config.py
a = 1
```
    ```python
print(1)
    ```
```
output
```
| `tools/dist_train.sh CONFIG 8` |
"""
    found = [(block.line, block.kind, block.text) for block in blocks(text)]
    assert found == [
        (1, "bash", "make demo\n"),
        (1, "bash", "python tools/a.py\n"),
        (4, "bash", "first \\\n    --flag\nsecond\n"),
        (9, "file", "# my_config.py\na = 1\n"),
        (13, "python", "print(1)\n"),
        (18, "bash", "tools/dist_train.sh CONFIG 8\n"),
    ]
    assert blocks(text)[3].file == "my_config.py"


@pytest.mark.parametrize(
    ("command", "short"),
    [
        ("make demo   # draws", "make -n demo   # draws"),
        ("tools/dist_train.sh a.py 8 --amp", "tools/dist_train.sh a.py 1 --amp"),
        ("python tools/test.py a.py CHECKPOINT", "python tools/test.py a.py work_dirs/prepared.pth"),
        ("python tools/train.py a.py --cfg-options b=1", "python tools/train.py a.py --cfg-options b=1"),
        ("a --cfg-options b=1 --cfg-options c=2", "a --cfg-options b=1 c=2"),
    ],
)
def test_shortening(command: str, short: str) -> None:
    assert shorten(command) == short + "\n"


def test_every_page_has_something_to_run() -> None:
    empty = [page for page in ("README.md", "docs/imagenet.md") if not PAGES[page]]
    assert not empty
