"""The coordinator as a process of its own, with members played by grpcio."""
import contextlib
import pathlib
import signal
import time

import grpc
import pytest

from processes import SLOW, Process, run, wait_until

LAYERS, EXPERTS = 6, 32
LOADING, READY, DRAINING, LOST = 1, 2, 3, 4
BEAT = ["--heartbeat", f"{100 * SLOW}ms", "--expire", f"{800 * SLOW}ms"]


class Control:
    """A member's and an operator's side of the Control service."""

    def __init__(self, pb, address):
        self.pb = pb.control
        self.channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1),
                                                               ("grpc.max_reconnect_backoff_ms", 500)])

    def call(self, method, request, response, **kw):
        make = self.channel.unary_unary(f"/foresight.v1.Control/{method}", request_serializer=request.__class__.SerializeToString,
                                        response_deserializer=response.FromString)
        return make(request, timeout=10 * SLOW, wait_for_ready=True, **kw)

    def register(self, name, instance=1, kind=2, **fields):
        given = dict(name=name, instance=instance, kind=kind, address="127.0.0.1:1000", model_fingerprint=0xF00D, model_name="demo",
                     num_moe_layers=LAYERS, num_experts=EXPERTS, expert_bytes=100)
        return self.call("Register", self.pb.RegisterRequest(**{**given, **fields}), self.pb.RegisterResponse)

    def beat(self, name, instance=1, **fields):
        return self.call("Heartbeat", self.pb.HeartbeatRequest(name=name, instance=instance, **fields), self.pb.HeartbeatResponse)

    def status(self):
        return self.call("Status", self.pb.StatusRequest(), self.pb.ClusterStatus)

    def drain(self, name, undo=False):
        return self.call("Drain", self.pb.DrainRequest(name=name, undo=undo), self.pb.DrainResponse)

    def watch(self, name="test", timeout=60):
        make = self.channel.unary_stream("/foresight.v1.Control/WatchPlacement",
                                         request_serializer=self.pb.WatchPlacementRequest.SerializeToString,
                                         response_deserializer=self.pb.Placement.FromString)
        return make(self.pb.WatchPlacementRequest(name=name), timeout=timeout * SLOW, wait_for_ready=True)

    def placement(self):
        watch = self.watch()
        first = next(watch)
        watch.cancel()
        return first


@pytest.fixture
def coordinator(pb):
    """Starts coordinators and ends them with the test; one that ends badly by itself fails it."""
    started = []

    def start(*flags):
        process = Process("coordinator", "foresight-coordinator", *BEAT, *flags)
        started.append(process)
        process.control = Control(pb, process.ready()["grpc"])
        return process

    yield start
    for process in started:
        process.control.channel.close()
    problems = [p for p in (process.stop() for process in started) if p]
    assert not problems, "\n".join(problems)


def serving(control, nodes=("expert-1", "expert-2")):
    for name in nodes:
        control.register(name)
    epoch = control.placement().assignment_epoch
    for name in nodes:
        control.beat(name, ready_epoch=epoch)
    wait_until(lambda: all(n.state == READY for n in control.placement().nodes), what="all nodes are published as ready")
    return epoch


def refused(code, text, f, *args, **kw):
    with pytest.raises(grpc.RpcError) as e:
        f(*args, **kw)
    assert e.value.code() == code and text in e.value.details(), (e.value.code(), e.value.details())


def test_ready_line_is_the_only_line_and_names_the_address(coordinator):
    process = coordinator()
    assert process.out == [f"ready grpc={process.ready()['grpc']}"]


def test_placement_comes_with_the_last_node_and_is_even(coordinator):
    control = coordinator("--expert-nodes", 2).control
    first = control.register("expert-2")
    assert first.member_id == 1 and first.heartbeat_ms == 100 * SLOW and first.expire_ms == 800 * SLOW
    assert control.placement().replica == []
    status = control.status()
    assert not status.serving and "1 of 2 expert nodes has registered" in status.problems[0]
    control.register("expert-1")
    placement = control.placement()
    assert [n.name for n in placement.nodes] == ["expert-1", "expert-2"]
    assert len(placement.replica) == LAYERS * EXPERTS and placement.assignment_epoch == placement.epoch
    for layer in range(LAYERS):
        row = placement.replica[layer * EXPERTS:(layer + 1) * EXPERTS]
        assert row.count(0) == row.count(1) == EXPERTS // 2


