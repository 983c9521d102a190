"""Many clients that come, go, cancel and disappear: nothing leaks and nothing hangs."""
import random
import subprocess
import sys
import textwrap
import threading

import grpc

from processes import PRESET, wait_until
from workload import requests


def test_64_clients_with_cancellations_leave_nothing_behind(pb, cluster_of):
    cluster = cluster_of(nodes=2, router={"max-running": 32, "max-waiting": 128})
    fields = list(requests(pb).values())
    rounds = 4 if PRESET == "release" else 2
    failures = []

    def one_client(seed):
        dice = random.Random(seed)
        client = cluster.client()
        for _ in range(rounds):
            call = client.generate_stream(timeout=120, **dice.choice(fields))
            leave_after = dice.choice([0, 1, 5, 20, None, None])
            try:
                for n, _message in enumerate(call):
                    if leave_after is not None and n >= leave_after:
                        call.cancel()
                if leave_after == 0 and dice.random() < 0.5:
                    call.cancel()
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.CANCELLED:
                    failures.append(error)
        if dice.random() < 0.5:
            client.close()

    threads = [threading.Thread(target=one_client, args=(seed,), daemon=True) for seed in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
        assert not thread.is_alive(), "a client hangs"
    assert not failures, failures[:3]
    stats = cluster.idle()
    assert stats.requests_accepted == stats.requests_finished + stats.requests_cancelled
    assert stats.requests_cancelled > 0 and stats.requests_finished > 0 and stats.requests_failed == 0
    ids, _, _ = cluster.client().greedy([0, 300, 301], max_tokens=4)
    assert len(ids) >= 1, "it serves on"


CLIENT = textwrap.dedent("""
    import sys
    sys.path[:0] = [{protos!r}, {here!r}]
    import types
    from foresight.v1 import control_pb2, inference_pb2
    from cluster import Client
    client = Client(types.SimpleNamespace(inference=inference_pb2, control=control_pb2), {address!r})
    call = client.generate_stream(text="Once upon a time", max_tokens=900, ignore_eos=True)
    print("started", flush=True)
    for message in call:
        print(message.text, flush=True)
""")


def test_a_client_that_is_killed_frees_its_sequence(pb, cluster_of):
    cluster = cluster_of(nodes=1)
    protos = pb.inference.__file__.rsplit("/foresight/", 1)[0]
    here = __file__.rsplit("/", 1)[0]
    code = CLIENT.format(protos=protos, here=here, address=cluster.routers["router-1"].address)
    clients = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(4)]
    for client in clients:
        assert client.stdout.readline() == b"started\n"
    watcher = cluster.client()
    wait_until(lambda: watcher.stats().sequences_running == 4, 30, "four sequences run")
    for client in clients:
        client.kill()
        client.wait()
        client.stdout.close()
    stats = cluster.idle()
    assert stats.requests_cancelled == 4


def test_a_deadline_ends_the_request(pb, cluster_of):
    cluster = cluster_of(nodes=1)
    client = cluster.client()
    method = client.channel.unary_stream("/foresight.v1.Inference/Generate", pb.inference.GenerateRequest.SerializeToString,
                                         pb.inference.GenerateResponse.FromString)
    call = method(pb.inference.GenerateRequest(text="A", max_tokens=1000, ignore_eos=True), timeout=0.3)
    try:
        for _ in call:
            pass
        raise AssertionError("1000 tokens in 0.3 s")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    cluster.idle()


def test_overload_is_refused_at_once_with_a_retry_delay_and_the_accepted_finish(pb, cluster_of):
    cluster = cluster_of(nodes=1, router={"max-running": 4, "max-waiting": 8})
    client = cluster.client()
    lock, done, refused, other = threading.Lock(), [], [], []

    def one(i):
        try:
            result = client.generate(text="The old king", max_tokens=200, ignore_eos=True, timeout=300)
            with lock:
                done.append(result)
        except grpc.RpcError as error:
            with lock:
                (refused if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED else other).append(error)

    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
        assert not thread.is_alive()
    assert not other, other[:2]
    assert len(done) >= 8 and refused  # the queue holds 8 before any is admitted
    for error in refused:
        retry = dict(error.trailing_metadata()).get("retry-after-ms")
        assert retry is not None and 0 < int(retry) < 600_000
    stats = cluster.idle()
    assert stats.requests_refused == len(refused) and stats.requests_finished == len(done)
