"""What a release needs of the chart and the changelog. Only the standard library, since it runs before anything else.

python charts/release.py check --version 0.1.0
python charts/release.py chart --version 0.1.0 --registry R --operator sha256:… --trainer sha256:… --to FOLDER
python charts/release.py notes --version 0.1.0
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CHART: Final = ROOT / "charts" / "finetune-operator"
CHANGELOG: Final = ROOT / "CHANGELOG.md"
VERSIONS: Final = (
    (ROOT / "operator" / "finetune_operator" / "__init__.py", r'^__version__ = "(.+)"$'),
    (CHART / "Chart.yaml", r"^version: (.+)$"),
    (CHART / "Chart.yaml", r"^appVersion: (.+)$"),
)
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class ReleaseError(Exception):
    """What keeps this from being a release."""


def check(version: str) -> None:
    """All parts are of this version, and the changelog speaks of it. Raises ReleaseError."""
    for file, pattern in VERSIONS:
        found = re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
        if not found or found[1] != version:
            raise ReleaseError(f"{file.relative_to(ROOT)}: {found[0] if found else 'no version'}, and not {version}")
    notes(version)


def notes(version: str) -> str:
    """The changelog's section of a version, without its heading. Raises ReleaseError."""
    text = CHANGELOG.read_text(encoding="utf-8")
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        if heading.strip("[] ").startswith(version) and body.strip():
            return body.strip() + "\n"
    raise ReleaseError(f"CHANGELOG.md has no section `## {version}`")


def chart(registry: str, digests: dict[str, str], target: Path) -> Path:
    """A copy of the chart whose images come from `registry` and are named by digest. Raises ReleaseError.

    digests: of `operator` and of `trainer`, such as sha256:….
    """
    if wrong := [digest for digest in digests.values() if not DIGEST.fullmatch(digest)]:
        raise ReleaseError(f"no digest: {wrong[0]!r}")
    copy = target / CHART.name
    shutil.copytree(CHART, copy)
    values = copy / "values.yaml"
    text = values.read_text(encoding="utf-8")
    for part, place in (("operator", "image"), ("trainer", "trainer.image")):
        text = _replaced(text, f"{place}.registry", '""', registry)
        text = _replaced(text, f"{place}.digest", '""', f'"{digests[part]}"')
    values.write_text(text, encoding="utf-8")
    meta = copy / "Chart.yaml"
    text = meta.read_text(encoding="utf-8")
    for part, digest in digests.items():
        named = f"image: {registry}/finetune-{part}@{digest}"
        text, changed = re.subn(rf"image: finetune-{part}:\S+$", named, text, flags=re.MULTILINE)
        if changed != 1:
            raise ReleaseError(f"Chart.yaml: artifacthub.io/images names finetune-{part} {changed} times, and not once")
    meta.write_text(text, encoding="utf-8")
    return copy


def _replaced(text: str, name: str, old: str, new: str) -> str:
    """values.yaml with one value replaced; its comments stay. Raises ReleaseError where it is not as expected."""
    lines, path = text.split("\n"), list[str]()
    for number, line in enumerate(lines):
        if key := re.match(r"( *)([A-Za-z]\w*):", line):
            path[len(key[1]) // 2 :] = [key[2]]
            if ".".join(path) == name and line.endswith(f": {old}"):
                lines[number] = line.removesuffix(old) + new
                return "\n".join(lines)
    raise ReleaseError(f"values.yaml: {name} is not {old}")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("check", "chart", "notes"):
        command = commands.add_parser(name)
        command.add_argument("--version", required=True)
        if name == "chart":
            for flag in ("--registry", "--operator", "--trainer"):
                command.add_argument(flag, required=True)
            command.add_argument("--to", type=Path, required=True)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Exits with a sentence where something is not as a release needs it."""
    arguments = _arguments(given)
    try:
        if arguments.command == "notes":
            sys.stdout.write(notes(arguments.version))
            return
        check(arguments.version)
        if arguments.command == "chart":
            digests = {"operator": arguments.operator, "trainer": arguments.trainer}
            sys.stdout.write(f"{chart(arguments.registry, digests, arguments.to)}\n")
    except ReleaseError as error:
        raise SystemExit(f"no release: {error}") from None


if __name__ == "__main__":
    main()
