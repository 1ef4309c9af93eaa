"""Which training images a run labels, if the features of an encoder decide (`data.subset=typical` or `coreset`)."""

import warnings

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from mae_jax.config.fields import RunConfig, as_dict, probe_of
from mae_jax.config.schedule import resolve
from mae_jax.config.selection import BY_FEATURES
from mae_jax.config.tasks import RANDOM_PROBE
from mae_jax.config.validation import validate
from mae_jax.data import splits
from mae_jax.data.sources import Source
from mae_jax.evaluation import selection
from mae_jax.evaluation.feature_cache import Features
from mae_jax.models.params import digest
from mae_jax.step import sharding
from mae_jax.step.eval_step import feature_step
from mae_jax.step.from_config import spec_of
from mae_jax.step.state import init_state
from mae_jax.train.task import predictor
from mae_jax.weights import encoder_fields, initial_weights


def selector(config: RunConfig, mesh: Mesh, cache: splits.DataCache | None) -> splits.Select | None:
    """The function that selects images by features; None if `data.subset` needs no encoder.

    The encoder is that of `data.subset_from`, or the one that the run starts from. All runs that share `cache` compute
    its features once. Raises UserError if the encoder cannot be read.
    """
    if config.data.subset not in BY_FEATURES:
        return None
    encoder = _encoder_of(config)
    first = initial_weights.first_weights(encoder, cache)
    spec = spec_of(encoder, resolve(encoder, 1, mesh.size), mesh, 1)
    cached = (cache or splits.DataCache()).features(Features)
    key = (encoder.init, encoder.init_from, None, spec.shape, spec.mean, spec.std, encoder.model.pool)

    def encode(source: Source, indices: Int[np.ndarray, " _"]) -> Float[np.ndarray, "n d"]:
        params = first(spec, init_state(spec, 0).params)
        cached.digests[key] = digest(jax.tree.map(sharding.to_host, params["encoder"]))
        return predictor(encoder, spec)(params, source, indices, step=feature_step)["features"]

    def select(source: Source, pool: Int[np.ndarray, " n"], size: int, seed: int) -> Int[np.ndarray, " k"]:
        features = cached.of(key, source, pool, encode)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="One of the clusters is empty")
            return selection.FUNCTIONS[config.data.subset](features, size, np.zeros(0, int), seed)

    return select


def _encoder_of(config: RunConfig) -> RunConfig:
    """A probe's config with the encoder that selects."""
    given = probe_of(ConfigDict(as_dict(config)), RANDOM_PROBE)
    given.data.subset = "stratified"  # else the encoder of the selection would need another
    if config.data.subset_from:
        encoder_fields.start_from(given, config.data.subset_from, "data.subset_from")
    given.data.subset_from = ""
    return validate(given)
