"""How the text enters the UNet: exact keys and values, and how much of ‖c − c0‖ arrives."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses import FakeTensorMode

from deepal_galot.errors import UserError
from generators.diffusion import DiffusionGenerator
from generators.group_norm import ChannelwiseGroupNorm, norm_by_channels
from generators.networks import (
    KeysAndValues,
    Networks,
    cross_attentions,
    parts_in,
    reads_text_plainly,
    split,
)
from generators.tiny import Tiny
from generators.weights import load
from helpers import changed_pipeline, small_config
from no_float64 import device_without_float64

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stock():
    """The embedded model's UNet and VAE as diffusers loads them."""
    return load(Tiny.source, ("unet", "vae"))


@pytest.mark.parametrize(
    "dtype, digits", [(torch.float32, 24), (torch.bfloat16, 16), (torch.float16, 22)]
)
def test_split_keeps_the_digits_of_two_numbers(dtype, digits):
    x = torch.randn(2, 3, 1000, generator=torch.Generator().manual_seed(0))
    parts = split(x, dtype)
    assert parts.dtype == dtype and parts.shape == (2, parts_in(dtype), 3, 1000)
    read = parts.double().sum(1)
    assert ((read - x).abs() <= 2.0**-digits * x.abs() + 2.0**-25).all()


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_attention_reads_the_sum_of_the_parts(stock, parts):
    """Against softmax(q·kᵀ/√d)·v written out, k and v the sums; float64, the embedded weights."""
    unet = copy.deepcopy(stock.unet).double()
    attention = cross_attentions(unet)[-1]
    before = [len(m.weight) for a in cross_attentions(unet)[:-1] for m in (a.to_k, a.to_v)]
    width, heads = len(attention.to_k.weight), attention.heads
    to_q, to_out = copy.deepcopy(attention.to_q), copy.deepcopy(attention.to_out[0])
    text = KeysAndValues(unet)
    rng = torch.Generator().manual_seed(0)
    kv = torch.randn(2, parts, 5, len(text.weight), generator=rng, dtype=torch.float64)
    x = torch.randn(2, 9, width, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        answer = attention(x, encoder_hidden_states=kv)
        start, per_head = sum(before), (2, -1, heads, width // heads)
        k = kv.sum(1)[..., start : start + width].view(per_head)
        v = kv.sum(1)[..., start + width : start + 2 * width].view(per_head)
        q = to_q(x).view(per_head)
        logits = torch.einsum("bshd,blhd->bhsl", q, k) / (width // heads) ** 0.5
        read = torch.einsum("bhsl,blhd->bshd", logits.softmax(-1), v).flatten(2)
        expected = to_out(read)
    torch.testing.assert_close(answer, expected, rtol=1e-10, atol=1e-10)


KERNEL = """
import torch
from generators.attention_kernel import attend, fits
from generators.networks import attend as plain

torch.manual_seed(0)
sizes = (2, 150, 3, 64, 77), (1, 16, 2, 40, 24), (1, 4, 4, 16, 128)
for batch, queries, heads, width, tokens in sizes:
    q = torch.randn(batch, queries, heads * width).half()
    text = torch.randn(batch, 2, tokens, 3 * heads * width)
    text[:, 1] /= 8
    k, v, _ = text.half().chunk(3, -1)
    assert fits(q, k, heads) and not fits(q.float(), k, heads) and not fits(q, k[:, :1], heads)
    expected = plain(q.double(), k.double(), v.double(), heads)
    off = (attend(q, k, v, heads) - expected).norm() / expected.norm()
    print(f"{width} wide, {tokens} tokens: off by {off:.1e}")
    assert off < 5e-4
"""


def test_the_kernel_of_a_gpu_in_triton_s_interpreter():
    """float16, because the interpreter has no bfloat16."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KERNEL], env=environment, capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("capability, by_kernel", [((9, 0), True), ((7, 5), False)])
def test_compiling_for_a_gpu_takes_norms_and_attention_of_our_own(
    stock, monkeypatch, capability, by_kernel
):
    """On a device that is none."""
    networks = Networks(copy.deepcopy(stock.unet), copy.deepcopy(stock.vae), torch.float16, CPU)
    with FakeTensorMode():
        networks.text.weight = torch.empty(1, device="cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    networks.compile()
    for part in (networks.unet, networks.vae.decoder):
        assert any(type(m) is ChannelwiseGroupNorm for m in part.modules())
        assert not any(type(m) is torch.nn.GroupNorm for m in part.modules())
    assert {a.processor.by_kernel for a in cross_attentions(networks.unet)} == {by_kernel}


@pytest.mark.filterwarnings("ignore:Dynamo detected")
def test_a_compiled_unet_reads_the_text_by_the_kernel(stock):
    """As one graph; it is traced, not run, which takes a GPU."""
    pytest.importorskip("triton")
    networks = Networks(copy.deepcopy(stock.unet), copy.deepcopy(stock.vae), torch.bfloat16, CPU)
    attentions = cross_attentions(networks.unet)
    for attention in attentions:
        attention.processor.by_kernel = True
    x, calls = torch.randn(2, 4, 8, 8), []

    def instead(graph, inputs):
        calls.append(graph.code.count("torch.ops.deepal_galot.attend"))
        return lambda *args: (x,)

    networks.unet.compile(backend=instead, fullgraph=True, dynamic=False)
    with torch.no_grad():
        text = networks.read(networks.text(torch.randn(2, 24, 64)))
        networks.noise(x, torch.tensor(500), text)
    assert calls == [len(attentions)]


@pytest.mark.parametrize("dtype, off", [(torch.float64, 1e-12), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("shape", [(3, 64, 5, 7), (2, 64, 9)])
def test_group_norm_by_channels_is_group_norm(dtype, off, shape):
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(32, 64, eps=1e-3).to(dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (torch.randn(shape) * torch.rand(64).view(64, *[1] * (len(shape) - 2)) + 3).to(dtype)
    x.requires_grad_()
    answer, expected = ChannelwiseGroupNorm(norm)(x), norm(x)
    assert answer.dtype == dtype
    torch.testing.assert_close(answer, expected, rtol=off, atol=off)
    if dtype == torch.float64:
        gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (answer, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def test_networks_answer_alike_with_norms_by_channels(stock):
    networks = Networks(copy.deepcopy(stock.unet), copy.deepcopy(stock.vae), torch.float32, CPU)
    rng = torch.Generator().manual_seed(0)
    x, c = torch.randn(3, 4, 8, 8, generator=rng), torch.randn(3, 24, 64, generator=rng)
    with torch.no_grad():
        text = networks.read(networks.text(c))
        before = networks.noise(x, torch.tensor(500), text), networks.images(x)
        norm_by_channels(networks)
        after = networks.noise(x, torch.tensor(500), text), networks.images(x)
    assert not any(type(m) is torch.nn.GroupNorm for m in networks.modules())
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def unet_of(stock, dtype, x):
    """c [1, L, D] -> what our UNet of this dtype answers for x, float32."""
    networks = Networks(copy.deepcopy(stock.unet), copy.deepcopy(stock.vae), dtype, CPU)

    def noise(c):
        text = networks.text(c.expand(len(x), -1, -1))
        return networks.noise(x, torch.tensor(500), networks.read(text))

    return noise


def test_in_float32_the_unet_reads_c_as_the_stock_unet_does(stock):
    rng = torch.Generator().manual_seed(0)
    c, x = torch.randn(4, 24, 64, generator=rng), torch.randn(4, 4, 8, 8, generator=rng)
    with torch.no_grad():
        expected = copy.deepcopy(stock.unet)(x, 500, encoder_hidden_states=c).sample
        assert torch.equal(unet_of(stock, torch.float32, x)(c), expected)


@pytest.mark.slow
def test_what_is_left_of_the_answer_to_a_move_of_c(stock, tiny):
    """c arrives; what the UNet's own 16-bit arithmetic leaves of its answer is another matter.

    ϵ(x, c) − ϵ(x, c0) for ‖c − c0‖ = ε, as the cosine with float32's: of each image, and of the
    mean over 64 images, which keeps what all of them see.
    """
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, 8, 8, generator=rng)
    c0 = tiny.encode(["a handwritten digit zero"])
    sign = torch.randn(c0.shape, generator=rng).sign()
    cosine = torch.nn.functional.cosine_similarity
    seen = {}
    with torch.no_grad():
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            unet = unet_of(stock, dtype, x)
            for epsilon in (0.5, 5.0):
                moved = (unet(c0 + epsilon * sign / sign.norm()) - unet(c0)).flatten(1)
                exact = seen.setdefault(epsilon, moved)  # float32 comes first
                each = cosine(moved, exact).mean().item()
                mean = cosine(moved.mean(0), exact.mean(0), dim=0).item()
                print(f"{dtype} ε={epsilon}: cosine of each {each:.3f}, of the mean {mean:.3f}")
                assert dtype == torch.bfloat16 or each > 0.5
                assert epsilon < 5 or mean > 0.9


def distances(text, c, epsilon, dtype):
    """‖c' − c0'‖ / ε, of all classes the farthest, and the direction's mean cosine, as they arrive:
    through W, and by casting c."""
    sign = torch.randn(c.shape, generator=torch.Generator().manual_seed(1)).sign()
    sign[:, 0] = 0  # BOS is fixed
    delta = epsilon * sign / sign.flatten(1).norm(dim=1)[:, None, None]
    through = text.arrived(c + delta, dtype) - text.arrived(c, dtype)
    cast = ((c + delta).to(dtype).double() - c.to(dtype).double()).double()
    return [
        (v.flatten(1).norm(dim=1).max().item() / epsilon,
         torch.cosine_similarity(v.flatten(1), delta.flatten(1).double()).mean().item(),
         (v - delta).flatten(1).norm(dim=1).mean().item())
        for v in (through, cast)
    ]  # fmt: skip


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_distance_that_reaches_the_network(tiny, dtype, epsilon):
    """At most ε(1 + 1e-3), in the direction meant; casting c itself loses both."""
    c = tiny.encode([f"a handwritten digit {name}" for name in sorted(tiny.knows)])
    (ours, cosine, noise), (naive, its_cosine, its_noise) = distances(
        tiny.networks.text, c, epsilon, dtype
    )
    ways = {"through W": (ours, cosine, noise), "casting c": (naive, its_cosine, its_noise)}
    for way, (ratio, cos, off) in ways.items():
        print(f"{dtype} ε={epsilon} {way}: {ratio * epsilon:.4f}, cosine {cos:.4f}, off {off:.2e}")
    assert 1 - 1e-3 <= ours <= 1 + 1e-3 and cosine > 0.999
    if dtype != torch.float32:
        assert noise < 0.01 * its_noise


def test_texts_arrive_a_few_at_a_time(tiny, monkeypatch):
    """The least squares of all at once took 34 MiB a text of Stable Diffusion's size."""
    generator, at_once = Tiny(small_config(dtype="bfloat16"), torch.device("cpu")), []
    original = KeysAndValues.arrived
    monkeypatch.setattr(
        KeysAndValues,
        "arrived",
        lambda self, c, *a: at_once.append(len(c)) or original(self, c, *a),
    )
    c = tiny.encode([f"a handwritten digit {name}" for name in sorted(tiny.knows)])
    each = torch.cat([generator.arrived(row[None]) for row in c])
    at_once.clear()
    torch.testing.assert_close(generator.arrived(c), each)
    assert at_once == [8, 2]


def test_what_arrives_is_what_was_sent():
    """Without a cast the least-squares solution is c itself."""
    text = object.__new__(KeysAndValues)
    torch.nn.Module.__init__(text)
    text.register_buffer("weight", torch.randn(40, 6, dtype=torch.float64))
    c = torch.randn(2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(text.arrived(c, torch.float64), c)


def test_a_device_without_float64_says_the_same_of_what_arrives(tiny):
    c = tiny.encode(["a handwritten digit two", "a handwritten digit three"])
    text, dtype = copy.deepcopy(tiny.networks.text), torch.bfloat16
    expected = text.arrived(c, dtype)
    with device_without_float64() as device:
        text.weight = text.weight.to(device)
        found = text.arrived(c.to(device), dtype)
    assert found.dtype == torch.float64 and torch.equal(found, expected)


@pytest.mark.parametrize(
    "options",
    [{"encoder_hid_dim": 32, "encoder_hid_dim_type": "text_proj"},
     {"down_block_types": ["DownBlock2D", "SimpleCrossAttnDownBlock2D"],
      "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "cross_attention_norm": "layer_norm",
      "up_block_types": ["SimpleCrossAttnUpBlock2D", "UpBlock2D"]},
     {"class_embed_type": "timestep"},
     {"down_block_types": ["DownBlock2D", "DownBlock2D"], "mid_block_type": "UNetMidBlock2D",
      "up_block_types": ["UpBlock2D", "UpBlock2D"]}],
)  # fmt: skip
def test_a_unet_that_reads_the_text_another_way_is_refused(tmp_path, stock, options):
    assert reads_text_plainly(stock.unet)
    folder = changed_pipeline(tmp_path / "model", options)
    with pytest.raises(UserError, match="reads more than text, or not by plain cross-attention"):
        DiffusionGenerator.at(folder)(small_config(), CPU)


@pytest.mark.parametrize(
    "change",
    [lambda unet, a: setattr(a, "norm_cross", torch.nn.LayerNorm(4)),
     lambda unet, a: setattr(a, "norm_q", torch.nn.LayerNorm(4)),
     lambda unet, a: setattr(a, "norm_k", torch.nn.LayerNorm(4)),
     lambda unet, a: setattr(a, "added_kv_proj_dim", 8),
     lambda unet, a: setattr(a, "residual_connection", True),
     lambda unet, a: setattr(a, "to_k", torch.nn.Linear(a.to_k.in_features, 8)),
     lambda unet, a: setattr(a, "to_v", torch.nn.Linear(a.to_v.in_features + 1, 8, bias=False)),
     lambda unet, a: setattr(a, "to_v", torch.nn.Identity()),
     lambda unet, a: unet.register_to_config(addition_embed_type="text")],
)  # fmt: skip
def test_the_text_is_read_plainly_by_all_that_reads_it_or_not_at_all(stock, change):
    unet = copy.deepcopy(stock.unet)
    assert reads_text_plainly(unet)
    change(unet, cross_attentions(unet)[-1])
    assert not reads_text_plainly(unet)