def test_replicas_are_on_different_nodes_and_racks(coordinator):
    control = coordinator("--expert-nodes", 4, "--replicas", 2).control
    for i in range(4):
        control.register(f"expert-{i}", rack=f"r{i % 2}")
    p = control.placement()
    for e in range(LAYERS * EXPERTS):
        a, b = p.replica[2 * e], p.replica[2 * e + 1]
        assert p.nodes[a].rack != p.nodes[b].rack


def test_watch_shows_each_state_with_a_higher_epoch(coordinator):
    control = coordinator("--expert-nodes", 2).control
    watch = control.watch()
    last = next(watch)
    control.register("expert-1")
    control.register("expert-2")
    while not last.replica:
        epoch, last = last.epoch, next(watch)
        assert last.epoch > epoch
    control.beat("expert-1", ready_epoch=last.assignment_epoch)
    ready = next(watch)
    assert [n.state for n in ready.nodes] == [READY, LOADING]
    assert ready.epoch > last.epoch and ready.assignment_epoch == last.assignment_epoch
    control.drain("expert-1")
    assert next(watch).nodes[0].state == DRAINING
    control.drain("expert-1", undo=True)
    assert next(watch).nodes[0].state == READY
    refused(grpc.StatusCode.NOT_FOUND, "nobody", control.drain, "nobody")
    watch.cancel()


def test_silent_node_expires_and_comes_back(coordinator):
    control = coordinator("--expert-nodes", 2).control
    epoch = serving(control)
    assert control.status().serving
    watch = control.watch()
    next(watch)

    def lost():
        control.beat("expert-1", ready_epoch=epoch)
        status = control.status()
        return not status.serving and status
    status = wait_until(lost, 20, "expert-2 is lost", every=0.05)
    assert "expert node expert-2 is lost: 96 experts have no ready replica" in status.problems
    assert status.experts_unavailable == 96
    assert next(watch).nodes[1].state == LOST
    refused(grpc.StatusCode.NOT_FOUND, "expert-2", control.beat, "expert-2")
    assert control.register("expert-2", instance=7).member_id == 2
    assert next(watch).nodes[1].state == LOADING
    control.beat("expert-2", instance=7, ready_epoch=epoch)
    assert next(watch).nodes[1].state == READY
    watch.cancel()


def test_name_in_use_other_model_and_bad_fields_are_refused(coordinator):
    control = coordinator("--expert-nodes", 2).control
    control.register("expert-1")
    precondition, invalid = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT
    refused(precondition, "in use", control.register, "expert-1", instance=2)
    refused(precondition, "000000000000beef", control.register, "expert-2", model_fingerprint=0xBEEF)
    refused(precondition, "000000000000f00d", control.register, "expert-2", model_fingerprint=0xBEEF)
    refused(invalid, "name", control.register, "Expert 2")
    refused(invalid, "instance", control.register, "expert-2", instance=0)
    refused(invalid, "kind", control.register, "expert-2", kind=0)
    refused(invalid, "kind", control.register, "expert-2", kind=99)
    refused(invalid, "address", control.register, "expert-2", address="")
    refused(invalid, "num_moe_layers", control.register, "expert-2", num_moe_layers=2**31)
    control.beat("expert-1", leaving=True)
    control.register("expert-1", instance=2)


def test_experts_that_do_not_fit_in_all_memory_are_shared_out_evenly(coordinator):
    control = coordinator("--expert-nodes", 2).control
    control.register("expert-1", capacity_bytes=9000)  # 90 of 192 experts
    control.register("expert-2", capacity_bytes=3000)
    members = {m.name: m.experts_assigned for m in control.status().members}
    assert members == {"expert-1": 96, "expert-2": 96}


def test_restart_keeps_members_placement_and_raises_the_epoch(coordinator, tmp_path):
    data = tmp_path / "state.db"
    first = coordinator("--expert-nodes", 2, "--data", data)
    epoch = serving(first.control)
    before = first.control.placement()
    address = first.ready()["grpc"]
    first.kill()
    second = coordinator("--expert-nodes", 2, "--data", data, "--listen", address)
    after = second.control.placement()
    assert after.epoch > before.epoch and after.assignment_epoch == epoch
    assert after.replica == before.replica
    assert [(n.id, n.name, n.state, n.instance) for n in after.nodes] == [(n.id, n.name, n.state, n.instance) for n in before.nodes]
    second.control.beat("expert-1", ready_epoch=epoch)  # the same instance goes on
    assert second.control.status().serving
    assert second.control.register("expert-3").member_id == 3


