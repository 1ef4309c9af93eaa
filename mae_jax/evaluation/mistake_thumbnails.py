"""Small pictures of the most confident mistakes, so that the report shows them wherever the images came from."""

import errno
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from mae_jax.data.decode import load_image
from mae_jax.data.sources import Source
from mae_jax.runtime import files

# A name that cannot get an ending more, or that another image's name has as a folder: there is no picture of it.
_NO_PLACE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
MOST, SIDE = 12, 192  # pictures of a run, as many as the report shows; pixels


def most_confident_mistakes(source: Source, probabilities: Float[np.ndarray, "n classes"]) -> list[int]:
    """Which images were predicted wrongly, the most confident first; at equal confidence by name."""
    wrong = np.flatnonzero(probabilities.argmax(1) != source.labels)
    return sorted(wrong.tolist(), key=lambda i: (-probabilities[i].max(), source.names[i]))[:MOST]


def write(directory: Path, source: Source, probabilities: Float[np.ndarray, "n classes"]) -> None:
    """JPEGs under the images' names below `directory`, of at most MOST images that were predicted wrongly."""
    for index in most_confident_mistakes(source, probabilities):
        image = source.read(index)
        pixels = image if isinstance(image, np.ndarray) else load_image(image, source.names[index])
        picture = Image.fromarray(pixels)
        picture.thumbnail((SIDE, SIDE))
        file = directory / (source.names[index] + ".jpg")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            files.save_picture(file, picture, quality=85)
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
