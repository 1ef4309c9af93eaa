"""Small complete runs: resuming bit for bit, refusing what does not fit, and counting every image once."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mae_jax.checkpoints import steps
from mae_jax.config.loading import flatten, load
from mae_jax.rundir import contents, hparams_table, lock, predictions
from mae_jax.runtime.errors import Stopped, UserError
from mae_jax.runtime.progress import Progress
from mae_jax.step import sharding, state, train_step
from mae_jax.train import loop
from mae_jax.train.build import build
from mae_jax.train.cursor import Cursor
from mae_jax.train.divergence import Diverged

ROOT = Path(__file__).parents[2]
TINY = [
    "--config.data.synthetic_train=60", "--config.data.synthetic_test=23", "--config.data.synthetic_size=32",
    "--config.data.synthetic_unlabelled=40", "--config.model.size=custom", "--config.model.image_size=16",
    "--config.model.patch_size=8", "--config.model.width=16", "--config.model.depth=2", "--config.model.heads=2",
    "--config.train.batch_size=16", "--config.train.steps=60", "--config.log.tensorboard=False",
    "--config.checkpoint.every_epochs=1.3", "--config.log.every_steps=3", "--config.eval.every_epochs=2.0",
]  # fmt: skip


def start(environment: dict[str, str], workdir: Path, *more: str) -> subprocess.Popen:
    config = f"--config={ROOT}/configs/finetune.py:data=synthetic,frac=0.5"
    command = [sys.executable, "-m", "mae_jax.main", config, f"--workdir={workdir}", *TINY, *more]
    environment = environment | {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "xla")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def rows_of(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / contents.METRICS).read_text().splitlines()]


def weights(workdir: Path) -> dict[str, bytes]:
    import orbax.checkpoint as ocp

    newest = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    place, restore = (workdir / "checkpoints" / str(newest)).absolute(), ocp.StandardCheckpointer().restore
    flat, _ = jax.tree_util.tree_flatten_with_path([restore(place / item) for item in ("params", "optimizer")])
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in flat}


CELLMIX = ("--config.train.cellmix=batch", "--config.model.image_size=32")


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), CELLMIX], ids=["plain", "cellmix"])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, environment, more):
    """After SIGKILL and then SIGTERM, the state, metrics and predictions equal those of an uninterrupted run.

    The state has the parameters, the optimizer's state, and CellMix's curriculum.
    """
    uninterrupted, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(environment, uninterrupted, *more))
    for number, at in ((signal.SIGKILL, 17), (signal.SIGTERM, 33)):
        process = start(environment, broken, "--config.log.progress_seconds=0.0", *more)
        for line in process.stdout:
            if f"step {at}/60" in line:
                process.send_signal(number)
                break
        text, _ = process.communicate(timeout=300)
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 75), text
        assert not (broken / contents.RESULTS).exists()
    assert "resuming from step" in finish(start(environment, broken, *more))
    assert rows_of(broken) == rows_of(uninterrupted)
    assert (broken / contents.PREDICTIONS).read_bytes() == (uninterrupted / contents.PREDICTIONS).read_bytes()
    assert weights(broken) == weights(uninterrupted)
    assert any("threshold" in name for name in weights(broken)) == bool(more)


def stop_after(monkeypatch, step: int):
    """Makes the run stop, as by a signal, when `step` updates are done."""
    original = Progress.update

    def update(self, done, text):
        original(self, done, text)
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Progress, "update", update)


def recipe_of_mae() -> dict:
    """The fields that the recipe changes."""
    plain, mae = (flatten(load(ROOT / "configs/finetune.py", f"recipe={name}")) for name in ("study", "mae"))
    return {key: value for key, value in mae.items() if value != plain[key]} | {"name": ""}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pretrain", "finetune", "finetune recipe=mae", "linear_probe"])
def test_a_stopped_run_resumes_at_its_step_and_repeats_no_data(tmp_path, tiny_config, monkeypatch, task):
    seen: list[tuple[int, list[int]]] = []
    original = train_step.train_step

    def spy(spec, current, batch, seed, rate):
        seen.append((int(current.step), np.asarray(batch["index"]).tolist()))
        return original(spec, current, batch, seed, rate)

    monkeypatch.setattr(loop, "train_step", spy)
    task, _, recipe = task.partition(" ")
    config = tiny_config(task, **(recipe_of_mae() if recipe else {}))
    loop.run(config, tmp_path / "whole")
    uninterrupted, seen[:] = list(seen), []
    with monkeypatch.context() as patched:
        stop_after(patched, 4)
        with pytest.raises(Stopped, match="step 4 of . is saved"):
            loop.run(config, tmp_path / "broken")
    loop.run(config, tmp_path / "broken")
    assert seen == uninterrupted and len(uninterrupted) == len({step for step, _ in uninterrupted})
    assert rows_of(tmp_path / "broken") == rows_of(tmp_path / "whole")
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    trained = [row for row in rows_of(tmp_path / "whole") if "train/loss" in row]
    assert {"train/accuracy" in row for row in trained} == {task != "pretrain" and not recipe}


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_worker_processes(tmp_path, tiny_config, monkeypatch):
    config = tiny_config("pretrain")
    loop.run(config, tmp_path / "whole")
    config.data.workers = 2
    with monkeypatch.context() as patched:
        stop_after(patched, 4)
        with pytest.raises(Stopped, match="step 4 of"):
            loop.run(config, tmp_path / "broken")
    config.data.workers = 0
    loop.run(config, tmp_path / "broken")
    assert rows_of(tmp_path / "broken") == rows_of(tmp_path / "whole")
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_resumes_with_another_sharding(tmp_path, tiny_config, monkeypatch):
    """Over five devices, which divide neither 36 nor 144 features, then copied to each."""
    config = tiny_config(**{"model.width": 36, "train.select": "best", "train.epochs": 3.0})
    loop.run(config, tmp_path / "whole")
    config.sharding.fsdp = 5
    with monkeypatch.context() as patched:
        stop_after(patched, 7)
        with pytest.raises(Stopped, match="step 7 of 12 is saved"):
            loop.run(config, tmp_path / "broken")
    config.sharding.fsdp = 1
    loop.run(config, tmp_path / "broken")
    result, expected = rows_of(tmp_path / "broken"), rows_of(tmp_path / "whole")
    assert [row.keys() for row in result] == [row.keys() for row in expected]
    for one, other in zip(result, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4), one["step"]
    best = np.load(next((tmp_path / "broken" / "best").glob("*.npz")))
    assert best["encoder/block_00/mlp/fc1/kernel"].shape == (36, 144)


def test_the_last_epochs_scores_are_kept_where_validation_chose_the_epoch(tmp_path, tiny_config):
    config = tiny_config(**{"train.select": "best", "train.epochs": 3.0})
    chosen = loop.run(config, tmp_path / "best")
    config.train.select = "last"  # the same updates
    last = loop.run(config, tmp_path / "last")
    assert chosen["last_epoch"] == {"step": 12, "accuracy": last["accuracy"], "f1": last["f1"]}
    assert "last_epoch" not in last


def test_the_fields_of_the_recipe_reach_images_step_and_head(tiny_config):
    def built(**fields):
        task = build(tiny_config(**{"data.threads": 0} | fields), sharding.make_mesh())
        return task, next(task.batches(0))["image"].astype(int)

    _, plain = built()
    _, erased = built(**{"data.random_erasing": 1.0})
    changed = (erased != plain).any(-1)[:16].mean((1, 2))  # the same crops, except for the box
    assert changed.min() > 0.01 and changed.max() < 0.36
    _, turned = built(**{"data.randaugment": 9.0, "data.randaugment_colour": False})
    assert 4 <= (turned != plain).any((1, 2, 3)).sum() <= 15  # 3 of 4 images
    _, recolored = built(**{"data.randaugment": 9.0})
    assert (recolored != turned).any()

    task, _ = built(**recipe_of_mae())
    objective = task.spec.objective
    assert (objective.mixup, objective.cutmix, objective.label_smoothing) == (0.8, 1.0, 0.1)
    assert (task.spec.shape.pool, task.spec.shape.drop_path, task.spec.optimizer.layer_decay) == ("mean", 0.1, 0.65)
    head = np.asarray(state.init_state(task.spec, 0).params["head"]["kernel"])
    assert head.std() == pytest.approx(2e-5, rel=0.25) and abs(head).max() < 4e-5


def test_a_step_is_proven_by_finite_numbers_of_the_update_after_it():
    """Only such a step is never rotated away; the step that these numbers lead to may be lost already."""
    run = object.__new__(loop.Loop)
    run.cursor, run.checkpoints = Cursor(), SimpleNamespace(proven=-1)
    run.waiting = {"loss": np.float32(1.5)}
    run.fetch(7)  # the numbers of the update from step 6 to step 7
    assert run.checkpoints.proven == 6
    run.waiting = {"loss": np.float32(1.5), "gradient_norm": np.float32(np.inf)}
    with pytest.raises(Diverged) as error:
        run.fetch(8)
    assert (run.checkpoints.proven, error.value.unsound, error.value.step) == (6, 7, 8)


def test_patience_counts_evaluations_since_the_best_one():
    run = object.__new__(loop.Loop)
    run.config = SimpleNamespace(train=SimpleNamespace(patience=2, select="macro_f1"))
    run.resolved, run.label = SimpleNamespace(eval_every=4, steps=100), "run"
    run.best, run.cursor, run.progress = SimpleNamespace(step=8), Cursor(), Progress(0.0, quiet=True)
    assert not run.exhausted(12)
    assert run.exhausted(16) and run.ended == 16


def test_every_test_image_is_predicted_once(tmp_path, tiny_config):
    results = loop.run(tiny_config(**{"data.external": "TestB"}), tmp_path / "run")
    beside = tmp_path / "run" / contents.EXTERNAL / "TestB" / contents.PREDICTIONS
    with open(beside) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 23 and {row["image"].split("/")[1] for row in rows} == {"TestB"}
    assert results["external"]["TestB"]["accuracy"] == np.mean([r["label"] == r["prediction"] for r in rows])
    with open(tmp_path / "run" / contents.PREDICTIONS) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({r["image"] for r in rows}) == 23 == results["n_test"]  # not a multiple of 10
    classes = contents.read_json(tmp_path / "run" / contents.RUN)["classes"]
    for row in rows:
        probabilities = {c: float(row[f"p_{c}"]) for c in classes}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert max(probabilities, key=probabilities.get) == row["prediction"]
        assert float(row["confidence"]) == probabilities[row["prediction"]]
    assert results["accuracy"] == pytest.approx(np.mean([r["label"] == r["prediction"] for r in rows]))
    wrong = [r for r in rows if r["label"] != r["prediction"]]
    shown = sorted(wrong, key=lambda r: (-float(r["confidence"]), r["image"]))[: predictions.MISTAKES]
    kept = tmp_path / "run" / "thumbnails"
    assert {f"{kept / r['image']}.jpg" for r in shown} == {str(p) for p in kept.rglob("*.jpg")}
    examples = tmp_path / "run" / "examples"
    first = {min(r["image"] for r in rows if r["label"] == name) for name in {r["label"] for r in rows}}
    assert {f"{examples / image}.jpg" for image in first} == {str(p) for p in examples.rglob("*.jpg")}


def test_evaluation_does_not_depend_on_the_batch_size(tmp_path, tiny_config):
    collected = []
    for size in (7, 64):
        config = tiny_config()
        config.eval.batch_size = size
        loop.run(config, tmp_path / str(size))
        collected.append([r for r in rows_of(tmp_path / str(size)) if "val/loss" in r])
    for a, b in zip(*collected, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_a_run_directory_of_another_config_is_refused(tmp_path, tiny_config):
    loop.run(tiny_config(), tmp_path)
    kept = (tmp_path / contents.RESULTS).read_bytes()
    other = tiny_config()
    other.seed, other.optim.base_lr = 1, 0.5
    with pytest.raises(UserError, match=r"another config \(optim.base_lr: 0.01 -> 0.5; seed: 0 -> 1\)"):
        loop.run(other, tmp_path)
    assert (tmp_path / contents.RESULTS).read_bytes() == kept
    (tmp_path / contents.RESULTS).rename(tmp_path / "aside")  # the same for an unfinished run
    for field, value, message in (
        ("model.depth", 3, "model.depth: 2 -> 3"),
        ("train.batch_size", 8, "train.batch_size: 16 -> 8"),
        ("seed", 1, "seed: 0 -> 1"),
    ):
        with pytest.raises(UserError, match=rf"another config \(.*{message}"):
            loop.run(tiny_config(**{field: value}), tmp_path)
    (tmp_path / "aside").rename(tmp_path / contents.RESULTS)
    again = tiny_config()
    again.log.every_steps = 7  # allowed, because it does not affect results
    assert loop.run(again, tmp_path)["n_test"] == 23


def test_a_run_older_than_a_field_resumes(tmp_path, tiny_config, monkeypatch):
    """A run that was saved without the field used its default."""
    config = tiny_config(**{"train.steps": 4})
    with monkeypatch.context() as patched:
        stop_after(patched, 2)
        with pytest.raises(Stopped):
            loop.run(config, tmp_path)
    saved = contents.read_json(tmp_path / contents.CONFIG)
    del saved["config"]["train"]["blocks"], saved["config"]["optim"]["name"]
    contents.write_json(tmp_path / contents.CONFIG, saved)
    other = tiny_config(**{"train.steps": 4, "train.blocks": 1})
    with pytest.raises(UserError, match=r"another config \(train.blocks: -1 -> 1\)"):
        loop.run(other, tmp_path)
    assert loop.run(config, tmp_path)["n_test"] == 23


@pytest.mark.slow
def test_partial_fine_tuning_is_a_separate_arm(tmp_path, tiny_config):
    config = tiny_config(**{"train.steps": 2, "train.blocks": 1})
    loop.run(config, tmp_path / "run")
    assert contents.read_json(tmp_path / "run" / contents.RUN)["arm"] == "1 block trained"
    config.train.blocks = 3
    with pytest.raises(UserError, match="train.blocks=3 is out of range; use 0 to 2, or -1"):
        loop.run(config, tmp_path / "other")
    with pytest.raises(UserError, match="train.blocks=1 is only for fine-tuning"):
        loop.run(tiny_config("pretrain", **{"train.blocks": 1}), tmp_path / "third")


def test_a_directory_in_use_is_refused(tmp_path, tiny_config):
    with lock.held(tmp_path), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        loop.run(tiny_config(), tmp_path)


@pytest.mark.slow
def test_fine_tuning_starts_from_the_encoder_of_a_pretraining(tmp_path, tiny_config):
    loop.run(tiny_config("pretrain"), tmp_path / "mae")
    scratch, mae = tiny_config(), tiny_config(init="mae", init_from=str(tmp_path / "mae"))
    starts = {}
    for name, config in (("scratch", scratch), ("mae", mae)):
        mesh = sharding.make_mesh()
        task = build(config, mesh)
        starts[name] = task.initialize(state.init_state(task.spec, config.seed)).params
    saved = weights(tmp_path / "mae")
    qkv = starts["mae"]["encoder"]["block_01"]["attn"]["qkv"]["kernel"]
    assert np.asarray(qkv).tobytes() == saved["[0]['encoder']['block_01']['attn']['qkv']['kernel']"]
    assert (starts["scratch"]["encoder"]["block_01"]["attn"]["qkv"]["kernel"] != qkv).any()
    np.testing.assert_array_equal(starts["scratch"]["head"]["kernel"], starts["mae"]["head"]["kernel"])


def test_an_encoder_of_another_shape_is_refused(tmp_path, tiny_config):
    loop.run(tiny_config("pretrain"), tmp_path / "mae")
    config = tiny_config(init="mae", init_from=str(tmp_path / "mae"))
    config.model.update(width=32)
    with pytest.raises(UserError, match="width is 32 in the config and 16 in the weights"):
        loop.run(config, tmp_path / "cell")
    config.init_from = str(tmp_path / "nothing")
    with pytest.raises(UserError, match="init_from=.*nothing does not exist; name the directory of a run"):
        loop.run(config, tmp_path / "cell")


def test_stray_and_damaged_checkpoints_are_put_aside_and_named(tmp_path, tiny_config, monkeypatch, capsys):
    config = tiny_config()
    with monkeypatch.context() as patched:
        stop_after(patched, 6)
        with pytest.raises(Stopped):
            loop.run(config, tmp_path)
    (tmp_path / "checkpoints" / "99").mkdir()
    newest = tmp_path / "checkpoints" / "6"
    (newest / "params" / "_METADATA").write_text("{")
    loop.run(config, tmp_path)
    printed = capsys.readouterr().out
    assert "99 is not a complete checkpoint" in printed and "checkpoints/6 is damaged: " in printed
    assert "resuming from step 4" in printed
    # Later steps are still saved.
    assert steps.committed_steps(tmp_path / "checkpoints") == [8, 4]
    assert {p.name for p in (tmp_path / "checkpoints").iterdir() if not p.name.isdigit()} == {"6.damaged", "99.stray"}


def test_only_damaged_checkpoints_are_refused_not_restarted(tmp_path, tiny_config, monkeypatch):
    config = tiny_config()
    with monkeypatch.context() as patched:
        stop_after(patched, 2)
        with pytest.raises(Stopped):
            loop.run(config, tmp_path)
    (tmp_path / "checkpoints" / "2" / "params" / "_METADATA").write_text("{")
    with pytest.raises(UserError, match="none of the checkpoints"):
        loop.run(config, tmp_path)


def test_tensorboard_gets_the_same_scalars_and_hparams(tmp_path, tiny_config):
    from tensorboard.backend.event_processing import plugin_event_accumulator
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    config = tiny_config("pretrain")
    config.log.tensorboard = True
    loop.run(config, tmp_path)
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    rows = [r for r in rows_of(tmp_path) if "train/loss" in r]
    points = events.Tensors("train/loss")
    assert [p.step for p in points] == [r["step"] for r in rows]
    values = [make_ndarray(p.tensor_proto) for p in points]
    np.testing.assert_allclose(values, [r["train/loss"] for r in rows], rtol=1e-6)
    assert "reconstruction" in tags["tensors"] and "_hparams_/session_start_info" in events.summary_metadata
    assert list((tmp_path / "images").glob("reconstruction-*.png"))

    # As after a kill: rows after the checkpoint were written, and are written again.
    (tmp_path / contents.RESULTS).unlink()
    newest, *_ = steps.committed_steps(tmp_path / "checkpoints")
    shutil.rmtree(tmp_path / "checkpoints" / str(newest))
    loop.run(config, tmp_path)
    again = plugin_event_accumulator.EventAccumulator(str(tmp_path), tensor_size_guidance={"scalars": 0})
    again.Reload()  # as TensorBoard itself reads
    assert [p.step for p in again.Tensors("train/loss")] == [p.step for p in points]
    assert len([p for p in tmp_path.glob("events.*")]) == 3


def test_the_metrics_of_tensorboards_hparams_table_are_test_scores_also_of_probes(tmp_path, tiny_config):
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

    results = {}
    for task in ("finetune", "knn"):
        config = tiny_config(task, **{"train.steps": 4} if task == "finetune" else {})
        config.log.tensorboard = True
        results[task] = loop.run(config, tmp_path / task)
    assert "epoch" in rows_of(tmp_path / "finetune")[-1]
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    runs.Reload()
    tags = {tag for run in runs.Runs().values() for tag in run["tensors"]}
    assert "epoch" not in tags and {"train/loss", "val/loss", "learning_rate", "test/accuracy"} < tags
    # What the page of the plugin asks for.
    tensorboard = base_plugin.TBContext(data_provider=MultiplexerDataProvider(runs, str(tmp_path)))
    backend, request = backend_context.Context(tensorboard), RequestContext()
    experiment = get_experiment.Handler(request, backend, "", api_pb2.GetExperimentRequest()).run()
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics == ["test/accuracy", "test/macro_f1", "val/loss"]
    first = [info.name for info in experiment.hparam_infos if info.differs]
    assert first == [info.name for info in experiment.hparam_infos][: len(first)] == sorted(hparams_table.VARIED)
    columns = [{"metric": info.name} for info in experiment.metric_infos]
    columns += [{"hparam": info.name} for info in experiment.hparam_infos]
    asked = api_pb2.ListSessionGroupsRequest(
        col_params=columns, start_index=0, slice_size=10, allowed_statuses=[api_pb2.STATUS_UNKNOWN]
    )
    groups = list_session_groups.Handler(request, backend, "", asked).run().session_groups
    assert len(groups) == 2
    for group in groups:
        result = {value.name.tag: value.value for value in group.metric_values}
        scores = results[group.hparams["task"].string_value]
        assert result["test/accuracy"] == pytest.approx(scores["accuracy"])
        assert result["test/macro_f1"] == pytest.approx(scores["f1"])
