"""analysis/learning*.py: the benchmark of learning, on a drawn set and with made-up results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.registry import DATASETS  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from mmdet_mobileformer.analysis import learning_runs  # noqa: E402
from mmdet_mobileformer.analysis.learning import (  # noqa: E402
    AUGMENTATIONS,
    CANDIDATES,
    CROP_FROM,
    POINTS,
    TASKS,
    Places,
    Run,
)
from mmdet_mobileformer.analysis.learning_config import (  # noqa: E402
    base_lr,
    config_hash,
    run_config,
    select_ids,
    split_training_set,
    train_pipeline,
)
from mmdet_mobileformer.analysis.learning_report import plot, rows, table  # noqa: E402
from mmdet_mobileformer.analysis.learning_runs import (  # noqa: E402
    DataFolders,
    Result,
    Settings,
    append_result,
    average_of,
    execute,
    find,
    known,
    read_results,
    work_off,
)
from mmdet_mobileformer.analysis.learning_search import Search, chosen, describe  # noqa: E402
from mmdet_mobileformer.data.shapes import make_shapes  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PEERS = [name for name, candidate in CANDIDATES.items() if not candidate.ours]
FAST = Run("trial", "shapes", "e2emf_52m_fast", CANDIDATES["e2emf_52m_fast"].config, 1e-3)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Twenty drawn pictures, of which two are for choices, and two for validation."""
    folder = tmp_path_factory.mktemp("learning")
    make_shapes(folder / "shapes", splits=dict(train=20, val=2), seed=3)
    return split_training_set("shapes", folder / "shapes", folder / "split", count=2)


def result_of(run: Run, ap: float, **values: Any) -> Result:
    """What a run might have come to."""
    common = dict(
        config_hash=config_hash(run), commit="0" * 12, iterations=100, torch=torch.__version__,
        cpu="a processor, AVX2",
        curve=[(run.minutes / 2, ap / 2), (run.minutes, ap)], select_ap=ap, select_ap50=2 * ap,
    )
    if run.kind == "report":
        common.update(ap=ap - 0.01, ap50=2 * ap)
    names = ("kind", "task", "model", "config", "seed", "lr", "augmentation", "minutes",
             "processes", "threads")
    return Result(**{**{name: getattr(run, name) for name in names}, **common, **values})


def test_the_tasks_are_those_of_the_issue() -> None:
    budgets = {name: (task.size, task.minutes) for name, task in TASKS.items()}
    assert budgets == {"shapes": (160, 15), "person": (256, 30), "coco80": (256, 60)}
    assert TASKS["person"].class_names == ("person",) and len(TASKS["coco80"].class_names) == 80
    assert len(PEERS) >= 4


def parts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from parts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from parts(item)


@pytest.mark.parametrize("name", CANDIDATES)
def test_everyone_starts_from_scratch_under_the_same_conditions(name: str) -> None:
    candidate = CANDIDATES[name]
    assert len(candidate.lr_factors) >= 3 or candidate.minutes in (120, 180)
    task = candidate.tasks[0] if candidate.tasks else "coco80"
    cfg = run_config(Run("report", task, name, candidate.config, 1e-3, "mosaic"))
    own = run_config(replace(FAST, kind="report", task=task, augmentation="mosaic"))
    for key in cfg:
        if key not in ("model", "optim_wrapper"):
            assert cfg[key] == own[key], key
    for part in parts(cfg.model.to_dict()):
        assert "Pretrained" not in str(part.get("init_cfg") or {})
        assert part.get("norm_eval", False) is False and part.get("frozen_stages", -1) == -1
        assert not str(part.get("type")).startswith("Sync")
    assert cfg.optim_wrapper.optimizer.lr == 1e-3
    counts = {part["num_classes"] for part in parts(cfg.model.to_dict()) if "num_classes" in part}
    assert counts == {len(TASKS[task].class_names)}
    assert cfg.train_dataloader.dataset.ann_file == "SPLIT/fit.json"
    assert cfg.val_evaluator.ann_file == cfg.val_dataloader.dataset.ann_file == "SPLIT/select.json"
    assert cfg.test_evaluator.ann_file == f"DATA/{cfg.test_dataloader.dataset.ann_file}"


@pytest.mark.parametrize("kind, points", [("report", POINTS), ("trial", 1), ("ablation", 1)])
def test_only_a_reported_run_has_a_curve(kind: str, points: int) -> None:
    assert run_config(replace(FAST, kind=kind)).train_cfg.val_points == points


