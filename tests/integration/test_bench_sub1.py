"""`foresight bench sub1`: its figures' form and sizes (never its speed), the plot, ggml, and clear refusals."""
import json
import subprocess
import xml.etree.ElementTree as ET

import pytest

from processes import ROOT, run

SMALL = ["--rounds", "2", "--memory", "1MiB"]
OURS = ["memory read", "bf16", "blocked 1:16", "blocked 1:16 symmetric", "blocked 2:16", "blocked 2:16 symmetric", "blocked 3:16",
        "blocked 3:16 symmetric", "free", "three products", "expert"]
GGML = ["ggml TQ1_0", "ggml TQ2_0", "ggml Q1_0", "ggml Q4_0"]
FIELDS = {"format": str, "shape": str, "batch": int, "threads": int, "where": str, "bits_per_weight": float, "gweights_per_s": float,
          "weights_per_cycle": float, "bytes_per_s": float, "share_of_memory_read": float}


def bench(*arguments, **options):
    return run("foresight", "bench", "sub1", *SMALL, *arguments, timeout=60, **options)


@pytest.fixture
def fake_ggml(tmp_path):
    def make(*defines):
        library = tmp_path / "libggml-cpu.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", *[f"-D{d}" for d in defines], "-o", library,
                        ROOT / "tests/integration/fake_ggml.c"], check=True)
        return library
    return make


def test_json_has_every_format_in_both_places_with_sizes_that_are_true(bin_dir):
    code, out, err = bench("--shape", "128x512", "--batch", "3", "--threads", "2", "--json")
    assert code == 0 and not err, err
    result = json.loads(out)
    assert list(result) == ["rows"]
    assert [(r["where"], r["format"]) for r in result["rows"]] == [(w, f) for w in ("l2", "dram") for f in OURS]
    for row in result["rows"]:
        assert {key: type(value) for key, value in row.items()} == FIELDS
        assert (row["shape"], row["batch"], row["threads"]) == ("128x512", 3, 2)
        assert row["bytes_per_s"] > 0 and row["share_of_memory_read"] > 0
        counted = row["bits_per_weight"] * row["gweights_per_s"] * 1e9 / row["batch"]
        assert counted == pytest.approx(0 if row["format"] == "memory read" else 8 * row["bytes_per_s"], rel=1e-6)
    bits = {row["format"]: row["bits_per_weight"] for row in result["rows"]}
    weights = 128 * 512
    assert bits["bf16"] == 16
    assert bits["blocked 2:16"] == pytest.approx(8 * (64 + 128 * 4 + weights / 16 * 9 / 8) / weights)
    assert bits["blocked 2:16 symmetric"] == pytest.approx(8 * (64 + 128 * 2 + weights / 16 * 9 / 8) / weights)
    assert 0.6 < bits["free"] < 2 and bits["expert"] == bits["three products"]


def test_without_json_there_is_a_table_and_a_plot(bin_dir, tmp_path):
    plot = tmp_path / "speeds & sizes.svg"
    plot.write_text("x" * 100000)  # of an older run, and longer
    code, out, err = bench("--shape", "64x256", "--svg", plot)
    assert code == 0 and not err, err
    lines = out.splitlines()
    assert lines[0].startswith("64x256, 1 row of x, 1 thread, kernels ") and lines[-1] == f"plot: {plot}"
    table = [line for line in lines if line.startswith(("l2 ", "dram "))]
    assert len(table) == 2 * len(OURS) and len({len(line) for line in table}) == 1, out
    svg = ET.parse(plot).getroot()
    words = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    for word in OURS[1:]:
        assert words.count(word) == 2
    assert any("64x256" in word for word in words) and any("weights a second" in word for word in words)
    assert any("GB/s" in word for word in words) and "memory read" not in words


