"""What --engine ray refuses, and what a node that is not like the others says."""

import argparse
import dataclasses
import os
import sys

import pytest
import torch

from deepal_galot import cli
from deepal_galot.campaign import Campaign
from deepal_galot.errors import UserError
from deepal_galot.plan import make_plan
from deepal_galot.request import request_of
from generators.base import ImageRequest, Refinement
from generators.image_store import draw_here
from helpers import QUICK

ON_RAY = ["--engine", "ray"]


@pytest.fixture
def engine():
    pytest.importorskip("ray", reason='needs Ray: pip install -e ".[ray]"')
    from deepal_galot import ray_engine

    return ray_engine


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--address", "auto"], "--address auto: belongs to --engine ray"),
        (["--gpus-per-run", "0"], "--gpus-per-run 0.0: belongs to --engine ray"),
        (["--cpus-per-run", "2"], "--cpus-per-run 2: belongs to --engine ray"),
        (["--draw-actors", "2"], "--draw-actors 2: belongs to --engine ray"),
        ([*ON_RAY, "--jobs", "1"], "--jobs 1: on Ray, --cpus-per-run and --gpus-per-run say how"),
        ([*ON_RAY, "--device", "cuda:1"], "--device cuda:1: Ray says which GPU is whose"),
        ([*ON_RAY, "--cpus-per-run", "0"], "--cpus-per-run 0: at least 1"),
        ([*ON_RAY, "--gpus-per-run", "2"], "--gpus-per-run 2: a run uses one GPU or a part of it"),
        ([*ON_RAY, "--gpus-per-run", "nan"], "--gpus-per-run nan: a run uses one GPU"),
        ([*ON_RAY, "--gpus-per-run", "1", "--device", "cpu"], "leave out --device cpu"),
        ([*ON_RAY, "--draw-actors", "0"], "--draw-actors 0: at least 1"),
        ([*ON_RAY, "--address", "ray://a:10001"], "Ray Client is not supported"),
        ([*ON_RAY, "--address", "nonsense"], "--engine ray --address nonsense: no cluster to run"),
    ],
)
def test_refused_in_one_line(engine, flags, complaint, tmp_path, capsys):
    for more in ([], ["--experiment", "table1"]):
        if "nonsense" in flags and more:
            continue  # is found out when the first campaign starts, like here
        assert cli.main([*QUICK, *flags, *more, "--output", str(tmp_path)]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert complaint in said[-1] and said[-1].startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "127.0.0.1:x"])
def test_an_address_where_nobody_answers_is_said_at_once(engine, address):
    """Before: Ray tried for minutes, deaf to Ctrl-C."""
    with pytest.raises(UserError, match=f"--address {address}: no cluster answers there"):
        engine._connect(address)


