"""Finished runs: extending, comparing and cleaning them, and starting other runs from them."""

import csv
import shutil

import jax
import numpy as np
import pytest

import mae_jax
from mae_jax.checkpoints import cleaning
from mae_jax.config import schedule
from mae_jax.config.fields import changed
from mae_jax.config.validation import validate
from mae_jax.data import synthetic
from mae_jax.rundir import contents, identity
from mae_jax.runtime.errors import UserError
from mae_jax.step import from_config, sharding
from mae_jax.step.state import init_state
from mae_jax.study import overview
from mae_jax.train import loop
from mae_jax.weights import initial_weights, own_run


@pytest.fixture(scope="module")
def make(tiny_config):
    def config(epochs, schedule="constant"):
        return tiny_config(**{"train.epochs": epochs, "optim.schedule": schedule, "model.depth": 1})

    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make):
    """A run of one epoch that was extended to two, and a run of two epochs from the start."""
    top = tmp_path_factory.mktemp("finished")
    loop.run(make(1.0), top / "grown")
    shutil.copy(top / "grown" / contents.RUN, top.with_suffix(".json"))
    loop.run(make(2.0), top / "grown")
    loop.run(make(2.0), top / "whole")
    return top


@pytest.mark.slow
def test_an_extended_run_equals_one_that_was_longer_from_the_start(finished):
    grown, uninterrupted = finished / "grown", finished / "whole"
    for name in (contents.PREDICTIONS, contents.VALIDATION):
        assert (grown / name).read_text() == (uninterrupted / name).read_text()
    first, info = contents.read_json(finished.with_suffix(".json")), contents.read_json(grown / contents.RUN)
    assert info["epochs"] == 2.0
    # The last checkpoint was written before the test, so only that is counted again.
    parts = set(info["seconds"]) - {"test", "checkpoints"}
    assert parts == {"start", "compiling", "training", "images", "validation"}
    assert all(info["seconds"][name] >= first["seconds"][name] for name in parts - {"compiling"})
    assert contents.read_json(grown / contents.CONFIG)["config"]["train"]["epochs"] == 2.0


def test_extending_a_schedule_that_depends_on_the_length_is_refused(tmp_path, make):
    config = validate(make(1.0, "cosine"))
    identity.keep_config(tmp_path, config, {"steps": 4})
    with pytest.raises(
        UserError, match=r"train\.epochs: 1\.0 -> 2\.0.*the cosine schedule .* optim\.schedule=constant"
    ):
        identity.refuse_difference(tmp_path, tmp_path / contents.CONFIG, validate(make(2.0, "cosine")), {"steps": 8})
    assert not identity.refuse_difference(tmp_path, tmp_path / contents.CONFIG, config, {"steps": 4})
    other = tmp_path / "constant"
    other.mkdir()
    identity.keep_config(other, validate(make(2.0)), {"steps": 8})
    with pytest.raises(UserError, match=r"a run can only get longer: set a larger train\.epochs"):
        identity.refuse_difference(other, other / contents.CONFIG, validate(make(1.0)), {"steps": 4})
    longer = validate(make(3.0))
    assert identity.refuse_difference(other, other / contents.CONFIG, longer, {"steps": 12})
    longer = changed(longer, {"optim.weight_decay": 0.5})
    with pytest.raises(UserError, match="optim.weight_decay"):
        identity.refuse_difference(other, other / contents.CONFIG, longer, {"steps": 12})


@pytest.mark.slow
def test_runs_are_listed_and_compared(finished, tmp_path):
    entries = overview.find(finished)
    assert [(e.path.name, e.task, e.state) for e in entries] == [
        (n, "finetune", "finished") for n in ("grown", "whole")
    ]
    size = sum(p.stat().st_size for p in finished.rglob("*") if p.is_file())
    text = overview.table(entries, finished)
    accuracy = contents.read_json(finished / "grown" / contents.RESULTS)["accuracy"]
    assert f"accuracy {accuracy:.3f}" in text and f"{overview.readable(size)} in total" in text
    other = tmp_path / "other"
    shutil.copytree(finished / "whole", other)
    saved = contents.read_json(other / contents.CONFIG)
    saved["config"]["optim"]["b2"] = 0.5
    contents.write_json(other / contents.CONFIG, saved)
    path = other / contents.PREDICTIONS
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = [row for row in rows if row["prediction"] != row["label"]]
    for row in wrong:
        row["prediction"] = row["label"]  # all right
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows[1:])  # and one image fewer
    shared = len(rows) - 1
    gain = sum(row["image"] != rows[0]["image"] for row in wrong)
    lines = "\n".join(overview.compare(finished / "whole", other))
    assert "1 field differs\n  optim.b2: 0.999 -> 0.5" in lines and f"{shared} test images in both" in lines
    assert f"B 1.0000, B - A {gain / shared:+.4f} (95 % interval" in lines
    assert f"correct only in A: 0, only in B: {gain};" in lines


@pytest.mark.slow
def test_a_cleaned_run_still_predicts_and_starts_others_but_cannot_be_resumed(finished, make, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished / "grown", run)
    images = [synthetic.draw_cell(np.random.default_rng(i), i, 40) for i in range(3)]
    before = mae_jax.load(run).predict(images).probabilities
    size = overview.size_of(run)
    freed = cleaning.drop(run)
    assert freed > 0 and overview.size_of(run) == size - freed and cleaning.droppable(run) == 0
    np.testing.assert_array_equal(mae_jax.load(run).predict(images).probabilities, before)
    assert loop.run(make(2.0), run) == contents.read_json(run / contents.RESULTS)
    with pytest.raises(UserError, match="cannot be resumed, because `mae-jax runs --clean` or a study"):
        loop.run(make(3.0), run)
    assert (run / contents.RESULTS).is_file()  # the refusal loses nothing
    (run / contents.RUN).unlink()  # made again from the weights, which no update follows
    assert loop.run(make(2.0), run) == contents.read_json(run / contents.RESULTS)
    assert (run / contents.RUN).is_file() and cleaning.droppable(run) == 0
    damaged = next((run / "checkpoints").glob("*/params/**/d/*"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="is damaged"):
        mae_jax.load(run)


@pytest.mark.slow
def test_a_finetuned_run_starts_another_with_its_encoder(finished, make, capsys):
    config = make(1.0)
    config.update(init="mae", init_from=str(finished / "whole"))
    config = validate(config)
    mesh = sharding.make_mesh(1)
    spec = from_config.spec_of(config, schedule.resolve(config, 50, mesh.size), mesh, 3)  # other classes
    params = init_state(spec, 0).params
    taken = initial_weights.first_weights(config)(spec, params)
    expected = own_run.load(finished / "whole")[0].params
    jax.tree.map(np.testing.assert_array_equal, taken["encoder"], expected["encoder"])
    jax.tree.map(np.testing.assert_array_equal, taken["head"], params["head"])
    assert "the encoder of a fine-tuning on synthetic; its head is not used" in capsys.readouterr().out
    assert initial_weights.earlier_data(config)[0][0] == "finetune"
