"""Whatever a client, an operator or a damaged file gets wrong has a clear error that names it, and nobody else notices."""
import json
import shutil
import socket
import struct

import grpc
import pytest

from cluster import DEMO
from processes import Process, run, wait_until

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def shared(pb, bin_dir):
    """One cluster for all bad requests: it must survive them all."""
    from cluster import Cluster
    cluster = Cluster(pb, nodes=1, node={"threads": 1}).start()
    yield cluster
    problems = cluster.stop()
    assert not problems, "\n".join(problems)


def bad_requests(p):
    """name, fields, status code, a word that the message must have."""
    ids = p.TokenIds
    text = dict(text="Once upon a time")
    return [
        ("no prompt", {}, "INVALID_ARGUMENT", "prompt"),
        ("empty text", dict(text=""), "INVALID_ARGUMENT", "prompt"),
        ("no ids", dict(token_ids=ids()), "INVALID_ARGUMENT", "prompt"),
        ("id beyond the vocabulary", dict(token_ids=ids(ids=[1, 4096])), "INVALID_ARGUMENT", "4096"),
        ("prompt over the context", dict(text="word " * 3000), "INVALID_ARGUMENT", "1024"),
        ("prompt and max_tokens over the context", dict(max_tokens=1024, **text), "INVALID_ARGUMENT", "max_tokens"),
        ("max_tokens 0", dict(max_tokens=0, **text), "INVALID_ARGUMENT", "max_tokens"),
        ("max_tokens huge", dict(max_tokens=2**32 - 1, **text), "INVALID_ARGUMENT", "max_tokens"),
        ("temperature NaN", dict(sampling=p.Sampling(temperature=NAN), **text), "INVALID_ARGUMENT", "temperature"),
        ("temperature infinite", dict(sampling=p.Sampling(temperature=INF), **text), "INVALID_ARGUMENT", "temperature"),
        ("temperature negative", dict(sampling=p.Sampling(temperature=-1), **text), "INVALID_ARGUMENT", "temperature"),
        ("top_p 0", dict(sampling=p.Sampling(top_p=0), **text), "INVALID_ARGUMENT", "top_p"),
        ("top_p over 1", dict(sampling=p.Sampling(top_p=1.5), **text), "INVALID_ARGUMENT", "top_p"),
        ("min_p NaN", dict(sampling=p.Sampling(min_p=NAN), **text), "INVALID_ARGUMENT", "min_p"),
        ("repetition_penalty 0", dict(sampling=p.Sampling(repetition_penalty=0), **text), "INVALID_ARGUMENT", "repetition_penalty"),
        ("presence_penalty 3", dict(sampling=p.Sampling(presence_penalty=3), **text), "INVALID_ARGUMENT", "presence_penalty"),
        ("logit_bias beyond the vocabulary", dict(sampling=p.Sampling(logit_bias={9999: 1}), **text), "INVALID_ARGUMENT", "9999"),
        ("logit_bias NaN", dict(sampling=p.Sampling(logit_bias={7: NAN}), **text), "INVALID_ARGUMENT", "logit_bias"),
        ("too many biases", dict(sampling=p.Sampling(logit_bias={i: 1 for i in range(1025)}), **text), "INVALID_ARGUMENT", "logit_bias"),
        ("empty stop", dict(stop=[""], **text), "INVALID_ARGUMENT", "stop"),
        ("17 stops", dict(stop=["x"] * 17, **text), "INVALID_ARGUMENT", "stop"),
        ("long stop", dict(stop=["x" * 257], **text), "INVALID_ARGUMENT", "stop"),
        ("21 logprobs", dict(logprobs=21, **text), "INVALID_ARGUMENT", "logprobs"),
        ("long request id", dict(request_id="r" * 129, **text), "INVALID_ARGUMENT", "request_id"),
        ("unknown model", dict(model="gpt-17", **text), "NOT_FOUND", "gpt-17"),
        ("100 MB", dict(text="x" * 100_000_000), "RESOURCE_EXHAUSTED", ""),
    ]


def test_bad_requests_are_refused_by_name(pb, shared):
    client = shared.client()
    for name, fields, code, word in bad_requests(pb.inference):
        with pytest.raises(grpc.RpcError) as error:
            client.generate(**fields)
        assert error.value.code().name == code, f"{name}: {error.value}"
        assert word in error.value.details(), f"{name}: {error.value.details()!r} does not say {word!r}"
    assert shared.idle().requests_accepted == 0


def raw_generate(channel, message):
    return channel.unary_stream("/foresight.v1.Inference/Generate")(message, timeout=20)


@pytest.mark.parametrize("message", [b"\x12\x03\xff\xfe\xfd", b"\xff" * 50, b"\x12\xff\xff\xff\xff\x7f"],
                         ids=["text-that-is-not-utf-8", "noise", "length-beyond-the-end"])
