"""More requests than a router takes: what is refused is refused before work is begun, what is accepted finishes, and who asks for little is not
drowned by who asks for much."""
import threading

import grpc
import pytest

from processes import PRESET
from workload import GOLDEN


def start(client, pb, ids, max_tokens, metadata=None, **fields):
    p = pb.inference
    method = client._method("Inference", "Generate", p.GenerateRequest, p.GenerateResponse, stream=True)
    request = p.GenerateRequest(token_ids=p.TokenIds(ids=ids), max_tokens=max_tokens, ignore_eos=True,
                                sampling=p.Sampling(temperature=0), **fields)
    return method(request, timeout=300, metadata=metadata)


def tokens_of(call):
    return [token for message in call for token in message.token_ids]


def test_a_thousand_at_once_are_served_or_refused_with_a_time_to_come_back(pb, cluster_of):
    num, max_tokens = 1000 if PRESET == "release" else 200, 6
    cluster = cluster_of(nodes=1, router={"max-running": 8, "max-waiting": 16})
    client = cluster.client()
    prompts = [prompt["token_ids"] for prompt in GOLDEN]
    alone = [tokens_of(start(client, pb, ids, max_tokens)) for ids in prompts]
    before = client.stats()
    calls = [start(client, pb, prompts[i % len(prompts)], max_tokens) for i in range(num)]
    served, refused = [], 0
    for i, call in enumerate(calls):
        try:
            assert tokens_of(call) == alone[i % len(prompts)]
            served.append(i)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
            retry_ms = int(dict(error.trailing_metadata())["retry-after-ms"])
            assert 20 <= retry_ms <= 30000
            refused += 1
    # 16 wait before any is admitted; the last place is for a client that has none.
    assert len(served) >= 15 and refused > 0 and len(served) + refused == num
    after = cluster.idle()
    assert after.requests_refused - before.requests_refused == refused
    assert after.requests_finished - before.requests_finished == len(served)
    assert after.requests_failed == 0
    # No work was begun for those that were refused.
    assert after.prompt_tokens - before.prompt_tokens == sum(len(prompts[i % len(prompts)]) for i in served)
    assert after.generated_tokens - before.generated_tokens == max_tokens * len(served)


@pytest.mark.skipif(PRESET == "tsan", reason="about order, not about threads")
def test_a_client_with_a_long_line_does_not_hold_up_another(pb, cluster_of):
    """Sixty of one client's wait; three of another's, whose priorities are the lowest, come last and do not end last."""
    cluster = cluster_of(nodes=1, router={"max-running": 4, "max-waiting": 128})
    client = cluster.client()
    ids = GOLDEN[0]["token_ids"]
    lock, ended, wrong = threading.Lock(), [], []

    def read(name, call):
        num = len(tokens_of(call))
        with lock:
            ended.append(name)
            if num != 24:
                wrong.append(num)

    threads = []
    for name, key, num, priority in (("much", "Bearer a", 60, 8), ("little", "Bearer b", 3, -8)):
        for _ in range(num):
            call = start(client, pb, ids, 24, metadata=[("authorization", key)], priority=priority)
            threads.append(threading.Thread(target=read, args=(name, call), daemon=True))
            threads[-1].start()
    for thread in threads:
        thread.join(600)
    cluster.idle()
    last_little = max(i for i, name in enumerate(ended) if name == "little")
    assert len(ended) == 63 and not wrong and last_little < 45, ended


def test_a_priority_out_of_range_is_refused(pb, cluster_of):
    cluster = cluster_of(nodes=1)
    for priority in (-9, 9):
        with pytest.raises(grpc.RpcError) as error:
            tokens_of(start(cluster.client(), pb, GOLDEN[0]["token_ids"], 4, priority=priority))
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "priority" in error.value.details()
