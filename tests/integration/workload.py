"""The requests whose tokens must not depend on anything but themselves, and how they are run."""
import concurrent.futures
import json

from processes import ROOT

GOLDEN = json.loads((ROOT / "tests/golden/demo/golden.json").read_text())["prompts"]


def requests(pb):
    """name -> the fields of a GenerateRequest: greedy and seeded, short and long, with and without options."""
    p = pb.inference
    greedy = p.Sampling(temperature=0)
    out = {}
    for i, prompt in enumerate(GOLDEN):
        out[f"golden-{i}"] = dict(token_ids=p.TokenIds(ids=prompt["token_ids"]), max_tokens=48, sampling=greedy)
    long = [t for prompt in GOLDEN for t in prompt["token_ids"]] * 3
    out["long"] = dict(token_ids=p.TokenIds(ids=long[:330]), max_tokens=24, sampling=greedy, ignore_eos=True)
    for seed in range(4):
        out[f"seeded-{seed}"] = dict(text="The little fox looked up at the moon and", max_tokens=40,
                                     sampling=p.Sampling(temperature=0.9, top_p=0.95, top_k=50, seed=seed))
    out["penalised"] = dict(text="Once upon a time there was a king who", max_tokens=40,
                            sampling=p.Sampling(temperature=0.7, min_p=0.02, repetition_penalty=1.2, presence_penalty=0.3,
                                                frequency_penalty=0.2, seed=11))
    return out


def run_one(client, fields):
    ids, text, last = client.generate(timeout=120, **fields)
    return ids, text, last.finish_reason


def run_all(client, fields_by_name, streams=32):
    """All requests at once, repeated until `streams` are in flight; every repetition must agree with the first."""
    names = list(fields_by_name)
    jobs = [names[i % len(names)] for i in range(max(streams, len(names)))]
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        results = list(pool.map(lambda name: (name, run_one(client, fields_by_name[name])), jobs))
    out = {}
    for name, result in results:
        assert out.setdefault(name, result) == result, f"{name}: two runs of one request differ"
    return out
