"""Small pictures of test images, so that the report can show them without the original images."""

import errno
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from mae_jax.data.decode import load_image
from mae_jax.data.sources import Source
from mae_jax.rundir import contents
from mae_jax.rundir.predictions import most_confident_mistakes
from mae_jax.runtime import files

# The name is too long with an extension, or is also a folder in another image's name: no thumbnail is written.
_NO_PLACE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


def write_mistakes(directory: Path, source: Source, probabilities: Float[np.ndarray, "n classes"]) -> None:
    """Writes JPEGs of the most confident mistakes below `directory`, named after their images.

    Raises OSError if the storage fails.
    """
    wrong = probabilities.argmax(1) != source.labels
    _write(directory, source, most_confident_mistakes(wrong, probabilities.max(1), source.names))


def write_examples(directory: Path, source: Source) -> None:
    """Writes a JPEG of each class's first image by name below `directory`, named after the image.

    The name decides, so that no model's predictions choose an example. Raises OSError if the storage fails.
    """
    by_name = sorted(range(len(source)), key=lambda i: source.names[i])
    first = {source.labels[i]: i for i in reversed(by_name)}
    _write(directory, source, sorted(first.values()))


def _write(directory: Path, source: Source, indices: Sequence[int]) -> None:
    for index in indices:
        image = source.read(index)
        pixels = image if isinstance(image, np.ndarray) else load_image(image, source.names[index])
        picture = Image.fromarray(pixels)
        picture.thumbnail((contents.THUMBNAIL, contents.THUMBNAIL))
        file = directory / (source.names[index] + ".jpg")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            files.save_picture(file, picture, quality=85)
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
