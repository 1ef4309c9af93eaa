"""The sweep's report from constructed run directories, whose answer is known."""

import csv
import json

import numpy as np
import pytest

from mae_jax.report.sweep import __main__ as command
from mae_jax.report.sweep import tables, words
from mae_jax.report.sweep.networks import read_sweep
from mae_jax.report.sweep.page import write_sweep
from mae_jax.runtime.errors import UserError

RATIOS = (0.25, 0.75)


def write_network(path, ratio, weight, *, images=40, groups=None, norm_pix=True, drop=None):
    """A pre-training whose errors follow from its ratio and weight: 1 leaves 30 % of the visible error and adds
    5 % to the removed one."""
    path.mkdir(parents=True)
    config = {"mae": {"mask_ratio": ratio, "visible_weight": weight, "norm_pix_loss": norm_pix}}
    (path / "run.json").write_text(json.dumps({"task": "pretrain", "init": "scratch", "seed": 0, "config": config}))
    log = [{"step": e, "epoch": e, "val/loss": 1 / e, "val/visible_loss": 2 / e, "val/spam": 0.1} for e in (1, 2, 4)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    rows = []
    for at in (0.5, 0.75):
        own = np.random.default_rng(3).uniform(0.5, 1.5, images)  # the images are the same for every network
        for i, e in enumerate(own):
            removed = e * (1 + abs(ratio - 0.75)) * (1 + 0.05 * weight) * at
            visible = e * (0.5 + ratio) * (1 - 0.7 * weight)
            rows.append(
                {"image": f"{i:03}.png", "group": f"g{i // 4}" if groups else "", "mask_ratio": at}
                | {"removed_normalised": removed, "visible_normalised": visible, "removed_pixel": removed / 100}
                | {"visible_pixel": visible / 100, "removed_pixel_borrowed": 0.001, "removed_pixel_no_network": 0.01}
                | {"spam": 0.2 + 0.1 * weight}
            )
    rows = [{k: v for k, v in row.items() if k != drop} for row in rows]
    with open(path / "reconstructions.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture(scope="module")
def directories(tmp_path_factory, make):
    folder = tmp_path_factory.mktemp("sweep")
    networks = [
        write_network(folder / "pretrain" / f"mask{100 * r:g}-visible{w:g}", r, w, groups=True)
        for w in (0, 1)
        for r in RATIOS
    ]
    cells = []
    for seed in (0, 1):
        cells.append(make.run(folder / "cells" / f"scratch-{seed}", "scratch", 0.1, seed=seed))
        for network in networks:
            knows = 0.8 if "75" in network.name else 0.5
            cells.append(
                make.run(
                    folder / "cells" / f"{network.name}-{seed}", "mae", 0.1,
                    seed=seed, knows=knows, init_from=f"/elsewhere/{network.name}",
                )
            )  # fmt: skip
    return networks, cells


@pytest.fixture(scope="module")
def written(directories, tmp_path_factory):
    networks, cells = directories
    return write_sweep([*networks, *cells], tmp_path_factory.mktemp("out"))


def table(written, name):
    with open(written.page.parent / name) as file:
        return list(csv.DictReader(file))


def test_errors_are_means_over_the_images(written, directories):
    rows = table(written, "sweep.csv")
    assert len(rows) == 4 * 2
    row = next(r for r in rows if (r["mask_ratio"], r["visible_weight"], r["evaluated_at"]) == ("0.25", "1", "0.75"))
    expected = np.random.default_rng(3).uniform(0.5, 1.5, 40).mean()
    assert float(row["removed_normalised"]) == pytest.approx(expected * 1.5 * 1.05 * 0.75, rel=1e-6)
    assert float(row["visible_normalised"]) == pytest.approx(expected * 0.75 * 0.3, rel=1e-6)
    assert (
        float(row["removed_normalised_low"]) < float(row["removed_normalised"]) < float(row["removed_normalised_high"])
    )


def test_the_effect_of_the_weight_is_paired(written):
    rows = table(written, "effects.csv")
    assert len(rows) == 2 * 2 * 4 and tuple(rows[0]) == tables.EFFECTS
    for row in rows:
        seen = row["error"].startswith("visible")
        expected = -0.7 if seen else 0.05
        # The same images on both sides: an exact factor has an interval without width.
        for key in ("change", "low", "high"):
            assert float(row[key]) == pytest.approx(expected, abs=1e-5)
        assert row["verdict"] == ("lower" if seen else "higher")


def test_classifiers_are_listed_under_their_network(written):
    rows = table(written, "classifiers.csv")
    assert [r["init"] for r in rows] == [
        "scratch", "25 %, weight 0", "75 %, weight 0", "25 %, weight 1", "75 %, weight 1"
    ]  # fmt: skip
    assert all(r["seeds"] == "2" for r in rows) and rows[0]["difference"] == ""
    for row in rows[1:]:
        gain = float(row["accuracy"]) - float(rows[0]["accuracy"])
        assert float(row["difference"]) == pytest.approx(gain, abs=1e-9)
        assert float(row["holm_p"]) >= float(row["p"])


def test_the_page_says_what_the_numbers_say(written):
    page = written.page.read_text()
    text = (written.page.parent / "sweep.md").read_text()
    for sentence in (
        "Without a weight on visible patches, removed patches are reconstructed best by the network trained with 75 %",
        "Without a weight on visible patches, visible patches are reconstructed best by the network trained with 25 %",
        "changes their error by −70.0 %, and the error on removed patches by +5.0 %",
        "it improves visible patches, and makes removed ones worse at 25 %, 75 %",
        "over 10 groups of held-out images",
        "come from only 10 groups: intervals are widened for that",
        "accuracy at 10 %",
    ):
        assert sentence in text and (sentence in page or "accuracy" in sentence)
    assert page.count("data:image/svg+xml") == 6 and "http" not in page.split("</style>")[1]
    for name in ("tradeoff_normalised", "tradeoff_pixel", "errors", "spam", "training", "classifiers"):
        for kind in ("svg", "csv"):
            assert (written.page.parent / "figures" / f"{name}.{kind}").stat().st_size > 100


def test_one_network_is_not_counted(tmp_path):
    write_sweep([write_network(tmp_path / "one", 0.75, 0)], tmp_path / "out")
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert "In pixels, the network reconstructs removed patches with less error than no network, which" in text


def test_curves_of_pretraining_are_drawn(written):
    rows = table(written, "figures/training.csv")
    assert len(rows) == 4 * 3 * 3
    assert {(r["metric"], r["epoch"], r["value"]) for r in rows} >= {("visible_loss", "4", "0.5"), ("spam", "1", "0.1")}


def test_networks_of_one_name_in_two_places_are_distinguished(tmp_path, make):
    networks = [write_network(tmp_path / place / "net", r, 0) for place, r in zip("ab", RATIOS, strict=True)]
    cells = [make.run(tmp_path / "scratch", "scratch", 0.1)]
    for network in networks:
        place = tmp_path / f"cell-{network.parent.name}"
        cells.append(make.run(place, "mae", 0.1, knows=0.8 if "b" in place.name else 0.3, init_from=str(network)))
    lost = make.run(tmp_path / "moved", "mae", 0.1, knows=0.5, init_from="/elsewhere/net")  # of which of the two?
    written = write_sweep([*networks, *cells, lost], tmp_path / "out")
    rows = {row["init"]: float(row["accuracy"]) for row in table(written, "classifiers.csv")}
    assert list(rows) == ["scratch", "25 %, weight 0", "75 %, weight 0"]
    assert rows["75 %, weight 0"] > rows["25 %, weight 0"] + 0.1
    assert "moved began with" in written.page.read_text()
    again = make.run(tmp_path / "again", "mae", 0.1, init_from=str(networks[0]))
    with pytest.raises(UserError, match="25 %, weight 0, seed 0 is also in .*cell-a; each may come once"):
        write_sweep([*networks, *cells, again], tmp_path / "out")


def test_it_works_without_classifiers_weights_groups_and_curves(tmp_path):
    networks = [write_network(tmp_path / f"n{r}", r, 0) for r in RATIOS]
    (networks[0] / "metrics.jsonl").unlink()
    (networks[1] / "metrics.jsonl").write_text("{")
    written = write_sweep(networks, tmp_path / "out")
    assert "No classifiers" in written.page.read_text() and not (tmp_path / "out" / "classifiers.csv").exists()
    assert (tmp_path / "out" / "effects.csv").read_text() == ",".join(tables.EFFECTS) + "\n"
    assert "over 40 held-out images" in (tmp_path / "out" / "sweep.md").read_text()


def test_a_classifier_of_another_network_is_named_and_left_out(directories, tmp_path, make):
    networks, cells = directories
    stranger = make.run(tmp_path / "stranger", "mae", 0.1, init_from="/far/away")
    found, notes = read_sweep([*networks, *cells[:2], stranger])
    assert len(found.study.runs) == 2 and "away" in notes[0] and "left out" in notes[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"images": 39}, "other images than in"),
        ({"drop": "spam"}, "the column 'spam' is missing"),
        ({"norm_pix": False}, "their errors do not compare"),
        ({"ratio": 0.25}, "is also in"),
    ],
)
def test_networks_that_do_not_compare_are_refused(tmp_path, changed, said, capsys):
    ratio = changed.pop("ratio", 0.75)
    one, two = write_network(tmp_path / "one", 0.25, 0), write_network(tmp_path / "two", ratio, 0, **changed)
    assert command.main([str(one), str(two), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    with pytest.raises(UserError, match="no run directory holds"):
        read_sweep([tmp_path])


@pytest.mark.parametrize(("collapsed", "said"), [(0, ""), (1, ", collapsed: 1 of 3"), (3, ", collapsed")])
def test_a_classifier_is_collapsed_where_every_seed_is(collapsed, said):
    row = {"accuracy": 0.5, "collapsed": collapsed, "seeds": 3, "difference": None}
    assert words._score(row) == [f"0.500{said}", "–"]
    assert words._accuracy(row) == f"0.500{said}" + ("," if said else "")


def saying(path, key, value):
    """The same network with a run.json that describes its training differently."""
    info = json.loads((path / "run.json").read_text())
    info["config"]["mae"][key] = value
    (path / "run.json").write_text(json.dumps(info))
    return path


@pytest.mark.parametrize(
    "key, value",
    [
        *[("mask_ratio", value) for value in ("x", float("nan"), [0.5], 2)],
        *[("visible_weight", value) for value in (None, 10**400, float("inf"))],
        ("norm_pix_loss", "x"),
    ],
)
def test_what_run_json_says_of_a_network_is_checked(tmp_path, key, value):
    network = saying(write_network(tmp_path / "a", 0.5, 0), key, value)
    with pytest.raises(UserError, match=rf"run\.json: config\.mae\.{key} is .*; it must be "):
        write_sweep([network], tmp_path / "out")


@pytest.mark.parametrize("error", ["nan", "1e308", "-1e308"])
def test_errors_that_no_figure_shows_are_refused(tmp_path, error):
    network = write_network(tmp_path / "a", 0.5, 0)
    file = network / "reconstructions.csv"
    file.write_text(file.read_text().replace(",0.01,", f",{error},", 1))
    with pytest.raises(UserError, match=r"reconstructions\.csv line 2: .*evaluate the network again"):
        write_sweep([network], tmp_path / "out")


def test_a_zero_where_a_share_would_be_taken_of_it(tmp_path):
    networks = [write_network(tmp_path / f"w{weight}", 0.5, weight) for weight in (0, 1)]
    for network in networks:
        lines = (network / "reconstructions.csv").read_text().splitlines()
        at = lines[0].split(",").index("visible_pixel")
        cells = [line.split(",") for line in lines[1:]]
        text = [",".join([*row[:at], "0", *row[at + 1 :]]) for row in cells]
        (network / "reconstructions.csv").write_text("\n".join([lines[0], *text]) + "\n")
    write_sweep(networks, tmp_path / "out")
    with open(tmp_path / "out" / "effects.csv", newline="") as file:
        assert "visible_pixel" not in {row["error"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("origin", ["a\0b", "\ud800", "a\nb"])
def test_a_classifier_whose_start_is_not_a_path_is_left_out(tmp_path, make, origin):
    network = write_network(tmp_path / "a", 0.5, 0)
    cell = make.run(tmp_path / "cell", "mae", 0.1, init_from=origin)
    write_sweep([network, cell], tmp_path / "out")
    assert "not among the networks: left out" in (tmp_path / "out" / "index.html").read_text()
