"""Exports a finished run as a bundle. Command: `mae-jax convert export RUN_DIR OUT --format mae_jax`."""

import shutil
from pathlib import Path

import jax

from mae_jax.checkpoints import steps
from mae_jax.predict import bundle, loading
from mae_jax.rundir import contents
from mae_jax.runtime.places import local
from mae_jax.step import sharding
from mae_jax.weights import export, own_run
from mae_jax.weights.reader import Weights


def export_bundle(run_dir: Path, out: Path) -> list[str]:
    """Writes the model of a finished run to the new folder `out`. Returns notes for the user.

    A probe's bundle includes the encoder. Raises UserError if the run is not finished or `out` exists.
    """
    run_dir, out = local(run_dir, "RUN_DIR"), local(out, "OUT")
    config = steps.saved_config(run_dir, "RUN_DIR")
    probe = None
    if not config.traits.updates:
        model = loading.of_run(run_dir, "RUN_DIR")
        probe = run_dir / contents.PROBE
        scale = tuple(config.data.mean), tuple(config.data.std)
        weights = Weights(model.params, model.spec.shape, "vit", model.origin, *scale, model.classes)
    else:
        weights, config = own_run.load(run_dir, fold=False)
    temperature = loading.temperature_of(run_dir, weights.classes)
    notes = (
        []
        if temperature or weights.kind == "mae"
        else ["the temperature is not known, so probabilities are not calibrated"]
    )
    about = {
        "task": config.task,
        "classes": list(weights.classes),
        "temperature": temperature,
        "run": run_dir.resolve().name,
    }
    partial = export.new_folder(out)
    try:
        card = export.card_of(run_dir, weights, config, "mae_jax", notes)
        bundle.write(partial, jax.tree.map(sharding.to_host, weights.params), config, about, probe, card)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    export.put_in_place(partial, out)
    return notes
