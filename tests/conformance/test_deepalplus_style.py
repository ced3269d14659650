"""Strategy files as DeepALPlus users write them run unchanged; written here from its interface."""

import pytest

from deepal_galot.cli import main
from helpers import rows_of

SCORE_BASED = """
import numpy as np
import torch
from .strategy import Strategy

class TheirScore(Strategy):
    def __init__(self, dataset, net, args_input, args_task):
        super(TheirScore, self).__init__(dataset, net, args_input, args_task)

    def query(self, n):
        idxs, data = self.dataset.get_unlabeled_data()
        probs = self.predict_prob(data)
        largest = probs.max(1)[0]
        return idxs[largest.sort()[1][:n]]
"""
EMBEDDING_BASED = """
import numpy as np
from .strategy import Strategy

class TheirEmbedding(Strategy):
    def query(self, n):
        labeled_idxs, train_data = self.dataset.get_train_data()
        embeddings = self.get_embeddings(train_data).numpy()
        for _ in range(n):
            gaps = np.linalg.norm(
                embeddings[~labeled_idxs][:, None] - embeddings[labeled_idxs][None], axis=2
            )
            farthest = gaps.min(1).argmax()
            labeled_idxs[np.arange(self.dataset.n_pool)[~labeled_idxs][farthest]] = True
        return np.arange(self.dataset.n_pool)[self.dataset.labeled_idxs ^ labeled_idxs]
"""


MONTE_CARLO = """
import numpy as np
import torch
from .strategy import Strategy

class TheirDisagreement(Strategy):
    def __init__(self, dataset, net, args_input, args_task, n_drop=10):
        super(TheirDisagreement, self).__init__(dataset, net, args_input, args_task)
        self.n_drop = n_drop

    def query(self, n):
        idxs, data = self.dataset.get_unlabeled_data()
        probs = self.predict_prob_dropout_split(data, n_drop=self.n_drop)
        assert probs.shape[0] == 10
        spread = probs.std(0).mean(1)
        assert spread.max() > 0
        return idxs[spread.sort(descending=True)[1][:n]]
"""
GRADIENT_BASED = """
import numpy as np
from .strategy import Strategy

class TheirGradients(Strategy):
    def query(self, n):
        idxs, data = self.dataset.get_unlabeled_data()
        gradients = self.get_grad_embeddings(data)
        return idxs[np.argsort(-np.array([np.linalg.norm(g, 2) for g in gradients]))[:n]]
"""


@pytest.mark.parametrize("n_query", ["1", "4"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TheirScore", SCORE_BASED),
        ("TheirEmbedding", EMBEDDING_BASED),
        ("TheirDisagreement", MONTE_CARLO),
        ("TheirGradients", GRADIENT_BASED),
    ],
)
def test_runs_as_a_plugin(tmp_path, name, text, n_query):
    file = tmp_path / f"{name.lower()}.py"
    file.write_text(text)
    args = ["--plugin", file, "-a", name, "-s", "20", "-b", n_query, "--n-rounds", "1", "--epochs",
            "2", "--min-steps", "0", "--seeds", "0", "--output", tmp_path / "out"]  # fmt: skip
    assert main([str(a) for a in args]) == 0
    ((_, rows),) = rows_of(tmp_path / "out", name).items()
    assert rows[1]["labels"] == 20 + int(n_query)
