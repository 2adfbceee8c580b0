"""Whether what a run is resumed from is what such a run would have saved (ours).

A checkpoint may be damaged or of another config. mmengine and torch would then fail steps later, in
the middle of something else.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

#: Key of a checkpoint under which train/resume.py keeps its record.
KEY = "exact_resume"
#: What must be the same for a resumed run to go on exactly.
DATA = ("batch_size", "world_size", "samples")


def check_record(record: Any) -> None:
    """Raise ValueError unless the record is one that ExactResumeHook writes."""
    kinds: dict[str, tuple[type, ...]] = dict(
        data=(dict,),
        position=(int,),
        validated=(bool,),
        sampler_seed=(int, type(None)),
        gradients=(list, type(None)),
        modules=(dict,),
        hooks=(dict,),
    )
    known = record if isinstance(record, dict) else {}
    wrong = [k for k, kind in kinds.items() if k not in known or not isinstance(known[k], kind)]
    if "data" not in wrong:
        wrong += [f"data.{key}" for key in DATA if key not in known["data"]]
    # torch's generators take no larger seeds.
    if "sampler_seed" not in wrong and not 0 <= (known["sampler_seed"] or 0) < 2**32:
        wrong.append("sampler_seed")
    if wrong or known["position"] < 0:
        raise ValueError(
            f"the checkpoint's record of the run is damaged ({KEY}: {', '.join(wrong) or 'position'}): "
            "resume from another checkpoint"
        )


def check_schedulers(schedulers: Any, saved: Any) -> None:
    """Raise ValueError for states that the schedulers would take and fail on steps later."""
    if not isinstance(schedulers, list) or not isinstance(saved, list):
        return  # none, or those of several optimizers
    for index, (scheduler, state) in enumerate(zip(schedulers, saved)):
        place = _differs(state, scheduler.state_dict(), f"param_schedulers.{index}")
        if place is not None:
            raise ValueError(
                f"the checkpoint's {place} is damaged or of another config: resume from another "
                "checkpoint, or start from its weights by --cfg-options load_from=FILE"
            )


def _differs(saved: Any, now: Any, place: str) -> str | None:
    """The first place where a state is of another kind than that of now."""
    if isinstance(now, Counter):
        return None if isinstance(saved, Counter) else place  # milestones may have changed
    if isinstance(now, (dict, list)):
        if not isinstance(saved, type(now)):
            return place
        items = now.items() if isinstance(now, dict) else enumerate(now[: len(saved)])
        for key, value in items:
            if isinstance(now, dict) and key not in saved:
                return f"{place}.{key}"
            found = _differs(saved[key], value, f"{place}.{key}")
            if found is not None:
                return found
        return None
    if isinstance(now, str):
        return None if saved == now else place
    if isinstance(now, bool) or not isinstance(now, (int, float)):
        return None
    return None if isinstance(saved, (int, float)) else place
