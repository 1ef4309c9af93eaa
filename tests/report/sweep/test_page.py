"""The sweep's report from constructed run directories, whose answer is known."""

from mae_jax.report.sweep import tables
from mae_jax.report.sweep.page import write_sweep

RATIOS = (0.25, 0.75)


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


def test_it_works_without_classifiers_weights_groups_and_curves(tmp_path, write_network):
    networks = [write_network(tmp_path / f"n{r}", r, 0) for r in RATIOS]
    (networks[0] / "metrics.jsonl").unlink()
    (networks[1] / "metrics.jsonl").write_text("{")
    written = write_sweep(networks, tmp_path / "out")
    assert "No classifiers" in written.page.read_text() and not (tmp_path / "out" / "classifiers.csv").exists()
    assert (tmp_path / "out" / "effects.csv").read_text() == ",".join(tables.EFFECTS) + "\n"
    assert "over 40 held-out images" in (tmp_path / "out" / "sweep.md").read_text()


def test_the_number_of_unlabeled_images_is_an_axis(write_network, tmp_path, table):
    networks = [
        write_network(tmp_path / f"{r}{w}{n}", r, w, unlabeled=n) for n in (0, 500) for w in (0, 1) for r in (0.5, 0.75)
    ]
    written = write_sweep(networks, tmp_path / "out")
    assert [row["unlabeled"] for row in written.rows if row["evaluated_at"] == 0.75] == [500, 500, 0, 0] * 2
    assert "unlabeled images" in written.text.splitlines()[0] and "| 500 " in written.text and "| all " in written.text
    page = written.page.read_text()
    assert "removed patches are reconstructed best by the network trained with 75 %" in page  # of all images
    svg = (tmp_path / "out" / "figures" / "errors.csv").read_text().splitlines()
    assert svg[0].split(",")[:4] == ["column", "mask_ratio", "visible_weight", "unlabeled"]
    assert len(svg) == 1 + 4 * 8
    plain = write_sweep(networks[:4], tmp_path / "plain")
    assert "unlabeled images" not in plain.text
