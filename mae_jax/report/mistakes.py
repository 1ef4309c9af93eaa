"""Pictures of test images where they can be read: the most confident mistakes, and an example of each class."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mae_jax.report.runs import Run, usual_arm
from mae_jax.rundir import contents
from mae_jax.rundir.predictions import most_confident_mistakes, regular

TRIED = 5  # images of a class that are opened to find an example
SMALL = 128  # longest side of an example in pixels
PICTURES = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
COLUMNS = (  # of mistakes.csv
    *("fraction", "arm", "label_count", "init", "seed"),
    *("image", "label", "prediction", "confidence"),
)


def mistakes(runs: Sequence[Run]) -> list[dict]:
    """The most confident mistakes of every run, most confident first."""
    rows = []
    for run in runs:
        order = most_confident_mistakes(~run.test.right, run.test.confidence, run.test.images)
        rows += [
            {
                **run.level.columns,
                "init": run.init,
                "seed": run.seed,
                "image": run.test.images[i],
                "label": run.classes[run.test.labels[i]],
                "prediction": run.classes[run.test.predictions[i]],
                "confidence": float(run.test.confidence[i]),
            }
            for i in order
        ]
    return rows


def gallery(runs: Sequence[Run], pictures: bool = True) -> list[dict]:
    """The most confident mistakes with the largest share of the labels, for each initialization, with pictures.

    A picture comes from the run's `thumbnails/`, or from a file of that name below run.json's `image_root`, the data
    directory of its config, or the run directory. Of several seeds, the first is shown. Without `pictures`, none is.
    """
    usual = usual_arm(runs)
    last = max(run.fraction for run in runs if run.arm == usual)
    chosen = {run.init: run for run in reversed(runs) if (run.arm, run.fraction) == (usual, last)}
    return [
        {
            "name": run.name,
            "images": [
                row | {"uri": _picture(run, row["image"], contents.MISTAKES, contents.THUMBNAIL) if pictures else None}
                for row in rows
            ],
        }
        for run in sorted(chosen.values(), key=runs.index)
        if (rows := mistakes([run]))
    ]


def examples(run: Run, classes: Sequence[str]) -> list[dict]:
    """A test image of each class whose file is at hand, in the order of `classes`: the first one that can be read.

    Its name orders the images, so that no model's answers choose the example. For the same reason it comes from the
    run's `examples/` or the original images, and not from `thumbnails/`, which holds mistakes.
    """
    pictures = []
    for name in classes:
        of_class = sorted(
            run.test.images[i] for i in np.flatnonzero(run.test.labels == run.classes.index(name)).tolist()
        )
        read = ((image, _picture(run, image, contents.EXAMPLES, SMALL)) for image in of_class[:TRIED])
        pictures += [{"class": name, "image": image, "uri": uri} for image, uri in read if uri][:1]
    return pictures


def _picture(run: Run, image: str, kept: str, side: int) -> str | None:
    """The image as a data URI of at most `side` pixels, or None. Files outside the expected folder are never read.

    `kept` is the folder of the run in which a small picture of it may be.
    """
    if Path(image).is_absolute() or ".." in Path(image).parts:
        return None
    config = run.info.get("config")
    data = config.get("data") if isinstance(config, dict) else None
    places = [run.info.get("image_root"), data.get("dir") if isinstance(data, dict) else None]
    places = [Path(p) for p in places if isinstance(p, str) and p] + [run.path]
    split = run.info.get("test_split")
    places += [p / split for p in places if isinstance(split, str)]
    for file in (run.path / kept / f"{image}.jpg", *(place / image for place in places)):
        try:
            if file.is_relative_to(run.path) and not file.resolve().is_relative_to(run.path.resolve()):
                continue  # a link out of a directory, which may come from someone else
            with Image.open(regular(file), formats=PICTURES) as opened:
                if opened.width * opened.height > 50_000_000:
                    continue
                opened.draft("RGB", (side, side))
                small = opened.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        small.thumbnail((side, side))
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=85)
        return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    return None
