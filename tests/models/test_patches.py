import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.models.patches import gather_tokens, n_visible, patchify, position_embedding, random_masking, unpatchify


def test_patches_are_rows_then_columns():
    image = jnp.arange(4 * 4 * 3, dtype=jnp.float32).reshape(1, 4, 4, 3)
    patches = patchify(image, 2)
    assert patches.shape == (1, 4, 12)
    # The second patch is the upper right one; inside a patch: row, column, channel.
    np.testing.assert_array_equal(patches[0, 1], image[0, :2, 2:].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, 2), image)


def test_masking_keeps_the_patches_of_smallest_noise():
    noise = jnp.array([[0.9, 0.1, 0.5, 0.3], [0.2, 0.4, 0.1, 0.3]])
    ids_keep, ids_restore, mask = random_masking(noise, 2)
    np.testing.assert_array_equal(ids_keep, [[1, 3], [2, 0]])
    np.testing.assert_array_equal(mask, [[1, 0, 1, 0], [0, 1, 0, 1]])
    np.testing.assert_array_equal(ids_restore, [[3, 0, 2, 1], [1, 3, 0, 2]])


def test_restoring_puts_every_token_back_and_marks_the_removed():
    noise = jnp.asarray(np.random.default_rng(0).random((3, 9)), jnp.float32)
    tokens = jnp.broadcast_to(jnp.arange(9.0)[None, :, None], (3, 9, 2))
    ids_keep, ids_restore, mask = random_masking(noise, 4)
    removed = jnp.full((3, 5, 2), -1.0)
    restored = gather_tokens(jnp.concatenate([gather_tokens(tokens, ids_keep), removed], axis=1), ids_restore)
    expected = np.where(np.asarray(mask)[:, :, None] == 1, -1.0, np.asarray(tokens))
    np.testing.assert_array_equal(restored, expected)
    np.testing.assert_array_equal(mask.sum(1), [5, 5, 5])


@pytest.mark.parametrize(("ratio", "visible"), [(0.75, 49), (0.25, 147), (0.9, 19), (0.5, 98)])
def test_number_of_visible_patches(ratio, visible):
    assert n_visible(196, ratio) == visible


def test_position_embedding_worked_by_hand():
    table = position_embedding(2, 8)  # two frequencies: 1 and 1/100
    # Patch 1 lies in row 0, column 1: the first half is the column, the second the row.
    column = [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)]
    np.testing.assert_allclose(table[1], [*column, 0, 0, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(table[2], [0, 0, 1, 1, *column], rtol=1e-6)
