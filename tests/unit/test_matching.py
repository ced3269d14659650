"""GALOT's bank of plain images, and what it asks of the unlabeled pool, round by round."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepal_galot import galot as generating
from deepal_galot import seeding
from deepal_galot.alignment import moments_of
from deepal_galot.borrowed_galot import BorrowedGalot
from deepal_galot.errors import UserError
from deepal_galot.galot import Galot
from deepal_galot.image_counts import (
    best_of_each,
    class_counts,
    image_counts,
    new_counts,
    reuses_earlier_rounds,
)
from deepal_galot.images import to_uint8
from generators.image_store import ImageStore, read_manifest
from generators.text_optimization import optimize_each
from helpers import small_config

SHAPE, NAMES = (8, 8, 1), ("one", "two", "three")


class Journal:
    """Remembers in memory."""

    def __init__(self):
        self.kept = {}

    def has(self, name, round):
        return (name, round) in self.kept

    def load(self, name, round):
        return dict(self.kept[name, round])

    def save(self, name, round, tensors):
        self.kept[name, round] = {k: v.clone() for k, v in tensors.items()}


class Asked:
    """A pool that keeps the darkest images of each class, and remembers what it was asked."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (50, 8, 8, 1)).astype(np.uint8)
        self.rounds = []

    def moments(self):
        return moments_of(self.images)

    def choose(self, x, y, plain, counts, round):
        self.rounds.append((round, len(x), np.bincount(y[plain]).tolist()))
        dark = [np.flatnonzero(y == k) for k in range(len(counts))]
        return np.concatenate([
            where[np.argsort(x[where].mean((1, 2, 3)), kind="stable")[:n]]
            for where, n in zip(dark, counts, strict=True)
        ])  # fmt: skip


def config(**fields):
    own = {"strategy": "GALOT", "mode": "al+gal", "epsilon": 0.0, "n_synthetic": 2.0}
    return small_config(**own | fields)


def galot(config, generator, folder, journal=None, unlabeled=None):
    return Galot(config, generator, ImageStore(folder), journal or Journal(), NAMES, SHAPE,
                 unlabeled)  # fmt: skip


def batch(galot, round, logits=None):
    return galot.make_images(logits, round)


def keys(images):
    return {image.tobytes() for image in images}


def test_without_an_ascent_a_round_makes_only_what_is_missing(fake_generator, tmp_path):
    """Budgets 10, 15, 20 and two images a label: 20, 30, 40 of three classes."""
    own = galot(config(), fake_generator, tmp_path)
    rounds = [batch(own, r) for r in range(3)]
    assert [len(b.y) for b in rounds] == [20, 30, 40]
    at_hand = np.array([image_counts(own.config, 3, r)[1] for r in range(3)]).max(0).sum()
    assert sum(b.made for b in rounds) == at_hand <= 42
    assert len(keys(np.concatenate([b.x for b in rounds]))) == at_hand
    assert len({b.key for b in rounds}) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"epsilon": 1.0},
        {"synthetic": "accumulate"},
        {"generator": "folder:x"},
        {"keep": "acquisition", "oversample": 2.0},
    ],
)
def test_where_earlier_images_are_not_as_good_each_round_makes_its_own(fields):
    """Before, keep=acquisition scored images that its classifier had been trained on."""
    assert not reuses_earlier_rounds(config(**fields))
    for r in range(3):
        made = new_counts(config(**fields), 3, r)
        assert made == image_counts(config(**fields), 3, r)[1]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 30), st.sampled_from([0.1, 0.5, 1, 3]),
    st.sampled_from([1.0, 1.5, 4.0]), st.integers(2, 12),
)  # fmt: skip
def test_what_is_at_hand_is_never_less_than_what_is_chosen_from(n_init, n_query, n, times, k):
    own = config(n_init=n_init, n_query=n_query, n_rounds=5, n_synthetic=n, oversample=times)
    at_hand = np.zeros(k, int)
    for r in range(6):
        new = np.array(new_counts(own, k, r))
        assert (new >= 0).all()
        at_hand += new
        kept, wanted = image_counts(own, k, r)
        assert (at_hand >= wanted).all() and (at_hand >= kept).all()


