"""Judges a group's resources by a real Envoy, and tells every faulty one."""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from xds.model.problem import Problem
from xds.model.resource import Resource
from xds.model.types import LISTENER
from xds.schema.paths import MapKey, Trail, dotted, path_of
from xds.schema.pool import ANY, load_schema
from xds.validation.envoy import TIMEOUT_S, Children, is_accepted, remove_leftovers, run_validation, usable_envoy
from xds.validation.errors import EnvoyUnusableError
from xds.validation.units import ORDER, Assembly, Memory, Unit

PROCESSES_MAX = 2
"""Maximum Envoys at once."""
BATCH_MAX = 2_000
"""Maximum resources in one run."""
KNOWN_MAX = 200_000
"""Maximum results that are kept."""
BLAME_S = 30.0
"""How long the resources to blame for a NACK are looked for, apart from the last run."""
BLAMED_MAX = 20
"""Maximum resources that are found for a NACK."""
SEARCH_S = 30.0
"""How long the faulty resources of a refused change are looked for, apart from the last runs."""
FAULTS_MAX = 20
"""Maximum resources of a refused change that are told with Envoy's words, per group."""
STUBS_MAX = 50
"""Maximum clusters of a sidecar's own bootstrap that are found out from what Envoy says, per run."""
STUBS_KEPT_MAX = 1_000
"""Maximum such clusters that are remembered."""
_UNKNOWN_CLUSTER = re.compile(r"[Uu]nknown (?:gRPC client |shadow )?cluster[: ]+'?(?P<name>[^\s']+)'?")
_MATCH_CHARACTERS_MIN = 2

