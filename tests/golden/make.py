"""Regenerates the golden numbers: the outputs of PyTorch's own networks for fixed weights and images.

    pip install "mae_jax[peers]" && python tests/golden/make.py hf      # Hugging Face's ViTMAE, ViT, DINOv2, BEiT
    pip install torch            && python tests/golden/make.py interpolation
    pip install "mae_jax[timm]" transformers && python tests/golden/make.py encoders
    pip install "mae_jax[timm]" torchvision transformers && python tests/golden/make.py resnet
    pip install "mae_jax[timm]" transformers && python tests/golden/make.py towers
    pip install "mae_jax[timm]"  && python tests/golden/make.py timm    # timm, in an environment of its own

Each folder holds the weights of a tiny network as that code saves them, and `expected.npz` with inputs and
outputs. Written with transformers 5.23 and torch 2.13; timm 1.0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

if sys.argv[1:] == ["hf"]:
    import transformers as hf
if sys.argv[1:] in (["encoders"], ["resnet"], ["towers"]):
    import drawing
    import timm
    import transformers as hf

    from mae_jax.weights.encoders import ENCODERS, Encoder

HERE = Path(__file__).parent
NETWORK = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip


def draw(network: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that every part shows in the outputs; fixed positions are left as they are."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.requires_grad:
                norm = p.ndim == 1 and name.endswith("weight")
                p.copy_(float(norm) + torch.randn(p.shape, generator=generator) * (0.1 if p.ndim == 1 else 0.2))
    return network.eval()


def images(size: int, n: int = 2) -> torch.Tensor:
    """Smooth and noisy at once, so that patches differ in mean and standard deviation."""
    generator = torch.Generator().manual_seed(size)
    coarse = torch.randn(n, 3, size // 4, size // 4, generator=generator)
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3) + 0.3 * torch.randn(
        n, 3, size, size, generator=generator
    )


def last(x: torch.Tensor) -> np.ndarray:
    """Channels last, as here."""
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


def autoencoder(config: hf.ViTMAEConfig) -> hf.ViTMAEForPreTraining:
    """With its fixed positions, which transformers 5.23 leaves at 0 unless weights are loaded."""
    network = hf.ViTMAEForPreTraining(config)
    network.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    network.vit.embeddings.initialize_weights()
    network.decoder.initialize_weights((config.image_size // config.patch_size) ** 2)
    return network


def hugging_face() -> None:
    decoder = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 24}
    config = NETWORK | {f"decoder_{key}": value for key, value in decoder.items()}
    network = draw(autoencoder(hf.ViTMAEConfig(**config)))
    network.save_pretrained(HERE / "hf_mae")
    expected = {}
    for size in (16, 24):
        x = images(size)
        noise = torch.rand(2, (size // 4) ** 2, generator=torch.Generator().manual_seed(size))
        same = autoencoder(hf.ViTMAEConfig(**(config | {"image_size": size}))).eval()
        fixed = {k: v for k, v in network.state_dict().items() if not k.endswith(("pos_embed", "position_embeddings"))}
        same.load_state_dict(fixed, strict=False)
        expected |= {f"{size}/images": last(x), f"{size}/noise": noise.numpy()}
        for norm in (False, True):
            same.config.norm_pix_loss = norm
            same.zero_grad()
            out = same(x, noise=noise)
            out.loss.backward()
            expected[f"{size}/loss_{'norm' if norm else 'plain'}"] = out.loss.detach().numpy()
            if size == 16:
                for name, p in same.named_parameters():
                    if p.grad is not None:
                        expected[f"16/grad_{'norm' if norm else 'plain'}/{name}"] = p.grad.numpy().copy()
        expected[f"{size}/latent"] = same.vit(x, noise=noise).last_hidden_state.detach().numpy()
        expected[f"{size}/prediction"] = out.logits.detach().numpy()
        expected[f"{size}/mask"], expected[f"{size}/ids_restore"] = out.mask.numpy(), out.ids_restore.numpy()
    np.savez_compressed(HERE / "hf_mae" / "expected.npz", **expected)

    x = images(16)
    classifier = draw(hf.ViTForImageClassification(hf.ViTConfig(**NETWORK, num_labels=3)))
    classifier.config.id2label = {0: "Basophil", 1: "Eosinophil", 2: "Monocyte"}
    classifier.save_pretrained(HERE / "hf_vit")
    np.savez_compressed(HERE / "hf_vit" / "expected.npz", images=last(x), logits=classifier(x).logits.detach().numpy())

    sizes = {k: v for k, v in NETWORK.items() if k != "intermediate_size"} | {"mlp_ratio": 2}
    dino = draw(hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**sizes, num_register_tokens=3)))
    dino.save_pretrained(HERE / "hf_dinov2")
    tokens = dino(x).last_hidden_state.detach()
    tokens = torch.cat([tokens[:, :1], tokens[:, 4:]], 1).numpy()
    np.savez_compressed(HERE / "hf_dinov2" / "expected.npz", images=last(x), tokens=tokens)

    kind = {"use_absolute_position_embeddings": True, "layer_scale_init_value": 0.5, "num_labels": 3}
    beit = draw(hf.BeitForImageClassification(hf.BeitConfig(**NETWORK, **kind)))
    beit.config.id2label = classifier.config.id2label
    beit.save_pretrained(HERE / "hf_beit")
    np.savez_compressed(HERE / "hf_beit" / "expected.npz", images=last(x), logits=beit(x).logits.detach().numpy())


def interpolation() -> None:
    """Positions of 5 x 5 patches on other grids: as timm, transformers, and facebookresearch/dinov2 compute them."""
    positions = torch.randn(1, 25, 3, generator=torch.Generator().manual_seed(0))
    square = positions.reshape(1, 5, 5, 3).permute(0, 3, 1, 2)
    result = {"positions": positions.numpy()}
    for grid in (2, 3, 7):
        ways = {
            "antialiased": {"size": (grid, grid), "antialias": True},
            "bicubic": {"size": (grid, grid)},
            "offset": {"scale_factor": ((grid + 0.1) / 5,) * 2},
        }
        for way, options in ways.items():
            resized = torch.nn.functional.interpolate(square, mode="bicubic", align_corners=False, **options)
            result[f"{way}/{grid}"] = resized.permute(0, 2, 3, 1).reshape(1, grid**2, 3).numpy()
    np.savez_compressed(HERE / "interpolation.npz", **result)


def fill(network: torch.nn.Module, draws=None) -> dict[str, np.ndarray]:
    """Fills a network with the weights that `drawing.array`, or `draws`, draws for its keys, and returns them."""
    draws = draws or drawing.array
    arrays = {key: draws(key, tuple(value.shape)) for key, value in network.state_dict().items()}
    network.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
    network.eval()
    return arrays


def reduced(encoder: Encoder) -> torch.nn.Module:
    """The encoder with 24 features, 2 heads, 2 blocks and 4 x 4 patches. Its other arguments are the published ones."""
    arguments = encoder.arguments
    if encoder.layout == "timm":
        small = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 4 * arguments["patch_size"]}
        gated = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU} if encoder.gated else {}
        return timm.models.VisionTransformer(
            **arguments | small | gated, num_classes=0, global_pool="", dynamic_img_size=True
        )
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 4 * 14}
    if "num_register_tokens" in arguments:
        return hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**arguments | small))
    return hf.Dinov2Model(hf.Dinov2Config(**arguments | small))


def with_offset(network: hf.Dinov2Model, grid: int) -> None:
    """Replaces positions by those that facebookresearch/dinov2 interpolates to grid x grid patches."""
    rows = network.embeddings.position_embeddings.detach()
    square = rows[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    square = torch.nn.functional.interpolate(
        square, scale_factor=((grid + 0.1) / 4,) * 2, mode="bicubic", align_corners=False
    )
    rows = torch.cat([rows[:, :1], square.permute(0, 2, 3, 1).reshape(1, grid**2, -1)], 1)
    network.embeddings.position_embeddings = torch.nn.Parameter(rows)


def encoders() -> None:
    """Features of each published encoder at reduced width, at its own and at other numbers of patches."""
    result, keys = {}, {}
    for name, encoder in ENCODERS.items():
        patch = encoder.arguments["patch_size"]
        for grid in (4, 3, 6):
            network = reduced(encoder)
            arrays = fill(network)
            keys[name] = {key: list(value.shape) for key, value in arrays.items()}
            extra = 1 + encoder.arguments.get("reg_tokens", encoder.arguments.get("num_register_tokens", 0))
            if encoder.layout == "facebook" and extra == 1 and grid != 4:
                with_offset(network, grid)
            x = torch.from_numpy(drawing.images(grid * patch)).permute(0, 3, 1, 2)
            with torch.no_grad():
                out = network(x) if encoder.layout == "timm" else network(x).last_hidden_state
            result[f"{name}/{grid}"] = torch.cat([out[:, :1], out[:, extra:]], 1).numpy()
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    config = hf.Dinov2WithRegistersConfig(**small, num_register_tokens=4, num_labels=3)
    classifier = hf.Dinov2WithRegistersForImageClassification(config)
    keys["classifier"] = {key: list(value.shape) for key, value in fill(classifier).items()}
    with torch.no_grad():
        logits = classifier(torch.from_numpy(drawing.images(56)).permute(0, 3, 1, 2)).logits
    result |= {"classifier/logits": logits.numpy(), "keys": np.array(json.dumps(keys))}
    np.savez_compressed(HERE / "encoders.npz", **result)
    augreg()


def towers() -> None:
    """Tokens of CLIP's vision towers and of DINOv3's ViTs, at their own and at other numbers of patches."""
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    dino = small | {"intermediate_size": 48, "num_register_tokens": 4}
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    sizes |= {"global_pool": "", "dynamic_img_size": True}
    networks = {
        "clip_hf": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**small, intermediate_size=48)),
        "clip_hf_gelu": lambda: hf.CLIPVisionModel(
            hf.CLIPVisionConfig(**small, intermediate_size=48, hidden_act="gelu")
        ),
        "clip_timm": lambda: timm.create_model("vit_base_patch16_clip_224", **sizes),
        "clip_timm_quick": lambda: timm.create_model("vit_base_patch16_clip_quickgelu_224", **sizes),
        "dinov3_hf": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**dino)),
        "dinov3_hf_gated": lambda: hf.DINOv3ViTModel(
            hf.DINOv3ViTConfig(**dino, use_gated_mlp=True, hidden_act="silu", query_bias=False, value_bias=False)
        ),
        "dinov3_timm": lambda: timm.create_model("vit_small_patch16_dinov3", **sizes),
        "dinov3_timm_qkvb": lambda: timm.create_model("vit_small_plus_patch16_dinov3_qkvb", **sizes),
    }
    result, keys = {}, {}
    for name, build in networks.items():
        network = build()
        keys[name] = {key: list(value.shape) for key, value in fill(network).items()}
        registers = 4 if name.startswith("dinov3") else 0
        for grid in (4, 3, 6):
            x = torch.from_numpy(drawing.images(grid * 8)).permute(0, 3, 1, 2)
            options = {"interpolate_pos_encoding": True} if name.startswith("clip_hf") else {}
            with torch.no_grad():
                out = network(x, **options)
            out = out.last_hidden_state if "_hf" in name else out
            if name.startswith("clip_hf"):  # its head reads the class token after this norm
                out = network.post_layernorm(out)
            result[f"{name}/{grid}"] = torch.cat([out[:, :1], out[:, 1 + registers :]], 1).detach().numpy()
    np.savez_compressed(HERE / "towers.npz", **result, keys=np.array(json.dumps(keys)))


def resnets() -> None:
    """Pooled features and logits of torchvision's and transformers' ResNet-18 at three sizes."""
    import torchvision

    config = hf.ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=3
    )
    networks = {
        "torchvision": torchvision.models.resnet18(num_classes=3),
        "hf": hf.ResNetForImageClassification(config),
    }
    result, keys = {}, {}
    for name, network in networks.items():
        keys[name] = {key: list(value.shape) for key, value in fill(network, drawing.resnet_array).items()}
        for size in (224, 96, 65):
            with torch.no_grad():
                out = network(torch.from_numpy(drawing.images(size)).permute(0, 3, 1, 2))
            result[f"{name}/{size}"] = (out if name == "torchvision" else out.logits).numpy()
    backbone = timm.create_model("resnet18", num_classes=0)
    fill(backbone, drawing.resnet_array)
    for size in (224, 96, 65):
        with torch.no_grad():
            result[f"timm/{size}"] = backbone(torch.from_numpy(drawing.images(size)).permute(0, 3, 1, 2)).numpy()
    np.savez_compressed(HERE / "resnet18.npz", **result, keys=np.array(json.dumps(keys)))


def augreg() -> None:
    """Logits of a ViT from an .npz file in the layout of Google's vision_transformer, as timm loads it."""
    shapes = {
        "cls": (1, 1, 16), "embedding/kernel": (4, 4, 3, 16), "embedding/bias": (16,),
        "Transformer/posembed_input/pos_embedding": (1, 17, 16), "head/kernel": (16, 3), "head/bias": (3,),
        "Transformer/encoder_norm/scale": (16,), "Transformer/encoder_norm/bias": (16,),
    }  # fmt: skip
    for i in range(2):
        block = f"Transformer/encoderblock_{i}/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}{norm}/scale": (16,), f"{block}{norm}/bias": (16,)}
        for name, sizes in (("Dense_0", (16, 32)), ("Dense_1", (32, 16))):
            shapes |= {f"{block}MlpBlock_3/{name}/kernel": sizes, f"{block}MlpBlock_3/{name}/bias": sizes[1:]}
        for name in ("query", "key", "value"):
            attention = f"{block}MultiHeadDotProductAttention_1/{name}/"
            shapes |= {f"{attention}kernel": (16, 4, 4), f"{attention}bias": (4, 4)}
        attention = f"{block}MultiHeadDotProductAttention_1/out/"
        shapes |= {f"{attention}kernel": (4, 4, 16), f"{attention}bias": (16,)}
    np.savez(HERE / "all.npz", **{key: drawing.array(key, shape) for key, shape in shapes.items()})
    network = timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=4, mlp_ratio=2, num_classes=3
    ).eval()
    network.load_pretrained(str(HERE / "all.npz"))
    (HERE / "all.npz").unlink()
    with torch.no_grad():
        logits = network(torch.from_numpy(drawing.images(16)).permute(0, 3, 1, 2)).numpy()
    np.savez_compressed(HERE / "augreg.npz", logits=logits, shapes=np.array(json.dumps(shapes)))


