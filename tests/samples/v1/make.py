"""Writes run directories with the code of version 0.1.0, as it was before run directories had a format number.

Run it with a checkout of that version on the path, on one CPU device:

    XLA_FLAGS= PYTHONPATH=CHECKOUT python tests/samples/v1/make.py /tmp/v1 tests/samples/v1/runs.tar.xz

The first argument is a new folder for the runs, the second the archive that they are packed into.
"""

import os
import shutil
import signal
import sys
import tarfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

from mae_jax.errors import Stopped

from mae_jax import study, train
from mae_jax.config import defaults, study_defaults

LAST_STEP = 5  # the stopped run saves this step, between two checkpoints of its own


def small(task: str):
    """The config of a run of a second or two: generated images, a very small network."""
    c = defaults(task)
    c.data.update(source="synthetic", synthetic_train=40, synthetic_test=20, synthetic_unlabelled=30)
    c.data.update(synthetic_size=32, threads=1, crop_scale=(0.5, 1.0))
    c.model.update(size="custom", image_size=16, patch_size=8, width=8, depth=2, heads=2, dtype="float32")
    c.model.update(decoder_width=8, decoder_depth=1, decoder_heads=2)
    c.train.update(epochs=3.0, batch_size=10, batch_per_device=0)
    c.optim.update(base_lr=0.5, warmup_epochs=0.5)
    c.eval.update(batch_size=10, images=2)
    c.log.update(every_steps=3, tensorboard=False)
    c.checkpoint.keep = 1
    return c


def finetuning(out: Path):
    c = small("finetune")
    c.init, c.init_from = "mae", str(out / "pretrain")
    c.train.select = "best"
    return c


def stopped(out: Path) -> None:
    """A fine-tuning that SIGTERM stops after LAST_STEP updates, and the predictions of the same run to its end."""
    uninterrupted = out / "whole"
    train.run(finetuning(out), uninterrupted)
    shutil.copy(uninterrupted / "predictions.csv", out / "stopped_predictions_at_the_end.csv")
    shutil.rmtree(uninterrupted)
    asked = train.Loop.asked_to_stop

    def asked_to_stop(loop, step: int) -> bool:
        if step == LAST_STEP:
            os.kill(os.getpid(), signal.SIGTERM)
        return asked(loop, step)

    train.Loop.asked_to_stop = asked_to_stop
    try:
        train.run(finetuning(out), out / "stopped")
    except Stopped as stop:
        print(stop)
    train.Loop.asked_to_stop = asked


def whole_study(out: Path) -> None:
    """Two fractions by two initializations, each fine-tuned and probed by logistic regression."""
    c = study_defaults(small("pretrain"), small("finetune"))
    c.title = "A sample study"
    c.fractions, c.evaluations = (0.5, 1.0), ("finetune", "lbfgs")
    study.run(c, out / "study")


def main(out: Path) -> None:
    train.run(small("pretrain"), out / "pretrain")
    train.run(finetuning(out), out / "finetune")
    stopped(out)
    whole_study(out)
    for name in ("images", "thumbnails", "report"):  # nothing reads them again
        for folder in sorted(out.rglob(name)):
            shutil.rmtree(folder)
    for lock in out.rglob(".lock"):
        lock.unlink()


def pack(out: Path, archive: Path) -> None:
    """One archive of all run directories, without the name of the user who packs it."""

    def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(archive, "w:xz") as tar:
        for path in sorted(out.iterdir()):
            tar.add(path, path.name, filter=anonymous)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
    pack(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
