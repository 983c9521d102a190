"""The `foresight` command as a user meets it: whole clusters as child processes, text, figures, and clear errors."""
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from processes import BIN, ROOT, SLOW, Process, run, wait_until

DEMO = ROOT / "models/demo"
GREEDY = ["--temperature", "0", "--max-tokens", "24", "--json"]


def generate(*arguments, timeout=90):
    code, out, err = run("foresight", "generate", *arguments, timeout=timeout)
    return code, json.loads(out) if "--json" in arguments and out else out, err


def alive(pid):
    try:
        state = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
        return state != "Z"
    except OSError:
        return False


def children(process):
    out = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.popen.pid)], capture_output=True, text=True).stdout
    return {re.search(r"--name (\S+)", line).group(1) if "--name" in line else "coordinator": int(line.split()[0])
            for line in out.splitlines() if "foresight-" in line}


@pytest.fixture
def serve(bin_dir):
    started = []

    def make(*arguments):
        process = Process("serve", "foresight", "serve", "--model", DEMO, "--log-level", "warn", *arguments)
        started.append((process, None))
        process.address = process.ready(60)
        started[-1] = (process, children(process))
        return process

    yield make
    for process, pids in started:
        problem = process.stop()
        assert not problem, problem
        assert not [name for name, pid in (pids or {}).items() if alive(pid)], process.log()


def test_a_served_model_answers_and_shows_itself(serve):
    cluster = serve("--expert-nodes", "2", "--routers", "2")
    grpc, coordinator = cluster.address["grpc"], cluster.address["coordinator"]
    assert len(grpc.split(",")) == 2
    answers = [generate("--connect", router, "--prompt", "The old king", *GREEDY) for router in grpc.split(",")]
    for code, answer, err in answers:
        assert code == 0, err
        assert answer["finish_reason"] == "length" and len(answer["token_ids"]) == 24
        assert answer["usage"]["completion_tokens"] == 24 and answer["usage"]["prompt_tokens"] > 1
        assert {"queue_ms", "first_token_ms", "total_ms", "per_token_ms"} <= set(answer["timing"])
    assert answers[0][1]["token_ids"] == answers[1][1]["token_ids"]
    code, out, err = run("foresight", "status", "--connect", coordinator, "--router", grpc.split(",")[0], "--json")
    assert code == 0, err
    status = json.loads(out)
    assert status["serving"] and status["experts_unavailable"] == 0 and not status["problems"]
    assert sorted(m["name"] for m in status["members"]) == ["expert-1", "expert-2", "router-1", "router-2"]
    assert sum(m["experts_loaded"] for m in status["members"]) == status["experts_total"] == 192
    assert status["router"]["requests_finished"] == 1 and status["router"]["generated_tokens"] == 24
    code, out, err = run("foresight", "status", "--connect", coordinator, "--router", grpc.split(",")[0])
    assert code == 0 and "serving" in out and "expert-2" in out and "experts_wait" in out


def test_a_model_has_its_directorys_name_however_it_is_written(serve):
    cluster = serve("--model", f"{DEMO}/../demo/")
    code, out, err = run("foresight", "status", "--connect", cluster.address["coordinator"], "--json")
    assert code == 0 and json.loads(out)["model"] == "demo", err


def test_text_is_the_same_from_a_cluster_for_one_command_whatever_its_size(serve):
    cluster = serve()
    want = generate("--connect", cluster.address["grpc"], "--prompt", "Once upon a time", *GREEDY)[1]["token_ids"]
    for nodes in ("1", "3"):
        code, answer, err = generate("--model", DEMO, "--expert-nodes", nodes, "--prompt", "Once upon a time", *GREEDY)
        assert code == 0 and answer["token_ids"] == want, err


