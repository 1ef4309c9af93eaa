"""Published encoders for pathology and blood cells: architecture, preprocessing, and what is known about each.

`table` makes the rows of docs/how-to/encoders.md. No weights come with mae_jax. Sources: the models' cards on the
Hugging Face Hub, their repositories and papers.
"""

import dataclasses
from functools import partial
from typing import Any

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std with which most published encoders were trained
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # of Google's encoders, for which pixels are scaled to -1..1
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HIBOU = (0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)  # as TRIDENT, a pathology library, has it
H_OPTIMUS = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
UNKNOWN = "not known"  # nothing public was found
UNCHECKED = "not checked"  # no source at hand states it
_SCALES = {
    IMAGENET: "ImageNet's mean",
    HALF: "mean 0.5",
    H_OPTIMUS: "mean 0.707, 0.579, 0.704",
    HIBOU: "mean 0.707, 0.576, 0.722",
    CLIP: "CLIP's mean",
}


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What is published about an encoder.

    `layout` is whose names and arguments the file has: timm (VisionTransformer), hf (transformers' DINOv2 and ViT),
    facebook (facebookresearch/dinov2), clip (transformers' CLIP) or dinov3 (transformers' DINOv3). `scale` is mean and
    standard deviation of the images, in 0..1. `pool` is what the authors take as an image's features; see `model.pool`.
    """

    title: str
    layout: str
    arguments: dict[str, Any]
    gated: bool = False  # whether the MLP is a SwiGLU
    image_size: int = 224
    scale: tuple[tuple[float, float, float], tuple[float, float, float]] = IMAGENET
    pool: str = "cls"
    place: str = ""  # where the file is
    file: str = ""
    seen: str = UNKNOWN  # images it was trained on
    license: str = UNKNOWN


_GIANT = {"patch_size": 14, "embed_dim": 1536, "depth": 40, "num_heads": 24, "init_values": 1e-5}
_VIRCHOW = {"patch_size": 14, "embed_dim": 1280, "depth": 32, "num_heads": 16, "mlp_ratio": 5.3375, "init_values": 1e-5}
_dinobloom = partial(
    Encoder,
    layout="facebook",
    place="https://zenodo.org/records/10908163",
    seen="over 380,000 white blood cells of 13 public data sets of blood and bone marrow, which its paper lists",
)


def _dinov2(width: int, depth: int, heads: int, **more: Any) -> dict[str, Any]:
    """Arguments of DINOv2 in the names of transformers."""
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    return sizes | {"patch_size": 14, "mlp_ratio": 4} | more


ENCODERS = {
    "uni": Encoder(
        "UNI", "timm", {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16, "init_values": 1e-5},
        place="MahmoodLab/UNI", file="pytorch_model.bin", license="CC BY-NC-ND 4.0",
        seen="more than 100 million tiles of over 100,000 H&E slides",
    ),
    "uni2-h": Encoder(
        "UNI2-h", "timm", {
            "patch_size": 14, "embed_dim": 1536, "depth": 24, "num_heads": 24, "init_values": 1e-5,
            "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8,
        }, True, place="MahmoodLab/UNI2-h", file="pytorch_model.bin", license="CC BY-NC-ND 4.0",
        seen="over 200 million tiles of more than 350,000 H&E and IHC slides",
    ),
    "h-optimus-0": Encoder(
        "H-optimus-0", "timm", _GIANT | {"mlp_ratio": 2.66667 * 2, "reg_tokens": 4, "no_embed_class": True}, True,
        scale=H_OPTIMUS, place="bioptimus/H-optimus-0", file="pytorch_model.bin", license="Apache 2.0",
        seen="more than 500,000 H&E slides, not public",
    ),
    "h-optimus-1": Encoder(
        "H-optimus-1", "timm", _GIANT | {"mlp_ratio": 2.66667 * 2, "reg_tokens": 4, "no_embed_class": True}, True,
        scale=H_OPTIMUS, place="bioptimus/H-optimus-1", file="pytorch_model.bin", license="CC BY-NC-ND 4.0",
        seen="over 1 million H&E slides of more than 800,000 patients, not public",
    ),
    "h0-mini": Encoder(
        "H0-mini", "timm", {
            "patch_size": 14, "embed_dim": 768, "depth": 12, "num_heads": 12, "init_values": 1e-5,
            "mlp_ratio": 2.66667 * 2, "reg_tokens": 4, "no_embed_class": True,
        }, True, scale=H_OPTIMUS, pool="both", place="bioptimus/H0-mini", file="pytorch_model.bin",
        license="CC BY-NC-ND 4.0", seen="distilled from a larger model; its images: not checked",
    ),
    "virchow": Encoder(
        "Virchow", "timm", _VIRCHOW, True, pool="both", place="paige-ai/Virchow", file="pytorch_model.bin",
        license="Apache 2.0", seen="1.5 million H&E slides of Memorial Sloan Kettering Cancer Center, not public",
    ),
    "virchow2": Encoder(
        "Virchow2", "timm", _VIRCHOW | {"reg_tokens": 4}, True, pool="both", place="paige-ai/Virchow2",
        file="pytorch_model.bin", license="CC BY-NC-ND 4.0", seen="3.1 million slides, not public",
    ),
    "prov-gigapath": Encoder(
        "Prov-GigaPath (tile encoder)", "timm", _GIANT | {"patch_size": 16, "mlp_ratio": 5.33334}, True,
        place="prov-gigapath/prov-gigapath", file="pytorch_model.bin", license=UNCHECKED,
        seen="1.3 billion tiles of 171,189 slides of Providence, not public",
    ),
    "hibou-b": Encoder(
        "Hibou-B", "hf", _dinov2(768, 12, 12, num_register_tokens=4, use_swiglu_ffn=True), True, scale=HIBOU,
        place="histai/hibou-b", license="Apache 2.0", seen="over 1 million slides, not public",
    ),
    "hibou-l": Encoder(
        "Hibou-L", "hf", _dinov2(1024, 24, 16, num_register_tokens=4, use_swiglu_ffn=True), True, scale=HIBOU,
        place="histai/hibou-L", license="Apache 2.0", seen="over 1 million slides, not public",
    ),
    "midnight": Encoder(
        "Midnight-12k", "hf", _dinov2(1536, 40, 24, use_swiglu_ffn=True), True, scale=HALF, pool="both",
        place="kaiko-ai/midnight", file="model.safetensors", seen="12,000 slides of TCGA", license="MIT",
    ),
    "openmidnight": Encoder(
        "OpenMidnight", "facebook", _dinov2(1536, 40, 24, num_register_tokens=4, use_swiglu_ffn=True), True,
        place="SophontAI/OpenMidnight", file="teacher_checkpoint_load.pt", seen="12,000 slides of TCGA",
        license="Apache 2.0",
    ),
    "dinov2-giant": Encoder(
        "DINOv2 ViT-g/14", "hf", _dinov2(1536, 40, 24, use_swiglu_ffn=True), True, image_size=518,
        place="facebook/dinov2-giant", file="model.safetensors", seen="LVD-142M: natural images", license="Apache 2.0",
    ),
    "dinobloom-s": _dinobloom("DinoBloom-S", arguments=_dinov2(384, 12, 6), file="DinoBloom-S.pth"),
    "dinobloom-b": _dinobloom("DinoBloom-B", arguments=_dinov2(768, 12, 12), file="DinoBloom-B.pth"),
    "dinobloom-l": _dinobloom("DinoBloom-L", arguments=_dinov2(1024, 24, 16), file="DinoBloom-L.pth"),
    "dinobloom-g": _dinobloom(
        "DinoBloom-G", arguments=_dinov2(1536, 40, 24, use_swiglu_ffn=True), gated=True, file="DinoBloom-G.pth"
    ),
}  # fmt: skip


_dinov3 = partial(Encoder, layout="dinov3", file="model.safetensors", license="DINOv3 License")
_LVD = "LVD-1689M: natural images"
TOWERS = {  # `weights.clip` and `weights.dinov3` read these
    "plip": Encoder(
        "PLIP (vision tower)", "clip",
        {"patch_size": 32, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
        scale=CLIP, place="vinid/plip", file="pytorch_model.bin",
        seen="OpenPath: 208,414 pathology images with texts, from Twitter and other public sources",
    ),
    "dinov3-s": _dinov3(
        "DINOv3 ViT-S/16", arguments=_dinov2(384, 12, 6, patch_size=16, num_register_tokens=4), seen=_LVD,
        place="facebook/dinov3-vits16-pretrain-lvd1689m",
    ),
    "dinov3-b": _dinov3(
        "DINOv3 ViT-B/16", arguments=_dinov2(768, 12, 12, patch_size=16, num_register_tokens=4), seen=_LVD,
        place="facebook/dinov3-vitb16-pretrain-lvd1689m",
    ),
    "dinov3-l": _dinov3(
        "DINOv3 ViT-L/16", arguments=_dinov2(1024, 24, 16, patch_size=16, num_register_tokens=4), seen=_LVD,
        place="facebook/dinov3-vitl16-pretrain-lvd1689m",
    ),
}  # fmt: skip
_DIFFERENCES = {"clip": ", norm before the first block, quick GELU", "dinov3": ", rotary positions"}


def table() -> list[str]:
    """Rows of a Markdown table of all encoders, without its head: encoder, network, images, features, file ...

    The last columns are what the encoder has seen and the license of its weights.
    """
    rows = []
    for encoder in (ENCODERS | TOWERS).values():
        a = encoder.arguments
        width, depth = a.get("embed_dim", a.get("hidden_size")), a.get("depth", a.get("num_hidden_layers"))
        registers = a.get("reg_tokens", a.get("num_register_tokens", 0))
        network = f"{width} features, {depth} blocks, patches of {a['patch_size']} px"
        network += f", {registers} registers" if registers else ""
        network += (", SwiGLU" if encoder.gated else "") + _DIFFERENCES.get(encoder.layout, "")
        images = f"{encoder.image_size} px, {_SCALES[encoder.scale]}"
        file = (
            f"[{encoder.place.rpartition('/')[2]}]({encoder.place})" if ":" in encoder.place else f"`{encoder.place}`"
        )
        cells = (encoder.title, network, images, f"`{encoder.pool}`", file, encoder.seen, encoder.license)
        rows.append(f"| {' | '.join(cells)} |")
    return rows
