"""A whole cluster of real processes on loopback, each of which a test may kill, stop or replace."""
import contextlib

import grpc

from processes import KEY, ROOT, SLOW, Process, wait_until

DEMO = ROOT / "models/demo"


class Client:
    """A foreign client of one address: grpcio, without our code."""

    def __init__(self, pb, address):
        self.pb = pb
        options = [("grpc.max_send_message_length", 256 << 20), ("grpc.max_receive_message_length", 64 << 20)]
        self.channel = grpc.insecure_channel(address, options=options)

    def _method(self, service, name, request, response, stream=False):
        make = self.channel.unary_stream if stream else self.channel.unary_unary
        return make(f"/foresight.v1.{service}/{name}", request_serializer=request.SerializeToString,
                    response_deserializer=response.FromString)

    def generate_stream(self, timeout=60, **fields):
        """The call object: iterate over it, or cancel it."""
        pb = self.pb.inference
        method = self._method("Inference", "Generate", pb.GenerateRequest, pb.GenerateResponse, stream=True)
        return method(pb.GenerateRequest(**fields), timeout=timeout * SLOW)

    def generate(self, timeout=60, **fields):
        """(token ids, text, last message). Raises grpc.RpcError."""
        ids, text, last = [], "", None
        for message in self.generate_stream(timeout, **fields):
            ids += message.token_ids
            text += message.text
            last = message
        return ids, text, last

    def greedy(self, ids, max_tokens=48, **fields):
        pb = self.pb.inference
        return self.generate(token_ids=pb.TokenIds(ids=ids), max_tokens=max_tokens,
                             sampling=pb.Sampling(temperature=0), **fields)

    def tokenize(self, **fields):
        pb = self.pb.inference
        return self._method("Inference", "Tokenize", pb.TokenizeRequest, pb.TokenizeResponse)(
            pb.TokenizeRequest(**fields), timeout=20 * SLOW)

    def model(self, **fields):
        pb = self.pb.inference
        return self._method("Inference", "GetModel", pb.GetModelRequest, pb.Model)(
            pb.GetModelRequest(**fields), timeout=20 * SLOW)

    def stats(self):
        pb = self.pb.inference
        return self._method("Inference", "GetStats", pb.GetStatsRequest, pb.RouterStats)(
            pb.GetStatsRequest(), timeout=20 * SLOW)

    def status(self):
        pb = self.pb.control
        return self._method("Control", "Status", pb.StatusRequest, pb.ClusterStatus)(
            pb.StatusRequest(), timeout=20 * SLOW)

    def close(self):
        self.channel.close()


class Cluster:
    """Cluster(pb, nodes=2, replicas=1, routers=1, ...).start(). Option dictionaries go to the processes as --key value."""

    def __init__(self, pb, model=DEMO, nodes=2, replicas=1, routers=1, router=None, node=None, coordinator=None, env=None,
                 data=None):
        self.pb, self.model, self.env = pb, model, env or {}
        self.num_nodes, self.num_replicas, self.num_routers = nodes, replicas, routers
        self.options = {"router": router or {}, "node": node or {}, "coordinator": coordinator or {}}
        self.data = data
        self.coordinator, self.nodes, self.routers, self.clients, self.ended = None, {}, {}, [], []

    @staticmethod
    def _flags(options):
        return [word for key, value in options.items() for word in (f"--{key}", value)]

    def start(self, serving=True):
        self.start_coordinator()
        for i in range(self.num_nodes):
            self.start_node(f"expert-{i + 1}")
        for i in range(self.num_routers):
            self.start_router(f"router-{i + 1}", wait=False)
        if serving:
            for router in self.routers.values():
                router.address = router.ready(30)["grpc"]
        return self

    def start_coordinator(self, listen="127.0.0.1:0"):
        flags = ["--listen", listen, "--expert-nodes", self.num_nodes, "--replicas", self.num_replicas]
        if self.data:
            flags += ["--data", self.data]
        self.coordinator = Process("coordinator", "foresight-coordinator", *flags,
                                   *self._flags(self.options["coordinator"]), env=self.env)
        self.control = self.coordinator.ready()["grpc"]
        return self.coordinator

    def start_node(self, name, model=None, key=KEY, **options):
        node = Process(name, "foresight-expert", "--model", model or self.model, "--coordinator", self.control, "--name", name,
                       *self._flags({"threads": 1, **self.options["node"], **options}), env=self.env, key=key)
        self.nodes[name] = node
        return node

    def start_router(self, name, wait=True, key=KEY, **options):
        router = Process(name, "foresight-router", "--model", self.model, "--coordinator", self.control, "--name", name,
                         *self._flags({"threads": 1, **self.options["router"], **options}), env=self.env, key=key)
        self.routers[name] = router
        if wait:
            router.address = router.ready(30)["grpc"]
        return router

    def client(self, router="router-1"):
        client = Client(self.pb, self.routers[router].address)
        self.clients.append(client)
        return client

    def control_client(self):
        client = Client(self.pb, self.control)
        self.clients.append(client)
        return client

    def idle(self, router="router-1"):
        """Waits until the router holds nothing of any request, and returns its counters."""
        client = self.client(router)

        def empty():
            s = client.stats()
            busy = s.sequences_waiting + s.sequences_running + s.kv_pages_used + s.dispatches_in_flight
            return s if busy == 0 else None
        return wait_until(empty, 20, "a router without requests, pages and dispatches")

    def stop(self):
        """Ends every process in order; what was wrong with how they ended."""
        for client in self.clients:
            with contextlib.suppress(Exception):
                client.close()
        processes = [*self.routers.values(), *self.nodes.values(), self.coordinator, *self.ended]
        return [problem for p in processes if p for problem in [p.stop()] if problem]
