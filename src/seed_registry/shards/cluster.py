"""The Dask cluster of a run: its scheduler, its workers, and what is called on them."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from secrets import token_hex
from time import monotonic
from typing import Any, Final

import anyio

from seed_registry.errors import ClusterUnavailable, WorkersLost, first_cause
from seed_registry.escape import printable
from seed_registry.index.inputs import redact_url
from seed_registry.report import Progress
from seed_registry.shards.cluster_worker import probe, software

_CONNECT_SECONDS: Final = 10
# Dask does not count what the scheduler sends, or does not send, once there is a connection.
_HANDSHAKE_SECONDS: Final = 20
_SCHEDULER_SECONDS: Final = 30
_ANSWER_SECONDS: Final = 60
_RESTART_SECONDS: Final = 30
_CLOSE_SECONDS: Final = 1.5
_SECONDS_BETWEEN_LOOKS: Final = 1.0
_MOST_NAMED: Final = 5
_SHOWN_CHARACTERS: Final = 400
_LACKING: Final = ("ModuleNotFoundError(", "ImportError(", "AttributeError(")
# The handlers that Dask gives to these print tracebacks of its own to standard error.
_LOGGERS: Final = ("distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application")
_AGAIN: Final = "run the same command again, or with --processes in place of --scheduler"


@asynccontextmanager
async def join_cluster(
    address: str, progress: Progress, retry_seconds: float, command: str = "load"
) -> AsyncIterator[Cluster]:
    """Connect to a scheduler.

    Args:
        address: of the scheduler, see `Settings.scheduler`.
        progress: gets the events.
        retry_seconds: how long there may be no worker.
        command: what the workers are for; a load continues its run.

    Raises:
        ClusterUnavailable: it does not answer.
    """
    import distributed  # noqa: PLC0415  # half a second, and not everybody has it

    with _without_logs():
        client = await _connect(distributed.Client, address)
        try:
            cluster = Cluster(client, address, progress, retry_seconds, command)
            client.subscribe_topic("all", cluster.note_event)
            yield cluster
        finally:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True), suppress(OSError):
                client.unsubscribe_topic("all")  # else the scheduler logs that it cannot tell us that we have gone
                await client.close()


async def _connect(new_client: Any, address: str) -> Any:
    client = new_client(address, asynchronous=True, set_as_default=False, timeout=_CONNECT_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other versions of Dask, which are told by their consequences
            with anyio.fail_after(_HANDSHAKE_SECONDS):
                return await client
    except BaseException as exc:
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            await client.close()
        if not isinstance(exc, OSError | TypeError | ValueError | ImportError):
            raise
        raise ClusterUnavailable(
            f"no Dask scheduler answers at {address}: {_reason(exc)}\n"
            "look whether `dask scheduler` runs there, whether this machine may connect to it and, for tls://, "
            "whether Dask's configuration names the certificates; --processes needs no cluster"
        ) from exc


class Cluster:
    """The workers of a scheduler.

    Attributes:
        addresses: of the workers, by their names in the ledger.
        threads: of each worker, by its address.
    """

    def __init__(self, client: Any, address: str, progress: Progress, retry_seconds: float, command: str) -> None:
        self.addresses: dict[str, str] = {}
        self.threads: dict[str, int] = {}
        self._client = client
        self._address = address
        self._progress = progress
        self._retry_seconds = retry_seconds
        self._command = command
        self._again = _AGAIN + (": it continues the run" if command == "load" else "")
        self._headers: Sequence[str] = ()
        self._checked: set[str] = set()  # addresses
        self._lost: dict[str, Callable[[str], None]] = {}  # by key
        self._token = token_hex(4)  # two commands may use one cluster, for one run even
        self._calls = 0

    @property
    def dashboard(self) -> str:
        """The address of its dashboard; empty where it has none."""
        services = self._client.scheduler_info().get("services", {})
        return redact_url(self._client.dashboard_link or "") if "dashboard" in services else ""

    async def wait_for_workers(self) -> None:
        """Wait until there are workers.

        Raises:
            ClusterUnavailable: none came.
        """
        deadline = monotonic() + self._retry_seconds
        is_told = False
        while not await self.find_workers():
            if not is_told:
                self._progress.tell("warning", "waiting_for_workers", scheduler=self._address)
                is_told = True
            if monotonic() > deadline:
                raise ClusterUnavailable(
                    f"the scheduler at {self._address} has had no worker for {self._retry_seconds:.0f} seconds\n"
                    f"start some: `dask worker {self._address}`, with DATABASE_URL in their environment; "
                    f"then {self._again}"
                )
            await anyio.sleep(_SECONDS_BETWEEN_LOOKS)

    async def find_workers(self) -> bool:
        """See which workers there are; return whether there are any.

        Raises:
            ClusterUnavailable: the scheduler was lost.
        """
        with self._connected(_SCHEDULER_SECONDS):
            self.threads = dict(await self._client.nthreads())
        return bool(self.threads)

    async def check(self, database: str | None, headers: Sequence[str]) -> None:
        """Check that the workers that were not checked yet can do it; their databases only if one is named.

        Args:
            database: its `fingerprint`, see `postgres.identity`.
            headers: those that a worker needs, without their values.

        Raises:
            ClusterUnavailable: one cannot.
        """
        self._headers = headers
        new = [address for address in self.threads if address not in self._checked]
        if not new:
            return
        problems: list[tuple[str, str]] = []
        self._checked |= set(new)
        try:
            found = await self.run(probe, database, workers=new)
        except ClusterUnavailable:
            if database is not None or self._client.status != "running":
                raise
            return  # the first step that is given to them will tell
        for address, answer in found.items():
            if problem := lacking(answer):
                problems.append((address, problem))
            elif isinstance(answer, OSError) and database is None:
                continue  # it has gone again
            elif isinstance(answer, BaseException):
                problems.append((address, _said(answer)))
            else:
                self.addresses[answer["name"]] = address
                problem = self._problem(answer)
                problems += [(answer["name"], problem)] if problem else []
        if problems:
            _, _, fix = problems[0][1].partition("\n")
            named = [
                f"{printable(name)}: {printable(problem.splitlines()[0], _SHOWN_CHARACTERS)}"
                for name, problem in problems[:_MOST_NAMED]
            ]
            more = [f"and {len(problems) - _MOST_NAMED} more"] if len(problems) > _MOST_NAMED else []
            raise ClusterUnavailable(
                f"{len(problems)} of {len(self.threads)} workers cannot {self._command}: {'; '.join([*named, *more])}\n"
                f"{printable(fix, _SHOWN_CHARACTERS) or self._again}"
            )

    async def look(self) -> None:
        """See which workers there are by now, and check those that are new.

        Raises:
            ClusterUnavailable: there are none any more, or one of the new ones cannot be used.
        """
        await self.wait_for_workers()
        await self.check(None, self._headers)

    async def run(
        self, function: Callable[..., Any], *args: Any, workers: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Call a function on workers, all of them if none is named, beside what they do; the results by address.

        An error of a worker is its result, and a `TimeoutError` that of one which does not answer.

        Raises:
            ClusterUnavailable: the scheduler was lost.
        """
        answers: dict[str, Any] = {}

        async def ask(address: str) -> None:
            with self._connected(), anyio.move_on_after(_ANSWER_SECONDS) as waiting:
                answers.update(await self._client.run(function, *args, workers=[address], on_error="return"))
            if waiting.cancelled_caught:
                answers[address] = TimeoutError("it does not answer\nlook into its log, or end it")

        if workers is None:
            await self.find_workers()
        try:
            async with anyio.create_task_group() as group:
                for address in self.threads if workers is None else workers:
                    group.start_soon(ask, address)
        except BaseExceptionGroup as failures:
            raise first_cause(failures) from failures
        return answers

    async def call(self, function: Callable[..., Any], *args: Any, name: str, lost: Callable[[str], None]) -> Any:
        """Call a function on a worker, and on another if that is lost.

        Args:
            function: of a module, for it travels by its name.
            args: plain values; they are seen on the dashboard.
            name: of the call, on the dashboard.
            lost: called with the reason when a worker is lost that had the call.

        Raises:
            WorkersLost: several were lost.
            ClusterUnavailable: the scheduler was lost.
        """
        import distributed  # noqa: PLC0415  # it is there already

        self._calls += 1
        key = f"{name}-{self._token}-{self._calls}"
        self._lost[key] = lost
        with self._connected():
            future = self._client.submit(function, *args, key=key, retries=0, pure=False)
            try:
                return await future
            except distributed.scheduler.KilledWorker as exc:
                raise WorkersLost(
                    f"workers ended {exc.allowed_failures + 1} times at the same step ({name}), the last of them "
                    f"{exc.last_worker.address}\n"
                    f"look into its log, and at the memory of its machine; then {self._again}"
                ) from exc
            except OSError as exc:
                if future.status != "error":
                    raise
                raise ClusterUnavailable(
                    f"a worker failed at a step ({name}): {_reason(exc)}\nlook into its log; then {self._again}"
                ) from exc
            except ImportError as exc:  # its worker cannot unpickle what we sent
                raise ClusterUnavailable(
                    f"a worker lacks {software()}: {printable(exc)}\npip install 'seed-registry[dask]' there"
                ) from exc
            finally:
                del self._lost[key]
                future.release()  # Dask forgets it; what runs goes on to its end

    async def versions(self) -> tuple[str, dict[str, str]]:
        """The versions of Dask: of the scheduler, and of the workers by their addresses.

        Raises:
            ClusterUnavailable: the scheduler was lost.
        """
        with self._connected(_ANSWER_SECONDS):
            found = await self._client.get_versions()
        workers = {address: one["packages"]["distributed"] for address, one in found["workers"].items()}
        return found["scheduler"]["packages"]["distributed"], workers

    async def publish(self, name: str, fact: Any) -> None:
        """Let workers read a fact, of plain values, at the scheduler until it is withdrawn.

        Raises:
            ClusterUnavailable: the scheduler was lost.
        """
        with self._connected(_ANSWER_SECONDS):
            await self._client.publish_dataset(fact, name=name, override=True)

    async def withdraw(self, name: str) -> None:
        """Delete a fact that was published; one of a scheduler that was lost is deleted with it."""
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True), suppress(ClusterUnavailable), self._connected():
            await self._client.unpublish_dataset(name)

    async def notes(self) -> list[Any]:
        """What workers have noted of the calls that they are at, as `Client.set_metadata` of Dask does by their keys.

        Raises:
            ClusterUnavailable: the scheduler was lost.
        """
        with self._connected(_SCHEDULER_SECONDS):
            found = [await self._client.get_metadata([key], default=None) for key in list(self._lost)]
        return [note for note in found if note is not None]

    async def restart(self, worker: str) -> None:
        """Have the process of a worker, by its name, ended, and started again where something does."""
        address = self.addresses.pop(worker, None)
        if address in self.threads:
            # Without a nanny nothing can restart it, and it may have gone by itself.
            with self._connected(2 * _RESTART_SECONDS), suppress(ValueError, KeyError):
                await self._client.restart_workers([address], timeout=_RESTART_SECONDS, raise_for_error=False)

    def note_event(self, event: tuple[float, Any]) -> None:
        """Take an event of the scheduler's."""
        _, what = event
        if not isinstance(what, dict) or what.get("action") != "remove-worker":
            return
        address = what.get("worker")
        self._checked.discard(address)  # another one may come to where it was
        names = [name for name, of in self.addresses.items() if of == address]
        for key in what.get("processing-tasks", ()):
            if key in self._lost:
                self._lost[key](f"worker {', '.join(names) or address} is gone: was it killed, or out of memory?")

    def _problem(self, answer: dict[str, Any]) -> str:
        """Why a worker cannot load, from its answer."""
        if problem := differing(answer["software"]):
            return problem
        missing = [name for name in self._headers if name not in answer["headers"]]
        if missing and not answer["problem"]:
            return (
                f"it lacks the header {missing[0]}\nstart the workers with SEED_REGISTRY_HEADER in their environment, "
                "one header a line: it is not sent to them"
            )
        return str(answer["problem"])

    @contextmanager
    def _connected(self, seconds: float | None = None) -> Iterator[None]:
        """Translate the errors of a connection that was lost, or of a scheduler that has not answered for so long."""
        from concurrent.futures import CancelledError  # noqa: PLC0415

        lost = ClusterUnavailable(
            f"the connection to the scheduler at {self._address} was lost\nlook whether it runs; then {self._again}"
        )
        if self._client.status != "running":
            raise lost
        try:
            with anyio.fail_after(seconds):
                yield
        except TimeoutError as exc:
            raise ClusterUnavailable(
                f"the scheduler at {self._address} does not answer\nlook whether it hangs; then {self._again}"
            ) from exc
        except (CancelledError, OSError) as exc:
            raise lost from exc


