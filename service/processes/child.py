"""One spawned process that answers one message at a time; the codec pool and the workers use it.

A message is one JSON object and one run of bytes. JSON and not pickle: a child that a hostile image
took over must not be able to run code here.
"""

import atexit
import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from codefend.service.processes.heartbeat import Counter, Vitals, read_vitals, start_beating
from codefend.service.sandbox.layers import single_threaded

__all__ = [
    "Ask",
    "Child",
    "ChildDied",
    "ChildTimeout",
    "Handler",
    "LaunchFailed",
    "Message",
    "ask_nothing",
    "bound_spinning",
    "kill_children",
    "memory_of_processes",
]

# Meta holds text fields and sizes, never pixels; a longer one is not ours.
MAX_META_BYTES = 1 << 22
QUESTION = "asks"

Message = tuple[dict[str, Any], bytes]
# How a child asks the service for something in the midst of its work: meta out, meta back.
Ask = Callable[[dict[str, Any]], dict[str, Any]]
Handler = Callable[[dict[str, Any], bytes, Ask], Message]

STOP_GRACE_S = 5.0
# Where processors are scarce the service itself comes first: it answers probes and refuses.
NICENESS = 5
SPIN_COUNT = 10_000
# Where it starts a process, `multiprocessing` looks whether others have ended, and so may take an
# exit code from under the thread that waits for it.
_bookkeeping = threading.Lock()
_running: set["Child"] = set()


def send_message(connection: Connection, meta: dict[str, Any], blob: bytes = b"") -> None:
    """Sends one message.

    Raises:
        OSError: The other side is gone.
    """
    connection.send_bytes(json.dumps(meta).encode())
    connection.send_bytes(blob)


def receive_message(connection: Connection) -> Message:
    """Waits for one message.

    Raises:
        EOFError: The other side closed its end.
        OSError: The other side is gone, or speaks nonsense.
    """
    meta = json.loads(connection.recv_bytes(MAX_META_BYTES))
    return meta, connection.recv_bytes()


def ask_nothing(_: dict[str, Any]) -> dict[str, Any]:
    """The reply to a child that has nothing to ask.

    Raises:
        ValueError: It asked all the same.
    """
    msg = "this message may ask nothing"
    raise ValueError(msg)


def ask_through(connection: Connection) -> Ask:
    """A child's way to ask the service, before it answers a message."""

    def ask(question: dict[str, Any]) -> dict[str, Any]:
        send_message(connection, {QUESTION: question})
        return receive_message(connection)[0]

    return ask


# Whoever exits without having stopped them would wait for ever: children do not heed SIGTERM.
@atexit.register
def kill_children() -> None:
    """Ends all children of this process at once."""
    for child in tuple(_running):
        child.kill()


def memory_of_processes() -> Iterator[tuple[str, int]]:
    """The kind (`decode` of `decode-0`; this one is `api`) and resident bytes of each process."""
    pids = {"api": os.getpid()} | {child.name: child.pid for child in tuple(_running)}
    for name, pid in pids.items():
        vitals = None if pid is None else read_vitals(pid)
        if vitals is not None:
            yield name.partition("-")[0], vitals.resident_bytes


class ChildDied(Exception):
    """The process ended without an answer; its exit code says how (-signal for a signal)."""

    def __init__(self, name: str, exit_code: int | None) -> None:
        super().__init__(f"{name} ended with exit code {exit_code}")
        self.exit_code = exit_code

    @property
    def exceeded_cpu_limit(self) -> bool:
        """Whether the system ended it as it had used all the processor time it may."""
        return self.exit_code == -signal.SIGXCPU


class ChildTimeout(ChildDied):
    """The process gave no answer in time and was killed.

    Attributes:
        cpu_ticks: Processor time that it had used by then, in clock ticks; None if that is unknown.
    """

    def __init__(self, name: str, exit_code: int | None, cpu_ticks: int | None = None) -> None:
        super().__init__(name, exit_code)
        self.cpu_ticks = cpu_ticks


