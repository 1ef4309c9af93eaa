"""Finds one network in a weight file: selects its arrays, names their layout, and drops what does not matter."""

import dataclasses
import re
from functools import partial
from pathlib import Path

import numpy as np

from mae_jax.config.run_fields import ROTARY
from mae_jax.models import resnet
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count, some
from mae_jax.weights import clip, dinov3, names, prefixes, refusals, resnet18
from mae_jax.weights.arrays import read_arrays
from mae_jax.weights.config_file import ConfigFile
from mae_jax.weights.prefixes import matching

_HEADS = {  # beginnings of the keys of heads
    "timm": ("head", "dino_head", "ibot_head", "pre_logits", "predictor", "projector", "fc", "proj"),
    "hf": ("classifier",),
    "resnet": ("fc", "head", "classifier", "projector", "projection_head", "predictor", "prototypes"),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The arrays of one network in a file under the names of its family, and the files next to it."""

    arrays: dict[str, np.ndarray]
    family: str  # own | timm (also facebookresearch's) | hf | resnet; see `names.family_of`
    config: ConfigFile
    prefix: str = ""  # removed from the keys
    augreg: bool = False  # whether it is one of Google's .npz files
    tower: bool = False  # whether it is a vision tower of transformers' CLIP or of open_clip
    rotary: bool = False  # whether its positions are DINOv3's
    heads: int = 0  # attention heads that the user or the shape of an array states; 0: none
    ignored: tuple[str, ...] = ()  # keys that the user leaves out
    notes: tuple[str, ...] = ()

    @property
    def is_resnet(self) -> bool:
        """Whether it is a ResNet, rather than a ViT."""
        return self.family == "resnet" or resnet18.OURS in self.arrays

    @property
    def where(self) -> str:
        """The start of a message about the file."""
        return f"{self.config.field}: {self.config.path}"

    @property
    def saved(self) -> ConfigFile:
        """What mae_jax wrote to its own config.json; empty for another family."""
        return self.config.section("mae_jax") if self.family == "own" else dataclasses.replace(self.config, fields={})

    def find(self, path: str) -> np.ndarray | None:
        """The array of our parameter `path`; of several arrays, the first."""
        return self.arrays.get(names.keys_of(path, self.family)[0])

    def need(self, path: str, axes: int) -> np.ndarray:
        """The array of our parameter `path`. Raises UserError if it is missing, empty, or has not as many axes."""
        array = self.find(path)
        if array is None or array.ndim != axes or not array.size:
            fault = "is missing" if array is None else f"has shape {array.shape} instead of {axes} nonempty axes"
            raise UserError(f"{self.where}: {names.keys_of(path, self.family)[0]} {fault}; use weights of a plain ViT")
        return array


def read_layout(path: Path, field: str, heads: int = 0, leave: str = "") -> Layout:
    """Reads the file or folder `path`. Keys that match the regular expression `leave` are left out.

    `heads` is the number of attention heads if no file states it. Raises UserError that names `field` if the file
    cannot be read, holds several networks or none with known names, or if no key matches `leave`.
    """
    arrays, about = read_arrays(path, field)
    where = f"{field}: {path}"
    ignored = matching(leave, arrays)
    arrays = {key: value for key, value in arrays.items() if key not in ignored}
    augreg = names.is_augreg(arrays)
    if augreg:
        arrays, stated_heads = names.of_augreg(arrays)
        heads = heads or stated_heads
    arrays, prefix, notes = prefixes.select(prefixes.unwrapped(arrays, where), where)
    arrays = names.packed(arrays)
    if tower := clip.is_tower(arrays):
        about = clip.config_of(about, path, field)
        arrays = clip.shaped(prefixes.renamed(arrays, clip.canonical, where))
    if rotary := dinov3.is_dinov3(about, arrays):
        notes += dinov3.check_periods(about, arrays, where)
        heads = heads or dinov3.heads_of(arrays)
        transformers = "patch_embed.proj.weight" not in arrays
        arrays = dinov3.joined(prefixes.renamed(arrays, partial(dinov3.canonical, transformers=transformers), where))
    family = names.family_of(list(arrays))
    if family is None:
        words = refusals.of_config(about) or refusals.of_keys(arrays)
        raise UserError(
            f"{where} is {words or 'not a plain ViT'}: it has no patch embedding under the names of Hugging Face, timm "
            f"or facebookresearch; its keys are {some(sorted(arrays))}"
        )
    arrays = prefixes.renamed(arrays, partial(names.canonical, family=family), where)
    ignored += matching(leave, arrays)
    if leave and not ignored:
        raise UserError(f"--leave {leave!r} matches no key of {path}; its keys are {some(sorted(arrays))}")
    arrays = {key: value for key, value in arrays.items() if key not in ignored}
    if family == "hf":
        _simplify(arrays)
    notes += _drop_other_heads(arrays, family)
    config = ConfigFile(about, path, field)
    rotary = rotary or (family == "own" and config.section("mae_jax").get("positions") == ROTARY)
    return Layout(arrays, family, config, prefix, augreg, tower, rotary, heads, tuple(ignored), tuple(notes))


def _simplify(arrays: dict[str, np.ndarray]) -> None:
    """Removes from a DINOv2's `arrays`, in place, what does not change its outputs.

    Layer scales of 1 are removed, and the weights of a head for the mean of the patch tokens if all are 0.
    """
    scales = [key for key in arrays if key.endswith(".lambda1")]
    if all(np.array_equal(arrays[key], np.ones_like(arrays[key])) for key in scales):
        for key in scales:
            arrays.pop(key)
    (kernel,) = names.keys_of("head/kernel", "hf")
    norm = arrays.get(names.keys_of("encoder/norm/scale", "hf")[0])
    if norm is None or norm.ndim != 1 or kernel not in arrays or arrays[kernel].shape[1:] != (2 * len(norm),):
        return
    if not np.any(arrays[kernel][:, len(norm) :]):
        arrays[kernel] = arrays[kernel][:, : len(norm)]


def _drop_other_heads(arrays: dict[str, np.ndarray], family: str) -> list[str]:
    """Removes, in place, heads that are not one linear layer, such as projections. Returns a note on each.

    A head starts from random weights anyway, except where a file is used as the classifier that it is.
    """
    if family == "own":
        return []
    kernel, bias = (names.keys_of(f"head/{name}", family)[0] for name in ("kernel", "bias"))
    norm = next((arrays[key] for key in arrays if re.search(r"(^|\.)(norm1|layernorm_before)\.weight$", key)), None)
    width = norm.shape[0] if norm is not None and norm.ndim == 1 else 0
    width = resnet.WIDTH if family == "resnet" else width
    fits = kernel in arrays and bias in arrays and (arrays[kernel].ndim, arrays[bias].ndim) == (2, 1)
    fits = fits and arrays[kernel].shape in ((len(arrays[bias]), width), (len(arrays[bias]), 2 * width))
    notes = []
    for name in _HEADS[family]:
        keys = [key for key in arrays if key == name or key.startswith(f"{name}.")]
        if keys and not (fits and set(keys) == {kernel, bias}):
            for key in keys:
                arrays.pop(key)
            keys_in_words = count(len(keys), "key")
            notes.append(f"the head {name!r} ({keys_in_words}) is not a linear layer on the features; it is ignored")
    return notes
