"""Training checkpoints as they lie on disk. PyTorch writes them; `torch` is an extra."""

import argparse
from collections import OrderedDict

import numpy as np
import pytest

from mae_jax.runtime.errors import UserError
from mae_jax.weights import positions, reader
from mae_jax.weights.arrays import read_arrays

torch = pytest.importorskip("torch", reason="PyTorch is an extra")
SIZES = {"patch_embed.proj.weight": (16, 3, 8, 8), "patch_embed.proj.bias": (16,), "cls_token": (1, 1, 16)}
SIZES |= {"pos_embed": (1, 5, 16), "norm.weight": (16,), "norm.bias": (16,)}
for block in ("blocks.0.", "blocks.1."):
    SIZES |= {f"{block}{norm}.{leaf}": (16,) for norm in ("norm1", "norm2") for leaf in ("weight", "bias")}
    for layer, (n_in, n_out) in {
        "attn.qkv": (16, 48), "attn.proj": (16, 16), "mlp.fc1": (16, 64), "mlp.fc2": (64, 16)
    }.items():  # fmt: skip
        SIZES |= {f"{block}{layer}.weight": (n_out, n_in), f"{block}{layer}.bias": (n_out,)}


def network(seed, prefix=""):
    """A state_dict with timm's names."""
    generator = torch.Generator().manual_seed(seed)
    return OrderedDict((prefix + key, torch.randn(size, generator=generator)) for key, size in SIZES.items())


def head(name):
    return {f"{name}.mlp.0.weight": torch.ones(3, 16), f"{name}.last_layer.weight_g": torch.ones(5, 1)}


def state(seed):
    """An optimizer's state, with whole numbers for keys."""
    return {"state": {0: {"exp_avg": torch.full((16,), float(seed))}}, "param_groups": [{"lr": 0.1}]}


ARGS = argparse.Namespace(arch="vit_small")
CONTAINERS = {
    "dinobloom": (
        {"teacher": network(1, "backbone.") | head("dino_head") | head("ibot_head")},
        "the prefix 'teacher.backbone.' is removed",
    ),
    "dino": (
        {
            "student": network(2, "module.backbone.") | head("module.head"),
            "teacher": network(1, "backbone.") | head("head"),
            "optimizer": state(0), "epoch": 100, "args": ARGS, "dino_loss": {"center": torch.zeros(1, 5)},
        },
        "the one under 'teacher.backbone.' is used, 'student.module.backbone.' is ignored",
    ),
    "dinov2": (
        {
            "model": network(2, "student.backbone.") | network(1, "teacher.backbone.") | head("teacher.dino_head"),
            "optimizer": state(0), "iteration": 1249,
        },
        "that under 'model.teacher.backbone.' is taken",
    ),
    "ema": ({"model": network(2), "model_ema": network(1), "epoch": 3}, "that under 'model_ema.' is taken"),
    "model_state_dict": ({"model_state_dict": network(1), "loss": 0.5}, "the prefix 'model_state_dict.'"),
    "encoder": ({"state_dict": network(1, "encoder.") | {"decoder.weight": torch.ones(2)}}, "'state_dict.encoder.'"),
    "moco v3": (
        {
            "state_dict": network(1, "module.base_encoder.") | network(2, "module.momentum_encoder.")
            | {"module.base_encoder.head.0.weight": torch.ones(4, 16), "module.predictor.0.weight": torch.ones(2, 4)},
            "optimizer": state(0), "arch": "vit_small",
        },
        "that under 'state_dict.module.base_encoder.' is taken",
    ),
    "conch": (
        network(1, "visual.trunk.")
        | {"visual.attn_pool_contrast.query": torch.ones(1, 4), "text.positional_embedding": torch.ones(8, 4)},
        "the prefix 'visual.trunk.' is removed",
    ),
    "numpy scalar": ({"model": network(1), "best_acc": np.float64(0.9), "n": np.int64(3)}, "the prefix 'model.'"),
}  # fmt: skip


@pytest.mark.parametrize("ending", [".pth", ".pth.tar", ".torch"])
@pytest.mark.parametrize("name", CONTAINERS)
def test_the_encoder_is_found_in_a_training_checkpoint(tmp_path, name, ending):
    saved, text = CONTAINERS[name]
    torch.save(saved, tmp_path / f"x{ending}")
    weights = reader.read(tmp_path / f"x{ending}")
    expected = network(1)
    np.testing.assert_array_equal(weights.params["encoder"]["norm"]["scale"], expected["norm.weight"])
    kernel = weights.params["encoder"]["block_01"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(kernel, expected["blocks.1.mlp.fc1.weight"].T)
    assert any(text in note for note in weights.notes) and "head" not in weights.params
    assert weights.interpolation == (positions.OFFSET if name.startswith("dino") else positions.ANTIALIASED)


def test_optimizer_states_are_not_read(tmp_path):
    torch.save({"model": network(1), "optimizer": state(1)}, tmp_path / "x.pth")
    arrays, _ = read_arrays(tmp_path / "x.pth", "init")
    assert arrays.keys() == {f"model.{key}" for key in SIZES}


def test_two_arrays_of_one_name_are_refused(tmp_path):
    torch.save({"a": {"b": torch.ones(1)}, "a.b": torch.ones(2)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"holds two arrays of the name a\.b"):
        read_arrays(tmp_path / "x.pth", "init")


def test_the_heads_of_mocos_small_network_are_its_own(tmp_path):
    wide = {16: 384, 48: 1152, 64: 1536}
    arrays = {key: torch.zeros([wide.get(n, n) for n in size]) for key, size in SIZES.items()}
    torch.save({"state_dict": {f"module.base_encoder.{key}": v for key, v in arrays.items()}}, tmp_path / "x.pth.tar")
    weights = reader.read(tmp_path / "x.pth.tar")
    assert weights.shape.heads == 12 and any("12 attention heads are assumed" in note for note in weights.notes)
    torch.save(arrays, tmp_path / "y.pth")
    assert reader.read(tmp_path / "y.pth").shape.heads == 6
