"""Times the image loader on one core, with --peers also PyTorch's DataLoader, and measures its memory.

    python tools/benchmark.py loader [--peers] [--rounds 9] [--memory 1000 100000]

The images are synthetic tissue of 500 x 500 pixels, as JPEGs of 60 to 85 kB like tiles of real slides. There are three
kinds. `prepared` is what mae-jax prepare writes for pRCC's regions: restart markers, quality 92, and chroma at half
resolution like the source files (4:2:0). `slides` is what it writes for whole slides: the same with full chroma
(4:4:4). `plain` is what Pillow saves with quality 95: 4:2:0 without markers. Both sides read the same bytes from files,
but ours reads the first kind from the prepared data set (ArrayRecord).

Each side is a separate process. All run on the same core and take turns, so other load on the machine affects both.
They make batches of 64 in the caller's thread, without worker processes, threads or prefetching. Our batches are uint8
224 x 224 x 3, which the training step normalizes. The peer is `torch.utils.data.DataLoader` over a data set that opens
files with Pillow and applies the equivalents of torchvision's RandomResizedCrop, ToTensor and Normalize (torchvision
cannot be installed next to the PyTorch that the peers need). Crops cover 0.2 to 1 of the area. Both sides resize
bicubically, as in MAE's recipe. `bilinear` is the peer with torchvision's default interpolation, which is less work.

`images_per_s` comes from the median wall time of a turn, and `ratio` is our rate over the peer's. `cpu_ms` and
`cpu_ratio` use the processes' CPU seconds, which other load affects less. `memory` is the resident memory of a process
with the default threads that reads every tile of a prepared data set, for data sets of several sizes. It is the median
over the second half of the batches.
"""

import argparse
import contextlib
import dataclasses
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
from typing import cast

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SIZE, BATCH, TURN = 224, 64, 6  # side of an image in pixels, images per batch, batches per turn
TILE, REGIONS = 500, 4  # side of a tile in pixels, number of regions of 16 tiles
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINDS = ("prepared", "slides", "plain")
SIDES = ("ours", "peer", "bilinear")
SETTLED = 10_000  # minimum number of images to read when memory is measured
SPARE = 30  # JPEG quality of tiles when memory is measured: 100,000 tiles take a gigabyte


