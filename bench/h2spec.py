"""h2spec, the conformance suite for HTTP/2 servers, against the native transport.

    python bench/h2spec.py [--tls] [--only SECTION ...] [--output FILE]

Builds h2spec as ``tests/clients/go`` pins it, starts a server, runs every case and prints those that fail. Exits with 1
if one fails that is not in ``EXPECTED``, or passes that is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import resources as r
from support.native_clients import ToolchainMissingError, build_go
from support.native_server import NativeServer
from support.pki import Authority

H2SPEC = "github.com/summerwind/h2spec/cmd/h2spec"
CASE_TIMEOUT_S = 2
RUN_TIMEOUT_S = 540

EXPECTED: dict[str, str] = {}
"""Cases that may fail, ``"http2/6.1: Sends a DATA frame"``, each with the reason why that is right."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case of h2spec. ``said`` is what it expected and got, where it failed."""

    name: str
    failed: bool
    said: str


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a run. ``unexpected`` are failures without a reason, ``obsolete`` reasons without a failure."""

    cases: int
    passed: int
    expected: dict[str, str]
    unexpected: dict[str, str]
    obsolete: list[str]

    @property
    def good(self) -> bool:
        """Say whether all is as it should be."""
        return self.cases > 0 and not self.unexpected and not self.obsolete

    def text(self) -> str:
        """Return the report for a reader."""
        lines = [f"{self.passed} of {self.cases} cases pass"]
        lines += [f"expected to fail: {name}\n    {reason}" for name, reason in self.expected.items()]
        lines += [f"FAILED: {name}\n{said}" for name, said in self.unexpected.items()]
        lines += [f"passes by now, take it out of EXPECTED: {name}" for name in self.obsolete]
        return "\n".join(lines)


def run(sections: Sequence[str] = (), *, tls: bool = False) -> Report:
    """Run h2spec, all of it or some sections (``http2/6.9``), and report. Raises ToolchainMissingError."""
    binary = build_go(H2SPEC, "h2spec")
    with tempfile.TemporaryDirectory() as directory:
        junit = Path(directory) / "report.xml"
        settings = {}
        if tls:
            pair = Authority(Path(directory) / "pki").server()
            settings = {"tls": {"cert": str(pair.cert_path), "key": str(pair.key_path)}}
        with NativeServer(resources=[r.static_cluster("a", 1)], settings=settings) as server:
            argv = [str(binary), "--port", str(server.port), "--strict", "--timeout", str(CASE_TIMEOUT_S)]
            argv += [*(["--tls", "--insecure"] if tls else []), "--junit-report", str(junit), *sections]
            said = subprocess.run(argv, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
            faults = server.state()["faults"]
        assert junit.exists(), f"h2spec wrote no report:\n{(said.stdout + said.stderr)[-2_000:]}"
        assert faults == [], f"the server reported faults of its own: {faults}"
        return judged(read(junit), whole=not sections)


def read(junit: Path) -> list[Case]:
    """Return the cases of h2spec's report."""
    found = []
    for case in ElementTree.parse(junit).iter("testcase"):
        failure = case.find("failure")
        if failure is None:
            failure = case.find("error")
        said = "" if failure is None else "\n".join(filter(None, (failure.get("message"), failure.text)))
        found.append(Case(f"{case.get('package')}: {case.get('classname')}", failure is not None, said))
    return found


def judged(cases: Sequence[Case], *, whole: bool = True) -> Report:
    """Return what is to be said of cases, by ``EXPECTED``; only a ``whole`` run can show that a reason is obsolete."""
    failed = {case.name: case.said for case in cases if case.failed}
    return Report(
        cases=len(cases),
        passed=len(cases) - sum(case.failed for case in cases),
        expected={name: EXPECTED[name] for name in failed if name in EXPECTED},
        unexpected={name: said for name, said in failed.items() if name not in EXPECTED},
        obsolete=[name for name in EXPECTED if whole and name not in failed],
    )


def main() -> int:
    """Run it as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tls", action="store_true", help="over TLS")
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="SECTION", help="as h2spec names them: http2/6.9 hpack"
    )
    parser.add_argument("--output", type=Path, help="write the report as JSON")
    arguments = parser.parse_args()
    try:
        report = run(arguments.only, tls=arguments.tls)
    except ToolchainMissingError as missing:
        print(missing, file=sys.stderr)
        return 2
    print(report.text())
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(asdict(report) | {"good": report.good}, indent=2) + "\n")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
