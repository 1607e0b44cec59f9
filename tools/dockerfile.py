"""Do the Dockerfile's steps in a virtual environment; see whether the page opens and answers.

python tools/dockerfile.py IMAGE        minutes: it installs the page's packages
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ADDRESS, PATIENCE = "http://127.0.0.1:7860", 60


def main() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [name for line in re.findall(r"^COPY (.+)$", text, re.M) for name in line.split()[:-1]]
    [install] = re.findall(r"^RUN (pip .+)$", text, re.M)
    [command] = [json.loads(line) for line in re.findall(r"^CMD (.+)$", text, re.M)]
    with tempfile.TemporaryDirectory() as folder:
        app, binaries = Path(folder) / "app", Path(folder) / "venv" / "bin"
        app.mkdir()
        for name in copied:
            place = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            place(ROOT / name, app / name)
        subprocess.run([sys.executable, "-m", "venv", binaries.parent], check=True)
        subprocess.run(
            [binaries / "python", "-m", *install.split(), "--quiet"], cwd=app, check=True
        )
        listed = subprocess.run(
            [binaries / "python", "-m", "pip", "list"], capture_output=True, text=True, check=True
        ).stdout
        assert "gradio" in listed and "tensorflow" not in listed, listed
        local = ["127.0.0.1" if word == "0.0.0.0" else word for word in command[1:]]
        start = time.monotonic()
        page = subprocess.Popen([binaries / command[0], *local], cwd=folder)
        try:
            while True:
                try:
                    urllib.request.urlopen(ADDRESS).close()
                    break
                except OSError:
                    assert page.poll() is None and time.monotonic() < start + PATIENCE
                    time.sleep(0.1)
            print(f"the page opened after {time.monotonic() - start:.1f} s")
            subprocess.run(
                [binaries / "mura", "predict", Path(sys.argv[1]).resolve()], cwd=folder, check=True
            )
        finally:
            page.terminate()
            page.wait(PATIENCE)


if __name__ == "__main__":
    main()
