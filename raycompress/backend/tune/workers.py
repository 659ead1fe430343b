"""The workers of a trial that has several: one process each, started as torchrun does, in the trial's placement group.

The trial's actor runs the first worker. The others have an actor each, in the other bundles of the group, which is
kept from trial to trial as the trial's own is, and run their process in the warm process of their machine.

Ray Train does not serve here: its workers run a function inside Ray's own processes, where a script that is forked from
a warm process, supervised and killed with all it started has no place, and its controller repeats what the journal
decides. Nor does torchrun's elastic agent: it starts processes by itself, again without forks and supervisors, and
needs torch in the actor. What scripts expect of either is the environment, which is `raycompress.runtime.torchrun`'s.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raycompress.backend.ray.private import name_process
from raycompress.config.options import Resources
from raycompress.runtime import torchrun
from raycompress.runtime.client import Ending, TrialSpec, Worker, connect_or_start
from raycompress.script.workers.agreement import ENDED
from raycompress.search.trials import TrialPlan
from raycompress.states import TrialState

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_AT_ENDS_S = 20.0
"""How long the other workers may take to end by themselves once the first one has ended well."""
_GRACE_S = 3.0
"""The same where it has failed: which of them was the first to fail is known by then."""
_PACE_S = 0.5
_LOG_BYTES = 1 << 20
_SILENT = (TrialState.FINISHED, TrialState.NO_RESULT, TrialState.NOT_A_NUMBER, TrialState.BAD_RESULT)
"""Ends of a worker that reports nothing, or what nobody asks it for."""
_OF_OTHERS = re.compile(r"gloo|NCCL|[Pp]eer|TCPStore|DistBackendError|DistNetworkError|Broken pipe")
"""What torch.distributed says in a worker whose partner has ended."""


@dataclass(frozen=True)
class Place:
    """Where a worker runs: its node, the node's address, its devices by variable, and the network of the address."""

    node: str
    address: str
    devices: dict[str, str]
    network: dict[str, str]

    @classmethod
    def here(cls) -> Place:
        """Return that of this actor."""
        import ray

        ask: Callable[[], str] = ray.util.get_node_ip_address
        address = ask()
        devices = {name: os.environ[name] for name in VISIBLE if os.environ.get(name)}
        return cls(ray.get_runtime_context().get_node_id(), address, devices, torchrun.interface(address))


