"""How to select the images to label first. The functions are in `evaluation.selection`, which imports NumPy."""

METHODS: tuple[str, ...] = ("typical", "coreset", "random")  # of `mae-jax select`
BY_FEATURES = ("typical", "coreset")  # those that need an encoder
SUBSETS = ("stratified", "random", *BY_FEATURES)  # choices of `data.subset`
