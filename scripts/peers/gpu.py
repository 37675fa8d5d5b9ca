#!/usr/bin/env python3
"""What PyTorch's and fla's own kernels take for the parts of a Jet-Nemotron decode step and prefill, as a Markdown table.

The sum over the layers is a lower bound for a PyTorch implementation made of these kernels: norms, convolutions, gates and the gaps
between launches are left out. Products rotate over several copies of a weight, so that no cache holds them. Weights and
activations are bf16, states f32, keys and values bf16 (jetc keeps them in f32).

`--device cpu --tiny` runs everything once with small sizes: it tries the script, its times mean nothing.
"""
import argparse
import json
import time

import torch
import torch.nn.functional as F

COPY_BYTES = 256 << 20
ROTATED_BYTES = 200 << 20


def seconds(run, device, repetitions):
    """The median time of a run; the first three do not count."""
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    times = []
    for _ in range(repetitions + 3):
        wait()
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return sorted(times[3:])[repetitions // 2]


def captured(run, device):
    """The same as a CUDA graph, so that the gaps between launches do not count."""
    if device != "cuda":
        return run
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def products(c):
    """Name, columns, inputs and number of each product of the model."""
    jet = c["efficient_attention_config"]["jet"]
    kinds = c["layer_types"]
    n_jet = kinds.count("jet")
    n_attention = len(kinds) - n_jet
    heads, d = jet["num_heads"], jet["head_dim"]
    key, value, h = heads * d, heads * int(d * jet["expand_v"]), c["hidden_size"]
    generated = jet["conv_size"] * value
    low = value // jet["dconv_generator_reduction"]
    qkv = (c["num_attention_heads"] + 2 * c["num_key_value_heads"]) * (h // c["num_attention_heads"])
    return [
        ("delta: q, k, v, g, a, b, generator 1", 2 * key + 2 * value + 2 * heads + low, h, n_jet),
        ("delta: generator 2", generated, low, n_jet),
        ("delta: output", h, value, n_jet),
        ("attention: q, k, v", qkv, h, n_attention),
        ("attention: output", h, h, n_attention),
        ("MLP: gate, up", 2 * c["intermediate_size"], h, len(kinds)),
        ("MLP: down", h, c["intermediate_size"], len(kinds)),
        ("logits", c["vocab_size"], h, 1),
    ]


class Bench:
    def __init__(self, device, repetitions):
        self.device, self.repetitions = device, repetitions

    def tensor(self, *shape, dtype=torch.bfloat16):
        return torch.randn(*shape, device=self.device, dtype=torch.float32).mul_(0.05).to(dtype)

    def time(self, run):
        return seconds(captured(run, self.device), self.device, self.repetitions)

    def copy_gbps(self, n_bytes):
        a = torch.ones(n_bytes, dtype=torch.uint8, device=self.device)
        b = torch.empty_like(a)
        return 2 * n_bytes / seconds(lambda: b.copy_(a), self.device, self.repetitions) / 1e9

    def linear(self, rows, columns, inputs):
        copies = max(1, min(12, ROTATED_BYTES // (2 * columns * inputs))) if self.device == "cuda" else 1
        weights = [self.tensor(columns, inputs) for _ in range(copies)]
        x = self.tensor(rows, inputs)
        return self.time(lambda: [F.linear(x, w) for w in weights]) / copies

    def sdpa(self, batch, queries, context, c):
        kv, d = c["num_key_value_heads"], c["hidden_size"] // c["num_attention_heads"]
        q = self.tensor(batch, c["num_attention_heads"], queries, d)
        k, v = self.tensor(batch, kv, context, d), self.tensor(batch, kv, context, d)
        causal = queries == context
        return self.time(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True))

    def delta(self, batch, tokens, c):
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule

        jet = c["efficient_attention_config"]["jet"]
        heads, dk = jet["num_heads"], jet["head_dim"]
        dv = int(dk * jet["expand_v"])
        q, k = self.tensor(batch, tokens, heads, dk), self.tensor(batch, tokens, heads, dk)
        v, state = self.tensor(batch, tokens, heads, dv), self.tensor(batch, heads, dk, dv, dtype=torch.float32)
        g = -torch.rand(batch, tokens, heads, device=self.device)
        beta = torch.rand(batch, tokens, heads, device=self.device).bfloat16()
        kernel = fused_recurrent_gated_delta_rule if tokens == 1 else chunk_gated_delta_rule
        call = lambda: kernel(
            q=q, k=k, v=v, g=g, beta=beta, initial_state=state, output_final_state=True, use_qk_l2norm_in_kernel=True
        )
        return self.time(call) if tokens == 1 else seconds(call, self.device, self.repetitions)


def shrink(c):
    """Sizes with which every call runs on a CPU in an instant."""
    small = dict(c, hidden_size=64, intermediate_size=96, vocab_size=128, num_attention_heads=4, num_key_value_heads=2)
    jet = dict(c["efficient_attention_config"]["jet"], num_heads=2, head_dim=16)
    return dict(small, efficient_attention_config=dict(c["efficient_attention_config"], jet=jet))


def row(name, n, each, total, gbytes, copy):
    share = f"{gbytes / each / copy * 100:.0f} %" if gbytes else ""
    print(f"| {name} | {n} | {each * 1e6:.1f} | {total * 1e6:.1f} | {share} |")


def step(bench, c, batch, context, copy, has_fla):
    """A decode step of `batch` sequences with `context` tokens each."""
    print(f"\n### Decode, batch {batch}, context {context}\n")
    print("| part | times | us each | us a step | of copying |\n| --- | ---: | ---: | ---: | ---: |")
    total = 0.0
    for name, columns, inputs, n in products(c):
        each = bench.linear(batch, columns, inputs)
        total += n * each
        row(f"F.linear, {name}", n, each, n * each, 2 * columns * inputs / 1e9, copy)
    kinds = c["layer_types"]
    window = c["efficient_attention_config"]["swa"]["window_size"]
    for kind, seen in (("attn", context), ("swa", min(context, window))):
        n, each = kinds.count(kind), bench.sdpa(batch, 1, seen, c)
        total += n * each
        width = c["num_key_value_heads"] * (c["hidden_size"] // c["num_attention_heads"])
        row(f"SDPA, {kind}", n, each, n * each, 4 * batch * seen * width / 1e9, copy)
    if has_fla:
        n, each = kinds.count("jet"), bench.delta(batch, 1, c)
        total += n * each
        row("fla fused_recurrent_gated_delta_rule", n, each, n * each, 0, copy)
    print(f"| **sum** | | | **{total * 1e6:.1f}** | {batch / total:.0f} tok/s |")


def prefill(bench, c, tokens, has_fla):
    print(f"\n### Prefill, {tokens} tokens of one sequence\n")
    print("| part | times | us each | us in all | |\n| --- | ---: | ---: | ---: | ---: |")
    total = 0.0
    for name, columns, inputs, n in products(c)[:-1]:
        each = bench.linear(tokens, columns, inputs)
        total += n * each
        row(f"F.linear, {name}", n, each, n * each, 0, 1)
    n, each = c["layer_types"].count("attn"), bench.sdpa(1, tokens, tokens, c)
    total += n * each
    row("SDPA, attn", n, each, n * each, 0, 1)
    if has_fla:
        n, each = c["layer_types"].count("jet"), bench.delta(1, tokens, c)
        total += n * each
        row("fla chunk_gated_delta_rule", n, each, n * each, 0, 1)
    print(f"| **sum** | | | **{total * 1e6:.1f}** | {tokens / total:.0f} tok/s |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="config.json of the model")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, once: tries the script")
    args = parser.parse_args()
    with open(args.config) as file:
        config = json.load(file)
    try:
        import fla

        has_fla = args.device == "cuda"
        version = f"fla {fla.__version__}" if has_fla else "no fla on this device"
    except ImportError:
        has_fla, version = False, "no fla: the delta rule is left out of the sums"
    bench = Bench(args.device, 1 if args.tiny else 20)
    copy = bench.copy_gbps(1 << 16 if args.tiny else COPY_BYTES)
    print(f"PyTorch {torch.__version__}, {version}; copying {copy:.0f} GB/s.")
    if args.tiny:
        config = shrink(config)
    for batch, context in [(2, 16)] if args.tiny else [(1, 4096), (8, 4096), (64, 4096), (512, 4096), (1, 65536)]:
        step(bench, config, batch, context, copy, has_fla)
    for tokens in [32] if args.tiny else [4096]:
        prefill(bench, config, tokens, has_fla)


if __name__ == "__main__":
    main()
