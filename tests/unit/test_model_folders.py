"""Folders of models: what of them is read anew, and what cannot be used, each in one line."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from deepal_galot.campaign import Campaign
from deepal_galot.cli import build_parser, main
from deepal_galot.costs import Prices
from deepal_galot.datasets.digits import Digits
from deepal_galot.errors import UserError
from deepal_galot.generator_choice import weights_at_hand
from deepal_galot.notes import scheduler_notes
from deepal_galot.plan import make_plan
from deepal_galot.probe import Probe
from deepal_galot.request import Request
from generators import pipeline_folder
from generators.diffusion import DiffusionGenerator
from generators.flops import make
from generators.pipeline_folder import as_stable_diffusion, read_configs
from generators.stable_diffusion import StableDiffusion21Base
from generators.tiny import Tiny
from generators.weights import MODELS, forget_weights, load, make_scheduler
from helpers import QUICK, small_config

CPU = torch.device("cpu")
ONLY = "; only StableDiffusionPipeline-format models can be used"
UNET, VAE, TEXT = (f"{part}/config.json" for part in ("unet", "vae", "text_encoder"))
TOKENIZER, SCHEDULER = "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"
TENSORS = {
    part: f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")
} | {"text_encoder": "text_encoder/model.safetensors"}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """A copy of the embedded pipeline."""
    return shutil.copytree(Tiny.source, tmp_path / "model")


@pytest.fixture(autouse=True)
def no_fits(monkeypatch):
    """A dry run without the time that training takes."""
    monkeypatch.setattr(Probe, "_training", lambda *args: Prices())


def edit(file, **fields):
    """Change fields of a JSON file; "gone" removes one."""
    kept = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({k: v for k, v in kept.items() if v != "gone"}))


def refused(capsys, *args) -> str:
    """The one line with which the command ends."""
    code = main([str(a) for a in args])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0].removeprefix("error: ")


def refused_both(capsys, model, *args) -> str:
    """The one line with which a run ends and a dry run."""
    args = [*QUICK, "--strategy", "GALOTBasic", "--generator", model, "--device", "cpu", *args]
    args += ["--output", model.parent / "results"]
    line = refused(capsys, *args)
    assert refused(capsys, *args, "--dry-run") == line
    assert not (model.parent / "results").exists()
    return line


def test_each_command_of_a_process_reads_the_folder_anew(model, monkeypatch, capsys):
    """Before, a second command of a notebook drew images of changed weights and stored them as
    those of the weights of the first; without the folder it ended in `[Errno 2]`."""
    hashes = []
    own = DiffusionGenerator.at(model)
    monkeypatch.setattr("deepal_galot.cli._run", lambda args: hashes.append(own.content_hash()))
    main([])
    file = model / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text() + " ")
    main([])
    assert len(set(hashes)) == 2
    shutil.rmtree(model)
    assert f"--generator {model}: no such folder" in refused(capsys)


# -- weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "tensors"), [
    ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"),
    ("vae", "decoder.up_blocks"), ("text_encoder", "encoder.layers.1."),
])  # fmt: skip
def test_missing_weights(model, capsys, part, tensors):
    """Before, they were random numbers, new ones in each run, and nobody was told."""
    file = model / TENSORS[part]
    weights = load_file(file)
    kept = {name: w for name, w in weights.items() if not name.startswith(tensors)}
    assert len(kept) < len(weights)
    save_file(kept, file, metadata={"format": "pt"})
    line = refused_both(capsys, model)
    assert line.startswith(f"--generator {model}: its {part} lacks {tensors}")
    assert line.endswith("; save or download it again")


def test_old_names_and_tensors_that_nobody_reads(model):
    """Of Stable Diffusion's first folders: they are all there, so it draws the same images."""
    file = model / TENSORS["text_encoder"]
    old = {f"text_model.{name}": w for name, w in load_file(file).items()}
    old["text_model.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(old, file, metadata={"format": "pt"})
    file = model / TENSORS["unet"]
    save_file(load_file(file) | {"more": torch.ones(1)}, file, metadata={"format": "pt"})
    ours, theirs = (DiffusionGenerator.at(f)(small_config(), CPU) for f in (model, Tiny.source))
    c = ours.encode(["two"])
    assert torch.equal(c, theirs.encode(["two"]))
    assert torch.equal(ours.sample(c, [1]), theirs.sample(c, [1]))


def test_weights_that_are_cut_off(model, capsys):
    """Before, those of the text encoder ended in a traceback."""
    file = model / TENSORS["text_encoder"]
    file.write_bytes(file.read_bytes()[:-1000])
    line = refused_both(capsys, model)
    assert line.startswith(f"--generator {model}: cannot be loaded (") and "incomplete" in line


@pytest.mark.parametrize(("name", "says"), [
    ("diffusion_pytorch_model.fp16.safetensors", 'with variant="fp16" and save it again'),
    ("diffusion_pytorch_model.bin", "in diffusers and save it again by save_pretrained(NEW)"),
    ("else.txt", "(no unet/diffusion_pytorch_model.safetensors)"),
])  # fmt: skip
def test_weights_in_another_form(model, capsys, name, says):
    """Before, diffusers said in two lines that files cannot be fetched."""
    file = model / TENSORS["unet"]
    file.rename(file.with_name(name))
    line = refused_both(capsys, model)
    assert line.startswith(f"--generator {model}: cannot be loaded (no {TENSORS['unet']}")
    assert says in line


# -- configurations ----------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "fields", "says"), [
    (UNET, {"in_channels": 9}, "whose UNet reads 9 channels, of its VAE's 4"),
    (UNET, {"out_channels": 8}, "whose UNet reads 4 channels and gives 8"),
    (UNET, {"num_class_embeds": 10}, "whose UNet reads more than text, or"),
    (UNET, {"addition_embed_type": "text_time"}, "whose UNet reads more than text, or"),
    (UNET, {"_class_name": "UNet3DConditionModel"}, "whose UNet is a UNet3DConditionModel"),
    (VAE, {"latent_channels": 8}, "whose UNet reads 4 channels, of its VAE's 8"),
    (VAE, {"scaling_factor": None}, "whose VAE has the scaling_factor None"),
    (TEXT, {"hidden_size": 32}, "whose text encoder gives 32 numbers a token, not the UNet's 64"),
    (TOKENIZER, {"model_max_length": "gone"}, "whose tokenizer has no model_max_length"),
    (TOKENIZER, {"model_max_length": 77}, "whose tokenizer gives 77 tokens, more than the 24 of"),
    (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "for flow matching, by its"),
])  # fmt: skip
def test_models_that_are_no_stable_diffusion(model, capsys, file, fields, says):
    """Before, most of them ended in a traceback, some after the first fit."""
    edit(model / file, **fields)
    line = refused_both(capsys, model)
    assert line.startswith(f"--generator {model}: a StableDiffusionPipeline {says}")
    assert line.endswith(ONLY)


