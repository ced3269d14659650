"""CoreSet, BADGE and KMeans against naive references in float64 that hold every pair's distance."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from deepal_galot import clustering, registry, seeding
from helpers import FixedLearner, indexed_pool, make_strategy


def squared_distances(a, b):
    """[N, M] float64, by subtraction."""
    a, b = (np.asarray(v, np.float32).astype(np.float64) for v in (a, b))
    return ((a[:, None] - b[None]) ** 2).sum(2)


def query(name, n, labeled, logits=None, embeddings=None):
    """A query's picks and the unlabeled indices they must be of."""
    pool = indexed_pool(len(embeddings), labeled)
    strategy = make_strategy(name, pool, FixedLearner(logits, embeddings))
    seeding.seed_globals(0, "query", 1)
    picks, unlabeled = strategy.query(n), np.flatnonzero(~pool.labeled_idxs)
    assert len(picks) == len(set(picks)) == min(n, len(unlabeled))
    assert set(picks) <= set(unlabeled)
    return picks, unlabeled


def fits_the_law(outcomes, law):
    """Chi-square of drawn outcomes against their probabilities, rare ones pooled: p > 0.001."""
    expected = {k: p * len(outcomes) for k, p in law.items()}
    assert set(outcomes) <= {k for k, e in expected.items() if e > 0}
    common = [k for k, e in expected.items() if e >= 5]
    seen = [sum(o == k for o in outcomes) for k in common]
    wanted = [expected[k] for k in common]
    if len(outcomes) - sum(wanted) >= 5:
        seen, wanted = [*seen, len(outcomes) - sum(seen)], [*wanted, len(outcomes) - sum(wanted)]
    scale = sum(seen) / sum(wanted)
    return stats.chisquare(seen, [w * scale for w in wanted]).pvalue > 1e-3


def seeding_law(d2, first):
    """k-means++ from one point: {(second, third): probability} by Arthur & Vassilvitskii 2007."""
    law = {}
    second = d2[first] / d2[first].sum()
    for i, j in itertools.permutations(range(len(d2)), 2):
        nearest = np.minimum(d2[first], d2[i])
        if first not in (i, j):
            law[i, j] = second[i] * nearest[j] / nearest.sum()
    return law


# -- CoreSet -----------------------------------------------------------------------------------


def naive_k_center(points, covered, n):
    """Sener & Savarese 2018, algorithm 1: the choices in their order."""
    points, covered = np.asarray(points), list(np.asarray(covered))
    left, picks = set(range(len(points))), []
    for _ in range(n):
        nearest = squared_distances(points, covered).min(1)
        picks.append(max(left, key=lambda i: (nearest[i], -i)))
        left.remove(picks[-1])
        covered.append(points[picks[-1]])
    return picks


def assert_greedy(points, covered, picks):
    """Each pick is a farthest point left, up to float32 rounding (1e-6 of the squared extent)."""
    covered, left = list(covered), set(range(len(points)))
    extent = squared_distances(points, [np.mean(points, 0)]).max()
    for pick in picks:
        nearest = squared_distances(points, covered).min(1)
        assert nearest[pick] >= max(nearest[list(left)]) - 1e-6 * extent
        left.remove(pick)
        covered.append(points[pick])


