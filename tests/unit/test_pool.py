"""Budget, hidden labels, and generated images that shift nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepal_galot.errors import UserError
from deepal_galot.pool import UNKNOWN, Pool, SyntheticQuery, check_budget, check_query


def test_labels_are_hidden_until_bought(toy):
    pool = Pool(toy)
    assert (pool.Y_train == UNKNOWN).all()
    picks = pool.initialize_labels(7, seed=0)
    assert pool.n_labeled == 7 and picks.tolist() == sorted(picks)
    assert (pool.Y_train[picks].numpy() == toy.y_train[picks]).all()
    assert (pool.get_unlabeled_data()[1].Y == UNKNOWN).all()
    assert (pool.get_partial_unlabeled_data()[1] == UNKNOWN).all()
    assert torch.equal(pool.get_data_by_idx(np.arange(60))[1], pool.Y_train)


def test_same_seed_same_initial_pool(toy):
    first, again, other = (Pool(toy).initialize_labels(9, s).tolist() for s in (1, 1, 2))
    assert first == again != other


@given(st.lists(st.sampled_from(range(60)), unique=True, max_size=60))
@settings(max_examples=50, deadline=None)
def test_labeling_is_exact(idxs):
    from deepal_galot.datasets.base import DatasetSpec

    y = np.arange(60) % 3
    x = np.zeros((60, 8, 8, 1), np.uint8)
    pool = Pool(DatasetSpec("t", x, y, x, y, ("a", "b", "c"), (0.5,), (0.5,)))
    pool.label(idxs)
    assert np.flatnonzero(pool.labeled_idxs).tolist() == sorted(idxs)
    known, _ = pool.get_labeled_data()
    unknown, _ = pool.get_unlabeled_data()
    assert sorted([*known, *unknown]) == list(range(60))


@pytest.mark.parametrize(
    ("idxs", "says"),
    [([1, 1], "repeated"), ([-1], "outside"), ([60], "outside"), ([0], "labeled already"),
     ([1.5], "whole numbers"), ([[1]], "shape"), ({7}, "got set: return an array"),
     (torch.tensor([1.5], dtype=torch.bfloat16, requires_grad=True), "not torch.bfloat16")],
)  # fmt: skip
def test_bad_indices_are_refused(toy, idxs, says):
    pool = Pool(toy)
    pool.label([0])
    with pytest.raises(ValueError, match=says):
        pool.label(idxs)
    assert pool.n_labeled == 1


@pytest.mark.parametrize(
    ("idxs", "says"),
    [(torch.zeros(2, dtype=torch.int64, device="meta"), "on the meta device, which holds no num"),
     ([torch.zeros((), dtype=torch.int64, device="meta")] * 2, "got what is no array"),
     (torch.eye(2, dtype=torch.int64).to_sparse(), "got what is no array"),
     (np.arange(5) < 2, r"got a mask of 5 truth values: return np.flatnonzero\(mask\)"),
     (torch.arange(4) < 2, r"got a mask of 4 truth values: return indices\[mask\]")],
)  # fmt: skip
def test_what_holds_no_indices_is_said(idxs, says):
    """Before, a traceback, and of a mask that its shape was wrong."""
    with pytest.raises(ValueError, match=says):
        check_query(idxs, 2, np.zeros(5, bool))


def test_too_few_indices_are_refused():
    with pytest.raises(ValueError, match="got None: return them"):
        check_query(None, 1, np.zeros(5, bool))
    with pytest.raises(ValueError, match="got generator: return an array"):
        check_query((i for i in [7]), 1, np.zeros(5, bool))
    with pytest.raises(ValueError, match="asked for 3"):
        check_query([1, 2], 3, np.zeros(5, bool))


@pytest.mark.parametrize("n", [2, 4])
def test_three_images_answer_a_query_for_three(n):
    images, mask = np.zeros((3, 8, 8, 1), np.uint8), np.zeros(5, bool)
    with pytest.raises(ValueError, match=f"asked for {n} images, got 3"):
        check_query(SyntheticQuery(images), n, mask)


def test_labels_are_bought_not_brought():
    brought = SyntheticQuery(np.zeros((3, 8, 8, 1), np.uint8), np.zeros(3, np.int64))
    assert check_query(brought, 3, np.zeros(5, bool)).labels is None


def test_nobody_labels_by_writing_to_the_mask(toy):
    pool = Pool(toy)
    pool.get_train_data()[0][:] = True
    assert pool.n_labeled == 0


def test_generated_images_stand_beside_the_real_ones(toy):
    pool = Pool(toy)
    pool.label([3, 5])
    images, labels = np.full((4, 8, 8, 1), 9, np.uint8), np.array([0, 1, 2, 0])
    pool.set_synthetic(images, labels, accumulate=False)
    both = pool.training_set()
    assert len(both) == 6 and both.Y.tolist() == [*toy.y_train[[3, 5]], 0, 1, 2, 0]
    assert len(pool.training_set(real=False)) == 4
    assert (pool.n_labeled, pool.n_synthetic, pool.n_pool) == (2, 4, 60)
    pool.set_synthetic(images[:1], labels[:1], accumulate=True)
    assert pool.n_synthetic == 5
    pool.set_synthetic(images[:1], labels[:1], accumulate=False)
    assert pool.n_synthetic == 1
    with pytest.raises(ValueError, match="the pool's are"):
        pool.set_synthetic(images[:, :4], labels, accumulate=False)


def test_items_are_deepalplus_triples(toy):
    pool = Pool(toy)
    image, label, i = pool.get_test_data()[4]
    assert image.shape == (1, 8, 8) and label == toy.y_test[4] and i == 4
    expected = (toy.x_test[4, ..., 0] / 255 - 0.3) / 0.3
    np.testing.assert_allclose(image[0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_images_by_their_place_among_the_unlabeled(toy):
    pool = Pool(toy)
    pool.label(np.array([0, 2]))
    assert np.array_equal(pool.get_unlabeled_data_by_idx(np.array([0, 1, 5])),
                          toy.x_train[[1, 3, 7]])  # fmt: skip


def test_a_single_index_may_be_a_scalar(toy):
    """An unmodified DeepALPlus strategy's answer to query(1)."""
    assert check_query(np.arange(60)[torch.tensor([7])], 1, np.zeros(60, bool)).tolist() == [7]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16])
