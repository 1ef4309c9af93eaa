"""Apply a finished run to new images: predictions, embeddings, and bundles for use on other machines.

import mae_jax

model = mae_jax.load("runs/demo")
result = model.predict(["cell_1.png", "cell_2.png"])
features = model.embed(images)
"""
