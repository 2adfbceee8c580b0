"""A small world in which the commands of the docs run as they stand, in seconds.

The folder looks like a clone of the repository, but COCO has twelve drawn pictures, ImageNet two
classes, and the configs train for one epoch on small images. What cannot run here at all (GPUs,
Slurm, downloads) is replaced by a small program of the same name, or the command is shortened by
`SHORTER`, one entry for each reason.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import cv2
import torch
import warm_python
from image_folder import make_image_folder
from pages import ROOT, Block

from mmdet_mobileformer import MobileFormerClassifier
from mmdet_mobileformer.golden import official_state_dict

#: Seconds that one block may take on a slow machine.
PATIENCE = 900
#: The images that tools/benchmarks/overfit.py takes by their number come first.
TRAIN_IDS = (9, 61, 64, 86, 136, 142, 143, 144)
VAL_IDS = (1, 2, 3, 4)

#: (pattern, replacement): how a command is shortened, and why.
SHORTER = [
    # Set-up, the suite itself and what needs a GPU: only what make would do is printed.
    (r"^make (?!-)", "make -n "),
    # 8 GPUs are one process; several: see `make test-distributed`, and two with torchrun.
    (r"(dist_(?:train|test)\.sh .*?) [28]\b", r"\1 1"),
    (r"--nproc_per_node=8(.*)--launcher pytorch", r"--nproc_per_node=2\1--launcher pytorch "
     "--cfg-options model_wrapper_cfg.type=MMDistributedDataParallel model_wrapper_cfg.device_ids=None"),
    # One epoch is trained.
    (r"(?<!demo/)epoch_\d+\.pth", "epoch_1.pth"),
    (r"(overfit\.py \S+)", r"\1 --minutes 0.05 --arch 26m --size 64"),
    # Configs with a base of mmdet have its image sizes and epochs.
    (r"(tools/train\.py (?:my|faster_rcnn)_\w+\.py.*)", r"\1 --cfg-options train_cfg.max_epochs=1 "
     "train_dataloader.num_workers=0 val_dataloader.num_workers=0 "
     'train_dataloader.dataset.pipeline.2.scale="(160,128)" '
     'val_dataloader.dataset.pipeline.1.scale="(160,128)"'),
    # Eighty classes have four plots each.
    (r"(error_analysis\.py \S+ \S+)", r"\1 --overall"),
    # Two pictures are enough to see a time.
    (r"--measure \d+", "--measure 64"),
    # Seconds in place of an hour, which say nothing about growth.
    (r"(soak\.py \S+)", r"\1 --minutes 0.1 --every 0.05 --most inf"),
    # Hours of training: what would be trained is printed. Pictures are not drawn into the clone.
    (r"((?:learning|ablation)\.py) run\b.*", r"\1 plan --task person"),
    (r"(learning\.py plot)(?! --)", r"\1 --out plots"),
    # Seconds in place of two hours, on pictures that are there.
    (r"(e2emf_52m_person\w*\.py 1 --data-root data/coco)_mini(.*)", r"\1\2 "
     "train_cfg.minutes=0.1 train_cfg.val_points=1 train_dataloader.batch_size=1"),
    # Seconds in place of the demonstration's 17 minutes. They learn nothing, so no AP is asked for.
    (r"(tools/demo\.py) (--cfg-options .*)", r"\1 --least-ap 0 \2 train_cfg.minutes=0.3 "
     "default_hooks.logger.interval=1"),
    # Seconds in place of half a minute, which shows the same.
    (r"train_cfg\.minutes=0\.5", "train_cfg.minutes=0.05"),
    # One epoch in place of six.
    (r"(e2emf_demo_by_epochs\.py 1.*)", r"\1 train_cfg.max_epochs=1 train_cfg.val_interval=1"),
    # pip finds everything installed, and installs nothing into the environment of these tests.
    (r"-m pip install ", "-m pip install --no-index --dry-run "),
    (r"python3\.11 -m venv \.venv-imagenet", "python3.11 -m venv --without-pip made-venv"),
    # pip has made this program of an installed package.
    (r"^mobileformer-detect ", "python -m mmdet_mobileformer.runtime "),
    # The README's own tables, and the page's own results, would be written.
    (r"((?:make_tables|speed_page)\.py)(?! --)", r"\1 --check"),
    # Any time does.
    (r"(analysis_tools/benchmark\.py) .*", r"\1 configs/e2emf_26m_coco.py --sizes 64x64 --runs 2 "
     "--warmup 1 --threads 1 --prepare fold --json benchmark$RANDOM.json"),
    (r"(data_time\.py \S+) --workers \d+", r"\1 --workers 1 --steps 1"),
    # What the reader has to fill in.
    (r"\bCHECKPOINT\b", "work_dirs/prepared.pth"),
    (r"\bCONFIG --shape HEIGHT WIDTH\b", "configs/e2emf_demo.py --shape 64 96"),
    (r"\bPARTITION JOB\b(.*)\bWORK_DIR\b", r"partition job\1work_dirs/slurm"),
]

_SRUN = """#!/usr/bin/env bash
# Slurm's srun without Slurm: the program alone, in one process.
shift 2
while [[ $1 == --* ]]; do shift; done
exec "${@/--launcher=slurm/--launcher=none}"
"""
_PYTHON = """#!/usr/bin/env bash
exec {python} -I -S {client} {socket} {python} "$@"
"""
_CURL = """#!/usr/bin/env bash
# curl -LO without the network: the file lies prepared.
cp "$SANDBOX/zips/$(basename "$2")" .
"""
#: mmengine's own start asks for a GPU; it leaves a group that is there alone.
_SITECUSTOMIZE = """
import os
if 'RANK' in os.environ and 'train.py' in ' '.join(__import__('sys').orig_argv):
    if 'mmpretrain' in ' '.join(__import__('sys').orig_argv):
        import torch.distributed
        torch.distributed.init_process_group('gloo')
