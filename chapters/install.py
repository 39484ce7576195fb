"""Install requirements.txt into .venv with uv, which takes seconds where pip takes minutes.

uv reads neither pip's configuration files nor its `PIP_…` variables. So pip's settings for the index,
certificates and proxy are passed to uv in environment variables, because an index may contain a password, which a
command line would show. uv's own settings take precedence.

`make setup` runs this file with the Python of .venv, before any package is installed.
"""

import ast
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / ".local" / "setup.log"
# relative, because Python doesn't start if the locale can't decode a path
IMPORTABLE = "../../../..\nimport wine_quality.environment; wine_quality.environment.apply()\n"
# by a pattern in the log; the first match counts
ADVICE = {
    "certificate": "The server's certificate is not trusted: name its CA in PIP_CERT=/path/to/ca.pem, or in pip.conf",
    "no space left|os error 28": "Free some space",
    "permission denied|read-only file system": "Give yourself write permission to this folder",
    "connect|timed out|timeout|resolve|name resolution|dns error|unreachable|proxy": "Check your network "
    "connection, and the proxy and the index if you have set them (PIP_INDEX_URL, pip.conf)",
    "unauthorized|forbidden|no matching distribution|no solution found|not found in": "The index lacks a package, or "
    "rejects your login: fix its address and password in pip's settings (PIP_INDEX_URL, pip.conf)",
}


def pip_settings() -> dict[str, str]:
    """Return pip's settings for an install, from its variables and configuration files, by the names of its options."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    settings: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for section, name, value in re.findall(r"^([^=\n]+)\.([^=.\n]+)=(.*)$", listed, re.MULTILINE):
        settings.get(section, {})[name] = ast.literal_eval(value)
    return settings["global"] | settings["install"] | settings[":env:"]


def uv_environment(pip: dict[str, str]) -> dict[str, str]:
    """Return the environment that makes uv work as pip would."""
    cert = pip.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or ""
    settings = {
        "UV_DEFAULT_INDEX": pip.get("index-url"),
        "UV_INDEX": " ".join(pip.get("extra-index-url", "").split()),
        "UV_FIND_LINKS": ",".join(pip.get("find-links", "").split()),
        "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", "").split()),
        "UV_SYSTEM_CERTS": "true",
        "SSL_CERT_DIR" if Path(cert).is_dir() else "SSL_CERT_FILE": cert,
        "SSL_CLIENT_CERT": pip.get("client-cert"),
        "ALL_PROXY": pip.get("proxy"),
        "UV_CACHE_DIR": None if is_cache_writable() else str(ROOT / ".local" / "uv-cache"),
    }
    if settings["UV_INDEX"]:
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # treat all indexes alike, as pip does
    if {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & os.environ.keys():
        settings["UV_DEFAULT_INDEX"] = None
    return {name: value for name, value in settings.items() if value} | dict(os.environ)


def is_cache_writable() -> bool:
    """Return whether uv may write to its cache folder, or create it."""
    cache = subprocess.run([sys.executable, "-m", "uv", "cache", "dir"], capture_output=True, text=True)
    folder = Path(cache.stdout.strip())
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return cache.returncode == 0 and os.access(existing, os.W_OK | os.X_OK)


def run_logged(words: list[str], environment: dict[str, str]) -> None:
    """Run a module with this Python and append its output to the log; if it fails, print why and exit."""
    command, pipe = [sys.executable, "-m", *words], subprocess.PIPE
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT)
    output = re.sub(r"://[^/@\s]+@", "://…@", done.stdout.decode("utf-8", "replace"))
    with LOG.open("a", encoding="utf-8") as log:
        log.write(output)
    if done.returncode:
        last = [line.strip() for line in output.splitlines() if line.strip()][-4:]
        fitting = (advice for cause, advice in ADVICE.items() if re.search(cause, output, re.IGNORECASE))
        advice = next(fitting, "See the log")
        first = f"error: packages could not be installed. {advice}. The details are in .local/setup.log:"
        print(first, *(f"  {line}" for line in last), sep="\n", file=sys.stderr)
        sys.exit(1)


def main(uv: str, requirements: str = "requirements.txt") -> None:
    """Install uv with pip and everything else with uv, and make the package importable."""
    sys.stderr.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("", encoding="utf-8")
    run_logged(["pip", "install", "--no-input", "--retries", "1", uv], dict(os.environ))
    pip = pip_settings()
    no_index = ["--no-index"] if pip.get("no-index", "").lower() in ("1", "true", "yes", "on") else []
    install = ["uv", "pip", "install", "--compile-bytecode", "--python", sys.executable, "-r", requirements]
    run_logged([*install, *no_index], uv_environment(pip))
    Path(sysconfig.get_path("purelib"), "wine_quality.pth").write_text(IMPORTABLE, encoding="ascii")


if __name__ == "__main__":
    main(*sys.argv[1:])
