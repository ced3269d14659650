"""What every registered classifier must keep, and what the shipped ones are known to be."""

import copy
import time

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from deepal_galot import registry
from deepal_galot.classifiers.dla import Tree
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool
from helpers import small_config

NAMES = registry.classifiers.names()
SHAPES_AND_CLASSES = [
    *(((8, 8, 1), 2), ((8, 224, 1), 7), ((9, 11, 1), 10), ((28, 28, 2), 2), ((33, 33, 4), 7)),
    *(((32, 32, 3), 10), ((64, 64, 3), 200), ((224, 224, 3), 200)),
]


def make(name, shape=(32, 32, 3), n_classes=10, seed=0):
    torch.manual_seed(seed)
    return registry.classifiers.get(name)(shape, n_classes)


def make_settled(name, shape):
    """In eval mode, with the BatchNorm statistics of a batch: a new network's hide mistakes."""
    net, x = make(name, shape), torch.randn(8, shape[2], *shape[:2])
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        net.train()(x)
    return net.eval(), x


@pytest.fixture(scope="module", params=NAMES)
def settled(request):
    """(network in eval mode, 8 images of 20×20×3), the same for every test: leave it as it is."""
    return make_settled(request.param, (20, 20, 3))


def count(net):
    return sum(p.numel() for p in net.parameters())


# -- the contract ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name):
    for shape, n_classes in SHAPES_AND_CLASSES:
        with torch.device("meta"):  # shapes without numbers
            net, x = make(name, shape, n_classes), torch.empty(2, shape[2], *shape[:2])
        maps = net.feature_maps(x)
        embedding = net.neck(maps[-1])
        assert embedding.shape == (2, net.embedding_dim) == (2, net.get_embedding_dim())
        assert isinstance(net.head, nn.Linear) and net.head.in_features == net.embedding_dim
        assert net.head(embedding).shape == (2, n_classes)
        assert 3 <= len(maps) <= 5 and maps[-1][0, 0].numel() < maps[0][0, 0].numel()
        height, width = shape[:2]
        for m in maps:
            assert m.ndim == 4 and 1 <= m.shape[2] <= height and 1 <= m.shape[3] <= width
            height, width = m.shape[2:]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [8, 28])
