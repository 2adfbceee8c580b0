"""Checkpoints that a crash, a kill or a full disk cannot lose (ours).

A checkpoint is written beside its place, synchronised to the disk and renamed; only when the new
one and the note of it are there are old ones deleted. mmengine deletes first and writes in place.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from glob import escape, glob
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint

from .resume import collect_gradients

#: Name of the file backend, and ending of a file that is being written.
BACKEND = "atomic_local"
PARTIAL = ".partial"


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file so that at any moment there is the old one or the new one, whole.

    Raises:
        OSError: naming the file, the reason and what to do; the old file is untouched.
    """
    path = os.fspath(path)
    partial = path + PARTIAL
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(partial)
        raise OSError(
            f"{path} cannot be written ({error.strerror or error}): what was saved before is "
            "untouched; make room or give another place, then continue with --resume"
        ) from error
    _synchronise_folder(os.path.dirname(path) or ".")


def _synchronise_folder(folder: str) -> None:
    """Put a rename on the disk; some network file systems cannot, and need not."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class AtomicLocalBackend(LocalBackend):
    """mmengine's backend for local files whose `put` replaces a file at once or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; see :func:`write_atomically`."""
        write_atomically(filepath, obj)


register_backend(BACKEND, AtomicLocalBackend, force=True)


class _LateRemoval:
    """A file backend that notes what to remove, and does so when asked, inside one folder only."""

    def __init__(self, backend: Any, folder: str) -> None:
        self.backend = backend
        self.folder = folder
        self.pending: list[str] = []

    def remove(self, path: str) -> None:
        self.pending.append(str(path))

    rmtree = remove

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def flush(self, keep: set[str]) -> None:
        """Remove what was noted; files of other runs, which a checkpoint may name, stay."""
        pending, self.pending = self.pending, []
        for path in pending:
            if path in keep or os.path.dirname(path) != self.folder.rstrip(os.sep):
                continue
            if self.backend.isfile(path):
                self.backend.remove(path)
            elif self.backend.isdir(path):
                self.backend.rmtree(path)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, safe against being killed at any moment and against a full disk.

    Old checkpoints, the best one included, are deleted after the new one is on the disk. After a
    validation the last checkpoint is written again, so that it holds what the validation changed. A
    file of another run that stands where a checkpoint goes is kept under another name. Arguments are
    those of CheckpointHook; folders that are no local ones keep mmengine's own way of writing.
    """

    backend_args: dict[str, Any] | None
    file_backend: Any
    #: How often a checkpoint of the training was written.
    _saves = 0

    def before_train(self, runner: Any) -> None:
        """Prepare the folder, and finish what a killed run left undone."""
        place = str(self.out_dir or runner.work_dir)
        local = "://" not in place and self.file_client_args is None and not self.backend_args
        if local:
            self.backend_args = dict(backend=BACKEND)
        self._foreign = not runner._resume or not self._is_from_here(runner, place)
        if self._foreign and runner._resume:
            # The lists of a run that lived elsewhere: its files are not ours to delete.
            for key in ("keep_ckpt_ids", "drop_ckpt_ids"):
                runner.message_hub.update_info(key, [])
        super().before_train(runner)
        self.file_backend = _LateRemoval(self.file_backend, self.out_dir)
        self._written: set[str] = set()
        if not is_main_process() or not local:
            return
        note = os.path.join(runner.work_dir, f"last_checkpoint{PARTIAL}")
        for partial in [note, *glob(os.path.join(escape(self.out_dir), f"*.pth{PARTIAL}"))]:
            with suppress(FileNotFoundError):
                os.unlink(partial)
        for step in _info(runner, "drop_ckpt_ids"):
            self.file_backend.remove(self._path(step))
        self.file_backend.flush(keep=self._current(runner))

    def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        """Save the best checkpoint, and the last one again with what the validation changed."""
        if not hasattr(self, "_written"):
            return  # a validation outside of a training saves nothing
        before = self._saves
        super().after_val_epoch(runner, metrics)
        step = runner.epoch if self.by_epoch else runner.iter
        if self._saves == before and self.last_ckpt == self._path(step):
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            self._save_checkpoint_with_step(runner, step, meta)
        if is_main_process():
            self.file_backend.flush(keep=self._current(runner))

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        """Write the checkpoint, then the note of it, then delete old ones."""
        dropped: list[int] = []
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                dropped.append(self.keep_ckpt_ids.popleft())
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
            # Should the run be killed before they are deleted, the resumed one deletes them.
            runner.message_hub.update_info("drop_ckpt_ids", dropped)
        self.last_ckpt = self._path(step)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.accumulated_gradients = collect_gradients(runner)
        self._put_aside(runner, self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self._saves += 1
        self._written.add(self.last_ckpt)
        if not is_main_process():
            return
        note = os.path.join(runner.work_dir, "last_checkpoint")
        write_atomically(note, self.last_ckpt.encode())
        for old in dropped:
            self.file_backend.remove(self._path(old))
        if dropped:
            self.file_backend.flush(keep=self._current(runner))

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, float]) -> None:
        """As mmengine, whose removals wait here until everything is written."""
        if self.save_best:
            name = self.filename_tmpl.format(runner.epoch if self.by_epoch else runner.iter)
            for path in glob(os.path.join(escape(self.out_dir), f"best_*_{escape(name)}")):
                self._put_aside(runner, path)
        super()._save_best_checkpoint(runner, metrics)
        self._written |= self._best()

    def _best(self) -> set[str]:
        paths = [getattr(self, "best_ckpt_path", None)]
        paths += vars(self).get("best_ckpt_path_dict", {}).values()
        return {str(path) for path in paths if path}

    def _current(self, runner: Any) -> set[str]:
        """The files that must stay."""
        kept = {self._path(step) for step in _info(runner, "keep_ckpt_ids")}
        return kept | self._best() | {str(self.last_ckpt)}

    def _path(self, step: int) -> str:
        return str(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step)))

    def _is_from_here(self, runner: Any, place: str) -> bool:
        """Whether the checkpoint that the run was resumed from lies in its own folder."""
        resumed = runner._load_from or find_latest_checkpoint(runner.work_dir)
        if place != runner.work_dir:
            place = os.path.join(place, os.path.basename(runner.work_dir.rstrip(os.sep)))
        return os.path.dirname(os.path.abspath(str(resumed))) == os.path.abspath(place)

    def _put_aside(self, runner: Any, path: str) -> None:
        """Keep a file of another run that would be overwritten."""
        if not self._foreign or path in self._written or not is_main_process():
            return
        if os.path.isfile(path):
            aside = f"{path}.old-{time.strftime('%Y%m%d-%H%M%S')}"
            os.replace(path, aside)
            runner.logger.warning(f"a checkpoint of another run is kept as {aside}")


def _info(runner: Any, key: str) -> list[int]:
    return list(runner.message_hub.runtime_info.get(key) or [])
