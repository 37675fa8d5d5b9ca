#!/usr/bin/env python3
"""Tokens per second that PyTorch could reach on Jet-Nemotron 2B if its matrix products in bf16 were all the work, as JSON.

    torch_bench.py --prompts 128,512 --generate 4 --threads 2

Every matrix of the model has its own memory, so that one token reads all weights; everything else (norms, convolution, delta rule,
attention, cache) is left out, in PyTorch's favour.
"""
import argparse
import json
import time

import torch

WIDTH, FORWARD, VOCABULARY = 1536, 8960, 151936
MLP = [(2 * FORWARD, WIDTH), (WIDTH, FORWARD)]
JET = [(8856, WIDTH), (12288, 384), (WIDTH, 3072)] + MLP
ATTENTION = [(2048, WIDTH), (WIDTH, WIDTH)] + MLP


def matrices():
    layers = [shape for kind, count in ((JET, 24), (ATTENTION, 4)) for _ in range(count) for shape in kind]
    return [torch.full(shape, 0.01, dtype=torch.bfloat16) for shape in layers], torch.full((VOCABULARY, WIDTH), 0.01, dtype=torch.bfloat16)


def step(weights, head, tokens):
    inputs = {k: torch.ones(tokens, k, dtype=torch.bfloat16) for k in {w.shape[1] for w in weights}}
    start = time.perf_counter()
    for weight in weights:
        torch.nn.functional.linear(inputs[weight.shape[1]], weight)
    torch.nn.functional.linear(inputs[WIDTH][:1], head)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default="128,512")
    parser.add_argument("--generate", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        weights, head = matrices()
        step(weights, head, 16)
        rows = {f"pp{n}": n / step(weights, head, n) for n in map(int, args.prompts.split(","))}
        rows[f"tg{args.generate}"] = args.generate / sum(step(weights, head, 1) for _ in range(args.generate))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