Run = Callable[[bytes], str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an Envoy says of a group's resources. ``warnings``: parts that it could not judge as they are."""

    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def joined(judgements: Iterable[Judgement]) -> Judgement:
    """Return what several groups' judgements say; what is said of a resource that they share is said once."""
    problems: dict[tuple[str, ...], Problem] = {}
    warnings: dict[tuple[str, ...], Problem] = {}
    for each in judgements:
        for found, told in ((problems, each.problems), (warnings, each.warnings)):
            for problem in told:
                found.setdefault(
                    (problem.file, str(problem.line), problem.resource, problem.field, problem.what), problem
                )
    return Judgement(tuple(problems.values()), tuple(warnings.values()))


class _Search:
    """How long, and for how many, faulty resources are looked for. Thread-safe."""

    def __init__(self) -> None:
        self.left_out = 0
        """Number of resources that were not judged by themselves."""
        self._until = time.monotonic() + SEARCH_S
        self._found = 0
        self._lock = threading.Lock()

    def is_over(self) -> bool:
        """Return whether no further Envoy is to be asked."""
        return self._found >= FAULTS_MAX or time.monotonic() >= self._until

    def found(self, count: int = 1) -> None:
        """Count faulty resources."""
        with self._lock:
            self._found += count

    def leave_out(self, count: int) -> None:
        """Count resources that are not judged by themselves."""
        with self._lock:
            self.left_out += count


class Judge:
    """Judges resources, at most ``PROCESSES_MAX`` Envoys at a time. Thread-safe.

    Results are kept by the content of a resource and all that is inlined into it, so that nothing is judged twice.
    """

    def __init__(self, envoy: Path | None = None, *, timeout_s: float = TIMEOUT_S, run: Run | None = None) -> None:
        self.runs = 0
        self._binary = usable_envoy(envoy) if run is None else None
        self._timeout_s = timeout_s
        self._run_one = run or self._run_envoy
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._memories: dict[str, Memory] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(PROCESSES_MAX, thread_name_prefix="validation")
        self._slots = threading.BoundedSemaphore(PROCESSES_MAX)
        self._children = Children()
        self._stubs: OrderedDict[str, None] = OrderedDict()
        self._is_tried = False
        if run is None:
            remove_leftovers()

    def check(self) -> None:
        """Raise EnvoyUnusableError if the Envoy can't be run, or refuses a bootstrap without resources."""
        self._try_binary()

    def close(self) -> None:
        """Kill the Envoys that run, and start no more. Whoever waits for them gets an EnvoyUnusableError."""
        self._children.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def judge(self, resources: Iterable[Resource], *, group: str = "") -> Judgement:
        """Judge all resources of a group. Takes a tenth of a second at least; raises EnvoyUnusableError."""
        self._try_binary()
        items = tuple(resources)
        assembly = Assembly(items, group, self.memory_of(group))
        units = [unit for type_url in ORDER for unit in assembly.units(type_url)]
        if words_on_all := self._words_on_all(assembly, units):
            return self._by_type(Assembly(items, group), words_on_all)
        listeners = [each for each in units if each.key[0] == LISTENER]
        search = _Search()
        problems = self._together(assembly, listeners, search)
        if search.left_out:
            problems.append(_rest(assembly, search, ""))
        told = [_told(assembly, each, words) for each in units if (words := self._recall(each.digest))]
        return Judgement(tuple(problems), tuple(dict.fromkeys([*assembly.warnings, *told])))

    def blame(
        self, resources: Iterable[Resource], type_url: str, names: Collection[str], *, group: str = ""
    ) -> dict[str, str]:
        """Return those of the named resources that Envoy refuses each by itself, with its words.

        What they refer to is judged first, so that nothing is blamed for a fault that is inlined into it. One Envoy
        runs at a time; after ``BLAME_S`` or ``BLAMED_MAX`` faults no further one is started, and what was found until
        then is returned. Raises EnvoyUnusableError.
        """
        if type_url not in ORDER:
            return {}
        self._try_binary()
        items = tuple(resources)
        until = time.monotonic() + BLAME_S
        assembly = Assembly(items, group)
        depends_on = Assembly(items, group).dependencies(type_url, names)
        for each in ORDER[: ORDER.index(type_url)]:
            for unit, _ in self._find(assembly, list(assembly.units(each, depends_on[each])), until):
                assembly.faulty.add(unit.key)
        found = self._find(assembly, list(assembly.units(type_url, names)), until)
        return {unit.resource.name: assembly.hide(words) for unit, words in found}

    def _find(self, assembly: Assembly, units: list[Unit], until: float) -> list[tuple[Unit, str]]:
        """Return units that Envoy refuses each by itself, asking about halves of those that are refused together."""
        found: list[tuple[Unit, str]] = []
        waiting = [units]
        while waiting and len(found) < BLAMED_MAX:
            some = waiting.pop()
            unknown = [each for each in some if self._recall(each.digest) is None]
            found += [(each, words) for each in some if not is_accepted(words := self._recall(each.digest) or "")]
            if not unknown or time.monotonic() >= until:
                continue
            words = self._ask(assembly, unknown)
            if not words or len(unknown) == 1:
                for each in unknown:
                    self._keep(each.digest, words)
                found += [(each, words) for each in unknown if not is_accepted(words)]
            else:
                middle = len(unknown) // 2
                waiting += [unknown[middle:], unknown[:middle]]
        return found[:BLAMED_MAX]

    def memory_of(self, group: str) -> Memory:
        """Return what is remembered of a group's resources, while they exist."""
        with self._lock:
            if group not in self._memories:
                for gone in [name for name, memory in self._memories.items() if not memory]:
                    del self._memories[gone]
                self._memories[group] = WeakKeyDictionary()
            return self._memories[group]

    def _words_on_all(self, assembly: Assembly, units: list[Unit]) -> str:
        """Return Envoy's words against any of the units, asking only about new ones, and about many in one run."""
        known = {id(each): self._recall(each.digest) for each in units}
        if refused := next((words for words in known.values() if words and not is_accepted(words)), ""):
            return refused
        unknown = [each for each in units if known[id(each)] is None]
        batches = [unknown[start : start + BATCH_MAX] for start in range(0, len(unknown), BATCH_MAX)]
        for words in self._in_threads(lambda batch: self._ask(assembly, batch), batches):
            if words:
                return words
        for each in unknown:
            self._keep(each.digest, "")
        if len(batches) == 1 and len(unknown) == len(units):
            self._keep(_together_digest([each for each in units if each.key[0] == LISTENER]), "")
        return ""

    def _by_type(self, assembly: Assembly, words_on_all: str) -> Judgement:
        """Judge one type after the other, so that a fault is found in its own resource and not where it is inlined.

        After ``SEARCH_S`` or ``FAULTS_MAX`` faults no further Envoy is asked: the rest is told as one problem.
        """
        problems: list[Problem] = []
        search = _Search()
        for type_url in ORDER:
            units = list(assembly.units(type_url))
            if search.is_over():
                search.leave_out(len(units))
                continue
            if type_url == LISTENER:
                units = _without_doubles(assembly, units, problems)
            refused = self._refused(assembly, units, search)
            for unit, words in refused:
                if is_accepted(words):
                    assembly.warnings.append(_told(assembly, unit, words))
                else:
                    assembly.faulty.add(unit.key)
                    problems.append(_told(assembly, unit, words))
            if type_url == LISTENER:
                faulty = {id(unit) for unit, words in refused if not is_accepted(words)}
                problems += self._together(assembly, [each for each in units if id(each) not in faulty], search)
        if search.left_out:
            problems.append(_rest(assembly, search, "" if problems else words_on_all))
        return Judgement(tuple(problems), tuple(assembly.warnings))

    def _try_binary(self) -> None:
        if self._is_tried:
            return
        words = self._run(Assembly(()).bootstrap((), ()))
        if words:
            raise EnvoyUnusableError(f"{self._binary} refuses even a bootstrap without resources: {words}")
        self._is_tried = True

    def _refused(self, assembly: Assembly, units: list[Unit], search: _Search) -> list[tuple[Unit, str]]:
        """Return the units of which Envoy says something, each by itself, with its words."""
        known = {id(each): self._recall(each.digest) for each in units}
        search.found(sum(words is not None and not is_accepted(words) for words in known.values()))
        unknown = [each for each in units if known[id(each)] is None]
        batches = [unknown[start : start + BATCH_MAX] for start in range(0, len(unknown), BATCH_MAX)]
        for found in self._in_threads(lambda batch: self._halve(assembly, batch, search), batches):
            for unit, words in found:
                self._keep(unit.digest, words)
        told = [(each, self._recall(each.digest) or "") for each in units]
        return [(each, words) for each, words in told if words]

    def _halve(self, assembly: Assembly, units: list[Unit], search: _Search) -> list[tuple[Unit, str]]:
        """Judge units together; if they are refused, each half of them. Return what is known of each."""
        if search.is_over():
            search.leave_out(len(units))
            return []
        words = self._ask(assembly, units)
        if not words or len(units) == 1:
            if not is_accepted(words):
                search.found()
            return [(each, words) for each in units]
        if search.is_over():
            search.leave_out(len(units))
            return []
        middle = len(units) // 2
        return [
            *self._halve(assembly, units[:middle], search),
            *self._halve(assembly, units[middle:], search),
        ]

    def _together(self, assembly: Assembly, units: list[Unit], search: _Search) -> list[Problem]:
        """Return the problems of resources that are fine each by itself, but not beside the others."""
        problems: list[Problem] = []
        while len(units) > 1:
            if search.is_over() and self._recall(_together_digest(units)) is None:
                search.leave_out(len(units))
                break
            words = self._recall_or_ask(assembly, units)
            if is_accepted(words):
                break
            if not problems:
                units = _without_doubles(assembly, units, problems)
                if problems:
                    continue
            good, bad = 1, len(units)  # the first ``good`` are accepted, the first ``bad`` are not
            while bad - good > 1 and not search.is_over():
                middle = (good + bad) // 2
                said = self._recall_or_ask(assembly, units[:middle])
                good, bad, words = (middle, bad, words) if is_accepted(said) else (good, middle, said)
            if bad - good > 1:
                search.leave_out(len(units))
                break
            search.found()
            unit = units.pop(bad - 1)
            problems.append(_told(assembly, unit, words))
        return problems

    def _recall_or_ask(self, assembly: Assembly, units: Sequence[Unit]) -> str:
        digest = _together_digest(units)
        known = self._recall(digest)
        if known is None:
            known = self._ask(assembly, units)
            self._keep(digest, known)
        return known

    def _ask(self, assembly: Assembly, units: Sequence[Unit]) -> str:
        """Run Envoy on units. Clusters that only a sidecar's own bootstrap has are made up as Envoy misses them."""
        stubs: set[str] = set().union(*(each.clusters_named for each in units))
        with self._lock:
            stubs |= self._stubs.keys()
        for _ in range(STUBS_MAX):
            words = self._run(assembly.bootstrap(units, stubs))
            missed = _UNKNOWN_CLUSTER.search(words)
            if missed is None or missed["name"] in stubs:
                return words
            stubs.add(missed["name"])
            self._keep_stub(missed["name"])
        return words

    def _keep_stub(self, name: str) -> None:
        with self._lock:
            self._stubs[name] = None
            while len(self._stubs) > STUBS_KEPT_MAX:
                self._stubs.popitem(last=False)

    def _run(self, bootstrap: bytes) -> str:
        with self._slots:
            self._check_open()
            self.runs += 1
            words = self._run_one(bootstrap)
        self._check_open()
        return words

    def _check_open(self) -> None:
        if self._children.is_closed:
            raise EnvoyUnusableError("no more Envoys are started: this process is about to end")

    def _in_threads(self, work: Callable[[list[Unit]], T], batches: list[list[Unit]]) -> Iterable[T]:
        """Yield the results in order, from two threads at most; a single batch is done in the caller's."""
        if len(batches) < 2:
            yield from map(work, batches)
            return
        try:
            yield from self._threads.map(work, batches)
        except (CancelledError, RuntimeError):
            self._check_open()
            raise

    def _run_envoy(self, bootstrap: bytes) -> str:
        assert self._binary is not None
        try:
            return run_validation(self._binary, bootstrap, timeout_s=self._timeout_s, children=self._children)
        except OSError as error:
            raise EnvoyUnusableError(f"{self._binary} can't be run: {error}") from error

    def _recall(self, digest: bytes) -> str | None:
        with self._lock:
            words = self._known.get(digest)
            if words is not None:
                self._known.move_to_end(digest)
            return words

    def _keep(self, digest: bytes, words: str) -> None:
        with self._lock:
            self._known[digest] = words
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)


