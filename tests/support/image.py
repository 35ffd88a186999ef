"""Builds and runs the Dockerfile without a container engine, in root directories of their own.

A root directory has this machine's ``/usr`` with an empty ``/usr/local`` (a virtual environment, as in Python's
images), and its own ``/etc``; each command has its own mounts, and a running image its own network too. So paths,
users and ports are those of the image, and nothing of this machine is changed. This needs root.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.processes import Child

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = REPOSITORY / "Dockerfile"
SYSTEM_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
STEP_S = 400
NETWORK = re.compile(r"pip|ssl|proxy|index", re.IGNORECASE)
"""Variables of this machine that say how to reach the package index."""
MOUNTS = """
set -eu
mount --make-rprivate /
for name in dev proc sys; do mount --rbind /$name {root}/$name; done
mount --rbind /usr {root}/usr
mount --bind {root}/.local {root}/usr/local
cd {root}
"""


@dataclass(slots=True)
class Stage:
    """A stage of the Dockerfile, and then the image that it makes."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": SYSTEM_PATH})
    workdir: str = "/"
    user: str = ""
    exposed: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthy: list[str] = field(default_factory=list)

    def make_root(self) -> None:
        """Make the root directory of a Python image."""
        for name in ("usr", "dev", "proc", "sys", "tmp", ".local"):
            (self.root / name).mkdir(parents=True)
        (self.root / "tmp").chmod(0o1777)
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.root / name).symlink_to(f"usr/{name}")
        subprocess.run(["cp", "--archive", "/etc", self.root / "etc"], check=True)
        self.run(["/usr/bin/python3", "-m", "venv", "/usr/local"])

    def inside(self, command: Sequence[str], *, user: str = "", network: bool = True) -> list[str]:
        """Return the command that runs ``command`` in the root directory."""
        if user:
            command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
        own_network = "" if network else "ip link set lo up\n"
        script = MOUNTS.format(root=self.root) + own_network
        script += f"exec chroot . /bin/sh -c 'cd {self.workdir} && exec \"$@\"' sh "
        script += shlex.join(command)
        return ["unshare", "--mount", *([] if network else ["--net"]), "sh", "-c", script]

    def run(self, command: Sequence[str]) -> None:
        """Run a command of the build; show its output if it fails."""
        env = {key: value for key, value in os.environ.items() if NETWORK.search(key)} | self.env | {"HOME": "/tmp"}
        done = subprocess.run(
            self.inside(command), env=env, capture_output=True, text=True, timeout=STEP_S, check=False
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"

    def place(self, path: str) -> Path:
        """Return where a path of the image is on this machine."""
        inside = path if path.startswith("/") else f"{self.workdir}/{path}"
        top = self.root / ".local" if inside.startswith("/usr/local/") else self.root
        return top / inside.removeprefix("/usr/local/").lstrip("/")


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the rest of each instruction of a Dockerfile."""
    without_comments = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    for line in without_comments.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name, rest.strip()


def build(directory: Path) -> Stage:
    """Carry out the Dockerfile in an empty directory, and return its last stage: the image."""
    stages: dict[str, Stage] = {}
    stage = Stage(directory)
    for name, rest in instructions(DOCKERFILE.read_text()):
        if name == "FROM":
            image, _, alias = rest.partition(" AS ")
            assert image.startswith("python:"), f"a root directory is made for Python's images, not for {image}"
            stage = Stage(directory / (alias or "image"))
            stages[alias] = stage
            stage.make_root()
        else:
            _carry_out(stage, name, rest, stages)
    return stage


def _carry_out(stage: Stage, name: str, rest: str, stages: Mapping[str, Stage]) -> None:
    match name:
        case "RUN":
            stage.run(["sh", "-c", rest])
        case "COPY":
            _copy(stage, rest.split(), stages)
        case "WORKDIR":
            stage.workdir = rest
            stage.place(rest).mkdir(parents=True, exist_ok=True)
        case "ENV":
            for key, value in (word.split("=", 1) for word in shlex.split(rest)):
                stage.env[key] = re.sub(r"\$(\w+)", lambda found: stage.env[found[1]], value)
        case "USER":
            stage.user = rest
        case "EXPOSE":
            stage.exposed += rest.split()
        case "VOLUME":
            stage.volumes += rest.split()
        case "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        case "CMD":
            stage.command = json.loads(rest)
        case "HEALTHCHECK":
            stage.healthy = json.loads(rest[rest.index("CMD ") + 4 :])
        case _:
            raise AssertionError(f"{name}: say here what this instruction does")


def _copy(stage: Stage, words: list[str], stages: Mapping[str, Stage]) -> None:
    options, paths = [word for word in words if word.startswith("--")], [word for word in words if word[0] != "-"]
    *sources, target = paths
    for source in sources:
        if options:
            (alias,) = [word.removeprefix("--from=") for word in options]
            found = stages[alias].place(source)
        else:
            found = REPOSITORY / source
            assert f"!{source.partition('/')[0]}" in (REPOSITORY / ".dockerignore").read_text().split()
        place = stage.place(target)
        if found.is_dir():
            ignored = None if options else shutil.ignore_patterns("_generated", "__pycache__")
            shutil.copytree(found, place, symlinks=True, ignore=ignored)
        else:
            shutil.copy(found, place / found.name if target.endswith("/") or place.is_dir() else place)


class Container(Child):
    """The image as ``docker run`` runs it, in a network of its own."""

    def __init__(self, image: Stage, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        command = [*image.entrypoint, *(arguments or image.command)]
        super().__init__(image.inside(command, user=image.user, network=False), name="container")
        self.image = image
        self.env = image.env | dict(env or {}) | {"HOME": "/state"}

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the running container, as ``docker exec`` does."""
        user = self.image.user
        words = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--root", "--wd=/"]
        words += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
        return subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=30, check=False)
