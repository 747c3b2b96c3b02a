"""
Makes the software bill of materials of a release, CycloneDX in JSON.

``python release/sbom.py VENV SBOM``: VENV has the wheel and what constraints.txt names, nothing
else. The names, versions and licences are those of its packages; the hashes are those of
constraints.txt, with which pip installs them. The result is validated against the schema.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
OURS = "middlewared"


def bill_of(*source: str) -> dict[str, Any]:
    """What cyclonedx-py reports, without a time of day: the same release has the same bill."""
    command = [
        sys.executable,
        "-m",
        "cyclonedx_py",
        *source,
        "--output-reproducible",
        "--no-validate",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    bill: dict[str, Any] = json.loads(done.stdout)
    return bill


def normalized(component: dict[str, Any]) -> str:
    """A package's name and version, as the index writes them."""
    return f"{re.sub('[-_.]+', '-', component['name']).lower()}=={component['version']}"


def add_hashes(bill: dict[str, Any], pinned: dict[str, Any]) -> None:
    """Each component gets the files that constraints.txt allows, with their hashes."""
    files = {
        normalized(component): component["externalReferences"] for component in pinned["components"]
    }
    for component in bill["components"]:
        component.setdefault("externalReferences", []).extend(files[normalized(component)])


def put_ours_first(bill: dict[str, Any]) -> None:
    """middlewared is what the bill is about, not one of the components."""
    ours = next(each for each in bill["components"] if each["name"] == OURS)
    bill["components"].remove(ours)
    ours["type"] = "application"
    for reference in ours["externalReferences"]:
        if reference["type"] == "distribution":  # not where it lay when the bill was made
            reference["url"] = Path(urlsplit(reference["url"]).path).name
    bill["metadata"]["component"] = ours


def problems_of(text: str) -> list[str]:
    """What the schema objects to, and what a reader of the bill would miss."""
    bill = json.loads(text)
    schema = make_schemabased_validator(
        OutputFormat.JSON, SchemaVersion.from_version(bill["specVersion"])
    )
    problems = [str(error) for error in schema.validate_str(text, all_errors=True) or ()]
    pins = set(re.findall(r"(?m)^(\S+==\S+)", CONSTRAINTS.read_text(encoding="utf-8")))
    missing = pins - {normalized(each) for each in bill["components"]}
    problems += [f"{name} is not in it" for name in missing]
    for each in (bill["metadata"]["component"], *bill["components"]):
        hashed = any(reference.get("hashes") for reference in each["externalReferences"])
        if not (each.get("licenses") and hashed):
            problems.append(f"{each['name']} has no licence or no hash")
    return problems


def main(venv: str, target: str) -> int:
    """Write the bill; returns the exit code."""
    bill = bill_of("environment", venv)
    put_ours_first(bill)
    add_hashes(bill, bill_of("requirements", str(CONSTRAINTS)))
    text = json.dumps(bill, indent=2, sort_keys=True) + "\n"
    problems = problems_of(text)
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        return 1
    Path(target).write_text(text, encoding="utf-8")
    print(
        f"{target}: {OURS} and {len(bill['components'])} packages, CycloneDX {bill['specVersion']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
