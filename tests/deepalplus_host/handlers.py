"""Data sets of (image, label, index) over arrays of three forms."""

import numpy as np
from PIL import Image
from torch.utils.data import Dataset


class _Handler(Dataset):
    def __init__(self, X, Y, transform):
        self.X, self.Y, self.transform = X, Y, transform

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        return self.transform(self.picture(self.X[index])), self.Y[index], index


class MNIST_Handler(_Handler):
    def picture(self, x):
        return Image.fromarray(x.numpy())


class SVHN_Handler(_Handler):
    def picture(self, x):
        return Image.fromarray(np.moveaxis(x, 0, 2).copy())


class CIFAR10_Handler(_Handler):
    def picture(self, x):
        return Image.fromarray(x)
