#!/usr/bin/env python3
"""Jet-Nemotron in PyTorch on a CPU, bf16: tokens per second of the whole model, as JSON.

    torch_model.py --prompts 128,512 --generate 4 --threads 2     2B shapes, random weights
    torch_model.py --check tests/golden/tiny-a                    correctness: relative L2 of logits and its tolerance

The official code calls Triton kernels that no CPU runs. This is the same model from PyTorch's own operations, each in the form that
PyTorch does fastest: fused projections, the convolution as products with shifted values, the delta rule of prompts in chunks of 64 as
batched matrix products with one triangular solve, `scaled_dot_product_attention`. Weights and activations are bf16; states, decays,
norms and the triangular solve f32, as in the official code.
"""
import argparse
import json
import pathlib
import time

import torch
import torch.nn.functional as F

CHUNK = 64
JET, SWA = "jet", "swa"
CONFIG_2B = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True,
    "layer_types": [{14: "attn", 19: "attn", 20: "swa", 21: "swa"}.get(i, JET) for i in range(28)],
    "efficient_attention_config": {
        "jet": {"num_heads": 12, "head_dim": 96, "expand_v": 2.6666666667, "conv_size": 4, "dconv_generator_reduction": 8, "norm_eps": "1e-5"},
        "swa": {"window_size": 1152},
    },
}


def rms(x, weight, eps):
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def l2(x):
    x = x.float()
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


class JetBlock:
    """Gated delta rule with a dynamic convolution of the values; see docs/ops.md for the formulas."""

    def __init__(self, config, weight):
        jet = config["efficient_attention_config"]["jet"]
        self.heads, self.k, self.taps = jet["num_heads"], jet["head_dim"], jet["conv_size"]
        self.v, self.eps = int(self.k * jet["expand_v"]), float(jet["norm_eps"])
        hidden, keys, values = config["hidden_size"], self.heads * self.k, self.heads * self.v
        generator = values // jet["dconv_generator_reduction"]
        name = "self_attn.dynamic_conv1d.kernel_generator."
        self.sizes = [keys, keys, values, values, generator, self.heads, self.heads]
        parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.g_proj", name + "w1", "self_attn.a_proj", "self_attn.b_proj"]
        self.project = torch.cat([weight(f"{part}.weight", (rows, hidden)) for part, rows in zip(parts, self.sizes)])
        self.w2 = weight(name + "w2.weight", (values * self.taps, generator))
        self.w2_bias = weight(name + "w2.bias", (values * self.taps,))
        self.a_log = weight("self_attn.A_log", (self.heads,)).float()
        self.dt_bias = weight("self_attn.dt_bias", (self.heads,)).float()
        self.o_norm = weight("self_attn.o_norm.weight", (self.v,))
        self.o_proj = weight("self_attn.o_proj.weight", (hidden, values))

    def start(self, _):
        return {"s": torch.zeros(self.heads, self.k, self.v), "ring": torch.zeros(self.taps - 1, self.heads * self.v, dtype=torch.bfloat16)}

    def __call__(self, x, state, _):
        q, k, v, g, w1, a, b = F.linear(x, self.project).split(self.sizes, -1)
        kernels = F.linear(F.silu(w1), self.w2, self.w2_bias).view(len(x), -1, self.taps)
        past = torch.cat([state["ring"], v])
        state["ring"] = past[len(x):]
        y = sum(kernels[:, :, tap] * past[tap:tap + len(x)] for tap in range(self.taps))
        split = lambda t, width: t.view(len(x), self.heads, width).transpose(0, 1)
        q, k, v = split(F.silu(q), self.k), split(F.silu(k), self.k), split(F.silu(y), self.v)
        q, k = l2(q) * self.k**-0.5, l2(k)
        beta = torch.sigmoid(b.float()).T
        decay = (-self.a_log.exp() * F.softplus(a.float() + self.dt_bias)).T
        rule = self.one if len(x) == 1 else self.chunks
        o = rule(q, k, v.float(), decay, beta, state).transpose(0, 1)
        o = rms(o.to(x.dtype), self.o_norm, self.eps) * F.silu(g.view(len(x), self.heads, self.v))
        return F.linear(o.reshape(len(x), -1), self.o_proj)

    def one(self, q, k, v, decay, beta, state):
        s = state["s"].mul_(decay.exp()[:, :, None])
        u = beta[:, :, None] * (v - k @ s)
        return q @ s.baddbmm_(k.transpose(1, 2), u)

    def chunks(self, q, k, v, decay, beta, state):
        """Chunks of 64 tokens: inside a chunk by one triangular solve, from chunk to chunk by the state."""
        tokens = q.shape[1]
        pad = -tokens % CHUNK
        fill = lambda t: F.pad(t, (0, 0) * (t.dim() - 2) + (0, pad)).unflatten(1, (-1, CHUNK))
        q, k, v, decay, beta = map(fill, (q, k, v, decay, beta))
        decay = decay.cumsum(-1)
        lower = torch.ones(CHUNK, CHUNK).tril()
        between = ((decay[..., :, None] - decay[..., None, :]) * lower).exp() * lower
        k_beta = k * beta[..., None]
        system = (k_beta @ k.transpose(-1, -2) * between).tril(-1)
        right = torch.cat([v * beta[..., None], k_beta * decay.exp()[..., None]], -1)
        solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        u, w = (part.bfloat16() for part in solved.split([self.v, self.k], -1))
        scores = (q @ k.transpose(-1, -2) * between).bfloat16()
        q = (q * decay.exp()[..., None]).bfloat16()
        last = decay[..., -1:]
        k = (k * (last - decay).exp()[..., None]).bfloat16()
        out, s = [], state["s"]
        for c in range(q.shape[1]):
            s16 = s.bfloat16()
            new = u[:, c] - w[:, c] @ s16
            out.append(q[:, c] @ s16 + scores[:, c] @ new)
            s = s * last[:, c, :, None].exp() + (k[:, c].transpose(1, 2) @ new).float()
        state["s"] = s
        return torch.cat(out, 1)[:, :tokens]


