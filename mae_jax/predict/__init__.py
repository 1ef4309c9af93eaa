"""A finished run on new images: predictions, embeddings, and bundles that carry a model elsewhere.

import mae_jax

model = mae_jax.load("runs/demo")
result = model.predict(["cell_1.png", "cell_2.png"])
features = model.embed(images)
"""

from mae_jax.predict.loading import load
from mae_jax.predict.model import Model, Result

__all__ = ["Model", "Result", "load"]
