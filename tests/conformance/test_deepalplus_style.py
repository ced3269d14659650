"""Strategy files as DeepALPlus users write them run unchanged; written here from its interface, and
its own where there is a checkout."""

import shutil
from pathlib import Path

import pytest
from deepalplus_tools import HOSTS, REAL, STAND_IN

from deepal_galot.cli import main
from deepal_galot.plugins import NEEDS_MORE
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


RUNS = ("badge_sampling", "bayesian_active_learning_disagreement_dropout", "entropy_sampling",
        "entropy_sampling_dropout", "kcenter_greedy", "kcenter_greedy_pca", "kmeans_sampling",
        "least_confidence", "least_confidence_dropout", "margin_sampling",
        "margin_sampling_dropout", "mean_std", "random_sampling", "var_ratio")  # fmt: skip
REFUSED = {"ceal": "CEALSampling", "loss_prediction": "LossPredictionLoss", "vaal": "VAAL",
           "waal": "WAAL"}  # fmt: skip
IN_STAND_IN = {file.stem for file in (STAND_IN / "query_strategies").glob("*.py")}


def files(stems):
    """Each file of the stand-in host, and of the real one where there is one."""
    return [
        pytest.param(STAND_IN if host.id == "stand-in" else Path(REAL or "."), stem,
                     id=f"{host.id}-{stem}", marks=host.marks)
        for host in HOSTS for stem in stems if host.id == "real" or stem in IN_STAND_IN
    ]  # fmt: skip


def play_their_file(root, stem, output):
    # A copy, so that Python leaves no bytecode in somebody's checkout.
    file = shutil.copy(root / "query_strategies" / f"{stem}.py", output)
    args = ["--plugin", f"Theirs={file}", "-a", "Theirs", "-s", "60", "-b", "6", "--n-rounds", "1",
            "--epochs", "2", "--min-steps", "0", "--seeds", "0", "--output", output]  # fmt: skip
    return main([str(a) for a in args])


@pytest.mark.parametrize(("root", "stem"), files(RUNS))
def test_their_own_files_run_here_under_another_name(tmp_path, root, stem):
    """Their class names are taken by ours; NAME=FILE tells the two apart."""
    assert play_their_file(root, stem, tmp_path) == 0
    ((_, rows),) = rows_of(tmp_path, "Theirs").items()
    assert rows[1]["labels"] == 66


@pytest.mark.parametrize(("root", "stem"), files(REFUSED))
def test_what_cannot_run_here_says_why(tmp_path, capsys, root, stem):
    assert play_their_file(root, stem, tmp_path) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    name = REFUSED[stem]
    assert f"DeepALPlus's {name} cannot run here: {NEEDS_MORE[name]}" in line
