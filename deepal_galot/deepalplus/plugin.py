"""GALOT as a strategy of a DeepALPlus checkout, made by its get_strategy."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import torch

from generators.base import TOO_LARGE_FOR_CPU, Generator

from ..errors import UserError
from ..generator_choice import load_generator
from .host import Host
from .settings import NAME, Settings, check_dataset, check_numbers, check_strategy, settle
from .trial import Trial, undisturbed


class Plugin:
    """Adds GALOT to a checkout's modules, and makes it when get_strategy is called.

    Attributes:
        host: the checkout.
        flags: GALOT's parsed flags; given: whether the user gave any.
        trials: number of GALOT strategies made so far in this process.
    """

    def __init__(self, host: Host, flags: argparse.Namespace, given: bool) -> None:
        self.host, self.flags, self.given, self.trials = host, flags, given, 0
        self._settled: tuple[dict[str, Any], Settings] | None = None
        self._generator: tuple[type[Generator], torch.device, Generator] | None = None
        self._get_args = host.arguments.get_args
        self._get_strategy = host.utils.get_strategy

    def install(self) -> None:
        """Replace the checkout's get_args and get_strategy by those of this class."""
        self.host.arguments.get_args = self.get_args
        self.host.utils.get_strategy = self.get_strategy

    def remove(self) -> None:
        """Undo `install`."""
        self.host.arguments.get_args = self._get_args
        self.host.utils.get_strategy = self._get_strategy

    def get_args(self) -> argparse.Namespace:
        """DeepALPlus's arguments, checked together with ours before any data are read.

        Raises:
            UserError: see `settle`; or GALOT's flags with another strategy.
        """
        theirs = self._get_args()
        # demo.py does this next. It is done here, because libraries imported here may use the GPUs.
        if hasattr(theirs, "gpu"):
            os.environ["CUDA_VISIBLE_DEVICES"] = str(theirs.gpu)
        check_strategy(self.host, theirs.ALstrategy)
        check_dataset(self.host, theirs.dataset_name)
        check_numbers(theirs)
        if theirs.ALstrategy == NAME:
            self._settle(theirs)
        elif self.given:
            raise UserError(f"the flags after -- are {NAME}'s; -a {theirs.ALstrategy} reads none")
        return theirs

    def get_strategy(
        self, name: str, dataset: Any, net: Any, args_input: Any, args_task: dict[str, Any]
    ) -> Any:
        """Make DeepALPlus's strategy of this name, or GALOT."""
        if name != NAME:
            return self._get_strategy(name, dataset, net, args_input, args_task)
        settings = self._settle(args_input)
        generator = self._load(settings, net.device)
        trial = Trial(dataset, net, args_task, settings, self.trials, generator)
        self.trials += 1
        base = self.host.samplers[settings.config.base_sampler]
        # Keywords, because one of DeepALPlus's strategies has its parameters in another order.
        sampler = base(dataset=dataset, net=net, args_input=args_input, args_task=args_task)
        print(
            f"{NAME}: trial {self.trials}, {settings.config.base_sampler} picks, images of seed "
            f"{trial.config.seed} (--seed + trial - 1), record in {trial.folder}"
        )
        return strategy_class(self.host.strategy)(
            dataset, net, args_input, args_task, trial, sampler
        )

    def _settle(self, theirs: Any) -> Settings:
        """`settle`, computed once for the same arguments."""
        if self._settled is None or self._settled[0] != vars(theirs):
            self._settled = dict(vars(theirs)), settle(self.host, self.flags, theirs)
        return self._settled[1]

    def _load(self, settings: Settings, device: torch.device) -> Generator:
        """Load the generator once for all trials, without changing DeepALPlus's random numbers."""
        kind = settings.generator
        if self._generator is None or self._generator[:2] != (kind, device):
            size = kind.size(settings.config)
            if device.type == "cpu" and size is not None and size.image > TOO_LARGE_FOR_CPU:
                warn(
                    f"there is no GPU, and {settings.config.generator} needs "
                    f"{size.image / 1e12:.0f} TFLOP an image: minutes for each"
                )
            with undisturbed(device):
                loaded = load_generator(
                    kind, settings.config, device, settings.compile, settings.checkpointing
                )
            self._generator = kind, device, loaded
        return self._generator[2]


def warn(text: str) -> None:
    """Print a line for the user to stderr, because DeepALPlus's own output goes into its log."""
    print(f"deepal-galot: {text}", file=sys.stderr)


def strategy_class(base: type) -> type:
    """Make GALOT a subclass of DeepALPlus's Strategy."""

    class GALOT(base):  # demo.py prints this name
        """One of DeepALPlus's samplers picks; the network also trains on generated images."""

        def __init__(
            self,
            dataset: Any,
            net: Any,
            args_input: Any,
            args_task: Any,
            trial: Trial,
            sampler: Any,
        ) -> None:
            super().__init__(dataset, net, args_input, args_task)
            self.trial, self.sampler = trial, sampler

        def query(self, n: int) -> Any:
            return self.sampler.query(n)

        def train(self, data: Any = None, model_name: str | None = None) -> None:
            if data is not None or model_name is not None:  # the caller's own training set
                super().train(data, model_name)
            else:
                self.trial.fit()

        def predict(self, data: Any) -> Any:
            predictions = super().predict(data)
            if getattr(data, "X", None) is self.dataset.X_test:
                self.trial.tested(self.dataset.cal_test_acc(predictions))
            return predictions

    return GALOT
