"""Checks that mae_jax computes the same as Hugging Face's ViTMAE and ViT, at any size.

    python tools/compare_with_transformers.py [--width 768 --depth 12 --heads 12 --image-size 224 --patch-size 16]

Random weights are written by transformers and read by `mae_jax.weights`. Both sides get the same images and masking
noise. The script prints the largest difference of each quantity, relative to its largest value, and exits with 1 if one
exceeds 1e-4. It needs `mae_jax[peers]`.
"""

import argparse
import sys
import tempfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]

from mae_jax import models
from mae_jax.models.params import map_paths
from mae_jax.models.patches import n_visible, patchify, random_masking
from mae_jax.step import losses
from mae_jax.weights import names, reader

LIMIT = 1e-4


def difference(ours, theirs: torch.Tensor) -> float:
    """The largest difference, relative to the largest value of the reference."""
    theirs = theirs.detach().numpy()
    return float(np.abs(np.asarray(ours) - theirs).max() / max(np.abs(theirs).max(), 1e-30))


def draw(network: torch.nn.Module) -> torch.nn.Module:
    """Moves biases and norms away from their initial 0 and 1, so that errors in them show. Positions stay fixed."""
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad and p.ndim == 1:
                p.add_(0.1 * torch.randn(p.shape))
    return network.eval()


def read(network) -> reader.Weights:
    """Saves a network with transformers and reads its files."""
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        return reader.read(folder)


def compare_autoencoder(sizes: dict[str, int], decoder: dict[str, int], norm: bool) -> dict[str, float]:
    """Differences between ViTMAEForPreTraining and ours, by quantity. For gradients, the worst parameter counts."""
    config = transformers.ViTMAEConfig(**sizes, **decoder, norm_pix_loss=norm)
    network = transformers.ViTMAEForPreTraining(config)
    # transformers 5.23 leaves the fixed positions at 0 unless weights are loaded.
    network.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    network.vit.embeddings.initialize_weights()
    network.decoder.initialize_weights((config.image_size // config.patch_size) ** 2)
    weights = read(draw(network))
    shape, side = weights.shape, config.image_size
    pixels = torch.randn(2, 3, side, side)
    noise = torch.rand(2, shape.n_patches)
    theirs = network(pixels, noise=noise)
    theirs.loss.backward()
    latent = network.vit(pixels, noise=noise).last_hidden_state

    images = jnp.asarray(pixels.permute(0, 2, 3, 1).numpy())
    keep, restore, mask = random_masking(jnp.asarray(noise.numpy()), n_visible(shape.n_patches, config.mask_ratio))

    @jax.jit
    def encode(params):
        return models.apply("encoder", shape, params["encoder"], images, keep)

    @partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        pred, mask = models.apply("mae", shape, params, images, jnp.asarray(noise.numpy()), keep.shape[1])
        return losses.reconstruction(pred, patchify(images, shape.patch_size), mask, norm)[0].mean(), pred

    (value, pred), gradient = jax.jit(loss)(jax.tree.map(jnp.asarray, weights.params))
    gradients: dict[str, np.ndarray] = {}
    map_paths(lambda path, leaf: gradients.update(names.to_theirs(path, leaf, "hf", shape.patch_size)), gradient)
    reference = {names.canonical(k, "hf"): p.grad for k, p in network.named_parameters() if p.grad is not None}
    assert gradients.keys() == reference.keys(), gradients.keys() ^ reference.keys()
    # The keys' bias does not affect the softmax, so its gradient is rounding noise. Compare it with the queries' scale.
    worst = 0.0
    for key, ours in gradients.items():
        scale = float(reference[key.replace("key.bias", "query.bias")].abs().max())
        worst = max(worst, float(np.abs(ours - reference[key].numpy()).max()) / scale)
    return {
        "mask": float((np.asarray(mask) != theirs.mask.numpy()).sum()),
        "ids_restore": float((np.asarray(restore) != theirs.ids_restore.numpy()).sum()),
        "latent": difference(encode(weights.params), latent),
        "prediction": difference(pred, theirs.logits),
        "loss": difference(value, theirs.loss),
        "gradient": worst,
    }


def compare_classifier(sizes: dict[str, int]) -> dict[str, float]:
    """Differences between ViTForImageClassification (learned positions, class token) and ours."""
    network = draw(transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, num_labels=5)))
    weights = read(network)
    pixels = torch.randn(2, 3, sizes["image_size"], sizes["image_size"])
    ours = jax.jit(models.apply, static_argnums=(0, 1))(
        "vit", weights.shape, weights.params, jnp.asarray(pixels.permute(0, 2, 3, 1).numpy())
    )
    return {"logits": difference(ours, network(pixels).logits)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 768), ("depth", 12), ("heads", 12), ("image-size", 224), ("patch-size", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    sizes = {
        "hidden_size": args.width, "num_hidden_layers": args.depth, "num_attention_heads": args.heads,
        "intermediate_size": 4 * args.width, "image_size": args.image_size, "patch_size": args.patch_size,
    }  # fmt: skip
    rows = {}
    for norm in (False, True):
        name = f"ViTMAEForPreTraining, norm_pix_loss={norm}"
        rows[name] = compare_autoencoder(sizes, {}, norm)
    rows["ViTForImageClassification"] = compare_classifier(sizes)
    for name, values in rows.items():
        print(name + ": " + ", ".join(f"{key} {value:.1e}" for key, value in values.items()))
    return int(any(value > LIMIT for values in rows.values() for value in values.values()))


if __name__ == "__main__":
    sys.exit(main())