def jpeg_of(pixels: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def draw(folder: Path) -> None:
    """Writes regions like those of the published pRCC data set, and the tiles of each kind."""
    from mae_jax.data import jpeg, synthetic
    from mae_jax.datasets import prepare

    for name in ("regions", *KINDS):
        (folder / name).mkdir()
    tiles = []
    for n in range(REGIONS):
        tiles += [synthetic.draw_tissue(np.random.default_rng((n, i)), TILE) for i in range(16)]
        region = np.concatenate([np.concatenate(tiles[i : i + 4], 1) for i in range(16 * n, 16 * n + 16, 4)])
        (folder / "regions" / f"{n}_0_2000.jpg").write_bytes(jpeg_of(region, 95))
    prepare.prepare("prcc", folder / "regions", folder, say=lambda line: None)
    source = prepared_source(folder)
    for i, tile in enumerate(tiles):
        encoded = source.read(i), jpeg.encode(tile), jpeg_of(tile, 95)
        for kind, data in zip(KINDS, encoded, strict=True):
            (folder / kind / f"{i:03}.jpg").write_bytes(cast(bytes, data))


def prepared_source(folder: Path):
    from mae_jax.data import prepared

    return prepared.unlabeled("prcc", folder)


def ours(folder: Path, kind: str) -> Callable[[int], None]:
    """A function that makes a number of batches."""
    from mae_jax.data import loaders, sources
    from mae_jax.data.transforms import Decode, RandomResizedCrop

    source = prepared_source(folder) if kind == "prepared" else sources.unlabeled_folder(folder / kind)
    steps, began = (Decode(), RandomResizedCrop(SIZE, (0.2, 1.0))), [0]

    def run(batches: int) -> None:
        stream = loaders.train_batches([source], None, steps, batch_size=BATCH, seed=0, start=began[0], threads=0)
        for _ in range(batches):
            next(stream)
        began[0] += batches

    return run


def peer(folder: Path, kind: str, resample: Image.Resampling) -> Callable[[int], None]:
    """Like `ours`, for PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]

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
    """The process of one side. For each line of input, it runs a turn and prints a line of JSON."""
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


def many(folder: Path, n: int) -> None:
    """Writes a prepared data set of `n` tiles that repeats 16 pictures under different names."""
    import tensorflow_datasets as tfds

    from mae_jax.data import prepared, synthetic
    from mae_jax.datasets.prcc import prcc_dataset_builder

    drawn = [synthetic.draw_tissue(np.random.default_rng(i), TILE) for i in range(16)]
    pictures = [jpeg_of(tile, SPARE) for tile in drawn]

    def name(i: int) -> str:
        return f"region_{i // 16:06}/x{i % 4 * TILE:05}_y{i % 16 // 4 * TILE:05}.jpg"

    def examples():
        for i in range(n):
            yield name(i), {"image": pictures[i % 16], "name": name(i), "group": name(i)[:13], "x": 0, "y": 0}

    tfds.disable_progress_bar()
    builder = prcc_dataset_builder.Builder(data_dir=folder, config="tile500")
    builder._split_generators = lambda dl_manager: {"train": examples()}
    with contextlib.redirect_stdout(None):
        builder.download_and_prepare()
    records = prepared.open_split("prcc", "train", folder)
    order = sorted(range(n), key=(names := [records[i]["name"].decode() for i in range(n)]).__getitem__)
    known = prepared.make_index({"image": p, "name": name(i).encode(), "group": b""} for i, p in enumerate(pictures))
    places = {each[14:]: k for k, each in enumerate(known.names)}  # every region repeats the 16 pictures
    picture = np.asarray([places[names[i][14:]] for i in order])
    dataclasses.replace(
        known,
        record=np.asarray(order),
        names=[names[i] for i in order],
        groups=[names[i][:13] for i in order],
        label=known.label[picture],
        digest=known.digest[picture],
        look=known.look[picture],
    ).save(prepared.index_path(Path(builder.data_dir), "train"))


def resident(folder: Path, n: int) -> None:
    """The process whose memory is measured. It reads every tile, at least SETTLED, and prints its resident bytes."""
    from mae_jax.data import loaders
    from mae_jax.data.transforms import Decode, RandomResizedCrop

    stream = loaders.train_batches(
        [prepared_source(folder)], None, (Decode(), RandomResizedCrop(SIZE)), batch_size=BATCH, seed=0
    )
    pages = []
    for _ in range(-(-max(n, SETTLED) // BATCH)):
        next(stream)
        pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
    held = statistics.median(pages[len(pages) // 2 :]) * os.sysconf("SC_PAGE_SIZE")
    print(json.dumps({"bytes": held}), flush=True)
    stream.close()


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def line(process: subprocess.Popen) -> dict:
    assert process.stdout is not None
    text = process.stdout.readline()
    if not text:
        raise SystemExit("error: a process of the benchmark exited; see its message above")
    return json.loads(text)


def compare(folder: Path, kind: str, sides: tuple[str, ...], rounds: int) -> dict[str, float]:
    """Images per second, CPU time per image in milliseconds, and their ratios."""
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else -1
    processes = {side: start("--worker", side, str(folder), kind, str(core)) for side in sides}
    try:
        for process in processes.values():
            line(process)
        turns = {side: [] for side in sides}
        for _ in range(rounds):
            for side, process in processes.items():
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
                turns[side].append(line(process))
    finally:
        for process in processes.values():
            assert process.stdin is not None
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


def memory(folder: Path, sizes: list[int]) -> dict[str, float]:
    """MiB of the loader's process for data sets of these sizes, and the relative growth from the first to the last."""
    out = {}
    for n in sizes:
        (folder / str(n)).mkdir()
        many(folder / str(n), n)
        process = start("--resident", str(folder / str(n)), str(n))
        out[str(n)] = line(process)["bytes"] / 2**20
        process.communicate()
    return out | {"growth": out[str(sizes[-1])] / out[str(sizes[0])] - 1}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmark.py loader", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peers", action="store_true", help="also time PyTorch's DataLoader (needs the extra [peers])")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side after the warm-up (default 9)")
    parser.add_argument(
        "--memory", type=int, nargs="*", default=[1000, 100_000], help="sizes of data sets; no size: not measured"
    )
    parser.add_argument("--kind", nargs="*", choices=KINDS, default=KINDS, help="kinds of tiles (default: all)")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--resident", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        side, folder, kind, core = arguments.worker
        return work(side, Path(folder), kind, int(core))
    if arguments.resident:
        return resident(Path(arguments.resident[0]), int(arguments.resident[1]))
    results = {}
    with tempfile.TemporaryDirectory(prefix="mae_jax-loader-") as folder:
        if arguments.kind:
            draw(Path(folder))
        for kind in arguments.kind:
            sides = SIDES if arguments.peers else SIDES[:1]
            results[kind] = compare(Path(folder), kind, sides, arguments.rounds)
            print(kind, *(f"{k} {v:.4g}" for k, v in results[kind].items()), sep="  ", flush=True)
        if arguments.memory:
            results["memory"] = memory(Path(folder), arguments.memory)
            print("memory", *(f"{k} {v:.4g}" for k, v in results["memory"].items()), sep="  ", flush=True)
    print(json.dumps(results.pop("prepared", {}) | results))


if __name__ == "__main__":
    main()
