import numpy as np
from PIL import Image

from mae_jax.data.sources import Source
from mae_jax.evaluation import thumbnails

NAMES = ("one/e.png", "zero/b.png", "one/d.png", "zero/a.png", "one/c.png")


def drawn(labels=(1, 0, 1, 0, 1), names=NAMES):
    """Images of classes; the gray level of each is its index times 40."""
    return Source(
        names, np.array(labels, np.int32), ("",) * len(names), tuple("abcde"), "",
        lambda index: np.full((300, 400, 3), 40 * index, np.uint8),
    )  # fmt: skip


def written(directory):
    collected = {}
    for file in sorted(directory.rglob("*.jpg")):
        with Image.open(file) as picture:
            collected[str(file.relative_to(directory))] = (picture.size, round(float(np.mean(picture)) / 40))
    return collected


def test_an_example_is_the_first_image_of_its_class_by_name(tmp_path):
    thumbnails.write_examples(tmp_path, drawn())
    assert written(tmp_path) == {"one/c.png.jpg": ((192, 144), 4), "zero/a.png.jpg": ((192, 144), 3)}


def test_a_mistake_is_a_wrong_prediction(tmp_path):
    sure = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4], [0.7, 0.3]])
    thumbnails.write_mistakes(tmp_path, drawn(), sure)
    assert written(tmp_path) == {"one/c.png.jpg": ((192, 144), 4), "zero/b.png.jpg": ((192, 144), 1)}


def test_a_name_without_a_place_is_left_out(tmp_path):
    thumbnails.write_examples(tmp_path, drawn(range(5), ("x" * 300, "a", "a.jpg/b", "b", "c")))
    assert {"a.jpg", "b.jpg", "c.jpg"} == set(written(tmp_path))
