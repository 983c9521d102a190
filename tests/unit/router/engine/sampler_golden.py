"""Prints the tokens that sampler_test.c expects: the sampler written again in double precision, with Python's exp."""
import math

M = (1 << 64) - 1
VOCAB = 1000
LOGITS = [(i * 7919 % 1000) / 128 for i in range(VOCAB)]


def unit(seed, n):
    """The n-th number of splitmix64, 53 bits of it."""
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) & M
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def kept_tokens(weight, top_k, top_p, min_p):
    if not top_k and top_p == 1:
        return [i for i in range(VOCAB) if weight[i] >= min_p]
    order = sorted(range(VOCAB), key=lambda i: (-weight[i], i))
    order = order[: top_k or VOCAB]
    total, kept, mass = sum(weight[i] for i in order), [], 0
    for i in order:
        if kept and (weight[i] < min_p or (top_p < 1 and mass >= top_p * total)):
            break
        kept.append(i)
        mass += weight[i]
    return kept


def sample(temperature, top_k, top_p, min_p, seed, n):
    weight = [math.exp((x - max(LOGITS)) / temperature) for x in LOGITS]
    kept = kept_tokens(weight, top_k, top_p, min_p)
    left = unit(seed, n) * sum(weight[i] for i in kept)
    for i in kept:
        left -= weight[i]
        if left < 0:
            return i
    return kept[-1]


for case in ((1, 0, 1, 0), (0.75, 50, 0.9, 0), (2, 0, 0.5, 0.25)):
    print(case, [sample(*case, 1234, n) for n in range(16)])