def test_messages_that_are_no_request_are_refused(message, pb, shared):
    client = shared.client()
    with pytest.raises(grpc.RpcError) as error:
        list(raw_generate(client.channel, message))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT, error.value


def test_unknown_methods_are_unimplemented(shared):
    client = shared.client()
    with pytest.raises(grpc.RpcError) as error:
        client.channel.unary_unary("/foresight.v1.Inference/Explode")(b"", timeout=20)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_grpc_do_not_disturb(pb, shared):
    host, port = shared.routers["router-1"].address.rsplit(":", 1)
    for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4096, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64):
        with socket.create_connection((host, int(port)), timeout=10) as s:
            s.sendall(garbage)
            s.settimeout(0.2)
            try:
                s.recv(4096)
            except OSError:
                pass
    assert shared.client().greedy([0, 300], max_tokens=2)[0]


def test_the_cluster_serves_after_all_that(shared):
    ids, _, last = shared.client().greedy([0, 300, 301], max_tokens=8, ignore_eos=True)
    assert len(ids) == 8 and last.usage.prompt_tokens == 3 and last.usage.completion_tokens == 8
    shared.idle()


# ---- files and flags ----


@pytest.fixture
def model(tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(DEMO, copy)
    return copy


def edit_json(path, **changes):
    data = json.loads(path.read_text())
    data.update(changes)
    path.write_text(json.dumps(data))


def truncate(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[:keep] if keep >= 0 else data[:len(data) + keep])


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(bytes(data))


def backbone_file(model):
    return sorted(model.glob("backbone-*.safetensors"))[0]


def damage_huge_header(model):
    path = backbone_file(model)
    path.write_bytes(struct.pack("<Q", 2**63) + path.read_bytes()[8:])


def damage_merge(model):
    path = model / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["merges"][7] = ["no such piece", "x"]
    path.write_text(json.dumps(data))


# name, what is done to a copy of the demo model, what the router's error must name
DAMAGED = [
    ("truncated tensors", lambda m: truncate(backbone_file(m), -1000), "backbone"),
    ("empty tensors", lambda m: truncate(backbone_file(m), 0), "backbone"),
    ("huge header", damage_huge_header, "backbone"),
    ("flipped header", lambda m: flip(backbone_file(m), 9), "backbone"),
    ("missing shard", lambda m: backbone_file(m).unlink(), "backbone"),
    ("missing expert shard", lambda m: sorted(m.glob("experts-*.safetensors"))[2].unlink(), "experts-layer-00002"),
    ("no config", lambda m: (m / "config.json").unlink(), "config.json"),
    ("config is not JSON", lambda m: (m / "config.json").write_text("{"), "config.json"),
    ("hidden size 0", lambda m: edit_json(m / "config.json", hidden_size=0), "hidden_size"),
    ("hidden size negative", lambda m: edit_json(m / "config.json", hidden_size=-256), "hidden_size"),
    ("hidden size as text", lambda m: edit_json(m / "config.json", hidden_size="256"), "hidden_size"),
    ("hidden size impossible", lambda m: edit_json(m / "config.json", hidden_size=2**40), "hidden_size"),
    ("heads do not divide", lambda m: edit_json(m / "config.json", num_attention_heads=5), "num_key_value_heads"),
    ("more experts a token than there are", lambda m: edit_json(m / "config.json", num_experts_per_tok=33), "num_experts_per_tok"),
    ("another shape than the tensors", lambda m: edit_json(m / "config.json", moe_intermediate_size=512), "experts"),
    ("unknown family", lambda m: edit_json(m / "config.json", model_type="gpt_17"), "gpt_17"),
    ("no tokenizer", lambda m: (m / "tokenizer.json").unlink(), "tokenizer.json"),
    ("broken merge", damage_merge, "no such piece"),
]


@pytest.mark.parametrize("name,damage,word", DAMAGED, ids=[d[0].replace(" ", "-") for d in DAMAGED])
def test_damaged_models_are_refused_by_name(name, damage, word, model, bin_dir):
    damage(model)
    program = "foresight-expert" if "expert" in name or "another shape" in name else "foresight-router"
    code, out, err = run(program, "--model", model, "--coordinator", "127.0.0.1:1", "--name", "x-1",
                         env={"FORESIGHT_CLUSTER_KEY": "00" * 32}, timeout=30)
    assert code not in (0, -6, -11, 99), f"{code}: {err}"
    assert word in err and "ready" not in out, err


def test_a_flipped_expert_is_never_computed_with(pb, model, cluster_of):
    experts = sorted(model.glob("experts-*.safetensors"))[0]
    flip(experts, experts.stat().st_size // 2)
    cluster = cluster_of(nodes=0, routers=0, coordinator={"expert-nodes": 1})
    cluster.start_node("expert-1", model=model)
    control = cluster.control_client()

    def problem_shown():
        status = control.status()
        return status if any("expert-1" in p and "layer" in p for p in status.problems) else None
    status = wait_until(problem_shown, 30, "the problem shows")
    assert not status.serving
    assert any("layers.0" in p or "layer 0" in p for p in status.problems), status.problems


BAD_FLAGS = [
    ("foresight-router", ["--model", "/nonexistent"], "/nonexistent"),
    ("foresight-router", ["--model", "/etc/hostname"], "/etc/hostname"),
    ("foresight-router", ["--modle", "x"], "modle"),
    ("foresight-router", ["--model", DEMO, "--threads", "-1"], "threads"),
    ("foresight-router", ["--model", DEMO, "--kv-cache", "12parsecs"], "kv-cache"),
    ("foresight-router", ["--model", DEMO, "--listen", "localhost:notaport"], "listen"),
    ("foresight-router", ["--model", DEMO, "--micro-batches", "0"], "micro-batches"),
    ("foresight-expert", ["--model", DEMO, "--listen", "300.1.1.1:5"], "300.1.1.1"),
    ("foresight-expert", ["--model", DEMO, "--name", "Not A Name"], "name"),
    ("foresight-coordinator", ["--expert-nodes", "0"], "expert-nodes"),
    ("foresight-coordinator", ["--expert-nodes", "2", "--replicas", "3"], "replicas"),
    ("foresight-coordinator", ["--config", "/nonexistent.yaml"], "/nonexistent.yaml"),
]


@pytest.mark.parametrize("program,flags,word", BAD_FLAGS, ids=[f"{b[0][10:]}-{i}" for i, b in enumerate(BAD_FLAGS)])
def test_bad_flags_are_refused_by_name(program, flags, word, bin_dir):
    extra = [] if program == "foresight-coordinator" else ["--coordinator", "127.0.0.1:1"]
    code, out, err = run(program, *flags, *extra, env={"FORESIGHT_CLUSTER_KEY": "00" * 32}, timeout=30)
    assert code not in (0, -6, -11, 99), f"{code}: {err}"
    assert word in err and "ready" not in out, err


def test_an_unknown_key_in_a_file_is_named_with_its_line(tmp_path, bin_dir):
    path = tmp_path / "coordinator.yaml"
    path.write_text("expert_nodes: 2\n\nlissten: 127.0.0.1:0\n")
    code, _, err = run("foresight-coordinator", "--config", path)
    assert code != 0 and f"{path}:3" in err and "lissten" in err and "listen" in err


@pytest.mark.parametrize("program", ["foresight-router", "foresight-expert", "foresight-coordinator", "foresight-compress", "foresight"])
def test_help_says_what_there_is(program, bin_dir):
    code, out, err = run(program, "--help")
    assert code == 0 and program in out and not err
    code, out, _ = run(program, "--version")
    assert code == 0 and out.strip()


def test_a_port_in_use_is_named(pb, cluster_of):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = run("foresight-coordinator", "--listen", address, "--expert-nodes", 1, timeout=30)
        assert code != 0 and address in err
        cluster = cluster_of(nodes=1, routers=0)
        for program in ("foresight-router", "foresight-expert"):
            code, _, err = run(program, "--model", DEMO, "--listen", address, "--coordinator", cluster.control,
                               env={"FORESIGHT_CLUSTER_KEY": "00" * 32}, timeout=60)
            assert code != 0 and address in err, f"{program}: {err}"


def test_another_cluster_key_is_denied_and_disturbs_nobody(pb, cluster_of):
    cluster = cluster_of(nodes=1)
    stranger = cluster.start_router("router-9", wait=False, key="ff" * 32)
    wait_until(lambda: any("denied" in line or "key" in line for line in stranger.err), 30, "the stranger is told why")
    assert not any(line.startswith("ready") for line in stranger.out)
    assert cluster.client().greedy([0, 300], max_tokens=4)[0]
    code, _, err = run("foresight-expert", "--model", DEMO, "--coordinator", cluster.control, "--name", "expert-7",
                       env={"FORESIGHT_CLUSTER_KEY": "short"}, timeout=30)
    assert code != 0 and "64 hexadecimal digits" in err


def test_another_model_does_not_join(pb, model, cluster_of):
    cluster = cluster_of(nodes=1)
    edit_json(model / "config.json", max_position_embeddings=512)
    other = Process("expert-8", "foresight-expert", "--model", model, "--coordinator", cluster.control, "--name", "expert-8")
    try:
        wait_until(lambda: any("fingerprint" in line for line in other.err), 30, "it is told why")
        assert cluster.client().greedy([0, 300], max_tokens=4)[0]
    finally:
        other.kill()
        other.wait()