def test_who_gets_one_image_more_is_drawn_anew_each_round():
    counts = [class_counts(10, 3, 0, r) for r in range(60)]
    assert {tuple(sorted(c)) for c in counts} == {(3, 3, 4)}
    assert np.bincount([c.index(4) for c in counts], minlength=3).min() > 8


def test_of_equal_scores_the_first_are_kept():
    y, scores = np.repeat([0, 1], 40), np.tile([1.0, 2.0], 40)
    assert best_of_each(y, (3, 21), scores).tolist() == [1, 3, 5, 40, *range(41, 80, 2)]


def test_what_is_kept_at_random_is_drawn_for_each_class_and_round(fake_generator, tmp_path):
    own, y = galot(config(seed=3), fake_generator, tmp_path), np.repeat(range(3), 20)
    for round in (0, 1):
        counts, _ = image_counts(own.config, 3, round)
        expected = [
            20 * k + np.sort(seeding.numpy_rng(3, "keep", round, k).permutation(20)[:n])
            for k, n in enumerate(counts)
        ]
        assert own._keep(None, y, None, round).tolist() == np.concatenate(expected).tolist()


def test_probes_have_noise_and_prompts_by_their_place(fake_generator, tmp_path, monkeypatch):
    """Probe i of a class: of the round's stream, with prompt i mod P, as its images have."""
    fields = {"epsilon": 1.0, "direction": "random", "template": "label | photo"}
    own = galot(config(seed=3, **fields), fake_generator, tmp_path)
    drawn, sample = [], fake_generator.sample

    def record(c, seeds, *rest):
        drawn.extend(zip(c, seeds, strict=True))
        return sample(c, seeds, *rest)

    monkeypatch.setattr(fake_generator, "sample", record)
    state = own.text(lambda images: images.flatten(1)[:, :3], 1)
    places = [(k, i) for k in range(3) for i in range(4)]
    for part, c in ((drawn[:12], state.c0), (drawn[12:], state.c)):
        assert [s for _, s in part] == [seeding.derive(3, "probe", 1, k, i) for k, i in places]
        assert all(
            torch.equal(v, c[2 * k + i % 2]) for (v, _), (k, i) in zip(part, places, strict=True)
        )


def test_a_text_is_scored_by_the_label_of_its_class(fake_generator, tmp_path):
    fields = {"text_target": "max_loss", "template": "label | photo", "epsilon": 1.0}
    score = galot(config(**fields), fake_generator, tmp_path)._image_score(
        lambda images: torch.tensor([[3.0, 1.0, 0.0]]).expand(len(images), -1)
    )
    expected = -torch.tensor([3.0, 1.0, 0.0]).log_softmax(0).repeat_interleave(2)
    torch.testing.assert_close(score(torch.rand(6, 3, 16, 16), torch.arange(6)), expected)


def test_each_image_is_scored_by_its_own_pseudo_label(fake_generator, tmp_path, monkeypatch):
    """In whichever batch it is."""
    monkeypatch.setattr(generating, "SCORED_AT_ONCE", 4)
    own = galot(config(text_target="max_loss"), fake_generator, tmp_path)
    logits, y = torch.tensor([3.0, 1.0, 0.0]), np.arange(10) // 4
    scores = own._scores(np.zeros((10, 8, 8, 1), np.uint8), y, lambda x: logits.expand(len(x), -1))
    np.testing.assert_allclose(scores, -logits.log_softmax(0).numpy()[y], rtol=1e-6)


def test_the_distance_that_arrives_is_the_networks(fake_generator, tmp_path, monkeypatch):
    monkeypatch.setattr(fake_generator, "arrived", lambda c: 2 * c)
    own = galot(config(epsilon=1.0, direction="random"), fake_generator, tmp_path)
    state = own.text(lambda images: images.flatten(1)[:, :3], 0)
    torch.testing.assert_close(state.arrived_distance, 2 * state.ascent_distance[-1])