class Attention:
    """Grouped queries, rotary positions, whole or windowed context."""

    def __init__(self, config, weight, kind):
        hidden, self.heads, self.kv = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
        self.d = config.get("head_dim") or hidden // self.heads
        self.window = config["efficient_attention_config"]["swa"]["window_size"] if kind == SWA else None
        self.sizes = [self.heads * self.d, self.kv * self.d, self.kv * self.d]
        parts = list(zip("qkv", self.sizes))
        self.project = torch.cat([weight(f"self_attn.{p}_proj.weight", (rows, hidden)) for p, rows in parts])
        self.bias = torch.cat([weight(f"self_attn.{p}_proj.bias", (rows,)) for p, rows in parts])
        self.o_proj = weight("self_attn.o_proj.weight", (hidden, self.heads * self.d))
        self.frequencies = config["rope_theta"] ** (-torch.arange(0, self.d, 2) / self.d)

    def start(self, tokens):
        return {"kv": torch.zeros(2, self.kv, tokens, self.d, dtype=torch.bfloat16)}

    def rope(self, x, position):
        angle = torch.arange(position, position + x.shape[1])[:, None] * self.frequencies
        cos, sin = (torch.cat([f(angle)] * 2, -1).to(x.dtype) for f in (torch.cos, torch.sin))
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat([-high, low], -1) * sin

    def __call__(self, x, state, position):
        split = lambda t: t.view(len(x), -1, self.d).transpose(0, 1)
        q, k, v = map(split, F.linear(x, self.project, self.bias).split(self.sizes, -1))
        end = position + len(x)
        state["kv"][0, :, position:end], state["kv"][1, :, position:end] = self.rope(k, position), v
        first = max(0, position - self.window + 1) if self.window else 0
        k, v = state["kv"][:, :, first:end]
        mask = None
        if len(x) > 1:
            age = torch.arange(position, end)[:, None] - torch.arange(first, end)
            mask = (age >= 0) & (age < (self.window or end))
        o = F.scaled_dot_product_attention(self.rope(q, position)[None], k[None], v[None], attn_mask=mask, enable_gqa=True)
        return F.linear(o[0].transpose(0, 1).reshape(len(x), -1), self.o_proj)


