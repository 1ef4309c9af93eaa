"""Check this machine: Python, JAX and its devices, package versions, memory, disk, caches and optional programs.

Each line is ok or says what to do. The exit code is 1 if something is broken, otherwise 0.
"""

import argparse
import contextlib
import dataclasses
import glob
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from mae_jax.runtime import tested
from mae_jax.runtime.command import say
from mae_jax.runtime.disk import exists, is_dir, is_file
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.hardware import available_memory, cache_directory, cores, nvidia_gpus
from mae_jax.runtime.parser import user_path
from mae_jax.runtime.places import local

SUMMARY = "check this machine: JAX and its devices, versions, memory, disk, optional programs"
OK, WARNING, BROKEN, OPTIONAL = "ok", "warning", "broken", "optional"
JAX_SECONDS = 180.0  # the first start of JAX on a busy machine can take a minute
LITTLE_MEMORY, LITTLE_DISK, LITTLE_SHARED = 2 * 2**30, 5 * 2**30, 2**30  # bytes
TRY = "mae-jax run --config=configs/demo.py:smoke"
PROBE = """
import json, sys
import jax, jax.numpy as jnp
devices = [{"platform": d.platform, "kind": d.device_kind, "bytes": (d.memory_stats() or {}).get("bytes_limit")}
           for d in jax.local_devices()]
total = float(jax.jit(lambda x: (x @ x).sum())(jnp.ones((64, 64))))
print("\\n" + json.dumps({"version": jax.__version__, "devices": devices, "correct": total == 64.0**3}))
"""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One result: what was checked, its state (OK, WARNING, BROKEN, OPTIONAL), what was found, and a remedy."""

    name: str
    state: str
    detail: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax doctor`."""
    parser.add_argument("--json", action="store_true", help="print the findings as a JSON list")
    parser.add_argument(
        "--workdir", type=user_path, default=Path("runs"), metavar="DIR", help="directory of runs (default: runs)"
    )


def main(options: argparse.Namespace) -> int:
    """Prints the findings; returns the exit code."""
    findings = []
    for finding in examine(options.workdir):
        findings.append(finding)
        if not options.json:
            say(f"{finding.state:8}  {finding.name}: {finding.detail}")
            if finding.remedy:
                say(f"{'':8}  -> {finding.remedy}")
    broken = sum(finding.state == BROKEN for finding in findings)
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        say(f"\n{broken} broken: see the lines above" if broken else "\nnothing is broken")
    return 1 if broken else 0


def examine(workdir: Path) -> Iterator[Finding]:
    """Yields all findings in printing order. A check that fails does not stop the others."""
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("Python", check_python),
        ("packages", check_packages),
        ("JAX", check_jax),
        ("cores", check_cores),
        ("memory", check_memory),
        ("shared memory", check_shared_memory),
        ("run directory", lambda: check_directory("run directory", workdir)),
        ("compilation cache", check_cache),
        ("data sets", check_data_sets),
        ("optional programs", check_optional),
    )
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:  # a failing check is itself a finding
            yield Finding(name, BROKEN, f"could not be checked: {type(error).__name__}: {error}")


def check_python() -> Iterator[Finding]:
    """Compares the Python version with those that mae_jax requires and was tested with."""
    version = platform.python_version()
    detail = f"{version}, {sys.executable}"
    try:
        about = metadata.metadata("mae_jax")
        required = about["Requires-Python"] if "Requires-Python" in about else ""
    except metadata.PackageNotFoundError:
        required = ""
    from packaging.specifiers import SpecifierSet

    bounds = f"{required}, tested up to {tested.PYTHON}".removeprefix(", ")
    if required and not SpecifierSet(required).contains(version, prereleases=True):
        yield Finding("Python", BROKEN, f"{detail} (needs {bounds})", f"install Python {required} and mae_jax in it")
    elif tested.newer(version, tested.PYTHON):
        remedy = f"install Python {tested.PYTHON}, or check this one: {TRY}"
        yield Finding("Python", WARNING, f"{detail} is newer than the newest that was tested, {tested.PYTHON}", remedy)
    else:
        yield Finding("Python", OK, f"{detail} (needs {bounds})")


