"""The record of a run: lines printed at its start, parameters.txt, subset.json, and run.json."""

from pathlib import Path
from typing import Any

import jax

from mae_jax.config.naming import arm_of, source_label
from mae_jax.models.params import part
from mae_jax.rundir import contents, identity
from mae_jax.runtime import files
from mae_jax.runtime.text import count
from mae_jax.step.state import TrainState
from mae_jax.train.task import Task


def announce(task: Task, label: str, workdir: Path, state: TrainState) -> list[str]:
    """Writes parameters.txt and subset.json, and returns lines about the run, the first of them a heading.

    `state` must be unpadded. Raises OSError.
    """
    import clu.parameter_overview as overview

    r, config = task.resolved, task.config
    total = sum(x.size for x in jax.tree.leaves(state.params))
    lines = [f"{label} in {workdir}"]
    for name, value in task.about.items():
        lines += [f"  {name}: {each}" for each in (value if isinstance(value, list) else [value])]
    padding = f", {r.rows - r.batch_size} of them padding" if r.rows > r.batch_size else ""
    per_device = r.rows // r.devices // config.train.accumulation
    devices = count(r.devices, "device")
    steps = (
        f"  {count(r.steps, 'step')} of {count(r.batch_size, 'image')} ({devices} x {count(per_device, 'row')} x "
        f"{config.train.accumulation} accumulated{padding}), {r.steps_per_epoch} per epoch; peak learning rate "
        f"{r.peak_lr:.3g} after {count(r.warmup_steps, 'step')}, {config.optim.schedule}"
    )
    lines.append(steps if r.steps else f"  no steps: {config.features_in_words}")
    trained = sum(x.size for x in jax.tree.leaves(part(state.params, task.spec.trained)[0]))
    some = f", {trained:,} parameters trained" if r.steps and trained < total else ""
    if total:
        lines.append(f"  {total / 1e6:.2f} M parameters{some}, {task.spec.shape.dtype}, {jax.devices()[0].device_kind}")
    if jax.process_index() == 0:
        if total:
            table = overview.get_parameter_overview(state.params, include_stats=False)
            with files.replacing(workdir / "parameters.txt") as file:
                file.write(table + "\n")
        if task.subset:
            contents.write_json(workdir / contents.SUBSET, task.subset)
    return lines


def run_info(
    task: Task,
    workdir: Path,
    *,
    ended: int,
    selected_step: int,
    seconds: float,
    parts: dict[str, float],
    rate_reductions: list[dict[str, Any]],
) -> dict[str, Any]:
    """The content of run.json.

    `ended` is the last step, which is smaller than `resolved.steps` after an early stop. The parameters of
    `selected_step` were tested. `seconds` is the training time over all resumes, and `parts` are
    those of `runtime.clock`.
    """
    c, r = task.config, task.resolved
    return {
        "task": c.task,
        "evaluation": c.task if task.classes else "",
        "init": c.init_name or c.init,
        "init_from": c.init_from,
        "fraction": c.data.fraction,
        "arm": arm_of(c),
        "match_fraction": c.train.match_fraction,
        "seed": c.seed,
        "subset_seed": c.data.subset_seed,
        "classes": list(task.classes),
        "data": c.data.source,
        "data_name": source_label(c.data),
        "data_dir": c.data.dir,
        "test_split": c.data.test_split,
        "leaks": task.leaks,
        "seen_before": task.seen_before,
        "passed_over": task.skipped_files(),
        "assumed": task.assumed(),
        "stain": task.stain(),
        **task.facts,
        "n_train": r.n_train,
        "epochs": ended / r.steps_per_epoch,
        "steps": ended,
        "stopped_early": ended < r.steps,
        "select": c.train.select,
        "folds": c.probe.folds if c.traits.chooses else task.folds,
        "rate_lowered": rate_reductions,
        "selected_step": selected_step,
        "wall_seconds": round(seconds, 1),
        "seconds": {name: round(value, 2) for name, value in parts.items()},
        "devices": f"{r.devices} x {jax.devices()[0].device_kind}",
        "commit": identity.commit(),
        "versions": identity.versions(),
        "config": contents.read_json(workdir / contents.CONFIG)["config"],
    }


def jsonable(value: Any) -> Any:
    """`value` as read back from JSON: tuples become lists, keys become strings."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    return [jsonable(v) for v in value] if isinstance(value, list | tuple) else value
