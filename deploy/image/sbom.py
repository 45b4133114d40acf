"""Completes the bill of materials of an image: Python's packages, the system's, and the weights.

Run while the image is built, with `cyclonedx-bom` installed:
`python sbom.py PACKAGES.json WEIGHTS > sbom.cdx.json`, where the first is what
`cyclonedx-py environment` wrote, and the second is the directory with the weights' manifest.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

DPKG_FORMAT = "${Package}\t${Version}\t${Architecture}\n"


def system_packages(listed: str, distribution: str) -> Iterator[Component]:
    """What Debian's package manager lists as installed.

    Args:
        listed: Lines as `DPKG_FORMAT` says.
        distribution: Such as `debian-12`.
    """
    for line in listed.splitlines():
        name, version, architecture = line.split("\t")
        qualifiers = {"arch": architecture, "distro": distribution}
        purl = PackageURL("deb", distribution.partition("-")[0], name, version, qualifiers)
        yield Component(name=name, version=version, purl=purl, bom_ref=str(purl))


def weights(manifest: Path) -> Iterator[Component]:
    """Every directory of weights that is there, with the digest of each of its files."""
    for row in json.loads(manifest.read_text(encoding="utf-8"))["weights"]:
        if not (manifest.parent / row["path"]).is_dir():
            continue  # the laboratory's
        files = [
            Component(
                name=f"{row['path']}/{name}",
                type=ComponentType.FILE,
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
                bom_ref=f"weights/{row['path']}/{name}",
            )
            for name, digest in row["sha256"].items()
        ]
        yield Component(
            name=row["name"],
            type=ComponentType.MACHINE_LEARNING_MODEL,
            description=f"made by: {row['command']}",
            licenses=[LicenseFactory().make_from_string(row["licence"])],
            components=files,
            bom_ref=f"weights/{row['name']}",
        )


def complete(packages: str, others: Iterator[Component]) -> str:
    """The whole bill as JSON, checked against CycloneDX's schema.

    Raises:
        ValueError: It is not valid.
    """
    bom: Bom = Bom.from_json(json.loads(packages))  # type: ignore[attr-defined]
    bom.components.update(others)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem is not None:
        raise ValueError(problem)
    return text


def main(packages: Path, weights_directory: Path) -> None:
    """Writes the bill to standard output."""

    def others() -> Iterator[Component]:
        release = dict(
            line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
        )
        distribution = f"{release['ID']}-{release['VERSION_ID']}".replace('"', "")
        query = ["dpkg-query", "--show", "--showformat", DPKG_FORMAT]
        listed = subprocess.run(query, check=True, capture_output=True, text=True).stdout  # noqa: S603 - a constant
        yield from system_packages(listed, distribution)
        yield from weights(weights_directory / "manifest.json")

    sys.stdout.write(complete(packages.read_text(encoding="utf-8"), others()) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
