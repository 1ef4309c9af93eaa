"""The log of a run: rows, pictures, trackers, and faults of the storage."""

import errno
import json

import numpy as np
import pytest
from PIL import Image

from mae_jax.rundir import contents, metrics_log
from mae_jax.rundir.trackers import Trackers

OPTIONS = {"evaluated": True, "steps": 9, "tensorboard": False, "profile": False}


class Told(Trackers):
    """Trackers that keep what they are told, or fail where they can keep nothing."""

    def __init__(self, calls):
        self.calls = calls

    def scalars(self, step, values):
        self.calls.append((step, values))

    def results(self, step, values):
        self.calls.append(("results", step, values))

    def close(self):
        if self.calls is None:
            raise OSError("disk")
        self.calls.append("closed")


def test_rows_go_to_the_file_and_charts_to_the_trackers(tmp_path):
    lines = []
    trackers = Told(lines)
    with metrics_log.MetricsLog(tmp_path, first_step=0, **OPTIONS, trackers=trackers) as log:
        log.scalars(3, {"epoch": 0.5, "train/loss": 2.0})
        assert (tmp_path / contents.METRICS).read_text() == '{"step": 3, "epoch": 0.5, "train/loss": 2.0}\n'  # at once
        log.scalars(4, {"epoch": 1.0})
        log.results(9, {"accuracy": 0.75, "f1": 0.5, "n": 23})
    assert lines == [
        (3, {"train/loss": 2.0}), ("results", 9, {"test/accuracy": 0.75, "test/macro_f1": 0.5}), "closed"
    ]  # fmt: skip
    with metrics_log.MetricsLog(tmp_path, first_step=3, **OPTIONS) as log:
        log.scalars(5, {"train/loss": 1.0})
    steps = [json.loads(line)["step"] for line in (tmp_path / contents.METRICS).read_text().splitlines()]
    assert steps == [3, 5]  # the row of step 4 comes again


def test_pictures_are_one_below_the_other(tmp_path):
    images = np.zeros((2, 3, 4, 3))
    images[1] = 1.0
    images[1, 0, 0] = 0.5
    with metrics_log.MetricsLog(tmp_path, first_step=0, **OPTIONS) as log:
        log.images(12, "rows", images)
    with Image.open(tmp_path / "images" / "rows-0000012.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (6, 4, 3) and not pixels[:3].any()
    assert pixels[3, 0].tolist() == [128] * 3 and (pixels[4:] == 255).all()


def test_an_error_of_the_block_is_not_hidden_by_one_of_closing(tmp_path):
    trackers = Told(None)
    with pytest.raises(KeyError), metrics_log.MetricsLog(tmp_path, first_step=0, **OPTIONS, trackers=trackers):
        raise KeyError("first")
    with (
        pytest.raises(OSError, match="disk"),
        metrics_log.MetricsLog(tmp_path, first_step=0, **OPTIONS, trackers=trackers),
    ):
        pass


def test_a_fault_of_the_event_files_is_one_of_the_storage(tmp_path):
    with metrics_log.MetricsLog(tmp_path, first_step=0, **OPTIONS) as log:
        with pytest.raises(OSError) as caught, log._written():
            raise RuntimeError("writer") from OSError(errno.ENOSPC, "No space left on device")
        assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "events.out.tfevents")
        with pytest.raises(RuntimeError, match="other"), log._written():
            raise RuntimeError("other")
