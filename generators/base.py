"""Base class of generators, and the request for images that they answer.

To add one, write a file in this folder (or a plug-in) with a subclass of Generator, or of
DiffusionGenerator for anything that diffusers loads.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from deepal_galot import seeding
from deepal_galot.alignment import Alignment
from deepal_galot.config import RunConfig
from deepal_galot.errors import UserError, said, some_of
from deepal_galot.registry import class_name, merged

from .memory import MicroBatches

Graph = Literal["none", "last", "all"]
ONE_IN = 20  # the run stops if more than one image in ONE_IN is blank or not finite
ATTEMPTS = 4  # the first attempt, and three retries for an image that comes out blank
ROUNDED = 0.01  # how far outside [0, 1] a value may lie, because 16-bit networks round
TOO_LARGE_FOR_CPU = 10e12  # FLOP an image; above it a CPU takes minutes for each image


@dataclass(frozen=True)
class Size:
    """Size of a generator, to estimate the cost of a run before it starts.

    Attributes:
        image: FLOP of one image, guidance included.
        chain: FLOP of one image and its gradient to the text through the last step.
        text: numbers in one text embedding, L·D.
    """

    image: float
    chain: float
    text: int


@dataclass(frozen=True)
class Refinement:
    """Turns the text embedding of the prompt into one of the image's own.

    Attributes:
        identity: hash of everything that `apply` depends on besides its arguments.
        apply: (c [B, L, D], the images' seeds, [B] rows of ImageRequest.c) -> c [B, L, D].
    """

    identity: str
    apply: Callable[[Tensor, Sequence[int], Tensor], Tensor]


@dataclass(frozen=True)
class ImageRequest:
    """Request for the images of one round.

    Attributes:
        c: [R, L, D] float32 text embeddings, class by class, P for each class. Image i of a class
            uses the (i mod P)-th of its class.
        c0: [R, L, D] float32, the prompts' embeddings before optimisation. Only the store's
            manifests use them, to show the distance ‖c - c0‖.
        counts: number of images for each class.
        prompts: R prompts.
        class_names: one name for each class.
        image_shape: (H, W, C) of the data set; images are resized to it.
        seed, round: address of the image stream.
        refinement: gives each image a text embedding of its own; None for none.
        alignment: maps the images when they are resized to image_shape; None for none.
    """

    c: Tensor
    c0: Tensor
    counts: tuple[int, ...]
    prompts: tuple[str, ...]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    seed: int
    round: int
    refinement: Refinement | None = None
    alignment: Alignment | None = None

    def key(self, generator: Generator) -> str:
        """Forty hex digits, a hash of everything that the pixels depend on."""
        what = {
            "version": 2,
            "resize": "bilinear, antialiased",
            "generator": generator.identity,
            "counts": self.counts,
            "prompts": self.prompts,
            "shape": self.image_shape,
            "seed": self.seed,
            "round": self.round,
            "refinement": self.refinement and self.refinement.identity,
        }
        try:
            digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
        except (TypeError, ValueError) as error:  # only the identity comes from outside
            raise UserError(
                f"{generator.called()}: `identity` must be a dict of text, "
                f"numbers and lists ({said(error)})"
            ) from error
        digest.update(self.c.contiguous().numpy().tobytes())
        if self.alignment is not None:
            digest.update(b"".join(v.numpy().tobytes() for v in self.alignment.tensors.values()))
        return digest.hexdigest()[:40]

    def rows(self) -> list[tuple[int, int]]:
        """(class, index) of every image, in the canonical order."""
        return [(k, i) for k, n in enumerate(self.counts) for i in range(n)]

    @property
    def templates(self) -> int:
        """P, the number of templates."""
        return len(self.prompts) // len(self.counts)

    def text(self, k: int, i: int) -> int:
        """The row of c and prompts that image i of class k uses."""
        return k * self.templates + i % self.templates

    def prompt(self, k: int) -> str:
        """The prompts of a class, joined by | as in --template."""
        return " | ".join(self.prompts[k * self.templates : (k + 1) * self.templates])

    def distance(self, k: int) -> float | None:
        """Mean ‖c − c0‖₂ over a class's texts; None if each image has a text of its own."""
        if self.refinement is not None:
            return None
        own = slice(k * self.templates, (k + 1) * self.templates)
        return (self.c[own] - self.c0[own]).double().flatten(1).norm(dim=1).mean().item()


def check_text(generator: Generator, c: object, n: int) -> Tensor:
    """Check the text embeddings c that encode() gave for n prompts, and return them.

    Raises:
        UserError: c is not a finite float32 Tensor [n, L, D] on the CPU, or has a gradient.
    """
    what = f"{c.dtype} {list(c.shape)}" if isinstance(c, Tensor) else f"{c!r:.80}"
    if (
        not isinstance(c, Tensor)
        or c.dtype != torch.float32
        or c.device.type != "cpu"
        or c.requires_grad
        or c.ndim != 3
        or len(c) != n
    ):
        raise UserError(
            f"{generator.called()}: encode() gives {what}, not float32 [{n}, L, D] on the CPU, "
            f"made without gradients"
        )
    if not c.isfinite().all():
        raise UserError(f"{generator.called()}: encode() gives numbers that are not finite")
    return c


def check_sample(generator: Generator, images: object, n: int, graph: Graph = "none") -> None:
    """Check the n images that a generator gave.

    Images that are not finite pass; the caller draws them again or leaves them out.

    Raises:
        UserError: they are not a float Tensor [n, 3 or 1, S, S] in [0, 1], or have no gradient
            although `graph` asks for one.
    """
    who = generator.called()
    what = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else f"{images!r}"
    if (
        not isinstance(images, Tensor)
        or not images.is_floating_point()
        or images.ndim != 4
        or images.shape[0] != n
        or images.shape[1] not in (1, 3)
    ):
        raise UserError(f"{who} gives {what[:200]}, not a float Tensor [{n}, 3 or 1, S, S]")
    low, high = (v.item() for v in images.detach().nan_to_num(0.0, 0.0, 0.0).aminmax())
    if low < -ROUNDED or high > 1 + ROUNDED:
        raise UserError(f"{who} gives values from {low:.4g} to {high:.4g}: scale them to [0, 1]")
    if graph != "none" and not images.requires_grad:
        raise UserError(
            f"{who} gives images without a gradient to their text (graph={graph!r}), so it cannot "
            f"be optimised: let autograd see it, or set `reads_text = False` and use --epsilon 0"
        )


class Generator(ABC):
    """Base class of text-to-image models; the first docstring line is shown by --list.

    Class attributes:
        name: as on the command line (default: the class name).
        defaults: RunConfig fields that suit this model (steps, guidance, scheduler, resolution).
        knows: the class names it can draw, or None for any.
        reads_text: whether its images follow a text that can be optimised.
        batch_size: images per forward pass.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    knows: ClassVar[frozenset[str] | None] = None
    reads_text: ClassVar[bool] = True
    batch_size: ClassVar[int] = 16

    @abstractmethod
    def __init__(self, config: RunConfig, device: torch.device) -> None:
        """Load the model.

        Raises:
            UserError: the weights cannot be had, or an option does not suit the model.
        """

    @classmethod
    @abstractmethod
    def content_hash(cls) -> str:
        """A hash of the weights, without loading the model.

        Raises:
            UserError: the weights cannot be had.
        """

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything an image depends on except text, noise and image_shape; JSON-able, without
        paths."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> text embeddings [P, L, D], float32 on the CPU; token 0 is BOS."""

    @abstractmethod
    def sample(
        self, c: Tensor, seeds: Sequence[int], graph: Graph = "none", steps: int | None = None
    ) -> Tensor:
        """Draw one image for each text embedding (equation 4).

        Args:
            c: [B, L, D] float32 text embeddings.
            seeds: B seeds; image i depends on c[i] and seeds[i] alone.
            graph: the reverse steps through which a gradient can reach c: none, only the last
                (Proposition 1), or all.
            steps: T, the number of denoising steps; default: the configuration's.

        Returns:
            [B, 3, S, S] float in [0, 1], on the generator's device.
        """

    def arrived(self, c: Tensor) -> Tensor:
        """c [B, L, D] as the network reads it after rounding to its dtype, on the CPU.

        ‖arrived(c) - arrived(c0)‖ is the distance that reaches the network.
        """
        return c

    def compile(self) -> None:
        """Compile the networks that sampling calls, if the generator can. Images change by
        rounding only."""
        return None

    def checkpoint(self) -> None:
        """Recompute activations for the gradient instead of keeping them, if the generator can."""
        return None

    @cached_property
    def gradients(self) -> MicroBatches:
        """Splits batches for a gradient into parts that fit into memory."""
        return MicroBatches(self.batch_size, "the gradient")

    @classmethod
    def size(cls, config: RunConfig) -> Size | None:
        """Cost of an image with these steps, guidance and resolution; None if it is not known.
        Does not load the model."""
        return None

    def draw(self, request: ImageRequest, rows: Sequence[tuple[int, int]], attempt: int) -> Tensor:
        """Make the training images at some addresses of a request; called by the image store.

        Args:
            rows: (class, index) of each image, at most batch_size of them.
            attempt: 0 at first, and one more each time that these images came out blank.

        Returns:
            [B, 3 or 1, S, S] float in [0, 1], on any device.
        """
        address = (request.seed, "image", request.round)
        seeds = [seeding.derive(*address, k, i, attempt) for k, i in rows]
        texts = torch.tensor([request.text(k, i) for k, i in rows])
        c = request.c[texts]
        if request.refinement is not None:
            c = request.refinement.apply(c, seeds, texts)
        return self.sample(c, seeds)

    @classmethod
    def too_many_blank(cls, request: ImageRequest, k: int, blank: Sequence[int]) -> str:
        """Error line where too many images of a class stay blank.

        Args:
            blank: their indices.
        """
        return (
            f"{cls.called()} gave {ATTEMPTS} blank images in a row (all pixels alike, or not "
            f"finite) for {len(blank)} of {request.counts[k]} images of {request.prompt(k)!r} "
            f"(round {request.round}), more than {100 // ONE_IN} %: {cls.at_fault()}"
        )

    @classmethod
    def at_fault(cls) -> str:
        """End of the error lines about images that are blank or not finite."""
        return "its sample() is at fault"

    @classmethod
    def called(cls) -> str:
        """What messages call it."""
        return f"the generator {class_name(cls)}"

    @classmethod
    def all_defaults(cls) -> dict[str, Any]:
        """`defaults` of this class and its bases; the class overrides its bases."""
        return merged(cls, "defaults")

    @classmethod
    def check_classes(cls, class_names: Sequence[str], dataset: str) -> None:
        """
        Raises:
            UserError: the generator does not know one of these classes.
        """
        if cls.knows is None:
            return
        unknown = [n for n in class_names if n not in cls.knows]
        if unknown:
            raise UserError(
                f"{cls.called()} does not know the classes of {dataset} ({some_of(unknown)}); "
                f"{cls.serves()} Name another one with --generator NAME, FOLDER or HUB-ID (see "
                f"--list)"
            )

    @classmethod
    def supply(cls, class_name: str) -> int | None:
        """How many images of a class a round can have; None if the generator makes any number."""
        return None

    @classmethod
    def serves(cls) -> str:
        """One sentence for error messages: the data sets that the generator is for."""
        return f"it draws {', '.join(sorted(cls.knows or ()))}."