def test_without_ray_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "deepal_galot.ray_engine", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it could not be imported
    assert cli.main([*QUICK, *ON_RAY]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("error: --engine ray needs Ray") and 'pip install -e ".[ray]"' in said


@pytest.mark.parametrize(
    "cpus, gpus, nodes, runs",
    [
        (1, 0.0, [{"CPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}], 5),
        (2, 0.0, [{"CPU": 5.0}, {"CPU": 1.0}], 2),
        (1, 1.0, [{"CPU": 64.0, "GPU": 8.0}, {"CPU": 4.0}], 8),
        (1, 0.5, [{"CPU": 64.0, "GPU": 8.0}, {"CPU": 3.0, "GPU": 2.0}], 19),
        (4, 0.3, [{"CPU": 64.0, "GPU": 1.0}], 3),
    ],
)
def test_room(engine, monkeypatch, cpus, gpus, nodes, runs):
    there = [{"Alive": True, "Resources": n} for n in nodes]
    there.append({"Alive": False, "Resources": {"CPU": 100.0, "GPU": 100.0}})
    monkeypatch.setattr(engine.ray, "nodes", lambda: there)
    assert engine.Share(cpus, gpus).room() == runs


@pytest.mark.parametrize(
    "flags, cluster, share",
    [
        ([], {"CPU": 2.0}, (1, 0.0)),
        ([], {"CPU": 2.0, "GPU": 8.0}, (1, 1.0)),
        (["--device", "cpu"], {"CPU": 2.0, "GPU": 8.0}, (1, 0.0)),
        (["--gpus-per-run", "0.25", "--cpus-per-run", "3"], {"GPU": 8.0}, (3, 0.25)),
        (["--gpus-per-run", "0"], {"GPU": 8.0}, (1, 0.0)),
    ],
)
def test_a_runs_share(engine, monkeypatch, flags, cluster, share):
    monkeypatch.setattr(engine.ray, "cluster_resources", lambda: cluster)
    args = cli.build_parser().parse_args(flags)
    assert dataclasses.astuple(engine.Share.asked(args)) == share


def test_what_a_task_raised_is_raised_here(engine):
    for cause in (UserError("what is wrong"), KeyError("a bug")):
        with pytest.raises(type(cause)) as raised, engine._causes():
            raise engine.RayTaskError("play", "a long traceback", cause).as_instanceof_cause()
        assert raised.value is cause
    given_up = r"Ray gave a run up \(.*\); the same command goes on"
    with pytest.raises(UserError, match=given_up), engine._causes():
        raise engine.ray.exceptions.WorkerCrashedError()


def test_long_runs_begin_first(engine, tmp_path):
    entries = ["RandomSampling", "GALOT:epsilon=0", "MarginSampling", "GALOT"]
    args = ["--strategy", *entries, "--seeds", "0", "1", "--output", str(tmp_path)]
    args = cli.build_parser().parse_args([*QUICK, *args])
    request = request_of(args)
    campaign = Campaign(request, make_plan(request))
    folders = campaign.prepare(load=False)
    order = [campaign.plan.runs[i] for i in engine._longest_first(campaign, folders)]
    labels = [run.label.partition(":ascent")[0].partition(",n_syn")[0] for run in order]
    assert labels[:4] == ["GALOT", "GALOT", "GALOT:epsilon=0", "GALOT:epsilon=0"]
    assert labels[4:] == ["RandomSampling"] * 2 + ["MarginSampling"] * 2  # cost the same


@pytest.fixture
def order(engine, tmp_path, monkeypatch):
    """A command as another node hears of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "_node", lambda: "node 10.0.0.7")
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    args = cli.build_parser().parse_args([*QUICK, "--strategy", "RandomSampling"])
    args.command = "as --typed"
    request = request_of(args)
    campaign = Campaign(request, make_plan(request))
    campaign.prepare()
    monkeypatch.setattr(engine, "_made", None)
    return engine._order(campaign, args, engine.Share(1, 0.0))


def test_a_node_that_is_alike_does_as_if_the_command_was_typed_there(engine, order, monkeypatch):
    monkeypatch.chdir("/")
    campaign = engine._campaign(order)
    assert campaign is engine._campaign(order)  # made once
    assert os.getcwd() == order.folder and campaign.request.command == "as --typed"
    args = argparse.Namespace(**{**vars(order.args), "command": "another"})
    other = dataclasses.replace(order, args=args)
    assert engine._campaign(other) is not campaign


def test_a_worker_reads_models_anew_for_each_command(order, engine, monkeypatch):
    """Before, the second command of a process failed where a model's folder had changed."""
    calls = []
    monkeypatch.setattr(engine, "forget_weights", lambda: calls.append("forget"))
    monkeypatch.setattr(engine, "campaign_anew", lambda args: calls.append("plan"))
    monkeypatch.setattr(engine, "_check_is_the_same", lambda campaign, order: None)
    monkeypatch.setattr(engine, "_made", None)
    engine._campaign(order)
    assert calls == ["forget", "plan"]


def test_a_worker_plays_several_campaigns_with_a_plugin(order, engine):
    """As --experiment has them; the file is run once."""
    engine.Path("mine.py").write_text(
        "from query_strategies.random_sampling import RandomSampling\n"
        "class Mine(RandomSampling):\n    'as good as any'\n"
    )
    args = cli.build_parser().parse_args(["--strategy", "Mine", "--plugin", "mine.py"])
    first, second = (engine.campaign_anew(args).plan.runs[0] for _ in range(2))
    assert first.strategy is second.strategy and "plugin Mine" in first.content


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda o: {"code": o.code | {"torch": "1.0"}}, r"node 10.0.0.7 has torch \S+ for 1.0"),
        (lambda o: {"code": o.code | {"deepal-galot": "0"}}, "has deepal-galot [0-9a-f]{12} for 0"),
        (lambda o: {"folder": "/not/here"}, "cannot enter /not/here .*a folder that all nodes"),
        (lambda o: {"runs": (("elsewhere", {"data": "0"}),)}, "another data for RandomSampling"),
        (lambda o: {"runs": (("elsewhere", o.runs[0][1]),)}, "another configuration for Random"),
    ],
)
def test_a_node_that_is_not_alike_stops(engine, order, change, complaint):
    with pytest.raises(UserError, match=complaint):
        engine._campaign(dataclasses.replace(order, **change(order)))


def test_a_node_that_does_not_share_the_results_stops(engine, order):
    engine.Path(order.runs[0][0], "config.json").unlink()
    with pytest.raises(
        UserError, match=r"node 10.0.0.7 does not see \S+/seed0, .*--output must be"
    ):
        engine._campaign(order)


def test_an_actor_whose_images_would_be_others_stops(engine, order):
    order.args.strategy = ["GALOT"]
    request = request_of(order.args)
    campaign = Campaign(request, make_plan(request))
    campaign.prepare()
    order = engine._order(campaign, order.args, order.share)
    make = engine.Drawer.__ray_metadata__.modified_class
    identity = campaign.generator(campaign.plan.runs[0]).identity
    with pytest.raises(UserError, match="node 10.0.0.7 would draw other images than the run's"):
        make(order).draw(0, identity | {"dtype": "float16"}, None, 0, [(0, 0)], False)


def test_images_with_texts_of_their_own_are_drawn_with_the_run(engine, fake_generator):
    """Their texts ask the classifier, which stays there."""
    c0 = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(1))
    plain = ImageRequest(c0, c0, (6,), ("a one",), ("one",), (8, 8, 1), 0, 0)
    own = dataclasses.replace(plain, refinement=Refinement("x", lambda c, seeds, rows: c + 1))
    batches, no_actors = [[(0, 0), (0, 1)], [(0, 5)]], []
    there = list(engine._draw_there(no_actors, 0, fake_generator, own, batches, False))
    here = list(draw_here(fake_generator, own, batches, False))
    other = list(draw_here(fake_generator, plain, batches, False))
    assert [n for n, _ in there] == [0, 1]
    for n, (x, _, _) in there:
        assert (x == here[n][1][0]).all() and (x != other[n][1][0]).any()
