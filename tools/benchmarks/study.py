"""Times the demo's study, from start to table, and with --peers the same work as a plain PyTorch script.

    python tools/benchmark.py study [--peers] [--rounds 2] [--smoke] [--peer_python FILE]

Both sides read the same JPEG files: generated cells of 96 px in class folders, 2,500 of them unlabeled. Both pre-train
a masked autoencoder, then fine-tune classifiers from scratch and from it on 1, 10, 50 and 100 % of the labels, with the
same networks, batches, epochs, optimizer, schedule and augmentation. Both test all models on the same images, and write
a table and a figure.

Ours is `python -m mae_jax.main` as a user starts it, without its frozen encoders, which the other side has not. It also
searches for leaks, saves checkpoints, writes predictions, and computes intervals; all of that counts. The peer is
written as people write such scripts: transformers' ViTMAEForPreTraining and ViTForImageClassification, fused AdamW, a
DataLoader with two worker processes, Pillow, validation after each epoch, and a model saved at the end. (torchvision
cannot be installed next to the PyTorch that the peers need, so its RandomResizedCrop is written out.)

The sides take turns. `ratio` is our best wall time over the peer's best. Ours starts from an empty compilation cache
(`first`) and again with what that left (`again`). The last line is a JSON object.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SIZE = 96  # pixels of a side of an image file
FRACTIONS = (0.01, 0.1, 0.5, 1.0)


def draw(folder: Path, config: Any) -> None:
    """Writes the demo's images as JPEG files into labeled/Train/<Class>, labeled/TestA/<Class> and unlabeled."""
    from mae_jax.data import synthetic

    data = config.finetune.data
    for number, (part, count) in enumerate((("Train", data.synthetic_train), ("TestA", data.synthetic_test))):
        labels = synthetic.draw_labels(np.random.default_rng(number), count)
        for i, label in enumerate(labels):
            place = folder / "labeled" / part / synthetic.CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            image = synthetic.draw_cell(np.random.default_rng((number, i)), int(label), SIZE)
            Image.fromarray(image).save(place / f"{i:05}.jpg", quality=95)
    (folder / "unlabeled").mkdir()
    count = config.pretrain.data.synthetic_unlabelled
    for i, label in enumerate(synthetic.draw_labels(np.random.default_rng(2), count)):
        image = synthetic.draw_cell(np.random.default_rng((2, i)), int(label), SIZE)
        Image.fromarray(image).save(folder / "unlabeled" / f"{i:05}.jpg", quality=95)


def ours(images: Path, workdir: Path, cache: Path, smoke: bool) -> None:
    """Runs the study as a user does."""
    command = [sys.executable, "-m", "mae_jax.main", f"--config=configs/demo.py:smoke={str(smoke).lower()}"]
    for part, folder in (("finetune", "labeled"), ("pretrain", "unlabeled")):
        command += [f"--config.{part}.data.source=folder", f"--config.{part}.data.dir={images / folder}"]
    command += ["--config.evaluations=('finetune',)", "--config.random_probe=False", f"--workdir={workdir}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(cache)}
    with open(f"{workdir}.log", "w") as log:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)


def sizes(config: Any) -> dict[str, Any]:
    """What the peer needs to know of the demo's config."""
    return {part: json.loads(config[part].to_json_best_effort()) for part in ("pretrain", "finetune")}


