"""Set up what a worker needs: the work pool, the blocks of the bucket, the deployments of `prefect.yaml`.

Run it with `make deploy`, as often as you like. It creates what is missing and updates a deployment whose definition in
`prefect.yaml` has changed. Everything else stays as it is, because you may have edited it in the UI: schedules, pauses,
automations, limits, blocks.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker
from prefect_aws import AwsCredentials

from orchestration.bucket import BLOCK, bucket_at, bucket_of_environment, laptop, saved_bucket
from orchestration.gate import LIMIT, is_shared, make_limit
from orchestration.prefect_server import without_credentials
from orchestration.startup import connect_quietly, prepare_home
from wine_quality.command import exit_code
from wine_quality.config import ROOT, Settings
from wine_quality.errors import DeploymentError

POOL, RUNS_AT_ONCE = "wine", 2
CREDENTIALS = "wine-credentials"
PREFECT_FILE = Path("orchestration") / "prefect.yaml"


def make_pool() -> None:
    """Create the work pool, or leave an existing one that has deployments unchanged."""
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):  # a worker that started earlier has created it, without a limit
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        if not deployed():
            client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=RUNS_AT_ONCE))
        pool = client.read_work_pool(POOL)
    limit = "any number of" if pool.concurrency_limit is None else f"at most {pool.concurrency_limit}"
    print(f"pool      {POOL}, {limit} runs at once{', paused' if pool.is_paused else ''}")


def save_blocks(config: Settings) -> None:
    """Save the bucket and its credentials as blocks, if they don't exist yet."""
    prefect("block", "register", "--module", "prefect_aws")
    if saved_bucket():
        print(f"block     {BLOCK}, unchanged; delete it in the UI to have it created again")
        return
    bucket = bucket_of_environment(config) or bucket_at(laptop(config), config)
    bucket.credentials.save(CREDENTIALS, overwrite=True)
    bucket.credentials = AwsCredentials.load(CREDENTIALS)  # pyright: ignore[reportAttributeAccessIssue]
    bucket.save(BLOCK)
    print(f"block     {BLOCK}, with the keys in {CREDENTIALS}")


def deploy() -> None:
    """Create the deployments that are missing, and update those whose definition in `prefect.yaml` has changed."""
    file = yaml.safe_load((ROOT / PREFECT_FILE).read_text())
    due = changed(file, {one.name: one.version for one in deployed()})
    if due:
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / PREFECT_FILE.name
            part.write_text(yaml.safe_dump({**file, "deployments": due}))
            prefect("--no-prompt", "deploy", "--prefect-file", str(part), "--all")
    updated = {one["name"] for one in due}
    for deployment in deployed():
        if deployment.name in updated:
            print(f"deploy    {deployment.name}: {str(deployment.description).splitlines()[0]}")
        else:
            print(f"unchanged {deployment.name}, with your edits in Prefect: {state_of(deployment)}")


def deployed() -> list[DeploymentResponse]:
    """Return the deployments of the work pool, by name."""
    with get_client(sync_client=True) as client:
        deployments = [one for one in client.read_deployments() if one.work_pool_name == POOL]
    return sorted(deployments, key=lambda one: one.name)


def changed(file: dict[str, Any], versions: dict[str, str | None]) -> list[dict[str, Any]]:
    """Return the definitions of a file whose checksum is not the version that is deployed under their name."""
    definitions = []
    for one in file["deployments"]:
        definition = json.dumps([file["pull"], one], sort_keys=True)
        definitions.append({**one, "version": hashlib.sha256(definition.encode()).hexdigest()[:12]})
    return [one for one in definitions if versions.get(one["name"]) != one["version"]]


def state_of(deployment: DeploymentResponse) -> str:
    """Return whether a deployment is paused, and when it runs."""
    if deployment.paused:
        return "paused"
    active = [one.schedule.model_dump() for one in deployment.schedules if one.active]
    when = [str(one.get("cron") or one.get("interval") or one.get("rrule")) for one in active]
    return f"runs {' and '.join(when)}" if when else "no schedule is on"


def prefect(*words: str) -> None:
    """Run a command of Prefect in the project's root; raise a `DeploymentError` with its last line if it fails."""
    command = [str(Path(sys.executable).with_name("prefect")), *words]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        last = ((done.stderr.strip() or done.stdout.strip()).splitlines() or ["no output"])[-1]
        raise DeploymentError(f"prefect {' '.join(words)}: {last}. Fix {PREFECT_FILE} and run make deploy again.")


def main() -> None:
    """Set everything up, and print what to do next."""
    prepare_home()
    where = without_credentials(PREFECT_API_URL.value() or "").removesuffix("/api")
    config = connect_quietly()
    make_pool()
    if is_shared(config):
        make_limit()
        print(f"limit     {LIMIT}, one run at a time compares, registers and promotes")
    save_blocks(config)
    deploy()
    print(f"now open {where}/deployments" if where else "now start the servers: make up")


if __name__ == "__main__":
    sys.exit(exit_code(main))
