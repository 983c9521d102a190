"""Real processes: started, waited for with a bound, killed, and asked afterwards how they ended."""
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("FORESIGHT_BIN", ROOT / "build/release/bin"))
PRESET = os.environ.get("FORESIGHT_PRESET", "release")
SLOW = {"asan": 4, "tsan": 12}.get(PRESET, 1)  # bounds are multiplied by this; they are bounds, not claims
KEY = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
SANITIZER_EXIT = 99


def wait_until(condition, seconds=20, what="condition", every=0.02):
    """The condition's first true value; fails after the bound."""
    end = time.monotonic() + seconds * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds * SLOW} s")
        time.sleep(every)


class Process:
    """A program of ours with its output gathered as it comes."""

    def __init__(self, name, program, *arguments, env=None, key=KEY):
        environment = dict(os.environ, **(env or {}))
        if key is not None:
            environment["FORESIGHT_CLUSTER_KEY"] = key
        self.name, self.killed = name, False
        self.popen = subprocess.Popen([str(BIN / program), *map(str, arguments)], env=environment, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
        self.out, self.err = [], []
        self._threads = [threading.Thread(target=self._gather, args=pair, daemon=True)
                         for pair in ((self.popen.stdout, self.out), (self.popen.stderr, self.err))]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _gather(pipe, lines):
        for line in pipe:
            lines.append(line.rstrip("\n"))

    def ready(self, seconds=20):
        """Waits for the line "ready KEY=VALUE ..." and returns it as a dict."""
        def look():
            for line in list(self.out):
                if line.startswith("ready "):
                    return dict(re.findall(r"(\w+)=(\S+)", line))
            if self.popen.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.popen.returncode} before it was ready:\n{self.log()}")
            return None
        return wait_until(look, seconds, f"{self.name} ready")

    def log(self):
        return "\n".join(self.out[-40:] + self.err[-80:])

    def signal(self, number):
        self.killed = self.killed or number in (signal.SIGKILL, signal.SIGSTOP)
        self.popen.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.popen.wait(10)

    def wait(self, seconds=20):
        code = self.popen.wait(seconds * SLOW)
        for thread in self._threads:
            thread.join(5)
        return code

    def stop(self, seconds=20):
        """SIGTERM; returns what was wrong with how it ended, or None."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            if self.killed:
                self.popen.send_signal(signal.SIGKILL)
        try:
            code = self.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.wait()
            return f"{self.name} did not stop within {seconds * SLOW} s of SIGTERM:\n{self.log()}"
        if self.killed and code == -signal.SIGKILL:
            return None
        if code != 0:
            return f"{self.name} ended with {code}:\n{self.log()}"
        return None


def run(program, *arguments, env=None, timeout=60, key=None):
    """A program that ends by itself: (exit code, standard output, standard error)."""
    environment = dict(os.environ, **(env or {}))
    if key is not None:
        environment["FORESIGHT_CLUSTER_KEY"] = key
    done = subprocess.run([str(BIN / program), *map(str, arguments)], env=environment, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace", timeout=timeout * SLOW)
    return done.returncode, done.stdout, done.stderr
