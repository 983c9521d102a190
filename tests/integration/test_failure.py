"""Processes die, hang and come back in the middle of sentences."""
import signal
import threading

import grpc
import pytest

from processes import wait_until
from workload import requests, run_one

FIELDS = ["golden-0", "golden-1", "long", "seeded-0", "seeded-1", "penalised"]


class Streams:
    """Requests in threads of their own; each keeps what came and how it ended."""

    def __init__(self, client, fields):
        self.ids, self.error, self.started = {n: [] for n in fields}, {}, threading.Semaphore(0)
        self.threads = [threading.Thread(target=self._run, args=(client, n, f), daemon=True) for n, f in fields.items()]
        for thread in self.threads:
            thread.start()

    def _run(self, client, name, fields):
        first = True
        try:
            for message in client.generate_stream(timeout=120, **fields):
                self.ids[name] += message.token_ids
                if first and message.token_ids:
                    self.started.release()
                    first = False
        except grpc.RpcError as error:
            self.error[name] = error

    def wait_for_first_tokens(self, n):
        for _ in range(n):
            assert self.started.acquire(timeout=60), "no first token"

    def join(self):
        for thread in self.threads:
            thread.join(180)
            assert not thread.is_alive(), "a stream hangs"


def longer(pb):
    """Requests that run long enough to be interrupted."""
    fields = {n: dict(requests(pb)[n]) for n in FIELDS}
    for f in fields.values():
        f.update(max_tokens=300, ignore_eos=True)
    return fields


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_texts_survive_a_node_with_replicas(how, pb, cluster_of):
    fields = longer(pb)
    cluster = cluster_of(nodes=3, replicas=2)
    client = cluster.client()
    want = {name: run_one(client, f)[0] for name, f in fields.items()}
    streams = Streams(client, fields)
    streams.wait_for_first_tokens(3)
    cluster.nodes["expert-2"].signal(how)
    streams.join()
    assert not streams.error
    assert streams.ids == want
    control = cluster.control_client()
    status = wait_until(lambda: (s := control.status()).problems and s, 20, "status names the lost node")
    assert any("expert-2" in p for p in status.problems)
    assert status.serving and status.experts_unavailable == 0
    assert cluster.idle().requests_failed == 0


def test_without_a_replica_requests_end_unavailable_and_the_node_may_come_back(pb, cluster_of):
    fields = longer(pb)
    cluster = cluster_of(nodes=2, replicas=1, router={"unavailable-after": "1s"})
    client = cluster.client()
    want = {name: run_one(client, f)[0] for name, f in fields.items()}
    streams = Streams(client, fields)
    streams.wait_for_first_tokens(3)
    cluster.nodes["expert-2"].kill()
    streams.join()
    assert streams.error, "every text finished before the node died"
    for name, error in streams.error.items():
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        assert streams.ids[name] == want[name][:len(streams.ids[name])], "what came before the end is valid text"
    control = cluster.control_client()
    status = wait_until(lambda: not (s := control.status()).serving and s, 20, "status sees it")
    assert status.experts_unavailable == status.experts_total // 2
    assert any("expert-2" in p and "lost" in p for p in status.problems)
    cluster.ended.append(cluster.nodes.pop("expert-2"))
    cluster.start_node("expert-2")
    wait_until(lambda: control.status().serving, 30, "serving again")
    wait_until(lambda: client.stats().serving, 30, "the router serves again")
    assert {name: run_one(client, f)[0] for name, f in fields.items()} == want
    cluster.idle()


def test_texts_go_on_without_the_coordinator(pb, cluster_of, tmp_path):
    fields = longer(pb)
    cluster = cluster_of(nodes=2, data=tmp_path / "coordinator.db")
    client = cluster.client()
    want = {name: run_one(client, f)[0] for name, f in fields.items()}
    streams = Streams(client, fields)
    streams.wait_for_first_tokens(3)
    cluster.coordinator.kill()
    streams.join()
    assert not streams.error and streams.ids == want
    assert {name: run_one(client, f)[0] for name, f in fields.items()} == want, "new requests too"
    cluster.ended.append(cluster.coordinator)
    epoch = client.stats().placement_epoch
    cluster.start_coordinator(listen=cluster.control)
    control = cluster.control_client()
    wait_until(lambda: control.status().serving, 30, "the members have registered again")
    wait_until(lambda: client.stats().placement_epoch > epoch, 30, "epochs rise over a restart")
    assert run_one(client, fields["golden-0"])[0] == want["golden-0"]


def test_a_drained_node_gets_no_more_rows_where_there_are_replicas(pb, cluster_of):
    fields = longer(pb)
    cluster = cluster_of(nodes=2, replicas=2)
    client, control = cluster.client(), cluster.control_client()
    want = run_one(client, fields["long"])
    p = pb.control
    drain = control.channel.unary_unary("/foresight.v1.Control/Drain", p.DrainRequest.SerializeToString, p.DrainResponse.FromString)
    drain(p.DrainRequest(name="expert-1"), timeout=20)
    epoch = control.status().epoch
    wait_until(lambda: client.stats().placement_epoch >= epoch, 20, "the router knows")

    def rows(name):
        return next(m.rows_computed for m in control.status().members if m.name == name)
    wait_until(lambda: rows("expert-1") > 0, 20, "heartbeats carry the rows")
    settled = [-1]

    def unchanged():
        before, settled[0] = settled[0], rows("expert-1")
        return before == settled[0]
    wait_until(unchanged, 20, "no more rows", every=1.5)
    before = rows("expert-2")
    assert run_one(client, fields["long"]) == want
    wait_until(lambda: rows("expert-2") > before, 20, "the other node computes")
    assert rows("expert-1") == settled[0]
