"""Command lines in children forked from a process that has loaded everything: a second each instead of six."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "open"}
LIBRARIES = (
    "idgrpo",
    "transformers",
    "diffusers",
    "peft",
    "safetensors",
    "scipy",
    "matplotlib",
    "PIL",
    "uvicorn",
    "h11",
)


@dataclass
class Child:
    """A command under way, the leader of its own session."""

    pid: int
    status: int | None = None

    def wait(self, timeout_s: float) -> int:
        """Give the exit code, or minus the signal. TimeoutError when it still runs (it is killed then)."""
        end = time.monotonic() + timeout_s
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"process {self.pid} did not end within {timeout_s:g} s")
            else:
                time.sleep(0.005)
        return self.status

    def die_after(self, cpu_s: float, timeout_s: float) -> bool:
        """Kill it when it has used so much processor time, which a busy machine does not change; False when it ended before."""
        clock = (~self.pid << 3) | 2  # the kernel's number of a process's clock
        end = time.monotonic() + timeout_s
        while self.status is None and time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                return False
            if time.clock_gettime(clock) >= cpu_s:
                break
            time.sleep(0.001)
        self.kill()
        return self.wait(timeout_s) == -signal.SIGKILL

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, unless it has ended."""
        if self.status is None:
            os.kill(self.pid, number)

    def orphans(self) -> list[int]:
        """List what still runs of its session; a zombie has ended."""
        found = []
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = place.read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):
                continue
            if int(session) == self.pid and state not in "ZX" and int(place.parent.name) != self.pid:
                found.append(int(place.parent.name))
        return found


def warm_up(modules: Sequence[str] = ()) -> None:
    """Load what the stages load, without running anything: a process that computed cannot be forked safely."""
    import torch

    torch.set_num_threads(1)
    for name in modules:
        try:
            import_module(name)
        except Exception:  # a lazy module of a library that is not installed here
            continue


def loaded() -> list[str]:
    """Name the modules that a command has loaded."""
    return sorted(name for name in sys.modules if name.split(".")[0] in LIBRARIES and not name.endswith("__main__"))


def watch(root: Path, act: Callable[[int, str], None]) -> None:
    """Call `act` with number and description before each change below `root` that Python makes in this process."""
    number, busy = 0, False

    def hook(event: str, arguments: tuple) -> None:
        nonlocal number, busy
        if busy or event not in CHANGES:
            return
        path = arguments[0]
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        text = os.fsdecode(path)
        if text.startswith(str(root)) or not text.startswith("/"):
            number, busy = number + 1, True
            act(number, f"{event} {text.removeprefix(str(root)).lstrip('/')}")
            busy = False

    sys.addaudithook(hook)


def fork(
    arguments: Sequence[str],
    *,
    out: Path | None,
    err: Path | None,
    prepare: Callable[[], None] = lambda: None,
    finish: Callable[[], None] = lambda: None,
) -> Child:
    """Run `idgrpo ARGUMENTS` in a child.

    Args:
        out, err: files for stdout and stderr; None leaves what `prepare` makes of them.
        prepare: called in the child before the command.
        finish: called in the child after the command.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid)
    code = 70
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        for descriptor, file in ((0, Path(os.devnull)), (1, out), (2, err)):
            if file is not None:
                flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                handle = os.open(file, flags, 0o644)
                os.dup2(handle, descriptor)
                os.close(handle)
        prepare()
        from idgrpo.cli import main as entry

        sys.argv = ["idgrpo", *arguments]
        try:
            entry.main()
        except SystemExit as error:
            code = int(error.code or 0)
        finish()
    except BaseException:
        code = 1
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                code = code or 71
        os._exit(code)
