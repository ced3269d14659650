"""The demo's flags."""

import argparse


def get_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("-a", "--ALstrategy", default="EntropySampling")
    parser.add_argument("-d", "--dataset_name", default="CIFAR10")
    parser.add_argument("-s", "--initseed", type=int, default=1000)
    parser.add_argument("-b", "--batch", type=int, default=128)
    parser.add_argument("-q", "--quota", type=int, default=1000)
    parser.add_argument("-t", "--iteration", type=int, default=3)
    parser.add_argument("-g", "--gpu", default="0")
    parser.add_argument("--seed", type=int, default=4666)
    return parser.parse_args()