def test_a_width_for_each_block(model):
    blocks = json.loads((model / UNET).read_text())["down_block_types"]
    edit(model / UNET, cross_attention_dim=[64] * len(blocks))
    assert DiffusionGenerator.at(model).size(small_config()) == Tiny.size(small_config())


@pytest.mark.parametrize(("kind", "lacks"), [
    ("StableDiffusion3Pipeline", ["unet"]), ("DDPMPipeline", ["vae", "text_encoder"]),
])  # fmt: skip
def test_other_pipelines(model, capsys, kind, lacks):
    """Before, diffusers listed all parts that were expected of a Flux or Stable Diffusion 3."""
    for part in lacks:
        shutil.rmtree(model / part)
    edit(model / "model_index.json", _class_name=kind, **dict.fromkeys(lacks, "gone"))
    line = refused_both(capsys, model)
    assert line == f"--generator {model}: a {kind} has no {', '.join(lacks)}{ONLY}"


@pytest.mark.parametrize(("text", "says"), [
    ("[1]", "model_index.json holds a list, not names and values"),
    ("{", "model_index.json: Expecting property name"),
    ('{"unet": 3}', "cannot be used as Stable Diffusion's ("),
    ('{"_class_name": "A", "unet": ["mine", "Mine"], "vae": [0, 0], "text_encoder": [0, 0], '
     '"tokenizer": [0, 0], "scheduler": [0, 0]}', "a A whose unet is a mine.Mine; only"),
])  # fmt: skip
def test_an_index_of_something_else(model, capsys, text, says):
    """Before, a list was a traceback."""
    (model / "model_index.json").write_text(text)
    assert says in refused_both(capsys, model)


def test_files_that_are_missing(model, capsys):
    """Before, without a tokenizer, a traceback of transformers."""
    shutil.rmtree(model / "tokenizer")
    assert refused_both(capsys, model).endswith(f"cannot be loaded (no {TOKENIZER})")


@pytest.mark.parametrize("size", [None, [8, 12]])
def test_a_model_without_one_side(model, capsys, size):
    """Before, a TypeError. It draws where it is told the side."""
    edit(model / UNET, sample_size=size)
    line = refused_both(capsys, model)
    assert f"(its UNet's sample_size is {size}): add --resolution N, a multiple of 4" in line
    generator = DiffusionGenerator.at(model)(small_config(resolution=32, steps=1), CPU)
    assert generator.sample(generator.encode(["two"]), [0]).shape == (1, 3, 32, 32)