def test_labels_of_any_integer_type(toy, dtype):
    spec = dataclasses.replace(toy, y_train=toy.y_train.astype(dtype))
    pool = Pool(spec)
    pool.label([5])
    assert pool.Y_train[5] == toy.y_train[5]


@pytest.mark.parametrize(
    ("mean", "std"), [((120.0,), (50.0,)), ((0.3,), (0.0,)), ((float("nan"),), (0.2,))]
)
def test_statistics_are_of_pixels_in_0_to_1(toy, mean, std):
    with pytest.raises(UserError, match=r"must be those of pixels in \[0, 1\]"):
        dataclasses.replace(toy, mean=mean, std=std)


def test_labels_that_begin_at_1_are_told(toy):
    one, of_three = toy.y_train % 2 + 1, toy.class_names
    assert len(of_three) == 3
    with pytest.raises(UserError, match=r"labels begin at 1\? save y - 1"):
        dataclasses.replace(toy, y_train=one)


def test_what_runs_share_cannot_be_written_to(toy):
    """Before, a strategy that wrote into the images spoiled every other run of the process."""
    pool = Pool(toy)
    for shared in (pool.X_train, pool.X_test, pool.get_test_data().X):
        with pytest.raises(ValueError, match="read-only"):
            shared[:] = 0
    labels = toy.y_test.tolist()
    pool.get_test_data().Y[:] = 7
    assert pool.get_test_data().Y.tolist() == labels
    pool.get_unlabeled_data()[1].X[:] = 0
    assert pool.X_train.any()


def test_statistics_must_fit_the_channels(toy):
    with pytest.raises(UserError, match="1 channels"):
        dataclasses.replace(toy, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))


def test_hidden_labels_are_in_no_public_attribute(toy):
    pool = Pool(toy)
    for name, value in vars(pool).items():
        if not name.startswith("_") and hasattr(value, "__len__") and len(value) == 60:
            assert not np.array_equal(np.asarray(value).reshape(60, -1)[:, 0], toy.y_train), name


def test_budget_larger_than_the_pool(toy):
    check_budget(toy, 60)
    with pytest.raises(UserError, match="61 labels .* larger than the pool"):
        check_budget(toy, 61)
