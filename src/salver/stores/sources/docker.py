"""Credentials that ``docker login`` has stored, in its file or with a helper.

By docker's documentation: a host's own helper (``credHelpers``) goes first, then the common one
(``credsStore``), then the file itself (``auths``). Some registries issue an identity token at login instead
of a password.
"""

import base64
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from salver.stores.sources.distribution import DOCKER_IO, IDENTITY, Credentials
from salver.words.errors import InvalidInput

_MOST_CONFIG: Final = 1 << 20
_DOCKER_HUB: Final = "https://index.docker.io/v1/"  # as ``docker login`` calls it
_HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_SECONDS: Final = 20.0
_NOTHING: Final = "credentials not found in native keychain"  # a helper's answer if it has none


def docker_credentials(environment: Mapping[str, str], seconds: float = _SECONDS) -> Credentials:
    """Return names and passwords, or identity tokens, by a registry's host.

    Args:
        seconds: Longest time for a helper to answer.
    """

    def of(host: str) -> tuple[str, str] | None:
        folder = environment.get("DOCKER_CONFIG") or Path(environment.get("HOME", "")) / ".docker"
        file = Path(folder, "config.json")
        names = (host, _DOCKER_HUB) if host == DOCKER_IO else (host,)
        try:
            with file.open("rb") as opened:
                said = msgspec.json.decode(opened.read(_MOST_CONFIG))
            helpers, known = said.get("credHelpers", {}), said.get("auths", {})
            asked = [(helpers.get(name) or said.get("credsStore", ""), name) for name in names]
            entry: Any = next((known[name] for name in names if known.get(name)), {})
            pair = base64.b64decode(entry.get("auth", ""), validate=True).decode()
            identity = entry.get("identitytoken")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError, TypeError, msgspec.DecodeError) as error:
            raise InvalidInput(f"{file} cannot be read: {error}") from error
        for helper, name in asked:
            if helper and (found := _helped(str(helper), name, environment, seconds)):
                return found
        if identity:
            return IDENTITY, str(identity)
        user, colon, password = pair.partition(":")
        return (user, password) if colon else None

    return of


def _helped(helper: str, host: str, environment: Mapping[str, str], seconds: float) -> tuple[str, str] | None:
    """Return a helper's credentials for a host.

    Raises:
        InvalidInput: there is no such helper, or it fails, or does not answer.
    """
    program = f"docker-credential-{helper}"
    if not _HELPER.fullmatch(helper):
        raise InvalidInput(f"docker's config.json names no helper: {helper[:64]!r}")
    try:
        done = subprocess.run(
            [program, "get"],
            input=host.encode(),
            capture_output=True,
            timeout=seconds,
            env=dict(environment),
            check=False,
        )
        if done.returncode != 0:
            words = " ".join((done.stdout + done.stderr).decode(errors="replace").split())[:200]
            if _NOTHING in words:
                return None
            raise InvalidInput(f"{program} fails for {host}: {words}", fix=f"Log in: docker login {host}")
        said = json.loads(done.stdout)
        user, secret = said["Username"], said["Secret"]
    except subprocess.TimeoutExpired as error:
        raise InvalidInput(f"{program} did not answer within {seconds:g} s") from error
    except OSError as error:
        raise InvalidInput(
            f"{program}, which docker's config.json names for {host}, cannot be run: {error.strerror}",
            fix="Install it, or take it out of config.json.",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{program} returns no name and password for {host}") from error
    if not secret:
        return None
    return (str(user), str(secret))