def check_packages() -> Iterator[Finding]:
    """Compares installed package versions with those that mae_jax requires on this platform and was tested with."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("mae_jax") or []
    except metadata.PackageNotFoundError:
        yield Finding(
            "packages",
            WARNING,
            "the required versions are not known, because mae_jax is not installed (only imported)",
            "run python -m pip install -e . in the project's folder",
        )
        yield from check_newest()
        return
    required = [Requirement(line) for line in lines]
    required = [r for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    bad = []
    for requirement in required:
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            bad.append(Finding(requirement.name, BROKEN, "not installed", f"python -m pip install '{wanted}'"))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            detail = f"version {version}, needed: {requirement.specifier}"
            bad.append(Finding(requirement.name, BROKEN, detail, f"python -m pip install -U '{wanted}'"))
    yield Finding("packages", BROKEN if bad else OK, f"{len(required) - len(bad)} of {len(required)} as required")
    yield from bad
    yield from check_newest()


def check_newest() -> Iterator[Finding]:
    """Compares installed package versions with the newest that mae_jax was tested with."""
    late = []
    for name, newest in tested.PACKAGES.items():
        with contextlib.suppress(metadata.PackageNotFoundError):
            if tested.newer(version := metadata.version(name), newest):
                late.append((name, version, newest))
    if late:
        listed = ", ".join(f"{name} {version} (tested: {newest})" for name, version, newest in late)
        pins = " ".join(f"'{name}=={newest}.*'" for name, _, newest in late)
        remedy = f"check them: {TRY}; or install the tested ones: python -m pip install {pins}"
        yield Finding("newest versions", WARNING, f"newer than the newest that were tested: {listed}", remedy)
    else:
        yield Finding("newest versions", OK, "no package is newer than the tested version")


def ask_jax() -> dict[str, Any]:
    """The version and devices of JAX, from a separate process, because a driver may hang or crash.

    Raises RuntimeError if JAX does not start.
    """
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=JAX_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"JAX did not start within {JAX_SECONDS:g} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(lines[-1][:300])
    return json.loads(done.stdout.strip().splitlines()[-1])


def check_jax() -> Iterator[Finding]:
    """Checks that JAX computes correctly, and on the accelerator if this machine has one."""
    try:
        about = ask_jax()
    except RuntimeError as error:
        remedy = "python -m pip install -U jax, with the extra of the accelerator: jax[cuda12], jax[cuda13], jax[tpu]"
        if os.environ.get("JAX_PLATFORMS"):
            remedy = f"unset JAX_PLATFORMS (now {os.environ['JAX_PLATFORMS']}), or: {remedy}"
        yield Finding("JAX", BROKEN, str(error), remedy)
        return
    kinds: dict[str, list[int | None]] = {}
    for device in about["devices"]:
        kinds.setdefault(device["kind"], []).append(device["bytes"])
    words = []
    for kind, sizes in kinds.items():
        memory = f" of {_size(min(size for size in sizes if size))}" if all(sizes) else ""
        words.append(f"{len(sizes)} x {kind}{memory}")
    detail = f"{about['version']}, {', '.join(words)}"
    if about["correct"]:
        yield Finding("JAX", OK, detail)
    else:
        yield Finding("JAX", BROKEN, f"{detail}; a matrix product is wrong", "update the driver and JAX")
    if all(device["platform"] == "cpu" for device in about["devices"]):
        yield from _unused_accelerators()


def _unused_accelerators() -> Iterator[Finding]:
    """Accelerators of this machine that JAX does not use; called if JAX has only the CPU."""
    forced = os.environ.get("JAX_PLATFORMS", "")
    for what, there, extra in (
        ("NVIDIA GPU", nvidia_gpus(), "cuda12"),
        ("TPU", glob.glob("/dev/accel[0-9]*"), "tpu"),
    ):
        if there:
            remedy = f"python -m pip install -U 'jax[{extra}]'"
            remedy = f"unset JAX_PLATFORMS (now {forced}); if that is not enough: {remedy}" if forced else remedy
            yield Finding(what, BROKEN, f"this machine has {len(there)}, but JAX computes on the CPU", remedy)


def check_cores() -> Iterator[Finding]:
    """Reports the CPU cores that this process may use."""
    yield Finding("cores", OK, f"{cores()}")


def check_memory() -> Iterator[Finding]:
    """Checks the free memory."""
    free = available_memory()
    if free is None:
        yield Finding("memory", OK, "not known on this system")
        return
    remedy = "close other programs, or use data.workers=0 and a smaller train.batch_size and eval.batch_size"
    little = free < LITTLE_MEMORY
    yield Finding("memory", WARNING if little else OK, f"{_size(free)} free", remedy if little else "")


def check_shared_memory() -> Iterator[Finding]:
    """Checks the shared memory for the batches of `data.workers`, if the system has /dev/shm."""
    place = Path("/dev/shm")
    if is_dir(place):
        free = shutil.disk_usage(place).free
        little = free < LITTLE_SHARED
        remedy = "keep data.workers=0, or start the container with --shm-size=8g" if little else ""
        yield Finding("shared memory", WARNING if little else OK, f"{_size(free)} free in {place}", remedy)


def check_directory(name: str, place: Path, little: int = LITTLE_DISK) -> Iterator[Finding]:
    """Checks that `place`, or its nearest existing parent, can be written and has at least `little` bytes free."""
    place = place.absolute()
    above = next(p for p in (place, *place.parents) if exists(p))
    if not is_dir(above):
        yield Finding(name, BROKEN, f"{above} is not a directory", "remove it, or name another directory")
        return
    try:
        with tempfile.NamedTemporaryFile(dir=above, prefix=".mae_jax_doctor") as file:
            file.write(b"x" * 2**20)
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(above).free
    except OSError as error:
        remedy = "make room, get write permission, or name another directory"
        yield Finding(name, BROKEN, f"{above} cannot be written: {error.strerror or error}", remedy)
        return
    detail = f"{place} can be written, {_size(free)} free"
    if free < little:
        yield Finding(name, WARNING, detail, "make room: the checkpoints of a ViT-B run take 3 GiB")
    else:
        yield Finding(name, OK, detail)


def check_cache() -> Iterator[Finding]:
    """Checks the directory of JAX's compilation cache."""
    place = cache_directory()
    if place is None:
        yield Finding(
            "compilation cache",
            WARNING,
            "none: there is no home directory",
            "set XDG_CACHE_HOME or HOME to a directory",
        )
        return
    for finding in check_directory("compilation cache", place, 2**28):
        used = sum(file.stat().st_size for file in place.glob("**/*") if is_file(file)) if is_dir(place) else 0
        remedy = "set JAX_COMPILATION_CACHE_DIR to a directory with room" if finding.state != OK else ""
        state = WARNING if finding.state == BROKEN else finding.state  # runs work without a cache, but start slower
        yield dataclasses.replace(finding, state=state, detail=f"{finding.detail}, {_size(used)} used", remedy=remedy)