@pytest.mark.slow
@pytest.mark.parametrize("name", CANDIDATES)
def test_everyone_trains_and_predicts(name: str, places: Places) -> None:
    register_all_modules(init_default_scope=True)
    run = Run("trial", "shapes", name, CANDIDATES[name].config, 1e-3, processes=8)
    cfg = run_config(run, places)
    model = MODELS.build(cfg.model)
    model.init_weights()
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader)))
    data = model.data_preprocessor(batch, training=True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    assert torch.isfinite(loss)
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, "DistributedDataParallel wants a gradient of every parameter"
    model.eval()
    with torch.no_grad():
        results = model.test_step(next(iter(Runner.build_dataloader(cfg.test_dataloader))))
    assert all(torch.isfinite(result.pred_instances.bboxes).all() for result in results)


@pytest.mark.parametrize("name", [*AUGMENTATIONS, "mosaic_to_the_end"])
def test_augmentations_keep_the_size_and_the_boxes_inside(name: str, places: Places) -> None:
    register_all_modules(init_default_scope=True)
    cfg = run_config(replace(FAST, augmentation=name), places)
    data_set = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(data_set) == 18
    boxes = 0
    for index in range(12):
        sample = data_set[index]
        height, width = sample["inputs"].shape[1:]
        assert max(height, width) <= 160
        found = sample["data_samples"].gt_instances.bboxes.tensor
        boxes += len(found)
        assert (found[:, 2] <= width + 0.01).all() and (found[:, 3] <= height + 0.01).all()
    assert boxes
    ends = [hook for hook in cfg.custom_hooks if hook.type == "ClockPipelineSwitchHook"]
    shares = [CROP_FROM[name]] if name in CROP_FROM else []
    assert bool(shares) == (name in ("mosaic", "growing"))
    assert [hook.switch_share for hook in ends] == cfg.train_cfg.get("cut_at", []) == shares
    if ends:
        assert ends[0].switch_pipeline == train_pipeline("crop", 160)


def test_growing_pictures_are_small_first(places: Places) -> None:
    register_all_modules(init_default_scope=True)
    data_set = DATASETS.build(run_config(replace(FAST, augmentation="growing"), places).train_dataloader.dataset)
    assert {max(data_set[index]["inputs"].shape[1:]) for index in range(12)} == {80}


def test_unknown_names_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="no augmentation 'rain': choose one of crop"):
        train_pipeline("rain", 64)
    with pytest.raises(ValueError, match="no task 'x': choose one of shapes"):
        run_config(replace(FAST, task="x"))
    with pytest.raises(ValueError, match="3 processes do not divide"):
        run_config(replace(FAST, processes=3))
    with pytest.raises(ValueError, match="no model 'x'"):
        chosen(models=["x"])
    with pytest.raises(ValueError, match="three different learning rates"):
        chosen(lr_factors=[1.0, 2.0])


def test_the_pictures_of_choices_depend_on_their_ids_alone(places: Places, tmp_path: Path) -> None:
    ids = list(range(1, 1000))
    some = select_ids(ids, 200)
    assert len(some) == 200 and some == select_ids(ids[::-1], 200)
    # Another picture in the set changes at most one of them.
    assert len(some - select_ids([*ids, 5000], 200)) <= 1
    fit, select = (
        json.loads((Path(places.split) / f"{name}.json").read_text()) for name in ("fit", "select")
    )
    names = [{image["file_name"] for image in part["images"]} for part in (fit, select)]
    assert [len(part) for part in names] == [18, 2] and not names[0] & names[1]
    for part in (fit, select):
        assert {a["image_id"] for a in part["annotations"]} <= {i["id"] for i in part["images"]}
        assert len(part["categories"]) == 6
    with pytest.raises(ValueError, match="20 pictures, of which 200 are split off"):
        split_training_set("shapes", places.root, tmp_path)
    with pytest.raises(FileNotFoundError, match="instances_train2017.json does not exist"):
        split_training_set("coco_mini", tmp_path, tmp_path)


