"""`make reproducible`: the wheel of this checkout, built twice, is the same file.

Each build has a folder of its own, of another name and at another time, and all processors or one:
what differs between two machines with one compiler and one torch.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The time of all files in the wheel; `git log -1 --format=%ct` gives the last commit's.
EPOCH = os.environ.get("SOURCE_DATE_EPOCH", "1700000000")


def build(folder: Path, jobs: int) -> Path:
    """The wheel of the files that git knows, built there."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in names.strip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-q"]
    environment = os.environ | {
        "SOURCE_DATE_EPOCH": EPOCH,
        "MAX_JOBS": str(jobs),
        "PIP_NO_INDEX": "1",  # to build downloads nothing
        "TORCH_FULLCONV_CUDA": os.environ.get("TORCH_FULLCONV_CUDA", "0"),
    }
    subprocess.run([*command, "-w", "dist", "."], cwd=folder, env=environment, check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def contents(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as file:
        return {name: hashlib.sha256(file.read(name)).hexdigest() for name in file.namelist()}


def main() -> int:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory(prefix="other-") as two:
        wheels = build(Path(one), os.cpu_count() or 1), build(Path(two) / "deeper", 1)
        same = wheels[0].read_bytes() == wheels[1].read_bytes()
        first, second = map(contents, wheels)
        for name in sorted(first.keys() | second.keys()):
            if first.get(name) != second.get(name):
                print(f"differs: {name}")
        print(f"{wheels[0].name}: {'the same' if same else 'NOT THE SAME'} twice")
        print(f"sha256 {hashlib.sha256(wheels[0].read_bytes()).hexdigest()}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
