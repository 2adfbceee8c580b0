"""deploy/operators.py: the same attention in both forms, and graphs without copies of maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmdet_mobileformer import MobileFormer
from mmdet_mobileformer.deploy import operators
from mmdet_mobileformer.deploy.exact import ExactOperators
from mmdet_mobileformer.deploy.fold import deploy


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_few_tokens_attend_as_many_do(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    flat, located = torch.randn(2, 2, 15, 16, dtype=torch.float64)
    tokens = torch.randn(3, 2, 5, 16, dtype=torch.float64)
    looks = torch.randn(2, heads, 5, 15, dtype=torch.float64)
    mask = torch.zeros(2, 3, 5, dtype=torch.bool)
    mask[1, :, 3:] = True
    found = []
    for few in (32, 0):
        monkeypatch.setattr(operators, "FEW", few)
        found.append(
            (
                operators.read(flat, located, heads, tokens[0], tokens[1]),
                operators.gather(flat, located, heads, tokens[2], looks, mask),
                operators.gather(flat, located, heads, tokens[2], None, None),
            )
        )
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    assert (found[0][1] - found[0][2]).abs().max() > 1e-3


@pytest.mark.parametrize("padded", [False, True])
def test_heads_that_are_told_read_by_their_look_alone(padded: bool) -> None:
    flat, located, queries = torch.randn(2, 30, 16), torch.randn(2, 30, 16), torch.randn(2, 5, 16)
    queries[..., :12] = 0
    looks = torch.randn(2, 2, 5, 30)
    mask = None
    if padded:
        mask = torch.zeros(2, 5, 6, dtype=torch.bool)
        mask[1, :, 4:] = True
    every = torch.cat((looks[:, :1].expand(-1, 3, -1, -1), looks[:, 1:]), dim=1)
    expected = operators.gather(flat, located, 4, queries, every, mask)
    torch.testing.assert_close(
        operators.gather(flat, located, 4, queries, looks, mask, told=3), expected
    )


def test_mean_scores_are_the_mean_of_the_heads() -> None:
    located, queries = torch.randn(2, 15, 16), torch.randn(2, 5, 16)
    parts = [
        part @ query.transpose(1, 2)
        for part, query in zip(located.chunk(4, dim=2), queries.chunk(4, dim=2))
    ]
    expected = torch.stack(parts).mean(dim=0)
    torch.testing.assert_close(operators.mean_scores(located, 4, queries), expected)


def test_no_map_is_split_or_put_together(tmp_path: Path) -> None:
    """Engines copy a map for each Split and Concat: it took a tenth of the time."""
    onnx = pytest.importorskip("onnx")
    file = str(tmp_path / "backbone.onnx")
    x = torch.randn(1, 3, 100, 116)
    with torch.no_grad(), ExactOperators():
        torch.onnx.export(
            deploy(MobileFormer("26m"), kernels=False), (x,), file, opset_version=17, dynamo=False
        )
    model = onnx.shape_inference.infer_shapes(onnx.load(file))
    sizes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.output)
    }
    # Of the maps at strides 4 and 8, and of nothing else.
    cells = {25 * 29, 13 * 15}
    copied = [
        node.name
        for node in model.graph.node
        if node.op_type in ("Split", "Concat")
        for size in [sizes.get(node.output[0], [])]
        if any(side in cells for side in size[1:])
        or any(one * other in cells for one, other in zip(size[1:], size[2:]))
    ]
    assert len(sizes) > 100
    assert copied == []
