"""Compares ours with the installed PyTorch and transformers. test_golden uses stored numbers."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra [peers]")
pytest.importorskip("transformers", reason="needs the extra [peers]")
pytestmark = pytest.mark.filterwarnings("default")  # theirs


@pytest.fixture(scope="module")
def compare():
    path = Path(__file__).parents[2] / "tools/compare_with_transformers.py"
    spec = importlib.util.spec_from_file_location("compare_with_transformers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.torch.manual_seed(0)
    return module


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
DECODER = {f"decoder_{key}": value for key, value in SIZES.items()} | {
    "decoder_num_hidden_layers": 1, "decoder_hidden_size": 16, "decoder_intermediate_size": 64,
}  # fmt: skip


@pytest.mark.parametrize(("image", "patch", "norm"), [(224, 16, True), (32, 8, False)])
def test_autoencoder_and_gradients(compare, image, patch, norm):
    sizes = SIZES | {"image_size": image, "patch_size": patch}
    result = compare.compare_autoencoder(sizes, DECODER, norm)
    assert result.pop("mask") == result.pop("ids_restore") == 0
    assert set(result) == {"latent", "prediction", "loss", "gradient"}
    assert all(value < compare.LIMIT for value in result.values()), result


def test_classifier(compare):
    assert compare.compare_classifier(SIZES | {"image_size": 32, "patch_size": 8})["logits"] < compare.LIMIT