def _told(assembly: Assembly, unit: Unit, words: str) -> Problem:
    if is_accepted(words):
        return assembly.problem(unit.resource, words)
    return assembly.problem(unit.resource, f"Envoy: {assembly.hide(words)}", _field_of(unit.resource, words))


def _without_doubles(assembly: Assembly, units: list[Unit], problems: list[Problem]) -> list[Unit]:
    """Return listeners without those that have an address of one before them, and tell these, as Envoy would."""
    taken: dict[bytes, Unit] = {}
    kept: list[Unit] = []
    for unit in units:
        addresses = assembly.addresses(unit)
        first = next((taken[each] for each in addresses if each in taken), None)
        if first is None:
            kept.append(unit)
            taken |= dict.fromkeys(addresses, unit)
        else:
            what = f"has a duplicate address: listeners/{first.resource.name} has it too"
            problems.append(assembly.problem(unit.resource, what, "address"))
    return kept


def _rest(assembly: Assembly, search: _Search, words: str) -> Problem:
    """Return the problem that tells of the resources that were not judged by themselves."""
    what = (
        f"and {search.left_out:,} more that were not judged by themselves, after {FAULTS_MAX} faults or {SEARCH_S:g} s"
    )
    said = f"; of all together Envoy says: {assembly.hide(words)}" if words else ""
    return Problem(what=what + said, group=assembly.group)


