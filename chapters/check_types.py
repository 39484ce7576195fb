"""Check the types with basedpyright, a build of pyright: `make lint`.

uv fetches it into its own cache, because the Node.js that it brings is too large for .venv.
"""

import subprocess
import sys

from chapters.install import ROOT, pip_settings, uv_environment

CHECKER = "basedpyright==1.40.2"

if __name__ == "__main__":
    command = [sys.executable, "-m", "uv", "tool", "run", "--from", CHECKER, "basedpyright", *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=ROOT, env=uv_environment(pip_settings())).returncode)