"""


def has_mmdet() -> bool:
    return find_spec("mmdet") is not None


def has_mmpretrain() -> bool:
    return find_spec("mmpretrain") is not None


def runs_here(block: Block) -> bool:
    """Whether this environment is the one that the block is meant for."""
    imagenet = any(word in block.text for word in (".venv-imagenet", "$TOOLS", "mmpretrain"))
    return has_mmpretrain() if imagenet else has_mmdet()


def shorten(text: str) -> str:
    """A bash block with every command shortened."""
    lines = text.replace("\\\n", " ").splitlines()
    for pattern, replacement in SHORTER:
        lines = [re.sub(pattern, replacement, line) for line in lines]
    # A flag given twice would be the last one alone.
    lines = [_one_cfg_options(line) for line in lines]
    return "\n".join(lines) + "\n"


def _one_cfg_options(line: str) -> str:
    first, *rest = line.split(" --cfg-options ")
    if len(rest) < 2:
        return line
    return " --cfg-options ".join([first, " ".join(rest)])


class Sandbox:
    """A folder that looks like a clone, and one shell in it for all blocks of a page."""

    def __init__(self, folder: Path, page: str) -> None:
        self.folder = folder
        own = ("configs", "data", "work_dirs", "build", "dist")
        for path in ROOT.iterdir():
            if path.name not in own and not path.name.startswith("."):
                (folder / path.name).symlink_to(path)
        (folder / ".venv-imagenet").symlink_to(sys.prefix)
        _copy_configs(ROOT / "configs", folder / "configs")
        self._data(page)
        self._files(page)
        self._programs()
        self.output = folder / "output.txt"
        env = self._environment()
        self.python = self._warm_python(env)
        _copy_venv(folder / ".venv", folder / "bin" / "python")
        self.shell = self._start(env)
        self.blocks = 0

    def _data(self, page: str) -> None:
        _make_coco(self.folder / "data" / "coco")
        make_image_folder(self.folder / "data" / "imagenet", train=4, val=2)
        (self.folder / "data" / "pictures").symlink_to("imagenet")
        if "data/shapes/" in page:
            from mmdet_mobileformer.data.shapes import make_shapes

            make_shapes(self.folder / "data" / "shapes", splits=dict(train=4, val=2), seed=1)
        zips = self.folder / "zips"
        zips.mkdir()
        for name, part in (
            ("train2017", "train2017"),
            ("val2017", "val2017"),
            ("annotations_trainval2017", "annotations"),
        ):
            with zipfile.ZipFile(zips / f"{name}.zip", "w") as archive:
                for file in sorted((self.folder / "data" / "coco" / part).iterdir()):
                    archive.write(file, f"{part}/{file.name}")

    def _files(self, page: str) -> None:
        """What the page's reader has already: a picture, checkpoints that it names."""
        picture = next((self.folder / "data" / "coco" / "val2017").iterdir())
        shutil.copy(picture, self.folder / "picture.jpg")
        if "holiday/" in page:
            _make_holiday(self.folder / "holiday", self.folder / "picture.jpg")
        work_dirs = self.folder / "work_dirs"
        for word, config, file in (
            ("CHECKPOINT", "e2emf_508m_coco", work_dirs / "prepared.pth"),
            ("weights.pth", "e2emf_96m_coco", self.folder / "weights.pth"),
        ):
            if word in page and has_mmdet():
                self._weights(config, file)
        for name in sorted(set(re.findall(r"work_dirs/demo/epoch_\d+\.pth", page))):
            if has_mmdet():
                self._weights("e2emf_demo", self.folder / name)
        if "card.json" in page:
            keys = ("title", "summary", "data", "data_licences", "training", "score_command", "licence")
            card = {**dict.fromkeys(keys, "-"), "scores": {"AP": 0}, "can": ["-"], "cannot": ["-"]}
            (self.folder / "card.json").write_text(json.dumps(card))
        if "OFFICIAL.pth.tar" in page:
            torch.save({"state_dict": official_state_dict("508m")}, self.folder / "OFFICIAL.pth.tar")
        if "mobileformer_96m.safetensors" in page:
            state = MobileFormerClassifier("96m").state_dict()
            _save_safetensors(state, self.folder / "mobileformer_96m.safetensors")
        if re.search(r"\bMYDATA\b", page) and has_mmdet():
            from mmdet_mobileformer.data.shapes import make_shapes

            make_shapes(self.folder / "MYDATA", splits=dict(train=24), seed=1)
        if "nonfinite_iter_1234.pth" in page and has_mmdet():
            _save_step(self.folder / "configs" / "e2emf_demo.py", work_dirs / "RUN")
        # What mmpretrain writes after training one of configs/imagenet: see tests/test_pretrain.py.
        trained = work_dirs / "mobileformer_508m_in1k" / "epoch_1.pth"
        if trained.parent.name in page and not has_mmpretrain():
            trained.parent.mkdir(parents=True)
            state = MobileFormerClassifier("508m").state_dict()
            torch.save({"state_dict": state, "meta": {"epoch": 1}}, trained)

    def _weights(self, config: str, file: Path) -> None:
        from mmdet.registry import MODELS
        from mmdet.utils import register_all_modules
        from mmengine.config import Config

        register_all_modules(init_default_scope=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        cfg = Config.fromfile(str(self.folder / "configs" / f"{config}.py"))
        torch.save({"state_dict": MODELS.build(cfg.model).state_dict(), "meta": {}}, file)

    def _programs(self) -> None:
        programs = self.folder / "bin"
        programs.mkdir()
        for name, text in (("srun", _SRUN), ("curl", _CURL)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        (self.folder / "site").mkdir()
        (self.folder / "site" / "sitecustomize.py").write_text(_SITECUSTOMIZE)

    def _warm_python(self, env: dict[str, str]) -> subprocess.Popen[str]:
        """A Python that has imported what all need, and `python` on PATH that hands over to it."""
        # A socket's path may have 107 characters.
        self.sockets = tempfile.TemporaryDirectory()
        paths = dict(python=sys.executable, client=warm_python.__file__)
        paths["socket"] = f"{self.sockets.name}/python"
        shim = self.folder / "bin" / "python"
        shim.write_text(_PYTHON.format(**paths))
        shim.chmod(0o755)
        server = subprocess.Popen(
            [paths["python"], paths["client"], "--serve", paths["socket"]],
            cwd=self.folder,
            env=env,
            text=True,
        )
        while not Path(paths["socket"]).exists():
            assert server.poll() is None, "the server of Python has ended"
            time.sleep(0.02)
        return server

    def _environment(self) -> dict[str, str]:
        path = [self.folder / "bin", Path(sys.prefix) / "bin", os.environ["PATH"]]
        python_path = [self.folder / "site", ROOT, os.environ.get("PYTHONPATH", "")]
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("MAKE")},
            "PATH": os.pathsep.join(map(str, path)),
            "PYTHONPATH": os.pathsep.join(str(p) for p in python_path if str(p)),
            "SANDBOX": str(self.folder),
            "OMP_NUM_THREADS": "1",
            # The Python of torchrun's ranks; mmpretrain's have to read sitecustomize.
            **({} if has_mmpretrain() else {"PYTHON_EXEC": str(self.folder / "bin" / "python")}),
            "CUDA_VISIBLE_DEVICES": "-1",
            "PORT": str(port),
            "MASTER_PORT": str(port),
        }

    def _start(self, env: dict[str, str]) -> subprocess.Popen[str]:
        # -e: the first command of a block that fails ends the shell.
        return subprocess.Popen(
            [shutil.which("bash") or "bash", "-e"],
            cwd=self.folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, block: Block) -> str | None:
        """Run one block; returns what was printed if it failed, else None."""
        self.blocks += 1
        script = self.folder / f"block{self.blocks}.sh"
        if block.kind == "bash":
            script.write_text(shorten(block.text))
        else:
            file = self.folder / (block.file if block.kind == "file" else f"block{self.blocks}.py")
            file.write_text(block.text)
            program = _BUILD.format(file.name) if block.kind == "file" else block.text
            (self.folder / f"run{self.blocks}.py").write_text(program)
            script.write_text(f"(cd {self.folder} && python run{self.blocks}.py)\n")
        mark = f"--- block {self.blocks} is done"
        position = len(self.output.read_text())
        if self.shell.poll() is not None or self.shell.stdin is None:
            return "not run, since a block before it failed"
        self.shell.stdin.write(f". {script}\necho '{mark}'\n")
        self.shell.stdin.flush()
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.shell.poll() is None:
            if mark in self.output.read_text()[position:]:
                return None
            time.sleep(0.2)
        # The shell may have ended after the mark.
        printed = self.output.read_text()[position:]
        return None if mark in printed else f"{script.read_text()}\n{printed[-6000:]}"

    def close(self) -> None:
        """End the shell; what it runs ends with it."""
        self.python.kill()
        self.python.wait()
        self.sockets.cleanup()
        if self.shell.stdin is not None:
            self.shell.stdin.close()
        try:
            self.shell.wait(5)
        except subprocess.TimeoutExpired:
            self.shell.kill()


