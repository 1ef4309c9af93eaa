"""The model card of an exported network: what it saw, how it was trained, what it scores, what it is not for."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.config.fields import QUICK, DataFields, RunConfig
from mae_jax.report import stats
from mae_jax.report.analysis import HIGHEST
from mae_jax.report.cautions import leak_lines
from mae_jax.report.runs import percent
from mae_jax.rundir import contents
from mae_jax.rundir.predictions import clean, read_predictions
from mae_jax.weights.reader import Weights

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
    "weights": "weights from elsewhere",
}


def model_card(run_dir: Path, weights: Weights, config: RunConfig, form: str, notes: list[str]) -> str:
    """README.md of the folder, in Markdown; everything in it stands in the files of `run_dir`."""
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
    """Text of others (names of classes and folders) that neither Markdown nor HTML takes for more than text."""
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", html.escape(clean(value)))


def _head(weights: Weights, form: str) -> str:
    kind = "image-classification" if weights.kind == "vit" else "image-feature-extraction"
    library = {"hf": "transformers", "timm": "timm"}.get(form, form)
    return f"---\nlibrary_name: {library}\npipeline_tag: {kind}\ntags: [vit, mae, histopathology]\n---"


def _title(weights: Weights, run: dict[str, Any]) -> str:
    s = weights.shape
    size = f"ViT with {s.width} features, {s.depth} blocks, {s.heads} heads, patches of {s.patch_size} pixels"
    if weights.kind == "mae":
        return f"# Masked autoencoder\n\n{size}, for square images of {s.image_size} pixels; made with mae_jax."
    names = ", ".join(map(_plain, weights.classes))
    return (
        f"# Classifier of {len(weights.classes)} classes\n\n{size}, for square images of {s.image_size} pixels; "
        f"made with mae_jax. Classes: {names}."
    )


def _use(weights: Weights, form: str) -> str:
    """How to load the network and, of a classifier, how to classify one image."""
    classifies = weights.kind == "vit"
    if form == "mae_jax":
        lines = ["import mae_jax", "", 'model = mae_jax.load("FOLDER")']
        lines += ['result = model.predict(["cell.png"])', "result.predictions, result.confidence"] if classifies else []
        lines += ['features = model.embed(["cell.png"])']
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
        name = network_of(weights)
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
    title = "How to classify one image" if classifies else "How to load it"
    return f"## {title}\n\n```python\n" + "\n".join(lines) + "\n```"


def network_of(weights: Weights) -> str:
    """The class of transformers that computes a network."""
    return "ViTForImageClassification" if weights.kind == "vit" else "ViTMAEForPreTraining"


def _code(names: Sequence[str]) -> str:
    """A list of strings as Python code in which no name ends the block of code that it is in."""
    return json.dumps([clean(name).replace("`", "'") for name in names])


def _data(run: dict[str, Any], config: RunConfig, weights: Weights) -> str:
    lines = [f"- Source: {_plain(run.get('data_name') or run.get('data', 'not known'))}"]
    if config.data.source == "synthetic":
        lines[0] += " (generated images: they say nothing about real ones)"
    lines.append(f"- Training images: {run.get('n_train', 'not known')}")
    if weights.kind == "vit":
        lines[-1] += f" with labels ({percent(config.data.fraction)} of those that training may see)"
    lines.append(
        f"- Preparation: the shorter side scaled to {weights.shape.image_size} pixels (bicubic), the centered square, "
        f"values in 0..1, mean {_numbers(weights.mean)} subtracted, divided by {_numbers(weights.std)}"
    )
    return "## Data\n\n" + "\n".join(lines)


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _recipe(run: dict[str, Any], config: RunConfig, weights: Weights) -> str:
    o, t = config.optim, config.train
    lines = [f"- Initial weights: {_start(config)}"]
    if config.task in QUICK:
        chosen = ", ".join(f"{_plain(key)} {_plain(value)}" for key, value in (run.get("chosen") or {}).items())
        kind = "multinomial logistic regression (L-BFGS)" if config.task == "lbfgs" else "nearest neighbors (cosine)"
        lines.append(f"- The encoder is frozen; the classifier is {kind} on its features{chosen and f': {chosen}'}")
        devices, commit = (_plain(run.get(key) or "not known") for key in ("devices", "commit"))
        return "## Recipe\n\n" + "\n".join([*lines, f"- Devices: {devices}; commit of the code: {commit}"])
    epochs = f"{run.get('epochs', t.epochs):g}"
    epochs += " epoch" if epochs == "1" else " epochs"
    lines.append(f"- {epochs}, {run.get('steps', 'unknown')} updates; seed {config.seed}")
    numbers = f"betas {o.b1:g} and {o.b2:g}" if o.name == "adamw" else f"momentum {o.b1:g}"
    optimiser = "AdamW" if o.name == "adamw" else "LARS"
    if config.task == "linear_probe":
        lines.append("- The encoder is frozen: a linear head, trained after batch norm, which is part of its weights")
    lines.append(
        f"- {optimiser}, base learning rate {o.base_lr:g} per 256 images, {_plain(o.schedule)} schedule with "
        f"{o.warmup_epochs:g} epochs of warm-up, weight decay {o.weight_decay:g}, {numbers}, "
        f"layer decay {o.layer_decay:g}"
    )
    if t.blocks >= 0:
        last = f"the last {t.blocks} blocks, the last norm and " if t.blocks else ""
        lines.append(f"- Trained: {last}the head")
    if weights.kind == "mae":
        target = "pixels normalized within each patch" if config.mae.norm_pix_loss else "pixels"
        lines.append(f"- {100 * config.mae.mask_ratio:g} % of the patches removed; the loss is on {target}")
    else:
        chosen = "the best epoch by validation" if run.get("select", "last") != "last" else "the last epoch"
        lines.append(
            f"- Drop path {config.model.drop_path:g}, label smoothing {t.label_smoothing:g}, mixup {t.mixup:g}, CutMix "
            f"{t.cutmix:g}; {chosen} is used"
        )
    lines.append(f"- {_augmentation(config.data)}")
    devices, commit = (_plain(run.get(key) or "not known") for key in ("devices", "commit"))
    lines.append(f"- Devices: {devices}; commit of the code: {commit}")
    return "## Recipe\n\n" + "\n".join(lines)


def _start(config: RunConfig) -> str:
    """What training began with: the encoder, what it was trained on and its license, where these are known."""
    what = _INITS.get(config.init, _plain(config.init))
    if not config.init_from:
        return what
    place = Path(config.init_from)
    license_of = "its license is not known"
    if config.init == "weights":
        found = _license(place if place.is_dir() else place.parent)
        license_of = f"license {_plain(found)}" if found else license_of
    else:
        before = contents.read_object(place / contents.RUN) if (place / contents.RUN).is_file() else {}
        source = before.get("data_name")
        license_of = f"trained by mae_jax on {_plain(source)}" if source else "what it was trained on is not known"
    return f"{what}, {_plain(place.name)} ({license_of})"


def _license(folder: Path) -> str:
    """The license that the files beside an encoder name; "" where none does."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:5000]
        if found := re.search(r"^license(?:_name)?: *[\"']?([\w.+ -]{1,60})", text, re.MULTILINE):
            return found[1].strip()
    except OSError:
        pass
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named = about.get("license") or about.get("pretrained_cfg", {}).get("license")
        return named[:60] if isinstance(named, str) else ""
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def _augmentation(d: DataFields) -> str:
    said = [f"Crops of {d.crop_scale[0]:g} to {d.crop_scale[1]:g} of the image's area"]
    if d.flips:
        said.append("mirrored both ways")
    if d.randaugment:
        kinds = "color and geometry" if d.randaugment_colour else "geometry alone"
        said.append(f"RandAugment of magnitude {d.randaugment:g} ({kinds})")
    if d.random_erasing:
        said.append(f"random erasing in {percent(d.random_erasing)} of the images")
    return ", ".join(said)


