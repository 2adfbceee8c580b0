"""Parameters and multiply-adds (MAdds) of every part of a model at an exact input size.

Counting protocol (ours; the usual one of the detection literature, often called "FLOPs" there):

* Counted are the multiply-adds of matrix products and convolutions: 1 MAdd = 1 multiplication +
  1 addition = 2 of torch's FLOPs. Attention is counted as its products, however it is computed:
  query x key and weights x value.
* Not counted: biases, normalisation, activations, softmax, element-wise arithmetic, interpolation,
  pooling and post-processing.
* The input has exactly the given size. Nothing is padded to a multiple of 32, and nothing is
  averaged over a data set.

The counting is torch's ``FlopCounterMode``, which sees each operator at the dispatcher. In torch
2.13 it has no formula for CPU flash attention, for the fast paths of ``nn.MultiheadAttention`` and
``nn.TransformerEncoderLayer``, and for products with a vector; they are added here. The model runs
on the ``meta`` device, which computes shapes only (no time, no memory), and on the CPU if it cannot
run there.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

MIN_SIZE = 32
aten = torch.ops.aten
# An operator with one of these words in its name multiplies matrices. If it has no formula, the
# count says so.
_PRODUCT_WORDS = ("mm", "mv", "dot", "conv", "linear", "attention", "encoder", "rnn", "lstm", "gru")
_NOT_A_PRODUCT = ("upsample", "backward")


def _sdpa(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    """q [B, H, Q, D], k [B, Hk, K, D], v [B, Hk, K, Dv]: q x k and weights x v, in FLOPs."""
    batch, heads, queries, width = q
    return 2 * batch * heads * queries * k[-2] * (width + v[-1])


def _mha(q: Sequence[int], k: Sequence[int], *args: Any, **_: Any) -> int:
    """_native_multi_head_attention, q [B, Q, D], k and v [B, K, D]: 4 projections, 2 products."""
    batch, queries, width = q
    keys = k[1]
    projections = 2 * queries * width * width + 2 * keys * width * width
    return 2 * batch * (projections + 2 * queries * keys * width)


def _encoder_layer(src: Sequence[int], *args: Any, **_: Any) -> int:
    """_transformer_encoder_layer_fwd: self-attention and the two matrices of the FFN."""
    # Arguments 14 and 16 of the operator: ffn_weight_1 [F, D], ffn_weight_2 [D, F]. src is 0.
    ffn = args[13][0] * args[13][1] + args[15][0] * args[15][1]
    return _mha(src, src) + 2 * src[0] * src[1] * int(ffn)


def _mv(matrix: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * matrix[0] * matrix[1]


def _addmv(_bias: Sequence[int], matrix: Sequence[int], *_: Any, **__: Any) -> int:
    return _mv(matrix)


def _dot(a: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * a[0]


def _addbmm(_bias: Sequence[int], a: Sequence[int], b: Sequence[int], **_: Any) -> int:
    return 2 * a[0] * a[1] * a[2] * b[2]


def _addmm(_bias: Sequence[int], a: Sequence[int], b: Sequence[int], **_: Any) -> int:
    return 2 * a[0] * a[1] * b[1]


FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _sdpa,
    aten._scaled_dot_product_fused_attention_overrideable: _sdpa,
    aten._native_multi_head_attention: _mha,
    aten._transformer_encoder_layer_fwd: _encoder_layer,
    aten.mv: _mv,
    aten.addmv: _addmv,
    aten.dot: _dot,
    aten.vdot: _dot,
    aten.addbmm: _addbmm,
    aten._addmm_activation: _addmm,
}
"""Operators added to torch's; each takes the arguments' shapes, returns FLOPs (2 per MAdd)."""


class _InnermostModule:
    """Tells the counter which module is running: the innermost one by its name in the model.

    torch's ModuleTracker credits every enclosing *call*. mmdet calls ``head.forward(x)``, which no
    hook sees, so the head would be missing from the table. Credited to the innermost module only,
    counts add up along the names instead.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._stack: list[str] = []
        self._handles: list[Any] = []

    @property
    def parents(self) -> set[str]:
        return {"Global", "." + (self._stack[-1] if self._stack else "")}

    def _enter(self, module: nn.Module, _args: Any) -> None:
        self._stack.append(self._names[module])

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._stack.pop()

    def __enter__(self) -> _InnermostModule:
        self._stack.clear()
        for module in self._names:
            self._handles.append(module.register_forward_pre_hook(self._enter))
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class _WithoutFormula(TorchDispatchMode):  # type: ignore[no-untyped-call,unused-ignore]
    """Collects the names of operators that multiply matrices and have no formula."""

    def __init__(self, known: dict[Any, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self.known = known
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = getattr(func, "_overloadpacket", func)
        name = str(packet)
        words = name.split(".")[-1]
        suspicious = any(word in words for word in _PRODUCT_WORDS)
        if packet not in self.known and suspicious and not any(w in words for w in _NOT_A_PRODUCT):
            self.names.add(name)
        return func(*args, **(kwargs or {}))


@dataclass
class Count:
    """Cost of a model.

    Attributes:
        params: parameters under each module name ('' is the whole model); a shared one counts once.
        madds: multiply-adds under each module name, for the whole batch.
        by_operator: multiply-adds of each operator.
        shape: (height, width) of the input in pixels.
        batch: images in the batch.
        device: where the model ran, 'meta' or 'cpu'.
        uncounted: operators that multiply matrices and have no formula; should be empty.
    """

    params: dict[str, int]
    madds: dict[str, int]
    by_operator: dict[str, int]
    shape: tuple[int, int]
    batch: int
    device: str
    uncounted: list[str] = field(default_factory=list)

    @property
    def total_params(self) -> int:
        return self.params[""]

    @property
    def total_madds(self) -> int:
        return self.madds[""]

    def table(self, depth: int = 2) -> str:
        """The module tree to ``depth`` levels: parameters in M, MAdds in G and in %."""
        rows = [
            name
            for name in self.params
            if (name and name.count(".") < depth and (self.params[name] or self.madds[name]))
        ]
        width = max([len(name) + 2 * name.count(".") for name in rows] + [len("module")]) + 2
        rule = "-" * (width + 34)
        lines = [f"{'module':<{width}}{'params M':>12}{'MAdds G':>13}{'%':>9}", rule]
        for name in rows:
            lines.append(self._row("  " * name.count(".") + name, name, width))
        return "\n".join([*lines, rule, self._row("total", "", width)])

    def _row(self, label: str, name: str, width: int) -> str:
        share = 100.0 * self.madds[name] / self.total_madds if self.total_madds else 0.0
        params, madds = self.params[name] / 1e6, self.madds[name] / 1e9
        return f"{label:<{width}}{params:>12.4f}{madds:>13.4f}{share:>9.2f}"


def count(
    model: nn.Module, shape: tuple[int, int] = (800, 1333), batch: int = 1, device: str = "auto"
) -> Count:
    """Counts a model on a batch of ``batch`` images [batch, 3, H, W] in evaluation mode.

    Args:
        model: an mmdet detector (run with ``mode='tensor'``, without the data preprocessor, every
            image as large as the batch) or any module that takes one image batch. A copy of it is
            run; the model itself is left as it was.
        shape: (H, W) in pixels, each at least 32.
        device: 'meta', 'cpu', or 'auto' (``meta``, and the CPU if the model cannot run there).

    Raises:
        ValueError: a shape below 32x32, a batch below 1, an unknown device, or a model that does
            not run on such a batch.
    """
    check_shape(shape)
    if batch < 1:
        raise ValueError(f"batch is {batch}, but must be at least 1.")
    if device not in ("auto", "meta", "cpu"):
        raise ValueError(f"device is '{device}', but must be 'auto', 'meta' or 'cpu'.")
    if device == "auto":
        try:
            return _count_on(model, shape, batch, "meta")
        except Exception as error:  # whatever a model does with a tensor that has no values
            logging.getLogger(__name__).info("counting on the CPU, meta failed: %s", error)
            device = "cpu"
    try:
        return _count_on(model, shape, batch, device)
    except Exception as error:
        size = "x".join(str(n) for n in (batch, 3, *shape))
        text = f"{type(model).__name__} does not run on {size} ({device}): {_one_line(error)}"
        raise ValueError(text) from error


def check_shape(shape: Sequence[int]) -> None:
    """Raises ValueError unless ``shape`` is (height, width), each at least 32 pixels."""
    if len(shape) != 2 or min(shape) < MIN_SIZE:
        text = "x".join(str(side) for side in shape)
        raise ValueError(
            f"shape {text} does not do: give HEIGHT WIDTH, each at least {MIN_SIZE} pixels."
        )


def _count_on(model: nn.Module, shape: tuple[int, int], batch: int, device: str) -> Count:
    # A copy: moving to meta destroys the weights, and the caller's modes and hooks stay untouched.
    model = copy.deepcopy(model).to(device).eval()
    call = _call_of(model, torch.zeros(batch, 3, *shape, device=device))
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    counter.mod_tracker = _InnermostModule(model)  # type: ignore[assignment]
    watcher = _WithoutFormula(counter.flop_registry)
    # no_grad, not inference_mode: there composite operators reach the dispatcher undecomposed.
    with torch.no_grad(), counter, watcher:
        call()

    own: dict[str, int] = defaultdict(int)
    by_operator: dict[str, int] = {}
    for place, operators in counter.get_flop_counts().items():
        if place == "Global":
            by_operator = {str(name): flops // 2 for name, flops in operators.items()}
        else:
            own[place[1:]] += sum(operators.values()) // 2
    params: dict[str, int] = {}
    madds: dict[str, int] = {}
    for name, module in model.named_modules():
        params[name] = sum(p.numel() for p in module.parameters())
        inside = f"{name}." if name else ""
        madds[name] = sum(n for part, n in own.items() if f"{part}.".startswith(inside))
    return Count(params, madds, by_operator, shape, batch, device, sorted(watcher.names))


def _call_of(model: nn.Module, images: torch.Tensor) -> Callable[[], Any]:
    """How the model is run: mmengine's by mode='tensor', with samples that say: no padding."""
    if "mode" not in inspect.signature(model.forward).parameters:
        return lambda: model(images)
    samples: list[Any] | None = None
    try:
        from mmdet.structures import DetDataSample
    except ImportError:
        pass
    else:
        size = tuple(images.shape[-2:])
        meta = {
            "img_shape": size,
            "ori_shape": size,
            "pad_shape": size,
            "batch_input_shape": size,
            "scale_factor": (1.0, 1.0),
        }
        samples = [DetDataSample(metainfo=meta) for _ in range(images.shape[0])]
    return lambda: model(images, samples, mode="tensor")


def model_from_config(config: str | Path, options: dict[str, Any] | None = None) -> nn.Module:
    """Builds the model of a config file with random weights; no checkpoint is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a config, has no ``model``, or its model cannot be built.
    """
    from mmengine.config import Config
    from mmengine.registry import MODELS as ROOT_MODELS
    from mmengine.registry import init_default_scope

    import mmdet_mobileformer  # noqa: F401  (registers MobileFormer and, with mmdet, the detector)
    from mmdet_mobileformer.pairing import check_pairing

    path = Path(config)
    if not path.is_file():
        raise FileNotFoundError(f"config '{path}' does not exist: give the path of a config file.")
    try:
        cfg = Config.fromfile(str(path))
        if options:
            cfg.merge_from_dict(options)
    except Exception as error:
        raise ValueError(f"config '{path}' cannot be read: {_one_line(error)}") from error
    if cfg.get("model") is None:
        raise ValueError(f"config '{path}' has no `model`: give a config that defines one.")
    check_pairing(cfg)
    try:
        from mmdet.registry import MODELS as MMDET_MODELS
        from mmdet.utils import register_all_modules
    except ImportError:
        registry = ROOT_MODELS
    else:
        register_all_modules(init_default_scope=False)
        init_default_scope(cfg.get("default_scope", "mmdet"))
        registry = MMDET_MODELS
    try:
        model: nn.Module = registry.build(cfg.model)
    except Exception as error:
        text = f"the model of config '{path}' cannot be built: {_one_line(error)}"
        raise ValueError(text) from error
    return model


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
