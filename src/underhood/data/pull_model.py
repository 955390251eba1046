"""Models by their name on the Hugging Face hub, ``OWNER/MODEL``: the files that `underhood` reads, at one revision, checked against the hub's own checksums.

Only data is fetched: configuration, safetensors, tokenizer, chat templates. Pickles and code are left where they are.
"""

import json
import os
import re
import shutil
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from underhood.base.errors import DataError, FileSystemError, NetworkError, UserError
from underhood.data.places import cache_folder
from underhood.data.pull import Progress, Remote, fetch, open_url

HUB = "https://huggingface.co"
NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
WANTED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|vocab|added_tokens)\.json|merges\.txt|chat_template\.jinja"
    r"|additional_chat_templates/[\w.-]{1,96}\.jinja"
    r"|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
)
Check = Callable[[Path, Sequence[str]], None]
SPARE_BYTES = 100_000_000  # left free on the disk
LARGEST_LISTING = 20_000_000  # bytes


def pull_model(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    *,
    revision: str = "main",
    hub: str = HUB,
    check: Check | None = None,
) -> Path:
    """Fetch the model ``name`` into ``models/OWNER/MODEL`` of the cache (or ``folder``); run again, it goes on. A gated model needs $HF_TOKEN.

    ``check`` is called when all but the weights is there, with the folder and the names of all files on the hub, and may raise.

    Raises ``UserError`` for a name that is none, ``NetworkError``, ``DataError`` for a model without safetensors, ``FileSystemError`` for a full disk.
    """
    if not NAME.fullmatch(name) or ".." in name:
        raise UserError(f"found {name!r}", where="model", expected="OWNER/MODEL, as on the hub")
    token = os.environ.get("HF_TOKEN", "")
    listing = _listing(name, revision, hub, token)
    home = Path(folder) if folder is not None else cache_folder() / "models" / name
    remotes, total = _files(listing, name, hub, token)
    _require_room(home, remotes, total)
    for remote in remotes:
        if check is not None and _is_weights(remote.path):
            check(home, [str(f.get("rfilename")) for f in listing["siblings"] if isinstance(f, dict)])
            check = None
        fetch(remote, home / remote.path, progress)
    return home


def _listing(name: str, revision: str, hub: str, token: str) -> dict[str, Any]:
    """What the hub says of the model: its commit, and its files with sizes and checksums."""
    url = f"{hub}/api/models/{name}/revision/{urllib.parse.quote(revision, safe='')}?blobs=true"
    try:
        with open_url(url, {}, token) as response:
            found = json.loads(response.read(LARGEST_LISTING))
    except NetworkError as error:
        if "answered 401" in str(error) or "answered 403" in str(error):
            remedy = "Accept its licence on the hub and put your token into $HF_TOKEN."
            raise NetworkError("no such model, or one that needs permission", where=name, remedy=remedy) from error
        raise
    except ValueError as error:
        raise DataError("the hub's answer is no listing of files", where=url) from error
    if not isinstance(found, dict) or not isinstance(found.get("sha"), str) or not isinstance(found.get("siblings"), list):
        raise DataError("the hub's answer is no listing of files", where=url)
    return found


def _files(listing: dict[str, Any], name: str, hub: str, token: str) -> tuple[list[Remote], int]:
    """The files to fetch, the weights last and of each kind the small ones first, and their bytes in all."""
    files = [f for f in listing["siblings"] if isinstance(f, dict) and WANTED.fullmatch(str(f.get("rfilename")))]
    whole = {f["rfilename"] for f in files}
    if "model.safetensors" in whole:
        files = [f for f in files if not f["rfilename"].startswith("model-")]
    if not any(map(_is_weights, whole)) or "config.json" not in whole:
        raise DataError("no config.json with safetensors among its files", where=name, remedy="Models in other formats are not read.")
    files.sort(key=lambda f: (_is_weights(f["rfilename"]), int(f.get("size") or 0), f["rfilename"]))
    at = f"{hub}/{name}/resolve/{listing['sha']}"
    remotes = [Remote(f"{at}/{f['rfilename']}", f["rfilename"], str((f.get("lfs") or {}).get("sha256", "")), token) for f in files]
    return remotes, sum(int(f.get("size") or 0) for f in files)


def _is_weights(file: str) -> bool:
    return file.endswith(".safetensors")


def _require_room(home: Path, remotes: list[Remote], total: int) -> None:
    """Enough free disk for what is not there yet."""
    there = sum(p.stat().st_size for r in remotes for p in (home / r.path, home / f"{r.path}.part") if p.exists())
    place = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if total - there + SPARE_BYTES > free:
        raise FileSystemError(f"{(total - there) / 1e9:.1f} GB to fetch and {free / 1e9:.1f} GB free", where=str(home))