def check_data_sets() -> Iterator[Finding]:
    """Lists the prepared data sets."""
    given = os.environ.get("TFDS_DATA_DIR")
    try:
        place = local(given or "~/tensorflow_datasets", "TFDS_DATA_DIR")
    except UserError as error:
        why = error if given else "there is no home directory"
        yield Finding("data sets", WARNING, f"none: {why}", "set TFDS_DATA_DIR to a directory")
        return
    names = sorted(path.parents[1].name for path in place.glob("*/*/dataset_info.json"))
    names += sorted(path.parents[2].name for path in place.glob("*/*/*/dataset_info.json"))
    listed = ", ".join(dict.fromkeys(names)) or "none prepared"
    yield Finding("data sets", OK, f"{listed} in {place}")


def check_optional() -> Iterator[Finding]:
    """Looks for optional programs and packages that some commands need."""
    rar = [name for name in ("unrar", "7zz", "7z", "bsdtar", "unar") if shutil.which(name)]
    remedy = "for .rar archives in mae-jax prepare: install unrar or 7zip"
    yield Finding(".rar archives", OK if rar else OPTIONAL, rar[0] if rar else "no program", "" if rar else remedy)
    for module, what, extra in (
        ("openslide", "for whole slides in mae-jax prepare tiles:NAME", "slides"),
        ("torchstain", "for mae-jax prepare --stain", "stain"),
        ("torch", "for .pth and .bin files of weights", "peers"),
        ("onnx", "for mae-jax convert export --format onnx", "onnx"),
    ):
        there = importlib.util.find_spec(module) is not None
        detail = "installed" if there else "not installed"
        remedy = "" if there else f"{what}: python -m pip install 'mae_jax[{extra}]'"
        yield Finding(module, OK if there else OPTIONAL, detail, remedy)


def _size(count: float) -> str:
    """Formats bytes: 1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
