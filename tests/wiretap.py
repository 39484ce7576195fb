"""What a command and all that it starts ask of the network, seen by strace at the kernel: native code hides nothing."""

import re
import shutil
from pathlib import Path

TRACED = "connect,sendto,sendmsg,sendmmsg"
CALL = re.compile(r"^\d+<(?P<name>[^>]*)> (?:connect|sendto|sendmsg|sendmmsg)\((?P<arguments>.*)")
ADDRESS = re.compile(
    r'sin_port=htons\((?P<port>\d+)\), sin_addr=inet_addr\("(?P<v4>[^"]+)"\)'
    r'|sin6_port=htons\((?P<port6>\d+)\).*?inet_pton\(AF_INET6, "(?P<v6>[^"]+)"'
)
TO_RESOLVER = re.compile(r"->\[?[0-9a-f.:]+\]?:53\]>")
LOOPBACK = re.compile(r"127\.|::1$|::ffff:127\.|0\.0\.0\.0$|::$")
DNS = "53"


def tapped(log: Path) -> list[str]:
    """Return what to put before a command so that its use of the network is logged; nothing without strace."""
    strace = shutil.which("strace")
    if not strace:
        return []
    quiet = ["-f", "--seccomp-bpf", "-qq", "-yy", "-Y", "-s", "256", "-e", "signal=none", "-e", f"trace={TRACED}"]
    return [strace, *quiet, "-A", "-o", str(log), "--"]


def foreign(log: Path) -> list[str]:
    """Return each contact in a log that goes beyond loopback: which process, and the address or the name."""
    if not log.exists():
        return []
    calls = filter(None, map(CALL.match, log.read_text(errors="replace").splitlines()))
    return sorted({f"{call['name']}: {where}" for call in calls if (where := beyond_loopback(call["arguments"]))})


def beyond_loopback(arguments: str) -> str:
    """Return where one call goes that leaves this machine, or an empty text; a look-up counts wherever it is sent."""
    address = ADDRESS.search(arguments)
    where, port = (address["v4"] or address["v6"], address["port"] or address["port6"]) if address else ("", "")
    if port == DNS or TO_RESOLVER.search(arguments):
        return f"a look-up of {name_in(arguments) or 'some name'}"
    return f"{where} port {port}" if where and not LOOPBACK.match(where) else ""


def name_in(arguments: str) -> str:
    """Return the name that a DNS query in a call asks for, of its first message."""
    labels = re.findall(r"(?:\\[0-7]{1,3}|\\[a-z])([A-Za-z0-9-]{2,63})(?=\\)", arguments)
    return ".".join(labels)