def places(kind):
    """[80, 6] embeddings at which careless arithmetic goes wrong."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6))
    return {
        "random": x,
        "far from the origin": x + 1000,
        "duplicates": np.tile(x[:16], (5, 1)),
        "all equal": np.tile(x[:1], (80, 1)),
        "two places": np.where(np.arange(80)[:, None] % 2, x[0], x[1]),
        "collinear": np.outer(np.arange(80), np.ones(6)),
        "zeros but one": np.where(np.arange(80)[:, None] == 50, 1.0, np.zeros((80, 6))),
        "tiny and huge": x * 10.0 ** rng.integers(-6, 4, (80, 1)),
    }[kind]


KINDS = ["random", "far from the origin", "duplicates", "all equal", "two places", "collinear",
         "zeros but one", "tiny and huge"]  # fmt: skip


@pytest.mark.parametrize("n_labeled", [1, 30])
@pytest.mark.parametrize("seed", range(4))
def test_core_set_on_random_embeddings(n_labeled, seed):
    x = np.random.default_rng(seed).normal(size=(120, 16))
    picks, unlabeled = query("KCenterGreedy", 25, range(n_labeled), embeddings=x)
    naive = naive_k_center(x[n_labeled:], x[:n_labeled], 25)
    assert picks.tolist() == unlabeled[naive].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labeled", [[0], range(0, 80, 4), range(79)], ids=["1", "20", "79"])
def test_core_set_on_adversarial_embeddings(kind, labeled):
    """Also duplicates of labeled images; a pick is right if no other is farther."""
    x = places(kind)
    picks, unlabeled = query("KCenterGreedy", 30, labeled, embeddings=x)
    assert_greedy(x[unlabeled], x[list(labeled)], np.searchsorted(unlabeled, picks))


@pytest.mark.parametrize("seed", range(3))
def test_core_set_on_principal_components(seed):
    """scikit-learn's PCA of all embeddings, then the naive k-center; 80 dimensions to 50."""
    x = decaying(seed, 150, 80)
    picks, unlabeled = query("KCenterGreedyPCA", 20, range(10), embeddings=x)
    scores = PCA(50, svd_solver="full").fit_transform(x)
    assert picks.tolist() == unlabeled[naive_k_center(scores[10:], scores[:10], 20)].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labeled", [[0], range(0, 80, 4)], ids=["1", "20"])
def test_core_set_on_principal_components_of_few_dimensions(kind, labeled):
    """Six dimensions are kept whole: a rotation, so the rule is that of plain CoreSet."""
    x = places(kind)
    picks, unlabeled = query("KCenterGreedyPCA", 30, labeled, embeddings=x)
    assert_greedy(x[unlabeled], x[list(labeled)], np.searchsorted(unlabeled, picks))


def decaying(seed, n, dim):
    """Random points whose principal components have well separated variances."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    x = rng.normal(size=(n, dim)) * 0.93 ** np.arange(dim) @ rotation + rng.normal(size=dim)
    return x.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize(("n", "dim", "kept"), [(300, 80, 50), (300, 12, 50), (20, 80, 50)])
def test_principal_components(n, dim, kept):
    """Against scikit-learn up to sign; no more of them vary than there are points less one."""
    x = decaying(0, n, dim)
    scores = clustering.principal_components(torch.tensor(x, dtype=torch.float32), kept).numpy()
    assert scores.shape == (n, min(kept, dim))
    theirs = PCA(min(kept, dim, n), svd_solver="full").fit_transform(x)
    varying = min(kept, dim, n - 1)
    signs = np.sign((scores[:, :varying] * theirs[:, :varying]).sum(0))
    difference = scores[:, :varying] - signs * theirs[:, :varying]
    assert np.abs(difference).max() < 2e-4 * np.abs(theirs).max()
    assert np.abs(scores[:, varying:]).max(initial=0) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 50, 10**6])
def test_nearest_distance(kind, block, monkeypatch):
    """To 1e-6 of the squared extent, in blocks of any size."""
    monkeypatch.setattr(clustering, "CHUNK", block)
    x = places(kind).astype(np.float32)
    ours = clustering.nearest_distance(torch.tensor(x[20:]), torch.tensor(x[:20]))
    naive = squared_distances(x[20:], x[:20]).min(1)
    assert (ours >= 0).all()
    extent = squared_distances(x, [x.mean(0)]).max()
    np.testing.assert_allclose(ours, naive, rtol=1e-5, atol=1e-6 * extent)


def test_no_center_is_infinitely_far():
    nearest = clustering.nearest_distance(torch.rand(5, 2), torch.rand(0, 2))
    assert nearest.tolist() == [float("inf")] * 5


# -- BADGE -------------------------------------------------------------------------------------


def gradient_embeddings(logits, embeddings):
    """[N, K·D] float64 gradients of the last layer at the predicted labels; Ash et al. 2020."""
    rows = []
    for z, h in zip(logits, embeddings, strict=True):
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        rows.append(np.concatenate([(p[k] - (k == z.argmax())) * h for k in range(len(p))]))
    return np.array(rows)


def test_dense_gradient_embeddings():
    """What DeepALPlus's own strategies get from the net."""
    rng = np.random.default_rng(0)
    logits, h = rng.normal(size=(30, 3)), rng.normal(size=(30, 5))
    _, data = indexed_pool(30).get_train_data()
    ours = FixedLearner(logits, h).get_grad_embeddings(data)
    np.testing.assert_allclose(ours, gradient_embeddings(logits, h), rtol=1e-4, atol=1e-6)


