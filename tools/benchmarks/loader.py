"""Images per second and core of the loader, beside PyTorch's DataLoader, and the memory it takes.

    python tools/benchmark.py loader [--peers] [--rounds 9] [--memory 1000 100000]

Tissue of 500 x 500 pixels, drawn, as JPEGs of quality 95 with halved colours, about 80 kB like tiles of real slides.
`prepared` are the bytes that tools/prepare_data.py writes for prcc, with restart markers: ours reads them from the
prepared data set (ArrayRecord), the peer from files. `plain` are JPEGs as Pillow saves them: both read files.

Each side is a process of its own, all on the same core and in turns: what else the machine does falls on both. It
makes whole batches of 64 in the caller's thread: no worker processes, no threads, nothing read ahead. Ours are uint8 of
224 x 224 x 3, which the training step normalises. The peer is `torch.utils.data.DataLoader` over a data set that opens
a file with Pillow and does what torchvision's RandomResizedCrop, ToTensor and Normalize do, after its documentation
(torchvision cannot be installed beside the PyTorch that the peers need). Crops have 0.2-1 of the area. Both resize
bicubically, as MAE's recipe does; `bilinear` is the peer with torchvision's default instead.

`ratio` is ours over the peer's, from the median wall time of a turn; `cpu_ratio` the same from the processes' CPU
seconds, which other work on the machine shakes less. The memory is that of a process after it read each tile of a
prepared data set once, for data sets of two sizes.
"""

import argparse
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SIZE, BATCH, TURN = 224, 64, 6  # pixels of an image, images of a batch, batches of a turn
TILE, REGIONS = 500, 4  # pixels of a tile; regions that it takes, of 16 tiles each
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDES = ("ours", "peer", "bilinear")


def draw(folder: Path) -> None:
    """Regions as the published pRCC has them, from which prepared and plain tiles are made."""
    from mae_jax.data import synthetic
    from mae_jax.datasets import prepare

    (folder / "regions").mkdir()
    for n in range(REGIONS):
        tiles = [synthetic.draw_tissue(np.random.default_rng((n, i)), TILE) for i in range(16)]
        rows = [np.concatenate(tiles[i : i + 4], 1) for i in range(0, 16, 4)]
        Image.fromarray(np.concatenate(rows)).save(folder / "regions" / f"{n}_0_2000.png")
    prepare.prepare("prcc", folder / "regions", folder, say=lambda line: None)
    source = prepared_source(folder)
    for kind in ("prepared", "plain"):
        (folder / kind).mkdir()
        for i, name in enumerate(source.names):
            data = source.read(i)
            if kind == "plain":
                file = io.BytesIO()
                region, place = name.rsplit("/", 1)
                x, y = (int(part[1:]) for part in place.removesuffix(".jpg").split("_"))
                pixels = Image.open(folder / "regions" / f"{region}.png").crop((x, y, x + TILE, y + TILE))
                pixels.save(file, "JPEG", quality=95)
                data = file.getvalue()
            (folder / kind / f"{i:03}.jpg").write_bytes(data)


def prepared_source(folder: Path):
    from mae_jax.data import prepared

    return prepared.unlabelled("prcc", folder)


def ours(folder: Path, kind: str) -> Callable[[int], None]:
    """A function that makes so many batches."""
    from mae_jax.data import loaders, sources
    from mae_jax.data.transforms import Decode, RandomResizedCrop

    source = prepared_source(folder) if kind == "prepared" else sources.unlabelled_folder(folder / kind)
    steps, began = (Decode(), RandomResizedCrop(SIZE, (0.2, 1.0))), [0]

    def run(batches: int) -> None:
        stream = loaders.train_batches([source], None, steps, batch_size=BATCH, seed=0, start=began[0], threads=0)
        for _ in range(batches):
            next(stream)
        began[0] += batches

    return run


def peer(folder: Path, kind: str, resample: Image.Resampling) -> Callable[[int], None]:
    """The same for PyTorch."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    paths = sorted((folder / kind).glob("*.jpg"))
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def crop(width: int, height: int) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = width * height * torch.empty(1).uniform_(0.2, 1.0).item()
            aspect = math.exp(torch.empty(1).uniform_(math.log(3 / 4), math.log(4 / 3)).item())
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, upper = (torch.randint(0, n + 1, (1,)).item() for n in (width - w, height - h))
                return left, upper, left + w, upper + h
        return 0, 0, width, height

    class Tiles(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return TURN * BATCH

        def __getitem__(self, i: int):
            with open(paths[i % len(paths)], "rb") as file:
                image = Image.open(file).convert("RGB")
            image = image.crop(crop(*image.size)).resize((SIZE, SIZE), resample)
            values = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
            return values.clone().sub_(mean).div_(std), 0

    batches_of = torch.utils.data.DataLoader(Tiles(), BATCH, shuffle=True)

    def run(batches: int) -> None:
        stream = iter(batches_of)
        for _ in range(batches):
            next(stream)

    return run


def work(side: str, folder: Path, kind: str, core: int) -> None:
    """The process of one side: a line in, a turn, a line out."""
    if core >= 0:
        os.sched_setaffinity(0, {core})
    resample = {"peer": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    run = ours(folder, kind) if side == "ours" else peer(folder, kind, resample[side])
    run(TURN)
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run(TURN)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall": wall / TURN / BATCH, "cpu": cpu / TURN / BATCH}), flush=True)


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def line(process: subprocess.Popen) -> dict:
    text = process.stdout.readline()
    if not text:
        raise SystemExit("error: a process of the benchmark ended; its message is above")
    return json.loads(text)


def compare(folder: Path, kind: str, sides: tuple[str, ...], rounds: int) -> dict[str, float]:
    """Images per second, their ratios, and CPU time for an image in milliseconds."""
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else -1
    processes = {side: start("--worker", side, str(folder), kind, str(core)) for side in sides}
    try:
        for process in processes.values():
            line(process)
        turns = {side: [] for side in sides}
        for _ in range(rounds):
            for side, process in processes.items():
                process.stdin.write("go\n")
                process.stdin.flush()
                turns[side].append(line(process))
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()
    wall, cpu = ({s: statistics.median(t[k] for t in turns[s]) for s in sides} for k in ("wall", "cpu"))
    out = {"images_per_s": 1 / wall["ours"], "cpu_ms": 1e3 * cpu["ours"]}
    for side in sides[1:]:
        name = {"peer": "", "bilinear": "bilinear_"}[side]
        out |= {
            f"{name}peer_images_per_s": 1 / wall[side],
            f"{name}ratio": wall[side] / wall["ours"],
            f"{name}peer_cpu_ms": 1e3 * cpu[side],
            f"{name}cpu_ratio": cpu[side] / cpu["ours"],
        }
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmark.py loader", description=__doc__.split("\n")[0])
    parser.add_argument("--peers", action="store_true", help="measure PyTorch's DataLoader too (extra [peers])")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side, after the warm-up; 9")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        side, folder, kind, core = arguments.worker
        return work(side, Path(folder), kind, int(core))
    with tempfile.TemporaryDirectory(prefix="mae_jax-loader-") as folder:
        draw(Path(folder))
        results = {}
        for kind in ("prepared", "plain"):
            sides = SIDES if arguments.peers else SIDES[:1]
            results[kind] = compare(Path(folder), kind, sides, arguments.rounds)
            print(kind, *(f"{k} {v:.4g}" for k, v in results[kind].items()), sep="  ", flush=True)
    print(json.dumps(results["prepared"] | {"plain": results["plain"]}))


if __name__ == "__main__":
    main()
