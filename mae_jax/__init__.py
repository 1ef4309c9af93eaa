"""Masked autoencoders for histopathology in JAX: how few labels are enough?"""

__version__ = "0.1.0"
