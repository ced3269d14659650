"""What tests share: a quick configuration, a fake generator, running the command line."""

from __future__ import annotations

import json
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepal_galot import registry
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.config import RunConfig
from deepal_galot.datasets.base import DatasetSpec
from deepal_galot.datasets.digits import Digits
from deepal_galot.learner import Learner, Outputs
from deepal_galot.pool import ImageSet, Pool
from deepal_galot.protocols import resolve
from deepal_galot.results import RunFolder
from deepal_galot.signals import ENDING
from generators.base import Generator
from generators.tiny import Tiny

ROOT = Path(__file__).parents[1]
QUICK = [
    *("--n-init", "10", "--n-query", "5", "--n-rounds", "1", "--seeds", "0"),
    *("--epochs", "2", "--min-steps", "0", "--ascent-steps", "2", "--ascent-samples", "1"),
    *("--n-synthetic", "2", "--steps", "3"),
]


def run_benchmark(*args: object, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
    """`python run_benchmark.py ARGS` in a fresh process."""
    command = [sys.executable, str(ROOT / "run_benchmark.py"), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def rows_of(output: Path, strategy: str = "*", *, seconds: bool = False) -> dict[str, list[dict]]:
    """All rows below a results folder by run, without the seconds unless asked."""
    found = {}
    for file in sorted(output.glob(f"*/{strategy}/*/seed*/rounds.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        if not seconds:
            rows = [{k: v for k, v in r.items() if "seconds" not in k} for r in rows]
        found[str(file.parent.relative_to(output))] = rows
    return found


def only_run(output: Path, strategy: str = "*") -> tuple[RunFolder, list[dict]]:
    """The one run below a results folder, and its rows without the seconds."""
    ((path, rows),) = rows_of(output, strategy).items()
    return RunFolder.open(output / path), rows


def hear_signals() -> None:
    """What a shell starts in the background is deaf to Ctrl-C, and what nohup starts to SIGHUP; so
    would a test's child be."""
    for number in (signal.SIGINT, *ENDING):
        signal.signal(number, signal.SIG_DFL)


FAILS = '''
from query_strategies.random_sampling import RandomSampling

class Fails(RandomSampling):
    """fails in its first query"""

    def query(self, n):
        raise KeyError("nothing here")
'''


def plugin(tmp_path: Path, text: str, name: str = "mine.py") -> Path:
    """A file with this text."""
    path = tmp_path / name
    path.write_text(text)
    return path


STRATEGY = (
    "from .strategy import Strategy\nclass Mine(Strategy):\n    def query(self, n): return []\n"
)


def write_idx(file: Path, array: np.ndarray) -> None:
    """MNIST's file format: 0 0 8 ndim, big-endian sizes, bytes."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(head + array.astype(np.uint8).tobytes())


def image_hashes(output: Path) -> dict[str, bytes]:
    """Every shard's pixels by name."""
    return {
        f.name: np.load(f)["images"].tobytes() for f in sorted((output / "images").rglob("*.npz"))
    }


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9pt" height="9pt" viewBox="0 0 9 9"/>'


def small_config(**fields) -> RunConfig:
    """A configuration that fits in a second."""
    quick = {"n_init": 10, "n_query": 5, "n_rounds": 2, "epochs": 2, "min_steps": 0}
    defaults = dict(Digits.defaults)
    own = ("strategy", "dataset", "seed", "mode", "reads")
    names = {k: fields.pop(k) for k in own if k in fields}
    return resolve(
        names.pop("strategy", "MarginSampling"),
        names.pop("dataset", "Digits"),
        names.pop("seed", 0),
        **names,
        flags=quick | fields,
        dataset_defaults=defaults,
        generator_defaults=Tiny.defaults,
    )


def changed_pipeline(folder: Path, unet: dict | None = None, **scheduler) -> Path:
    """A copy of the embedded pipeline with other scheduler options, or UNet's (random weights)."""
    from diffusers import UNet2DConditionModel

    shutil.copytree(Tiny.source, folder)
    if unet is not None:
        torch.manual_seed(0)
        config = UNet2DConditionModel.load_config(folder / "unet")
        UNet2DConditionModel.from_config(config | unet).save_pretrained(folder / "unet")
    file, index = folder / "scheduler" / "scheduler_config.json", folder / "model_index.json"
    changed = json.loads(file.read_text()) | scheduler
    file.write_text(json.dumps(changed))
    parts = json.loads(index.read_text())
    index.write_text(json.dumps(parts | {"scheduler": ["diffusers", changed["_class_name"]]}))
    return folder


class FakeGenerator(Generator):
    """Images 16×16 whose brightness pattern is a fixed linear map of c plus seeded noise."""

    batch_size = 4
    identity = {"weights": "fake"}

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.map = torch.randn(3 * 16 * 16, 6 * 5, generator=rng)
        self.calls: list[list[int]] = []

    @classmethod
    def content_hash(cls) -> str:
        return "fake"

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([
            torch.randn(6, 5, generator=torch.Generator().manual_seed(len(p) + ord(p[-1])))
            for p in prompts
        ])  # fmt: skip

    def sample(
        self, c: Tensor, seeds: Sequence[int], graph: str = "none", steps: int | None = None
    ) -> Tensor:
        self.calls.append(list(seeds))
        noise = torch.stack([
            torch.randn(3 * 16 * 16, generator=torch.Generator().manual_seed(s)) for s in seeds
        ]).to(c)  # fmt: skip
        c = c.detach() if graph == "none" else c
        return torch.sigmoid(c.flatten(1) @ self.map.T.to(c) / 5 + noise).reshape(-1, 3, 16, 16)


class NoJournal:
    """Remembers no text state."""

    def has(self, name, round):
        return False

    def save(self, name, round, tensors): ...


def indexed_pool(n: int, labeled: Sequence[int] = ()) -> Pool:
    """A pool of n ≤ 65,536 images whose pixels spell their index, so that FixedLearner knows them.

    Three classes; the images in `labeled` are labeled.
    """
    x = np.zeros((n, 8, 8, 1), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 1, 0] = np.divmod(np.arange(n), 256)
    y = np.arange(n) % 3
    spec = DatasetSpec("indexed", x, y, x[:0], y[:0], ("a", "b", "c"), (0.3,), (0.3,))
    pool = Pool(spec)
    pool.label(np.asarray(labeled, np.int64))
    return pool


class FixedLearner(Learner):
    """Answers with given numbers for each image of an indexed_pool.

    Attributes:
        fixed_logits: [N, K]; fixed_embeddings: [N, D]; passes: [T, N, K] Monte Carlo
            probabilities, or None to draw them from the head as the real learner does.
    """

    def __init__(
        self,
        logits: np.ndarray | None = None,
        embeddings: np.ndarray | None = None,
        passes: np.ndarray | None = None,
        config: RunConfig | None = None,
    ) -> None:
        super().__init__(config or small_config(), SmallCNN, (8, 8, 1), 3, torch.device("cpu"))
        n = len(embeddings if logits is None else logits) if passes is None else passes.shape[1]
        none = np.zeros((n, 3))
        logits, embeddings = (none if v is None else v for v in (logits, embeddings))
        self.fixed_logits = torch.tensor(logits, dtype=torch.float32)
        self.fixed_embeddings = torch.tensor(embeddings, dtype=torch.float32)
        self.passes = None if passes is None else torch.tensor(passes, dtype=torch.float32)

    def outputs(self, data: ImageSet) -> Outputs:
        rows = self._rows(data)
        return Outputs(self.fixed_logits[rows], self.fixed_embeddings[rows])

    def apply_to_passes(self, data: ImageSet, function, passes: int | None = None) -> Tensor:
        if self.passes is None:
            return super().apply_to_passes(data, function, passes)
        return torch.cat([function(p) for p in self.passes[:, self._rows(data)].split(16, dim=1)])

    @staticmethod
    def _rows(data: ImageSet) -> Tensor:
        return torch.from_numpy(data.X[:, 0, 0, 0].astype(np.int64) * 256 + data.X[:, 0, 1, 0])


def make_strategy(name: str, pool: Pool, learner: Learner):
    """The registered strategy of that name on this pool and learner."""
    task = {"num_class": 3, "class_names": ("a", "b", "c"), "image_shape": (8, 8, 1)}
    return registry.strategies.get(name)(pool, learner, learner.config, task)


def recorded_scores(strategy) -> list[Tensor]:
    """From now on, what the strategy hands to `top`, in a list that grows with each query."""
    seen, top = [], strategy.top

    def record(n: int, idxs: np.ndarray, scores: Tensor) -> np.ndarray:
        seen.append(scores)
        return top(n, idxs, scores)

    strategy.top = record
    return seen
