import csv
import dataclasses
import json
import math
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from mae_jax import models
from mae_jax.__main__ import dispatch
from mae_jax.data import splits
from mae_jax.data.transforms import CenterResize, Decode
from mae_jax.models.params import map_paths
from mae_jax.models.vit import ViTConfig
from mae_jax.predict import exporting
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.step import from_config
from mae_jax.train import loop
from mae_jax.weights import export, reader
from mae_jax.weights.model_card import model_card
from mae_jax.weights.writer import hugging_face_class, write

apply = jax.jit(models.apply, static_argnums=(0, 1))
SMALL = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
BASE = ViTConfig(16, 8, 16, 2, 2, n_classes=3, **SMALL)
SIZES = {
    "image_size": 24, "patch_size": 4, "width": 32, "depth": 1, "heads": 4, "mlp_ratio": 2.0, "n_classes": 2,
    "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 4,
}  # fmt: skip
KINDS = {"pool": "mean", "positions": "learned", "norm_eps": 1e-12, "registers": 3, "layer_scale": 1e-5}
KINDS |= {"mlp": "swiglu", "pre_norm": True}
OWN_ONLY = {"pre_norm"}  # has no class in timm and transformers that these folders are for
# Fields of how a run initializes and computes, not of the network itself; batch norm is folded into the head.
RUN_ONLY = {"head_std", "drop_path", "dropout", "frozen_blocks", "batch_norm", "dtype", "attention", "remat"}


def drawn(shape, kind):
    rng = np.random.default_rng(0)
    like = jax.eval_shape(partial(models.init, kind, shape), jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(0, 1, leaf.shape).astype(np.float32), like)


def differing(one, two):
    """Names of the fields that differ. For layer scale, only its presence counts."""
    one, two = (dataclasses.replace(shape, layer_scale=bool(shape.layer_scale)) for shape in (one, two))
    return {f.name for f in dataclasses.fields(ViTConfig) if getattr(one, f.name) != getattr(two, f.name)}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["hf", "timm", "own"])
@pytest.mark.parametrize("kind", ["mae", "vit"])
def test_every_field_of_a_shape_survives_or_is_refused(tmp_path, form, kind):
    """A field added later must be listed in SIZES, KINDS or RUN_ONLY. Other families: tests/models/test_resnet.py."""
    assert {f.name for f in dataclasses.fields(ViTConfig)} == set(SIZES) | set(KINDS) | RUN_ONLY | {"family", "norm"}
    refused, lost = set(), set()
    for name, fields in {"sizes": SIZES, **{name: {name: value} for name, value in KINDS.items()}}.items():
        shape = dataclasses.replace(BASE, **fields)
        if kind == "mae":
            shape = dataclasses.replace(shape, n_classes=0, pool="cls")
        else:
            shape = dataclasses.replace(shape, decoder_width=0, decoder_depth=0, decoder_heads=0)
        params = drawn(shape, kind)
        folder = tmp_path / name
        folder.mkdir()
        classes = ("a", "b", "c")[: shape.n_classes]
        try:
            notes = write(reader.Weights(params, shape, kind, "a run", classes=classes), folder, form)
        except UserError:
            refused.add(name)
            continue
        back = reader.read(folder)
        lost |= differing(back.shape, shape)
        assert notes or not differing(back.shape, shape)
        if form == "hf" and shape.pool == "mean":  # BEiT's keys have no bias, which does not affect the outputs
            for i in range(shape.depth):
                bias = params["encoder"][f"block_{i:02d}"]["attn"]["qkv"]["bias"]
                bias[shape.width : 2 * shape.width] = 0
        jax.tree.map(np.testing.assert_array_equal, back.params["encoder"], params["encoder"])
        assert back.classes == (classes if kind == "vit" else ())
    assert refused == (set() if form == "own" else OWN_ONLY)
    decoder = {"decoder_width", "decoder_depth", "decoder_heads"} if kind == "mae" else set()
    assert lost == {"timm": decoder | {"norm_eps"}, "hf": decoder, "own": set()}[form]


