"""Paths of a user are treated alike, wherever they are given."""

import os
import pwd
from pathlib import Path

import pytest

import mae_jax
from mae_jax.commands import load
from mae_jax.config.fields import study_defaults
from mae_jax.config.loading import init_of
from mae_jax.config.validation import validate
from mae_jax.data import prepared
from mae_jax.runtime import hardware
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.parser import Parser
from mae_jax.runtime.places import expanded, hub_advice, local, shareable
from mae_jax.study import cells
from mae_jax.study.validation import validate_study

REMOTE = r"s3:// addresses are neither read nor written; name a folder on this machine, and copy the files yourself"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


@pytest.fixture
def homeless(monkeypatch):
    """As in a container that runs as a user id without a name."""

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("kind", "text", "becomes"),
    [
        ("one", "~/a,b", "HOME/a,b"),
        ("several", "~/a,b,~/c", "HOME/a,b,HOME/c"),
        ("named", "near=~/a,~/b,test[:50%]", "near=HOME/a,HOME/b,test[:50%]"),
        ("one", "a/~/b", "a/~/b"),
        ("one", "", ""),
    ],
)
def test_each_path_of_a_field_is_expanded(home, kind, text, becomes):
    assert expanded(text, "data.dir", kind) == becomes.replace("HOME", home)


def test_every_path_field_of_a_config_is_expanded_and_refuses_remote_addresses(home, tiny_config):
    fields = {"data.dir": "~/d", "data.labels": "~/l.csv", "data.prepared_dir": "~/p", "data.external": "x=~/e"}
    fields |= {"init": "mae", "init_from": "~/run"}
    config = tiny_config(**fields)
    checked = validate(config)
    assert (checked.data.dir, checked.data.labels) == (f"{home}/d", f"{home}/l.csv")
    assert (checked.data.prepared_dir, checked.data.external) == (f"{home}/p", f"x={home}/e")
    assert checked.init_from == f"{home}/run"
    study = validate_study(study_defaults(tiny_config("pretrain", **{"data.dir": "~/u"}), tiny_config()))
    assert study.pretrain.data.dir == f"{home}/u"
    for key in fields:
        if key != "init":
            with pytest.raises(UserError, match=f"{key}=.*s3://bucket/x: {REMOTE}"):
                validate(tiny_config(**fields | {key: "s3://bucket/x"}))


def test_encoders_of_a_study_and_of_init_are_expanded(home, tiny_config):
    os.makedirs(f"{home}/runs/mine/checkpoints")
    config = study_defaults(tiny_config("pretrain"), tiny_config())
    config.inits = ("scratch", "own=~/runs/mine")
    assert cells.inits(validate_study(config))[1] == cells.Init("own", path=f"{home}/runs/mine", unnamed=False)
    assert init_of("~/runs/mine") == "mae"
    config.inits = ("scratch", "gs://bucket/mine")
    with pytest.raises(UserError, match="inits=gs://bucket/mine: gs:// addresses are neither read nor written"):
        validate_study(config)


@pytest.mark.parametrize(
    ("command", "arguments", "names"),
    [
        ("check", ["~/d", "--out", "~/o.csv"], ("dataset", "out")),
        ("quick", ["~/d", "--init", "~/o", "--workdir", "~/w"], ("place", "init", "workdir")),
        ("prepare", ["raabin_wbc", "--source", "~/d"], ("source",)),
        ("convert", ["export", "~/d", "~/o", "--format", "hf"], ("run_dir", "out")),
        ("inspect", ["~/d", "--images", "~/d"], ("run_dir", "images")),
        ("report", ["~/d", "--out", "~/o"], ("out",)),
        ("doctor", ["--workdir", "~/d"], ("workdir",)),
    ],
)
def test_options_that_are_paths_are_expanded_and_refuse_remote_addresses(home, command, arguments, names):
    parser = Parser(prog=command)
    load(command).add_arguments(parser)
    os.makedirs(f"{home}/d")
    options = parser.parse_args(arguments)
    assert all(str(getattr(options, name)).startswith(f"{home}/") for name in names)
    with pytest.raises(UserError, match=f"s3://d: {REMOTE}"):
        parser.parse_args([text.replace("~/", "s3://") if "~/d" in text else text for text in arguments])


def test_several_directories_of_one_option_are_expanded(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = Parser(prog="report")
    load("report").add_arguments(parser)
    for name in "ab":
        Path(name).mkdir()
    assert parser.parse_args(["~/a", "b"]).run_dirs == [Path(home, "a"), Path("b")]


def test_without_a_home_directory_there_is_a_line_or_no_cache(homeless):
    assert hardware.cache_directory() is None
    with pytest.raises(UserError, match="no home directory is known here; set TFDS_DATA_DIR or data.prepared_dir"):
        prepared.root()
    with pytest.raises(UserError, match="data.dir=~/x: no home directory is known here; give the full path"):
        local("~/x", "data.dir")
    with pytest.raises(UserError, match="~nobody-here is not a user with a home directory"):
        local("~nobody-here/x", "data.dir")


def test_pages_that_are_shared_show_no_absolute_path():
    config = {"data": {"dir": "/home/ann/a b/cells,rel/x", "external": "far=~/lab/other"}, "seeds": [0, "/x/y"]}
    assert shareable(config) == {"data": {"dir": ".../cells,rel/x", "external": "far=.../other"}, "seeds": [0, ".../y"]}
    assert shareable(Path("/home/ann/runs/one")) == ".../one" and shareable(Path("runs/one")) == "runs/one"
    assert shareable(r"(^|/)(bias|scale)$") == r"(^|/)(bias|scale)$"


@pytest.mark.parametrize(
    ("place", "name"),
    [("facebook/vit-mae-base", "facebook/vit-mae-base"), ("hf-hub:MahmoodLab/UNI2-h", "MahmoodLab/UNI2-h")],
)
def test_a_name_on_the_hub_is_answered_with_the_command_that_downloads_it(place, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = rf"does not exist; .*hf download {name} --local-dir {name.partition('/')[2]} "
    with pytest.raises(UserError, match=text):
        init_of(place)
    with pytest.raises(UserError, match=text):
        mae_jax.load(place)
    Path(name).parent.mkdir()
    assert hub_advice(place) == "" and {hub_advice(path) for path in ("runs/mine", "/a/b", "x/y.pth", "x")} == {""}
    assert init_of(place) == "mae"
