"""From a config file and flags to a Runner, for training and for testing."""

from __future__ import annotations

from argparse import Namespace
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..data.bad_samples_hook import skip_bad_samples
from ..data.redirect import check_data
from ..pairing import check_pairing
from .amp import apply_amp
from .guards import add_guards, check_checkpoint, check_init_files, latest_checkpoint, set_resume
from .launch import adapt_to_processes, init_launcher, is_first_process
from .own_data import choose_data, guard_data
from .pretrained import apply_pretrained
from .safe_loading import trust_checkpoint


def read_config(file: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config file and merge `--cfg-options` into it.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be read, or an option does not fit it.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"config {file} does not exist: give the path of a config file")
    try:
        cfg = Config.fromfile(file)
    except Exception as error:  # a config is Python: anything may be raised
        raise ValueError(f"config {file} cannot be read: {_brief(error)}") from error
    try:
        cfg.merge_from_dict(options or {})
    except Exception as error:  # mmengine's own assertions among them
        raise ValueError(f"--cfg-options does not fit {file}: {_brief(error)}") from error
    _check_sections(cfg, file)
    return cfg


#: What the sections that every tool reads must be, None aside.
_SECTIONS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "train_cfg", "val_cfg", "test_cfg", "optim_wrapper"), (dict,)),
    **dict.fromkeys(("train_dataloader", "val_dataloader", "test_dataloader"), (dict,)),
    **dict.fromkeys(("val_evaluator", "test_evaluator"), (dict, list)),
    **dict.fromkeys(("default_hooks", "env_cfg", "randomness", "auto_scale_lr"), (dict,)),
    **dict.fromkeys(("work_dir", "load_from", "data_root", "default_scope"), (str,)),
    **dict.fromkeys(("custom_hooks",), (list, tuple)),
    **dict.fromkeys(("param_scheduler",), (dict, list)),
    **dict.fromkeys(("resume",), (bool,)),
}


def _check_sections(cfg: Config, file: str) -> None:
    for name, kinds in _SECTIONS.items():
        if cfg.get(name) is None or isinstance(cfg[name], kinds):
            continue
        # A finished object, such as a data set of a script that calls this, is used as it is.
        if isinstance(cfg[name], (bool, int, float, str, bytes, list, tuple, dict)):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"config {file}: {name} must be {expected}, not {cfg[name]!r}"[:300])
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = cfg.get(name)
        if isinstance(loader, dict) and "dataset" not in loader:
            raise ValueError(f"config {file}: {name} has no dataset")


def train_config(args: Namespace) -> Config:
    """Config of a training run from tools/train.py's flags, all input checked.

    Starts the process group where `--launcher` asks for it on CPUs.

    Args:
        args: config, work_dir, amp, auto_scale_lr, resume, cfg_options, launcher, data_root,
            trust_checkpoint, classes, skip_doctor, strict_data.

    Raises:
        FileNotFoundError: when the config, a checkpoint or the data set is missing.
        ValueError: when a flag does not fit the config or the machine, or the data cannot be
            trained on.
    """
    cfg = _common_config(args, ("train", "val"))
    apply_amp(cfg, args.amp)
    if args.auto_scale_lr:
        _scale_lr(cfg)
    _need(cfg, ("model", "train_dataloader", "train_cfg", "optim_wrapper"), "training")
    if getattr(args, "trust_checkpoint", False):
        _trust(cfg, args.resume)
    set_resume(cfg, args.resume)
    check_init_files(cfg)
    check_data(cfg, ("train", "val") if cfg.get("val_cfg") is not None else ("train",))
    say = print if is_first_process() else _silent
    guard_data(cfg, args, say)
    init_launcher(args.launcher)
    adapt_to_processes(cfg, args.launcher)
    apply_pretrained(cfg, say)
    for sentence in add_guards(cfg):
        say(sentence)
    return cfg


def test_config(args: Namespace) -> Config:
    """Config of a test run from tools/test.py's flags, all input checked.

    Starts the process group where `--launcher` asks for it on CPUs.

    Args:
        args: config, checkpoint, work_dir, out, show, show_dir, wait_time, cfg_options, launcher,
            tta, data_root, trust_checkpoint, classes.

    Raises:
        FileNotFoundError: when the config, the checkpoint or the data set is missing.
        ValueError: when a flag does not fit the config or the machine.
    """
    if args.out is not None and not args.out.endswith((".pkl", ".pickle")):
        raise ValueError(f"--out {args.out} must end in .pkl or .pickle")
    cfg = _common_config(args, ("test",))
    _need(cfg, ("model", "test_dataloader", "test_evaluator", "test_cfg"), "testing")
    if args.show or args.show_dir:
        _draw(cfg, args.show, args.show_dir, args.wait_time)
    if args.tta:
        use_test_time_augmentation(cfg)
    check_data(cfg, ("test",))
    skip_bad_samples(cfg)
    if getattr(args, "trust_checkpoint", False):
        trust_checkpoint(args.checkpoint)
    check_checkpoint(args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False
    init_launcher(args.launcher)
    adapt_to_processes(cfg, args.launcher)
    return cfg


def build_runner(cfg: Config) -> Any:
    """The Runner of a config: mmengine's, or the one that its `runner_type` names."""
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)