#: What is done with a config of the page: it is read, and its model built.
_BUILD = """
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
cfg = Config.fromfile({!r})
init_default_scope(cfg.default_scope)
__import__(cfg.default_scope + '.models')
MODELS.build(cfg.model).init_weights()
"""


def _copy_venv(target: Path, python: Path) -> None:
    """The environment of these tests with another `python`."""
    programs = Path(sys.prefix) / "bin"
    (target / "bin").mkdir(parents=True)
    for file in programs.iterdir():
        if file.name not in ("python", "activate"):
            (target / "bin" / file.name).symlink_to(file)
    (target / "bin" / "python").symlink_to(python)
    for name in ("lib", "pyvenv.cfg"):  # python3 is the environment's own
        (target / name).symlink_to(Path(sys.prefix) / name)
    text = (programs / "activate").read_text()
    (target / "bin" / "activate").write_text(text.replace(sys.prefix, str(target)))


def _copy_configs(source: Path, target: Path) -> None:
    """The configs with one epoch, small images and small batches."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for file in target.rglob("*.py"):
        text = file.read_text()
        text = re.sub(r"\bmax_epochs ?= ?\d+", "max_epochs=1", text)
        text = re.sub(r"\bend=12\b", "end=1", text)
        text = re.sub(r"\bminutes=\d+", "minutes=0.05", text)
        text = re.sub(r"\bnum_workers=\d+", "num_workers=0", text)
        text = text.replace("persistent_workers=True", "persistent_workers=False")
        text = text.replace("batch_size=128", "batch_size=2")
        if file.name.startswith("coco"):
            text = re.sub(r"\b\d{3,4}\b", lambda m: _smaller(int(m[0])), text)
        if file.name == "schedule_450e.py":
            text = text.replace("warmup = 3", "warmup = 0.5")
        file.write_text(text)


def _make_holiday(folder: Path, picture: Path) -> None:
    """A folder with a picture and a video of two frames."""
    folder.mkdir()
    frame = cv2.imread(str(picture))
    cv2.imwrite(str(folder / "beach.jpg"), frame)
    size = (frame.shape[1], frame.shape[0])
    writer = cv2.VideoWriter(str(folder / "sea.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, size)
    for _ in range(2):
        writer.write(frame)
    writer.release()


def _smaller(number: int) -> str:
    # Years (val2017) are part of a word; pixels are not.
    return str(number // 8 if 280 <= number <= 1400 else number)


def _save_safetensors(state: dict[str, torch.Tensor], file: Path) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError:
        return
    save_file({key: value.contiguous() for key, value in state.items()}, file)


def _save_step(config: Path, work_dir: Path) -> None:
    """What a run that stopped at NaN leaves, but with a batch whose losses are finite now."""
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.structures import InstanceData

    from mmdet_mobileformer.train.replay import save_step
    from mmdet_mobileformer.train.sampling import generator_states

    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(str(config))
    work_dir.mkdir(parents=True)
    cfg.dump(str(work_dir / "CONFIG.py"))
    samples = []
    for _ in range(2):
        sample = DetDataSample(metainfo=dict(img_shape=(64, 64), scale_factor=(1.0, 1.0)))
        boxes = torch.tensor([[4.0, 8.0, 30.0, 40.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros(1, dtype=torch.long))
        samples.append(sample)
    batch = dict(inputs=[torch.full((3, 64, 64), 99, dtype=torch.uint8)] * 2, data_samples=samples)
    info = dict(iteration=1234, epoch=2, losses={}, where="made by hand", images=[], autocast=None)
    file = work_dir / "nonfinite_iter_1234.pth"
    save_step(file, MODELS.build(cfg.model), batch, generator_states(), **info)


def _make_coco(root: Path) -> None:
    """Drawn pictures under COCO's file names and categories."""
    from mmdet_mobileformer.data.shapes import make_shapes

    if has_mmdet():
        from mmdet.datasets import CocoDataset

        names = CocoDataset.METAINFO["classes"]
    else:
        names = tuple(f"class {index}" for index in range(80))
    drawn = root.with_name("drawn")
    make_shapes(drawn, splits=dict(train=len(TRAIN_IDS), val=len(VAL_IDS)), seed=1)
    (root / "annotations").mkdir(parents=True)
    for split, ids in (("train", TRAIN_IDS), ("val", VAL_IDS)):
        content = json.loads((drawn / "annotations" / f"instances_{split}.json").read_text())
        content["categories"] = [dict(id=i, name=n) for i, n in enumerate(names, 1)]
        new_ids = dict(zip((image["id"] for image in content["images"]), ids))
        (root / f"{split}2017").mkdir()
        for image in content["images"]:
            picture = cv2.imread(str(drawn / split / image["file_name"]))
            image["id"] = new_ids[image["id"]]
            image["file_name"] = f"{image['id']:012d}.jpg"
            cv2.imwrite(str(root / f"{split}2017" / image["file_name"]), picture)
        for annotation in content["annotations"]:
            annotation["image_id"] = new_ids[annotation["image_id"]]
        file = root / "annotations" / f"instances_{split}2017.json"
        file.write_text(json.dumps(content))
    shutil.rmtree(drawn)
