"""Named random streams: every random number of a run comes from its seed and a name.

A stream is addressed, never advanced. `image(round, class, index, attempt)` is always the same,
whatever was drawn before. So order, batching, restarts and other strategies do not change it.

| stream                                | what it drives                                         |
|---------------------------------------|--------------------------------------------------------|
| load                                  | what a data set of one's own draws while it loads      |
| init_pool                             | the initial labeled set, shared by all strategies      |
| weights(round)                        | classifier initialisation, shared by all strategies    |
| batches(round)                        | batch order and augmentation, shared by all strategies |
| dropout(round)                        | head dropout while training                            |
| network(round)                        | random numbers of a user's network while training      |
| query(round)                          | a strategy's own randomness                            |
| model(i)                              | networks that a strategy trains once a run             |
| quota(round)                          | which classes get one generated image more             |
| keep(round, class)                    | which of an oversampled set of images are kept         |
| chosen(round)                         | k-means of images that are matched to the pool         |
| measured(round)                       | pool images whose distance to generated ones is shown  |
| ascent(round, text, step, i)          | the noise of sample i of an ascent step of a text      |
| direction(round, text, step)          | the random-direction control                           |
| probe(round, class, i)                | fresh noise for before/after pictures and scores       |
| image(round, class, index, attempt)   | the noise of one training image                        |
| folder(round, class)                  | the order in which a folder's images are taken         |

A further network of a round, member m of a committee, has the key (round, m) in place of (round).
A text is a row of c0: class · templates + template. An image with a text of its own has the stream
direction(step) of its own seed.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

STREAMS = ("load", "init_pool", "weights", "batches", "dropout", "network", "query", "model",
           "quota", "keep", "chosen", "measured", "ascent", "direction", "probe", "image",
           "folder")  # fmt: skip


def derive(seed: int, stream: str, *key: int) -> int:
    """A number below 2⁶³ for one address of one named stream.

    Python's generator, NumPy's default_rng and CUDA's use all of it as a seed; torch's CPU
    generator uses its low 32 bits.

    Args:
        seed: the run's seed, any non-negative int.
        stream: one of STREAMS.
        key: the address within the stream.
    """
    if stream not in STREAMS:
        raise KeyError(f"no random stream {stream!r}; known: {STREAMS}")
    return _hashed(seed, stream, *map(int, key))


def _hashed(*words: object) -> int:
    """63 bits of the SHA-256 of these words."""
    text = ":".join(map(str, words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(seed: int, stream: str, *key: int) -> np.random.Generator:
    """A NumPy generator for one address of one named stream."""
    return np.random.default_rng(derive(seed, stream, *key))


def torch_rng(seed: int, stream: str, *key: int) -> torch.Generator:
    """A CPU torch generator for one address of one named stream; the same numbers on any device."""
    return torch.Generator().manual_seed(derive(seed, stream, *key))


def seed_globals(seed: int, stream: str, *key: int) -> None:
    """Seed Python's, NumPy's and torch's global generators, for code that draws from them.

    NumPy's and torch's are the same algorithm, MT19937 with a 32-bit seed. With the same seed,
    torch's numbers would be made of NumPy's words. So NumPy gets another seed.
    """
    value = derive(seed, stream, *key)
    random.seed(value)
    np.random.seed(_hashed("numpy", value) % 2**32)
    torch.manual_seed(value)
