"""Workers read the settings as plain values: they start without pydantic."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from support import tokens as t

from xds.config import Settings
from xds.identity_settings import IssuerSettings
from xds.serving.feed import encode
from xds.serving.worker_settings import plain


def settings(tmp_path: Path) -> Settings:
    keys = tmp_path / "keys.json"
    keys.write_bytes(t.jwks(t.jwk("ES256")))
    issuer = IssuerSettings(name="corp", issuer="https://issuer", audiences=("xds",), jwks_file=keys)
    return Settings(identity={"source": "token", "issuers": (issuer,)}, transport={"workers": 2})


def same(value: Any, model: Any) -> bool:
    if isinstance(model, tuple):
        return len(value) == len(model) and all(map(same, value, model))
    if not isinstance(model, BaseModel):
        return bool(value == model)
    properties = [name for name, each in vars(type(model)).items() if isinstance(each, property)]
    names = [*type(model).model_fields, *properties]
    return set(vars(value)) == set(names) and all(same(getattr(value, name), getattr(model, name)) for name in names)


def test_a_worker_reads_what_the_settings_say(tmp_path: Path) -> None:
    given = settings(tmp_path)
    read = plain(given)
    assert same(read, given)
    assert read.identity.issuers[0].of_identity.jwks_file == tmp_path / "keys.json"
    with pytest.raises(AttributeError, match="settings are immutable"):
        read.csds = True


def test_a_worker_with_its_settings_has_not_loaded_pydantic(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from xds.serving.worker import decode\n"
        "read = decode(bytes.fromhex(sys.argv[1]))\n"
        "print(read.transport.workers, read.tls.mode, [name for name in sys.modules if name.startswith('pydantic')])"
    )
    command = [sys.executable, "-P", "-c", program, encode(plain(settings(tmp_path))).hex()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("2 off []\n", "")
