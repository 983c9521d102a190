"""Nodes whose memory holds a part of their experts: the same texts, whatever stays in memory, is read late, or cannot be read."""
import itertools
import json
import shutil
import signal

import grpc
import pytest

from cluster import DEMO
from processes import PRESET, run, wait_until
from test_failure import Streams, longer
from test_synth import SHAPE
from workload import GOLDEN, requests, run_all, run_one

EXPERT_BYTES = 25088  # of the demo model, 192 of them
THIRD = 96 // 3 * EXPERT_BYTES  # of what each of two nodes is given

MODES = {f"{cache}-{lookahead}": (cache, lookahead)
         for cache, lookahead in itertools.product(("lru", "lfu", "lfru", "lookahead"), ("off", "hints", "full"))
         if lookahead == "full" or cache == "lookahead"}
if PRESET == "tsan":  # ten times slower, and about threads alone
    MODES = {"lookahead-full": MODES["lookahead-full"]}


@pytest.fixture(scope="module")
def whole(pb, bin_dir):
    """name -> result with all experts in memory."""
    from cluster import Cluster
    cluster = Cluster(pb, nodes=1).start()
    results = {name: run_one(cluster.client(), fields) for name, fields in requests(pb).items()}
    problems = cluster.stop()
    assert not problems, "\n".join(problems)
    for i, prompt in enumerate(GOLDEN):
        assert results[f"golden-{i}"][0] == prompt["greedy"], prompt["prompt"]
    return results


def nodes_of(control):
    return [m for m in control.status().members if m.name.startswith("expert")]


@pytest.mark.parametrize("mode", MODES)
def test_texts_do_not_depend_on_what_is_in_memory(mode, pb, whole, cluster_of):
    cache, lookahead = MODES[mode]
    cluster = cluster_of(nodes=2, node={"memory": THIRD, "cache": cache}, router={"lookahead": lookahead})
    assert run_all(cluster.client(), requests(pb), streams=16) == whole
    stats = cluster.idle()
    assert stats.requests_failed == 0
    control = cluster.control_client()
    nodes = wait_until(lambda: (n := nodes_of(control)) and all(m.bytes_loaded for m in n) and n, 20, "heartbeats tell")
    for m in nodes:
        assert m.experts_assigned == 96 and m.experts_loaded <= 32 and m.bytes_loaded <= THIRD
        assert m.cache.memory_bytes == THIRD and m.cache.hits > 0 and m.cache.misses > 0
        assert m.cache.loaded_bytes >= m.bytes_loaded and m.cache.wasted_bytes <= m.cache.prefetched_bytes
        assert (m.cache.prefetched_bytes > 0) == (cache == "lookahead" and lookahead != "off")
    assert not control.status().problems


def test_memory_for_two_experts_is_enough(pb, whole, cluster_of):
    cluster = cluster_of(nodes=1, node={"memory": 2 * EXPERT_BYTES + 100})
    fields = requests(pb)
    names = ["golden-0", "seeded-1", "long"]
    assert run_all(cluster.client(), {n: fields[n] for n in names}, streams=3) == {n: whole[n] for n in names}


def test_memory_for_less_than_one_expert_is_not_serving(pb, bin_dir):
    from cluster import Cluster
    cluster = Cluster(pb, nodes=1, node={"memory": EXPERT_BYTES - 1})
    try:
        cluster.start(serving=False)
        control = cluster.control_client()
        status = wait_until(lambda: (s := control.status()) and any("memory" in p for p in s.problems) and s, 30, "it is told")
        assert not status.serving
    finally:
        problems = cluster.stop()
    assert not problems, "\n".join(problems)


def test_texts_survive_a_node_that_dies_while_it_loads(pb, cluster_of):
    fields = longer(pb)
    cluster = cluster_of(nodes=3, replicas=2, node={"memory": THIRD})
    client = cluster.client()
    want = {name: run_one(client, f)[0] for name, f in fields.items()}
    streams = Streams(client, fields)
    streams.wait_for_first_tokens(3)
    cluster.nodes["expert-2"].signal(signal.SIGKILL)
    streams.join()
    assert not streams.error
    assert streams.ids == want
    assert cluster.idle().requests_failed == 0


def damaged_copy(tmp_path):
    """The demo model with every expert of layer 2 damaged."""
    model = tmp_path / "damaged"
    shutil.copytree(DEMO, model)
    path = model / "experts-layer-00002.safetensors"
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    for at in range(start + 3000, len(data), EXPERT_BYTES):  # inside of a matrix: headers are a part of the model's fingerprint
        data[at] ^= 0x10
    path.write_bytes(data)
    return model


def test_a_damaged_expert_is_found_when_it_is_needed_and_said(pb, tmp_path, cluster_of):
    cluster = cluster_of(model=damaged_copy(tmp_path), nodes=1, node={"memory": THIRD}, router={"unavailable-after": "1s"})
    client, control = cluster.client(), cluster.control_client()
    assert control.status().serving
    with pytest.raises(grpc.RpcError) as error:
        run_one(client, requests(pb)["golden-0"])
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    problems = wait_until(lambda: [p for p in control.status().problems if "cannot be used" in p], 20, "status says it")
    assert "layer 2 expert" in problems[0] and "checksum" in problems[0]


def test_a_replica_serves_what_is_damaged_here(pb, whole, tmp_path, cluster_of):
    cluster = cluster_of(nodes=2, replicas=2, node={"memory": THIRD})
    node = cluster.nodes.pop("expert-2")
    node.kill()
    cluster.ended.append(node)
    cluster.start_node("expert-2", model=damaged_copy(tmp_path))
    control = cluster.control_client()
    client = cluster.client()
    wait_until(lambda: all(m.state == pb.control.NODE_STATE_READY for m in nodes_of(control)), 30, "both are ready")
    wait_until(lambda: client.stats().nodes_connected == 2, 30, "the router has both")
    fields = requests(pb)
    assert run_all(client, fields, streams=16) == whole
    wait_until(lambda: any("cannot be used" in p for p in control.status().problems), 20, "status says it")


@pytest.mark.parametrize("format,expert_bytes", [("free", 10_000), ("bf16", 3 * 96 * 128 * 2)])
def test_other_formats_are_read_too(format, expert_bytes, bin_dir, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    code, _, err = run("foresight", "synth", "--shape", tmp_path / "config.json", "--format", format, tmp_path / "model")
    assert code == 0, err
    ids = []
    for memory in (0, 4 * expert_bytes, 100 * expert_bytes):  # a part of the 18 experts, and all of them
        code, out, err = run("foresight", "generate", "--model", tmp_path / "model", "--expert-nodes", "1", "--expert-args",
                             f"--memory {memory}", "--prompt", "Hello", "--ignore-eos", "--temperature", "0", "--max-tokens", "12",
                             "--json")
        assert code == 0, err
        ids.append(json.loads(out)["token_ids"])
    assert len(ids[0]) == 12 and ids[1] == ids[0] and ids[2] == ids[0]
