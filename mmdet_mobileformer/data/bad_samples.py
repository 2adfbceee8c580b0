"""Bad pictures and boxes while training: reported once by name, left out, counted (ours).

mmengine's data sets replace a sample whose pipeline returned None by a random other one without a
word, and a picture that cannot be decoded ends the run with a traceback. With
:func:`~mmdet_mobileformer.data.bad_samples_hook.skip_bad_samples`:

- a picture that is missing, truncated or cannot be decoded, or that a transform fails on, is left
  out of its batch, which gets smaller by it;
- a box with NaN or absurd coordinates is left out of its picture;
- where the pipeline returns None (a crop without boxes), the same picture is tried again with other
  random numbers;
- a batch of which nothing is left takes the next picture of the data set that can be used, since
  all processes must make the same steps;
- validation and test do not leave anything out, but stop with the file's name: AP over a part of
  the pictures would not compare.

What happened travels with the batch from the worker to the hook, which tells the user. All of it
is a function of the sample, so that runs stay reproducible.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.registry import DATASETS, FUNCTIONS

from .pictures import MOST_PIXELS, file_problem

#: Under which the reports stand in a batch, until the hook takes them out.
KEY = "bad_samples"
#: Attempts at a picture whose pipeline returned None, and pictures tried to fill an empty batch.
ATTEMPTS = 10
NEIGHBOURS = 100
#: Errors of the operating system that say something about the file, not about the machine.
_ABOUT_THE_FILE = (None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR)


class Report(NamedTuple):
    """One thing that was wrong.

    Attributes:
        kind: 'picture' or 'transform' (left out), 'box' (left out of its picture), 'rejected' (the
            pipeline returned None each time), 'filled' (another picture stands in an empty batch),
            'hopeless' (no picture to fill it with).
        file: The picture.
        reason: A clause.
    """

    kind: str
    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


#: What this process found since its last batch: a worker loads and collates one after the other.
_found: deque[Report] = deque(maxlen=10_000)


class BadSampleError(ValueError):
    """A sample cannot be used."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


class Skipped:
    """Stands in a batch for a sample that cannot be used, until it is collated.

    Args:
        dataset: Gives the sample that can fill an otherwise empty batch; None if nothing may.
        index: The sample's index in it.
    """

    def __init__(self, dataset: SkipBadSamples | None = None, index: Any = None) -> None:
        self.dataset = dataset
        self.index = index

    def __repr__(self) -> str:
        return f"Skipped({self.index!r})"


class GuardedPipeline(Compose):
    """A data set's pipeline that never returns None.

    Args:
        dataset: The innermost data set; its `pipeline` gives the transforms.
        mark: Return :class:`Skipped` instead of raising; for data sets without SkipBadSamples.

    Raises (when called):
        BadSampleError: naming the picture and the reason.
        OSError: unchanged where it is about the machine, such as too many open files.
    """

    def __init__(self, dataset: Any, mark: bool = False) -> None:
        self.dataset = dataset
        self.mark = mark
        self.transforms = dataset.pipeline.transforms

    def __call__(self, data: dict[str, Any]) -> Any:
        try:
            return self._run(data)
        except BadSampleError as bad:
            if not self.mark:
                raise
            _found.append(bad.report)
            return Skipped()

    def _run(self, data: dict[str, Any]) -> Any:
        path = data.get("img_path")
        file = path if isinstance(path, str) else f"sample {data.get('sample_idx', '?')}"
        if isinstance(path, str) and self._reads_from_disk(path):
            problem = file_problem(path)
            if problem is not None:
                raise BadSampleError(Report("picture", file, problem))
        _found.extend(_drop_bad_boxes(data, file))
        index = data.get("sample_idx")
        result = self._apply(data, file)
        for _ in range(ATTEMPTS - 1 if index is not None else 0):
            if result is not None:
                break
            again = self.dataset.get_data_info(index)
            _drop_bad_boxes(again, file)
            result = self._apply(again, file)
        if result is None:
            reason = f"the pipeline gave nothing in {ATTEMPTS} attempts"
            raise BadSampleError(Report("rejected", file, reason))
        return result

    def _reads_from_disk(self, path: str) -> bool:
        loaders = [t for t in self.transforms if "LoadImage" in type(t).__name__]
        remote = any(
            getattr(t, "file_client_args", None)
            or (getattr(t, "backend_args", None) or {}).get("backend", "local") != "local"
            for t in loaders
        )
        return bool(loaders) and not remote and "://" not in path

    def _apply(self, data: Any, file: str) -> Any:
        for transform in self.transforms:
            name = type(transform).__name__
            kind = "picture" if "LoadImage" in name else "transform"
            try:
                data = transform(data)
            except (BadSampleError, MemoryError):
                raise
            except Exception as error:  # a transform may raise anything for a strange picture
                if isinstance(error, OSError) and error.errno not in _ABOUT_THE_FILE:
                    raise
                raise BadSampleError(Report(kind, file, _reason(name, error))) from error
            if data is None:
                if kind == "picture":  # LoadImageFromFile(ignore_empty=True)
                    raise BadSampleError(Report(kind, file, "cannot be read"))
                return None
        return data


