"""`mae-jax run` is `mae_jax.main` with the same arguments."""

from mae_jax import main
from mae_jax.__main__ import dispatch


def test_all_arguments_are_those_of_main(record):
    calls = record(main, "cli")
    arguments = ["--config=configs/demo.py:smoke", "--workdir=w", "--config.seeds=(1,)", "--help"]
    assert dispatch(["run", *arguments]) == 0 and calls == [((arguments,), {})]
