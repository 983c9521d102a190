"""Compiles the CUDA kernels for every target and checks what ptxas says of each: it is there, it spills nothing, and its registers
let four blocks of 256 threads live on a multiprocessor. Usage: kernels_compile.py SOURCE_DIR BUILD_DIR NVCC"""
import pathlib
import re
import subprocess
import sys
import tempfile

TARGETS = ["sm_80", "sm_90", "sm_100"]
MAX_REGISTERS = 65536 // (4 * 256)


def report(source, build, nvcc, target):
    """{kernel: (registers, spilled bytes)}"""
    with tempfile.TemporaryDirectory() as out:
        command = [nvcc, "-cubin", "-O3", "-std=c++17", "-fmad=false", "-diag-suppress=177", f"-arch={target}", "-Xptxas", "-v",
                   "-Werror", "all-warnings", f"-I{build}/include/gpu", f"-I{build}/include/compute", "-o", f"{out}/kernels.cubin",
                   str(source / "common/sub1/gpu/kernels.cu")]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{target}: nvcc failed:\n{run.stderr}")
    found = {}
    for part in run.stderr.split("Compiling entry function ")[1:]:
        spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", part))
        found[part.split("'")[1]] = (int(re.search(r"Used (\d+) registers", part).group(1)), spilled)
    return found


def main():
    source, build, nvcc = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    expected = set(re.findall(r"X\(\w+, (fs_\w+)\)", (source / "common/sub1/gpu/tasks.h").read_text()))
    problems = [] if expected else ["tasks.h lists no kernel"]
    for target in TARGETS:
        found = report(source, build, nvcc, target)
        for name in sorted(expected | set(found)):
            if name not in found or name not in expected:
                problems.append(f"{target}: {name} is {'not compiled' if name in expected else 'not in tasks.h'}")
                continue
            registers, spilled = found[name]
            print(f"{target} {name}: {registers} registers, {spilled} bytes spilled")
            if registers > MAX_REGISTERS or spilled:
                problems.append(f"{target}: {name}: {registers} registers, {spilled} bytes spilled")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
