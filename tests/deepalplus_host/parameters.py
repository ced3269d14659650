"""What each data set is trained with."""

from torchvision import transforms as T

GREY = T.Compose([T.ToTensor(), T.Normalize((0.13,), (0.31,))])
COLOUR = T.Compose([T.ToTensor(), T.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))])
FLIPPED = T.Compose([T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), *COLOUR.transforms])
LARGE = T.Compose([T.Resize(40), T.CenterCrop(32), T.ToTensor()])


def task(name, num_class, transform, transform_train=None):
    return {
        "name": name,
        "n_epoch": 2,
        "num_class": num_class,
        "transform": transform,
        "transform_train": transform_train or transform,
        "loader_tr_args": {"batch_size": 32, "num_workers": 0},
        "loader_te_args": {"batch_size": 100, "num_workers": 0},
        "optimizer": "Adam",
        "optimizer_args": {"lr": 0.01},
        "pretrained": False,
    }


args_pool = {
    "MNIST": task("MNIST", 10, GREY),
    "FashionMNIST": task("FashionMNIST", 10, GREY),
    "EMNIST": task("EMNIST", 62, T.Compose([T.ToTensor()])),
    "SVHN": task("SVHN", 10, COLOUR),
    "CIFAR10": task("CIFAR10", 10, COLOUR, FLIPPED),
    "TinyImageNet": task("TinyImageNet", 200, COLOUR),
    "PneumoniaMNIST": task("PneumoniaMNIST", 2, LARGE),
    "waterbirds": task("waterbirds", 2, COLOUR),
    "openml": task("openml", 26, T.Compose([T.ToTensor()])),
}
