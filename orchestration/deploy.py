"""Set up what a worker needs: the work pool, the blocks of the bucket, the deployments of `prefect.yaml`.

Run it with `make deploy`, as often as you like: the pool and the deployments become what the code says, and blocks that
are there stay as they are, for you may have edited them.
"""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker
from prefect_aws import AwsCredentials

from orchestration import prepare_home
from orchestration.bucket import BLOCK, bucket_at, bucket_of_environment, laptop, saved_bucket
from orchestration.show import quiet
from wine_quality.config import ROOT, Settings, settings
from wine_quality.errors import DeploymentError, exit_code

POOL, RUNS_AT_ONCE = "wine", 2
CREDENTIALS = "wine-credentials"
PREFECT_FILE = Path("orchestration") / "prefect.yaml"


def make_pool() -> None:
    """Make the work pool, or give the one that is there the limit that the code says."""
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=RUNS_AT_ONCE))
    print(f"pool      {POOL}, at most {RUNS_AT_ONCE} runs at once")


def save_blocks(config: Settings) -> None:
    """Save the bucket and its credentials as blocks, where there is no such block yet."""
    prefect("block", "register", "--module", "prefect_aws")
    if saved_bucket():
        print(f"block     {BLOCK}, kept as it is; delete it in the UI to have it made anew")
        return
    bucket = bucket_of_environment(config) or bucket_at(laptop(config), config)
    bucket.credentials.save(CREDENTIALS, overwrite=True)
    bucket.credentials = AwsCredentials.load(CREDENTIALS)
    bucket.save(BLOCK)
    print(f"block     {BLOCK}, with the keys in {CREDENTIALS}")


def deploy() -> None:
    """Make the deployments what `prefect.yaml` says."""
    prefect("--no-prompt", "deploy", "--prefect-file", str(PREFECT_FILE), "--all")
    with get_client(sync_client=True) as client:
        for found in sorted(client.read_deployments(), key=lambda found: found.name):
            if found.work_pool_name == POOL:
                print(f"deploy    {found.name}: {found.description.splitlines()[0]}")


def prefect(*words: str) -> None:
    """Run a command of Prefect in the project's root.

    Raises
    ------
    DeploymentError
        It failed; the line is its last.
    """
    command = [str(Path(sys.executable).with_name("prefect")), *words]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        last = ((done.stderr.strip() or done.stdout.strip()).splitlines() or ["it said nothing"])[-1]
        raise DeploymentError(f"prefect {' '.join(words)}: {last}. Mend {PREFECT_FILE} and run make deploy again.")


def main() -> None:
    """Set all of it up, and say what to do next."""
    prepare_home()
    quiet()
    config = settings()
    make_pool()
    save_blocks(config)
    deploy()
    where = os.environ.get("PREFECT_API_URL", "").removesuffix("/api")
    print(f"now open {where}/deployments" if where else "now start the servers: make up")


if __name__ == "__main__":
    sys.exit(exit_code(main))
