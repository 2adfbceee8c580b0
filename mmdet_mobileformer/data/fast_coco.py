"""COCO evaluation by faster-coco-eval where it is installed, with pycocotools' numbers (ours)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from mmdet.evaluation.metrics import coco_metric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger

#: What to install for it.
PACKAGE = "faster-coco-eval"


def is_installed() -> bool:
    """Whether the faster evaluator is there."""
    return find_spec("faster_coco_eval") is not None


@METRICS.register_module()
class FastCocoMetric(coco_metric.CocoMetric):
    """mmdet's CocoMetric with matching and accumulation in C++.

    Without faster-coco-eval pycocotools does it, and the log says so once.

    Args:
        args, kwargs: Those of CocoMetric. ``use_mp_eval`` is not needed and has no effect where
            faster-coco-eval is installed.

    Attributes:
        unrounded: After an evaluation the twelve numbers of each kind ('bbox', 'segm') as the
            evaluator gives them; CocoMetric itself rounds to three decimals.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.unrounded: dict[str, list[float]] = {}
        self._told = is_installed()

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """As CocoMetric: metrics by name from what ``process`` collected."""
        if not self._told:
            self._told = True
            MMLogger.get_current_instance().info(
                f"FastCocoMetric: pycocotools evaluates, since {PACKAGE} is not installed; the numbers "
                f"are the same, and pip install {PACKAGE} makes it faster"
            )
        self.unrounded = {}
        with _evaluators(self.unrounded):
            metrics: dict[str, float] = super().compute_metrics(results)
        return metrics


@contextmanager
def _evaluators(unrounded: dict[str, list[float]]) -> Iterator[None]:
    """Have CocoMetric, which names its evaluators in its module, use ours for a while."""
    kept = {name: getattr(coco_metric, name) for name in ("COCOeval", "COCOevalMP")}
    for name, slow in kept.items():
        base = _fast() if is_installed() else slow
        setattr(coco_metric, name, _recording(base, unrounded))
    try:
        yield
    finally:
        for name, slow in kept.items():
            setattr(coco_metric, name, slow)


def _fast() -> Callable[..., Any]:
    from faster_coco_eval import COCOeval_faster

    def make(ground_truth: Any, predictions: Any, kind: str) -> Any:
        # Like pycocotools it prints its table; without this it would go to a logger nobody reads.
        return COCOeval_faster(ground_truth, predictions, kind, print_function=_print)

    return make


def _print(text: str) -> None:
    print(text)


def _recording(make: Callable[..., Any], unrounded: dict[str, list[float]]) -> Callable[..., Any]:
    """An evaluator's constructor, whose ``summarize`` leaves the numbers in ``unrounded``."""

    def made(ground_truth: Any, predictions: Any, kind: str) -> Any:
        evaluator = make(ground_truth, predictions, kind)
        summarize = evaluator.summarize

        def summarize_and_record() -> None:
            summarize()
            unrounded[kind] = [float(number) for number in evaluator.stats]

        evaluator.summarize = summarize_and_record
        return evaluator

    return made