def test_a_tokenizer_of_another_text_encoder(model, capsys):
    """Before, an IndexError."""
    file = model / TENSORS["text_encoder"]
    weights = load_file(file)
    (name,) = (n for n in weights if "token_embedding" in n)
    weights[name] = weights[name][:300].clone()
    save_file(weights, file, metadata={"format": "pt"})
    edit(model / TEXT, vocab_size=300)
    assert "its tokenizer has tokens beyond the 300 that its" in refused_both(capsys, model)


def test_an_unknown_prediction(model, capsys):
    """Before, a ValueError in the first image, after a fit."""
    edit(model / SCHEDULER, prediction_type="noise")
    line = refused_both(capsys, model)
    assert "cannot be used with this model (prediction_type given as noise must be" in line


def test_whatever_else_is_wrong_is_one_line(model, capsys):
    """Here an attention that the UNet has not the width for: an error of torch."""
    edit(model / UNET, norm_num_groups=7)
    assert "cannot be used as Stable Diffusion's (" in refused_both(capsys, model)


def test_errors_of_the_device_are_no_fault_of_the_model(model):
    busy = torch.AcceleratorError("CUDA error: devices are busy")
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), busy):
        with pytest.raises(type(error)), as_stable_diffusion(model):
            raise error


def test_a_model_is_read_once_a_command(model, monkeypatch):
    pipeline_folder.read_configs.cache_clear()
    load(model, ["unet", "vae"])
    monkeypatch.setattr(pipeline_folder, "_read", None)
    load(model, ["text_encoder"])


# -- schedulers --------------------------------------------------------------------------------


def test_a_default_scheduler_that_does_not_fit(model, capsys):
    """Before, the error was about a --scheduler that nobody had given."""
    edit(model / SCHEDULER, _class_name="LCMScheduler")
    edit(model / "model_index.json", scheduler=["diffusers", "LCMScheduler"])
    assert refused_both(capsys, model) == (
        "the default scheduler, DPMSolverMultistepScheduler, does not fit this model, whose own "
        "is LCMScheduler: add --scheduler LCMScheduler"
    )
    c = small_config(scheduler="LCMScheduler", steps=1)
    assert DiffusionGenerator.at(model).size(c).image > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, in diffusers
@pytest.mark.parametrize("fields", [{}, {"skip_prk_steps": False}, {"prediction_type": "sample"}])
def test_a_trial_step_refuses_no_scheduler_that_works(fields):
    """Some take no step of a model that predicts images."""
    own = make("scheduler", read_configs(Tiny.source)["scheduler"] | fields)
    before, refused = torch.get_rng_state(), set()
    for kind in own.compatibles:
        try:
            make_scheduler(kind.__name__, own)
        except UserError as error:
            refused.add(kind.__name__)
            assert re.search("rediction.type|torchsde", str(error)), error
    assert torch.equal(before, torch.get_rng_state())
    beyond = refused - {"DPMSolverSDEScheduler"}  # which needs a further library
    assert bool(beyond) == ("prediction_type" in fields)


def notes(model, *strategies, **flags):
    """The notes on these strategies' schedulers."""
    flags = {"generator": str(model), "n_init": 10, "n_query": 5} | flags
    request = Request(strategies, Digits, (0, 1), None, flags, Path(), Path(), CPU)
    return scheduler_notes(request, make_plan(request))


def test_a_note_on_a_scheduler_that_is_not_the_models_own(model, monkeypatch):
    """Before, every folder had 50 steps, guidance 7.5 and DPM-Solver++, and --help said that they
    were the model's own."""
    edit(model / SCHEDULER, _class_name="PNDMScheduler")
    both = ["GALOT", "GALOTBasic", "MarginSampling"]
    assert notes(model, *both) == [
        f"note: {model}: 50 steps, guidance 7.5 and DPMSolverMultistepScheduler; its own "
        f"scheduler is PNDMScheduler: change them with --steps, --guidance and --scheduler "
        f"PNDMScheduler"
    ]
    assert not notes(model, *both, scheduler="DPMSolverMultistepScheduler")
    assert not notes(model, "GALOT:scheduler=DPMSolverMultistepScheduler")
    assert not notes("someone/some-model", "MarginSampling")
    monkeypatch.setattr(Tiny, "source", model)
    assert not notes("tiny", *both)


def test_a_campaign_says_its_note(model, monkeypatch):
    monkeypatch.setattr("deepal_galot.campaign.scheduler_notes", lambda *args: ["note: such"])
    request = Request(["MarginSampling"], Digits, (0,), None, {}, model, model, CPU)
    assert "note: such" in Campaign(request, make_plan(request))._notes()