def _said(answer: BaseException) -> str:
    """What an error of a worker says, and on a second line, if it is ours, what to do."""
    problem, _, fix = str(answer).partition("\n")
    return f"{printable(problem) or type(answer).__name__}\n{printable(fix)}"


def _reason(exc: BaseException) -> str:
    """The text of what caused an error, without the object of Dask's that met it."""
    text = next(filter(None, map(str, (exc.__cause__ or "", exc, type(exc).__name__))))
    return printable(re.sub("^in <[^<>]*>: ", "", text))


def lacking(answer: Any) -> str:
    """That a worker cannot even be asked, as an error says it, from what `Cluster.run` returns; empty if it can."""
    # Dask sends an error as its text if it happened before the call.
    if isinstance(answer, ImportError | AttributeError) or str(answer).startswith(_LACKING):
        return f"it lacks {software()}\npip install 'seed-registry[dask]' there"
    return ""


def differing(found: str) -> str:
    """That the software of a worker is not that of this process, as an error says it; empty if it is."""
    if found == software():
        return ""
    return f"it has {found}; here is {software()}\ninstall the same versions for this command and all workers"


@contextmanager
def _without_logs() -> Iterator[None]:
    """Keep Dask, which is imported by now, from printing what it notes of a lost connection: the error says it."""

    def drop(_: logging.LogRecord) -> bool:
        return False

    handlers = {handler for name in _LOGGERS for handler in logging.getLogger(name).handlers}
    for handler in handlers:
        handler.addFilter(drop)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(drop)
