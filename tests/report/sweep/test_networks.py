"""The networks of a sweep and their classifiers: what is read, and what is refused."""

import json

import pytest

from mae_jax.report.sweep import __main__ as command
from mae_jax.report.sweep import networks
from mae_jax.report.sweep.networks import read_sweep
from mae_jax.report.sweep.page import write_sweep
from mae_jax.runtime.errors import UserError

RATIOS = (0.25, 0.75)


def test_networks_of_one_name_in_two_places_are_distinguished(tmp_path, make, write_network, table):
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


def test_a_classifier_of_another_network_is_named_and_left_out(directories, tmp_path, make):
    networks, cells = directories
    stranger = make.run(tmp_path / "stranger", "mae", 0.1, init_from="/far/away")
    result, notes = read_sweep([*networks, *cells[:2], stranger])
    assert len(result.study.runs) == 2 and "away" in notes[0] and "left out" in notes[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": 39}, "other images than in"),
        ({"drop": "spam"}, "the column 'spam' is missing"),
        ({"norm_pix": False}, "their errors do not compare"),
        ({"ratio": 0.25}, "is also in"),
    ],
)
def test_networks_that_do_not_compare_are_refused(tmp_path, changed, message, capsys, write_network):
    ratio = changed.pop("ratio", 0.75)
    one, two = write_network(tmp_path / "one", 0.25, 0), write_network(tmp_path / "two", ratio, 0, **changed)
    assert command.main([str(one), str(two), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    with pytest.raises(UserError, match="no run directory holds"):
        read_sweep([tmp_path])


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
def test_what_run_json_says_of_a_network_is_checked(tmp_path, key, value, write_network):
    network = saying(write_network(tmp_path / "a", 0.5, 0), key, value)
    with pytest.raises(UserError, match=rf"run\.json: config\.mae\.{key} is .*; it must be "):
        write_sweep([network], tmp_path / "out")


@pytest.mark.parametrize("error", ["nan", "1e308", "-1e308"])
def test_errors_that_no_figure_shows_are_refused(tmp_path, error, write_network):
    network = write_network(tmp_path / "a", 0.5, 0)
    file = network / "reconstructions.csv"
    file.write_text(file.read_text().replace(",0.01,", f",{error},", 1))
    with pytest.raises(UserError, match=r"reconstructions\.csv line 2: .*evaluate the network again"):
        write_sweep([network], tmp_path / "out")


@pytest.mark.parametrize("origin", ["a\0b", "\ud800", "a\nb"])
def test_a_classifier_whose_start_is_not_a_path_is_left_out(tmp_path, make, origin, write_network):
    network = write_network(tmp_path / "a", 0.5, 0)
    cell = make.run(tmp_path / "cell", "mae", 0.1, init_from=origin)
    write_sweep([network, cell], tmp_path / "out")
    assert "not among the networks: left out" in (tmp_path / "out" / "index.html").read_text()


def test_networks_are_sorted_and_their_numbers_are_those_of_the_files(sweep):
    assert [network.name for network in sweep.networks] == [
        *("25 %, weight 0", "75 %, weight 0", "25 %, weight 1", "75 %, weight 1"),
    ]
    assert (sweep.ratios, sweep.reference, sweep.weights) == ([0.5, 0.75], 0.75, [0, 1])
    errors = sweep.networks[0].errors[0.5]
    assert errors.shape == (40, len(networks.COLUMNS)) and "removed_pixel_borrowed" not in networks.COLUMNS
    column = networks.COLUMNS.index("removed_normalised")
    assert sweep.mean(0, 0.5, "removed_normalised") == pytest.approx(errors[:, column].mean())
    assert sweep.draws[0.5]["spam"].shape == (4, 10_000)
    assert sweep.units == "10 groups of held-out images" and len(sweep.warnings) == 1
    assert sweep.networks[0].groups[:5] == ("g0",) * 4 + ("g1",)


def test_classifiers_begin_with_scratch_and_keep_their_seeds(sweep):
    runs = [(run.init, run.seed) for run in sweep.study.runs]
    assert runs[:2] == [("scratch", 0), ("scratch", 1)] and len(runs) == 10
    assert runs[2:4] == [("25 %, weight 0", 0), ("25 %, weight 0", 1)]


def test_only_ratios_that_all_networks_have_are_compared(tmp_path, write_network):
    one, two = write_network(tmp_path / "a", 0.25, 0), write_network(tmp_path / "b", 0.75, 0)
    for network, ratio in ((one, "0.5"), (two, "0.75")):
        file = network / "reconstructions.csv"
        lines = file.read_text().splitlines()
        at = lines[0].split(",").index("mask_ratio")
        kept = [line for line in lines[1:] if line.split(",")[at] == ratio]
        if network == one:
            both = lines[1:]
        file.write_text("\n".join([lines[0], *kept]) + "\n")
    with pytest.raises(UserError, match="the networks share no mask ratio of evaluation; use the same"):
        read_sweep([one, two])
    (one / "reconstructions.csv").write_text("\n".join([lines[0], *both]) + "\n")
    assert read_sweep([one, two])[0].ratios == [0.75]


def test_an_image_that_comes_twice_or_lacks_a_ratio_is_refused(tmp_path, write_network):
    network = write_network(tmp_path / "a", 0.25, 0)
    file = network / "reconstructions.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(UserError, match=r"line 82: image '000.png' comes twice at mask ratio 0.5"):
        read_sweep([network])
    file.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match="not the same images at every mask ratio"):
        read_sweep([network])