def badge(logits, embeddings, labeled=()):
    """BADGE on a pool of images with these outputs."""
    pool = indexed_pool(len(logits), labeled)
    return make_strategy("BadgeSampling", pool, FixedLearner(logits, embeddings))


@pytest.fixture
def handed(monkeypatch):
    """What BADGE hands to the k-means++ seeding."""
    calls = []

    def record(distance_to, first, n):
        calls.append((distance_to, first, n))
        return clustering.kmeans_plus_plus(distance_to, first, n)

    module = registry.strategies.get("BadgeSampling").query.__globals__
    monkeypatch.setitem(module, "kmeans_plus_plus", record)
    return calls


@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_badge_distances_equal_those_of_dense_gradients(handed, spread):
    """To 1e-6 of the largest squared norm; and the first image has the largest gradient."""
    rng = np.random.default_rng(0)
    logits, h = rng.normal(size=(60, 5)) * spread, rng.normal(size=(60, 12)).clip(0)
    badge(logits, h, range(10)).query(3)
    ((distance_to, first, _),) = handed
    g = gradient_embeddings(logits, h)[10:]
    norms = (g**2).sum(1)
    assert first == norms.argmax()
    for i in range(50):
        naive = ((g - g[i]) ** 2).sum(1)
        ours = distance_to(torch.tensor([i]))
        assert (ours >= 0).all()
        np.testing.assert_allclose(ours, naive, rtol=1e-5, atol=1e-6 * norms.max())


@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_badge_draws_by_the_law_of_dense_gradients(spread):
    """4,000 draws of the second and third image of 7; chi-square p > 0.001."""
    rng = np.random.default_rng(1)
    logits, h = rng.normal(size=(7, 3)) * spread, rng.uniform(0.2, 1, (7, 4))
    strategy, g = badge(logits, h), gradient_embeddings(logits, h)
    first = int((g**2).sum(1).argmax())
    torch.manual_seed(0)
    draws = [strategy.query(3).tolist() for _ in range(4000)]
    assert {d[0] for d in draws} == {first}
    law = seeding_law(((g[:, None] - g[None]) ** 2).sum(2), first)
    assert fits_the_law([tuple(d[1:]) for d in draws], law)


@pytest.mark.parametrize("n", [1, 20, 50, 1000])
@pytest.mark.parametrize("kind", ["one-hot", "one-hot but two", "uniform", "normal"])
@pytest.mark.parametrize("embedding", ["equal", "zero", "random"])
def test_badge_where_gradients_vanish_or_repeat(n, kind, embedding):
    """Distinct unlabeled picks; of images without gradients one is enough at first."""
    rng = np.random.default_rng(0)
    certain = 1e4 * np.eye(4)[np.arange(60) % 4]
    logits = {
        "one-hot": certain,
        "one-hot but two": np.where(np.isin(np.arange(60), [20, 40])[:, None], 0.1, certain),
        "uniform": np.zeros((60, 4)),
        "normal": np.tile(rng.normal(size=4), (60, 1)),
    }[kind]
    h = {"equal": np.ones((60, 5)), "zero": np.zeros((60, 5)), "random": rng.normal(size=(60, 5))}
    picks, _ = query("BadgeSampling", n, range(10), logits, h[embedding])
    if kind == "one-hot but two" and embedding == "random":
        assert picks[0] in (20, 40) and (n == 1 or {20, 40} <= set(picks[:3]))


def test_badge_draws_uniformly_once_no_gradient_is_left():
    """Second of 8 images without gradients, 2,000 times, chi-square p > 0.001."""
    strategy = badge(1e4 * np.eye(4)[np.arange(8) % 4], np.ones((8, 5)))
    torch.manual_seed(0)
    draws = [tuple(strategy.query(2).tolist()) for _ in range(2000)]
    assert fits_the_law(draws, {(0, j): 1 / 7 for j in range(1, 8)})


# -- KMeans ------------------------------------------------------------------------------------


@pytest.fixture
def seeds(monkeypatch):
    """The seeds that each k-means starts from, recorded."""
    drawn, draw = [], clustering.kmeans_plus_plus

    def record(*args):
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr(clustering, "kmeans_plus_plus", record)
    return drawn


