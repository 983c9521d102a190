#!/usr/bin/env python3
"""Makes the tiny readme_moe models of tests/golden and their golden.json: python3 tests/golden/make_readme_moe.py

The reference is written out in numpy float32 from the description of the family alone and shares nothing with the C code:
whole sequences at once, no cache, no pages. Two variants: dense bf16 experts, and experts that are ternary with exactly 2
nonzeros in every aligned 16 columns, their activations quantised to int8.
"""
import json
import os
import struct

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
CONFIG = {
    "architectures": ["ReadMeMoeForCausalLM"], "model_type": "readme_moe", "hidden_act": "silu", "torch_dtype": "bfloat16",
    "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
    "head_dim": 24, "rope_theta": 10000.0, "rms_norm_eps": 1e-05, "max_position_embeddings": 640, "num_experts": 5,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True, "router_hidden_size": 40,
    "router_num_layers": 2, "router_num_heads": 2, "router_intermediate_size": 24, "router_shared_across_layers": False,
    "bos_token_id": 0, "eos_token_id": 0,
}
PROMPT_LENGTHS = [2, 3, 17, 64, 300]  # 300: more than one part of a long context's attention
GREEDY = 24
F = np.float32


def bf16(x):
    """Rounds to the nearest bf16, ties to even; returns float32 of that value."""
    u = np.ascontiguousarray(x, dtype=F).view(np.uint32).astype(np.uint64)
    u = (u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000
    return u.astype(np.uint32).view(F).reshape(np.shape(x))


def ternary(rng, rows, cols, size):
    """{neg, 0, pos} by row, 2 nonzeros in every aligned 16 columns."""
    pos, neg = bf16(size * (0.8 + 0.4 * rng.random(rows))), bf16(-size * (0.8 + 0.4 * rng.random(rows)))
    w = np.zeros((rows, cols), F)
    for r in range(rows):
        for c in range(0, cols, 16):
            for i in rng.choice(16, 2, replace=False):
                w[r, c + i] = pos[r] if rng.random() < 0.5 else neg[r]
    return w


def make_weights(rng, c, is_ternary):
    w = {}
    hidden, inner, vocab = c["hidden_size"], c["moe_intermediate_size"], c["vocab_size"]
    rh, ri = c["router_hidden_size"], c["router_intermediate_size"]

    def matrix(name, rows, cols, size=1.0):
        w[name] = bf16(rng.standard_normal((rows, cols)) * size / np.sqrt(cols))

    def norm(name, n):
        w[name] = bf16(1 + 0.2 * rng.standard_normal(n))

    def attention(prefix, width, heads, kv_heads, dim):
        norm(prefix + "input_layernorm.weight", width)
        matrix(prefix + "self_attn.q_proj.weight", heads * dim, width, 1.5)
        matrix(prefix + "self_attn.k_proj.weight", kv_heads * dim, width, 1.5)
        matrix(prefix + "self_attn.v_proj.weight", kv_heads * dim, width)
        matrix(prefix + "self_attn.o_proj.weight", width, heads * dim)
        norm(prefix + "post_attention_layernorm.weight", width)

    # Small beside what the layers add: the next token is not just the last one again.
    w["model.embed_tokens.weight"] = bf16(rng.standard_normal((vocab, hidden)) * 0.15)
    if not c["tie_word_embeddings"]:
        matrix("lm_head.weight", vocab, hidden, 4.0)
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        attention(p, hidden, c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"])
        for e in range(c["num_experts"]):
            for part, rows, cols in [("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)]:
                name = f"{p}mlp.experts.{e}.{part}_proj.weight"
                if is_ternary:
                    w[name] = ternary(rng, rows, cols, 2.0 / np.sqrt(cols))
                else:
                    matrix(name, rows, cols)
    norm("model.norm.weight", hidden)
    w["model.router.embed_tokens.weight"] = bf16(rng.standard_normal((vocab, rh)))
    for layer in range(c["router_num_layers"]):
        p = f"model.router.layers.{layer}."
        heads = c["router_num_heads"]
        attention(p, rh, heads, heads, rh // heads)
        matrix(p + "mlp.gate_proj.weight", ri, rh)
        matrix(p + "mlp.up_proj.weight", ri, rh)
        matrix(p + "mlp.down_proj.weight", rh, ri)
    norm("model.router.norm.weight", rh)
    matrix("model.router.head.weight", c["num_hidden_layers"] * c["num_experts"], rh, 2.0)
    return w


def write_safetensors(path, weights):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(weights):
        size = weights[name].size * 2
        header[name] = {"dtype": "BF16", "shape": list(weights[name].shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(weights):
            f.write((weights[name].view(np.uint32) >> 16).astype("<u2").tobytes())


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rms_norm(x, w):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + F(CONFIG["rms_norm_eps"])) * w


def silu(x):
    return x / (1 + np.exp(-x))


def rope(x):
    """x [tokens][heads][dim]; dimension i is paired with i + dim/2."""
    tokens, _, dim = x.shape
    angle = np.arange(tokens)[:, None] * CONFIG["rope_theta"] ** (-2.0 * np.arange(dim // 2) / dim)
    cos, sin = np.cos(angle).astype(F)[:, None, :], np.sin(angle).astype(F)[:, None, :]
    a, b = x[..., : dim // 2], x[..., dim // 2 :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attention(w, prefix, x, heads, kv_heads, dim):
    tokens = x.shape[0]
    q = rope((x @ w[prefix + "q_proj.weight"].T).reshape(tokens, heads, dim))
    k = rope((x @ w[prefix + "k_proj.weight"].T).reshape(tokens, kv_heads, dim))
    v = (x @ w[prefix + "v_proj.weight"].T).reshape(tokens, kv_heads, dim)
    out = np.zeros((tokens, heads, dim), F)
    masked = np.triu(np.ones((tokens, tokens), bool), 1)
    for h in range(heads):
        g = h // (heads // kv_heads)
        score = q[:, h] @ k[:, g].T * F(1 / np.sqrt(dim))
        score[masked] = -np.inf
        out[:, h] = softmax(score) @ v[:, g]
    return out.reshape(tokens, heads * dim) @ w[prefix + "o_proj.weight"].T


def quantise(x):
    scale = np.maximum(np.abs(x).max(), F(1e-8)) / F(127)
    return np.clip(np.rint(x / scale), -127, 127).astype(F) * scale


def expert(w, prefix, h, is_int8):
    q = quantise if is_int8 else (lambda x: x)
    h = q(h)
    a = silu(w[prefix + "gate_proj.weight"] @ h) * (w[prefix + "up_proj.weight"] @ h)
    return w[prefix + "down_proj.weight"] @ q(a.astype(F))


def routes(w, tokens):
    """[tokens][layers][2] experts and weights, and the smallest gap between the 2nd and the 3rd probability."""
    c = CONFIG
    heads = c["router_num_heads"]
    x = w["model.router.embed_tokens.weight"][tokens]
    for layer in range(c["router_num_layers"]):
        p = f"model.router.layers.{layer}."
        h = rms_norm(x, w[p + "input_layernorm.weight"])
        x = x + attention(w, p + "self_attn.", h, heads, heads, c["router_hidden_size"] // heads)
        h = rms_norm(x, w[p + "post_attention_layernorm.weight"])
        inner = silu(h @ w[p + "mlp.gate_proj.weight"].T) * (h @ w[p + "mlp.up_proj.weight"].T)
        x = x + inner @ w[p + "mlp.down_proj.weight"].T
    logits = rms_norm(x, w["model.router.norm.weight"]) @ w["model.router.head.weight"].T
    prob = softmax(logits.reshape(len(tokens), c["num_hidden_layers"], c["num_experts"]))
    order = np.argsort(-prob, axis=-1, kind="stable")
    ranked = np.take_along_axis(prob, order, axis=-1)
    weight = ranked[..., :2] / ranked[..., :2].sum(axis=-1, keepdims=True)
    return order[..., :2], weight, float((ranked[..., 1] - ranked[..., 2]).min())


def forward(w, tokens, is_int8):
    c = CONFIG
    chosen, weight, gap = routes(w, tokens)
    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = rms_norm(x, w[p + "input_layernorm.weight"])
        x = x + attention(w, p + "self_attn.", h, c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"])
        h = rms_norm(x, w[p + "post_attention_layernorm.weight"])
        y = np.zeros_like(x)
        for t in range(len(tokens)):
            for k in range(2):
                y[t] += weight[t, layer, k] * expert(w, f"{p}mlp.experts.{chosen[t, layer, k]}.", h[t], is_int8)
        x = x + y
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    logits = rms_norm(x, w["model.norm.weight"]) @ head.T
    return logits.astype(F), chosen, weight, gap


def golden_prompt(w, prompt, is_int8):
    logits, chosen, weight, gap = forward(w, prompt, is_int8)
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    logprob = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    entry = {
        "token_ids": [int(t) for t in prompt], "route_expert": chosen.tolist(), "route_weight": round_all(weight),
        "last_logits": round_all(logits[-1]), "prompt_logprob": round_all([logprob[i, t] for i, t in enumerate(prompt[1:])]),
    }
    tokens, greedy, margin = list(prompt), [], np.inf
    for _ in range(GREEDY):
        logits, _, _, g = forward(w, np.array(tokens), is_int8)
        gap = min(gap, g)
        top = np.sort(logits[-1])
        margin = min(margin, float(top[-1] - top[-2]))
        greedy.append(int(logits[-1].argmax()))
        tokens.append(greedy[-1])
        if greedy[-1] == CONFIG["eos_token_id"]:
            break
    return dict(entry, greedy=greedy, smallest_route_gap=gap, smallest_top1_margin=margin)


def round_all(x):
    return [round_all(v) for v in x] if np.ndim(x) else float(f"{float(x):.7g}")


def clear_prompt(rng, w, length, is_int8):
    """A random prompt without a route or a next token that rounding could decide."""
    while True:
        prompt = np.concatenate([[0], rng.integers(1, CONFIG["vocab_size"], length - 1)])
        if routes(w, prompt)[2] < 4e-5:
            continue
        entry = golden_prompt(w, prompt, is_int8)
        if entry["smallest_route_gap"] > 4e-5 and entry["smallest_top1_margin"] > 0.005:
            return entry


def make(name, seed, is_ternary):
    rng = np.random.default_rng(seed)
    config = dict(CONFIG, tie_word_embeddings=is_ternary)
    w = make_weights(rng, config, is_ternary)
    out = os.path.join(HERE, name)
    os.makedirs(out, exist_ok=True)
    write_safetensors(os.path.join(out, "model.safetensors"), w)
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")
    golden = {"int8_activations": is_ternary, "prompts": [clear_prompt(rng, w, n, is_ternary) for n in PROMPT_LENGTHS]}
    with open(os.path.join(out, "golden.json"), "w") as f:
        json.dump(golden, f, separators=(",", ":"))
        f.write("\n")
    for p in golden["prompts"]:
        print(name, len(p["token_ids"]), "tokens, route gap", p["smallest_route_gap"], "margin", p["smallest_top1_margin"],
              "largest logit", max(abs(v) for v in p["last_logits"]), "greedy", p["greedy"][:8])


if __name__ == "__main__":
    make("readme_moe_dense", 1, False)
    make("readme_moe_ternary", 2, True)
