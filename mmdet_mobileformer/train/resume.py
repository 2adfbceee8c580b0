"""Exact resume: a run that was stopped and resumed equals one that was not, bit for bit on a CPU (ours).

mmengine restores weights, optimizer, averages and schedulers. What it leaves out is here: the
position within an epoch, randomness, gradients that are being accumulated, a validation that was due.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from .resume_checks import DATA, KEY, check_record, check_schedulers
from .sampling import ResumableBatchSampler, seed_step

#: Transforms whose result depends on the samples that the same worker loaded before.
KEEPING_TRANSFORMS = {
    "CachedMosaic": "mixes in images that the worker loaded before",
    "CachedMixUp": "mixes in images that the worker loaded before",
    "Albu": "albumentations has random generators of its own",
}
#: What modules and hooks of the stack keep from step to step and no checkpoint of mmengine has.
_MODULE_STATE: dict[str, tuple[str, ...]] = {"BatchSyncRandomResize": ("_input_size",)}
_HOOK_STATE: dict[str, tuple[str, ...]] = {"EarlyStoppingHook": ("wait_count", "best_score")}


def use_exact_resume(cfg: Any) -> list[str]:
    """Make the training of a config resume exactly. Changes `cfg` in place.

    mmengine's two training loops are replaced by those of this module; other loops stay.

    Returns:
        Reasons why this config cannot resume exactly, each a clause; empty if it can.
    """
    train_cfg = cfg["train_cfg"]
    if "type" not in train_cfg and "by_epoch" in train_cfg:
        by_epoch = train_cfg.pop("by_epoch")
        train_cfg["type"] = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
    name = type_name(train_cfg)
    exact = {"EpochBasedTrainLoop": "ExactEpochLoop", "IterBasedTrainLoop": "ExactIterLoop"}
    reasons = []
    if name in exact:
        train_cfg["type"] = exact[name]
        hooks = [h for h in cfg.get("custom_hooks") or [] if type_name(h) != "ExactResumeHook"]
        for hook in hooks:
            # As it is it runs after the checkpoint that should hold what it found.
            if type_name(hook) == "EarlyStoppingHook" and isinstance(hook, dict):
                hook.setdefault("priority", "LOW")
        cfg["custom_hooks"] = [*hooks, dict(type="ExactResumeHook")]
    elif name not in exact.values():
        reasons.append(f"the training loop {name or train_cfg} is none of mmengine's")
    places = [cfg.get("train_dataloader"), cfg.get("custom_hooks")]
    for kind in sorted({kind for place in places for kind in _types(place)}):
        if kind in KEEPING_TRANSFORMS:
            reasons.append(f"{kind} {KEEPING_TRANSFORMS[kind]}")
    return reasons


def type_name(value: Any) -> str:
    """The name of the class that a config, which may name or hold it, or an object is of."""
    kind = value.get("type") if isinstance(value, dict) else type(value)
    return kind.rsplit(".", 1)[-1] if isinstance(kind, str) else getattr(kind, "__name__", "")


def _types(value: Any) -> Iterator[str]:
    """Every `type` named in a config, without its scope."""
    if isinstance(value, dict):
        yield type_name(value)
        for item in value.values():
            yield from _types(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _types(item)


def exact_dataloader(dataloader: Any) -> Any:
    """A data loader's config with seeded samples and batches that can start anywhere.

    Args:
        dataloader: mmengine's config of a data loader, left unchanged; a finished DataLoader is
            returned as it is, and then resumes at the start of an epoch only.
    """
    if not isinstance(dataloader, dict):
        return dataloader
    cfg = dict(deepcopy(dataloader))
    batches = cfg.get("batch_sampler")
    if batches is not None and not isinstance(batches, dict):
        return dataloader
    cfg["dataset"] = dict(type="SeededDataset", dataset=cfg["dataset"])
    cfg["batch_sampler"] = dict(
        type="ResumableBatchSampler", batch_sampler=batches, drop_last=cfg.pop("drop_last", False)
    )
    return cfg


class _Position:
    """What both loops share: where in the data they are, and how they got there."""

    runner: Any
    dataloader: Any
    _validate: Any
    #: The record of the checkpoint that the run was resumed from.
    record: dict[str, Any] | None = None
    #: Batches of the running epoch that are done.
    batches_done = 0

    def describe(self) -> dict[str, Any]:
        """The values of :data:`DATA` for this run."""
        loader = self.dataloader
        batch_size = getattr(loader.batch_sampler, "batch_size", None)
        return dict(zip(DATA, (batch_size, get_dist_info()[1], len(loader.dataset))))

    def is_same_data(self) -> bool:
        """Whether the record fits this run; says so in the log if it does not."""
        if self.record is None:
            return True
        before, now = self.record["data"], self.describe()
        changed = [
            f"{key.replace('_', ' ')} {now[key]} instead of {before[key]}"
            for key in now
            if before.get(key) != now[key]
        ]
        if changed:
            self.runner.logger.warning(
                f"this run does not continue exactly as the stopped one would have: "
                f"{', '.join(changed)}"
            )
        return not changed

    def start_batches(self, **kwargs: Any) -> None:
        """Prepare the next iteration over the data loader."""
        plan = self.dataloader.batch_sampler
        if self.record is not None and self.record["sampler_seed"] is not None:
            # Built before the checkpoint was read, the sampler may have drawn another seed.
            plan.sampler.seed = self.record["sampler_seed"]
        if isinstance(plan, ResumableBatchSampler):
            plan.start(seed=self.runner.seed, **kwargs)

    def validate_late(self, **position: int) -> None:
        """The validation that was due when the run was stopped, as if right after its last step."""
        self.runner.message_hub.update_info_dict(position)
        self._validate()

    def check_data(self) -> None:
        """Raise ValueError where there is nothing to train on."""
        if len(self.dataloader.dataset) == 0 or len(self.dataloader) == 0:
            raise ValueError(
                f"the training data set gives no batch ({len(self.dataloader.dataset)} images): "
                "see filter_cfg, metainfo.classes, batch_size and drop_last in train_dataloader"
            )


@LOOPS.register_module()
class ExactEpochLoop(_Position, EpochBasedTrainLoop):
    """mmengine's EpochBasedTrainLoop that resumes within an epoch and seeds every step.

    Arguments are those of EpochBasedTrainLoop.

    Raises:
        ValueError: if the data set gives no batch.
    """

    def __init__(self, runner: Any, dataloader: Any, **kwargs: Any) -> None:
        super().__init__(runner, exact_dataloader(dataloader), **kwargs)
        self.check_data()

    def run(self) -> Any:
        """Train from where the checkpoint stopped, a validation that was due first."""
        length = len(self.dataloader)
        # A checkpoint without a record is mmengine's own, which means the start of an epoch.
        self.batches_done = 0 if self.record is None else self.record["position"]
        if self.batches_done > length or not self.is_same_data():
            self.runner.logger.warning(f"epoch {self._epoch + 1} starts anew")
            self.batches_done = 0
        self.runner.call_hook("before_train")
        if self.record is not None and not self.record["validated"] and self.batches_done == 0:
            self.validate_late(epoch=self._epoch - 1, iter=self._iter - 1)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate()
        self.runner.call_hook("after_train")
        return self.runner.model

    def _validate(self) -> None:
        self._decide_current_val_interval()
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= max(self.val_begin, 1) and due:
            self.runner.val_loop.run()

    def run_epoch(self) -> None:
        """The rest of the current epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        first = self.batches_done
        self.start_batches(epoch=self._epoch, skip=first)
        for index, batch in enumerate(self.dataloader, start=first):
            self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self.batches_done = 0

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """One step, its randomness a function of seed, rank and iteration."""
        seed_step(self.runner.seed, self.runner.rank, self._iter)
        self.batches_done = idx + 1
        super().run_iter(idx, data_batch)


