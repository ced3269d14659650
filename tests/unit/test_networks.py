"""How the text enters the UNet: float32 keys and values, and how much of ‖c − c0‖ arrives."""

import copy

import pytest
import torch

from deepal_galot.errors import UserError
from generators.diffusion import DiffusionGenerator
from generators.networks import KeysAndValues, Networks, cross_attentions, reads_text_plainly
from generators.tiny import Tiny
from generators.weights import load
from helpers import changed_pipeline, small_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stock():
    """The embedded model's UNet and VAE as diffusers loads them."""
    return load(Tiny.source, ("unet", "vae"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_keys_and_values_are_rounded_once(stock, dtype):
    """Against the product in float64 with the weights of the stock UNet."""
    c = 3 * torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(0))
    networks = Networks(copy.deepcopy(stock.unet), copy.deepcopy(stock.vae), dtype, CPU)
    seen = []
    for attention in cross_attentions(networks.unet):
        for slot in (attention.to_k, attention.to_v):
            slot.register_forward_hook(lambda _, args, output: seen.append(output))
    networks.noise(torch.zeros(2, 4, 8, 8), torch.tensor(500), networks.text(c))
    weights = [m.weight for a in cross_attentions(stock.unet) for m in (a.to_k, a.to_v)]
    # UNet.modules() lists the middle block last; the calls come in the order of the image's way.
    matched = 0
    for output in seen:
        assert output.dtype == dtype
        exact = [c.double() @ w.double().T for w in weights if len(w) == output.shape[-1]]
        half_step = torch.finfo(dtype).eps / 2 * 1.01 + 1e-6
        near = [((output - e).abs() <= half_step * e.abs() + 1e-5).all() for e in exact]
        matched += sum(near)
    assert matched == len(seen) == len(weights)


def distances(text, c, epsilon, dtype):
    """‖c' − c0'‖ / ε and the direction's cosine, as they arrive: through W, and by casting c."""
    sign = torch.randn(c.shape, generator=torch.Generator().manual_seed(1)).sign()
    sign[:, 0] = 0  # BOS is fixed
    delta = epsilon * sign / sign.flatten(1).norm(dim=1)[:, None, None]
    through = text.arrived(c + delta, dtype) - text.arrived(c, dtype)
    cast = ((c + delta).to(dtype).double() - c.to(dtype).double()).double()
    return [
        (v.flatten(1).norm(dim=1).mean().item() / epsilon,
         torch.cosine_similarity(v.flatten(1), delta.flatten(1).double()).mean().item(),
         (v - delta).flatten(1).norm(dim=1).mean().item())
        for v in (through, cast)
    ]  # fmt: skip


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_distance_that_reaches_the_network(tiny, dtype, epsilon):
    """ε(1 + 1e-3) holds where ε is far above the rounding of the keys and values; below it no way
    of casting them can hold it, because their rounding is noise that adds to ‖c − c0‖ in squares.
    What holds at every ε is that less than six tenths of the noise of casting c itself is left,
    √(D/M) of it if W were random.
    """
    c = tiny.encode([f"a handwritten digit {name}" for name in sorted(tiny.knows)])
    (ours, cosine, noise), (naive, its_cosine, its_noise) = distances(
        tiny.networks.text, c, epsilon, dtype
    )
    ways = {"through W": (ours, cosine, noise), "casting c": (naive, its_cosine, its_noise)}
    for way, (ratio, cos, off) in ways.items():
        print(f"{dtype} ε={epsilon} {way}: {ratio * epsilon:.4f}, cosine {cos:.4f}, off {off:.4f}")
    if dtype == torch.float32:
        assert ours <= 1 + 1e-3 and noise < 1e-4
        return
    assert noise < 0.6 * its_noise and cosine > its_cosine
    assert ours <= (1 + (noise / epsilon) ** 2) ** 0.5 * 1.02
    if epsilon == 5 or (dtype == torch.float16 and epsilon == 0.5):
        assert ours <= 1 + 1e-3


def test_what_arrives_is_what_was_sent():
    """Without a cast the least-squares solution is c itself."""
    text = object.__new__(KeysAndValues)
    torch.nn.Module.__init__(text)
    text.register_buffer("weight", torch.randn(40, 6, dtype=torch.float64))
    c = torch.randn(2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(text.arrived(c, torch.float64), c)


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
