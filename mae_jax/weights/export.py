"""Writes a network to a folder that PyTorch code can open, with a model card."""

import shutil
from pathlib import Path

from mae_jax.config.fields import RunConfig
from mae_jax.runtime import files
from mae_jax.runtime.command import refuse_filled
from mae_jax.runtime.disk import exists
from mae_jax.runtime.errors import UserError
from mae_jax.weights.model_card import model_card
from mae_jax.weights.own_run import load
from mae_jax.weights.reader import Weights
from mae_jax.weights.writer import write

__all__ = ["load", "new_folder", "put_in_place", "write_folder"]


def new_folder(out: Path) -> Path:
    """Creates an empty folder next to `out`, to be renamed by `put_in_place` once it is complete.

    Raises UserError if `out` exists and is not empty, or cannot be written.
    """
    refuse_filled(out, "OUT")
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"OUT={out} cannot be written: {error.strerror}; choose another") from None
    return partial


def put_in_place(partial: Path, out: Path) -> None:
    """Renames the finished folder `partial` to `out`."""
    if exists(out):
        out.rmdir()
    partial.rename(out)


def card_of(run_dir: Path, weights: Weights, config: RunConfig, form: str, notes: list[str]) -> str:
    """The model card in Markdown. Raises UserError if run.json or results.json lacks something it needs."""
    try:
        return model_card(run_dir, weights, config, form, notes)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"RUN_DIR={run_dir}: run.json or results.json lacks an entry that the model card needs ({error!r}); "
            "restore the file from a backup"
        ) from None


def write_folder(run_dir: Path, weights: Weights, config: RunConfig, out: Path, form: str) -> list[str]:
    """Writes the network of `run_dir` to the new folder `out`, in the format hf or timm. Returns notes for the user.

    The folder contains model.safetensors, config.json and README.md, and for hf also preprocessor_config.json. Raises
    UserError if `out` exists, or the other code cannot compute the network.
    """
    partial = new_folder(out)
    training = {"mask_ratio": config.mae.mask_ratio, "norm_pix_loss": config.mae.norm_pix_loss}
    try:
        notes = write(weights, partial, form, training if config.traits.decoder else None)
        files.write(partial / "README.md", card_of(run_dir, weights, config, form, notes))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    put_in_place(partial, out)
    return notes
