"""The model card of an exported network: usage, training data, recipe, scores and limits."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.config.fields import COMPUTED, DataFields, RunConfig
from mae_jax.config.tasks import TRAITS
from mae_jax.report import stats
from mae_jax.report.analysis import HIGHEST
from mae_jax.report.cautions import leak_lines
from mae_jax.report.runs import percent
from mae_jax.rundir import contents
from mae_jax.rundir.predictions import clean, read_predictions
from mae_jax.runtime.disk import entries, is_dir, read_text
from mae_jax.runtime.text import count
from mae_jax.weights.reader import Weights
from mae_jax.weights.writer import hugging_face_class

_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision": "macro precision",
    "recall": "macro recall",
    "f1": "macro F1",
    "ece": "calibration error (ECE, 15 bins)",
}
_INITS = {
    "scratch": "random weights",
    "mae": "the encoder of a masked autoencoder",
    "weights": "weights of other code",
    "features": "features from a file",
    **COMPUTED,
}
_UNKNOWN = "weights that are not known"


def model_card(run_dir: Path, weights: Weights, config: RunConfig, form: str, notes: list[str]) -> str:
    """The model card in Markdown, from the files of `run_dir`.

    `form` is hf, timm, onnx or mae_jax; `notes` are added to the limits. Raises UserError, KeyError, TypeError,
    ValueError or AttributeError if run.json or results.json is damaged.
    """
    run = contents.read_object(run_dir / contents.RUN)
    results = contents.read_object(run_dir / contents.RESULTS)
    run = run | {"chosen": results.get("chosen")}
    parts = [_head(weights, form), _title(weights, run), _use(weights, form), _data(run, config, weights)]
    parts += [_recipe(run, config, weights)]
    classifier = weights.kind == "vit"
    parts.append(_classifier_results(run_dir, weights, run, results) if classifier else _autoencoder_results(results))
    parts.append(_limits(weights, results, notes))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _plain(value: Any) -> str:
    """Escapes untrusted text, such as names of classes and folders, for Markdown and HTML."""
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", html.escape(clean(value)))


def _head(weights: Weights, form: str) -> str:
    kind = "image-classification" if weights.kind == "vit" else "image-feature-extraction"
    library = {"hf": "transformers", "timm": "timm"}.get(form, form)
    return f"---\nlibrary_name: {library}\npipeline_tag: {kind}\ntags: [vit, mae, histopathology]\n---"


def _title(weights: Weights, run: dict[str, Any]) -> str:
    s = weights.shape
    network = (
        f"This ViT has {s.width} features, {count(s.depth, 'block')}, {count(s.heads, 'head')} and patches of "
        f"{s.patch_size} pixels."
        if s.family == "vit"
        else f"This network is a ResNet-18 with {'group' if s.norm == 'group' else 'frozen batch'} norm."
    )
    text = f"{network} It takes square images of {s.image_size} pixels and was trained with mae_jax."
    if weights.kind == "mae":
        return f"# Masked autoencoder\n\n{text}"
    names = ", ".join(map(_plain, weights.classes))
    return f"# Image classifier with {len(weights.classes)} classes\n\n{text} Classes: {names}."


def _use(weights: Weights, form: str) -> str:
    """Code that loads the network and classifies one image or, without a classifier, computes its features."""
    classifies = weights.kind == "vit"
    if form == "mae_jax":
        lines = ["import mae_jax", "", 'model = mae_jax.load("FOLDER")']
        lines += ['result = model.predict(["cell.png"])', "result.predictions, result.confidence"] if classifies else []
        lines += ['features = model.embed(["cell.png"])']
    elif form == "onnx":
        side, output = weights.shape.image_size, "probabilities" if classifies else "mean"
        lines = ["import json", "import numpy as np", "import onnxruntime", "from PIL import Image", ""]
        lines += ['session = onnxruntime.InferenceSession("FILE.onnx")']
        lines += ['image = Image.open("cell.png").convert("RGB")', f"side, short = {side}, min(image.size)"]
        lines += ["width, height = (side * length // short for length in image.size)"]
        lines += ["left, top = (width - side) // 2, (height - side) // 2"]
        lines += ["image = image.resize((width, height), Image.Resampling.BICUBIC)"]
        lines += ["image = image.crop((left, top, left + side, top + side))"]
        lines += ["pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255"]
        lines += [f'{output} = session.run(["{output}"], {{"images": pixels}})[0][0]']
        if classifies:
            lines += ['classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])']
            lines += ["classes[int(probabilities.argmax())]"]
    elif form == "timm":
        lines = ["import timm", "import torch", "from PIL import Image", ""]
        lines += ['model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()']
        lines += ["transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))"]
        lines += ['image = transform(Image.open("cell.png").convert("RGB"))[None]', "with torch.no_grad():"]
        if classifies:
            lines += ["    probabilities = model(image).softmax(-1)[0]"]
            lines += [f"classes = {_code(weights.classes)}", "classes[int(probabilities.argmax())]"]
        else:
            lines += ["    features = model(image)"]
    else:
        name = hugging_face_class(weights)[1]
        lines = ["import torch", "from PIL import Image", f"from transformers import AutoImageProcessor, {name}", ""]
        lines += ['processor = AutoImageProcessor.from_pretrained("FOLDER")']
        lines += [f'model = {name}.from_pretrained("FOLDER").eval()']
        lines += ['image = processor(Image.open("cell.png").convert("RGB"), return_tensors="pt")']
        lines += ["with torch.no_grad():"]
        if classifies:
            lines += ["    probabilities = model(**image).logits.softmax(-1)[0]"]
            lines += ["model.config.id2label[int(probabilities.argmax())]"]
        else:
            lines += ["    output = model(**image)"]
    title = "How to classify one image" if classifies else "How to load the model"
    return f"## {title}\n\n```python\n" + "\n".join(lines) + "\n```"


def _code(names: Sequence[str]) -> str:
    """A list of strings as Python code. Backticks are replaced, so that no name can close the code block."""
    return json.dumps([clean(name).replace("`", "'") for name in names])


def _data(run: dict[str, Any], config: RunConfig, weights: Weights) -> str:
    lines = [f"- Source: {_plain(run.get('data_name') or run.get('data', 'not known'))}"]
    if config.data.source == "synthetic":
        lines[0] += " (generated images: scores say nothing about real ones)"
    lines.append(f"- Training images: {run.get('n_train', 'not known')}")
    if weights.kind == "vit":
        share = run.get("fraction", config.data.fraction)  # of label_count, run.json has the share
        lines[-1] += f" with labels ({percent(share)} of the training set)"
    stains = run.get("stain")
    for name, text in stains.items() if isinstance(stains, dict) else ():
        if text:
            lines.append(f"- Stain of the images ({_plain(name)}): {_plain(text)}; new images need the same")
    lines.append(
        f"- Preprocessing: resize the shorter side to {weights.shape.image_size} pixels (bicubic), crop the center "
        f"square, scale values to 0..1, subtract the mean {_numbers(weights.mean)}, divide by the standard deviation "
        f"{_numbers(weights.std)}"
    )
    return "## Data\n\n" + "\n".join(lines)


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _recipe(run: dict[str, Any], config: RunConfig, weights: Weights) -> str:
    o, t = config.optim, config.train
    lines = [f"- Initial weights: {_plain(initial_weights(config))}"]
    if not config.traits.updates:
        chosen = ", ".join(f"{_plain(key)} {_plain(value)}" for key, value in (run.get("chosen") or {}).items())
        kind = "multinomial logistic regression (L-BFGS)" if config.traits.linear else "nearest neighbors (cosine)"
        lines.append(f"- The encoder is frozen; the classifier is {kind} on its features{chosen and f': {chosen}'}")
        devices, commit = (_plain(run.get(key) or "not known") for key in ("devices", "commit"))
        return "## Recipe\n\n" + "\n".join([*lines, f"- Devices: {devices}; code commit: {commit}"])
    epochs = count(run.get("epochs", t.epochs), "epoch")
    lines.append(f"- {epochs}, {run.get('steps', 'unknown')} updates; seed {config.seed}")
    numbers = f"betas {o.b1:g} and {o.b2:g}" if o.name == "adamw" else f"momentum {o.b1:g}"
    optimizer = "AdamW" if o.name == "adamw" else "LARS"
    if config.traits.frozen:
        folded = "" if weights.shape.batch_norm else ", which is folded into its weights"
        lines.append(f"- The encoder is frozen; a linear head was trained behind a batch norm{folded}")
    lines.append(
        f"- {optimizer}, base learning rate {o.base_lr:g} per 256 images, {_plain(o.schedule)} schedule with "
        f"{count(o.warmup_epochs, 'epoch')} of warm-up, weight decay {o.weight_decay:g}, {numbers}, "
        f"layer decay {o.layer_decay:g}"
    )
    if t.blocks >= 0:
        last = f"the last {'block' if t.blocks == 1 else f'{t.blocks} blocks'}, the final norm and " if t.blocks else ""
        lines.append(f"- Trained parameters: {last}the head")
    if weights.kind == "mae":
        target = "pixels normalized within each patch" if config.mae.norm_pix_loss else "pixels"
        lines.append(f"- {100 * config.mae.mask_ratio:g} % of the patches removed; the loss is on {target}")
    else:
        lines.append(
            f"- Drop path {config.model.drop_path:g}, dropout {config.model.dropout:g}, label smoothing "
            f"{t.label_smoothing:g}, mixup {t.mixup:g}, CutMix {t.cutmix:g}, CellMix {t.cellmix}"
        )
        chosen = "the epoch with the best validation score" if run.get("select", "last") != "last" else "the last epoch"
        lines.append(f"- Weights: those of {chosen}")
    lines.append(f"- Augmentation: {_augmentation(config.data)}")
    devices, commit = (_plain(run.get(key) or "not known") for key in ("devices", "commit"))
    lines.append(f"- Devices: {devices}; code commit: {commit}")
    return "## Recipe\n\n" + "\n".join(lines)


def initial_weights(config: RunConfig) -> str:
    """The initial weights, back to random weights or other code, each with its training data or license if known.

    Names of files are not escaped for Markdown.
    """
    return _origin(config.init, config.init_from, ())


def _origin(init: str, init_from: str, seen: tuple[Path, ...]) -> str:
    what = _INITS.get(init, init)
    if not init_from:
        return what
    place = Path(init_from)
    if init == "weights":
        bundled = contents.peek_object(place / contents.CONFIG)
        if contents.BUNDLE in bundled:
            began = bundled.get("initial_weights")
            began = began[:1000] if isinstance(began, str) else _UNKNOWN
            return f"{what}, {place.name} (a bundle of mae_jax), which began with {began}"
        name = _license(place if is_dir(place) else place.parent)
        return f"{what}, {place.name} ({f'license {name}' if name else 'its license is not known'})"
    before = contents.peek_object(place / contents.CONFIG).get("config")
    before = before if isinstance(before, dict) else {}
    traits = TRAITS.get(str(before.get("task")))
    what = "the encoder of a fine-tuned network" if traits and traits.fine_tunes else what
    source = contents.peek_object(place / contents.RUN).get("data_name")
    data = f"trained by mae_jax on {source}" if source else "its training data are not known"
    shown = f"{what}, {place.name} ({data})"
    if not before:
        return f"{shown}, which began with {_UNKNOWN}"
    init, init_from = (str(before.get(name) or "") for name in ("init", "init_from"))
    if not init_from or place in seen:
        return shown
    return f"{shown}, which began with {_origin(init, init_from, (*seen, place))}"


def _license(folder: Path) -> str:
    """The license named in the folder's README.md or config.json, or its file; "" if there is none."""
    try:
        text = read_text(folder / "README.md", errors="replace")[:5000]
        if match := re.search(r"^license(?:_name)?: *[\"']?([\w.+ -]{1,60})", text, re.MULTILINE):
            return match[1].strip()
    except OSError:
        pass
    about = contents.peek_object(folder / contents.CONFIG)
    timm = about.get("pretrained_cfg")
    named = about.get("license") or (timm.get("license") if isinstance(timm, dict) else None)
    if isinstance(named, str) and named:
        return named[:60]
    return next(
        (f"in its file {path.name}" for path in entries(folder) if path.name.startswith(("LICENSE", "LICENCE"))), ""
    )


