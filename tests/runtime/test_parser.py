"""The parser of all commands: one line for a mistake, a hint where one is near, and paths of the user."""

from pathlib import Path

import pytest

from mae_jax import commands
from mae_jax.__main__ import dispatch
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.parser import Existing, Number, Parser, did_you_mean, user_path


def test_hints_only_where_an_option_is_near():
    with pytest.raises(
        UserError, match=r"unknown argument '--colums=y' \(did you mean --columns\?\); see mae-jax check"
    ):
        dispatch(["check", "x", "--colums=y"])
    with pytest.raises(UserError, match=r"unknown argument '--qqq'; see mae-jax check --help"):
        dispatch(["check", "x", "--qqq"])


@pytest.fixture
def parser():
    options_parser = Parser(prog="mae-jax try")
    options_parser.add_argument("place", metavar="PLACE", type=user_path)
    options_parser.add_argument("more", metavar="MORE", nargs="*", type=user_path)
    options_parser.add_argument("--out", required=True, type=user_path)
    options_parser.add_argument("--share", type=Number(float, 0, 1, open="low"), default=1.0)
    options_parser.add_argument("--columns")
    return options_parser


def test_paths_are_expanded_and_addresses_refused(parser, monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    options = parser.parse_args(["~/a", "~/b", "c", "--out=~/d", "--columns=~"])
    assert (options.place, options.more, options.out) == (
        Path("/home/x/a"),
        [Path("/home/x/b"), Path("c")],
        Path("/home/x/d"),
    )
    assert options.columns == "~"  # not a path
    for arguments, name in ((["s3://a", "--out=b"], ""), (["a", "--out=gs://b"], "--out=")):
        with pytest.raises(UserError, match=rf"^{name}(s3|gs)://[ab]: .*addresses are neither read nor written"):
            parser.parse_args(arguments)


def test_a_mistake_raises_one_line_with_the_command(parser):
    with pytest.raises(
        UserError, match="mae-jax try: the following arguments are required: --out; see mae-jax try --help"
    ):
        parser.parse_args(["a"])
    with pytest.raises(UserError, match="unknown argument '--colum'"):  # no short forms
        parser.parse_args(["a", "--out=b", "--colum", "c"])
    with pytest.raises(UserError, match="unknown argument '-x'"):
        parser.parse_args(["a", "--out=b", "-x"])
    assert parser.required() == ["PLACE", "--out"] and {"--out", "--columns", "--help"} <= parser.options()
    assert parser.parse_args(["--out=b", "--", "--c"]).place == Path("--c")


def test_options_of_sub_commands_are_known():
    options_parser = Parser(prog="mae-jax try")
    one = options_parser.add_subparsers(dest="command", required=True).add_parser("one")
    one.add_argument("--heads", type=user_path)
    assert "--heads" in options_parser.options() and options_parser.parse_args(["one", "--heads", "x"]).heads == Path(
        "x"
    )
    with pytest.raises(UserError, match=r"'--head' \(did you mean --heads\?\)"):
        options_parser.parse_args(["one", "--head", "x"])


def test_hints_name_the_nearest_word():
    assert did_you_mean("--ouut=3", ["--out", "--help"]) == " (did you mean --out?)"
    assert did_you_mean("chek", ["check"], "mae-jax {}") == " (did you mean mae-jax check?)"
    assert did_you_mean("zzz", ["check"]) == ""


@pytest.mark.parametrize("value", ["0", "-0.5", "1.01", "nan", "inf"])
def test_a_number_out_of_its_range_is_refused_with_the_range(parser, value):
    with pytest.raises(UserError, match=f"^--share={value} is out of range; allowed: above 0 and at most 1$"):
        parser.parse_args(["a", "--out=b", f"--share={value}"])
    assert parser.parse_args(["a", "--out=b", "--share=0.5"]).share == 0.5
    with pytest.raises(UserError, match="argument --share: 'half' is not a number; see"):
        parser.parse_args(["a", "--out=b", "--share=half"])


@pytest.mark.parametrize("verb", [verb for verb in commands.VERBS if hasattr(commands.load(verb), "add_arguments")])
def test_every_path_and_number_of_a_command_is_checked(verb):
    options_parser = Parser(prog=verb)
    commands.load(verb).add_arguments(options_parser)
    for action in [each for parser in options_parser._parsers() for each in parser._actions]:
        assert action.type in (None, user_path) or isinstance(action.type, Existing | Number), action.dest


def test_paths_that_must_exist_are_refused_with_the_name_of_the_argument(tmp_path):
    options_parser = Parser(prog="mae-jax try")
    options_parser.add_argument("runs", metavar="RUN", nargs="+", type=Existing("a run directory"))
    options_parser.add_argument("--init", type=Existing("weights", hub=True))
    here, missing = str(tmp_path), f"{tmp_path}/missing"
    options = options_parser.parse_args([here, here, f"--init={here}"])
    assert options.runs == [tmp_path, tmp_path] and options.init == tmp_path
    assert options_parser.parse_args([here]).init is None
    for arguments, message in (
        ([here, missing], f"RUN={missing} does not exist; name a run directory"),
        ([here, f"--init={missing}"], f"--init={missing} does not exist; name weights"),
        ([here, "--init=owner/name"], "--init=owner/name does not exist; mae_jax downloads nothing; .* hf download"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            options_parser.parse_args(arguments)