def peer(images: Path, out: Path, config: dict[str, Any]) -> None:
    """The study as a plain script of PyTorch and transformers."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]
    from matplotlib.figure import Figure

    torch.manual_seed(0)
    first, second = config["pretrain"], config["finetune"]

    def crop(width: int, height: int, scale: tuple[float, float]) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = width * height * torch.empty(1).uniform_(*scale).item()
            aspect = math.exp(torch.empty(1).uniform_(math.log(3 / 4), math.log(4 / 3)).item())
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, upper = (int(torch.randint(0, n + 1, (1,)).item()) for n in (width - w, height - h))
                return left, upper, left + w, upper + h
        return 0, 0, width, height

    class Images(torch.utils.data.Dataset):
        def __init__(self, samples: list[tuple[Path, int]], size: int, scale: tuple[float, float] | None):
            self.samples, self.size, self.scale = samples, size, scale

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, i: int):
            path, label = self.samples[i]
            image = Image.open(path).convert("RGB")
            if self.scale:
                image = image.crop(crop(*image.size, self.scale))
            image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
            if self.scale:
                for flip in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
                    image = image.transpose(flip) if torch.rand(1).item() < 0.5 else image
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255), label

    def batches(samples: list[tuple[Path, int]], part: dict[str, Any], train: bool):
        scale = tuple(part["data"]["crop_scale"]) if train else None
        images = Images(samples, part["model"]["image_size"], scale)
        size = part["train"]["batch_size"] if train else part["eval"]["batch_size"]
        return torch.utils.data.DataLoader(images, size, shuffle=train, num_workers=2)

    def shape(model: dict[str, Any]) -> dict[str, Any]:
        return dict(
            hidden_size=model["width"], num_hidden_layers=model["depth"], num_attention_heads=model["heads"],
            intermediate_size=4 * model["width"], image_size=model["image_size"], patch_size=model["patch_size"],
            layer_norm_eps=1e-6, attn_implementation="sdpa",
        )  # fmt: skip

    def train(model, samples, held, part: dict[str, Any], call) -> None:
        t, o = part["train"], part["optim"]
        loader, check = batches(samples, part, True), batches(held, part, False)
        steps = int(t["epochs"]) * len(loader)
        warm = int(o["warmup_epochs"]) * len(loader)
        rate = o["base_lr"] * t["batch_size"] / 256
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(o["b1"], o["b2"]), weight_decay=o["weight_decay"], fused=True
        )
        schedule = transformers.get_cosine_schedule_with_warmup(optimizer, warm, steps)
        for epoch in range(int(t["epochs"])):
            model.train()
            for pixels, labels in loader:
                optimizer.zero_grad(set_to_none=True)
                loss = call(model, pixels, labels)
                loss.backward()
                optimizer.step()
                schedule.step()
            model.eval()
            if (epoch + 1) % int(part["eval"]["every_epochs"]) == 0:
                with torch.no_grad():
                    losses = [call(model, pixels, labels).item() for pixels, labels in check]
                print(f"epoch {epoch + 1}: held-out loss {np.mean(losses):.4f}", flush=True)

    def split(samples: list, share: float) -> tuple[list, list]:
        order = torch.randperm(len(samples)).tolist()
        held = round(share * len(samples))
        return [samples[i] for i in order[held:]], [samples[i] for i in order[:held]]

    unlabeled = [(path, 0) for path in sorted((images / "unlabeled").glob("*.jpg"))]
    classes = sorted(path.name for path in (images / "labeled" / "Train").iterdir())
    labeled, test = (
        [(path, classes.index(path.parent.name)) for path in sorted((images / "labeled" / part).glob("*/*.jpg"))]
        for part in ("Train", "TestA")
    )
    m = first["model"]
    autoencoder = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            **shape(m), decoder_hidden_size=m["decoder_width"], decoder_num_hidden_layers=m["decoder_depth"],
            decoder_num_attention_heads=m["decoder_heads"], decoder_intermediate_size=4 * m["decoder_width"],
            mask_ratio=first["mae"]["mask_ratio"], norm_pix_loss=first["mae"]["norm_pix_loss"],
        )
    )  # fmt: skip
    train(autoencoder, *split(unlabeled, 0.1), first, lambda model, pixels, _: model(pixel_values=pixels).loss)
    autoencoder.save_pretrained(out / "mae")

    rows = []
    training, held = split(labeled, second["data"]["val_fraction"])
    for fraction in FRACTIONS:
        subset = []
        for label in range(len(classes)):
            of_class = [sample for sample in training if sample[1] == label]
            subset += of_class[: max(1, round(fraction * len(of_class)))]
        for start in ("scratch", "mae"):
            model = transformers.ViTForImageClassification(
                transformers.ViTConfig(**shape(second["model"]), num_labels=len(classes))
            )
            if start == "mae":
                model.vit.load_state_dict(autoencoder.vit.state_dict(), strict=False)
            train(model, subset, held, second, lambda model, pixels, y: model(pixel_values=pixels, labels=y).loss)
            with torch.no_grad():
                classes_of_batches = [model(pixel_values=p).logits.argmax(1) for p, _ in batches(test, second, False)]
            predicted, true = torch.cat(classes_of_batches).numpy(), np.array([label for _, label in test])
            f1 = []
            for k in range(len(classes)):
                both = ((predicted == k) & (true == k)).sum()
                f1.append(2 * both / max(1, (predicted == k).sum() + (true == k).sum()))
            row = {"fraction": fraction, "start": start, "accuracy": float((predicted == true).mean())}
            rows.append(row | {"f1": float(np.mean(f1))})
            model.save_pretrained(out / f"{start}-{fraction}")
    for row in rows:
        print(row)
    figure = Figure()
    axes = figure.subplots()
    for start in ("scratch", "mae"):
        axes.plot(FRACTIONS, [r["accuracy"] for r in rows if r["start"] == start], label=start)
    axes.legend()
    figure.savefig(out / "curve.png")


def theirs(folder: Path, python: str) -> None:
    """Runs the peer in a separate process."""
    with open(folder / "peer.log", "w") as log:
        command = [python, str(Path(__file__).resolve()), "--worker", str(folder)]
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)


def timed(call, *arguments) -> float:
    began = time.monotonic()
    call(*arguments)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmark.py study", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peers", action="store_true", help="also time the PyTorch script (needs the extra [peers])")
    parser.add_argument("--peer_python", default=sys.executable, help="another Python with PyTorch and transformers")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side (default 2)")
    parser.add_argument("--smoke", action="store_true", help="the demo's smoke size, to see that it works")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        peer(arguments.worker / "images", arguments.worker, json.loads((arguments.worker / "config.json").read_text()))
        return
    from mae_jax.config.loading import load

    config = load(ROOT / "configs" / "demo.py", f"smoke={str(arguments.smoke).lower()}")
    times: dict[str, list[float]] = {"first": [], "again": [], "peer": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "images").mkdir()
        draw(folder / "images", config)
        (folder / "config.json").write_text(json.dumps(sizes(config)))
        for turn in range(arguments.rounds):
            cache = folder / f"xla-{turn}"
            for name in ("first", "again"):
                workdir = folder / f"{name}-{turn}"
                times[name].append(timed(ours, folder / "images", workdir, cache, arguments.smoke))
                line = Path(f"{workdir}.log").read_text().strip().splitlines()[-1]
                print(f"{name}: {times[name][-1]:.0f} s; {line}", flush=True)
            if arguments.peers:
                times["peer"].append(timed(theirs, folder, arguments.peer_python))
                print(f"peer: {times['peer'][-1]:.0f} s", flush=True)
    best = {name: min(values) for name, values in times.items() if values}
    if arguments.peers:
        best |= {f"ratio_{name}": best[name] / best["peer"] for name in ("first", "again")}
    print(json.dumps(best))


if __name__ == "__main__":
    main()
