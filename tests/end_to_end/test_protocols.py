"""Protocols: `deepalplus` with BatchNorm noise and the pool scored under augmentation; `modern`."""

import pytest
import torch

from deepal_galot import registry, seeding
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.cli import main
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool
from deepal_galot.protocols import resolve
from helpers import QUICK, only_run, rows_of, small_config
from query_strategies.monte_carlo import MonteCarloStrategy

SMALL = ["--protocol", "deepalplus", "--n-init", "20", "--n-query", "10", "--quota", "15",
         "--epochs", "1", "--seeds", "0"]  # fmt: skip


def recipe(strategy, dataset, **flags):
    """As resolved for the data set, with what it prefers if it is registered."""
    known = dataset in registry.datasets.names()
    return resolve(
        strategy,
        dataset,
        flags={"protocol": "deepalplus"} | flags,
        dataset_defaults=registry.datasets.get(dataset).defaults if known else {},
        reads=registry.strategies.get(strategy).reads,
    )


@pytest.mark.parametrize(
    ("dataset", "epochs", "shift", "flip", "rotate", "optimizer", "batch_size"),
    [
        ("MNIST", 20, 0, 0, 0.0, "adam", 128),
        ("CIFAR10", 30, 4, 1, 0.0, "adam", 128),
        ("CIFAR100", 40, 4, 1, 0.0, "adam", 128),
        ("TinyImageNet", 40, 0, 1, 20.0, "adam", 128),
        ("PneumoniaMNIST", 10, 0, 1, 10.0, "sgd", 32),
    ],
)
def test_recipe(dataset, epochs, shift, flip, rotate, optimizer, batch_size):
    """DeepALPlus's args_pool: Adam 1e-3 at a constant rate without weight decay, 1,000 + 1,000
    labels by 128, the last query smaller; ResNet18 with max-pooling."""
    c = recipe("MarginSampling", dataset)
    assert (c.epochs, c.shift, c.flip, c.rotate) == (epochs, shift, flip, rotate)
    assert (c.optimizer, c.batch_size, c.lr, c.weight_decay) == (optimizer, batch_size, 1e-3, 0.0)
    assert (c.schedule, c.classifier, c.score_augmented) == ("constant", "resnet18_maxpool", 1)
    assert optimizer == "adam" or c.momentum == 0
    assert [c.query_size(r) for r in range(c.cycles)] == [0, *[128] * 7, 104]
    assert (c.budget(0), c.budget(c.n_rounds)) == (1000, 2000)


def test_noise():
    """By BatchNorm, ten passes, for the strategies that read them; a flag overrides it."""
    bald = recipe("BALDDropout", "CIFAR10")
    assert (bald.mc_noise, bald.mc_passes, bald.head_dropout) == ("batchnorm", 10, None)
    margin = recipe("MarginSampling", "CIFAR10")
    assert (margin.mc_noise, margin.mc_passes, margin.head_dropout) == (None, None, None)
    other = recipe("BALDDropout", "CIFAR10", mc_noise="head_dropout")
    assert (other.mc_noise, other.head_dropout) == ("head_dropout", 0.5)
    assert recipe("BALDDropout", "CIFAR10", score_augmented=0).score_augmented == 0


def run(output, *args):
    """(the folder, the rows) of one run in this process."""
    assert main([*SMALL, "--output", str(output), *map(str, args)]) == 0
    return only_run(output)


def test_a_monte_carlo_run(tmp_path):
    """On the protocol's own network: labels bought, none twice, the last query smaller."""
    folder, rows = run(tmp_path, "--strategy", "BALDDropout", "--mc-passes", "2")
    assert [r["labels"] for r in rows] == [20, 30, 35]
    config = folder.config
    assert (config.classifier, config.mc_noise, config.score_augmented) == (
        "resnet18_maxpool", "batchnorm", 1)  # fmt: skip
    assert len({i for picks in folder.picks() for i in picks.tolist()}) == 35


