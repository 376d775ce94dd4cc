"""Where the app keeps its files, and where its own assets lie."""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from engine.errors import TokenglassError

APP = "tokenglass"


@dataclass(frozen=True, slots=True)
class Paths:
    """The four folders of one home; each exists and is readable by its owner only."""

    config_dir: Path
    data_dir: Path
    cache_dir: Path
    runtime_dir: Path

    @classmethod
    def resolve(cls, home: Path | None = None) -> Paths:
        """Find the folders and make them.

        `home` (or else TOKENGLASS_HOME) puts all of them under one folder; without it the desktop's
        conventions decide. Raises TokenglassError `storage` where a folder can't be made or isn't ours.
        """
        if home is None and (named := os.environ.get("TOKENGLASS_HOME")):
            home = Path(named)
        if home is not None:
            root = absolute(home)
            if not root.is_absolute():
                raise TokenglassError(
                    "storage", f"there is no folder {home}", hint="give its whole path with --home"
                )
            paths = cls(root / "config", root / "data", root / "cache", root / "runtime")
        else:
            data = platformdirs.user_data_path(APP, appauthor=False)
            paths = cls(
                platformdirs.user_config_path(APP, appauthor=False),
                data,
                platformdirs.user_cache_path(APP, appauthor=False),
                _runtime_dir(data),
            )
        for folder in (
            paths.config_dir,
            paths.data_dir,
            paths.cache_dir,
            paths.runtime_dir,
            paths.models_dir,
        ):
            _private_folder(folder)
        return paths

    @property
    def settings_file(self) -> Path:
        return self.config_dir / "settings.json"

    @property
    def database(self) -> Path:
        return self.data_dir / "history.db"

    @property
    def models_dir(self) -> Path:
        """GGUF files put here are in the library."""
        return self.data_dir / "models"

    @property
    def library_file(self) -> Path:
        """Which files elsewhere belong to the library."""
        return self.data_dir / "library.json"

    @property
    def templates_dir(self) -> Path:
        """Chat templates that stand in for models' own (`api.chat_templates`)."""
        return self.data_dir / "templates"

    @property
    def fit_file(self) -> Path:
        """What loads on this machine really took."""
        return self.data_dir / "fit.json"

    @property
    def log_file(self) -> Path:
        return self.cache_dir / "logs" / "tokenglass.log"

    @property
    def server_file(self) -> Path:
        """How scripts find the running app (`api.discovery`)."""
        return self.runtime_dir / "server.json"

    @property
    def tokens_file(self) -> Path:
        """Hashes of further tokens (`api.tokens`)."""
        return self.config_dir / "tokens.json"

    @property
    def token_file(self) -> Path:
        return self.runtime_dir / "token"


def absolute(path: str | Path) -> Path:
    """The path that a user means, `~` understood where there is such a home folder."""
    try:
        return Path.cwd() / Path(path).expanduser()
    except (RuntimeError, OSError):  # no home folder, or no current one
        return Path(path)


def is_there(path: Path) -> bool:
    """Whether something lies there; `Path.exists` raises for a name that is too long."""
    return os.access(path, os.F_OK)


def _runtime_dir(data_dir: Path) -> Path:
    """The session's own runtime folder where the system has one; never a guessable place in /tmp."""
    if not sys.platform.startswith("linux"):
        return platformdirs.user_runtime_path(APP, appauthor=False)
    for parent in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.getuid()}"):
        if parent.startswith("/") and os.access(parent, os.W_OK | os.X_OK):
            return Path(parent) / APP
    return data_dir / "runtime"


def _private_folder(folder: Path) -> None:
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if os.name == "posix":
            info = folder.stat()
            if info.st_uid != os.getuid():
                raise TokenglassError(
                    "storage",
                    f"the folder {folder} belongs to another user",
                    hint="choose another one with --home",
                )
            if stat.S_IMODE(info.st_mode) & 0o077:
                folder.chmod(0o700)
    except OSError as error:
        if os.access(f"{folder}/.", os.R_OK | os.X_OK):  # `is_dir` itself raises where a name is too long
            return  # a folder on a read-only disk: reading works, and writing says what is wrong
        raise TokenglassError(
            "storage",
            f"can't make the folder {folder}: {error.strerror or error}",
            hint="choose another one with --home",
        ) from None


def assets_dir() -> Path:
    """The app's own files: beside the packaged program, in the source tree, or where they were installed.

    Raises TokenglassError `storage` where there are none.
    """
    bundle = getattr(sys, "_MEIPASS", None)
    candidates = (
        [Path(bundle) / "assets"]
        if bundle is not None
        else [
            Path(__file__).resolve().parent.parent / "assets",
            Path(sysconfig.get_path("data")) / "share" / APP / "assets",
        ]
    )
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise TokenglassError(
        "storage", f"the app's own files are missing ({candidates[0]})", hint="install Tokenglass again"
    )


def starter_model() -> Path:
    """The model that comes with the app; in a source tree the file may not be made yet."""
    return assets_dir() / "starter" / "starter.gguf"


def tilde(path: Path | str) -> str:
    """The path for people: the home folder as `~`, so that no user name stands in what they paste."""
    text = str(path)
    home = str(Path.home())
    if home != "/" and (text == home or text.startswith(home + os.sep)):
        return "~" + text[len(home) :]
    return text


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content, readable by its owner only; a crash leaves the old or the new one whole.

    Raises OSError.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