def test_restart_without_a_store_still_has_a_later_epoch(coordinator):
    first = coordinator("--expert-nodes", 2)
    epoch = serving(first.control)
    first.kill()
    time.sleep(1.1)  # first epochs are the wall clock in seconds
    second = coordinator("--expert-nodes", 2)
    for name in ("expert-1", "expert-2"):
        second.control.register(name)
    again = second.control.placement().assignment_epoch
    assert again > epoch or second.control.beat("expert-1", ready_epoch=epoch).epoch
    assert second.control.placement().assignment_epoch > epoch


def test_standstill_of_the_coordinator_loses_nobody(coordinator):
    process = coordinator("--expert-nodes", 2)
    serving(process.control)
    process.popen.send_signal(signal.SIGSTOP)
    time.sleep(2 * SLOW)
    process.popen.send_signal(signal.SIGCONT)
    assert process.control.status().serving


def test_garbage_messages_are_answered_and_change_nothing(coordinator):
    process = coordinator("--expert-nodes", 2)
    channel = process.control.channel
    bodies = [b"\xff", b"\x0a\x02\xc3\x28", b"\x0a\xff\xff\xff\xff\x0f", bytes(range(256)), b"\x00" * 1000, b""]
    for method in ("Register", "Heartbeat", "WatchPlacement", "Status", "Drain", "Nothing"):
        for body in bodies:
            call = channel.unary_stream(f"/foresight.v1.Control/{method}", request_serializer=None, response_deserializer=None)
            stream = call(body, timeout=10 * SLOW)
            if method == "WatchPlacement" and body == b"":
                assert next(stream)
                stream.cancel()
                continue
            with contextlib.suppress(grpc.RpcError):
                list(stream)
            assert stream.code() != grpc.StatusCode.DEADLINE_EXCEEDED, (method, body)
    big = channel.unary_unary("/foresight.v1.Control/Status", request_serializer=None, response_deserializer=None)
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "", big, b"\x0a" * (1 << 20), timeout=10 * SLOW)
    assert len(process.control.status().members) == 0


def test_hundred_watchers_that_leave_cost_nothing(coordinator):
    control = coordinator("--expert-nodes", 2).control
    for _ in range(5):
        watches = [control.watch() for _ in range(100)]
        for watch in watches:
            next(watch)
        for watch in watches:
            watch.cancel()
    assert not control.status().serving


@pytest.mark.parametrize("flags, word", [
    (["--expert-nodes", 2, "--replicas", 3], "--replicas"),
    (["--expert-nodes", 0], "--expert-nodes"),
    (["--replicas", 0], "--replicas"),
    (["--heartbeat", "1s", "--expire", "1500ms"], "--expire"),
    (["--listen", "nowhere"], "nowhere"),
    (["--listen", "127.0.0.1:99999"], "99999"),
    (["--data", "/nonexistent/dir/state.db"], "/nonexistent/dir/state.db"),
    (["--data", "/etc/hostname"], "/etc/hostname"),
    (["--data", ""], "--data"),
    (["--lissten", "x"], "lissten"),
])
def test_bad_options_end_with_a_reason(bin_of_coordinator, flags, word):
    code, out, err = run("foresight-coordinator", *flags, timeout=20)
    assert code in (1, 2), (code, err)
    assert word in err and "ready" not in out, err


@pytest.fixture
def bin_of_coordinator():
    from processes import BIN
    if not (BIN / "foresight-coordinator").exists():
        pytest.fail(f"{BIN} has no foresight-coordinator: build first, or set FORESIGHT_BIN")


def test_port_in_use_and_store_in_use_end_with_a_reason(coordinator, tmp_path):
    data = tmp_path / "state.db"
    process = coordinator("--data", data)
    address = process.ready()["grpc"]
    code, out, err = run("foresight-coordinator", "--listen", address, timeout=20)
    assert code == 1 and address in err and "in use" in err and out == ""
    code, out, err = run("foresight-coordinator", "--data", data, timeout=20)
    assert code == 1 and str(data) in err and "in use" in err and out == ""


def test_damaged_store_ends_with_a_reason_and_is_left_alone(coordinator, tmp_path):
    data = tmp_path / "state.db"
    process = coordinator("--expert-nodes", 2, "--data", data)
    serving(process.control)
    assert process.stop() is None
    whole = bytearray(pathlib.Path(data).read_bytes())
    at = whole.index(b"expert-1")
    whole[at] ^= 1
    data.write_bytes(whole)
    code, out, err = run("foresight-coordinator", "--expert-nodes", 2, "--data", data, timeout=20)
    assert code == 1 and str(data) in err and "checksum" in err and out == ""
    assert data.read_bytes() == bytes(whole)
