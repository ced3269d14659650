"""Active learning: a few rounds, a few times."""

import os
import sys

import arguments
import numpy as np
import torch
from parameters import args_pool
from utils import Logger, get_dataset, get_net, get_strategy

args = arguments.get_args()
rounds = args.quota // args.batch
os.environ["CUDA_VISIBLE_DEVICES"] = str(args.gpu)
np.random.seed(args.seed)
torch.manual_seed(args.seed)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
title = f"{args.dataset_name}_{args.ALstrategy}_{args.batch}_{args.initseed}_{args.quota}_normal"
sys.stdout = Logger(os.path.abspath("") + f"/logfile/{title}_log.txt")

all_acc = []
for trial in range(args.iteration):
    args_task = args_pool[args.dataset_name]
    dataset = get_dataset(args.dataset_name, args_task)
    net = get_net(args.dataset_name, args_task, device)
    strategy = get_strategy(args.ALstrategy, dataset, net, args, args_task)
    dataset.initialize_labels(args.initseed)
    print(type(strategy).__name__)
    acc = []
    for rd in range(rounds + 1):
        if rd:
            strategy.update(strategy.query(args.batch))
        strategy.train()
        acc.append(dataset.cal_test_acc(strategy.predict(dataset.get_test_data())))
        print(f"Round {rd}\ntesting accuracy {acc[-1]}")
    all_acc.append(acc)
    torch.save(strategy.get_model().state_dict(), f"./modelpara/{trial}{title}.params")

with open(f"results/{title}_res.txt", "w") as file:
    for rd, mean in enumerate(np.mean(all_acc, axis=0)):
        file.write(f"Size of training set is {args.initseed + rd * args.batch}, {mean:.4f}\n")