def test_stop_strings_seeds_and_prompt_ids_arrive(serve):
    grpc = serve().address["grpc"]
    whole = generate("--connect", grpc, "--prompt", "The old king", *GREEDY)[1]
    words = whole["text"].split()
    stop = whole["text"][5:8]
    cut = generate("--connect", grpc, "--prompt", "The old king", *GREEDY, "--stop", "never seen", f"--stop={stop}")[1]
    assert cut["finish_reason"] == "stop" and whole["text"].startswith(cut["text"]) and stop not in cut["text"] and words
    sampled = [generate("--connect", grpc, "--prompt-ids", "0,300,17", "--temperature", "1.1", "--seed", "18446744073709551615",
                        "--top-k", "50", "--top-p", "0.9", "--min-p", "0.01", "--max-tokens", "24", "--json")[1]
               for _ in range(2)]
    assert sampled[0]["token_ids"] == sampled[1]["token_ids"] and sampled[0]["usage"]["prompt_tokens"] == 3
    text = generate("--connect", grpc, "--prompt", "The old king", "--temperature", "0", "--max-tokens", "24")[1]
    assert text == whole["text"] + "\n"


def test_a_dead_node_is_told_and_generations_end_with_what_there_was(serve):
    cluster = serve("--expert-nodes", "2")
    pids = children(cluster)
    stream = Process("generate", "foresight", "generate", "--connect", cluster.address["grpc"], "--prompt", "The old king",
                     "--max-tokens", "900", "--ignore-eos", "--json", "--timeout", "60s")
    time.sleep(0.1)
    os.kill(pids["expert-1"], signal.SIGKILL)
    wait_until(lambda: any(f"expert-1 (pid {pids['expert-1']}) died: signal 9" in line for line in cluster.err), 10,
               "the death is told")
    assert stream.wait(60) == 1, stream.log()
    answer = json.loads("".join(stream.out))
    assert answer["error"]["code"] == "UNAVAILABLE" and answer["error"]["message"]
    assert isinstance(answer["text"], str) and isinstance(answer["token_ids"], list)

    def lost():
        status = json.loads(run("foresight", "status", "--connect", cluster.address["coordinator"], "--json")[1])
        return status if not status["serving"] else None
    status = wait_until(lost, 20, "status knows")
    assert any("expert-1" in problem for problem in status["problems"]), status
    assert set(children(cluster)) == {"coordinator", "expert-2", "router-1"}  # nothing was restarted


def test_a_dead_node_with_a_replica_is_not_noticed_in_the_text(serve):
    cluster = serve("--expert-nodes", "2", "--replicas", "2")
    arguments = ["--connect", cluster.address["grpc"], "--prompt", "The old king", "--temperature", "0", "--max-tokens", "600",
                 "--ignore-eos", "--json"]
    want = generate(*arguments)[1]["token_ids"]
    stream = Process("generate", "foresight", "generate", *arguments)
    time.sleep(0.2)
    os.kill(children(cluster)["expert-2"], signal.SIGKILL)
    assert stream.wait(60) == 0, stream.log()
    assert json.loads("".join(stream.out))["token_ids"] == want


def test_no_child_outlives_a_killed_command(serve, bin_dir):
    process = Process("serve", "foresight", "serve", "--model", DEMO, "--log-level", "error")
    process.ready(60)
    pids = children(process)
    assert len(pids) == 4
    process.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids.values()), 20, "the children end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_a_generation_and_stops_its_cluster(number, bin_dir):
    process = Process("generate", "foresight", "generate", "--model", DEMO, "--prompt", "A", "--max-tokens", "1000", "--ignore-eos",
                      "--json")
    pids = wait_until(lambda: len(children(process)) == 4 and children(process), 30, "a cluster")
    time.sleep(0.5)
    process.popen.send_signal(number)
    code = process.wait(30)
    assert code in (0, 130)  # 0: it had just finished
    assert "error" in json.loads("".join(process.out)) or code == 0
    assert not any(alive(pid) for pid in pids.values())


def test_serve_stops_its_processes_in_order_while_requests_run(serve):
    cluster = serve("--threads", "1")
    address = cluster.address["grpc"]
    clients = [Process("generate", "foresight", "generate", "--connect", address, "--prompt", "A", "--max-tokens", "1000", "--ignore-eos",
                       "--json") for _ in range(24)]
    wait_until(lambda: json.loads(run("foresight", "status", "--router", address, "--json")[1])["router"]["sequences_running"] == 24,
               20, "the requests run")
    assert cluster.stop() is None
    assert "is killed" not in cluster.log() and "died" not in cluster.log()
    for client in clients:
        assert client.wait(20) in (0, 1)  # finished, or told why not
        assert "UNAVAILABLE" in client.log() or client.popen.returncode == 0, client.log()


