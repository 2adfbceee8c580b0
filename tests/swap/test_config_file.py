"""A config of differences merges with its base to exactly what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet.models")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from mmengine.config import Config  # noqa: E402

from mmdet_mobileformer.swap.config_file import (  # noqa: E402
    base_of,
    check_out,
    config_text,
    differences,
    find_base,
    read_base,
    same_config,
)

RETINANET = "retinanet/retinanet_r50_fpn_1x_coco.py"

scalars = st.one_of(st.integers(-3, 3), st.booleans(), st.sampled_from(["a", "it's"]), st.none())
keys = st.sampled_from(["type", "b", "c", "dotted.key"])
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
    ),
    max_leaves=12,
)
configs = st.dictionaries(st.sampled_from(["model", "data", "load_from"]), values, max_size=3)


@settings(max_examples=60, deadline=None)
@given(configs, configs)
def test_the_text_gives_the_new_config(
    tmp_path_factory: pytest.TempPathFactory, base: dict[str, Any], new: dict[str, Any]
) -> None:
    new = {**base, **new}  # a child config cannot take a top-level name away
    folder = tmp_path_factory.mktemp("configs")
    (folder / "base.py").write_text("".join(f"{key} = {value!r}\n" for key, value in base.items()))
    out = folder / "out.py"
    out.write_text(config_text(str(folder / "base.py"), out, base, new, ["A note, as long as needed"]))
    assert out.read_text().startswith("# A note")
    assert "_base_ = 'base.py'" in out.read_text()
    assert Config.fromfile(str(out)).to_dict() == new


def test_only_differences_are_stated() -> None:
    base = dict(a=1, model=dict(type="X", neck=dict(w=1, v=2), head=dict(type="H", q=1)), z=[1, 2])
    new = dict(a=1, model=dict(type="X", neck=dict(w=3, v=2), head=dict(type="I")), z=(1, 2))
    assert differences(base, new) == dict(
        model=dict(neck=dict(w=3), head=dict(_delete_=True, type="I")), z=(1, 2)
    )
    assert differences(base, base) == {}


def test_a_base_is_found_by_path_and_by_package(tmp_path: Path) -> None:
    shipped = find_base(f"mmdet::{RETINANET}")
    assert shipped.is_file() and shipped == find_base(str(shipped))
    own = tmp_path / "own.py"
    own.write_text("model = dict(type='X')\n")
    # Named in the new file: by package where it is shipped, else relative to the new file.
    assert base_of(f"mmdet::{RETINANET}", tmp_path / "out.py") == f"mmdet::{RETINANET}"
    assert base_of(str(shipped), tmp_path / "out.py") == f"mmdet::{RETINANET}"
    assert base_of(str(own), tmp_path / "sub" / "out.py") == "../own.py"
    for absent in ("nowhere.py", "mmdet::retinanet/nothing.py", "nopackage::a/b.py"):
        with pytest.raises(FileNotFoundError, match="config"):
            find_base(absent)


def test_a_base_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("model = dict(\n")
    with pytest.raises(ValueError, match=r"broken\.py cannot be read: .*Error"):
        read_base(str(broken))


def test_an_import_that_is_not_installed_does_not_stop_the_reading(tmp_path: Path) -> None:
    base = tmp_path / "base.py"
    base.write_text("custom_imports = dict(imports=['not_there'])\nmodel = dict(type='X')\n")
    with pytest.warns(UserWarning, match="not_there failed to import"):
        assert read_base(str(base)).model.type == "X"


def test_a_pure_python_base_is_written_whole(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text("data = dict(a=1)\n")
    base = tmp_path / "base.py"
    base.write_text(
        "from mmengine.config import read_base\n"
        "from torch.optim import SGD\n"
        "with read_base():\n    from .part import *\n"
        "optimizer = dict(type=SGD, lr=0.1)\n"
    )
    content = read_base(str(base)).to_dict()
    out = tmp_path / "out.py"
    out.write_text(config_text(str(base), out, content, dict(content, new=1), ["Note"]))
    assert "\n_base_ =" not in out.read_text()
    found = Config.fromfile(str(out)).to_dict()
    assert found["data"] == dict(a=1) and found["new"] == 1
    assert found["optimizer"] == dict(type="torch.optim.SGD", lr=0.1)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    base = tmp_path / "base.py"
    base.write_text("model = dict()\n")
    other = tmp_path / "other.py"
    check_out(other, str(base), overwrite=False)
    other.write_text("precious = 1\n")
    with pytest.raises(FileExistsError, match="name another file or give --overwrite"):
        check_out(other, str(base), overwrite=False)
    check_out(other, str(base), overwrite=True)
    with pytest.raises(FileExistsError, match="is the base config itself"):
        check_out(base, str(base), overwrite=True)
    with pytest.raises(ValueError, match=r"must end in \.py"):
        check_out(tmp_path / "out.txt", str(base), overwrite=False)


def test_scopes_do_not_count_as_differences() -> None:
    assert same_config(dict(a=[dict(_scope_="mmdet", b=1)]), dict(a=[dict(b=1)]))
    assert not same_config(dict(a=[dict(b=1)]), dict(a=(dict(b=1),)))