def test_trains_on_a_batch_of_two_and_draws_nothing(name, side):
    net, x = make(name, (side, side, 1), 7).train(), torch.randn(2, 1, side, side)
    before = torch.get_rng_state()
    logits, embedding = net(x)
    assert logits.shape == (2, 7) and embedding.shape == (2, net.embedding_dim)
    logits.logsumexp(1).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)  # dropout is the strategies' affair
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_draws_only_from_the_global_generator(name):
    first, second = (make(name, (8, 8, 1), 3, seed=5).parameters() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_weight_and_the_image_get_a_gradient(settled):
    """In eval mode: in training BatchNorm cancels the bias of a convolution before it."""
    net, x = settled[0], settled[1].clone().requires_grad_()
    net(x)[0].logsumexp(1).sum().backward()
    without = [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without and all(image.any() for image in x.grad)


@torch.no_grad()
def test_an_image_is_scored_alike_in_any_batch_and_memory_format(settled):
    net, x = settled
    logits, embedding = net(x)
    assert logits.std(0).min() > 0.01  # the images do differ
    torch.testing.assert_close(net(x[3:5])[0], logits[3:5], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net.head(embedding), logits)
    by_pixel = copy.deepcopy(net).to(memory_format=torch.channels_last)
    other = by_pixel(x.contiguous(memory_format=torch.channels_last))[0]
    torch.testing.assert_close(other, logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_feature_map_is_not_overwritten_by_later_stages(settled):
    net, x = settled
    expected, image = [], x.clone()
    for stage in net.stages:
        expected.append(stage(expected[-1].clone() if expected else x.clone()).clone())
    maps = net.feature_maps(x)
    net.neck(maps[-1])
    for a, b in zip(maps, expected, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(x, image)


# -- known networks ----------------------------------------------------------------------------


def small_cnn_count(k):
    """Three 3×3 convolutions 3-32-64-128 without bias, BatchNorm, 512 -> 128 -> k."""
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 128)
    return convolutions + 2 * (32 + 64 + 128) + (512 * 128 + 128) + (128 * k + k)


def dla_count(k):
    """Summed by hand: convolutions have no bias, a BatchNorm has two numbers a channel."""

    def block(n_in, n):  # two 3×3 convolutions and, where the channels change, a 1×1 shortcut
        return 9 * n_in * n + 9 * n * n + 4 * n + (n_in != n) * (n_in * n + 2 * n)

    def tree_1(n_in, n):  # two blocks, a root over two
        return block(n_in, n) + block(n, n) + 2 * n * n + 2 * n

    def tree_2(n_in, n):  # a link, a tree of two blocks, two more blocks, a root over these four
        return block(n_in, n) + tree_1(n_in, n) + 2 * block(n, n) + 4 * n * n + 2 * n

    stem = 9 * (3 * 16 + 16 * 16 + 16 * 32) + 2 * (16 + 16 + 32)
    trees = tree_1(32, 64) + tree_2(64, 128) + tree_2(128, 256) + tree_1(256, 512)
    return stem + trees + 512 * k + k


KNOWN = {
    "resnet18": 11_173_962,
    "resnet18_maxpool": 11_173_962,
    "vgg16": 14_728_266,
    "densenet121": 6_956_426,
    "mobilenetv2": 2_236_682,
    "dla": 16_291_386,
    "small_cnn": small_cnn_count(10),
}


@pytest.mark.parametrize(("name", "parameters"), KNOWN.items())
def test_known_parameter_counts(name, parameters):
    """As published for CIFAR-10 (32×32×3, 10 classes), where the network has a published form.

    DenseNet has the 128 of its stem's BatchNorm more than the form without one; MobileNetV2 is
    torchvision's, whose 2,223,872 below the head and 12,810 in it are the ImageNet network's.
    """
    with torch.device("meta"):
        assert count(make(name)) == parameters


@pytest.mark.parametrize("n_classes", [2, 10, 200])
def test_dla_has_the_parameters_of_its_formula(n_classes):
    assert dla_count(10) == 16_291_386
    with torch.device("meta"):
        assert count(make("dla", n_classes=n_classes)) == dla_count(n_classes)


@torch.no_grad()
def test_dla_tree_is_what_the_paper_draws():
    """A tree of depth two, written out: an inner tree, two blocks on it, all merged at the root."""
    torch.manual_seed(0)
    tree, x = Tree(2, 4, 6, stride=2), torch.randn(3, 4, 7, 9)
    inner, left, right = tree.parts
    a = inner.parts[0](x)
    b = inner.parts[1](a)
    t = inner.root(torch.cat([a, b], 1))
    expected = tree.root(torch.cat([tree.link(x), t, left(t), right(left(t))], 1))
    assert torch.equal(tree(x), expected) and expected.shape == (3, 6, 4, 5)


def torchvision_form(name):
    """torchvision's own network with only its stem, poolings and top changed for 32 px, by hand."""
    models = torchvision.models
    if name == "vgg16":
        net = models.vgg16_bn()
        net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 10)
    elif name == "densenet121":
        net = models.densenet121(num_classes=10)
        net.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        net.features.pool0 = nn.Identity()
    elif name == "mobilenetv2":
        net = models.mobilenet_v2(num_classes=10)
        net.features[0][0].stride = net.features[2].conv[1][0].stride = (1, 1)
    else:
        net = models.resnet18(num_classes=10)
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        if name == "resnet18":
            net.maxpool = nn.Identity()
    return net


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet18_maxpool", "vgg16", "densenet121", "mobilenetv2"]
)
@torch.no_grad()
def test_equals_torchvision(name):
    """With the same weights, tensor by tensor in order, the same logits."""
    ours, x = make_settled(name, (35, 44, 3))  # sides that poolings halve with a remainder
    with torch.device("meta"):  # else VGG16's own top would take 0.5 GB
        theirs = torchvision_form(name)
    tensors = ours.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors, strict=True)), assign=True)
    torch.testing.assert_close(ours(x)[0], theirs.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in KNOWN if n != "small_cnn"])
def test_convolutions_are_drawn_as_torchvision_draws_them(name):
    """Normal with variance 2 / fan-out (DenseNet: fan-in), the new stem too; within 5 sigma."""
    for key, w in make(name).state_dict().items():
        if w.ndim == 4:
            fan = w[0].numel() if name == "densenet121" else w[:, 0].numel()
            ratio = w.square().mean().item() * fan / 2
            assert abs(ratio - 1) < 5 * (2 / w.numel()) ** 0.5, key


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_learns_digits(name, digits):
    """Above 90 % of the 450 test images after a few epochs on all 1,347 training images."""
    epochs = {"mobilenetv2": 15}.get(name, 5)
    config = small_config(epochs=epochs, batch_size=50, lr=3e-3)  # Adam, shift, rotation, zoom
    pool = Pool(digits)
    pool.label(np.arange(pool.n_pool))
    device = torch.device("cpu")
    architecture = registry.classifiers.get(name)
    learner = Learner(config, architecture, digits.image_shape, digits.n_classes, device)
    start = time.process_time()
    learner.fit(pool.training_set(), 0)
    seconds = time.process_time() - start
    accuracy = pool.cal_test_acc(learner.predict(pool.get_test_data()))
    print(f"\n{name}: {100 * accuracy:.1f} % after {epochs} epochs in {seconds:.1f} CPU seconds")
    assert accuracy > 0.9
