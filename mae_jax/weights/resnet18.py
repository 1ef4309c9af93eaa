"""ResNet-18s of torchvision, timm and transformers: names of their parameters, and which networks are refused."""

import re
from collections.abc import Iterable
from typing import Any

from mae_jax.models import resnet
from mae_jax.models.vit import ViTConfig
from mae_jax.runtime.errors import UserError

IMAGE_SIZE = 224  # of ImageNet's training; the network takes any
FIRST, OURS = "layer1.0.conv1.weight", "encoder/stem/kernel"  # a key of each ResNet of torchvision, and of mae_jax
_TRANSFORMERS = re.compile(
    r"(?:resnet\.)?(?:embedder\.embedder|encoder\.stages\.(\d+)\.layers\.(\d+)\.(.+))\.(\w+)\.(\w+)"
)
_MODULES = {"stem": "conv1", "stem_norm": "bn1", "head": "fc"}
_IN_BLOCKS = {"norm1": "bn1", "norm2": "bn2", "shortcut": "downsample.0", "shortcut_norm": "downsample.1"}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}
# timm's names of exactly this network; others, such as resnet18d, have other stems or shortcuts.
_TIMM = re.compile(r"(gluon_|ssl_|swsl_|tv_)?resnet18(_v1b)?(\..*)?")
_OTHERS = (  # patterns of keys, and what a network with them is
    (r"layer\d\.\d+\.conv3\.", "a ResNet with bottlenecks, such as ResNet-50"),
    (r"layer\d\.([2-9]|\d\d+)\.", "a deeper ResNet, such as ResNet-34"),
    (r"conv1\.\d", "a ResNet with a deep stem, such as timm's resnet18d"),
    (r"attnpool\.", "a ResNet with attention pooling, such as CLIP's"),
)
_ARGUMENTS = {"num_classes", "drop_rate", "drop_path_rate", "pretrained", "features_only"}  # of timm, without effect
_CONFIG = {  # what transformers' config.json has to say, where it says anything
    "model_type": "resnet",
    "layer_type": "basic",
    "hidden_act": "relu",
    "depths": [2, 2, 2, 2],
    "downsample_in_first_stage": False,
}


def key_of(path: str) -> str:
    """The key of our parameter `path`, such as "encoder/block_02/conv1/kernel", in torchvision's and timm's files."""
    module, _, leaf = path.removeprefix("encoder/").rpartition("/")
    if module in _MODULES:
        return f"{_MODULES[module]}.{_LEAVES[leaf]}"
    block, _, piece = module.partition("/")
    number = int(block.removeprefix("block_"))
    return f"layer{number // 2 + 1}.{number % 2}.{_IN_BLOCKS.get(piece, piece)}.{_LEAVES[leaf]}"


def canonical(key: str) -> str:
    """Renames a key of transformers' ResNet to torchvision's; other keys are kept."""
    key = re.sub(r"^classifier\.1\.", "fc.", key)
    match = _TRANSFORMERS.fullmatch(key)
    if not match:
        return key
    stage, block, part, kind, leaf = match.groups()
    convolution = kind == "convolution"
    if stage is None:
        return f"{'conv1' if convolution else 'bn1'}.{leaf}"
    above = f"layer{int(stage) + 1}.{block}"
    if part == "shortcut":
        return f"{above}.downsample.{0 if convolution else 1}.{leaf}"
    return f"{above}.{'conv' if convolution else 'bn'}{int(part.removeprefix('layer.')) + 1}.{leaf}"


def shape_of(n_classes: int, norm: str) -> ViTConfig:
    """The shape of the network; `norm` is that of `model.norm`."""
    return ViTConfig(
        IMAGE_SIZE, 1, resnet.WIDTH, resnet.DEPTH, 1, pool="mean", n_classes=n_classes, family="resnet18", norm=norm
    )  # fmt: skip


def refuse_keys(keys: Iterable[str], where: str) -> None:
    """Refuses other ResNets by their keys in torchvision's names. `where` starts the message. Raises UserError."""
    for pattern, words in _OTHERS:
        if any(re.match(pattern, key) for key in keys):
            raise UserError(f"{where} is not a plain ResNet-18: it is {words}; use torchvision's or timm's resnet18")


def refuse_config(about: dict[str, Any], where: str) -> None:
    """Refuses networks that have the keys of a ResNet-18 but compute something else.

    `about` is the content of config.json, `where` starts the message. Raises UserError.
    """
    name = str(about.get("architecture") or "")
    faults = [f"timm's {name[:200]}"] if name and not _TIMM.fullmatch(name) else []
    faults += [f"its {key} is {about[key]!r:.100}" for key, value in _CONFIG.items() if about.get(key, value) != value]
    arguments = about.get("model_args")
    if isinstance(arguments, dict):
        faults += [f"its model_args.{key} is {arguments[key]!r:.100}" for key in sorted(set(arguments) - _ARGUMENTS)]
    if faults:
        raise UserError(f"{where} is not a plain ResNet-18: {'; '.join(faults)}; use torchvision's or timm's resnet18")
