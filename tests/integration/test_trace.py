"""Traces: what a router writes under load is whole, in order, and of the model that ran."""
import json
import struct

import pytest

from processes import ROOT, run

DEMO = ROOT / "models/demo"
LAYERS, EXPERTS, TOP_K = 6, 32, 2
ARRIVE, ROUTES, STEP, TO_EXPERTS, RESULTS, DONE, END = range(1, 8)


def read_trace(path):
    """(kind, numbers, experts) of each event, by docs/formats.md."""
    data = path.read_bytes()
    magic, version, zero, top_k, layers, experts, _, _ = struct.unpack_from("<4sBBHIIQQ", data)
    assert (magic, version, zero, top_k, layers, experts) == (b"FSTR", 1, 0, TOP_K, LAYERS, EXPERTS)
    at = 32

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    events = []
    while at < len(data):
        kind = data[at]
        at += 1
        number()
        numbers = [number() for _ in range({ARRIVE: 3, ROUTES: 3, STEP: 2, TO_EXPERTS: 2, RESULTS: 2, DONE: 1, END: 1}[kind])]
        routes = b""
        if kind == ROUTES:
            size = numbers[2] * LAYERS * TOP_K
            routes = data[at:at + size]
            at += size
        if kind == STEP:
            numbers = [numbers[0], [tuple(number() for _ in range(3)) for _ in range(numbers[1])]]
        events.append((kind, numbers, routes))
    return events


def test_a_recorded_trace_tells_every_token_and_its_experts_before_it_runs(tmp_path, bin_dir):
    trace = tmp_path / "t.trace"
    code, out, err = run("foresight", "trace", "record", trace, "--model", DEMO, "--streams", "4", "--requests", "6", "--max-tokens", "8",
                         "--router-args", "--micro-batches 1 --prefill-chunk 5 --prefix-cache off", timeout=120)
    assert code == 0, err
    assert "6 generations, 48 tokens" in out
    events = read_trace(trace)
    assert [sum(kind == k for kind, _, _ in events) for k in (ARRIVE, END)] == [6, 6]
    known, ran, parts, layer = {}, {}, [], 0
    for kind, numbers, routes in events:
        if kind == ROUTES:
            assert numbers[1] == known.get(numbers[0], 0) and max(routes) < EXPERTS
            known[numbers[0]] = numbers[1] + numbers[2]
        elif kind == STEP:
            assert numbers[0] == 0 and not parts
            parts, layer = numbers[1], 0
            for sequence, first, count in parts:
                assert first == ran.get(sequence, 0) and first + count <= known[sequence] and 1 <= count <= 5
                ran[sequence] = first + count
        elif kind == TO_EXPERTS:
            assert parts and numbers == [0, layer]
        elif kind == RESULTS:
            assert numbers == [0, layer]
            layer += 1
        elif kind == DONE:
            assert layer == LAYERS
            parts = []
    prompt = {numbers[0]: numbers[1] for kind, numbers, _ in events if kind == ARRIVE}
    assert ran == {sequence: tokens + 7 for sequence, tokens in prompt.items()}  # the last token is sampled, and not run

    code, out, err = run("foresight", "trace", "replay", trace, "--json")
    assert code == 0, err
    told = json.loads(out)
    steps = [numbers for kind, numbers, _ in events if kind == STEP]
    assert (told["requests"], told["steps"], told["cut"]) == (6, len(steps), False)
    assert told["tokens"] == sum(count for _, parts in steps for _, _, count in parts)
    assert [p["distance"] for p in told["predictor"]] == [1, 2, 3, 4]
    assert all(0 <= p["recall_top_k"] <= p["recall_twice"] <= 1 for p in told["predictor"])
    assert [row["percent"] for row in told["cache"]] == [10, 25, 50, 75]
    for row in told["cache"]:
        hits = row["hits"]
        assert max(hits["lru"], hits["lfu"], hits["lfru"], hits["lookahead"]) <= hits["optimum"]  # they load on demand, as it does
        assert hits["lookahead"] >= hits["lru"] and hits["prefetch"] >= hits["lookahead"]
    code, out, _ = run("foresight", "trace", "replay", trace, "--memory", "100", "--json")
    assert code == 0 and len({round(v, 9) for k, v in json.loads(out)["cache"][0]["hits"].items() if k not in ("prefetch", "optimum")}) == 1
    code, _, err = run("foresight", "trace", "replay", trace, "--memory", "0")
    assert code == 2 and "--memory" in err
    code, out, err = run("foresight", "sim", trace, "--load-time", "200us", "--json")
    assert code == 0, err
    modes = {mode["mode"]: mode for mode in json.loads(out)["modes"]}
    assert modes["lookahead"]["step_us_mean"] < modes["no hints"]["step_us_mean"]
    assert run("foresight", "sim", trace, "--load-time", "200us", "--json")[1] == out
    cut = tmp_path / "cut.trace"
    cut.write_bytes(trace.read_bytes()[:-1])
    code, out, _ = run("foresight", "trace", "replay", cut, "--json")
    assert code == 0 and json.loads(out)["cut"]


@pytest.mark.parametrize("content, word", [
    (None, "No such file"),
    (b"", "not a trace"),
    (b"FSTR" + bytes(28), "version 0"),
    (b"FSTR\x01" + bytes(27), "0 layers"),
    (b"FSTR\x01" + struct.pack("<BHIIQQ", 0, 2, 6, 32, 0, 0) + b"\x09\x00", "byte 32"),
])
def test_what_is_no_trace_is_refused(content, word, tmp_path, bin_dir):
    if content is not None:
        (tmp_path / "t").write_bytes(content)
    code, _, err = run("foresight", "trace", "replay", tmp_path / "t")
    assert code == 1 and word in err


@pytest.mark.parametrize("arguments, word", [
    ([], "FILE"),
    (["/tmp/t.trace"], "--model"),
    (["/tmp/t.trace", "--model", DEMO, "--routers", "2"], "--routers"),
    (["/nowhere/t.trace", "--model", DEMO], "router-1"),
])
def test_what_cannot_be_recorded_is_said(arguments, word, bin_dir):
    code, _, err = run("foresight", "trace", "record", *arguments, timeout=60)
    assert code in (1, 2) and word in err
