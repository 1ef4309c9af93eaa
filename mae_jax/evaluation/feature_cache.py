"""An in-memory cache of frozen encoders' features, so that each image is encoded once."""

from collections.abc import Callable, Hashable

import numpy as np
from jaxtyping import Float, Int

from mae_jax.data.sources import Source

Encode = Callable[[Source, Int[np.ndarray, " m"]], Float[np.ndarray, "m d"]]


class Features:
    """Features computed so far, for any number of encoders and image sources."""

    def __init__(self):
        self.digests: dict[Hashable, str] = {}  # of each encoder's parameters, see `models.params.digest`
        self._cached: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {}

    def of(
        self, encoder: Hashable, source: Source, indices: Int[np.ndarray, " n"], encode: Encode
    ) -> Float[np.ndarray, "n d"]:
        """Features of the images `indices`, in this order. `encode` computes those that are not cached yet.

        `encoder` is a key that identifies the network: equal keys mean equal features.
        """
        key = (encoder, source.fingerprint)
        known = self._cached[key][1] if key in self._cached else np.zeros(len(source), bool)
        missing = np.unique(indices[~known[indices]])
        if len(missing):
            new = encode(source, missing)
            values = self._cached[key][0] if key in self._cached else np.zeros((len(source), new.shape[1]), np.float32)
            values[missing], known[missing] = new, True
            self._cached[key] = values, known
        return self._cached[key][0][indices] if key in self._cached else np.zeros((0, 0), np.float32)
