"""Start on loopback what a team runs on several machines, with passwords and TLS. Ctrl-C stops everything.

The commands are in the `Procfile` next to this file. PostgreSQL stores the databases of MLflow and Prefect; S3 stores
the artifacts and the bucket. Dask has a scheduler and two workers, and two Prefect workers take runs from the pool.
Each of the two "machines" has its own home folder. A process that exits is restarted. Each process only gets the
passwords that it needs. They are stored under `.local/cluster`, where only you can read them.
"""

import os
import secrets
import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from honcho.environ import parse_procfile

from orchestration import up
from orchestration.startup import prepare_home
from scaling import database
from scaling.certificates import certificates
from wine_quality.command import exit_code
from wine_quality.config import ROOT, Settings
from wine_quality.engines import ONE_THREAD
from wine_quality.environment import prefect_at
from wine_quality.errors import DeploymentError
from wine_quality.files import translate_disk_errors, write_private
from wine_quality.ports import free_port, listens
from wine_quality.processes import companion, last_line, module, run_to_end, wait_until

PROCFILE = Path(__file__).with_name("Procfile")
START_SECONDS = 120
RESTARTS = 20  # of one process before the whole cluster stops
ENCRYPTED = {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"}
READY = {"dask-": "Registered to", "prefect-": "started!"}  # what a worker logs when it is ready


class Cluster:
    """The environment and the health of each process of a cluster, whose files are in one folder."""

    def __init__(self, config: Settings, folder: Path) -> None:
        self.config, self.folder, self.tls = config, folder, certificates(folder / "tls").resolve()
        ports = {"prefect": config.prefect_port, "mlflow": config.mlflow_port, "s3": config.s3_port}
        self.ports = {**ports, "dask": free_port(), "postgres": free_port()}
        self.url = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        own = database.address(database.ADMIN, self.secret("postgres"), self.ports["postgres"])
        self.admin = os.environ.get("WINE_POSTGRES") or own

    def secret(self, name: str) -> str:
        """Return a random password, created on first use and stored in a file that only you can read."""
        path = self.folder / "secrets" / name
        if not path.exists():
            write_private(path, secrets.token_hex(20).encode())
        return path.read_text()

    def account(self, server: str) -> tuple[str, str]:
        """Return the user name and the password of MLflow's or Prefect's server."""
        return "wine", self.secret(f"{server}-server")

    def s3_keys(self, user: str) -> dict[str, str]:
        """Return the S3 settings with the keys of one of its users."""
        keys = {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": self.secret(f"s3-{user}")}
        return {"AWS_ENDPOINT_URL_S3": self.url["s3"], "AWS_DEFAULT_REGION": "us-east-1", **keys}

    def client(self) -> dict[str, str]:
        """Return the environment that a command needs to use the cluster."""
        user, password = self.account("mlflow")
        return {
            "MLFLOW_TRACKING_URI": self.url["mlflow"],
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": password,
            "PREFECT_API_URL": f"{self.url['prefect']}/api",
            "PREFECT_API_AUTH_STRING": ":".join(self.account("prefect")),
            **self.s3_keys("bucket"),
            "WINE_DASK": f"tls://127.0.0.1:{self.ports['dask']}",
            "WINE_DASK_TLS": str(self.tls),
        }

    def machine(self, number: str) -> dict[str, str]:
        """Return the environment of a worker: that of a client, with a separate home folder."""
        home = self.folder / f"machine-{number}"
        (home / ".local").mkdir(parents=True, exist_ok=True)
        own = {"WINE_HOME": str(home.resolve()), "PREFECT_HOME": str(home.resolve() / ".local" / "prefect")}
        return {**self.client(), **own, "WINE_CHECKOUT": str(ROOT), "PREFECT_WORKER_QUERY_SECONDS": "2"}

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment that a process needs."""
        kind, _, number = name.partition("-")
        if number:
            limits = {**ENCRYPTED, **ONE_THREAD, "WORKER_MEMORY": str(int(self.config.memory))}
            return {**self.machine(number), "TLS": str(self.tls), **(limits if kind == "dask" else {})}
        if kind == "postgres":
            programs, user = str(database.programs()), " ".join(database.as_unprivileged())
            return {"POSTGRES_PROGRAMS": programs, "AS_POSTGRES": user, "POSTGRES_PORT": str(self.ports[name])}
        if kind == "dask":
            return {**ENCRYPTED, "TLS": str(self.tls), "DASK_PORT": str(self.ports[name])}
        if kind == "s3":
            keys = [f'"{user},{self.secret(f"s3-{user}")}"' for user in ("bucket", "artifacts")]
            return {"RCLONE_AUTH_KEY": ",".join(keys), "WINE_S3_PORT": str(self.ports[name])}
        account, url = ":".join(self.account(kind)), database.url_of(self.admin, kind, self.secret(kind))
        if kind == "mlflow":
            own = {**up.QUIET, "MLFLOW_BACKEND_STORE_URI": url, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            own |= {"MLFLOW_S3_ENDPOINT_URL": self.url["s3"], "WINE_MLFLOW_PORT": str(self.ports[name])}
            return {**own, "SERVER_AUTH_STRING": account, **self.s3_keys("artifacts")}
        own = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url, "PREFECT_SERVER_API_AUTH_STRING": account}
        return {**prefect_at(self.ports[name]), **own, "PREFECT_HOME": str(self.folder / "prefect")}

    def is_healthy(self, name: str) -> bool:
        """Return whether a server answers, or a worker has logged that it is ready."""
        kind, worker, _ = name.partition("-")
        if worker:
            return READY[f"{kind}-"] in self.log(name).read_text(errors="replace")
        if name == "postgres":
            return database.answers(self.admin)
        if name in ("s3", "dask"):
            return listens(self.ports[name])
        path = {"mlflow": "/health", "prefect": "/api/admin/version"}[name]
        try:
            return httpx.get(self.url[name] + path, auth=self.account(name), timeout=3).is_success
        except httpx.HTTPError:
            return False

    def log(self, name: str) -> Path:
        """Return the path of a process's log."""
        return self.folder / f"{name}.log"


class Process:
    """A process of the cluster, which ends when this one does."""

    def __init__(self, cluster: Cluster, name: str, command: str) -> None:
        self.cluster, self.name, self.restarts, self.running = cluster, name, 0, ExitStack()
        self.command: list[str | Path] = ["/bin/sh", "-c", f"exec {command}"]

    def __enter__(self) -> "Process":
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        own = {"PATH": path, "FOLDER": str(self.cluster.folder), "PYTHONUNBUFFERED": "1"}
        own |= self.cluster.environment(self.name)
        log, stop = self.cluster.log(self.name), "INT" if self.name == "postgres" else "TERM"
        process = self.process = self.running.enter_context(companion(self.command, log, own, stop))
        wait_until(lambda: process.poll() is not None or self.cluster.is_healthy(self.name), self.name, START_SECONDS)
        if process.poll() is not None:
            raise DeploymentError(f"{self.name} did not start: {last_line(log)}. {log} has more.")
        return self

    def __exit__(self, *_: object) -> None:
        self.running.close()

    def restart_if_ended(self) -> None:
        """Restart the process if it has exited; raise `DeploymentError` if that happened too often."""
        if (code := self.process.poll()) is None:
            return
        self.restarts += 1
        if self.restarts > RESTARTS:
            raise DeploymentError(
                f"{self.name} ended more than {RESTARTS} times. {self.cluster.log(self.name)} says why."
            )
        print(f"{self.name} ended with exit code {code}: starting it again", flush=True)
        self.running.close()
        self.__enter__()


def prepare(config: Settings) -> Cluster:
    """Create the folder with passwords, certificates and PostgreSQL's data; raise `WineError` if that fails."""
    up.assert_free(config)
    folder = config.local / "cluster"
    with translate_disk_errors(folder):
        for bucket in (config.bucket, "mlflow"):
            (folder / "s3" / bucket).mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)  # PostgreSQL's user must reach its data
    cluster = Cluster(config, folder.resolve())
    if not os.environ.get("WINE_POSTGRES"):
        database.create_cluster(cluster.folder / "postgres", cluster.secret("postgres"))
    return cluster


def start(cluster: Cluster, until_end: ExitStack) -> list[Process]:
    """Start the processes one by one, each when the previous one is healthy, and return them."""
    processes, commands = [], dict(parse_procfile(PROCFILE.read_text()).processes)
    if os.environ.get("WINE_POSTGRES"):
        del commands["postgres"]
    for name, command in commands.items():
        if name == "mlflow":
            database.create_database(cluster.admin, "mlflow", cluster.secret("mlflow"))
            database.create_database(cluster.admin, "prefect", cluster.secret("prefect"), "pg_trgm")
        if name == "prefect-1" and run_to_end(module("orchestration.deploy"), cluster.machine("1")):
            raise DeploymentError("The deployments could not be created.")
        processes.append(until_end.enter_context(Process(cluster, name, command)))
        print(f"{name:9} is healthy", flush=True)
    return processes


def report(cluster: Cluster) -> None:
    """Print the addresses, and write the settings and passwords of a client to a file."""
    path = cluster.folder / "client.env"
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in cluster.client().items()]
    write_private(path, "".join(lines).encode())
    where = {**cluster.url, "dask": cluster.client()["WINE_DASK"], "postgres": database.without_password(cluster.admin)}
    for name, url in where.items():
        print(f"{name:9} {url}")
    print(f"In another terminal: . {path}\nLogs are in {cluster.folder}. Ctrl-C stops everything.", flush=True)


def main() -> None:
    """Start the cluster, and restart processes that exit, until this process is stopped."""
    config = prepare_home()
    os.umask(0o077)  # other users of this machine cannot read what the servers write
    cluster = prepare(config)
    with ExitStack() as until_end:
        processes = start(cluster, until_end)
        report(cluster)
        while True:
            for process in processes:
                process.restart_if_ended()
            time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(exit_code(main))
