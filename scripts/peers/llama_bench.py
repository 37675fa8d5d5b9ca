#!/usr/bin/env python3
"""Tokens per second of llama.cpp, through the package llama-cpp-python: prompts (`pp`) and generation (`tg`), as JSON.

    llama_bench.py MODEL.gguf --prompts 128,512 --generate 32 --threads 2
"""
import argparse
import ctypes
import json
import time

import llama_cpp as llama


def silence():
    """llama.cpp tells its life's story on stderr otherwise; the callback has to outlive every call."""
    callback = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(callback, ctypes.c_void_p(0))
    return callback


def decode(context, ids):
    tokens = (llama.llama_token * len(ids))(*ids)
    if llama.llama_decode(context, llama.llama_batch_get_one(tokens, len(ids))) != 0:
        raise SystemExit("llama.cpp: llama_decode failed")
    llama.llama_synchronize(context)


def measure(context, prompt, generate):
    """Seconds of a prompt of so many tokens, or of so many tokens one after another."""
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    start = time.perf_counter()
    if prompt:
        decode(context, [(7 * i + 1) % 151936 for i in range(prompt)])
    for i in range(generate):
        decode(context, [(11 * i + 1) % 151936])
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompts", default="128,512")
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    kept = silence()
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(args.model.encode(), llama.llama_model_default_params())
    if not model:
        raise SystemExit(f"{args.model}: llama.cpp cannot load it")
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 1024, 512, 512
    params.n_threads = params.n_threads_batch = args.threads
    context = llama.llama_init_from_model(model, params)
    if not context:
        raise SystemExit(f"{args.model}: llama.cpp cannot make a context")
    measure(context, 16, 2)
    rows = {f"pp{n}": n / measure(context, n, 0) for n in map(int, args.prompts.split(","))}
    rows[f"tg{args.generate}"] = args.generate / measure(context, 0, args.generate)
    print(json.dumps(rows))
    del kept


if __name__ == "__main__":
    main()