def test_what_arrives_of_texts_of_their_own_is_the_mean_of_a_class(
    fake_generator, tmp_path, monkeypatch
):  # fmt: skip
    """The network reads nothing of class 0's four probes, and class 2's twice as large."""
    scale = torch.arange(3.0).repeat_interleave(4)[:, None, None]
    monkeypatch.setattr(fake_generator, "arrived", lambda c: scale * c)
    own = config(epsilon=1.0, direction="random", text_per="image")
    state = galot(own, fake_generator, tmp_path).text(lambda images: images.flatten(1)[:, :3], 0)
    expected = torch.arange(3.0) * state.ascent_distance[-1]
    torch.testing.assert_close(state.arrived_distance, expected)


def test_the_row_says_what_the_ascent_did(fake_generator, tmp_path):
    """One of 24 images has no score."""
    calls = itertools.count()

    def logits(images):
        good = [torch.nan if next(calls) == 0 else 1.0 for _ in images]
        return images.flatten(1)[:, :3] * torch.tensor(good)[:, None]

    own = config(epsilon=1.0, ascent_steps=2, ascent_samples=4)
    state = galot(own, fake_generator, tmp_path).text(logits, 0)
    scores = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 3, 4)
    measures = dataclasses.replace(state, probe_score=scores).measures
    names = ("score_before", "score_after", "ascent_failed")
    assert [measures[name] for name in names] == [0, 1, 1]
    # An image that overflows after the ascent leaves both of its pair out.
    scores = torch.tensor([[[0.0, 4.0]], [[1.0, torch.nan]]])
    measures = dataclasses.replace(state, probe_score=scores).measures
    assert [measures[name] for name in names] == [0, 1, 1]
    measures = dataclasses.replace(state, probe_score=scores[:, :, 1:]).measures
    assert "score_before" not in measures and measures["distance"] > 0


def test_other_epsilons_are_other_images_where_each_has_a_text_of_its_own(fake_generator, tmp_path):
    """The classes' texts, which stay where they are, do not tell."""

    def key(epsilon):
        own = config(epsilon=epsilon, text_per="image", ascent_steps=1)
        ours = galot(own, fake_generator, tmp_path)
        text = ours.text(lambda images: images.flatten(1)[:, :3], 0)
        assert torch.equal(text.c, text.c0)
        return ours._request(text, None, 0).key(fake_generator)

    assert key(1.0) == key(1.0) != key(2.0)


def test_the_digest_is_of_all_that_was_seen(fake_generator, tmp_path):
    own = galot(config(epsilon=1.0, ascent_steps=1), fake_generator, tmp_path)
    state = own.text(lambda images: images.flatten(1)[:, :3], 0)
    for name, tensor in state.tensors.items():
        other = dataclasses.replace(state, **{name: tensor + 1})
        assert other.digest() != state.digest(), name


def test_the_pool_chooses_from_the_whole_bank_once(fake_generator, tmp_path):
    own, pool, journal = config(keep="pool", oversample=3.0), Asked(), Journal()
    first = galot(own, fake_generator, tmp_path, journal, pool)
    rounds = [batch(first, r) for r in range(2)]
    sizes = [n for _, n, _ in pool.rounds]
    assert sizes == [rounds[0].made, rounds[0].made + rounds[1].made]
    assert [plain for _, _, plain in pool.rounds] == [
        list(image_counts(own, 3, r)[0]) for r in range(2)
    ]
    # After a restart the choice is recalled: nobody is asked, and the bits are the same.
    again = galot(own, fake_generator, tmp_path, journal, unlabeled=None)
    for round, before in enumerate(rounds):
        now = batch(again, round)
        assert np.array_equal(now.x, before.x) and np.array_equal(now.y, before.y)
        assert now.key == before.key


def test_one_alignment_for_a_run_counted_once(fake_generator, tmp_path):
    pool, journal = Asked(), Journal()
    own = config(align="channels")
    aligned = galot(own, fake_generator, tmp_path / "a", journal, pool)
    plain = galot(config(), fake_generator, tmp_path / "b")
    first, second = batch(aligned, 0), batch(aligned, 1)
    assert first.made == batch(plain, 0).made + 3 * 30 and second.made == batch(plain, 1).made
    before, after = first.measures["mismatch_plain"], first.measures["mismatch"]
    assert second.measures["mismatch_plain"] == before
    assert max(after, second.measures["mismatch"]) < before / 3
    wanted, got = pool.moments(), moments_of(np.concatenate([first.x, second.x]))
    assert abs(got.mean - wanted.mean) < 0.02 and abs(got.std - wanted.std) < 0.03
    recalled = galot(own, fake_generator, tmp_path / "a", journal)
    assert np.array_equal(batch(recalled, 1).x, second.x)


