"""`python -m mae_jax.report.sweep`: arguments, output and errors."""

import json

from mae_jax.__main__ import dispatch
from mae_jax.report.sweep.__main__ import main, parser


def test_a_sweep_s_directory_is_all_of_its_runs(tmp_path, write_network, capsys):
    for ratio in (0.25, 0.75):
        write_network(tmp_path / "sweep" / "pretrain" / f"{ratio}", ratio, 0)
    assert main([str(tmp_path / "sweep"), "--out", str(tmp_path / "out"), "--title", "Masks"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n| 25 %") == out.count("\n| 75 %") == 1
    assert out.endswith(f"\n\nreport: {tmp_path / 'out' / 'index.html'}\n")
    assert "<h1>Masks</h1>" in (tmp_path / "out" / "index.html").read_text()
    assert not list((tmp_path / "out" / "figures").glob("*.png"))


def test_mae_jax_report_writes_the_report_of_a_sweep_s_directory(tmp_path, write_network, capsys):
    study = tmp_path / "sweep"
    for ratio in (0.25, 0.75):
        write_network(study / "pretrain" / f"{ratio}", ratio, 0)
    (study / "study.json").write_text(json.dumps({"config": {"task": "sweep"}}))
    assert dispatch(["report", str(study)]) == 0
    assert capsys.readouterr().out.endswith(f"\n\nreport: {study / 'report' / 'index.html'}\n")
    assert "removed in training" in (study / "report" / "sweep.md").read_text()
    assert dispatch(["report", str(tmp_path / "sweep" / "pretrain")]) == 2  # no classifier, and no sweep either
    assert "no classifier among its 2 runs" in capsys.readouterr().err


def test_an_address_and_a_directory_without_networks_are_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["s3://bucket/run", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: s3://bucket/run: s3:// addresses are neither")
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert printed == "error: no run directory holds reconstructions.csv; give at least one finished pre-training\n"
    assert not (tmp_path / "out").exists()


def test_the_arguments(tmp_path):
    args = parser().parse_args([str(tmp_path), str(tmp_path), "--out", "c", "--pictures", "d.png", "--png"])
    assert (args.run_dirs, str(args.out), str(args.pictures)) == ([tmp_path, tmp_path], "c", "d.png")
    assert args.png and args.title is None