def _augmentation(d: DataFields) -> str:
    parts = [f"random crops of {d.crop_scale[0]:g} to {d.crop_scale[1]:g} of the image's area"]
    if d.flips:
        parts.append("horizontal and vertical flips")
    if d.randaugment:
        kinds = "color and geometric transforms" if d.randaugment_colour else "geometric transforms only"
        parts.append(f"RandAugment of magnitude {d.randaugment:g} ({kinds})")
    if d.random_erasing:
        parts.append(f"random erasing in {percent(d.random_erasing)} of the images")
    return ", ".join(parts)


def _classifier_results(run_dir: Path, weights: Weights, run: dict[str, Any], results: dict[str, Any]) -> str:
    what = "test images, which were used neither for training nor for selection"
    parts = [_scores(run_dir / contents.PREDICTIONS, weights.classes, what)]
    rows = ["| class | test images | precision | recall | F1 |", "|---|---|---|---|---|"]
    for name, row in results["per_class"].items():
        rows.append(f"| {_plain(name)} | {row['n']} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} |")
    parts.append("\n".join(rows))
    for name in results.get("external") or {}:
        file = run_dir / contents.EXTERNAL / name / contents.PREDICTIONS
        parts.append(_scores(file, weights.classes, f"images of the external test set {_plain(name)}"))
    warnings = [f"**Warning:** {_plain(line)}" for line in leak_lines([run])]
    return "\n\n".join(["## Results", *warnings, *parts])