def test_help_says_what_a_folder_gets():
    text = " ".join(build_parser().format_help().split())
    assert DiffusionGenerator.defaults == StableDiffusion21Base.all_defaults()
    assert "T, denoising steps [steps] (default: 50, tiny: 10)" in text
    assert "guidance scale (default: 7.5, tiny: 2.0)" in text
    assert "whichever is the model's own (default: DPMSolverMultistepScheduler)" in text
    assert "before resizing [pixels] (default: the model's own)" in text


# -- what --generator takes --------------------------------------------------------------------


@pytest.mark.parametrize(("source", "says"), [
    ("", "--generator '': is empty; give a name (see --list), a model's folder or hub id"),
    ("folder:", "--generator 'folder:': is empty; give a name"),
    ("eps", "; nor is there a model's folder eps here"),
    ("one.safetensors", "is a file, not a folder; convert it in diffusers"),
    ("./one.safetensors", "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER"),
])  # fmt: skip
def test_texts_that_name_no_generator(tmp_path, monkeypatch, capsys, source, says):
    """Before, an empty one was the working folder, and a file no folder and no hub id."""
    monkeypatch.chdir(tmp_path)
    Path("one.safetensors").write_bytes(b"")
    assert says in refused(capsys, "--strategy", "GALOT", "--generator", source)


def test_a_name_that_may_be_a_folder_or_a_hub_id(tmp_path, monkeypatch, capsys):
    """Before, nobody said that there is no such folder, and a dry run none of it."""
    monkeypatch.chdir(tmp_path)
    args = [*QUICK, "--strategy", "GALOT", "--generator", "models/epz", "--output", "results"]
    line = refused(capsys, *args)
    assert line.startswith("the weights of models/epz are in no folder of that name here, not in")
    assert main([*args, "--dry-run"]) == 0
    assert "There is no folder models/epz here." in capsys.readouterr().out


def test_a_download_that_was_cut_short_goes_on(model, monkeypatch):
    """Before, --dry-run and --experiment ended with a file that the hub still had."""
    monkeypatch.setenv(MODELS, str(model.parent))
    model.rename(model.parent / "me--sd")
    own = DiffusionGenerator.at("me/sd")
    assert weights_at_hand(own) and own.own_scheduler() and own.size(small_config())
    (model.parent / "me--sd" / TENSORS["unet"]).unlink()
    forget_weights()
    assert not weights_at_hand(own) and not own.own_scheduler() and not own.size(small_config())
    with pytest.raises(UserError, match="no unet/diffusion_pytorch_model.safetensors"):
        weights_at_hand(own, download=True)
    with pytest.raises(UserError, match="no unet/diffusion_pytorch_model.safetensors"):
        weights_at_hand(DiffusionGenerator.at(model.parent / "me--sd"))


def test_the_older_name_of_the_number_of_tokens(model):
    config = model / TOKENIZER
    edit(
        config, model_max_length="gone", max_len=json.loads(config.read_text())["model_max_length"]
    )
    ours, theirs = DiffusionGenerator.at(model), Tiny
    assert ours.size(small_config()) == theirs.size(small_config())


def test_a_fault_of_our_own_model_is_not_blamed_on_a_folder():
    with (
        pytest.raises(AttributeError, match="no attribute 'typo'"),
        as_stable_diffusion(Tiny.source),
    ):
        _ = Tiny.typo
    with (
        pytest.raises(UserError, match="--generator /a/b: cannot be used"),
        as_stable_diffusion("/a/b"),
    ):
        _ = Tiny.typo


def test_a_text_encoder_without_the_pooler_that_nobody_reads(model):
    """As some with a BERT are; its text is read before it."""
    clip = json.loads((model / TEXT).read_text())
    config = BertConfig(
        hidden_size=clip["hidden_size"], num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, vocab_size=clip["vocab_size"],
        max_position_embeddings=clip["max_position_embeddings"],
    )  # fmt: skip
    bert = BertModel(config).eval()
    bert.save_pretrained(model / "text_encoder")
    file = model / TENSORS["text_encoder"]
    kept = {k: v for k, v in load_file(file).items() if not k.startswith("pooler.")}
    save_file(kept, file, metadata={"format": "pt"})
    edit(model / "model_index.json", text_encoder=["transformers", "BertModel"])
    tokenizer = load(model, ["tokenizer"]).tokenizer
    tokens = tokenizer("two", padding="max_length", max_length=tokenizer.model_max_length)
    ours = DiffusionGenerator.at(model)(small_config(), CPU).encode(["two"])
    torch.testing.assert_close(ours, bert(torch.tensor([tokens.input_ids]))[0].detach())
