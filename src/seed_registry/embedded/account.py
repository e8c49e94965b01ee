"""Run commands as the user of the embedded server.

Postgres refuses to run as root: then it runs as the system user `seed-registry`, created if it is missing.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from seed_registry.errors import EmbeddedServerFailed
from seed_registry.escape import quote_text

_USER = "seed-registry"
_LIBRARIES = ("usr/lib", "usr/lib/*", "usr/lib64", "lib", "lib/*", "lib64")


class OsAccount(Struct, frozen=True):
    """The user that the server runs as: this process's, or another one if that is root."""

    uid: int
    gid: int

    def run(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path = Path("/"),
        text: str = "",
        fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, in a session of its own, with `env` and little else of our environment."""
        other: dict[str, Any] = {}
        if self.uid != os.geteuid():
            other = {"user": self.uid, "group": self.gid, "extra_groups": ()}
        # PG* variables would change the server, and DATABASE_URL may hold a password.
        known = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in os.environ}
        return subprocess.run(  # noqa: S603  # only the bundled programs and `test`
            command,
            **other,
            cwd=cwd,
            env={"PATH": os.defpath} | known | {"LC_ALL": "C"} | dict(env or {}),
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            pass_fds=fds,
            start_new_session=True,
            umask=0o077,
            check=False,
        )

    @contextmanager
    def named(self, directory: Path) -> Iterator[dict[str, str]]:
        """Yield the environment variables that give this user a name, which initdb requires.

        In a container the user id may have no passwd entry. Then libnss_wrapper (https://cwrap.org/nss_wrapper.html)
        provides one from a file in `directory`, as in the official image. Raises EmbeddedServerFailed where it is not
        installed.
        """
        with suppress(KeyError):
            pwd.getpwuid(self.uid)
            yield {}
            return
        wrapper = next((path for place in _LIBRARIES for path in Path("/").glob(f"{place}/libnss_wrapper.so")), None)
        if wrapper is None:
            raise EmbeddedServerFailed(
                f"user id {self.uid} has no entry in /etc/passwd, and Postgres creates no database without one\n"
                f"create one where the image is built (useradd -u {self.uid} loader), or install libnss-wrapper there, "
                "or name a server with --database-url"
            )
        with tempfile.TemporaryDirectory(prefix="name.", dir=directory) as place:
            passwd, group = Path(place, "passwd"), Path(place, "group")
            passwd.write_text(f"{_USER}:x:{self.uid}:{self.gid}::/:/bin/false\n")
            group.write_text(f"{_USER}:x:{self.gid}:\n")
            yield {"LD_PRELOAD": str(wrapper), "NSS_WRAPPER_PASSWD": str(passwd), "NSS_WRAPPER_GROUP": str(group)}

    def can(self, *command: str | Path) -> bool:
        """Whether this user runs the command with success."""
        try:
            return self.run(command).returncode == 0
        except OSError:
            return False

    def own(self, directory: Path) -> Path:
        """Create the directory, private to this user, unless it exists; raise if it is anything else."""
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            os.chown(directory, self.uid, self.gid)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != self.uid:
            raise EmbeddedServerFailed(
                f"{quote_text(directory)} is no directory of the user with id {self.uid}, "
                "which the embedded server runs as\n"
                "move it away, or set SEED_REGISTRY_HOME to another place"
            )
        directory.chmod(0o700)
        if not self.can("test", "-x", directory):
            raise EmbeddedServerFailed(
                f"the user with id {self.uid}, which the embedded server runs as, "
                f"cannot reach {quote_text(directory)}\n"
                "set SEED_REGISTRY_HOME to a place that every user can pass through (all directories above it o+x)"
            )
        return directory


def server_account() -> OsAccount:
    """Return the account that Postgres will run as; root creates its user if it is missing.

    Without `useradd` it is `nobody`. Raises EmbeddedServerFailed.
    """
    if os.geteuid() != 0:
        return OsAccount(os.geteuid(), os.getegid())
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    with suppress(KeyError):
        return _account_of(_USER)
    if not useradd:
        return _account_of("nobody")
    nologin = shutil.which("nologin", path="/usr/sbin:/sbin") or "/bin/false"
    made = OsAccount(0, 0).run((useradd, "--system", "--no-create-home", "--shell", nologin, _USER))
    try:
        return _account_of(_USER)  # also when another process was faster
    except KeyError as exc:
        raise EmbeddedServerFailed(
            f"root cannot run Postgres, and the user {_USER} cannot be created: {quote_text(made.stderr.strip())}\n"
            f"create it with `useradd --system {_USER}`, or run as a plain user"
        ) from exc


def _account_of(name: str) -> OsAccount:
    user = pwd.getpwnam(name)
    return OsAccount(user.pw_uid, user.pw_gid)
