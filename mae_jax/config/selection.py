"""How `mae-jax select` can select images. The functions are in `evaluation.selection`, which imports NumPy."""

METHODS: tuple[str, ...] = ("typical", "coreset", "random")