def test_a_run_scored_under_augmentation(tmp_path):
    """The same run twice picks the same; without augmentation it picks other images."""
    flags = ["--strategy", "MarginSampling", "--classifier", "small_cnn", "--shift", "2"]
    picks, accuracies = [], []
    for name, more in (("a", []), ("b", []), ("c", ["--score-augmented", "0"])):
        folder, rows = run(tmp_path / name, *flags, *more)
        assert folder.config.score_augmented == (name != "c")
        picks.append([p.tolist() for p in folder.picks()])
        accuracies.append(rows[0]["accuracy"])
    assert picks[0] == picks[1] and picks[0][0] == picks[2][0] and picks[0][1] != picks[2][1]
    assert accuracies[0] == accuracies[1] == accuracies[2]  # round 0: no pick is in it yet


def score(learner, data, seed):
    seeding.seed_globals(seed, "query", 1)
    learner._seen = None
    return learner.predict_logits(data)


def test_augmentation_when_scoring(toy):
    """The pool is augmented, labeled part and whole too, from the query's stream; the test set,
    the training set and a pool without it are not."""
    fields = {"shift": 2, "flip": 1, "strategy": "BALDDropout", "reads": MonteCarloStrategy.reads}
    learner = Learner(small_config(**fields), SmallCNN, (8, 8, 1), 3, torch.device("cpu"))
    plain, augmented = Pool(toy), Pool(toy, score_augmented=True)
    for pool in (plain, augmented):
        pool.initialize_labels(20, 0)
    learner.fit(augmented.training_set(), 0)
    for part in ("get_unlabeled_data", "get_labeled_data", "get_train_data"):
        data, same = (getattr(p, part)()[1] for p in (augmented, plain))
        assert torch.equal(score(learner, data, 1), score(learner, data, 1))
        assert not torch.allclose(score(learner, data, 1), score(learner, data, 2), atol=1e-3)
        assert not torch.allclose(score(learner, data, 1), score(learner, same, 1), atol=1e-3)
        assert torch.equal(score(learner, same, 1), score(learner, same, 2))
    for part in ("get_test_data", "training_set"):
        data, same = (getattr(p, part)() for p in (augmented, plain))
        assert torch.equal(score(learner, data, 1), score(learner, same, 2))


def test_augmented_scores_are_those_of_a_shifted_image(toy):
    """With only a shift each image's logits are those of one of its crops after padding."""
    still = {"rotate": 0.0, "zoom": 0.0, "flip": 0, "shift": 1}
    learner = Learner(small_config(**still), SmallCNN, (8, 8, 1), 3, torch.device("cpu"))
    pool = Pool(toy, score_augmented=True)
    pool.initialize_labels(20, 0)
    learner.fit(pool.training_set(), 0)
    _, data = pool.get_unlabeled_data()
    ours = score(learner, data, 0)
    images = torch.from_numpy(data.X).permute(0, 3, 1, 2).float() / 255
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    crops = [padded[:, :, r : r + 8, c : c + 8] for r in range(3) for c in range(3)]
    with torch.no_grad():
        logits = torch.stack([learner.logits(c) for c in crops])
    gap = (logits - ours).abs().amax(2).amin(0)
    assert gap.max() < 1e-4


def test_modern_is_the_papers_but_for_how_a_fit_is_trained(tmp_path):
    paper, modern = (
        resolve("MarginSampling", "CIFAR10", flags={"protocol": p}) for p in ("paper", "modern")
    )
    differs = {k for k, v in vars(modern).items() if v != getattr(paper, k)} - {"protocol"}
    assert differs == {"schedule", "lr", "ema", "label_smoothing", "rand_augment"}
    assert modern.rand_magnitude == 9
    small = ["--protocol", "modern", "--classifier", "small_cnn", "--dataset", "Digits"]
    assert main([*QUICK, *small, "--strategy", "BADGE", "--output", str(tmp_path)]) == 0
    ((row, _),) = rows_of(tmp_path).values()
    assert (row["round"], row["labels"]) == (0, 10)
