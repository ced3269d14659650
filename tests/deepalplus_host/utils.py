"""Names to objects."""

import sys

from data import from_torchvision
from handlers import MNIST_Handler
from nets import Net, SmallNet

import query_strategies


def get_dataset(name, args_task):
    if name in ("MNIST", "FashionMNIST"):
        return from_torchvision(name, MNIST_Handler, args_task)
    if name == "TinyImageNet":
        import cv2  # noqa: F401, as what it stands for needs it
    raise NotImplementedError


def get_net(name, args_task, device):
    return Net(SmallNet, args_task, device)


def get_strategy(STRATEGY_NAME, dataset, net, args_input, args_task):
    cls = getattr(query_strategies, STRATEGY_NAME, None)
    if cls is None:
        raise NotImplementedError
    return cls(dataset, net, args_input, args_task)


class Logger:
    def __init__(self, filename):
        self.terminal, self.log = sys.stdout, open(filename, "a")  # noqa: SIM115

    def write(self, message):
        self.terminal.write(message)
        self.log.write(message)

    def flush(self):
        pass