class Model:
    def __init__(self, config, tensor):
        hidden, forward = config["hidden_size"], config["intermediate_size"]
        self.eps, self.layers = config["rms_norm_eps"], []
        self.embed = tensor("model.embed_tokens.weight", (config["vocab_size"], hidden))
        self.head = self.embed if config["tie_word_embeddings"] else tensor("lm_head.weight", (config["vocab_size"], hidden))
        self.norm = tensor("model.norm.weight", (hidden,))
        for i, kind in enumerate(config["layer_types"]):
            weight = lambda name, shape, i=i: tensor(f"model.layers.{i}.{name}", shape)
            mixer = JetBlock(config, weight) if kind == JET else Attention(config, weight, kind)
            norms = [weight(f"{name}.weight", (hidden,)) for name in ("input_layernorm", "post_attention_layernorm")]
            up = torch.cat([weight(f"mlp.{name}_proj.weight", (forward, hidden)) for name in ("gate", "up")])
            self.layers.append((mixer, norms, up, weight("mlp.down_proj.weight", (hidden, forward))))

    def start(self, tokens):
        return [mixer.start(tokens) for mixer, *_ in self.layers]

    def __call__(self, ids, states, position, rows=1):
        """Logits of the last `rows` tokens."""
        x = F.embedding(ids, self.embed)
        for (mixer, norms, up, down), state in zip(self.layers, states):
            x = x + mixer(rms(x, norms[0], self.eps), state, position)
            gate, value = F.linear(rms(x, norms[1], self.eps), up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * value, down)
        return F.linear(rms(x[-rows:], self.norm, self.eps), self.head)


def random_tensor(name, shape):
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).uniform_(-1, 1).mul_(1.7 / shape[-1] ** 0.5)


def read(path):
    """The tensors of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    kinds = {"BF16": torch.bfloat16, "F32": torch.float32, "I64": torch.int64}
    header = {name: entry for name, entry in json.loads(data[8:8 + length]).items() if name != "__metadata__"}
    at = lambda e: torch.frombuffer(bytearray(data[8 + length + e["data_offsets"][0]:8 + length + e["data_offsets"][1]]), dtype=kinds[e["dtype"]])
    return {name: at(entry).view(entry["shape"]) for name, entry in header.items()}


def check(case):
    """Every prompt of a golden case, then its decode steps, against the logits of the official code."""
    config, golden = json.loads((case / "config.json").read_text()), read(case / "io.safetensors")
    weights = read(case / "model.safetensors")
    model = Model(config, lambda name, _: weights[name])
    worst, tolerance = 0.0, json.loads((case / "meta.json").read_text())["tolerance"]["bf16_rel_l2_outputs"]
    for seq in sorted({key.split(".")[0] for key in golden if key.startswith("seq")}):
        ids, greedy = golden[f"{seq}.input_ids"], golden[f"{seq}.greedy_ids"]
        states = model.start(len(ids) + len(greedy))
        found = [model(ids, states, 0, len(ids))]
        found += [model(token[None], states, len(ids) + i) for i, token in enumerate(greedy[:-1])]
        expected = torch.cat([golden[f"{seq}.logits"], golden[f"{seq}.decode_logits"]])
        worst = max(worst, ((torch.cat(found).float() - expected).norm() / expected.norm()).item())
    print(f"{case.name}: worst relative L2 {worst:.2e}, tolerance {tolerance:.2e}")
    raise SystemExit(worst > tolerance)


def measure(model, prompt, generate):
    """Tokens per second of a prompt of so many tokens, or of so many tokens one after another."""
    states = model.start(prompt + generate)
    start = time.perf_counter()
    if prompt:
        model((7 * torch.arange(prompt) + 1) % len(model.embed), states, 0)
    for i in range(generate):
        model(torch.tensor([11 * i + 1]), states, i)
    return (prompt + generate) / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default="128,512")
    parser.add_argument("--generate", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", type=pathlib.Path, metavar="CASE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        if args.check:
            check(args.check)
        model = Model(CONFIG_2B, random_tensor)
        measure(model, 16, 1)
        rows = {f"pp{n}": measure(model, n, 0) for n in map(int, args.prompts.split(","))}
        rows[f"tg{args.generate}"] = measure(model, 0, args.generate)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