def pixels(run_dir, config):
    """The run's test images (n h w 3), preprocessed as for its predictions, and their names."""
    data = splits.labeled(config.data, None, None)
    shape = from_config.shape_of(config)
    prepare = [Decode(), CenterResize(shape.image_size)]
    images = []
    for index in range(len(data.test)):
        element = data.test[index]
        for transform in prepare:
            element = transform(element)
        images.append(element["image"])
    return np.stack(images), [data.test.read(i) for i in range(len(data.test))], data.test.names


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, tiny_config):
    run_dir = tmp_path_factory.mktemp("classifier") / "run"
    config = tiny_config(**{"train.steps": 3, "data.mean": (0.5, 0.4, 0.3), "data.std": (0.2, 0.2, 0.3)})
    loop.run(config, run_dir)
    return run_dir, config


def rows_of(path):
    with path.open() as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def test_other_code_preprocesses_images_as_evaluation_does(tmp_path):
    """Pixels prepared as timm and transformers read the folder: resize the shorter side, crop the center, normalize."""
    shape = dataclasses.replace(BASE, image_size=48, decoder_width=0, decoder_depth=0, decoder_heads=0)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    for form in ("hf", "timm"):
        (tmp_path / form).mkdir()
        weights = reader.Weights(drawn(shape, "vit"), shape, "vit", "a run", mean, std, ("a", "b", "c"))
        write(weights, tmp_path / form, form)
    timm = json.loads((tmp_path / "timm" / "config.json").read_text())["pretrained_cfg"]
    hf = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    assert (timm["interpolation"], timm["crop_mode"], hf["resample"]) == ("bicubic", "center", Image.Resampling.BICUBIC)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))
    ours = CenterResize(48)({"image": np.asarray(image)})["image"]
    sides = {"timm": math.floor(timm["input_size"][1] / timm["crop_pct"]), "hf": hf["size"]["shortest_edge"]}
    crops = {"timm": timm["input_size"][1:], "hf": [hf["crop_size"][name] for name in ("height", "width")]}
    for form, side in sides.items():
        resized = image.resize((side, side * 90 // 70), Image.Resampling.BICUBIC)
        upper, left = ((have - wanted) // 2 for have, wanted in zip(resized.size[::-1], crops[form], strict=True))
        theirs = np.asarray(resized)[upper : upper + crops[form][0], left : left + crops[form][1]]
        np.testing.assert_array_equal(theirs, ours, form)
    assert (timm["mean"], timm["std"]) == (hf["image_mean"], hf["image_std"]) == (list(mean), list(std))
    assert hf["rescale_factor"] == 1 / 255 and all(hf[f"do_{name}"] for name in ("rescale", "normalize", "center_crop"))


@pytest.mark.slow
def test_a_classifier_is_exported_with_labels_normalization_and_card(classifier, tmp_path, monkeypatch):
    run_dir, config = classifier
    notes = exporting.export(run_dir, tmp_path / "hf", "hf")
    assert notes == []
    back = reader.read(tmp_path / "hf")
    assert back.classes == tuple(contents.read_json(run_dir / contents.RUN)["classes"]) and back.notes == ()
    assert (back.mean, back.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
    images, _, names = pixels(run_dir, config)
    x = (jnp.asarray(images, jnp.float32) / 255 - jnp.array(back.mean)) / jnp.array(back.std)
    logits = apply("vit", back.shape, back.params, x)
    rows = rows_of(run_dir / contents.PREDICTIONS)
    probabilities = np.asarray(jax.nn.softmax(logits))
    for name, p in zip(names, probabilities, strict=True):
        np.testing.assert_allclose(p, [float(rows[name][f"p_{c}"]) for c in back.classes], rtol=1e-4)

    card = (tmp_path / "hf/README.md").read_text()
    results = contents.read_json(run_dir / contents.RESULTS)
    assert f"| accuracy | {results['accuracy']:.3f} | " in card and "95 % interval" in card
    for message in ("## Data", "generated images", "## Recipe", "random weights", "3 updates", "not a medical device"):
        assert message in card, message
    assert "mixup 0, CutMix 0" in card and "RandAugment" not in card and "erasing" not in card
    info = contents.read_json(run_dir / contents.RUN)
    with monkeypatch.context() as patch:  # a run on `label_count` images has the share in run.json alone
        patch.setattr(
            contents, "read_object", lambda path: info | {"fraction": 0.25} if path.name == "run.json" else results
        )
        assert "with labels (25 % of the training set)" in model_card(run_dir, back, config, "hf", [])
    config.data.update(randaugment=9.0, randaugment_colour=False, random_erasing=0.25)
    config.train.update(mixup=0.8, cutmix=1.0)
    card = model_card(run_dir, export.load(run_dir)[0], config, "hf", [])
    for message in (
        "mixup 0.8, CutMix 1",
        "RandAugment of magnitude 9 (geometric transforms only)",
        "erasing in 25 % of the images",
    ):
        assert message in card, message
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: image-classification\n")
    assert str(run_dir.parent) not in card

    with pytest.raises(UserError, match="OUT=.* exists and is not empty"):
        exporting.export(run_dir, tmp_path / "hf", "hf")
    assert not list(tmp_path.glob("*.partial"))


def test_the_best_epochs_network_is_exported_if_it_made_the_predictions(classifier, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(classifier[0], run_dir)
    run = contents.read_json(run_dir / contents.RUN)
    contents.write_json(run_dir / contents.RUN, run | {"select": "best", "selected_step": 1, "steps": 3})
    with pytest.raises(UserError, match=r"best/1.npz, the network that made predictions.csv, is missing"):
        export.load(run_dir)
    flat = {}
    map_paths(lambda path, leaf: flat.update({path: np.asarray(leaf) + 1}), export.load(classifier[0])[0].params)
    (run_dir / "best").mkdir(exist_ok=True)
    np.savez(run_dir / "best/1.npz", **flat)
    result = export.load(run_dir)[0]
    assert result.origin.endswith("(step 1)")
    np.testing.assert_array_equal(result.params["head"]["kernel"], flat["head/kernel"])


def test_a_card_escapes_names_and_an_unfinished_run_is_refused(classifier, tmp_path):
    weights, config = export.load(classifier[0])
    run_dir = tmp_path / "run"
    shutil.copytree(classifier[0], run_dir)
    hostile = dataclasses.replace(weights, classes=("<script>alert(1)</script>", "a|b", "[x](y)", "d", "e"))
    text = (run_dir / contents.PREDICTIONS).read_text()
    for old, new in zip(weights.classes, hostile.classes, strict=True):
        text = text.replace(old, new)
    (run_dir / contents.PREDICTIONS).write_text(text)
    results = contents.read_json(run_dir / contents.RESULTS)
    (run_dir / "external" / "Elsewhere").mkdir(parents=True)
    (run_dir / "external" / "Elsewhere" / contents.PREDICTIONS).write_text(text)
    results["external"] = {"Elsewhere": {}}
    run = contents.read_json(run_dir / contents.RUN)
    contents.write_json(run_dir / contents.RUN, run | {"leaks": {"TestA": {"identical": 3}}})
    results["per_class"] = dict(zip(hostile.classes, results["per_class"].values(), strict=True))
    contents.write_json(run_dir / contents.RESULTS, results)
    card = model_card(run_dir, hostile, config, "hf", [])
    assert "external test set Elsewhere" in card and card.count("| accuracy |") == 2
    assert "**Warning:** Test images of TestA that may be known from training: 3 byte for byte" in card
    assert "alert(1)" in card and "<script" not in card and "a|b" not in card and "[x](" not in card
    (run_dir / contents.RESULTS).unlink()
    with pytest.raises(UserError, match="is not finished"):
        exporting.export(run_dir, tmp_path / "other", "hf")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("task", ["finetune", "linear_probe", "lbfgs"])
def test_transformers_give_the_predictions_of_the_run(classifier, tiny_config, tmp_path, task):
    torch = pytest.importorskip("torch", reason="needs the extra [peers]")
    transformers = pytest.importorskip("transformers", reason="needs the extra [peers]")
    from PIL import Image

    run_dir, config = classifier
    if task != "finetune":
        fields = {"train.steps": 40, "optim.base_lr": 20.0} if task == "linear_probe" else {}
        run_dir, config = tmp_path / "run", tiny_config(task, **fields)
        loop.run(config, run_dir)
    exporting.export(run_dir, tmp_path / "hf", "hf")
    weights, _ = exporting.network_of(run_dir)
    images, originals, names = pixels(run_dir, config)
    x = (images.astype(np.float32) / 255 - np.array(config.data.mean)) / np.array(config.data.std)
    ours = jax.jit(models.apply, static_argnums=(0, 1))(
        "vit", weights.shape, weights.params, jnp.asarray(x, jnp.float32)
    )
    network, info = transformers.ViTForImageClassification.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    prepared = processor([Image.fromarray(image) for image in originals], return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(prepared.permute(0, 2, 3, 1).numpy(), x, atol=1e-5)
    for shape in ((53, 36, 3), (47, 61, 3)):  # as evaluation prepares images that are not square
        oblong = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        there = processor(Image.fromarray(oblong), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        here = CenterResize(config.model.image_size)({"image": oblong})["image"]
        here = (here.astype(np.float32) / 255 - np.array(config.data.mean)) / np.array(config.data.std)
        np.testing.assert_allclose(there, here, atol=1e-5)
    with torch.no_grad():
        theirs = network.eval()(prepared).logits.numpy()
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)
    rows = rows_of(run_dir / contents.PREDICTIONS)
    assert [network.config.id2label[i] for i in theirs.argmax(1)] == [rows[name]["prediction"] for name in names]
    expected = [
        [float(rows[name][f"p_{network.config.id2label[i]}"]) for i in range(theirs.shape[1])] for name in names
    ]
    np.testing.assert_allclose(jax.nn.softmax(theirs), expected, atol=1e-5)


@pytest.mark.slow
def test_a_linear_probe_is_exported_with_its_batch_norm_folded_into_the_head(tmp_path, tiny_config):
    config = tiny_config("linear_probe", **{"train.steps": 40, "optim.base_lr": 20.0, "train.select": "best"})
    loop.run(config, tmp_path / "run")
    exporting.export(tmp_path / "run", tmp_path / "hf", "hf")
    back = reader.read(tmp_path / "hf")
    images, _, names = pixels(tmp_path / "run", config)
    x = (images.astype(np.float32) / 255 - np.array(back.mean)) / np.array(back.std)
    logits = apply("vit", back.shape, back.params, jnp.asarray(x, jnp.float32))
    rows = rows_of(tmp_path / "run" / contents.PREDICTIONS)
    expected = [[float(rows[name][f"p_{c}"]) for c in back.classes] for name in names]
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-2  # the images differ
    card = (tmp_path / "hf/README.md").read_text()
    assert "The encoder is frozen" in card and "LARS" in card and "momentum 0.9" in card


@pytest.mark.filterwarnings("default")
def test_an_autoencoder_is_exported_with_its_decoder(tmp_path, tiny_config, capsys):
    config = tiny_config("pretrain", **{"train.steps": 1})
    loop.run(config, tmp_path / "run")
    exporting.export(tmp_path / "run", tmp_path / "hf", "hf")
    weights, _ = export.load(tmp_path / "run")
    back = reader.read(tmp_path / "hf")
    assert back.kind == "mae" and back.shape == dataclasses.replace(weights.shape, drop_path=0.0)
    jax.tree.map(np.testing.assert_array_equal, back.params, weights.params)
    about = json.loads((tmp_path / "hf/config.json").read_text())
    assert (about["mask_ratio"], about["norm_pix_loss"]) == (0.75, True)
    card = (tmp_path / "hf/README.md").read_text()
    assert "75 % of the patches removed" in card and "| removed patches |" in card

    assert dispatch(["convert", "import", str(tmp_path / "hf"), str(tmp_path / "own")]) == 0
    printed = capsys.readouterr().out
    assert "all accounted for" in printed and f"written: {tmp_path / 'own'}" in printed
    with pytest.raises(UserError, match="is not the config of a run"):
        dispatch(["convert", "export", str(tmp_path / "hf"), str(tmp_path / "x"), "--format", "hf"])
    assert not (tmp_path / "x").exists()
    from_safetensors = reader.read(tmp_path / "own")
    assert from_safetensors.shape == back.shape and (from_safetensors.mean, from_safetensors.std) == (
        back.mean,
        back.std,
    )
    jax.tree.map(np.testing.assert_array_equal, from_safetensors.params, back.params)
    transformers = pytest.importorskip("transformers", reason="needs the extra [peers]")
    _, info = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_what_transformers_cannot_compute_is_refused_with_an_alternative(tmp_path):
    shape = dataclasses.replace(BASE, pool="mean", registers=2)
    weights = reader.Weights(drawn(shape, "vit"), shape, "vit", "runs/x")
    with pytest.raises(
        UserError, match="no ViT with registers and pool=mean, as runs/x has; use --format timm or onnx"
    ):
        write(weights, tmp_path, "hf")
    write(weights, tmp_path, "timm")
    assert load_file(tmp_path / "model.safetensors")["pos_embed"].shape == (1, 4, 16)
    shape = dataclasses.replace(BASE, layer_scale=0.1, mlp_ratio=2.5)
    weights = reader.Weights(drawn(shape, "vit"), shape, "vit", "runs/x")
    with pytest.raises(UserError, match=r"takes a whole number for model.mlp_ratio, which is 2.5 in runs/x"):
        write(weights, tmp_path, "hf")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"layer_scale": 0.1}, "Dinov2ForImageClassification"),
        ({"registers": 3}, "Dinov2WithRegistersForImageClassification"),
        ({"registers": 3, "layer_scale": 0.1, "norm_eps": 1e-5}, "Dinov2WithRegistersForImageClassification"),
        ({"pool": "mean"}, "BeitForImageClassification"),
        ({"pool": "mean", "layer_scale": 0.1, "positions": "learned"}, "BeitForImageClassification"),
    ],
)
def test_transformers_classes_compute_registers_layer_scale_and_mean_pooling(tmp_path, fields, name):
    torch = pytest.importorskip("torch", reason="needs the extra [peers]")
    transformers = pytest.importorskip("transformers", reason="needs the extra [peers]")
    shape = dataclasses.replace(BASE, decoder_width=0, decoder_depth=0, decoder_heads=0, **fields)
    weights = reader.Weights(drawn(shape, "vit"), shape, "vit", "runs/x", classes=("a", "b", "c"))
    assert write(weights, tmp_path, "hf") == []
    assert hugging_face_class(weights)[1] == name
    network, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x = np.random.default_rng(1).normal(0, 1, (4, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = network.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).logits.numpy()
    np.testing.assert_allclose(theirs, apply("vit", shape, weights.params, x), rtol=1e-4, atol=1e-5)
    assert [network.config.id2label[i] for i in range(3)] == ["a", "b", "c"]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("fields", "name"), [({"registers": 2}, "Dinov2WithRegistersModel"), ({}, "Dinov2Model")])
def test_transformers_compute_the_encoder_of_an_autoencoder_with_layer_scale(tmp_path, fields, name):
    torch = pytest.importorskip("torch", reason="needs the extra [peers]")
    transformers = pytest.importorskip("transformers", reason="needs the extra [peers]")
    shape = dataclasses.replace(BASE, layer_scale=0.1, n_classes=0, **fields)
    weights = reader.Weights(drawn(shape, "mae"), shape, "mae", "runs/x")
    assert write(weights, tmp_path, "hf") == [
        "only the encoder is written, because transformers' ViTMAE has no registers or layer scale"
    ]
    network, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x = np.random.default_rng(1).normal(0, 1, (2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        tokens = network.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).last_hidden_state.numpy()
    tokens = np.delete(tokens, range(1, 1 + shape.registers), axis=1)
    np.testing.assert_allclose(tokens, apply("encoder", shape, weights.params["encoder"], x), rtol=1e-4, atol=1e-5)
