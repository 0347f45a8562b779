"""What is known against the packages of requirements.lock, and under which licences they come: `make audit`.

The faults are those that the package registry knows of each package and version (pip-audit); the exit status is 1 if
there are any, or if the registry does not answer. Licences are read from what is installed (pip-licenses), and no
answer to whether they fit: those that ask more than to be named are listed.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tools.install import LOCK

MORE: Final = re.compile(r"GPL|GNU|EPL|MPL|Eclipse|Mozilla|unknown", re.IGNORECASE)
"""Licences that ask more than to be named; and none at all."""


def licences() -> list[str]:
    """How many installed packages have which licence, and the packages whose licence asks for more."""
    done = subprocess.run(
        [sys.executable, "-m", "piplicenses", "--format=json"], stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    found: dict[str, str] = {each["Name"]: " ".join(each["License"].split())[:60] for each in json.loads(done.stdout)}
    counts = Counter(found.values()).most_common()
    special = [f"  {name}: {licence}" for name, licence in sorted(found.items()) if MORE.search(licence)]
    return [
        *(f"{count:4}  {licence}" for licence, count in counts),
        "of these ask for more than to be named:",
        *special,
    ]


def faults(lock: Path = LOCK) -> tuple[list[str], int]:
    """What the registry knows against the packages of a lock file; and the exit status."""
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner=off",
         "--format=json", f"--requirement={lock}"],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, LookupError):
        last = done.stderr.strip().splitlines()[-1:]
        return [f"not audited: the package registry does not answer from here ({''.join(last)[:300]})"], 1
    known = [
        f"{each['name']} {each['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'no version'}"
        for each in packages
        for fault in each.get("vulns", ())
    ]
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    told = [*known, f"{len(packages) - len(skipped)} of {len(packages)} packages audited, {len(known)} known faults"]
    if skipped:
        told.append(f"not audited, since the registry says nothing of them here: {len(skipped)}, such as {skipped[0]}")
    return told, 1 if known or skipped else 0


def main() -> None:
    """The command line."""
    print("\n".join(licences()))
    told, status = faults()
    print("\n".join(told))
    sys.exit(status)


if __name__ == "__main__":
    main()
