"""Download the FracAtlas radiographs into data/FracAtlas, whole or not at all (`make fracatlas`).

No checksum is known here: SOURCE.txt records the SHA-256 that was seen; --sha256 compares it.
"""

import argparse
import datetime
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

from mura.files import InputError, as_named, project_folder

# for programs, of article 22363012; PAGE is for browsers and answers programs with an empty file
URL = "https://api.figshare.com/v2/file/download/43283628"
PAGE = "https://figshare.com/ndownloader/files/43283628"
BY_HAND = f"or download {PAGE} in a browser and run `make fracatlas ARCHIVE=path/to/FracAtlas.zip`."
EXPECTED = ("dataset.csv", "images/Fractured", "images/Non_fractured", "Annotations")
MAC = re.compile(r"(^|/)(__MACOSX/|\._)")  # its own attributes
LICENCE = "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"
CITATION = (
    'Abedeen et al., "FracAtlas: A Dataset for Fracture Classification, Localization and '
    'Segmentation of Musculoskeletal Radiographs", Scientific Data 10, 2023, '
    "https://doi.org/10.1038/s41597-023-02432-4"
)


def fetch(url: str, file: Path) -> None:
    """Download a file; what goes wrong on the way is one sentence that names the URL."""
    pooch.get_logger().setLevel("WARNING")
    try:
        # erased before an error is printed; pooch sets the total, but asks for one to begin with
        with tqdm(total=1, unit="B", unit_scale=True, ncols=79, leave=False) as bar:
            downloader = pooch.HTTPDownloader(progressbar=bar)
            pooch.retrieve(url, None, file.name, file.parent, downloader=downloader)
        return
    except requests.HTTPError as error:
        reason = f"the server answers {error.response.status_code} {error.response.reason}"
    except (requests.ConnectionError, requests.Timeout):
        reason = "no connection"
    except requests.RequestException as error:
        reason = f"the download broke off ({type(error).__name__})"
    raise InputError(f"{url}: {reason}; try again, {BY_HAND}")


def unpack(archive: Path, folder: Path, named: str) -> Path:
    """Unpack the archive if it holds FracAtlas; return the folder in which dataset.csv is."""
    try:
        with zipfile.ZipFile(archive) as file:
            members = [name for name in file.namelist() if not MAC.search(name)]
            paths = {path for name in members for path in (Path(name), *Path(name).parents)}
            if any(path.anchor or ".." in path.parts for path in paths):
                raise InputError(f"{named}: has files that would leave its folder; do not use it.")
            tops = {path.parts[0] for path in paths if path.parts}
            top = tops.pop() if len(tops) == 1 else ""
            missing = [name for name in EXPECTED if Path(top, name) not in paths]
            if missing:
                raise InputError(f"{named}: not FracAtlas, it lacks {', '.join(missing)}.")
            file.extractall(folder, members)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        reason = f"not a whole zip archive ({error})"
        raise InputError(f"{named}: {reason}; try again, {BY_HAND}") from None
    return folder / top


def install(folder: Path, partial: Path, options: argparse.Namespace) -> None:
    """Fill ``folder`` from the archive, by way of ``partial``."""
    if options.archive:
        archive, named = as_named(options.archive), options.archive
        if not archive.is_file():
            raise InputError(f"{named}: no such file.")
        source = f"{PAGE} (by hand, as {archive.name})"
    else:
        archive, named, source = partial / "FracAtlas.zip", options.url, options.url
        print(f"Downloading FracAtlas (323 MB) from {source} ...", flush=True)
        fetch(options.url, archive)
    seen = pooch.file_hash(archive, alg="sha256")
    if options.sha256 and options.sha256.lower() != seen:
        raise InputError(f"{named}: its SHA-256 is {seen}, not {options.sha256.lower()}.")
    print("Unpacking ...", flush=True)
    unpacked = unpack(archive, partial / "unpacked", named)
    (unpacked / "SOURCE.txt").write_text(
        f"FracAtlas\nsource: {source}\nsha256: {seen}\ndate: {datetime.date.today()}\n"
        f"licence: {LICENCE}\ncitation: {CITATION}\n",
        encoding="utf-8",
    )
    unpacked.rename(folder)
    print(f"{folder} is complete. The archive's SHA-256: {seen}", end=", ")
    print("as expected." if options.sha256 else "compared with none (--sha256 does).")
    print(f"Its licence asks you to name the authors ({LICENCE}):\n{CITATION}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default=URL, help="another place to download it from")
    parser.add_argument("--archive", metavar="FILE", help="the archive, if you have it already")
    parser.add_argument("--sha256", metavar="HASH", help="refuse an archive with another one")
    options = parser.parse_args(arguments)
    folder = project_folder() / "data" / "FracAtlas"
    partial = folder.with_name(".FracAtlas.partial")
    try:
        if folder.exists():
            missing = [name for name in EXPECTED if not (folder / name).exists()]
            if missing:
                raise InputError(f"{folder}: lacks {', '.join(missing)}; move or delete it first.")
            print(f"{folder} is there and complete: nothing to do.")
            return 0
        shutil.rmtree(partial, ignore_errors=True)  # what a killed run left
        partial.mkdir(parents=True)
        install(folder, partial, options)
    except (InputError, OSError) as error:
        print(f"fracatlas: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