def test_the_hash_is_of_the_run_and_of_nothing_else() -> None:
    first = config_hash(FAST)
    assert first == config_hash(replace(FAST, seed=7)) and len(first) == 12
    for change in (
        dict(lr=2e-3), dict(augmentation="flip"), dict(minutes=2.0), dict(threads=2),
        dict(processes=1), dict(ema=""), dict(ema="share"), dict(task="person"),
        dict(options={"model.bbox_head.dropout": 0.5}),
    ):
        assert config_hash(replace(FAST, **change)) != first, change
    with pytest.raises(ValueError, match="do not fit benchmarks/learning/e2emf_52m_fast"):
        config_hash(replace(FAST, options={"model.bbox_head.loss_cls.type.x": 1}))


def test_lines_come_back_and_damage_is_named(tmp_path: Path) -> None:
    file = tmp_path / "new" / "results.jsonl"
    assert read_results(file) == []
    made = [result_of(FAST, 0.25), result_of(replace(FAST, kind="report"), 0.5)]
    for result in made:
        append_result(file, result)
    assert read_results(file) == made
    with file.open("a") as stream:
        stream.write('{"kind": "trial", "half"')
    with pytest.raises(ValueError, match="line 3 of .*results.jsonl is no result"):
        read_results(file)


def test_the_search_tries_rates_then_augmentations_then_reports() -> None:
    candidate = CANDIDATES["e2emf_52m_fast"]
    rate = base_lr(candidate.config)
    results: list[Result] = []

    here = Settings(here=result_of(FAST, 0.0).cpu)

    def missing() -> list[Run]:
        return Search("shapes", candidate, results, here).missing()

    first = missing()
    assert [run.lr for run in first] == [rate, rate / 2, 2 * rate]
    assert {(run.kind, run.minutes, run.augmentation) for run in first} == {("trial", 2.5, "crop")}
    # Twice the rate is the best, so one beyond it is tried; it diverges.
    results += [result_of(run, ap) for run, ap in zip(first, (0.2, 0.1, 0.3))]
    (beyond,) = missing()
    assert beyond.lr == pytest.approx(4 * rate)
    results.append(result_of(beyond, 0.9, diverged=True))
    others = missing()
    assert [(run.augmentation, run.lr) for run in others] == [
        (name, 2 * rate) for name in AUGMENTATIONS[1:]
    ]
    assert "then at least 30 minutes more" in describe([Search("shapes", candidate, results, here)])
    # AP50 decides, not AP.
    results += [result_of(run, ap, select_ap=0.9 - ap) for run, ap in zip(others, (0.1, 0.4, 0.3))]
    # The two best ones are trained for the whole budget.
    reports = missing()
    assert {(run.kind, run.minutes, run.lr) for run in reports} == {("report", 15, 2 * rate)}
    assert [run.augmentation for run in reports] == ["mosaic", "crop"]
    # Trials keep the average that all tasks have there.
    assert {run.ema for run in first} == {"steps"} and {run.ema for run in reports} == {"share"}
    results.append(result_of(reports[0], 0.45))
    assert missing() == reports[1:]
    results.append(result_of(reports[1], 0.46))
    assert missing() == []
    assert describe([Search("shapes", candidate, results)]) == "all runs are done"
    # Rows of another processor are repeated when that is asked for, with what its trials chose.
    assert Search("shapes", candidate, results, Settings(cpu="another")).missing() == reports
    assert Search("shapes", candidate, results, Settings(cpu=results[0].cpu)).missing() == []
    # Trials that are compared are of one processor, whichever has them all; else this one does all of them.
    moved = [replace(result, cpu="another") if result.kind == "trial" else result for result in results]
    assert Search("shapes", candidate, moved, here).missing() == []
    for which, count in ((first[0], 3), (others[0], 4)):
        mixed = [
            replace(result, cpu="another") if result.config_hash == config_hash(which) else result
            for result in results
        ]
        repeated = Search("shapes", candidate, mixed, Settings(here="a third")).missing()
        assert len(repeated) == count and {run.kind for run in repeated} == {"trial"}
        assert Search("shapes", candidate, mixed, here).missing() == [which]
    # On person the best trial alone is trained on; COCO's classes take it from there.
    photos: list[Result] = []
    for _ in range(2):
        trials = [run for task in ("person", "coco80") for run in Search(task, candidate, photos, here).missing()]
        assert {(run.kind, run.task) for run in trials} == {("trial", "person")}
        photos += [result_of(run, 0.1 if run.lr == rate else 0.05) for run in trials]
    assert [(run.task, run.minutes, run.lr) for run in Search("person", candidate, photos).missing()] == [
        ("person", 30, rate)
    ]
    (row,) = Search("coco80", candidate, photos).missing()
    assert (row.task, row.minutes, row.lr, row.augmentation) == ("coco80", 60, rate, "crop")
    found = rows([*photos, result_of(row, 0.01)], "coco80")
    assert [(r.first.task, r.trials) for r in found] == [("coco80", 3 + len(AUGMENTATIONS) - 1)]
    # A published recipe has no trials.
    for hours in (2, 3):
        (alone,) = Search("person", CANDIDATES[f"e2emf_96m_paper_{hours}h"], []).missing()
        assert (alone.kind, alone.minutes, alone.lr) == ("report", 60 * hours, 1e-4)


