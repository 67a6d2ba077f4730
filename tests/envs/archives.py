"""Archives for tests, made member by member, good ones and hostile ones."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path


def write_zip(path: Path, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, target)
    return path


def write_tar(path: Path, files: Mapping[str, bytes], special: Mapping[str, bytes] | None = None) -> Path:
    """special: members by name with a type of `tarfile` other than a plain file's, linked to /etc/passwd."""
    kind = {".xz": "xz", ".gz": "gz"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{kind}") as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, member_type in (special or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = member_type, "/etc/passwd"
            archive.addfile(info)
    return path


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


STATE = b"(define (problem p) (:domain alfred))"
ANNOTATIONS = json.dumps(
    {"task_type": "pick_and_place_simple", "pddl_params": {}, "turk_annotations": {"anns": []}, "plan": {}}
).encode()


def game(split: str, task: str = "pick_and_place_simple-Mug-None-Shelf-1", trial: str = "trial_1") -> dict[str, bytes]:
    """The two files of a made-up game, by their path in an official archive."""
    place = f"json_2.1.1/{split}/{task}/{trial}"
    return {f"{place}/initial_state.pddl": STATE, f"{place}/traj_data.json": ANNOTATIONS}


PRODUCTS = json.dumps([{"asin": "B1", "name": "a mug"}, {"asin": "B2", "name": "a shelf"}]).encode()
ATTRIBUTES = json.dumps({"B1": {"attributes": ["blue"]}}).encode()
INSTRUCTIONS = json.dumps({"B1": [{"asin": "B1", "instruction": "find a mug"}]}).encode()
