"""foresight-compress on small checkpoints made here: packed without loss, or refused with the reason and nothing left behind."""
import json
import resource
import shutil
import signal
import struct
import subprocess
import time

import numpy as np
import pytest

from processes import BIN, SLOW, run

HIDDEN, INTER, EXPERTS, LAYERS = 48, 80, 3, 2
PARTS = {"gate_proj": (INTER, HIDDEN), "up_proj": (INTER, HIDDEN), "down_proj": (HIDDEN, INTER)}


@pytest.fixture(autouse=True)
def program():
    if not (BIN / "foresight-compress").exists():
        pytest.fail(f"{BIN} has no foresight-compress: build first, or set FORESIGHT_BIN")


def bf16(values):
    """float32 numbers that are exactly bfloat16, as their 16 bits."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def ternary(rng, rows, cols):
    """{neg, 0, pos} by row with exactly 2 nonzeros in every 16 columns, as bfloat16 bits."""
    w = np.zeros((rows, cols), np.uint16)
    scale = np.stack([0x3C00 + rng.integers(0, 256, rows), 0xBC00 + rng.integers(0, 256, rows)], 1)
    for r in range(rows):
        for c in range(0, cols, 16):
            at = c + rng.choice(16, 2, replace=False)
            w[r, at] = scale[r, rng.integers(0, 2, 2)]
    return w


def expert_name(layer, expert, part):
    return f"model.layers.{layer}.mlp.experts.{expert}.{part}.weight"


def make_tensors(experts=EXPERTS, layers=LAYERS):
    rng = np.random.default_rng(1)
    tensors = {"model.embed_tokens.weight": ("BF16", rng.integers(0, 1 << 16, (64, HIDDEN)).astype(np.uint16)),
               "model.norm.weight": ("F32", rng.standard_normal(HIDDEN).astype(np.float32))}
    for layer in range(layers):
        for expert in range(experts):
            for part, (rows, cols) in PARTS.items():
                tensors[expert_name(layer, expert, part)] = ("BF16", ternary(rng, rows, cols))
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = ("BF16", np.full(HIDDEN, 0x3F80, np.uint16))
    return tensors


def write_safetensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for _, a in tensors.values()))


def read_safetensors(path):
    """{name: (dtype, shape, bytes, offset in the file)}"""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]],
                   8 + size + t["data_offsets"][0]) for name, t in header.items()}


def config(experts=EXPERTS, layers=LAYERS):
    return {"model_type": "readme_moe", "vocab_size": 64, "hidden_size": HIDDEN, "num_hidden_layers": layers,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 24, "rope_theta": 10000.0,
            "rms_norm_eps": 1e-05, "max_position_embeddings": 128, "num_experts": experts, "num_experts_per_tok": 2,
            "moe_intermediate_size": INTER, "norm_topk_prob": True, "router_hidden_size": 32, "router_num_layers": 1,
            "router_num_heads": 2, "router_intermediate_size": 32, "router_shared_across_layers": False,
            "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 0}


def write_checkpoint(path, tensors, shards=1, **sizes):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config(**sizes), indent=1))
    (path / "generation_config.json").write_text('{"do_sample": false}')
    (path / "tokenizer.json").write_text('{"not": "looked at"}')
    (path / "golden.json").write_text("{}")
    if shards == 1:
        write_safetensors(path / "model.safetensors", tensors)
        return path
    weight_map, names = {}, list(tensors)
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        mine = {n: tensors[n] for n in names[i::shards]}
        write_safetensors(path / file, mine)
        weight_map.update(dict.fromkeys(mine, file))
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def decode_free_lane(blob, cols, lane, steps, shift, counts_at):
    """(column, negative) of a lane's nonzeros."""
    place, base, found, parts = 127, 0, [], (cols + 1023) // 1024
    moves = counts_at + 2 * parts
    code_at = moves + (steps + 3) // 4
    for step in range(steps):
        base += (0, 24, 32, 48)[blob[moves + step // 4] >> step % 4 * 2 & 3] << shift
        base = min(base, max(128, (cols + 63) // 64 * 64) - 128)
        for k in range(4):
            i = lane % 16 * 4 + k
            code = blob[code_at + 80 * step + i] >> lane // 16 * 4 & 15
            bit = lane // 16 * 64 + i
            sign = blob[code_at + 80 * step + 64 + bit // 8] >> bit % 8 & 1
            place += code or (30 if sign else 15)
            if code:
                found.append((base + (place - base) % 128, sign))
    at = code_at + 80 * steps
    for part, count in enumerate(struct.unpack(f"<{parts}H", blob[counts_at:moves])):
        for entry in struct.unpack(f"<{count}H", blob[at:at + 2 * count]):
            if entry >> 10 & 31 == lane:
                found.append((1024 * part + entry % 1024, entry >> 15))
        at += 2 * count
    return found


def decode_free(blob):
    assert blob[:8] == b"FSB1\x02\x03\0\0"
    rows, cols = struct.unpack("<II", blob[8:16])
    w = np.zeros((rows, cols), np.uint16)
    for group in range((rows + 31) // 32):
        at = 64 + struct.unpack("<I", blob[64 + 4 * group:68 + 4 * group])[0]
        kind, shift, steps = struct.unpack("<BBH", blob[at:at + 4])
        assert kind < 3
        places = blob[at + 4:at + 36]
        if kind == 0:
            continue
        scales = np.frombuffer(blob, np.uint16, 64, at + 36).reshape(2, 32)
        body = at + 164
        for lane in range(32):
            row = group // 8 * 256 + places[lane]
            if kind == 1:
                found = decode_free_lane(blob, cols, lane, steps, shift, body)
            else:
                units, found = (cols + 63) // 64, []
                for c in range(cols):
                    unit = body + (lane * units + c // 64) * 16
                    found += [(c, neg) for neg in (0, 1) if blob[unit + 8 * neg + c % 64 // 8] >> c % 8 & 1]
            assert row < rows or not found
            for column, negative in found:
                assert w[row, column] == 0
                w[row, column] = scales[negative, lane]
    return w


def decode(blob):
    """The blob's weights as bfloat16 bits, by docs/formats.md and not by our C."""
    if blob[5] == 3:
        return decode_free(blob)
    assert blob[:8] == b"FSB1\x02\x01\x02\x10"
    rows, cols, flags = struct.unpack("<III", blob[8:20])
    w, at = np.zeros((rows, cols), np.uint16), 64
    for group in range(0, rows, 64):
        scales = np.frombuffer(blob, np.uint16, 64 if flags & 1 else 128, at)
        scales = np.stack([scales, scales | 0x8000]) if flags & 1 else scales.reshape(2, 64)
        at += 128 if flags & 1 else 256
        for first in range(0, cols, 64):
            for i in range(256):
                row, col = group + i // 4, first + i % 4 * 16
                if row >= rows or col >= cols:
                    continue
                code, sign = blob[at + i], blob[at + 256 + i // 8] >> i % 8 & 1
                place, way = code >> 2 & 15, code >> 6 | (code & 3) << 2
                w[row, col + place] = scales[sign, i // 4]
                w[row, col + (place - way) % 16] = scales[sign ^ (way > place), i // 4]
            at += 288
    return w


def check_output(out, tensors, experts=EXPERTS, layers=LAYERS):
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = {name: read_safetensors(out / name) for name in set(index["weight_map"].values())}
    assert sorted(index["weight_map"]) == sorted(n for f in files.values() for n in f)
    assert index["metadata"]["total_size"] == sum(len(t[2]) for f in files.values() for t in f.values())
    found = {n: files[f][n] for n, f in index["weight_map"].items()}
    for layer in range(layers):
        for expert in range(experts):
            next_at = None
            for part in PARTS:
                name = expert_name(layer, expert, part)
                dtype, shape, blob, at = found.pop(name.replace(".weight", ".sub1"))
                assert index["weight_map"][name.replace(".weight", ".sub1")] == f"experts-layer-{layer:05}.safetensors"
                assert dtype == "U8" and shape == [len(blob)] and at % 64 == 0
                assert at == next_at or (next_at is None and at % 512 == 0)
                next_at = at + len(blob)
                assert np.array_equal(decode(blob), tensors[name][1]), name
            assert next_at % 512 == 0
    backbone = {n: t for n, t in tensors.items() if ".experts." not in n}
    assert sorted(found) == sorted(backbone)
    for name, (dtype, array) in backbone.items():
        assert found[name][:3] == (dtype, list(array.shape), array.tobytes()), name


def pack(source, out, *more):
    return run("foresight-compress", "--lossless", source, out, *more)


def nothing_left(out):
    return not out.exists() and not out.with_name(out.name + ".incomplete").exists()


@pytest.mark.parametrize("shards,threads", [(1, 1), (3, 4)])
def test_packing_is_lossless(tmp_path, shards, threads):
    tensors = make_tensors()
    source, out = write_checkpoint(tmp_path / "in", tensors, shards), tmp_path / "out"
    code, text, errors = pack(source, out, "--threads", threads)
    assert (code, errors) == (0, "")
    assert "bits a weight" in text and "verified" in text
    check_output(out, tensors)
    written = json.loads((out / "config.json").read_text())
    assert written.pop("quantization_config") == {"quant_method": "foresight-sub1", "version": 1, "format": "blocked",
                                                  "n": 2, "m": 16, "activations": "int8"}
    assert written == json.loads((source / "config.json").read_text())
    for name in ("tokenizer.json", "generation_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert not (out / "golden.json").exists()
    assert not out.with_name("out.incomplete").exists()


def any_ternary(rng, rows, cols, density):
    """{neg, 0, pos} by row, as bfloat16 bits."""
    scale = np.stack([0x3C00 + rng.integers(0, 256, rows), 0xBC00 + rng.integers(0, 256, rows)], 1).astype(np.uint16)
    signs = rng.integers(0, 2, (rows, cols))
    return np.where(rng.random((rows, cols)) < density, np.take_along_axis(scale, signs, 1), np.uint16(0))


def quantization_of(out):
    return json.loads((out / "config.json").read_text())["quantization_config"]


def test_any_ternary_checkpoint_is_packed(tmp_path):
    tensors, rng = make_tensors(), np.random.default_rng(3)
    for i, (name, (dtype, array)) in enumerate(tensors.items()):
        if ".experts." in name:
            tensors[name] = (dtype, any_ternary(rng, *array.shape, (0.115, 0, 0.9, 0.3)[i % 4]))
    code, text, errors = pack(write_checkpoint(tmp_path / "in", tensors), tmp_path / "out")
    assert (code, errors) == (0, "") and "18 matrices free" in text
    check_output(tmp_path / "out", tensors)
    assert quantization_of(tmp_path / "out") == {"quant_method": "foresight-sub1", "version": 1, "format": "free",
                                                 "activations": "int8"}


def test_each_matrix_gets_the_format_that_holds_it(tmp_path):
    tensors = make_tensors()
    name = expert_name(1, 2, "up_proj")
    tensors[name] = ("BF16", any_ternary(np.random.default_rng(4), *PARTS["up_proj"], 0.115))
    code, text, errors = pack(write_checkpoint(tmp_path / "in", tensors), tmp_path / "out")
    assert (code, errors) == (0, "") and "1 matrices free" in text and "17 matrices blocked 2:16" in text
    check_output(tmp_path / "out", tensors)
    assert quantization_of(tmp_path / "out")["format"] == "mixed"


def test_a_format_that_is_asked_for_is_used_or_refused(tmp_path):
    tensors = make_tensors()
    source = write_checkpoint(tmp_path / "in", tensors)
    code, text, _ = pack(source, tmp_path / "free", "--format", "free")
    assert code == 0 and "18 matrices free" in text
    check_output(tmp_path / "free", tensors)
    assert pack(source, tmp_path / "blocked", "--format", "blocked")[0] == 0
    assert quantization_of(tmp_path / "blocked")["n"] == 2
    code, _, errors = pack(source, tmp_path / "out", "--format", "blocked:1:16")
    assert code == 1 and expert_name(0, 0, "gate_proj") in errors and "more than 1 nonzero" in errors
    code, _, errors = pack(source, tmp_path / "out", "--format", "dense")
    assert code == 1 and "dense" in errors
    assert nothing_left(tmp_path / "out")


def test_output_does_not_depend_on_threads_or_shards(tmp_path):
    tensors = make_tensors()
    one = write_checkpoint(tmp_path / "one", tensors)
    for i, threads in enumerate((1, 7)):
        assert pack(one, tmp_path / f"out{i}", "--threads", threads)[0] == 0
    for file in (tmp_path / "out0").iterdir():
        assert file.read_bytes() == (tmp_path / "out1" / file.name).read_bytes()


def spoil(tensors, row, col, bits):
    name = expert_name(1, 2, "up_proj")
    tensors[name][1][row, col] = bits
    return name


@pytest.mark.parametrize("bits,why", [(0x4049, "not ternary"), (0x7FC0, "not finite"), (None, "more than 2 nonzeros")])
def test_what_is_not_ternary_is_refused_by_name_row_and_column(tmp_path, bits, why):
    tensors = make_tensors()
    w = tensors[expert_name(1, 2, "up_proj")][1]
    col = int(np.flatnonzero(w[7, 16:32] == 0)[0]) + 16
    name = spoil(tensors, 7, col, bits if bits is not None else w[7][w[7] != 0][0])
    code, text, errors = pack(write_checkpoint(tmp_path / "in", tensors), tmp_path / "out", "--format", "blocked:2:16")
    assert code == 1 and text == ""
    assert name in errors and "row 7, column " in errors and why in errors
    assert nothing_left(tmp_path / "out")


def test_a_dense_checkpoint_is_refused(tmp_path):
    tensors = make_tensors()
    shape = PARTS["gate_proj"]
    values = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    tensors[expert_name(0, 0, "gate_proj")] = ("F32", values)
    code, _, errors = pack(write_checkpoint(tmp_path / "in", tensors), tmp_path / "out")
    assert code == 1 and expert_name(0, 0, "gate_proj") in errors and "not exactly a bf16" in errors
    assert nothing_left(tmp_path / "out")


def test_nothing_is_overwritten(tmp_path):
    source = write_checkpoint(tmp_path / "in", make_tensors())
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    code, _, errors = pack(source, out)
    assert code == 1 and "is there already" in errors and str(out) in errors
    assert [p.name for p in out.iterdir()] == ["mine"]
    (tmp_path / "new.incomplete").mkdir()
    code, _, errors = pack(source, tmp_path / "new")
    assert code == 1 and "new.incomplete" in errors
    assert (tmp_path / "new.incomplete").exists() and not (tmp_path / "new").exists()


def test_a_missing_shard_is_named(tmp_path):
    source = write_checkpoint(tmp_path / "in", make_tensors(), shards=3)
    (source / "model-00002-of-00003.safetensors").unlink()
    code, _, errors = pack(source, tmp_path / "out")
    assert code == 1 and "model-00002-of-00003.safetensors" in errors
    assert nothing_left(tmp_path / "out")


def test_a_truncated_shard_is_named(tmp_path):
    source = write_checkpoint(tmp_path / "in", make_tensors(), shards=3)
    shard = source / "model-00003-of-00003.safetensors"
    whole = shard.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:size])
        code, _, errors = pack(source, tmp_path / "out")
        assert code == 1 and "model-00003-of-00003.safetensors" in errors, size
        assert nothing_left(tmp_path / "out")


def test_a_missing_expert_is_named(tmp_path):
    tensors = make_tensors()
    del tensors[expert_name(1, 0, "down_proj")]
    code, _, errors = pack(write_checkpoint(tmp_path / "in", tensors), tmp_path / "out")
    assert code == 1 and expert_name(1, 0, "down_proj") in errors
    assert nothing_left(tmp_path / "out")


def test_unreadable_input_is_named(tmp_path):
    code, _, errors = pack(tmp_path / "nowhere", tmp_path / "out")
    assert code == 1 and "nowhere" in errors
    source = write_checkpoint(tmp_path / "in", make_tensors())
    (source / "model.safetensors").unlink()
    (source / "model.safetensors").mkdir()
    code, _, errors = pack(source, tmp_path / "out")
    assert code == 1 and "model.safetensors" in errors
    assert nothing_left(tmp_path / "out")
    code, _, errors = pack(write_checkpoint(tmp_path / "in2", make_tensors()), tmp_path / "no" / "out")
    assert code == 1 and "no/out" in errors


def test_a_compressed_directory_is_not_compressed_again(tmp_path):
    assert pack(write_checkpoint(tmp_path / "in", make_tensors()), tmp_path / "out")[0] == 0
    code, _, errors = pack(tmp_path / "out", tmp_path / "again")
    assert code == 1 and "compressed already" in errors
    assert nothing_left(tmp_path / "again")


def test_a_full_disk_leaves_nothing(tmp_path):
    source = write_checkpoint(tmp_path / "in", make_tensors())
    for limit in (1000, 11000):  # bytes a file may have: the backbone fails, or the experts, as on a full disk
        done = subprocess.run([BIN / "foresight-compress", "--lossless", source, tmp_path / "out"], capture_output=True,
                              text=True, timeout=60 * SLOW,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        assert done.returncode == 1 and "File too large" in done.stderr, done.stderr
        assert nothing_left(tmp_path / "out")


def test_an_interrupt_leaves_all_or_nothing(tmp_path):
    tensors = make_tensors()
    for expert in range(EXPERTS, 400):  # enough work that a signal usually meets it
        for layer in range(LAYERS):
            for part in PARTS:
                tensors[expert_name(layer, expert, part)] = tensors[expert_name(layer, expert % EXPERTS, part)]
    source, out = write_checkpoint(tmp_path / "in", tensors, experts=400), tmp_path / "out"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen([BIN / "foresight-compress", "--lossless", source, out], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not out.with_name("out.incomplete").exists() and not out.exists():
            time.sleep(0.001)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60 * SLOW)
        if process.returncode == 0:
            check_output(out, {n: t for n, t in tensors.items()}, experts=400)
            shutil.rmtree(out)
        else:
            assert process.returncode == 130 and "stopped" in errors, errors
            assert nothing_left(out)


def test_help_and_usage(tmp_path):
    code, text, _ = run("foresight-compress", "--help")
    assert code == 0 and "--lossless" in text and "IN OUT" in text
    for arguments in (["--lossless"], ["--lossless", tmp_path], ["--lossles", tmp_path, tmp_path], ["--threads", "x"]):
        code, _, errors = run("foresight-compress", *arguments)
        assert code == 2 and errors.startswith("foresight-compress: ")