def _reason(name: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{name} fails ({type(error).__name__}: {lines[0][:200] if lines else 'no message'})"


def _drop_bad_boxes(data: dict[str, Any], file: str) -> list[Report]:
    """Remove boxes without a position from a sample's instances."""
    instances = data.get("instances")
    if not isinstance(instances, list):
        return []
    reports = []
    for instance in list(instances):
        box = instance.get("bbox") if isinstance(instance, dict) else None
        # Written so that NaN fails.
        if box is not None and not all(abs(value) < MOST_PIXELS for value in box):
            instances.remove(instance)
            values = ", ".join(f"{value:g}" for value in box)
            reports.append(Report("box", file, f"the box with corners [{values}] is left out"))
    return reports


@DATASETS.register_module()
class SkipBadSamples:
    """A data set whose bad samples come out as :class:`Skipped` in place of another sample.

    The outermost wrapper of a data loader's data set; used with :func:`collate_and_report` and the hook.
    Everything else, also setting `pipeline` as PipelineSwitchHook does, goes to the data set inside.

    Args:
        dataset: A data set, or its config.
    """

    def __init__(self, dataset: Any) -> None:
        built = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        object.__setattr__(self, "dataset", built)
        self._guard()

    def __getitem__(self, index: Any) -> Any:
        for _ in range(ATTEMPTS):
            try:
                return self.dataset[index]
            except BadSampleError as bad:
                report = bad.report
            except MemoryError:
                raise
            except Exception as error:  # from a transform that mixes several pictures
                if isinstance(error, OSError) and error.errno not in _ABOUT_THE_FILE:
                    raise
                kind = type(self.dataset).__name__
                report = Report("transform", self._file(index), _reason(kind, error))
            _found.append(report)
            # A mosaic's random partner was bad, not the sample itself: take other partners.
            if report.file == self._file(index):
                break
        return Skipped(self, index)

    def _file(self, index: Any) -> str:
        return str(self.dataset.get_data_info(index).get("img_path", f"sample {index}"))

    def substitute(self, index: Any) -> list[Any]:
        """The next sample that can be used, to fill a batch of which nothing is left."""
        if not isinstance(index, Integral):
            return []  # video samplers draw tuples
        for step in range(1, min(len(self), NEIGHBOURS + 1)):
            other = (int(index) + step) % len(self)
            sample = self[other]
            if not isinstance(sample, Skipped):
                reason = (
                    f"stands in for the picture of a batch that had no other ({self._file(index)})"
                )
                _found.append(Report("filled", self._file(other), reason))
                return [sample]
        return []

    def _guard(self) -> None:
        guard_pipelines(self.dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # torch asks for __getitems__, which would go past __getitem__; copying asks for __setstate__.
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)
        if name == "pipeline":
            self._guard()

    def __getstate__(self) -> Any:
        return self.dataset

    def __setstate__(self, dataset: Any) -> None:
        object.__setattr__(self, "dataset", dataset)


def _leaves(dataset: Any) -> Iterator[Any]:
    """The innermost data sets, which have a pipeline of transforms."""
    inner = getattr(dataset, "datasets", None) or getattr(dataset, "dataset", None)
    if inner is None:
        if hasattr(getattr(dataset, "pipeline", None), "transforms"):
            yield dataset
        return
    for item in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from _leaves(item)


def guard_pipelines(dataset: Any, mark: bool = False) -> None:
    """Guard the innermost data sets; `mark` is that of :class:`GuardedPipeline`."""
    for leaf in _leaves(dataset):
        if not isinstance(leaf.pipeline, GuardedPipeline):
            leaf.pipeline = GuardedPipeline(leaf, mark)


@FUNCTIONS.register_module()
def collate_and_report(samples: Sequence[Any], inner: Any = None) -> Any:
    """Collate what is left of a batch, with what was found on the way under :data:`KEY`.

    Args:
        samples: Samples, or :class:`Skipped` in their place.
        inner: The config or function that collates, mmengine's pseudo_collate if None.

    Returns:
        The batch. If no sample is left and none can fill in, a dict with nothing but reports.
    """
    left = [sample for sample in samples if not isinstance(sample, Skipped)]
    if not left and samples and samples[-1].dataset is not None:
        left = samples[-1].dataset.substitute(samples[-1].index)
        if not left:
            last = _found[-1] if _found else "no reason known"
            reason = (
                f"none of its pictures and of the next {NEIGHBOURS} can be used, the last is {last}"
            )
            _found.append(Report("hopeless", f"the batch of sample {samples[-1].index}", reason))
    batch = _collate_function(inner)(left) if left else {}
    if _found and isinstance(batch, dict):
        batch[KEY] = list(_found)
    elif _found:
        print_log("bad samples: " + "; ".join(map(str, _found)), "current", 30)
    _found.clear()
    return batch


def _collate_function(inner: Any) -> Any:
    if isinstance(inner, dict):
        options = dict(inner)
        kind = options.pop("type")
        return partial(FUNCTIONS.get(kind) if isinstance(kind, str) else kind, **options)
    return inner if inner is not None else FUNCTIONS.get("pseudo_collate")