def test_the_plot_goes_to_the_working_directory_or_with_json_nowhere(bin_dir, tmp_path):
    for arguments, files in ((["--json"], []), ([], ["sub1_bench.svg"])):
        done = subprocess.run([bin_dir / "foresight", "bench", "sub1", *SMALL, "--shape", "64x256", *arguments], cwd=tmp_path,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert [path.name for path in tmp_path.iterdir()] == files


def test_kernels_are_those_of_the_instruction_set_that_the_environment_names(bin_dir):
    code, out, err = bench("--shape", "64x256", "--svg", "/dev/null", env={"FORESIGHT_ISA": "scalar"})
    assert code == 0 and "kernels scalar" in out, err
    code, out, err = bench("--json", env={"FORESIGHT_ISA": "sse9"})
    assert code == 2 and not out and "FORESIGHT_ISA" in err


def test_ggml_is_measured_beside_ours(bin_dir, fake_ggml):
    library = fake_ggml()
    for path in (library, library.parent):
        code, out, err = bench("--shape", "64x256", "--batch", "2", "--threads", "2", "--ggml", path, "--json")
        assert code == 0 and not err, err
        rows = json.loads(out)["rows"]
        assert [r["format"] for r in rows] == 2 * (OURS + GGML)
        for row in rows:
            if row["format"] in GGML:
                assert row["bits_per_weight"] == 32
                assert 32 * row["gweights_per_s"] * 1e9 / 2 == pytest.approx(8 * row["bytes_per_s"], rel=1e-6)


@pytest.mark.parametrize("defines,shape,word,missing", [
    (["NO_Q1_0"], "64x256", "no type Q1_0", ["ggml Q1_0"]),
    ([], "64x320", "320 columns are not a multiple of 128", GGML),
])
def test_what_a_ggml_or_a_shape_does_not_have_is_left_out_and_told(bin_dir, fake_ggml, defines, shape, word, missing):
    code, out, err = bench("--shape", shape, "--ggml", fake_ggml(*defines), "--json")
    assert code == 0 and "left out" in err and word in err
    assert {r["format"] for r in json.loads(out)["rows"]} == set(OURS + GGML) - set(missing)


@pytest.mark.parametrize("define,words", [("WRONG_DOT", ["Q4_0", "a dot product is"]), ("OTHER_LAYOUT", ["TQ1_0", "laid out"])])
def test_a_ggml_that_computes_something_else_is_refused(bin_dir, fake_ggml, define, words):
    library = fake_ggml(define)
    code, out, err = bench("--shape", "64x256", "--ggml", library, "--json")
    assert code == 1 and not out and str(library) in err
    assert all(word in err for word in words), err


BAD = [
    (["--shape", "768"], 2, "--shape"),
    (["--shape", "768x"], 2, "--shape"),
    (["--shape", "-16x16"], 2, "--shape"),
    (["--shape", "16x16x16"], 2, "--shape"),
    (["--shape", "16x99999999999999999999"], 2, "--shape"),
    (["--shape", "0x16"], 2, "multiples of 16"),
    (["--shape", "768x2047"], 2, "multiples of 16"),
    (["--shape", "16x65552"], 2, "65536"),
    (["--batch", "0"], 2, "--batch"),
    (["--batch", "257"], 2, "--batch"),
    (["--threads", "0"], 2, "--threads"),
    (["--threads", "some"], 2, "--threads"),
    (["--rounds", "0"], 2, "--rounds"),
    (["--ggml", "/nonexistent"], 1, "/nonexistent"),
    (["--ggml", "/dev"], 1, "libggml-cpu.so"),
    (["--ggml", "/dev/null"], 1, "/dev/null"),
    (["--svg", "/nonexistent/plot.svg"], 1, "/nonexistent/plot.svg"),
]


@pytest.mark.parametrize("arguments,status,word", BAD, ids=["-".join(b[0]) for b in BAD])
def test_what_cannot_be_measured_is_said_clearly(bin_dir, tmp_path, arguments, status, word):
    plot = tmp_path / "plot.svg"
    code, out, err = bench("--shape", "64x256", "--svg", plot, *arguments)
    assert code == status and word in err and not out, f"{code}: {err}"
    assert not plot.exists()


def test_a_library_that_is_not_ggml_is_refused(bin_dir, tmp_path):
    (tmp_path / "other.c").write_text("int other(void) { return 1; }\n")
    library = tmp_path / "libother.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "other.c"], check=True)
    code, _, err = bench("--shape", "64x256", "--ggml", library, "--json")
    assert code == 1 and str(library) in err and "ggml_cpu_init" in err
