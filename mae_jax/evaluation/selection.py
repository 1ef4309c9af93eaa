"""Which images to label first, from the features of a frozen encoder: typical ones, a core-set, or random ones."""

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster import vq

from mae_jax.config.selection import METHODS
from mae_jax.evaluation.probes import unit

NEIGHBORS = 20  # that typicality averages over (Hacohen et al. 2022, section 3.2)
MOST_CLUSTERS = 500  # (appendix D.1 there)
SMALLEST = 5  # images of a cluster that is worth a label (appendix D.1 there)
STARTS, ITERATIONS = 5, 30  # of k-means
_ROWS = 1024  # at a time, to bound memory


def typical(
    features: Float[np.ndarray, "n d"], budget: int, labeled: Int[np.ndarray, " l"], seed: int
) -> Int[np.ndarray, " budget"]:
    """TypiClust (Hacohen et al. 2022, algorithm 1): the densest image of each k-means cluster, in order.

    Features are scaled to unit length. There are `budget` clusters and one for each image that is `labeled` already, at
    most MOST_CLUSTERS. The next image comes from the cluster with the fewest chosen or labeled images, the largest if
    several are equal; it is the one with the smallest mean distance to its NEIGHBORS in the cluster.
    """
    x = unit(features)
    cluster = _clusters(x, min(budget + len(labeled), MOST_CLUSTERS), seed)
    members = [np.flatnonzero(cluster == c) for c in range(cluster.max() + 1)]
    sizes = [len(indices) for indices in members]
    used = np.bincount(cluster[labeled], minlength=len(members))
    taken = np.zeros(len(x), bool)
    taken[labeled] = True
    queues: dict[int, list[int]] = {}
    chosen: list[int] = []
    while len(chosen) < budget:
        left = [c for c, indices in enumerate(members) if not taken[indices].all()]
        large = [c for c in left if sizes[c] >= SMALLEST] or left
        best = min(large, key=lambda c: (used[c], -sizes[c], c))
        if best not in queues:
            order = np.argsort(_spread(x[members[best]]), kind="stable")
            queues[best] = [int(i) for i in members[best][order] if not taken[i]]
        image = queues[best].pop(0)
        chosen.append(image)
        taken[image], used[best] = True, used[best] + 1
    return np.array(chosen)


def coreset(
    features: Float[np.ndarray, "n d"], budget: int, labeled: Int[np.ndarray, " l"], seed: int
) -> Int[np.ndarray, " budget"]:
    """k-center greedy (Sener and Savarese 2018, algorithm 1): always the image farthest from all chosen ones.

    Features are scaled to unit length. Without `labeled` images, a random one is the first.
    """
    x = unit(features)
    chosen = [] if len(labeled) else [int(np.random.default_rng(seed).integers(len(x)))]
    distance = np.full(len(x), np.inf)
    for center in [*labeled.tolist(), *chosen]:
        distance = np.minimum(distance, np.square(x - x[center]).sum(1))
    while len(chosen) < budget:
        distance[[*labeled.tolist(), *chosen]] = -1  # never twice, even if images are equal
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.square(x - x[chosen[-1]]).sum(1))
    return np.array(chosen)


def random(
    features: Float[np.ndarray, "n d"], budget: int, labeled: Int[np.ndarray, " l"], seed: int
) -> Int[np.ndarray, " budget"]:
    """Random images without replacement; the features do not matter."""
    rest = np.setdiff1d(np.arange(len(features)), labeled)
    return np.random.default_rng(seed).permutation(rest)[:budget]


FUNCTIONS = dict(zip(METHODS, (typical, coreset, random), strict=True))


def _clusters(x: Float[np.ndarray, "n d"], k: int, seed: int) -> Int[np.ndarray, " n"]:
    """The number of each image's cluster: the best k-means solution of several k-means++ starts.

    Some clusters may be empty.
    """
    rng, best, lowest = np.random.default_rng(seed), np.zeros(len(x), int), np.inf
    for _ in range(STARTS):
        centers, cluster = vq.kmeans2(x, min(k, len(x)), iter=ITERATIONS, minit="++", rng=rng)
        error = np.square(x - centers[cluster]).sum()
        if error < lowest:
            best, lowest = cluster, error
    return best


def _spread(x: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " m"]:
    """The mean distance of each row to its nearest NEIGHBORS among the rows: the inverse of its typicality."""
    k = min(NEIGHBORS, len(x) - 1)
    if not k:
        return np.zeros(len(x))
    squares, means = np.square(x).sum(1), []
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        distances = squares[rows, None] + squares - 2 * x[rows] @ x.T
        distances[np.arange(len(distances)), np.arange(start, start + len(distances))] = np.inf  # not to itself
        near = np.partition(distances, k - 1, axis=1)[:, :k]
        means.append(np.sqrt(np.maximum(near, 0)).mean(1))
    return np.concatenate(means)
