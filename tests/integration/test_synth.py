"""`foresight synth`: what it writes is served, compressed and inspected like any model, and is the same bytes each time."""
import hashlib
import json
import resource
import signal
import subprocess
import time

import pytest

from processes import BIN, SLOW, run

SHAPE = {"model_type": "mixtral", "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 700, "num_local_experts": 6, "num_experts_per_tok": 2, "max_position_embeddings": 256,
         "router_hidden_size": 64, "router_num_heads": 2, "router_intermediate_size": 64}
FORMATS = ["blocked:1:16", "blocked:2:16", "blocked:3:16", "free", "bf16"]


@pytest.fixture
def shape(bin_dir, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SHAPE))
    return path


def synth(shape, out, *options):
    return run("foresight", "synth", "--shape", shape, *options, out)


def contents(directory):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in directory.iterdir()}


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_bytes_for_any_threads_and_all_checksums_right(shape, tmp_path, format):
    for name, options in {"a": ["--threads", "1"], "b": ["--threads", "2"], "c": ["--threads", "2", "--seed", "7"]}.items():
        code, out, err = synth(shape, tmp_path / name, "--format", format, *options)
        assert code == 0 and "GB/s" in out and not err, err
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b and a.keys() == c.keys() and a["config.json"] == c["config.json"]
    assert all(a[name] != c[name] for name in a if name.endswith(".safetensors"))
    assert not list(tmp_path.glob("*.incomplete"))
    code, out, err = run("foresight", "inspect", tmp_path / "a", "--verify", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["config"]["num_layers"] == 3 and found["config"]["num_experts"] == 6
    assert found["expert_storage"] == ("dense" if format == "bf16" else "sub1")


@pytest.mark.parametrize("format", ["blocked:2:16", "free", "bf16"])
def test_it_serves(shape, tmp_path, format):
    model = tmp_path / "model"
    assert synth(shape, model, "--format", format, "--layers", "2", "--skew", "1")[0] == 0
    answers = [run("foresight", "generate", "--model", model, "--expert-nodes", nodes, "--prompt", "Hello", "--ignore-eos",
                   "--temperature", "0", "--max-tokens", "12", "--json") for nodes in ("1", "2")]
    for code, out, err in answers:
        assert code == 0, err
    ids = [json.loads(out)["token_ids"] for _, out, _ in answers]
    assert ids[0] == ids[1] and len(ids[0]) == 12


def test_a_checkpoint_is_compressed(shape, tmp_path):
    assert synth(shape, tmp_path / "bf16", "--format", "bf16", "--layers", "1")[0] == 0
    text = tmp_path / "text"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 60)
    code, out, err = run("foresight-compress", tmp_path / "bf16", tmp_path / "out", "--calibration", text, timeout=120)
    assert code == 0, err
    assert run("foresight", "inspect", tmp_path / "out", "--verify")[0] == 0


def test_a_dry_run_tells_what_would_be_written(shape, tmp_path):
    code, out, err = synth(shape, tmp_path / "out", "--dry-run", "--json")
    assert code == 0 and not (tmp_path / "out").exists(), err
    plan = json.loads(out)
    assert plan["expert_weights"] == 3 * 6 * 3 * 128 * 96
    assert synth(shape, tmp_path / "out")[0] == 0
    sizes = [f.stat().st_size for f in (tmp_path / "out").glob("*.safetensors")]
    assert len(sizes) == plan["files"]
    assert 0 < sum(sizes) - plan["expert_bytes"] - plan["backbone_bytes"] < 4096 * 4 * len(sizes)  # headers
    code, out, err = run("foresight", "synth", "--shape", "switch-c2048", "--dry-run", tmp_path / "none")
    assert code == 0 and "1570347417600 weights" in out


def test_what_cannot_be_made_is_refused(shape, tmp_path):
    out = tmp_path / "out"
    for arguments, words in {("--shape", "gpt-7"): ["gpt-7", "mixtral-8x7b"], ("--shape", tmp_path / "none.json"): ["none.json"],
                             ("--shape", shape, "--layers", "4"): ["--layers", "3"]}.items():
        code, _, err = run("foresight", "synth", *arguments, out)
        assert code == 1 and all(word in err for word in words), err
    for arguments, words in {("--shape", shape, "--format", "fp4"): ["--format", "blocked:2:16"], (): ["shape"],
                             ("--shape", shape, "--skew", "-1"): ["--skew"]}.items():
        code, _, err = run("foresight", "synth", *arguments, out)
        assert code == 2 and all(word in err for word in words), err
    shape.write_text(json.dumps(SHAPE | {"num_experts_per_tok": 7}))
    code, _, err = synth(shape, out)
    assert code == 1 and "num_experts_per_tok" in err
    assert not out.exists()


def test_nothing_is_overwritten(shape, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    code, _, err = synth(shape, out)
    assert code == 1 and "is there already" in err and (out / "mine").read_text() == "kept"
    (tmp_path / "other.incomplete").mkdir()
    code, _, err = synth(shape, tmp_path / "other")
    assert code == 1 and "other.incomplete" in err and not (tmp_path / "other").exists()


def test_a_full_disk_leaves_nothing(shape, tmp_path):
    out = tmp_path / "out"
    for limit in (10_000, 100_000, 1_000_000):  # bytes a file may have
        done = subprocess.run([BIN / "foresight", "synth", "--shape", shape, out, "--format", "bf16"], capture_output=True, text=True,
                              timeout=60 * SLOW, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        assert done.returncode == 1 and "File too large" in done.stderr, done.stderr
        assert [f.name for f in tmp_path.iterdir()] == ["config.json"]


def test_too_large_for_the_disk_is_told_before(tmp_path, bin_dir):
    config = tmp_path / "config.json"  # 2 GiB an expert, 512 layers of 4096 of them
    config.write_text(json.dumps(SHAPE | {"hidden_size": 65536, "intermediate_size": 65536, "num_hidden_layers": 64, "head_dim": 64,
                                          "num_local_experts": 4096}))
    code, _, err = synth(config, tmp_path / "out")
    assert code == 1 and "too full" in err and "GB are needed" in err
    assert [f.name for f in tmp_path.iterdir()] == ["config.json"]


def test_an_interrupt_leaves_nothing(shape, tmp_path):
    out = tmp_path / "out"
    shape.write_text(json.dumps(SHAPE | {"vocab_size": 1 << 20, "hidden_size": 512}))
    process = subprocess.Popen([BIN / "foresight", "synth", "--shape", shape, out], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out.incomplete").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60 * SLOW)[1]
    assert process.returncode == 130 and "stopped" in err, err
    assert [f.name for f in tmp_path.iterdir()] == ["config.json"]