class LaunchFailed(ChildDied):
    """There is no process: the system had no files, no memory or no leave for one."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, None)
        self.args = (f"{name} could not be started: {reason}",)


class Child:
    """A process built from `make_handler(config)`, where both travel to the process by spawn.

    The methods block: call them from a thread, never from the event loop, and from one thread at
    a time. Only `kill`, `has_ended` and `count_beats` may be called from anywhere at any time.
    """

    def __init__(
        self,
        name: str,
        make_handler: Callable[[Any], tuple[Handler, dict[str, Any]]],
        config: Any,
        *,
        beats: bool = False,
        is_single_threaded: bool = False,
    ) -> None:
        """Takes what the process is to run; nothing starts yet.

        Args:
            name: For logs.
            make_handler: Module-level function; returns the handler and what `start` returns.
            config: Its only argument; picklable.
            beats: Whether it has a heartbeat, once its handler is made.
            is_single_threaded: Whether its libraries start no threads: those would not be confined.
        """
        self.name = name
        self._beats = beats
        self._is_single_threaded = is_single_threaded
        self._counter: Counter | None = None
        self._make_handler = make_handler
        self._config = config
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    @property
    def pid(self) -> int | None:
        """Process id, while there is a process."""
        process = self._process
        with contextlib.suppress(ValueError):  # reaped in this very moment
            return process.pid if process else None
        return None

    def has_ended(self) -> bool:
        """Whether there is no process, or one that has ended and was not reaped yet."""
        process = self._process
        try:
            return process is None or bool(wait([process.sentinel], 0))
        except (OSError, ValueError):  # reaped in this very moment
            return True

    def count_beats(self) -> int:
        """How often its heart has beaten; stands still if the process does."""
        return self._counter.value if self._counter is not None else 0

    def read_vitals(self) -> Vitals | None:
        """What the kernel says of the process; None if there is none, or nothing is said."""
        pid = self.pid
        return None if pid is None else read_vitals(pid)

    def launch(self) -> None:
        """Starts the process and returns at once.

        Raises:
            LaunchFailed: It could not be started, for whatever reason.
        """
        environment = single_threaded() if self._is_single_threaded else contextlib.nullcontext()
        try:
            with environment:
                self._launch()
        except Exception as error:  # whatever it is, there is no process
            raise LaunchFailed(self.name, f"{type(error).__name__}: {error}") from error

    def _launch(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        with contextlib.ExitStack() as undoing, theirs:
            undoing.callback(ours.close)
            self._counter = context.Value("Q", 0, lock=False) if self._beats else None
            process = context.Process(
                target=_run_child,
                args=(theirs, self._make_handler, self._config, self._counter),
                name=self.name,
                daemon=True,
            )
            with _bookkeeping:
                process.start()
            undoing.pop_all()
        self._process, self._connection = process, ours
        _running.add(self)

    def wait_until_ready(self, timeout_s: float) -> dict[str, Any]:
        """Waits until the handler is made, and returns what it says about itself.

        Raises:
            ChildDied: It was not made, in time or at all.
        """
        return self._receive(timeout_s)[0]

    def call(
        self,
        meta: dict[str, Any],
        blob: bytes,
        timeout_s: float,
        reply: Ask = ask_nothing,
    ) -> Message:
        """Sends one message and waits for the answer.

        Args:
            meta: What to do.
            blob: To what.
            timeout_s: Time for the answer; the questions' own time does not count.
            reply: Answers what the process asks meanwhile.

        Raises:
            ChildDied: There will be no answer; the process is gone.
            ChildTimeout: There was no answer in time; the process was killed.
        """
        self._send(meta, blob)
        while True:
            answer = self._receive(timeout_s)
            if QUESTION not in answer[0]:
                return answer
            try:
                replied = reply(answer[0][QUESTION])
            except ValueError as error:
                raise self._died() from error
            self._send(replied, b"")

    def stop(self) -> None:
        """Lets the process end after its present message, and kills it if it does not."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            if not wait([self._process.sentinel], STOP_GRACE_S):
                self.kill()
            self._reap()

    def kill(self) -> None:
        """Ends the process at once."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ValueError):  # reaped in this very moment
                process.kill()

    def _send(self, meta: dict[str, Any], blob: bytes) -> None:
        if self._connection is None:
            raise ChildDied(self.name, None)
        try:
            send_message(self._connection, meta, blob)
        except OSError as error:
            raise self._died() from error

    def _receive(self, timeout_s: float) -> Message:
        if self._connection is None:
            raise ChildDied(self.name, None)
        try:
            if self._connection.poll(timeout_s):
                return receive_message(self._connection)
        except (EOFError, OSError, ValueError) as error:
            raise self._died() from error
        vitals = self.read_vitals()
        self.kill()
        exit_code = self._reap()
        raise ChildTimeout(self.name, exit_code, None if vitals is None else vitals.cpu_ticks)

    def _died(self) -> ChildDied:
        self.kill()
        return ChildDied(self.name, self._reap())

    def _reap(self) -> int | None:
        """Takes the exit code of a process that has ended or was killed."""
        if self._process is None:
            return None
        wait([self._process.sentinel], STOP_GRACE_S)  # before anybody else has to wait for it
        with _bookkeeping:
            self._process.join()
            exit_code = self._process.exitcode
            self._process.close()
        self._process = None
        _running.discard(self)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        return exit_code


def bound_spinning() -> None:
    """Has threads wait for each other asleep after some ten microseconds of spinning.

    GNU OpenMP, which torch computes with on a CPU, spins for milliseconds. On an idle machine that
    gains nothing measurable; where others use the processors too, a decode process among them, a
    thread that spins keeps the very one from running that it waits for, and a batch takes twenty
    times as long. It reads these variables when it is loaded, which is with the engine.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))


def _run_child(
    connection: Connection,
    make_handler: Callable[[Any], tuple[Handler, dict[str, Any]]],
    config: Any,
    counter: Counter | None,
) -> None:
    """Runs in the process until the other end of the pipe is closed."""
    # The service decides when its children end: it must be able to drain after a group's SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICENESS)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handler, description = make_handler(config)
    if counter is not None:
        start_beating(counter)
    try:
        send_message(connection, description)
        ask = ask_through(connection)
        while True:
            send_message(connection, *handler(*receive_message(connection), ask))
    except (EOFError, OSError):
        return