def use_test_time_augmentation(cfg: Config) -> None:
    """Set up `--tta`: the config's `tta_model` and `tta_pipeline`, or mmdet's usual flip.

    Args:
        cfg: Changed in place: the model is wrapped, and every test data set gets the pipeline.

    Raises:
        ValueError: when there is no test pipeline to derive one from.
    """
    tta_model = cfg.get("tta_model") or dict(
        type="DetTTAModel",
        tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
    )
    owners = _pipelines(cfg.test_dataloader)
    pipeline = cfg.get("tta_pipeline")
    if pipeline is None:
        if not owners:
            raise ValueError("--tta: the config has neither tta_pipeline nor a test pipeline")
        pipeline = _flipped(deepcopy(owners[-1]["pipeline"]))
    cfg.model = ConfigDict(**tta_model, module=cfg.model)
    for owner in owners:
        owner["pipeline"] = deepcopy(pipeline)


def _flipped(pipeline: list[Any]) -> list[Any]:
    """A test pipeline that shows each image as it is and mirrored."""
    pack = dict(pipeline[-1])
    keys = pack.get("meta_keys", ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"))
    pack["meta_keys"] = tuple(dict.fromkeys((*keys, "flip", "flip_direction")))
    flips = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]
    return [*pipeline[:-1], dict(type="TestTimeAug", transforms=[flips, [pack]])]


def _pipelines(value: Any) -> list[Any]:
    """Every dict below a data loader that has a pipeline, the innermost data set last."""
    if isinstance(value, dict):
        own = [value] if "pipeline" in value else []
        return own + [o for k, v in value.items() if k != "pipeline" for o in _pipelines(v)]
    if isinstance(value, (list, tuple)):
        return [owner for item in value for owner in _pipelines(item)]
    return []


def _common_config(args: Namespace, splits: tuple[str, ...]) -> Config:
    cfg = read_config(args.config, args.cfg_options)
    # The order of mmdet: the flag, the config, the name of the config file.
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("./work_dirs") / Path(args.config).stem)
    if cfg.get("val_cfg") is None:
        splits = tuple(split for split in splits if split != "val")
    choose_data(cfg, args, splits, print if is_first_process() else _silent)
    check_pairing(cfg)
    for name in list(cfg.keys()):
        if name.endswith("dataloader") and isinstance(cfg[name], dict):
            _fix_workers(cfg[name])
    hooks = list(cfg.get("custom_hooks") or [])
    cfg.custom_hooks = [*hooks, dict(type="NoCodeFromCheckpointHook")]
    return cfg


def _fix_workers(loader: Any) -> None:
    # torch refuses persistent_workers and prefetch_factor without workers. With workers that are
    # started anew every epoch mmengine seeds them alike, and each epoch repeats its augmentations.
    workers = loader.get("num_workers", 0)
    if not workers:
        loader.pop("prefetch_factor", None)
    loader["persistent_workers"] = bool(workers)


def _scale_lr(cfg: Config) -> None:
    scale = cfg.get("auto_scale_lr")
    if not isinstance(scale, dict) or "base_batch_size" not in scale:
        raise ValueError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
    scale["enable"] = True


def _trust(cfg: Config, resume: str | None) -> None:
    """`--trust-checkpoint`: what the command or the config names is loaded even if it holds code."""
    named = [resume if resume != "auto" else latest_checkpoint(cfg.work_dir)]
    for reference in (*named, cfg.get("load_from")):
        if isinstance(reference, str):
            trust_checkpoint(reference)


def _draw(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    hooks = cfg.get("default_hooks") or {}
    if "visualization" not in hooks:
        raise ValueError(
            "--show and --show-dir need default_hooks.visualization="
            "dict(type='DetVisualizationHook') in the config"
        )
    hook = hooks["visualization"]
    hook["draw"] = True
    if show:
        hook["show"], hook["wait_time"] = True, wait_time
    if show_dir:
        hook["test_out_dir"] = show_dir
    # mmengine's own Visualizer, the default without a setting, cannot draw detections.
    backends = [dict(type="LocalVisBackend")]
    cfg.setdefault("visualizer", dict(type="DetLocalVisualizer", vis_backends=backends))


def _need(cfg: Config, keys: tuple[str, ...], what: str) -> None:
    absent = [key for key in keys if cfg.get(key) is None]
    if absent:
        raise ValueError(f"config {cfg.filename} lacks {', '.join(absent)}, needed for {what}")


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _silent(_: str) -> None:
    """Say nothing: only the first process speaks."""
