"""Where data lies on this machine: the folder that ``$UNDERHOOD_DATA`` names, then the cache."""

import os
import sys
from pathlib import Path


def cache_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """The folder of fetched and generated files: ``folder`` if given, else the user's cache (XDG on Linux). It may not exist yet."""
    if folder is not None:
        return Path(folder)
    if "XDG_CACHE_HOME" in os.environ:
        return Path(os.environ["XDG_CACHE_HOME"]) / "underhood"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local")).expanduser() / "underhood"
    home = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return Path(os.path.expanduser(home)) / "underhood"


def find(name: str, folder: str | os.PathLike[str] | None = None) -> Path | None:
    """The file or folder ``name`` in ``$UNDERHOOD_DATA`` or in the cache; None if it is in neither."""
    given = os.environ.get("UNDERHOOD_DATA")
    places = ([Path(given)] if given else []) + [cache_folder(folder)]
    return next((place / name for place in places if (place / name).exists()), None)
