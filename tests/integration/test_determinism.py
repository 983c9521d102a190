"""The same request gives the same tokens: whatever runs beside it, on however many nodes and threads, in whatever chunks, on any
instruction set. The yardstick is the reference's golden text and one plain run, alone."""
import pytest

from processes import PRESET
from workload import GOLDEN, requests, run_all, run_one

_alone = {}


@pytest.fixture
def alone(pb, cluster_of):
    """name -> result of each request run by itself on one node; computed once."""
    if not _alone:
        cluster = cluster_of(nodes=1, router={"micro-batches": 1})
        client = cluster.client()
        _alone.update({name: run_one(client, fields) for name, fields in requests(pb).items()})
        cluster.idle()
    return _alone


def test_greedy_text_is_the_references(alone):
    for i, prompt in enumerate(GOLDEN):
        ids, text, _ = alone[f"golden-{i}"]
        assert ids == prompt["greedy"], prompt["prompt"]
        # The reference's text has the words that its tokens spell; ours leaves out the end-of-sequence token.
        assert text == prompt["greedy_text"].replace("<|endoftext|>", ""), prompt["prompt"]


VARIANTS = {
    "two nodes": dict(nodes=2),
    "four nodes, two replicas": dict(nodes=4, replicas=2),
    "chunks of 1": dict(router={"prefill-chunk": 1}),
    "chunks of 7, two threads": dict(router={"prefill-chunk": 7, "threads": 2}, node={"threads": 2}),
    "chunks of 64": dict(router={"prefill-chunk": 64}),
    "whole prompts": dict(router={"prefill-chunk": 1024, "step-tokens": 1024}),
    "one micro-batch": dict(router={"micro-batches": 1}),
    "three micro-batches, few rows": dict(router={"micro-batches": 3, "step-tokens": 9, "prefill-chunk": 9}),
    "scalar": dict(env={"FORESIGHT_ISA": "scalar"}),
    "avx2": dict(env={"FORESIGHT_ISA": "avx2"}),
    "avx512": dict(env={"FORESIGHT_ISA": "avx512"}),
    "a device": dict(nodes=1, node={"device": "emulated"}),
}
if PRESET == "asan":
    del VARIANTS["a device"]  # an emulated one, under a sanitizer, takes minutes; unit tests run it there


if PRESET == "tsan":  # ten times slower, and about threads alone
    VARIANTS = {name: VARIANTS[name] for name in ("four nodes, two replicas", "chunks of 7, two threads")}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.replace(" ", "-").replace(",", ""))
def test_tokens_do_not_depend_on(variant, pb, alone, cluster_of):
    cluster = cluster_of(**VARIANTS[variant])
    among_others = run_all(cluster.client(), requests(pb), streams=32)
    assert among_others == alone
    stats = cluster.idle()
    assert stats.requests_failed == 0 and stats.requests_finished == stats.requests_accepted


FEW_PAGES = "3840KiB"  # 30 pages of 16 tokens; the requests want some 200 at once
SCHEDULING = [(batching, prefix, pages, preemption) for batching in ("fcfs", "expert-aware") for prefix in ("on", "off")
              for pages, preemption in (("many", "on"), ("few", "on"), ("few", "off"))]
if PRESET == "tsan":
    SCHEDULING = [("expert-aware", "on", "few", "on")]


@pytest.mark.parametrize("batching, prefix, pages, preemption", SCHEDULING)
def test_tokens_do_not_depend_on_scheduling(batching, prefix, pages, preemption, pb, alone, cluster_of):
    """Rows held back for others, texts computed again, beginnings that others have computed: the same tokens."""
    router = {"batching": batching, "prefix-cache": prefix, "preemption": preemption, "step-tokens": 24, "prefill-chunk": 16}
    if pages == "few":
        router["kv-cache"] = FEW_PAGES
    cluster = cluster_of(nodes=2, router=router)
    client = cluster.client()
    for _ in range(2):  # the second time with a cache that is full of the first
        assert run_all(client, requests(pb), streams=40) == alone
    for _ in range(2):  # of two alone, the second finds what the first left
        assert run_one(client, requests(pb)["long"]) == alone["long"]
    stats = cluster.idle()
    assert stats.requests_failed == 0 and stats.requests_finished == stats.requests_accepted
    assert (stats.preemptions > 0) == (pages == "few" and preemption == "on")
    assert (stats.tokens_recomputed > 0) == (stats.preemptions > 0)
    assert (stats.prompt_tokens_cached > 0) == (prefix == "on")
    assert (stats.kv_pages_cached > 0) == (stats.routes_cached > 0) == (prefix == "on")


def test_two_routers_give_the_same(pb, alone, cluster_of):
    cluster = cluster_of(routers=2)
    fields = requests(pb)
    for router in ("router-1", "router-2"):
        assert run_all(cluster.client(router), fields, streams=len(fields)) == alone