def _scores(file: Path, classes: tuple[str, ...], what: str) -> str:
    """The table of one test set, with bootstrap intervals over groups of images if known, else over images."""
    table, _ = read_predictions(file, classes)
    n = len(classes)
    terms = stats.image_terms(table.labels, table.predictions, table.confidence, table.probabilities, n)
    groups = table.groups or ()
    grouped = any(groups) and len(set(groups)) > 1  # a single group cannot be resampled
    names = [g or image for g, image in zip(groups, table.images, strict=True)] if grouped else table.images
    units = np.unique(names, return_inverse=True)[1]
    draws = stats.bootstrap([terms], units, lambda sums: stats.metrics_from_sums(sums, n))
    draws = {metric: stats.allow_for_few_units(drawn, int(units.max()) + 1) for metric, drawn in draws.items()}
    point = stats.metrics_from_sums(terms.sum(0), n)
    rows = ["| | value | 95 % interval |", "|---|---|---|"]
    for metric, words in _METRICS.items():
        value, drawn = float(point[metric]), draws[metric][0]
        low, high = stats.mirrored_interval(drawn, value) if metric == "ece" else stats.percentile_interval(drawn)
        rows.append(f"| {words} | {value:.3f} | {max(low, 0.0):.3f} to {min(high, HIGHEST.get(metric, 1.0)):.3f} |")
    unit = "groups of images (slides, regions, fields)" if grouped else "images"
    return (
        f"Measured on {len(table.images)} {what}. Intervals come from {stats.DRAWS} bootstrap samples of {unit}. They "
        f"do not cover differences between random seeds or laboratories.\n\n" + "\n".join(rows)
    )


def _autoencoder_results(results: dict[str, Any]) -> str:
    rows = [
        f"| {words} | {results[name]:.4f} |"
        for name, words in (("val/loss", "removed patches"), ("val/visible_loss", "visible patches"))
        if name in results
    ]
    if not rows:
        return "## Results\n\nNo images were held out, so no error was measured."
    heading = "The table shows the mean squared error on held-out images, in the units of the training loss."
    return f"## Results\n\n{heading}\n\n| on | error |\n|---|---|\n" + "\n".join(rows)


def _limits(weights: Weights, results: dict[str, Any], notes: list[str]) -> str:
    lines = [
        "This model is for research. It is not a medical device and must not be used for diagnosis.",
        "It was trained on images from particular scanners, stains and laboratories. Test it before you use it on "
        "images from others.",
    ]
    if weights.kind == "vit":
        lines.append(
            "It assigns one of its classes to every image, even an unrelated one, and may do so with high confidence."
        )
        if results.get("collapsed"):
            lines.append("**It predicts the same class for every test image, so its predictions are useless.**")
    else:
        lines.append(
            "It does not classify images. It computes features, and reconstructions that are not images of real tissue."
        )
    lines += [f"{note[0].upper()}{note[1:]}." for note in notes]
    return "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in lines)
