#!/usr/bin/env python3
"""The whole model as Hugging Face's transformers runs it: tokens per second of decode and prefill, as a Markdown table.

    hf.py --model DIR                      DIR: config.json with the official modelling files beside it (and weights, if they are there)
    hf.py --model DIR --device cpu --tiny  a few tokens, to try the script; its times mean nothing

Without weights the parameters are random, which takes the same time. The modelling files are the official ones, run as they are
(`trust_remote_code`): they need a GPU with fla and, for `--attention flash_attention_2`, flash-attn. Any other causal model works too.
Decode is `model(token, past_key_values=..)` with the greedy choice made on the GPU, nothing of `generate` around it.
"""
import argparse
import pathlib
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def load(args):
    config = AutoConfig.from_pretrained(args.model, trust_remote_code=True)
    options = {"torch_dtype": torch.bfloat16, "trust_remote_code": True, "attn_implementation": args.attention}
    if any(args.model.glob("*.safetensors")):
        return AutoModelForCausalLM.from_pretrained(args.model, **options).to(args.device).eval()
    with torch.device(args.device):
        return AutoModelForCausalLM.from_config(config, **options).eval()


def ids(model, batch, tokens):
    return torch.randint(model.config.vocab_size, (batch, tokens), device=model.device)


class Run:
    """A batch with its cache."""

    def __init__(self, model, batch, chunk):
        self.model, self.batch, self.chunk, self.cache, self.length = model, batch, chunk, None, 0

    def __call__(self, tokens):
        """Logits of the last token, after these."""
        for part in tokens.split(self.chunk, dim=1):
            self.length += part.shape[1]
            mask = torch.ones(self.batch, self.length, dtype=torch.long, device=self.model.device)
            out = self.model(part, attention_mask=mask, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            self.cache = out.past_key_values
        return out.logits[:, -1]


def seconds(device, run):
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def prefill(args, model, tokens):
    """Tokens per second of the second prompt; the first compiles kernels."""
    prompt = ids(model, 1, tokens)
    Run(model, 1, args.chunk)(prompt)
    return tokens / seconds(args.device, lambda: Run(model, 1, args.chunk)(prompt))


def decode(args, model, batch, context):
    """Tokens per second of all sequences, behind a context of so many tokens."""
    run = Run(model, batch, args.chunk)
    token = run(ids(model, batch, context)).argmax(-1, keepdim=True)

    def steps():
        nonlocal token
        for _ in range(args.generate):
            token = run(token).argmax(-1, keepdim=True)

    steps()
    return batch * args.generate / seconds(args.device, steps)


def attempt(name, measure):
    try:
        print(f"| {name} | {measure():.0f} |", flush=True)
    except torch.OutOfMemoryError:
        print(f"| {name} | out of memory |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="folder with config.json and the modelling files")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--attention", default="sdpa", help="attn_implementation; the paper's figures are with flash_attention_2")
    parser.add_argument("--prompts", default="4096,65536")
    parser.add_argument("--decode", default="1x4096,8x4096,64x4096,512x4096,1x65536,128x65536", help="sequences x context, ..")
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=2048, help="tokens of a prompt at once")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.prompts, args.decode, args.generate, args.chunk = "12", "1x8,2x8", 2, 8
    import transformers

    with torch.inference_mode():
        model = load(args)
        size = sum(p.numel() for p in model.parameters())
        print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}, {args.attention}: {type(model).__name__}, {size / 1e9:.2f} G parameters.\n")
        print("| Hugging Face, whole model | tok/s |\n| --- | ---: |")
        for tokens in map(int, args.prompts.split(",")):
            attempt(f"pp{tokens}", lambda: prefill(args, model, tokens))
        for case in args.decode.split(","):
            batch, context = map(int, case.split("x"))
            attempt(f"tg{args.generate} b{batch} @ {context}", lambda: decode(args, model, batch, context))


if __name__ == "__main__":
    main()