@dataclass(frozen=True)
class WorkerEnding:
    """How a worker ended, when by the clock, and what it printed; `ending` is None where its actor is gone."""

    rank: int
    ending: Ending | None
    when: float
    log: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether it did not end by its own doing."""
        return self.ending is None or self.ending.state == TrialState.KILLED

    @property
    def is_failure(self) -> bool:
        """Whether it failed."""
        return self.ending is None or (self.ending.state not in _SILENT and self.ending.state != TrialState.STOPPED)

    @property
    def tells_of_another(self) -> bool:
        """Whether it failed since another worker had ended."""
        return self.ending is not None and _OF_OTHERS.search(self.ending.cause) is not None

    @property
    def order(self) -> tuple[bool, float]:
        """What failures are sorted by."""
        return self.tells_of_another, self.when

    @property
    def cause(self) -> str:
        """Why, with its number."""
        return f"worker {self.rank}: {'its actor died' if self.ending is None else self.ending.cause}"


class WorkerActor:
    """Runs one worker, other than the first, of trial after trial.

    Its methods run at the same time: a worker is given what the first one decides, and is stopped, while it runs.
    """

    def __init__(self, plan: TrialPlan) -> None:
        self._plan = plan
        self._worker: Worker | None = None
        self._spec: TrialSpec | None = None
        self._number: int | None = None

    def place(self) -> Place:
        """Return where it runs."""
        return Place.here()

    def prepare(self, spec: TrialSpec, number: int) -> None:
        """Take the next worker; what an earlier one left in its folder goes."""
        name_process(f"ray::trial-{number:04d}-worker-{spec.rank}")
        if self._number is not None and self._number != number:
            self._plan.folder.clear(self._number)
        self._number = number
        shutil.rmtree(spec.folder, ignore_errors=True)
        assert spec.agreed_path is not None
        spec.agreed_path.mkdir(parents=True)
        self._plan.folder.fetch_checkpoint(number, spec.rank)
        if self._worker is None or self._worker.is_closed:
            assert self._plan.warm is not None, "trials on Ray are forked from a warm process"
            self._worker = connect_or_start(self._plan.warm)
        self._spec = spec

    def run(self) -> WorkerEnding:
        """Run it to its end."""
        assert self._worker is not None and self._spec is not None and self._number is not None
        for ending in self._worker.run(self._spec):
            if not isinstance(ending, Ending) and ending["type"] == "checkpoint":
                self._plan.folder.deliver_checkpoint(self._number, self._spec.rank)
        assert isinstance(ending, Ending)
        when, log = time.time(), ""
        with contextlib.suppress(OSError):  # it could not be started
            log = self._spec.log_path.read_text(encoding="utf-8", errors="replace")[-_LOG_BYTES:]
        self._tidy(self._spec)
        return WorkerEnding(self._spec.rank, ending, when, log)

    def _tidy(self, spec: TrialSpec) -> None:
        """Leave of its folder what its script wrote there."""
        shutil.rmtree(spec.agreed_path or spec.folder, ignore_errors=True)
        for path in (spec.log_path, spec.config_path):
            path.unlink(missing_ok=True)
        for folder in (spec.files_path, Path(spec.folder), Path(spec.folder).parent):
            with contextlib.suppress(OSError):  # there is something in it
                folder.rmdir()

    def leave(self) -> None:
        """Delete what was delivered and is not needed here any more."""
        if self._number is not None:
            self._plan.folder.clear(self._number)

    def put(self, name: str, data: bytes) -> None:
        """Hand over what the first worker has decided."""
        assert self._spec is not None and self._spec.agreed_path is not None
        path = self._spec.agreed_path / name
        aside = path.with_name(f".{name}")
        with contextlib.suppress(FileNotFoundError):  # it has ended, and its folder is gone
            aside.write_bytes(data)
            aside.replace(path)

    def stop(self) -> None:
        """Kill its process."""
        if self._worker is not None:
            self._worker.stop()


class WorkerGroup:
    """The workers of a slot's trials, but for the first.

    Parameters
    ----------
    plan
        What the trials share.
    """

    def __init__(self, plan: TrialPlan) -> None:
        self._plan = plan
        self._actors: list[Any] = []
        self._running: list[Any] = []
        self._first: TrialSpec | None = None
        self._endings: list[WorkerEnding] = []
        self._first_has_ended = threading.Event()

    @contextlib.contextmanager
    def run(self, spec: TrialSpec, number: int, stop_first: Callable[[], None]) -> Iterator[TrialSpec]:
        """Start the others, and yield the specification of the first; they are gone on leaving.

        Parameters
        ----------
        stop_first
            Called from another thread where one of the others fails or is lost.

        Raises
        ------
        RayActorError
            One of the actors has died meanwhile.
        """
        import ray

        self._endings, self._running = [], []
        self._first_has_ended.clear()
        specs = self._specs(spec, number)
        self._first = specs[0]
        assert specs[0].agreed_path is not None
        shutil.rmtree(specs[0].agreed_path, ignore_errors=True)
        ray.get([actor.prepare.remote(one, number) for actor, one in zip(self._actors, specs[1:], strict=True)])
        self._running = [actor.run.remote() for actor in self._actors]
        watch = threading.Thread(target=self._watch, args=(list(self._running), stop_first), daemon=True)
        watch.start()
        try:
            yield specs[0]
        finally:
            self._first_has_ended.set()
            self._end(watch)
            shutil.rmtree(specs[0].agreed_path, ignore_errors=True)

    def publish(self, number: int) -> None:
        """Bring a decision of the first worker to the others."""
        import ray

        assert self._first is not None and self._first.agreed_path is not None
        reference = ray.put((self._first.agreed_path / str(number)).read_bytes())
        for actor in self._actors:
            actor.put.remote(str(number), reference)

    def verdict(self, first: Ending) -> Ending:
        """Return how the trial has ended, of which the first worker has ended so; waits for the others."""
        self._first_has_ended.set()
        own = WorkerEnding(0, first, time.time())
        is_well = first.state in _SILENT
        if is_well:
            for actor in self._actors:
                actor.put.remote(ENDED, b"")
        self._wait(_AT_ENDS_S if is_well else _GRACE_S)
        self._keep_logs()
        failures = sorted((one for one in (own, *self._endings) if one.is_failure), key=lambda one: one.order)
        if is_well:  # what the others lack is then the first one's company
            failures = [one for one in failures if not (one.is_lost or one.tells_of_another)]
        lost = next((one for one in failures if one.is_lost), None)
        if lost is not None:
            return replace(first, state=TrialState.KILLED, cause=f"{lost.cause}: the trial is lost with it")
        if not failures or failures[0] is own:
            return first
        found = failures[0].ending
        return replace(first, state=TrialState.FAILED if found is None else found.state, cause=failures[0].cause)

    def close(self) -> None:
        """Let go of the actors, whose processes end with them."""
        import ray

        left = [actor.leave.remote() for actor in self._actors]
        if left:
            ray.wait(left, num_returns=len(left), timeout=_GRACE_S)
        self._kill()

    def _kill(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _specs(self, spec: TrialSpec, number: int) -> list[TrialSpec]:
        """Return the specification of each worker."""
        import ray

        resources = self._plan.resources
        try:
            places = [Place.here(), *ray.get([actor.place.remote() for actor in self._started(resources)])]
        except ray.exceptions.RayActorError:  # one was lost, in the trial before or in an earlier start of this one
            self._kill()
            places = [Place.here(), *ray.get([actor.place.remote() for actor in self._started(resources)])]
        return specs_of(spec, places, f"trial-{number:04d}")

    def _started(self, resources: Resources) -> Sequence[Any]:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group: Any = ray.util.get_current_placement_group()
        for place in range(len(self._actors) + 1, resources.workers):
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place)
            remote: Any = ray.remote(WorkerActor)
            asked = {"num_cpus": resources.cpu, "num_gpus": resources.gpu, "scheduling_strategy": strategy}
            self._actors.append(remote.options(max_concurrency=4, **asked).remote(self._plan))
        return self._actors

    def _watch(self, running: list[Any], stop_first: Callable[[], None]) -> None:
        """Collect the ends of the others; where one fails, the first may wait for it for ever and is stopped."""
        import ray

        rank_of = {reference: rank for rank, reference in enumerate(running, 1)}
        has_failed = False
        while running or (has_failed and not self._first_has_ended.is_set()):
            done, running = ray.wait(running, num_returns=1, timeout=_PACE_S) if running else ([], [])
            for reference in done:
                self._endings.append(_ending_of(reference, rank_of[reference]))
                has_failed |= self._endings[-1].is_failure
            # again and again: the first one's process may not have begun
            if has_failed and not self._first_has_ended.wait(0 if done else _PACE_S):
                stop_first()

    def _wait(self, seconds: float) -> None:
        import ray

        if self._running:
            ray.wait(self._running, num_returns=len(self._running), timeout=seconds)
            deadline = time.monotonic() + seconds
            while len(self._endings) < self._n_ended() and time.monotonic() < deadline:
                time.sleep(0.01)  # the thread has them in a moment

    def _n_ended(self) -> int:
        import ray

        return len(ray.wait(self._running, num_returns=len(self._running), timeout=0)[0])

    def _end(self, watch: threading.Thread) -> None:
        for actor in self._actors:
            actor.stop.remote()
        watch.join(_AT_ENDS_S)

    def _keep_logs(self) -> None:
        """Put what the others printed beside the first one's log, with which it is delivered."""
        assert self._first is not None
        for one in self._endings:
            Path(self._first.folder, f"log.worker-{one.rank}.txt").write_text(one.log, encoding="utf-8")


