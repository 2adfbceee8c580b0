"""What the user hears about bad samples, and setting a config up to leave them out (ours).

See :mod:`mmdet_mobileformer.data.bad_samples` for what is left out and how.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop

from .bad_samples import KEY, Report, collate_and_report, guard_pipelines

#: Names in one message of the log.
_SHOWN = 20


@HOOKS.register_module()
class BadSamplesHook(Hook):
    """Tells the user about bad samples: each once by name, and the counts of every epoch.

    Args:
        strict: Stop at the first bad picture or box instead of leaving it out.
        not_loaded: Boxes that the data set left out when it read the annotation file, as the doctor
            counted them; told with the counts of the first epoch.

    Raises (in the main process):
        ValueError: One sentence; under `strict`, in validation and test, where a batch cannot be
            filled, and after an epoch that had to leave out more than half of its samples.
    """

    #: Before any hook that looks at the batch.
    priority = "VERY_HIGH"

    def __init__(self, strict: bool = False, not_loaded: int = 0) -> None:
        self.strict = strict
        self.not_loaded = not_loaded
        self._counts: Counter[str] = Counter()
        self._new: dict[Report, None] = {}
        self._said: set[Report] = set()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Take the reports out of the batch, before the model gets it."""
        for report in _take(data_batch):
            if report.kind == "hopeless":
                self._stop(runner, f"{report}; nothing can be trained on")
            if self.strict and report.kind in ("picture", "transform", "box"):
                self._stop(runner, f"{report} (--strict-data stops at bad data)")
            self._counts[report.kind] += 1
            if report not in self._said and report not in self._new:
                self._new[report] = None
                if get_rank() == 0 and len(self._said) + len(self._new) <= _SHOWN:
                    runner.logger.warning(f"bad sample: {report}")

    def before_val(self, runner: Any) -> None:
        """Guard the validation set. Its config stays as it is: DetInferencer reads it."""
        self._guard_loader(runner.val_dataloader)

    def before_test(self, runner: Any) -> None:
        """Guard the test set."""
        self._guard_loader(runner.test_dataloader)

    @staticmethod
    def _guard_loader(loader: Any) -> None:
        guard_pipelines(loader.dataset, mark=True)
        if getattr(loader.collate_fn, "func", None) is not collate_and_report:
            loader.collate_fn = partial(collate_and_report, inner=loader.collate_fn)

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Stop at a picture that validation cannot use."""
        for report in _take(data_batch):
            if report.kind != "box" or self.strict:
                self._stop(
                    runner,
                    f"{report}; AP over the rest of the pictures would not compare: restore the "
                    "file, or take it out of the annotation file",
                )

    def before_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """As in validation."""
        self.before_val_iter(runner, batch_idx, data_batch)

    def after_train_epoch(self, runner: Any) -> None:
        """Tell the counts over all processes."""
        by_epoch = not isinstance(runner.train_loop, IterBasedTrainLoop)
        counts = self._tell(runner, f"epoch {runner.epoch + 1}" if by_epoch else "training")
        skipped = counts["picture"] + counts["transform"]
        if by_epoch and 2 * skipped > len(runner.train_dataloader.dataset):
            raise ValueError(
                f"{skipped:,} of {len(runner.train_dataloader.dataset):,} samples of the epoch could "
                "not be used: `python -m mmdet_mobileformer doctor CONFIG` says why"
            )

    def before_val_epoch(self, runner: Any) -> None:
        """Training by iterations has no epochs: tell the counts before each validation."""
        loop = getattr(runner, "_train_loop", None)
        if isinstance(loop, IterBasedTrainLoop):
            self._tell(runner, f"the iterations up to {runner.iter}")

    def _tell(self, runner: Any, when: str) -> Counter[str]:
        gathered: list[tuple[Counter[str], list[Report]]]
        gathered = all_gather_object((self._counts, list(self._new)))
        counts: Counter[str] = sum((own for own, _ in gathered), Counter())
        new = dict.fromkeys(report for _, reports in gathered for report in reports)
        # The first process has said its own already, as far as they were few.
        unsaid = [r for r in new if r not in self._new or len(self._said) + len(new) > _SHOWN]
        unsaid = [report for report in unsaid if report not in self._said]
        self._said.update(new)
        self._counts, self._new = Counter(), {}
        not_loaded, self.not_loaded = self.not_loaded, 0
        if not (counts or not_loaded) or get_rank():
            return counts
        parts = {
            "samples left out": counts["picture"] + counts["transform"],
            "left out because the pipeline gave nothing": counts["rejected"],
            "boxes left out": counts["box"],
            "empty batches filled": counts["filled"],
            "boxes left out on reading the annotations": not_loaded,
        }
        text = ", ".join(f"{what}: {count:,}" for what, count in parts.items() if count)
        names = "; ".join(map(str, unsaid[:_SHOWN]))
        more = f" and {len(unsaid) - _SHOWN:,} more" if len(unsaid) > _SHOWN else ""
        runner.logger.warning(
            f"bad samples in {when}: {text}" + (f". New: {names}{more}" if unsaid else "")
        )
        return counts

    @staticmethod
    def _stop(runner: Any, sentence: str) -> None:
        if get_world_size() > 1 and get_rank():
            # Only the first process prints the sentence of an error.
            runner.logger.error(sentence)
        raise ValueError(sentence)


def _take(batch: Any) -> list[Report]:
    reports = batch.pop(KEY, ()) if isinstance(batch, dict) else ()
    return [Report(*report) for report in reports]


def skip_bad_samples(cfg: Any, strict: bool = False, not_loaded: int = 0) -> None:
    """Set a config up so that bad samples are left out and reported. Changes `cfg` in place.

    Args:
        cfg: mmengine's Config or a dict; its training data loader is changed, and
            :class:`BadSamplesHook` is added. Calling it again changes nothing but the hook.
        strict: Stop at bad data instead (`--strict-data`).
        not_loaded: See :class:`BadSamplesHook`; `Report.boxes_left_out` of the doctor.
    """
    loader = cfg.get("train_dataloader")
    is_config = isinstance(loader, dict) and isinstance(loader.get("dataset"), dict)
    if is_config and loader["dataset"].get("type") != "SkipBadSamples":
        loader["dataset"] = dict(type="SkipBadSamples", dataset=loader["dataset"])
        loader["collate_fn"] = dict(type="collate_and_report", inner=loader.get("collate_fn"))
    hooks = [h for h in cfg.get("custom_hooks") or [] if h.get("type") != "BadSamplesHook"]
    cfg["custom_hooks"] = [
        *hooks,
        dict(type="BadSamplesHook", strict=strict, not_loaded=not_loaded),
    ]
