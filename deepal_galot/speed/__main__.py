"""The command line of `python -m deepal_galot.speed`."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .. import speed
from ..config import HUGE
from ..device import compiler_fault, is_out_of_memory, pick_device
from ..errors import UserError, complain, said
from ..flags import Parser
from ..stdio import mended_streams
from .generate import generate_lines
from .query import query_lines
from .train import train_lines


def build_parser() -> argparse.ArgumentParser:
    """The parser of `train`, `query` and `generate`, with their sizes."""
    parser = Parser(prog="python -m deepal_galot.speed", description=speed.__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    train = commands.add_parser("train")
    train.set_defaults(lines=train_lines)
    train.add_argument("--classifier", default="resnet18", metavar="NAME")
    train.add_argument("--dataset", metavar="NAME", help="default: 32×32 colour images of noise")
    train.add_argument(
        "--data-dir",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="of --dataset; default: data",
    )
    train.add_argument("--protocol", default="paper", metavar="NAME", help="default: paper")
    train.add_argument("--precision", default="auto", metavar="NAME", help="default: auto")
    train.add_argument(
        "--epochs",
        type=_positive,
        help="of one fit that is timed; default: the "
        "protocol's (minutes with 10,000 images), on a CPU 1; on a GPU the plain "
        "loop has no more than 4,000 images need, fits at once 300,000",
    )
    train.add_argument(
        "--batch", type=_positive, nargs="+", help="default: 32 128 512, on a CPU 32"
    )
    train.add_argument(
        "--images",
        type=_positive,
        nargs="+",
        help="in the training set; default: 1000 10000, on a CPU 256",
    )
    train.add_argument(
        "--workers", type=_natural, help="of the plain loader; default: 1, on a CPU 0"
    )
    train.add_argument(
        "--compile", action="store_true", help="ours compiled, however short a fit is (GPU)"
    )
    train.add_argument("--jobs", type=_positive, help="also as many fits at once")
    query = commands.add_parser("query")
    query.set_defaults(lines=query_lines)
    query.add_argument("--pool", type=_positive, default=50_000, help="unlabeled images")
    query.add_argument("--dim", type=_positive, default=512, help="length of an embedding")
    query.add_argument("--classes", type=_positive, nargs="+", default=[10, 100, 200])
    query.add_argument("--picks", type=_positive, default=1000, help="images a query")
    query.add_argument("--strategies", nargs="+", metavar="NAME", help="default: all that query")
    generate = commands.add_parser("generate")
    generate.set_defaults(lines=generate_lines)
    generate.add_argument("--steps", type=_positive, nargs="+", default=[50, 20], help="T")
    generate.add_argument("--batch", type=_positive, default=16, help="images of ours at once")
    generate.add_argument("--small", action="store_true", help="a miniature, for a CPU")
    generate.add_argument("--compile", action="store_true", help="ours compiled")
    generate.add_argument(
        "--checkpointing", action="store_true", help="the gradient in less memory"
    )
    for command in (train, query, generate):
        command.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: auto)")
    return parser


def _natural(text: str, least: int = 0) -> int:
    if not text.isdecimal() or not least <= int(text) <= HUGE:
        raise argparse.ArgumentTypeError(f"{text}: a whole number, {least} to {HUGE:,.0f}")
    return int(text)


_positive = functools.partial(_natural, least=1)


@mended_streams()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        args = build_parser().parse_args(argv)
        device = pick_device(args.device)
        torch.backends.cudnn.allow_tf32 = False  # as in a run
        for line in args.lines(args, device):
            print(line, flush=True)
    except UserError as error:
        return complain(error)
    except (RuntimeError, MemoryError) as error:
        lost = f"out of memory ({said(error)}): ask for less"
        fault = lost if is_out_of_memory(error) else compiler_fault(error)
        if fault is None:
            raise
        return complain(fault)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