def test_missing_runs_are_worked_off_until_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "results.jsonl"
    runs = [replace(FAST, seed=seed, minutes=2.0) for seed in range(3)]
    clock = [0.0]
    monkeypatch.setattr(learning_runs.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(DataFolders, "places", lambda self, task: Places("a", "b"))

    def trained(run: Run, *_: Any) -> Result:
        clock[0] += 150
        if run.seed == 2 and not cut:
            cut.append(run)
            raise RuntimeError("the training was cut")
        return result_of(run, 0.1)

    cut: list[Run] = []
    monkeypatch.setattr(learning_runs, "execute", trained)
    said: list[str] = []

    def session(minutes: float) -> int:
        def next_run() -> Run | None:
            done = known(read_results(file))
            return next((run for run in runs if find(run, done) is None), None)

        folders = DataFolders(tmp_path, tmp_path, tmp_path)
        return work_off(next_run, folders, file, ROOT, minutes / 60, say=said.append)

    assert session(5.5) == 2
    assert "too few for" in said[-1] and len(read_results(file)) == 2
    # A cut run leaves no line and is repeated.
    with pytest.raises(RuntimeError, match="was cut"):
        session(10)
    assert len(read_results(file)) == 2
    assert session(10) == 1 and said[-1] == "all runs are done"
    assert [result.seed for result in read_results(file)] == [0, 1, 2]


def made_up() -> list[Result]:
    results = []
    for index, name in enumerate(["e2emf_52m_fast", *PEERS]):
        for seed in (0, 1) if index == 0 else (0,):
            run = Run("report", "person", name, CANDIDATES[name].config, 1e-3, seed=seed, minutes=30)
            results.append(result_of(run, 0.05 - 0.01 * index + 0.002 * seed))
    return results


def test_the_table_has_the_best_first_and_the_spread() -> None:
    results = made_up()
    text = table(results)
    assert "coco_mini, person" in text and "embedded set" not in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[2].startswith("| E2E-MF-52M, fast recipe | 0.041 (0.040-0.042) |")
    assert len(lines) == 2 + 1 + len(PEERS)
    assert all(line.endswith("| a processor, AVX2 |") for line in lines[2:])
    # Trials of another processor count, those of an older recipe do not.
    trial = Run("trial", "person", "e2emf_52m_fast", CANDIDATES["e2emf_52m_fast"].config, 1e-3)
    results += [result_of(trial, 0.01), result_of(replace(trial, lr=2e-3), 0.01)]
    results.append(result_of(replace(trial, lr=5e-4), 0.01, cpu="another"))
    results.append(result_of(replace(trial, lr=5e-4), 0.01, config_hash="older"))
    best = next(line for line in table(results).splitlines() if "0.041 (" in line)
    assert [cell.strip() for cell in best.split("|")][8:10] == ["crop", "3"]
    # Of a model and seed with the same settings the last result counts.
    results.append(replace(results[0], ap=0.2))
    assert rows(results, "person")[0].first.ap == 0.2
    assert table([]) == "There is no reported run yet: see the plan."
    # A model that no longer takes part.
    assert rows([replace(results[0], model="x")], "person") == []


def test_of_what_was_trained_for_the_whole_budget_the_better_on_the_choices_is_the_row() -> None:
    run = Run("report", "person", "rtmdet_tiny", CANDIDATES["rtmdet_tiny"].config, 1e-3, minutes=30)
    flip = replace(run, augmentation="flip")
    results = [result_of(run, 0.03), replace(result_of(flip, 0.02), ap=0.9)]
    (row,) = rows(results, "person")
    # Validation has no part in it.
    assert row.first.augmentation == "crop" and row.select_ap == "0.030; 0.020 with 0.001, flip"
    # Minutes of another processor are others: a row of its own.
    results.append(result_of(flip, 0.04, cpu="another"))
    found = rows(results, "person")
    assert {(r.first.cpu, r.first.augmentation) for r in found} == {
        ("a processor, AVX2", "crop"), ("another", "flip")
    }


def test_an_older_recipe_is_shown_until_there_is_a_row_of_the_new_one() -> None:
    run = Run("report", "person", "e2emf_52m_fast", CANDIDATES["e2emf_52m_fast"].config, 1e-3, minutes=30)
    results = [
        result_of(run, 0.08, config_hash="oldest"), result_of(run, 0.05, config_hash="older"),
        result_of(replace(run, kind="trial"), 0.01),
    ]
    (row,) = rows(results, "person")
    assert row.title == "E2E-MF-52M, fast recipe, a recipe before" and row.select_ap == "0.050"
    assert "| crop | - | 1 |" in table(results)
    (row,) = rows([*results, result_of(run, 0.03)], "person")
    assert row.title == "E2E-MF-52M, fast recipe" and row.select_ap == "0.030" and row.trials == 1


def test_a_row_with_the_average_of_before_stands_until_there_is_one_with_the_tasks() -> None:
    run = Run("report", "shapes", "e2emf_demo", "e2emf_demo", 6e-3, "flip", minutes=15)
    trial = replace(run, kind="trial", minutes=2.5)
    results = [result_of(run, 0.05), result_of(replace(run, augmentation="crop"), 0.04), result_of(trial, 0.01)]
    assert [average_of(result) for result in results] == ["steps"] * 3
    (row,) = rows(results, "shapes")
    # Both settings are told from each other, and the trials count.
    assert row.title == "E2E-MF of make demo, average of before" and row.trials == 1
    assert row.select_ap == "0.050; 0.040 with 0.006, crop"
    assert TASKS["shapes"].ema == "share"
    results.append(result_of(replace(run, ema="share"), 0.03))
    assert average_of(results[-1]) == "share"
    (row,) = rows(results, "shapes")
    assert row.title == "E2E-MF of make demo" and row.select_ap == "0.030" and row.trials == 1
    assert average_of(replace(results[0], config_hash="older")) is None


def test_the_window_of_the_average_grows_with_the_steps() -> None:
    run = Run("report", "shapes", "e2emf_demo", "e2emf_demo", 6e-3, ema="share")
    hook = run_config(run).custom_hooks[1]
    assert hook.type == "EMAHook"
    average = MODELS.build(
        dict(type=hook.ema_type, momentum=hook.momentum, gamma=hook.gamma, model=torch.nn.Linear(1, 1))
    )
    new = torch.nn.Linear(1, 1)
    # After 990 steps one more counts a hundredth.
    average.steps.fill_(990)
    before = average.module.weight.clone()
    average.update_parameters(new)
    assert torch.allclose(average.module.weight, before.lerp(new.weight, 0.01))


def test_the_picture_is_drawn_from_the_results(tmp_path: Path) -> None:
    out = plot(made_up(), "person", tmp_path / "new" / "person.png")
    assert out.read_bytes().startswith(b"\x89PNG") and out.stat().st_size > 20_000
    with pytest.raises(ValueError, match="no reported run of shapes"):
        plot(made_up(), "shapes", tmp_path / "no.png")


@pytest.mark.slow
def test_a_run_is_trained_measured_and_reported(places: Places, tmp_path: Path) -> None:
    run = replace(FAST, kind="report", minutes=0.03, processes=1, augmentation="mosaic")
    result = execute(run, places, ROOT, tmp_path)
    assert result.iterations >= 1 and result.config_hash == config_hash(run)
    assert result.curve[-1][0] >= 0.03 and 0 <= result.select_ap <= result.select_ap50 <= 1
    assert result.ap is not None and result.ap50 is not None
    assert len(result.commit.rstrip("+")) in (7, 12)
    assert result.cpu.endswith(torch.backends.cpu.get_cpu_capability())
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "config.py").is_file() and not list(folder.rglob("*.pth"))
    # A trial does not read the validation pictures.
    trial = execute(replace(run, kind="trial"), places, ROOT, tmp_path / "trial")
    assert trial.ap is None and trial.ap50 is None and 0 <= trial.select_ap <= 1
    # A training that fails is no result.
    with pytest.raises(RuntimeError, match="the training failed, see"):
        execute(run, Places(str(tmp_path / "nowhere"), places.split), ROOT, tmp_path)