def test_a_stop_string_comes_from_the_environment_too(serve):
    grpc = serve().address["grpc"]
    whole = generate("--connect", grpc, "--prompt", "The old king", *GREEDY)[1]["text"]
    code, out, _ = run("foresight", "generate", "--connect", grpc, "--prompt", "The old king", *GREEDY, env={"FORESIGHT_STOP": whole[5:8]})
    assert code == 0 and json.loads(out)["text"] == whole[:whole.index(whole[5:8])]


def test_output_that_cannot_be_written_is_a_failure(serve):
    grpc = serve().address["grpc"]
    for arguments in (["generate", "--connect", grpc, "--prompt", "A", "--max-tokens", "8"],
                      ["generate", "--connect", grpc, "--prompt", "A", "--max-tokens", "8", "--json"], ["inspect", DEMO],
                      ["status", "--router", grpc]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([str(BIN / "foresight"), *map(str, arguments)], stdout=full, stderr=subprocess.PIPE, text=True,
                                  timeout=60 * SLOW)
        assert done.returncode == 1 and "standard output" in done.stderr, f"{arguments}: {done.returncode} {done.stderr}"


@pytest.mark.parametrize("prompt", ['The "brave" fox\'s $HOME `id` $(shell id) \\ %', ""])
def test_make_demo_hands_the_prompt_on_as_it_is(prompt, tmp_path):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/foresight"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    out = subprocess.run(["make", "-s", "-C", str(ROOT), "-o", "build", "demo", f"BUILD={tmp_path}", f"PROMPT={prompt}"],
                         capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert ([f"--prompt={prompt}"] if prompt else []) == [line for line in out if "prompt" in line] and "demo" in out


def test_a_child_that_cannot_start_is_named(serve, tmp_path):
    cluster = serve()
    taken = cluster.address["grpc"]
    code, out, err = run("foresight", "serve", "--model", DEMO, "--listen", taken)
    assert code == 1 and taken in err and re.search(r"router-1 \(pid \d+\) ended: exit status \d+ before the cluster was ready", err)
    assert "ready" not in out
    code, out, err = run("foresight", "serve", "--model", DEMO, "--start-timeout", "1ms")
    assert code == 1 and "not ready within" in err, err


def test_what_keeps_a_cluster_from_serving_is_told(tmp_path, bin_dir):
    model = tmp_path / "model"
    shutil.copytree(DEMO, model)
    damaged = model / "experts-layer-00003.safetensors"
    data = bytearray(damaged.read_bytes())
    data[400000] ^= 4
    damaged.write_bytes(data)
    code, out, err = run("foresight", "serve", "--model", model, "--start-timeout", f"{4 * SLOW}s", "--log-level", "error")
    assert code == 1 and "ready" not in out
    last = [line for line in err.splitlines() if line.startswith("foresight serve:")][-1]
    assert "layer 3 expert" in last and "checksum" in last, err


def test_bench_shows_rows_and_parts(bin_dir):
    code, out, err = run("foresight", "bench", "serve", "--model", DEMO, "--streams", "1,4", "--requests", "4", "--max-tokens", "8",
                         "--json", timeout=120)
    assert code == 0, err
    result = json.loads(out)
    assert [row["streams"] for row in result["rows"]] == [1, 4]
    for row in result["rows"]:
        assert row["failed"] == 0 and row["tokens"] == 32 and row["tokens_per_s"] > 0
        assert 0 < row["ttft_ms_p50"] <= row["ttft_ms_p95"] and 0 < row["per_token_ms_p50"] <= row["per_token_ms_p95"]
        assert row["steps"] > 0 and "attention" in row["parts"]
    assert result["parts"]["experts_compute"] > 0


def test_the_demo_tells_a_story_and_its_figures(bin_dir):
    code, out, err = run("foresight", "demo", "--model", DEMO, "--prompt", "The fox said", "--max-tokens", "40")
    assert code == 0, err
    for word in ("coordinator", "expert-1", "expert-2", "router-1", "The fox said", "tokens/s", "bits a weight", "as bf16"):
        assert word in out, word
    bits = float(re.search(r"experts: ([\d.]+) bits a weight", out).group(1))
    assert 0.5 < bits < 0.7


def test_inspect_shows_parts_and_finds_damage(tmp_path):
    code, out, _ = run("foresight", "inspect", DEMO, "--json", "--verify")
    summary = json.loads(out)
    assert code == 0 and summary["verified"] and summary["parts"][0]["part"] == "experts"
    assert summary["parts"][0]["bits_per_weight"] < 0.7 and summary["config"]["num_experts"] == 32
    assert sum(part["bytes"] for part in summary["parts"]) == summary["tensor_bytes"]
    code, out, _ = run("foresight", "inspect", DEMO)
    assert code == 0 and "BITS/WEIGHT" in out
    for file in DEMO.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damaged = tmp_path / "experts-layer-00002.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-30000] ^= 4
    damaged.write_bytes(data)
    assert run("foresight", "inspect", tmp_path)[0] == 0
    code, _, err = run("foresight", "inspect", tmp_path, "--verify")
    assert code == 1 and "model.layers.2.mlp.experts." in err


BAD = [
    ([], 2, "usage"),
    (["nonsense"], 2, "nonsense"),
    (["bench"], 2, "bench serve"),
    (["generate", "--prompt", "x"], 2, "--connect"),
    (["generate", "--model", DEMO, "--connect", "127.0.0.1:1", "--prompt", "x"], 2, "--model"),
    (["generate", "--connect", "127.0.0.1:1"], 2, "--prompt"),
    (["generate", "--connect", "127.0.0.1:1", "--prompt", "x", "--prompt-ids", "1"], 2, "--prompt-ids"),
    (["generate", "--connect", "127.0.0.1:1", "--prompt-ids", "1,x"], 2, "--prompt-ids"),
    (["generate", "--connect", "127.0.0.1:1", "--prompt", "x", "--temperature", "nan"], 2, "--temperature"),
    (["generate", "--connect", "127.0.0.1:1", "--prompt", "x", "--max-tokens", "-3"], 2, "--max-tokens"),
    (["generate", "--connect", "127.0.0.1:1", "--prompt", "x", "--seed", "1e3"], 2, "--seed"),
    (["generate", "--connect", "127.0.0.1:1", "--prompt", "x", "--stop"], 2, "--stop"),
    (["generate", "--connect", "127.0.0.1:1", "--prompt", "x", "--timeout", "soon"], 2, "--timeout"),
    (["generate", "--connect", "127.0.0.1:1", "--prompt", "x", "--tempreature", "1"], 2, "--temperature"),
    (["generate", "--connect", "127.0.0.1:1", "--prompt", "x", "--json"], 1, "UNAVAILABLE"),
    (["generate", "--connect", "nowhere", "--prompt", "x", "--timeout", "3s"], 2, "HOST:PORT"),
    (["generate", "--model", "/nonexistent", "--prompt", "x"], 1, "/nonexistent/config.json"),
    (["serve"], 2, "--model"),
    (["serve", "--model", DEMO, "--expert-nodes", "0"], 2, "expert-nodes"),
    (["serve", "--model", DEMO, "--replicas", "3"], 2, "--replicas"),
    (["serve", "--model", DEMO, "--listen", "*:0"], 1, "0.0.0.0"),
    (["status"], 2, "--connect"),
    (["status", "--connect", "127.0.0.1:1"], 1, "127.0.0.1:1"),
    (["inspect"], 2, "DIR"),
    (["inspect", "/nonexistent"], 1, "/nonexistent"),
    (["bench", "serve", "--model", DEMO, "--streams", "0"], 2, "--streams"),
    (["bench", "serve", "--connect", "127.0.0.1:1"], 1, "127.0.0.1:1"),
    (["demo"], 2, "--model"),
]


@pytest.mark.parametrize("arguments,status,word", BAD, ids=["-".join(map(str, b[0][:2])) + f"-{i}" for i, b in enumerate(BAD)])
def test_what_cannot_be_done_is_said_clearly(arguments, status, word, bin_dir):
    code, out, err = run("foresight", *arguments, timeout=30)
    assert code == status and word in err, f"{code}: {err}"
    assert not err.startswith("Assert") and "Sanitizer" not in err
    if "--json" in arguments:
        assert json.loads(out)["error"]["code"] == word
