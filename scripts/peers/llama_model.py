#!/usr/bin/env python3
"""Writes a GGUF file of random bf16 weights: the gated-delta hybrid of llama.cpp (`qwen35`) nearest to Jet-Nemotron 2B.

    llama_model.py OUT.gguf           bf16
    llama_model.py OUT.gguf Q4_K_M    the same, quantised by llama.cpp from OUT's bf16 sibling

28 layers of width 1536, 24 of them gated delta nets with 24 heads of 128, 4 of them attention with 12 heads of 128 over 2,
feed-forward 8960, vocabulary 151936: 1.99 G parameters. Needs the packages `gguf`, `numpy` and, to quantise, `llama-cpp-python`.
"""
import os
import sys

import numpy as np

WIDTH, LAYERS, FORWARD, VOCABULARY = 1536, 28, 8960, 151936
HEADS, KV_HEADS, HEAD_DIM = 12, 2, 128
DELTA_HEADS, DELTA_DIM, TAPS = 24, 128, 4
ATTENTION = {2, 9, 15, 21}


class Weights:
    """Slices of one pool of normal numbers: as random as a speed test needs, and quick to make."""

    def __init__(self, writer):
        import gguf

        self.bf16 = gguf.GGMLQuantizationType.BF16
        self.writer = writer
        self.pool = (np.random.default_rng(0).standard_normal(1 << 24, dtype=np.float32) * 0.02).view(np.uint32) >> 16
        self.pool = self.pool.astype(np.uint16)

    def matrix(self, name, rows, cols):
        data = np.resize(self.pool, rows * cols)
        self.writer.add_tensor(name, data.view(np.uint8).reshape(rows, cols * 2), raw_dtype=self.bf16)

    def vector(self, name, value, *shape):
        self.writer.add_tensor(name, np.full(shape, value, np.float32))


def attention(weights, prefix):
    weights.matrix(prefix + "attn_q.weight", 2 * HEADS * HEAD_DIM, WIDTH)
    weights.matrix(prefix + "attn_k.weight", KV_HEADS * HEAD_DIM, WIDTH)
    weights.matrix(prefix + "attn_v.weight", KV_HEADS * HEAD_DIM, WIDTH)
    weights.matrix(prefix + "attn_output.weight", WIDTH, HEADS * HEAD_DIM)
    weights.vector(prefix + "attn_q_norm.weight", 1.0, HEAD_DIM)
    weights.vector(prefix + "attn_k_norm.weight", 1.0, HEAD_DIM)


def delta_net(weights, prefix):
    inner = DELTA_HEADS * DELTA_DIM
    weights.matrix(prefix + "attn_qkv.weight", 3 * inner, WIDTH)
    weights.matrix(prefix + "attn_gate.weight", inner, WIDTH)
    weights.vector(prefix + "ssm_conv1d.weight", 0.02, 3 * inner, TAPS)
    weights.vector(prefix + "ssm_dt.bias", 0.0, DELTA_HEADS)
    weights.vector(prefix + "ssm_a", -1.0, DELTA_HEADS)
    weights.matrix(prefix + "ssm_beta.weight", DELTA_HEADS, WIDTH)
    weights.matrix(prefix + "ssm_alpha.weight", DELTA_HEADS, WIDTH)
    weights.vector(prefix + "ssm_norm.weight", 1.0, DELTA_DIM)
    weights.matrix(prefix + "ssm_out.weight", WIDTH, inner)


def write(path):
    import gguf

    writer = gguf.GGUFWriter(path, "qwen35")
    writer.add_name("random-hybrid")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_block_count(LAYERS)
    writer.add_context_length(32768)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_dimension_count(32)
    writer.add_rope_dimension_sections([11, 11, 10, 0])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    writer.add_ssm_conv_kernel(TAPS)
    writer.add_ssm_inner_size(DELTA_HEADS * DELTA_DIM)
    writer.add_ssm_state_size(DELTA_DIM)
    writer.add_ssm_time_step_rank(DELTA_HEADS)
    writer.add_ssm_group_count(DELTA_HEADS)
    writer.add_array("qwen35.attention.recurrent_layers", [layer not in ATTENTION for layer in range(LAYERS)])
    weights = Weights(writer)
    weights.matrix("token_embd.weight", VOCABULARY, WIDTH)
    weights.vector("output_norm.weight", 1.0, WIDTH)
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        weights.vector(prefix + "attn_norm.weight", 1.0, WIDTH)
        weights.vector(prefix + "post_attention_norm.weight", 1.0, WIDTH)
        (attention if layer in ATTENTION else delta_net)(weights, prefix)
        weights.matrix(prefix + "ffn_gate.weight", FORWARD, WIDTH)
        weights.matrix(prefix + "ffn_up.weight", FORWARD, WIDTH)
        weights.matrix(prefix + "ffn_down.weight", WIDTH, FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source, path, kind):
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + kind)
    params.nthread = os.cpu_count()
    if llama_cpp.llama_model_quantize(source.encode(), path.encode(), params) != 0:
        sys.exit(f"{path}: llama.cpp refused to quantise {source} to {kind}")


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    path = sys.argv[1]
    if len(sys.argv) == 2:
        return write(path)
    source = os.path.join(os.path.dirname(path) or ".", "hybrid-bf16.gguf")
    if not os.path.exists(source):
        write(source)
    quantise(source, path, sys.argv[2])


if __name__ == "__main__":
    main()
