"""The config files of configs/ go into the package as mae_jax/configs; everything else is in setup.cfg."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mae_jax*"]), "mae_jax.configs"],
    package_dir={"mae_jax.configs": "configs"},
)
