"""Features of a frozen encoder, computed once for each image and kept in memory for whoever asks next."""

from collections.abc import Callable, Hashable

import numpy as np
from jaxtyping import Float, Int

from mae_jax.data.sources import Source

Encode = Callable[[Source, Int[np.ndarray, " m"]], Float[np.ndarray, "m d"]]


class Features:
    """What was computed so far, for any number of encoders and sources of images."""

    def __init__(self):
        self.digests: dict[Hashable, str] = {}  # of the parameters of each encoder, see `models.params.digest`
        self._found: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {}

    def of(
        self, encoder: Hashable, source: Source, indices: Int[np.ndarray, " n"], encode: Encode
    ) -> Float[np.ndarray, "n d"]:
        """Features of the images `indices`, in their order; `encode` is asked for those that are not known yet.

        `encoder` stands for the network: what has the same features has the same `encoder`.
        """
        key = (encoder, source.fingerprint)
        known = self._found[key][1] if key in self._found else np.zeros(len(source), bool)
        missing = np.unique(indices[~known[indices]])
        if len(missing):
            new = encode(source, missing)
            values = self._found[key][0] if key in self._found else np.zeros((len(source), new.shape[1]), np.float32)
            values[missing], known[missing] = new, True
            self._found[key] = values, known
        return self._found[key][0][indices] if key in self._found else np.zeros((0, 0), np.float32)
