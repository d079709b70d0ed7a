#!/usr/bin/env python3
"""The second program: an SGD step (momentum 0.9) of the four workloads in PyTorch, beside which
kfac_bench's steps can be read on the same machine. Needs Debian's python3-torch.

    tests/benchmarks/pytorch_step.py --threads 1 --workloads W2 W3
"""

import argparse
import json
import time

import torch
from torch import nn


def mlp(*sizes, activation=nn.ReLU, linear_code=None):
    layers = []
    for index, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        layers.append(nn.Linear(inputs, outputs))
        last = index == len(sizes) - 2
        if not last and outputs != linear_code:
            layers.append(activation())
    return nn.Sequential(*layers)


def autoencoder_loss(outputs, targets):
    total = nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="sum")
    return total / len(outputs)


def workload(name):
    """Of network, loss, inputs and targets."""
    if name == "W1":
        return mlp(2, 32, 2), nn.CrossEntropyLoss(), torch.randn(64, 2), torch.randint(2, (64,))
    if name == "W2":
        return (mlp(784, 512, 512, 10), nn.CrossEntropyLoss(), torch.randn(256, 784),
                torch.randint(10, (256,)))
    if name == "W3":
        sizes = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
        images = torch.rand(512, 784)
        return mlp(*sizes, activation=nn.Tanh, linear_code=30), autoencoder_loss, images, images
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(1600, 10))
    return network, nn.CrossEntropyLoss(), torch.randn(128, 1, 28, 28), torch.randint(10, (128,))


def best_seconds(body, seconds):
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        body()
        best = min(best, time.perf_counter() - start)
    return best


def step_seconds(name, seconds):
    network, loss, inputs, targets = workload(name)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step():
        optimizer.zero_grad()
        loss(network(inputs), targets).backward()
        optimizer.step()

    return best_seconds(step, seconds)


def product_rate(seconds):
    """GFLOP/s of square products."""
    best = 0.0
    for size in (512, 768, 1024):
        matrix = torch.randn(size, size)
        best = max(best, 2e-9 * size**3 / best_seconds(lambda: matrix @ matrix, seconds))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workloads", nargs="+", choices=("W1", "W2", "W3", "W4"),
                        default=["W1", "W2", "W3", "W4"])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    result = {"torch": torch.__version__, "threads": options.threads,
              "gflops": product_rate(options.seconds / 3), "sgd_ms": {}}
    print(f"PyTorch {result['torch']}, {options.threads} threads, products "
          f"{result['gflops']:.1f} GFLOP/s")
    for name in options.workloads:
        result["sgd_ms"][name] = 1e3 * step_seconds(name, options.seconds)
        print(f"{name}  SGD {result['sgd_ms'][name]:8.3f} ms a step")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    main()