def timm_networks() -> None:
    import timm
    from safetensors.torch import save_file
    from timm.optim import param_groups_layer_decay
    from timm.scheduler import CosineLRScheduler

    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
    kinds = {
        "timm_cls": {},
        "timm_mean": {"global_pool": "avg"},
        "timm_registers": {"reg_tokens": 3, "no_embed_class": True, "init_values": 1e-5, "global_pool": "avg"},
    }
    x = images(16)
    for name, kind in kinds.items():
        network = draw(timm.models.VisionTransformer(**sizes, num_classes=3, **kind))
        (HERE / name).mkdir(exist_ok=True)
        save_file(network.state_dict(), HERE / name / "model.safetensors")
        about = {"architecture": "vit_tiny_patch4_16", "num_classes": 3, "model_args": sizes | kind}
        (HERE / name / "config.json").write_text(json.dumps(about, indent=2) + "\n")
        np.savez_compressed(HERE / name / "expected.npz", images=last(x), logits=network(x).detach().numpy())

    positions = torch.randn(1, 16, 4, generator=torch.Generator().manual_seed(0))
    other = {str(n): timm.layers.resample_abs_pos_embed(positions, (n, n), num_prefix_tokens=0).numpy() for n in (3, 7)}
    np.savez_compressed(HERE / "timm_positions.npz", positions=positions.numpy(), **other)

    network = timm.models.VisionTransformer(**sizes, num_classes=3)
    names = {id(p): n for n, p in network.named_parameters()}
    groups = param_groups_layer_decay(network, 0.05, no_weight_decay_list=network.no_weight_decay(), layer_decay=0.65)
    rows = {
        names[id(p)]: {"lr_scale": group["lr_scale"], "decayed": group["weight_decay"] > 0}
        for group in groups
        for p in group["params"]
    }
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = CosineLRScheduler(
        optimizer, t_initial=200, lr_min=1e-6, warmup_t=20, warmup_lr_init=0.0, warmup_prefix=True
    )
    steps = [0, 1, 10, 19, 20, 21, 50, 120, 219]
    rates = [schedule._get_lr(step)[0] for step in steps]
    result = {"parameters": rows, "schedule": {"steps": steps, "rates": rates, "peak": 1e-3, "min": 1e-6}}
    (HERE / "timm_optimizer.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    {
        "hf": hugging_face,
        "timm": timm_networks,
        "interpolation": interpolation,
        "encoders": encoders,
        "resnet": resnets,
        "towers": towers,
    }[sys.argv[1]]()