def _ending_of(reference: Any, rank: int) -> WorkerEnding:
    import ray

    try:
        found: WorkerEnding = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # a full disk, a folder that is gone
        log = Path()
        found = WorkerEnding(rank, Ending(TrialState.FAILED, str(error.cause).splitlines()[0], log, 0.0), time.time())
    except ray.exceptions.RayError:
        found = WorkerEnding(rank, None, time.time())
    return found


def specs_of(spec: TrialSpec, places: Sequence[Place], run: str) -> list[TrialSpec]:
    """Return the specification of each worker of a trial, the first one's first, where they stand at `places`."""
    port = torchrun.free_port(places[0].address)
    return [
        replace(_of_worker(spec, rank), workers=len(places), env={**environment, **spec.env, **devices})
        for rank, (environment, devices) in enumerate(_environments(places, port, run))
    ]


def _of_worker(spec: TrialSpec, rank: int) -> TrialSpec:
    """Return a trial's specification as it is for one of its workers: the first one reports, measures and saves."""
    if rank == 0:
        return spec
    silent = {"save_model": False, "latency": False, "rung0": False, "exports": (), "targets": ()}
    return replace(spec, rank=rank, folder=str(Path(spec.folder, "workers", str(rank))), **silent)  # type: ignore[arg-type]


def _environments(places: Sequence[Place], port: int, run: str) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Yield what each worker finds in its environment: of torchrun's variables, and its devices.

    Each sees all devices that the trial has on its machine, and takes its own by ``LOCAL_RANK``.
    """
    nodes = list(dict.fromkeys(place.node for place in places))
    for rank, place in enumerate(places):
        same = [one for one, other in enumerate(places) if other.node == place.node]
        numbers = {"local_rank": same.index(rank), "local_world": len(same), "node": nodes.index(place.node)}
        environment = torchrun.environment(rank, len(places), address=places[0].address, port=port, run=run, **numbers)
        devices = {
            name: ",".join(places[one].devices[name] for one in same if name in places[one].devices)
            for name in place.devices
        }
        yield {**place.network, **environment}, devices
