"""PostgreSQL for a cluster: our own server or that of `WINE_POSTGRES`, with a role and a database for each tool.

Each role owns its database and can't connect to the other one. The server only receives SCRAM verifiers of passwords.
"""

import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from wine_quality.errors import DeploymentError
from wine_quality.files import translate_disk_errors, write_private

DEBIAN = Path("/usr/lib/postgresql")
ADMIN = "wine_admin"
DRIVERS = {"mlflow": "psycopg", "prefect": "asyncpg"}
INSTALL = "Install it (on Debian and Ubuntu: sudo apt install postgresql), or name a server in WINE_POSTGRES."


def programs() -> Path:
    """Return the program folder of the newest PostgreSQL that is installed."""
    found = DEBIAN.glob("*/bin/initdb")
    newest = max(found, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], default=None)
    if newest is None:
        raise DeploymentError(f"PostgreSQL is not in {DEBIAN}. {INSTALL}")
    return newest.parent


def create_cluster(folder: Path, password: str) -> None:
    """Create the data of a server in `folder/data` unless it exists; raise `DeploymentError` if that fails."""
    if (folder / "data").exists():
        return
    part, file, user = folder / "part", folder / "password", unprivileged()
    with translate_disk_errors(folder):
        shutil.rmtree(part, ignore_errors=True)
        write_private(file, password.encode())
        if user:
            shutil.chown(folder, user)
            shutil.chown(file, user)
    options = [f"--username={ADMIN}", f"--pwfile={file}", "--auth=scram-sha-256", "--no-locale", "--encoding=UTF8"]
    command = [*as_unprivileged(), programs() / "initdb", *options, part]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True)
    file.unlink()
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["initdb printed nothing"])[-1]
        raise DeploymentError(f"PostgreSQL cannot use {folder}{f' as user {user}' if user else ''}: {last}. {INSTALL}")
    part.rename(folder / "data")


def unprivileged() -> str | None:
    """Return the user to run PostgreSQL as if the current one is root, which it refuses; otherwise None."""
    known = {user.pw_name for user in pwd.getpwall()}
    return None if os.geteuid() else next(name for name in ("postgres", "nobody") if name in known)


def as_unprivileged() -> list[str]:
    """Return the prefix that makes a command run as that user."""
    if not (user := unprivileged()):
        return []
    return ["setpriv", "--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid), "--clear-groups"]


def address(user: str, password: str, port: int) -> str:
    """Return the address of our own server."""
    return f"postgresql://{user}:{password}@127.0.0.1:{port}/postgres"


def url_of(admin: str, tool: str, password: str) -> str:
    """Return the address of a tool's database for its own role and driver, on the server of an administrator."""
    own = make_url(admin).set(username=tool, password=password, database=tool)
    return own.set(drivername=f"postgresql+{DRIVERS[tool]}").render_as_string(hide_password=False)


def without_password(url: str) -> str:
    """Return an address with its password masked."""
    return make_url(url).render_as_string()


def answers(url: str) -> bool:
    """Return whether a server accepts connections."""
    try:
        psycopg.connect(url, connect_timeout=3).close()
    except psycopg.OperationalError:
        return False
    return True


def create_database(admin: str, name: str, password: str, *extensions: str) -> None:
    """Create a role and a database with the same name if they are missing.

    Raise `DeploymentError` if the administrator can't connect or lacks the privileges, or if the role exists with
    another password, because then another cluster uses it.
    """
    role = sql.Identifier(name)
    try:
        with psycopg.connect(admin, autocommit=True, connect_timeout=5) as server:
            has_role = server.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).rowcount
            has_database = server.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount
            if has_role:
                own = make_url(admin).set(username=name, password=password)
                assert_ours(own.set(database=name) if has_database else own)
            else:
                verifier = server.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
                server.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, verifier))
            if not has_database:
                server.execute(
                    sql.SQL("GRANT {} TO CURRENT_USER").format(role)
                )  # else only a superuser could create the database
                server.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
            server.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(role))
        with psycopg.connect(admin, dbname=name, autocommit=True, connect_timeout=5) as database:
            for extension in extensions:
                database.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(extension)))
    except psycopg.Error as error:
        line = str(error).strip().splitlines()[0]
        raise DeploymentError(f"PostgreSQL: {line}. Fix WINE_POSTGRES, or unset it to start a server here.") from None


def assert_ours(url: URL) -> None:
    """Raise `DeploymentError` if a role that exists can't connect with the password in its address."""
    try:
        psycopg.connect(url.render_as_string(hide_password=False), connect_timeout=5).close()
    except psycopg.OperationalError as error:
        raise DeploymentError(
            f"PostgreSQL: the role {url.username} exists, but this cluster's password for it is refused "
            f"({str(error).strip().splitlines()[-1]}). Use a server of your own, or drop the role and its database."
        ) from None
