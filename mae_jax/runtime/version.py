"""The version of mae_jax, without imports."""

__version__ = "0.1.0"
