"""`mae-jax reconstruct`: names and numbers are checked first, and images are evenly spaced."""

import argparse

import numpy as np
import pytest
from PIL import Image

from mae_jax.commands import reconstruct
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.parser import Parser


def options(*arguments) -> argparse.Namespace:
    parser = Parser(prog="mae-jax reconstruct")
    reconstruct.add_arguments(parser)
    return parser.parse_args(["run", "--out=o", *(arguments or ["--images=a=b"])])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images=a=b", "--show=0"], "--show=0 is out of range; allowed: 1 or more"),
        (["--images=a=b", "--show=5", "--measure=4"], "--measure=4 is below --show=5; use at least 5"),
        (["--images=a=b", "--mask-seed=-1"], "--mask-seed=-1 is out of range; allowed: 0 to 2147483647"),
        *[(["--images=a=b", f"--mask-ratio={r}"], f"--mask-ratio={r} is out of range") for r in ("0", "1", "nan")],
        (["--images=a=b", "--images=a=c"], "--images: the name a occurs twice; give each DIR a different name"),
        *[([f"--images={item}"], f"--images={item} is not allowed; use NAME=DIR") for item in ("a", "a=", "x/y=b")],
    ],
)
def test_mistakes_are_refused(arguments, message):
    with pytest.raises(UserError) as error:
        reconstruct.check_options(options(*arguments))
    assert message in str(error.value)


def test_defaults_pass_and_a_name_has_its_directory(monkeypatch):
    reconstruct.check_options(options())
    monkeypatch.setenv("HOME", "/home/x")
    assert reconstruct.named("a.b=~/c=d") == ("a.b", "/home/x/c=d")


def test_images_are_evenly_spaced_from_the_first_to_the_last(tmp_path):
    for i in range(7):
        Image.new("RGB", (9, 9), (i, i, i)).save(tmp_path / f"{i}.png")
    name, ((source, indices),) = reconstruct.images(f"mine={tmp_path}", 4)
    assert name == "mine" and len(source) == 7 and indices.tolist() == [0, 2, 4, 6]
    assert reconstruct.images(f"mine={tmp_path}", 99)[1][0][1].tolist() == list(range(7))


def test_generated_images_are_of_one_kind():
    _, ((tissue, indices),) = reconstruct.images("t=synthetic-tissue", 5)
    assert indices.tolist() == [0, 50, 100, 149, 199] and len(tissue) == 400  # the second half is cells
    assert all("tissue" in tissue.names[i] for i in indices)
    _, ((cells, indices),) = reconstruct.images("c=synthetic-cells", 3)
    assert len(cells) == 200 and indices.tolist() == [0, 100, 199] and np.unique(cells.labels).size > 1
