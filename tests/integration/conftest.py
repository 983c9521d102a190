"""Fixtures of the integration tests: the protobuf modules, real processes, whole clusters."""
import pathlib
import subprocess
import sys
import types

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from cluster import Cluster  # noqa: E402
from processes import BIN, ROOT  # noqa: E402


def _load_protos(out_dir):
    """Python modules made by protoc from proto/, as a foreign client would have them."""
    protos = ["foresight/v1/inference.proto", "foresight/v1/control.proto"]
    subprocess.run(["protoc", f"--proto_path={ROOT}/proto", f"--python_out={out_dir}", *protos], check=True)
    sys.path.insert(0, str(out_dir))
    from foresight.v1 import control_pb2, inference_pb2
    return types.SimpleNamespace(inference=inference_pb2, control=control_pb2)


@pytest.fixture(scope="session")
def pb(tmp_path_factory):
    return _load_protos(tmp_path_factory.mktemp("protos"))


@pytest.fixture(scope="session")
def bin_dir():
    if not (BIN / "foresight").exists():
        pytest.fail(f"{BIN} has no programs: build first, or set FORESIGHT_BIN")
    return BIN


@pytest.fixture
def cluster_of(pb, bin_dir):
    """Makes clusters (see cluster.Cluster) that end with the test; a process that died by itself fails it."""
    clusters = []

    def make(**options):
        clusters.append(Cluster(pb, **options))
        return clusters[-1].start()

    yield make
    problems = [p for c in clusters for p in c.stop()]
    assert not problems, "\n".join(problems)