def their_centroids(x, seeds):
    """scikit-learn's Lloyd iterations from the same seeds, to the end."""
    start = x[seeds.numpy()]
    k_means = KMeans(len(start), init=start, n_init=1, algorithm="lloyd", tol=0, max_iter=100)
    return k_means.fit(x)


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_k_means_is_lloyds_algorithm(seeds, offset, seed):
    """Centroids to 1e-3, inertia to 1e-5, where the points have variance 1; also far away."""
    x = (np.random.default_rng(seed).normal(size=(300, 5)) + offset).astype(np.float32)
    torch.manual_seed(seed)
    centroids = clustering.k_means(torch.tensor(x), 12).double().numpy()
    theirs = their_centroids(x.astype(np.float64), seeds[0])
    np.testing.assert_allclose(centroids, theirs.cluster_centers_, rtol=0, atol=1e-3)
    inertia = squared_distances(x, centroids).min(1).sum()
    np.testing.assert_allclose(inertia, theirs.inertia_, rtol=1e-5)


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("n", [1, 12, 60])
def test_k_means_picks(seeds, offset, n):
    """The nearest image left to each of scikit-learn's centroids from the same seeds; one is as
    good as another that is nearer by no more than 1e-3 (a cluster of two: both are as near)."""
    x = np.random.default_rng(0).normal(size=(100, 5)) + offset
    x = x.astype(np.float32).astype(np.float64)
    picks, unlabeled = query("KMeansSampling", n, range(20), embeddings=x)
    centroids = their_centroids(x[20:], seeds[0]).cluster_centers_
    left = set(unlabeled)
    for pick, center in zip(picks, centroids, strict=True):
        gap = {i: np.sqrt(((x[i] - center) ** 2).sum()) for i in left}
        assert gap[pick] <= min(gap.values()) + 1e-3
        left.remove(pick)


def test_nearest_points():
    """Centers that want the same point: the first gets it; against a loop."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 4)).astype(np.float32)
    centers = np.repeat(rng.normal(size=(10, 4)).astype(np.float32), 4, axis=0)
    ours = clustering.nearest_points(torch.tensor(points), torch.tensor(centers))
    assert ours.tolist() == naive_nearest(points.astype(np.float64), centers)


def naive_nearest(points, centers):
    """For each center in turn the nearest point that is not taken yet."""
    taken = []
    for center in centers:
        gap = [((p - center) ** 2).sum() if i not in taken else np.inf
               for i, p in enumerate(points)]  # fmt: skip
        taken.append(int(np.argmin(gap)))
    return taken


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 30, 80, 1000])
def test_k_means_on_adversarial_embeddings(kind, n):
    """Finite centroids, distinct picks; all of the pool where n is its size or more."""
    x = torch.tensor(places(kind), dtype=torch.float32)
    assert torch.isfinite(clustering.k_means(x, min(n, 80))).all()
    query("KMeansSampling", n, [], embeddings=x.numpy())


def test_k_means_of_as_many_clusters_as_points():
    """Each point is its own centroid."""
    x = torch.tensor(places("random"), dtype=torch.float32)
    ours = clustering.k_means(x, 80)
    assert squared_distances(x, ours).min(1).max() < 1e-12
    assert sorted(clustering.nearest_points(x, ours).tolist()) == list(range(80))


def test_an_empty_cluster_keeps_its_place(monkeypatch):
    """Two seeds at one place: all points go to the first of them."""
    monkeypatch.setattr(clustering, "kmeans_plus_plus", lambda *_: torch.tensor([0, 1, 2]))
    x = torch.tensor([[0.0, 1], [0, 1], [10, 0], [12, 0]])
    assert clustering.k_means(x, 3).tolist() == [[0, 1], [0, 1], [11, 0]]


def test_k_means_starts_by_the_law_of_k_means_plus_plus():
    """First uniformly, then by D²: 4,000 draws of 3 of 5 seeds, chi-square p > 0.001."""
    x = np.random.default_rng(3).normal(size=(5, 2)).astype(np.float32)
    torch.manual_seed(0)
    draws = []
    for _ in range(4000):
        start = clustering.k_means(torch.tensor(x), 3, iterations=0).numpy()
        draws.append(tuple(squared_distances(start, x).argmin(1).tolist()))
    d2 = squared_distances(x, x)
    law = {(i, *rest): p / 5 for i in range(5) for rest, p in seeding_law(d2, i).items()}
    assert fits_the_law(draws, law)
