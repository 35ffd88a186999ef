"""The image of the Dockerfile: it is built and run as the Dockerfile says, as a user without rights."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import resources as r
from support.image import DOCKERFILE, REPOSITORY, Container, Stage, build, instructions
from support.pki import Authority
from support.waiting import wait_until

LISTENS = "print(*(open(f'/proc/net/{name}').read() for name in ('tcp', 'tcp6')))"
ANY, LOOPBACK = "every address", "loopback"
ADDRESSES = {
    "00000000": ANY,
    "00000000000000000000000000000000": ANY,
    "0100007F": LOOPBACK,
    "0000000000000000FFFF00000100007F": LOOPBACK,
}
"""Addresses as ``/proc/net/tcp`` has them; gRPC listens on IPv4 addresses as IPv6 ones."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    if os.geteuid() != 0:
        pytest.skip("a root directory of one's own needs root; .ci/run runs this file with sudo")
    return build(tmp_path_factory.mktemp("image"))


@pytest.fixture(autouse=True)
def _nothing_mounted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have each test begin with an empty volume and nothing mounted."""
    if "image" not in request.fixturenames:
        yield
        return
    image = request.getfixturevalue("image")
    for name in ("/certs", "/resources"):
        shutil.rmtree(image.place(name), ignore_errors=True)
    for path in image.place("/state").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    yield


async def healthy(container: Container) -> str:
    """Wait until the health check of the image succeeds, and return what it says."""

    async def check() -> subprocess.CompletedProcess[str]:
        assert container.running, container.log()
        return container.exec(*container.image.healthy)

    done = await wait_until(check, lambda done: done.returncode == 0, timeout_s=60, poll_s=0.2)
    return str(done.stdout.strip())


def listening(container: Container) -> dict[int, str]:
    """Return the ports on which the container listens, and on which addresses."""
    done = container.exec("python", "-c", LISTENS)
    found = re.findall(r"^\s*\d+: (\w+):(\w{4}) \S+ 0A ", done.stdout, re.MULTILINE)
    return {int(port, 16): ADDRESSES[address] for address, port in found}


async def stopped(container: Container) -> int:
    container.signal(signal.SIGTERM)
    return await container.wait_ended(30)


def mount(image: Stage, name: str, source: Path) -> None:
    """Put a folder where it would be mounted; the image's user can read it, and can't write it."""
    shutil.copytree(source, image.place(name))
    for path in [image.place(name), *image.place(name).rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_default_command_serves_on_loopback_and_says_what_is_to_be_mounted(image: Stage) -> None:
    async with Container(image) as container:
        assert await healthy(container) == "ready"
        assert listening(container) == {18000: LOOPBACK, 18001: LOOPBACK, 19000: LOOPBACK}
        assert "no Envoy outside reaches it" in container.log()
        assert "docker exec CONTAINER xds status" in container.log()
        uids = re.findall(r"^Uid:\s+(.*)$", container.exec("cat", "/proc/self/status").stdout, re.MULTILINE)
        server = re.findall(r"^Uid:\s+(.*)$", Path(f"/proc/{container.pid}/status").read_text(), re.MULTILINE)
        assert uids == server == ["10001\t10001\t10001\t10001"]
        assert container.exec("xds", "status").returncode == 0
        assert await stopped(container) == 0


@pytest.mark.slow
async def test_it_takes_certificates_from_a_mounted_folder(image: Stage, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "made")
    server, client = authority.server("xds"), authority.client("sidecar")
    certs = tmp_path / "certs"
    certs.mkdir()
    for name, content in (("tls.crt", server.cert), ("tls.key", server.key)):
        (certs / name).write_bytes(content)
    mount(image, "/certs", certs)
    async with Container(image) as container:
        assert await container.wait_ended(30) == 2
        assert "/certs has no ca.crt" in container.log()
        assert "clients need no certificate" in container.log()
    async with Container(image, env={"XDS_INSECURE_XDS": "1"}) as container:
        assert await healthy(container) == "ready"
        assert listening(container)[18000] == ANY
        assert "anyone who can connect can read every resource" in container.log()
        assert "(TLS)" in container.log()
        await stopped(container)
    shutil.copy(authority.directory / "ca.pem", certs / "ca.crt")
    for name, content in (("client.crt", client.cert), ("client.key", client.key)):
        (certs / name).write_bytes(content)
    shutil.rmtree(image.place("/certs"))
    mount(image, "/certs", certs)
    async with Container(image) as container:
        assert await healthy(container) == "ready"
        assert listening(container)[18000] == ANY
        assert "(mTLS)" in container.log()
        assert "anyone who can connect" not in container.log()
        await stopped(container)
    image.place("/certs/tls.key").unlink()
    async with Container(image) as container:
        assert await container.wait_ended(30) == 2
        assert "/certs has no tls.key" in container.log()
    image.place("/certs/tls.key").write_bytes(server.key)
    image.place("/certs/tls.key").chmod(0o600)
    async with Container(image) as container:
        assert await container.wait_ended(30) == 2
        assert "'/certs/tls.key' can't be read" in container.log()


@pytest.mark.slow
async def test_plaintext_has_to_be_allowed_and_is_said_loudly(image: Stage) -> None:
    async with Container(image, env={"XDS_INSECURE_XDS": "1"}) as container:
        assert await healthy(container) == "ready"
        assert listening(container) == {18000: ANY, 18001: LOOPBACK, 19000: LOOPBACK}
        assert "xDS is served to other machines without client certificates" in container.log()
        await stopped(container)
    async with Container(image, "serve", "--listen", "0.0.0.0:18000") as container:
        assert await container.wait_ended(30) == 2
        assert "TLS is off" in container.log()


@pytest.mark.slow
async def test_what_was_pushed_and_what_was_mounted_survives_in_the_volume(image: Stage, tmp_path: Path) -> None:
    mount(image, "/resources", r.write_directory(tmp_path / "mesh", [r.static_cluster("web", 1)]))
    async with Container(image) as container:
        await healthy(container)
        done = container.exec("xds", "get", "clusters")
        assert ["clusters", "web"] in [line.split()[:2] for line in done.stdout.splitlines()], done.stderr
        await stopped(container)
    assert image.place("/state/xds/store.db").stat().st_uid == 10001
    image.place("/resources").joinpath("broken.yaml").write_text("resources: [\n")
    async with Container(image) as container:
        assert (await healthy(container)).startswith("ready, but the directory /resources is rejected since")
        await stopped(container)
    shutil.rmtree(image.place("/resources"))
    async with Container(image) as container:
        await healthy(container)
        assert "web" in container.exec("xds", "get", "clusters").stdout
        await stopped(container)


@pytest.mark.slow
async def test_an_opened_admin_port_is_checked_over_tls(image: Stage, tmp_path: Path) -> None:
    pair = Authority(tmp_path / "made").server("xds")
    folder = tmp_path / "api"
    folder.mkdir()
    for name, content in (("cert.pem", pair.cert), ("key.pem", pair.key), ("token", b"secret\n")):
        (folder / name).write_bytes(content)
        os.chown(folder / name, 10001, 10001)
    image.place("/state/api").mkdir()
    for path in folder.iterdir():
        shutil.copy(path, image.place("/state/api") / path.name)
        os.chown(image.place("/state/api") / path.name, 10001, 10001)
        (image.place("/state/api") / path.name).chmod(0o600)
    env = {
        "XDS_API__LISTEN": "0.0.0.0:18001",
        "XDS_ADMIN": "0.0.0.0:19000",
        "XDS_API__TOKEN_FILE": "/state/api/token",
        "XDS_API__TLS_CERT": "/state/api/cert.pem",
        "XDS_API__TLS_KEY": "/state/api/key.pem",
    }
    async with Container(image, env=env) as container:
        assert await healthy(container) == "ready"
        assert listening(container) == {18000: LOOPBACK, 18001: ANY, 19000: ANY}
        assert "https://0.0.0.0:19000" in container.log()
        await stopped(container)


@pytest.mark.slow
async def test_other_commands_pass_through(image: Stage) -> None:
    async with Container(image, "version") as container:
        assert await container.wait_ended(30) == 0
        assert container.log().startswith("xds ")
    async with Container(image, "serve", "--help") as container:
        assert await container.wait_ended(30) == 0
        assert "Usage: xds serve" in container.log()


def test_the_image_exposes_what_it_serves_and_runs_without_rights() -> None:
    said = dict(instructions(DOCKERFILE.read_text()))
    assert said["EXPOSE"] == "18000", "the other ports are on loopback"
    assert said["USER"] == "xds"
    assert said["VOLUME"] == "/state"
    page = (REPOSITORY / "docs/how-to/docker.md").read_text()
    script = (REPOSITORY / "docker/entrypoint.sh").read_text()
    for name in ("/certs", "/resources", "tls.crt", "tls.key", "ca.crt", "XDS_INSECURE_XDS=1"):
        assert name in page, name
        assert name in script, name