def _together_digest(units: Sequence[Unit]) -> bytes:
    digest = blake2b(b"together", digest_size=16)
    for each in units:
        digest.update(each.digest)
    return digest.digest()


def _field_of(resource: Resource, words: str) -> str:
    """Return the field with the longest value that Envoy's words repeat, "" if they repeat none."""
    schema = load_schema()
    full_name = resource.type_url.rpartition("/")[2]
    any_: Any = schema.message_class(ANY)
    message: Any = schema.message_class(full_name)
    best: tuple[int, Trail] = (_MATCH_CHARACTERS_MIN - 1, None)
    for text, trail in _texts(schema, message.FromString(any_.FromString(resource.body).value), None):
        if len(text) > best[0] and text != resource.name and text in words:
            best = (len(text), trail)
    return dotted(path_of(best[1]))


def _texts(schema: Any, message: Any, trail: Trail) -> Iterable[tuple[str, Trail]]:
    if message.DESCRIPTOR.full_name == ANY:
        full_name = message.type_url.rpartition("/")[2]
        if full_name:
            yield full_name, (trail, "@type")
        if schema.has(full_name):
            yield from _texts(schema, schema.message_class(full_name).FromString(message.value), trail)
        return
    for field, value in message.ListFields():
        here: Trail = (trail, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in sorted(value):
                yield str(key), (here, MapKey(key))
                if hasattr(value[key], "DESCRIPTOR"):
                    yield from _texts(schema, value[key], (here, MapKey(key)))
        elif field.message_type is not None:
            for index, item in enumerate(value) if field.is_repeated else [(None, value)]:
                yield from _texts(schema, item, here if index is None else (here, index))
        elif field.cpp_type == field.CPPTYPE_STRING and field.type == field.TYPE_STRING:
            for index, text in enumerate(value) if field.is_repeated else [(None, value)]:
                yield text, here if index is None else (here, index)