class _Unstarted:
    """A data loader that does not start its workers yet: IterBasedTrainLoop iterates when built."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.dataset = loader.dataset

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@LOOPS.register_module()
class ExactIterLoop(_Position, IterBasedTrainLoop):
    """mmengine's IterBasedTrainLoop that skips what was seen without loading it.

    The data go on from epoch to epoch without restarting the workers. Arguments are those of
    IterBasedTrainLoop.

    Raises:
        ValueError: if the data set gives no batch.
    """

    def __init__(self, runner: Any, dataloader: Any, **kwargs: Any) -> None:
        cfg = exact_dataloader(dataloader)
        if isinstance(cfg, dict):
            apart = runner._randomness_cfg.get("diff_rank_seed", False)
            cfg = runner.build_dataloader(cfg, seed=runner.seed, diff_rank_seed=apart)
        super().__init__(runner, _Unstarted(cfg), **kwargs)
        self.dataloader: DataLoader[Any] = cfg
        self.check_data()

    def run(self) -> Any:
        """Train from where the checkpoint stopped."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        same = self.is_same_data()
        if self.record is not None and same and not self.record["validated"]:
            self.validate_late(epoch=self._epoch, iter=self._iter - 1)
        skip = self._iter
        if not same and self.record is not None:
            skip = _scaled(skip, self.record["data"], self.describe())
        self.start_batches(skip=skip, endless=True)
        batches = self.dataloader_iterator = iter(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            try:
                batch = next(batches)
            except StopIteration:  # only a DataLoader that the user built ends
                batches = self.dataloader_iterator = iter(self.dataloader)
                batch = next(batches)
            self.run_iter(batch)
            self._validate()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _validate(self) -> None:
        self._decide_current_val_interval()
        due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        if self.runner.val_loop is not None and self._iter >= max(self.val_begin, 1) and due:
            self.runner.val_loop.run()

    def run_iter(self, data_batch: Any) -> None:
        """One step, its randomness a function of seed, rank and iteration."""
        seed_step(self.runner.seed, self.runner.rank, self._iter)
        super().run_iter(data_batch)


def _scaled(iterations: int, before: dict[str, Any], now: dict[str, Any]) -> int:
    """Batches of now that hold as many images as `iterations` of before."""
    try:
        return int(
            iterations
            * (before["batch_size"] * before["world_size"])
            // (now["batch_size"] * now["world_size"])
        )
    except TypeError:  # batch samplers with several sizes
        return iterations


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Writes and reads what mmengine's checkpoints leave out.

    Comes before CheckpointHook in every stage, so that a checkpoint says whether the validation of
    its step was done.
    """

    priority = "LOW"

    def __init__(self) -> None:
        self._validated = (-1, -1)
        self._gradients: Any = None

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Remember that the state of now was validated."""
        self._validated = (runner.epoch, runner.iter)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the record. Called on the first process only."""
        loop = runner.train_loop
        if "optimizer" not in checkpoint or not isinstance(loop, _Position):
            return  # weights alone, such as the best ones, cannot be resumed
        meta = checkpoint["meta"]
        checkpoint[KEY] = dict(
            data=loop.describe(),
            sampler_seed=getattr(loop.dataloader.batch_sampler.sampler, "seed", None),
            # At the end of an epoch the loop still stands in it, while the checkpoint is of the next.
            position=0 if meta["epoch"] > runner.epoch else loop.batches_done,
            validated=self._validated == (meta["epoch"], meta["iter"]),
            gradients=getattr(runner, "accumulated_gradients", None),
            modules=_kept(_model(runner).named_modules(), _MODULE_STATE),
            hooks=_kept(_named(runner.hooks), _HOOK_STATE),
        )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Hand the record to the loop, and restore what lies in modules and hooks."""
        record = checkpoint.pop(KEY, None)
        if runner._resume:
            check_schedulers(runner.param_schedulers, checkpoint.get("param_schedulers"))
        if record is None or not runner._resume or not isinstance(runner.train_loop, _Position):
            return
        check_record(record)
        runner.train_loop.record = record
        _restore(dict(_model(runner).named_modules()), record["modules"])
        _restore(dict(_named(runner.hooks)), record["hooks"])
        self._gradients = record["gradients"]

    def before_train(self, runner: Any) -> None:
        """Restore gradients that were being accumulated, each process its own."""
        # The log of the stopped run came with its checkpoint; the config is that of now.
        runner.message_hub.update_info("cfg", runner.cfg.pretty_text)
        gradients, self._gradients = self._gradients, None
        if not gradients:
            return
        rank, world_size = get_dist_info()
        if len(gradients) != world_size:
            runner.logger.warning("gradients accumulated by other processes are left out")
            return
        for name, parameter in _model(runner).named_parameters():
            if name in gradients[rank]:
                parameter.grad = gradients[rank][name].to(parameter.device)
        runner.logger.info("the gradients that were being accumulated are restored")


def collect_gradients(runner: Any) -> list[dict[str, torch.Tensor]] | None:
    """Gradients of every process where a step of the optimizer is still being accumulated.

    Must be called by all processes. Returns None where there is nothing to keep.
    """
    wrapper = runner.optim_wrapper
    counts = getattr(wrapper, "_accumulative_counts", 1)
    if counts == 1 or wrapper.should_update():
        return None
    own = {
        name: parameter.grad.detach().cpu().clone()
        for name, parameter in _model(runner).named_parameters()
        if parameter.grad is not None
    }
    gathered: list[dict[str, torch.Tensor]] = all_gather_object(own)
    return gathered


def _model(runner: Any) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _named(hooks: list[Any]) -> list[tuple[str, Any]]:
    return [(type(hook).__name__, hook) for hook in hooks]


def _kept(owners: Any, table: dict[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """The attributes of `table` of those owners that have them, by the owner's name."""
    return {
        name: {attribute: getattr(owner, attribute) for attribute in table[type(owner).__name__]}
        for name, owner in owners
        if type(owner).__name__ in table
    }


def _restore(owners: dict[str, Any], kept: dict[str, dict[str, Any]]) -> None:
    for name, values in kept.items():
        for attribute, value in values.items():
            if name in owners and hasattr(owners[name], attribute):
                setattr(owners[name], attribute, value)
