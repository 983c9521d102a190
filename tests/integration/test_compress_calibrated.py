"""foresight-compress on a small dense checkpoint: the same bytes however it runs, killed or not; refusals that leave the input alone."""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from processes import BIN, ROOT, SLOW, run
from test_compress import read_safetensors, write_safetensors

GOLDEN = ROOT / "tests/golden/readme_moe_dense"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"


@pytest.fixture(autouse=True)
def program():
    if not (BIN / "foresight-compress").exists():
        pytest.fail(f"{BIN} has no foresight-compress: build first, or set FORESIGHT_BIN")


def byte_tokenizer(size=257):
    """Id 0 ends a text, the others are the 256 bytes; then pieces that no text spells, or pairs of letters."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names, extra = {b: chr(b) for b in keep}, 0
    for b in range(256):
        if b not in names:
            names[b], extra = chr(256 + extra), extra + 1
    vocab = {"<|endoftext|>": 0, **{names[b]: b + 1 for b in range(256)}}
    merges = []
    for pair in (a + b for a in "the" for b in "hes "):
        if len(vocab) < size and pair.strip() == pair and pair not in vocab:
            vocab[pair] = len(vocab)
            merges.append(f"{pair[0]} {pair[1]}")
    return {"version": "1.0", "added_tokens": [{"id": 0, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
                                                "rstrip": False, "normalized": False, "special": True}],
            "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                                                  "use_regex": True},
            "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                                                "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocab, "merges": merges}}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "in"
    path.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / name, path / name)
    (path / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    (tmp_path / "text").write_bytes((ROOT / "share/calibration.txt").read_bytes()[:6000].decode(errors="ignore").encode())
    return path


def arguments(model, out, *more):
    return [model, out, "--calibration", model.parent / "text", *more]


def compress(model, out, *more):
    return run("foresight-compress", *arguments(model, out, *more))


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def incomplete(out):
    return out.with_name(out.name + ".incomplete")


def test_a_dense_checkpoint_becomes_a_compressed_model(model, tmp_path):
    before, out, report = contents(model), tmp_path / "out", tmp_path / "report.json"
    code, text, errors = compress(model, out, "--report", report)
    assert code == 0, errors
    assert "bits a weight" in text and "verified" in text and "nats" in text
    assert contents(model) == before
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "foresight-sub1"
    files = sorted(file.name for file in out.iterdir())
    assert files == ["backbone-00001-of-00001.safetensors", "config.json", "experts-layer-00000.safetensors",
                     "experts-layer-00001.safetensors", "model.safetensors.index.json", "tokenizer.json"]
    assert not incomplete(out).exists()
    told = json.loads(report.read_text())
    assert told["bytes"]["expert_files"] == sum((out / f).stat().st_size for f in files if f.startswith("experts"))
    assert told["bits_per_weight"] == pytest.approx(8 * told["bytes"]["expert_files"] / told["expert_weights"])
    assert 0 < told["loss_nats"]["uncompressed"] and told["loss_nats"]["difference"] < 1
    assert len(told["layers"]) == 2 and len(told["layers"][0]["experts"]) == 5
    rows = sum(e["rows"] for e in told["layers"][0]["experts"])
    assert rows == 2 * told["calibration_tokens"]
    for expert in told["layers"][1]["experts"]:
        for part in ("gate", "up", "down"):
            assert expert[part]["density"] == 0.125 and 0 < expert[part]["relative_error"] < 1
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page and "http" not in page


@pytest.mark.parametrize("format,density", [("blocked:1:16", 1 / 16), ("blocked:3:16", 3 / 16), ("free", None)])
def test_each_format_is_written_and_read_back(model, tmp_path, format, density):
    code, text, errors = compress(model, tmp_path / "out", "--format", format, "--report", tmp_path / "report.json")
    assert code == 0, errors
    gate = json.loads((tmp_path / "report.json").read_text())["layers"][0]["experts"][0]["gate"]
    assert gate["format"] == format and format in text
    assert gate["density"] == density if density else 0.02 < gate["density"] < 0.3


def test_a_share_of_zeros_is_hit(model, tmp_path):
    sizes = []
    for zeros in (0.85, 0.92):
        out, report = tmp_path / str(zeros), tmp_path / "report.json"
        code, _, errors = compress(model, out, "--format", "free", "--zeros", zeros, "--report", report)
        assert code == 0, errors
        told = json.loads(report.read_text())
        for expert in told["layers"][1]["experts"]:
            for part in ("gate", "up", "down"):
                assert expert[part]["density"] == pytest.approx(1 - zeros, abs=0.01)
        sizes.append(told["bytes"]["expert_files"])
    assert sizes[1] < sizes[0]
    assert "--format free" in refused(model, tmp_path / "out", "--zeros", 0.9)
    assert "--scale" in refused(model, tmp_path / "out", "--zeros", 0.9, "--format", "free", "--scale", 3)


def test_bits_are_spent_within_the_budget(model, tmp_path):
    def run_for_report(out, *more):
        code, _, errors = compress(model, tmp_path / out, *more, "--report", tmp_path / "report.json")
        assert code == 0, errors
        return json.loads((tmp_path / "report.json").read_text())

    low = run_for_report("low", "--format", "blocked:1:16")["bits_per_weight"]
    high = run_for_report("high", "--format", "blocked:3:16")["bits_per_weight"]
    assert low < high
    budget = (low + high) / 2
    report = run_for_report("mixed", "--bits", budget)
    assert report["format"] == "mixed" and low < report["bits_per_weight"] <= budget
    formats = {e[p]["format"] for layer in report["layers"] for e in layer["experts"] for p in ("gate", "up", "down")}
    assert len(formats) > 1
    code, _, errors = compress(model, tmp_path / "none", "--bits", 0.1)
    assert code == 1 and "too few" in errors and not (tmp_path / "none").exists()


def test_error_feedback_loses_less_than_rounding_to_nearest(model, tmp_path):
    errors = {}
    for method in ("gptq", "nearest"):
        assert compress(model, tmp_path / method, "--method", method, "--report", tmp_path / "report.json")[0] == 0
        report = json.loads((tmp_path / "report.json").read_text())
        errors[method] = sum(e[p]["relative_error"] for layer in report["layers"] for e in layer["experts"]
                             for p in ("gate", "up", "down"))
    assert errors["gptq"] < errors["nearest"]


def test_bytes_do_not_depend_on_threads_or_memory(model, tmp_path):
    for name, more in {"one": ["--threads", 1], "two": ["--threads", 2], "many": ["--threads", 5],
                       "little": ["--threads", 5, "--memory", "90M"]}.items():
        code, _, errors = compress(model, tmp_path / name, *more)
        assert code == 0, errors
        assert contents(tmp_path / name) == contents(tmp_path / "one"), name


def test_a_seed_decides_which_tokens_are_used(model, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert compress(model, tmp_path / name, "--tokens", 1536, "--seed", seed)[0] == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != contents(tmp_path / "c")


def test_killed_at_twenty_random_moments_and_resumed_it_gives_the_same_bytes(model, tmp_path):
    begun = time.monotonic()
    assert compress(model, tmp_path / "whole")[0] == 0
    seconds, out, chance = time.monotonic() - begun, tmp_path / "out", random.Random(5)
    whole, kills = contents(tmp_path / "whole"), 0
    while kills < 20:
        process = subprocess.Popen([BIN / "foresight-compress", *map(str, arguments(model, out, "--resume"))],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(chance.uniform(0, seconds))
        process.kill()
        _, errors = process.communicate(timeout=60 * SLOW)
        assert process.returncode in (0, -signal.SIGKILL), errors
        kills += process.returncode != 0
        if out.exists():  # it was faster, or killed when everything was done
            assert contents(out) == whole
            shutil.rmtree(out)
    code, _, errors = compress(model, out, "--resume")
    assert code == 0, errors
    assert contents(out) == whole and not incomplete(out).exists()


def says(journal, fact):
    """The journal goes when the output takes its name."""
    try:
        return fact in journal.read_bytes()
    except FileNotFoundError:
        return False


def cut_off(model, out, more=(), fact=b"\nexpert"):
    """Runs until some experts (or a layer) are finished, then kills it."""
    for _ in range(50):
        process = subprocess.Popen([BIN / "foresight-compress", *map(str, arguments(model, out, *more))],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        journal = incomplete(out) / "journal"
        while process.poll() is None:
            if says(journal, fact):
                process.kill()
        process.wait(60 * SLOW)
        if journal.exists():
            return journal
        shutil.rmtree(out)
    pytest.fail("it was never killed in time")


@pytest.mark.parametrize("damage", ["a changed byte", "cut off", "removed", "with the layer's experts"])
def test_a_damaged_stream_is_made_again_without_quantising_again(model, tmp_path, damage):
    out = tmp_path / "out"
    assert compress(model, tmp_path / "whole")[0] == 0
    journal = cut_off(model, out, fact=b"\nlayer 0")
    stream = incomplete(out) / "work-x-served-1"
    data = stream.read_bytes()
    if damage == "removed":
        stream.unlink()
    else:
        stream.write_bytes(data[:-4] if damage == "cut off" else data[:99] + bytes([data[99] ^ 1]) + data[100:])
    if damage == "with the layer's experts":
        (incomplete(out) / "experts-layer-00000.safetensors").write_bytes(b"gone")
    finished = journal.read_bytes().count(b"\nexpert 0 ")
    process = subprocess.Popen([BIN / "foresight-compress", *map(str, arguments(model, out, "--resume"))],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    again = 0
    while process.poll() is None:  # a finished expert that is quantised again has one more line
        if journal.exists():
            try:
                again = max(again, journal.read_bytes().count(b"\nexpert 0 ") - finished)
            except FileNotFoundError:
                pass
    _, errors = process.communicate(timeout=60 * SLOW)
    assert process.returncode == 0, errors
    assert stream.name in errors and "made again" in errors
    assert contents(out) == contents(tmp_path / "whole")
    if damage != "with the layer's experts":
        assert again == 0


def test_resuming_with_other_options_is_refused_and_broken_files_are_made_again(model, tmp_path):
    out = tmp_path / "out"
    journal = cut_off(model, out)
    code, _, errors = compress(model, out)
    assert code == 1 and "--resume" in errors and journal.exists()
    for more in (["--bits", 2], ["--seed", 3, "--tokens", 2000], ["--format", "blocked:1:16"], ["--method", "gptq"]):
        code, _, errors = compress(model, out, "--resume", *more)
        assert code == 1 and "other options" in errors and journal.exists(), more
    (incomplete(out) / "experts-layer-00000.safetensors.Xyz123").write_text("was being written")
    (incomplete(out) / "config.json").write_text("from before")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0].replace(b"journal 1", b"journal 9") + b"".join(lines[1:]))
    code, _, errors = compress(model, out, "--resume")
    assert code == 1 and "checksum" in errors
    journal.write_bytes(b"".join(lines) + lines[-1][:20])  # a line that was being written
    for part in incomplete(out).glob("part-*"):
        data = bytearray(part.read_bytes())
        if data:  # the kill may have come between a file's creation and its first write
            data[len(data) // 2] ^= 1
            part.write_bytes(data)
    assert compress(model, tmp_path / "whole")[0] == 0
    code, _, errors = compress(model, out, "--resume")  # what is broken is made again
    assert code == 0, errors
    assert contents(out) == contents(tmp_path / "whole")


def test_an_interrupt_keeps_what_was_finished(model, tmp_path):
    out = tmp_path / "out"
    assert compress(model, tmp_path / "whole")[0] == 0
    process = subprocess.Popen([BIN / "foresight-compress", *map(str, arguments(model, out))], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    journal = incomplete(out) / "journal"
    while process.poll() is None and not says(journal, b"\nexpert"):
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60 * SLOW)
    if process.returncode != 0:
        assert process.returncode == 130 and "stopped" in errors and "--resume" in errors
        assert not out.exists()
        assert compress(model, out, "--resume")[0] == 0
    assert contents(out) == contents(tmp_path / "whole")


def nothing_left(out):
    return not out.exists() and not incomplete(out).exists()


def refused(model, out, *more):
    before = contents(model)
    code, text, errors = compress(model, out, *more)
    assert code == 1 and text == "", (code, errors)
    assert contents(model) == before
    assert nothing_left(out)
    return errors


def spoil(model, name, row, col, bits):
    tensors = {n: (dtype, np.frombuffer(data, {"BF16": np.uint16, "F32": np.float32}[dtype]).reshape(shape).copy())
               for n, (dtype, shape, data, _) in read_safetensors(model / "model.safetensors").items()}
    tensors[name][1][row, col] = bits
    write_safetensors(model / "model.safetensors", tensors)


@pytest.mark.parametrize("bits,what", [(0x7FC0, "nan"), (0x7F80, "inf")])
def test_a_weight_that_is_not_finite_is_named(model, tmp_path, bits, what):
    spoil(model, EXPERT, 5, 9, bits)
    code, _, errors = compress(model, tmp_path / "out")
    assert code == 1 and EXPERT in errors and "row 5, column 9" in errors and what in errors
    assert not (tmp_path / "out").exists()


def test_tokens_that_the_model_does_not_have_are_refused(model, tmp_path):
    (model / "tokenizer.json").write_text(json.dumps(byte_tokenizer(size=266)))
    config = json.loads((model / "config.json").read_text())
    tensors = read_safetensors(model / "model.safetensors")
    vocab = 258
    config["vocab_size"] = vocab
    (model / "config.json").write_text(json.dumps(config))
    cut = {}
    for name, (dtype, shape, data, _) in tensors.items():
        array = np.frombuffer(data, {"BF16": np.uint16, "F32": np.float32}[dtype]).reshape(shape)
        cut[name] = (dtype, array[:vocab] if shape[0] == 300 else array)
    write_safetensors(model / "model.safetensors", cut)
    assert "vocabulary of 258" in refused(model, tmp_path / "out")


def test_texts_that_cannot_be_used_are_named(model, tmp_path):
    text = tmp_path / "text"
    text.write_text("too short")
    assert "too few" in refused(model, tmp_path / "out")
    text.write_bytes(b"\xff\xfe" * 4000)
    assert str(text) in refused(model, tmp_path / "out")
    text.unlink()
    assert str(text) in refused(model, tmp_path / "out")


def test_a_missing_shard_or_tokenizer_is_named(model, tmp_path):
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    names = list(read_safetensors(model / "model-00001-of-00002.safetensors"))
    (model / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {}, "weight_map": {n: f"model-0000{1 + (n == EXPERT)}-of-00002.safetensors" for n in names}}))
    assert "model-00002-of-00002.safetensors" in refused(model, tmp_path / "out")
    (model / "model.safetensors.index.json").unlink()
    (model / "model-00001-of-00002.safetensors").rename(model / "model.safetensors")
    (model / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused(model, tmp_path / "out")


def test_too_little_memory_says_how_much_is_needed(model, tmp_path):
    assert "MiB" in refused(model, tmp_path / "out", "--memory", "1M")


def test_a_full_disk_leaves_nothing_under_the_final_name(model, tmp_path):
    out = tmp_path / "out"
    for limit in (10_000, 200_000, 1_700_000, 3_300_000):  # bytes a file may have
        done = subprocess.run([BIN / "foresight-compress", *map(str, arguments(model, out))], capture_output=True, text=True,
                              timeout=60 * SLOW,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        if done.returncode == 0:
            break
        assert done.returncode == 1 and "File too large" in done.stderr, done.stderr
        assert not out.exists()
        shutil.rmtree(incomplete(out), ignore_errors=True)
    assert limit > 10_000


def test_nothing_is_overwritten(model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    code, _, errors = compress(model, out)
    assert code == 1 and "is there already" in errors
    assert contents(out) == {"mine": b"kept"} and not incomplete(out).exists()


def test_a_dry_run_tells_and_writes_nothing(model, tmp_path):
    before = set(os.listdir(tmp_path))
    code, text, errors = compress(model, tmp_path / "out", "--dry-run")
    assert (code, errors) == (0, "")
    assert "bits a weight" in text and "MB of memory" in text
    assert set(os.listdir(tmp_path)) == before


def test_an_unknown_format_is_refused(model, tmp_path):
    assert "blocked:2:16" in refused(model, tmp_path / "out", "--format", "blocked:5:16")