def test_an_alignment_is_made_from_thirty_images_of_a_class_or_all_there_are(
    fake_generator, tmp_path, monkeypatch
):  # fmt: skip
    supplies = {"one": 100, "two": 7, "three": None}
    monkeypatch.setattr(fake_generator, "supply", supplies.get)
    own = galot(config(align="channels"), fake_generator, tmp_path)
    assert own._alignment_request().counts == (30, 7, 30)


def test_each_round_costs_its_own_images_once_whoever_made_them(
    fake_generator, tmp_path, a_second_a_batch
):
    """Before, whichever arm ran first paid for all."""

    def seconds(journal):
        aligned = galot(config(align="channels"), fake_generator, tmp_path, journal, Asked())
        return [batch(aligned, r).seconds_stored for r in (0, 1)]

    journal = Journal()
    assert seconds(journal) == [0, 0]
    made = [read_manifest(f) for f in tmp_path.rglob("*.json")]
    own = [sum(m["seconds"] for m in made if m["round"] == r) for r in (0, 1)]
    assert min(own) > 0 and seconds(Journal()) == pytest.approx(own)  # round 0's: the map's, too
    # After a kill in round 0 the map is journaled, and no row has what its images took.
    assert seconds(journal) == pytest.approx(own)


def test_the_gradient_and_the_probes_see_aligned_images(fake_generator, tmp_path):
    """The classifier must see in the ascent what it is trained on."""
    seen = []

    def logits(images):
        seen.append(images.detach())
        return images.flatten(1)[:, :3] * 5

    own = config(epsilon=1.0, align="channels", ascent_steps=1, ascent_samples=2)
    aligned = galot(own, fake_generator, tmp_path, unlabeled=Asked())
    state = aligned.text(logits, 0)
    c0, seeds = aligned.c0[:1], [7]
    raw = fake_generator.sample(c0, seeds)
    luma = raw.mul(raw.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    small = torch.nn.functional.interpolate(luma, (8, 8), mode="bilinear", antialias=True)
    match = aligned._match.alignment
    by_hand = (match.gain[:, None, None] * small + match.offset[:, None, None]).clamp(0, 1).float()
    torch.testing.assert_close(aligned._as_trained(raw), by_hand, atol=1e-6, rtol=0)
    everything = torch.cat(seen)
    wanted = Asked().moments()
    for images in (everything[:6], everything[6:]):  # of the ascent, of the probes
        got = moments_of(to_uint8(images))
        assert abs(got.mean - wanted.mean) < 0.05 and abs(got.std - wanted.std) < 0.05
    pictures = moments_of(state.probe_images.flatten(0, 2).numpy())
    assert abs(pictures.mean - wanted.mean) < 0.05


def test_without_an_ascent_the_probes_show_what_the_alignment_does(fake_generator, tmp_path):
    own = config(align="channels")
    aligned = galot(own, fake_generator, tmp_path / "a", unlabeled=Asked())
    plain = galot(config(), fake_generator, tmp_path / "b")
    before, after = aligned.text(None, 0).probe_images
    assert torch.equal(before, plain.text(None, 0).probe_images[0])
    assert torch.equal(*plain.text(None, 0).probe_images)
    wanted, own = Asked().moments(), moments_of(after.flatten(0, 1).numpy())
    as_made = moments_of(before.flatten(0, 1).numpy())
    assert abs(own.std - wanted.std) < 0.05 < 0.2 < abs(as_made.std - wanted.std)


def test_a_run_without_an_ascent_shows_its_pictures_once(fake_generator, tmp_path):
    own = galot(config(), fake_generator, tmp_path)
    assert own.text(None, 0).probe_images.shape[2] > 0
    assert own.text(None, 1).probe_images.shape[2] == 0


def test_borrowed_images_are_the_kept_and_aligned_ones_and_load_nothing(fake_generator, tmp_path):
    own, journal = config(keep="pool", oversample=2.0, align="channels"), Journal()
    made = galot(own, fake_generator, tmp_path, journal, Asked())
    rounds = [batch(made, r) for r in range(2)]

    def load():
        raise AssertionError("nothing is missing")

    borrowed = BorrowedGalot(own, load, ImageStore(tmp_path), journal, NAMES, SHAPE,
                             [b.key for b in rounds])  # fmt: skip
    for r, before in enumerate(rounds):
        now = borrowed.make_images(None, r)
        assert np.array_equal(now.x, before.x) and now.made == 0


def test_mode_gal_has_no_pool_to_ask():
    own = dataclasses.replace(config(keep="pool", oversample=4.0, align="pool"), mode="gal")
    assert not own.asks_pool and not own.aligns
    assert image_counts(own, 3, 0)[0] == image_counts(own, 3, 0)[1]
    assert not {"keep", "oversample", "align"} & own.fields_read().keys()
    plain = dataclasses.replace(config(), mode="gal")
    assert own.fields_read().keys() == plain.fields_read().keys() - {"oversample"}


@pytest.mark.parametrize("keep", ["pool", "diversity", "discriminator", "bald", "acquisition"])
def test_a_choice_needs_something_to_choose_from(keep):
    with pytest.raises(
        UserError, match="--oversample 1: leaves keep=.* nothing to choose from; set it above 1"
    ):
        config(keep=keep)


def test_images_without_a_background_are_left_as_they_are_and_it_is_said(
    fake_generator, tmp_path, capsys
):
    own = galot(config(align="pool"), fake_generator, tmp_path, unlabeled=Asked())
    plain = galot(config(), fake_generator, tmp_path)
    assert np.array_equal(batch(own, 0).x, batch(plain, 0).x)
    assert "no plain background, so they stay as they are" in capsys.readouterr().err


def test_texts_of_their_own_climb_by_the_rounds_epsilon(fake_generator, tmp_path, monkeypatch):
    """Those of training images, and those of the probes that the row tells of."""
    used = []

    def noted(generator, c, seeds, score, config, epsilon):
        used.append(epsilon)
        return optimize_each(generator, c, seeds, score, config, epsilon)

    monkeypatch.setattr(generating, "optimize_each", noted)
    own = config(epsilon=3.0, text_per="image", ascent_steps=1, n_rounds=2)
    ours = galot(own, fake_generator, tmp_path)
    for round, epsilon in enumerate([1.0, 2.0, 3.0]):
        used.clear()
        batch(ours, round, lambda images: images.flatten(1)[:, :3])
        assert len(used) > 1 and set(used) == {epsilon}


def test_texts_of_their_own_stop_where_too_many_gradients_are_not_finite(fake_generator, tmp_path):
    """Of 30 images and 2 steps: 3 of 60 failures are 5 %, 4 are more, in whatever batch they are.
    Before, images of texts that never moved were trained on, without a word."""
    c = config(epsilon=1.0, epsilon_schedule="constant", text_per="image", ascent_steps=2)
    ours, bad, calls = galot(c, fake_generator, tmp_path), [], itertools.count()

    def logits(images):
        factor = torch.tensor([torch.nan if next(calls) in bad else 1.0 for _ in images])
        return images.flatten(1)[:, :3] * factor[:, None]

    refine, rows = ours._refine(logits, 0, n=30), torch.tensor([0, 1, 2])
    bad += [0, 4, 11]  # of the first batch two, in other steps; of the second one
    for seeds in ([1, 2, 3], [4, 5, 6]):
        refine(ours.c0, seeds, rows)
    bad.append(12)
    with pytest.raises(UserError, match="4 of 60 images of the generator FakeGenerator in"):
        refine(ours.c0, [7, 8, 9], rows)


@pytest.mark.parametrize("direction", ["sign", "random"])
def test_a_lost_text_cannot_be_made_without_the_classifier(fake_generator, tmp_path, direction):
    """As after somebody removed it from a finished round's folder; before, a traceback."""
    own = config(epsilon=1.0, direction=direction, ascent_steps=1, ascent_samples=1)
    with pytest.raises(UserError, match="round 0's images is gone from the results"):
        batch(galot(own, fake_generator, tmp_path), 0)
