"""`foresight eval`: the loss that foresight-compress tells, for any model directory, on any number of threads; and clear refusals."""
import json
import math
import shutil
import signal
import subprocess
import time

import pytest

from processes import BIN, ROOT, SLOW, run

DEMO = ROOT / "models/demo"
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "vocab_size": 400, "num_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 256,
         "router_hidden_size": 64, "router_num_heads": 2, "router_intermediate_size": 64}
STORY = ("The king's youngest daughter went out into the forest, and sat down by the side of the cool fountain. "
         "When she was bored she took a golden ball, and threw it up on high and caught it. ")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_text("".join(f"{STORY}{i} " for i in range(12)))
    return path


@pytest.fixture
def model_of(bin_dir, tmp_path):
    def make(name, format, **changes):
        config = tmp_path / f"{name}.json"
        config.write_text(json.dumps(SHAPE | changes))
        code, _, err = run("foresight", "synth", "--shape", config, "--format", format, tmp_path / name)
        assert code == 0, err
        return tmp_path / name
    return make


def evaluate(model, text, *options):
    code, out, err = run("foresight", "eval", "--model", model, "--text", text, "--json", *options, timeout=120)
    assert code == 0, err
    result = json.loads(out)
    assert result.pop("seconds") > 0 and result.pop("tokens_per_second") > 0
    return result


def refused(model, text, *options):
    code, out, err = run("foresight", "eval", "--model", model, "--text", text, *options)
    assert code == 1 and not out, out
    return err


def test_it_is_the_loss_that_the_compressor_tells(model_of, text, tmp_path):
    dense = model_of("dense", "bf16")
    report = tmp_path / "report.json"
    code, _, err = run("foresight-compress", dense, tmp_path / "out", "--calibration", text, "--held-back", text, "--report", report,
                       timeout=120)
    assert code == 0, err
    loss = json.loads(report.read_text())["loss_nats"]
    for model, told in ((dense, loss["uncompressed"]), (tmp_path / "out", loss["compressed"])):
        result = evaluate(model, text)
        assert result["predictions"] == loss["tokens"] and result["window"] == 256
        assert result["nats_per_token"] == pytest.approx(told, rel=1e-8)
        assert result["perplexity"] == pytest.approx(math.exp(told), rel=1e-6)
    assert evaluate(dense, text)["expert_storage"] == "dense"


@pytest.mark.parametrize("format", ["blocked:1:16", "blocked:3:16", "free", "bf16"])
def test_threads_change_nothing(model_of, text, format):
    model = model_of("model", format)
    one, two = (evaluate(model, text, "--threads", n, "--window", "100") for n in "12")
    assert one == two and one["windows"] > 10
    assert one["bits_per_byte"] == pytest.approx(one["nats_per_token"] / math.log(2), rel=1e-6)  # its tokens are bytes


def test_a_trained_model_knows_more_than_one_of_random_weights(model_of, text):
    demo, random = evaluate(DEMO, text), evaluate(model_of("random", "blocked:2:16"), text)
    assert demo["bits_per_byte"] < 2.5 < random["bits_per_byte"]
    part = evaluate(DEMO, text, "--tokens", "100", "--window", "50")
    assert part["windows"] == 2 and part["predictions"] == 98 and part["tokens"] == demo["tokens"]


def test_it_is_readable(text):
    code, out, err = run("foresight", "eval", "--model", DEMO, "--text", text)
    assert code == 0 and not err, err
    assert all(word in out for word in ("perplexity", "nats a token", "bits a byte", "tokens/s")), out


def test_texts_that_foretell_nothing_are_refused(text, tmp_path):
    empty, one, latin = (tmp_path / name for name in ("empty", "one", "latin"))
    empty.write_bytes(b"")
    one.write_bytes(b"a")
    latin.write_bytes(b"caf\xe9 au lait")
    assert "0 tokens" in refused(DEMO, empty)
    assert "1 token" in refused(DEMO, one)
    assert "latin" in refused(DEMO, latin) and "UTF-8" in refused(DEMO, latin)
    assert "none" in refused(DEMO, tmp_path / "none")
    assert "--window" in refused(DEMO, text, "--window", "1") and "1024" in refused(DEMO, text, "--window", "5000")
    assert "--tokens" in refused(DEMO, text, "--tokens", "1")
    for missing in ("--model", "--text"):
        arguments = {"--model": DEMO, "--text": text}
        del arguments[missing]
        code, _, err = run("foresight", "eval", *[word for pair in arguments.items() for word in pair])
        assert code == 2 and missing[2:] in err


def test_another_models_tokenizer_is_refused(model_of, text):
    model = model_of("model", "blocked:2:16")
    shutil.copy(DEMO / "tokenizer.json", model / "tokenizer.json")
    assert "vocabulary of 400" in refused(model, text)


def test_a_broken_model_is_refused_and_named(model_of, text, tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere", text)
    model = model_of("model", "blocked:2:16")
    layer = model / "experts-layer-00001.safetensors"
    whole = bytearray(layer.read_bytes())
    layer.write_bytes(whole[:-512])
    assert "experts-layer-00001" in refused(model, text)
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 1
    layer.write_bytes(broken)
    for threads in "12":
        err = refused(model, text, "--threads", threads)
        assert "experts-layer-00001.safetensors" in err and "experts." in err and "checksum" in err
    layer.write_bytes(whole)
    evaluate(model, text)
    (model / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused(model, text)


def test_weights_that_are_not_finite_are_told(model_of, text):
    model = model_of("model", "bf16")
    shard = model / "model-00001-of-00001.safetensors"
    whole = bytearray(shard.read_bytes())
    header = json.loads(whole[8:8 + int.from_bytes(whole[:8], "little")])
    at = 8 + int.from_bytes(whole[:8], "little") + header["model.norm.weight"]["data_offsets"][0]
    whole[at:at + 2] = b"\xc0\x7f"  # NaN
    shard.write_bytes(whole)
    assert "not finite" in refused(model, text)


def test_an_interrupt_ends_it(tmp_path, bin_dir):
    long = tmp_path / "long"
    long.write_text(STORY * 20000)
    process = subprocess.Popen([BIN / "foresight", "eval", "--model", DEMO, "--text", long], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60 * SLOW)
    assert process.returncode == 130 and "stopped" in err and not out, err
