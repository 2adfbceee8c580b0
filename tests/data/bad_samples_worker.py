"""One of two gloo processes that train on a set with bad pictures: WORK_DIR DATA STRICT."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist
from mmengine.runner import Runner
from small_set import config

from mmdet_mobileformer.data.bad_samples_hook import skip_bad_samples
from mmdet_mobileformer.train.launch import close_launcher

work_dir, root, strict = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "strict"
dist.init_process_group("gloo")
Runner._log_env = lambda *_: None
cfg = config(root, work_dir)
cfg.launcher = "pytorch"
cfg.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None)
cfg.train_dataloader.num_workers = 1
skip_bad_samples(cfg, strict)
runner = Runner.from_cfg(cfg)
try:
    runner.train()
except ValueError as error:
    print(f"rank {dist.get_rank()} stops: {error}")
    raise SystemExit(1) from None
(work_dir / f"seen{dist.get_rank()}.json").write_text(json.dumps(runner.model.module.seen))
# A thread of the group that outlives Python may abort the process.
del runner
close_launcher()