def _classifier_results(run_dir: Path, weights: Weights, run: dict[str, Any], results: dict[str, Any]) -> str:
    parts = [_scores(run_dir / contents.PREDICTIONS, weights.classes, "test images that took no part in any choice")]
    rows = ["| class | test images | precision | recall | F1 |", "|---|---|---|---|---|"]
    for name, row in results["per_class"].items():
        rows.append(f"| {_plain(name)} | {row['n']} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} |")
    parts.append("\n".join(rows))
    for name in results.get("external") or {}:
        file = run_dir / contents.EXTERNAL / name / contents.PREDICTIONS
        parts.append(_scores(file, weights.classes, f"images of the further test set {_plain(name)}"))
    warnings = [f"**Beware:** {_plain(line)}" for line in leak_lines([run])]
    return "\n\n".join(["## Results", *warnings, *parts])


def _scores(file: Path, classes: tuple[str, ...], what: str) -> str:
    """The table of one test set, with intervals over its images, or groups of images where they are known."""
    found, _ = read_predictions(file, classes)
    n = len(classes)
    terms = stats.image_terms(found.labels, found.predictions, found.confidence, found.probabilities, n)
    grouped = found.groups is not None and any(found.groups)
    grouped = grouped and len(set(found.groups)) > 1  # one group alone cannot be redrawn
    names = [g or image for g, image in zip(found.groups, found.images, strict=True)] if grouped else found.images
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
        f"On {len(found.images)} {what}. Intervals: {stats.DRAWS} bootstrap draws of {unit}; they do not cover "
        f"another seed or another laboratory.\n\n" + "\n".join(rows)
    )


def _autoencoder_results(results: dict[str, Any]) -> str:
    rows = [
        f"| {words} | {results[name]:.4f} |"
        for name, words in (("val/loss", "removed patches"), ("val/visible_loss", "visible patches"))
        if name in results
    ]
    if not rows:
        return "## Results\n\nNo images were held out: nothing was measured."
    said = "Mean squared error on held-out images, in the space of the loss."
    return f"## Results\n\n{said}\n\n| on | error |\n|---|---|\n" + "\n".join(rows)


def _limits(weights: Weights, results: dict[str, Any], notes: list[str]) -> str:
    lines = [
        "This model is for research. It is no medical device and must not be used for a diagnosis.",
        "It was trained on images of certain scanners, stains and laboratories; test it before you use it on others.",
    ]
    if weights.kind == "vit":
        lines.append(
            "It assigns one of its classes to any image, also one of another kind, maybe with high confidence."
        )
        if results.get("collapsed"):
            lines.append("**It predicts one class for every test image: it has learned nothing that can be used.**")
    else:
        lines.append("It does not classify. It gives features, and reconstructions that are not images of the tissue.")
    lines += [f"{note[0].upper()}{note[1:]}." for note in notes]
    return "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in lines)
