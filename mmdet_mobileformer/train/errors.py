"""Bad input, a full disk or a dead process ends a tool with one sentence; a defect keeps its traceback."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch.distributed as dist

from .launch import is_first_process

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: What gloo and nccl say when another process is gone.
_GONE = re.compile(
    r"Connection (closed|reset|refused)|closed by peer|Broken pipe|Socket (Timeout|closed)"
    r"|remote process exited|peer (is )?(gone|closed)|Timed out waiting|NCCL communicator was aborted",
    re.IGNORECASE,
)
#: mmengine's file that builds everything; functions of ours that read the config; and such as only
#: run when all is built.
_RUNNER = os.path.join("mmengine", "runner", "runner.py")
_CONFIG = ("train_config", "test_config")
_STEPS = ("run", "run_epoch", "run_iter", "train_step", "val_step", "test_step")
#: Set to anything, errors keep their traceback.
TRACEBACK = "MMDET_MOBILEFORMER_TRACEBACK"


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn what the user can mend into `SystemExit` with one sentence.

    That is: ValueError and OSError (FileNotFoundError ...) whose `raise` stands in a file of this
    package, also where mmengine's registry or a data worker caught and wrapped them; what a part of
    the config cannot be built with; a full disk; a process of the run, or a data worker, that is
    gone. All others pass with their traceback, and so do all where the environment has
    MMDET_MOBILEFORMER_TRACEBACK. Of several processes with the same sentence one prints it.
    """
    try:
        yield
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None or os.environ.get(TRACEBACK):
            raise
        if _speaks(sentence):
            print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


def _sentence(error: BaseException) -> str | None:
    """What to say; None for an error that is none of ours."""
    for link in _chain(error):
        if isinstance(link, (ValueError, OSError)):
            if _raised_in(link.__traceback__):
                return str(link)
            found = _from_worker(str(link))
            if found is not None:
                return found
        if isinstance(link, OSError) and link.errno in _NO_ROOM:
            return (
                f"the disk is full ({link.filename or 'no file named'}: {link.strerror}): what was "
                "saved before is untouched; make room, then continue with --resume"
            )
    text = str(error)
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        return (
            f"{text.splitlines()[0].rstrip('. ')}: a process that loads data was killed, most often "
            "for lack of memory; set a smaller train_dataloader.num_workers, then use --resume"
        )
    if text.startswith("Expected more than 1 value per channel when training"):
        return (
            "BatchNorm cannot train on a batch of one picture of at most 32 pixels, whose last map is "
            "one value: set a larger train_dataloader.batch_size or resize the pictures"
        )
    if isinstance(error, RuntimeError) and dist.is_initialized() and _GONE.search(text):
        return (
            f"process {dist.get_rank()} of {dist.get_world_size()} stops, since another one of this "
            "run is gone, killed or by an error of its own, which it names: continue with --resume"
        )
    return _from_building(error)


def _from_building(error: BaseException) -> str | None:
    """What is wrong with config or checkpoint, by the error that it led to before the first step."""
    if isinstance(error, (MemoryError, OSError, StopIteration)):
        return None
    building = running = False
    subject, place = "the config", ""
    traceback = error.__traceback__
    while traceback is not None:
        known, code = traceback.tb_frame.f_locals, traceback.tb_frame.f_code
        name, of_runner = code.co_name, code.co_filename.endswith(_RUNNER)
        place = f"{os.path.basename(code.co_filename)}:{traceback.tb_lineno}"
        building = building or of_runner or name in _CONFIG
        running = (running or name in _STEPS) and name != "before_train"
        if name == "build_from_cfg":
            building, kind = True, known.get("obj_type", "part without type")
            kind = kind if isinstance(kind, str) else getattr(kind, "__name__", repr(kind))
            subject = f"the config's {kind}"
        elif of_runner and name in ("resume", "load_checkpoint"):
            subject = f"checkpoint {known.get('filename')}"
        traceback = traceback.tb_next
    # mmdet compares the head with the classes when the first epoch begins.
    if not place.startswith("num_class_check_hook.py") and (running or not building):
        return None
    said = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    text = " ".join(said.split()) or "no reason given"
    return f"{subject} does not work ({type(error).__name__} at {place}): {text[:300]}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _raised_in(traceback: TracebackType | None) -> bool:
    file = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        traceback = traceback.tb_next
    return os.path.abspath(file).startswith(_PACKAGE)


def _from_worker(text: str) -> str | None:
    """The sentence of an error of ours that torch brought over from a data worker, as text."""
    if not re.match(r"Caught \w+ in DataLoader worker process", text):
        return None
    files = re.findall(r'^  File "(.+?)", line', text, re.MULTILINE)
    if not files or not os.path.abspath(files[-1]).startswith(_PACKAGE):
        return None
    return text.strip().splitlines()[-1].partition(": ")[2]


def _speaks(sentence: str) -> bool:
    """Whether this process is the first to come with this sentence."""
    if not dist.is_initialized():
        return is_first_process()
    try:
        store = dist.distributed_c10d._get_default_store()
        key = hashlib.sha256(sentence.encode()).hexdigest()
        return bool(store.add(f"mmdet_mobileformer/{key}", 1) == 1)
    except Exception:  # whoever keeps the store is gone
        return True
