"""The newest versions that the tests were run with; later patch releases of each count as tested.

The oldest versions are in setup.cfg. requirements/ pins all packages for each Python version.
"""

PYTHON = "3.13"
PACKAGES = {
    "clu": "0.0",
    "flax": "0.12",
    "grain": "0.2",
    "jax": "0.12",
    "jaxlib": "0.12",
    "ml-collections": "1.1",
    "numpy": "2.5",
    "optax": "0.2",
    "orbax-checkpoint": "0.12",
    "pillow": "13.0",
    "pyarrow": "26.0",
    "scipy": "1.18",
    "tensorflow": "2.21",
    "tensorflow-cpu": "2.21",
    "tensorflow-datasets": "4.9",
}


def newer(version: str, tested: str) -> bool:
    """Whether `version` is of a later minor release than `tested`: 0.13.0 is newer than 0.12, and 0.12.9 is not.

    Parts that are not numbers, such as those of a pre-release, are ignored.
    """

    def minor(text: str) -> tuple[int, ...]:
        parts = text.split("+")[0].split(".")[:2]
        return tuple(int("".join(c for c in part if c.isdecimal()) or 0) for part in parts)

    return minor(version) > minor(tested)
