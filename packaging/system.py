"""What the set-up needs from the operating system: libraries of Qt and of a browser, a font, a compiler.

Checked by trying, not by asking a package manager. What is missing is installed with apt-get where that is
possible without a question (root, or sudo without a password); elsewhere the exact command is named.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Library -> the package of Debian and Ubuntu that holds it. Qt needs these even without a display.
GUI_LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libOpenGL.so.0": "libopengl0",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libglib-2.0.so.0": "libglib2.0-0",
}
# What Qt's X11 and Wayland plugins need besides.
DISPLAY_LIBRARIES = {
    "libX11-xcb.so.1": "libx11-xcb1",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-xinerama.so.0": "libxcb-xinerama0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
    "libwayland-client.so.0": "libwayland-client0",
    "libwayland-cursor.so.0": "libwayland-cursor0",
    "libwayland-egl.so.1": "libwayland-egl1",
}
# What QtWebEngine's Chromium links to besides; only tests/attacks runs one.
BROWSER_LIBRARIES = {
    "libX11.so.6": "libx11-6",
    "libXcomposite.so.1": "libxcomposite1",
    "libXdamage.so.1": "libxdamage1",
    "libXext.so.6": "libxext6",
    "libXfixes.so.3": "libxfixes3",
    "libXrandr.so.2": "libxrandr2",
    "libXtst.so.6": "libxtst6",
    # Newer systems call the library's own package libasound2t64; this name leads to either.
    "libasound.so.2": "libasound2-dev",
    "libexpat.so.1": "libexpat1",
    "libgbm.so.1": "libgbm1",
    "libnspr4.so": "libnspr4",
    "libnss3.so": "libnss3",
    "libudev.so.1": "libudev1",
    "libxcb-dri3.so.0": "libxcb-dri3-0",
    "libxkbfile.so.1": "libxkbfile1",
}
FONT_PACKAGE = "fonts-dejavu-core"
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
COMPILER_PACKAGE = "build-essential"


class MissingError(Exception):
    """Something is missing and can't be installed from here; the text names the command that does."""


def loads(library: str) -> bool:
    """Whether the dynamic linker finds and accepts the library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing_packages(libraries: Mapping[str, str], check: Callable[[str], bool] = loads) -> list[str]:
    """The packages of those libraries that don't load, each once."""
    return sorted({package for library, package in libraries.items() if not check(library)})


def has_font() -> bool:
    for folder in FONT_FOLDERS:
        root = Path(folder).expanduser()
        if any(path.suffix.lower() in {".ttf", ".otf", ".ttc"} for path in root.rglob("*.*")):
            return True
    return False


def has_display(environ: Mapping[str, str] = os.environ) -> bool:
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def install_command(packages: Sequence[str]) -> str:
    """What a person types to install the packages."""
    return f"sudo apt-get install -y --no-install-recommends {shlex.join(packages)}"


def _privilege() -> list[str] | None:
    """How to become root without a question: nothing to add, sudo, or None."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        done = subprocess.run(["sudo", "-n", "true"], capture_output=True)
        if done.returncode == 0:
            return ["sudo", "-n"]
    return None


def see_to(packages: Sequence[str], what: str) -> None:
    """Install the packages, or raise MissingError with the command for it."""
    if not packages:
        return
    message = (
        f"{what} needs packages that this system lacks. Install them, then run the same command again:\n"
    )
    if shutil.which("apt-get") is None:
        names = ", ".join(packages)
        raise MissingError(f"{message}  (Debian's names, your system's may differ) {names}")
    prefix = _privilege()
    if prefix is None:
        raise MissingError(f"{message}  {install_command(packages)}")
    print(f"installing for {what}: {' '.join(packages)}", flush=True)
    # env: sudo hands no variables on.
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    install = [*apt, "install", "-y", "--no-install-recommends", *packages]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode != 0:
        subprocess.run([*apt, "update"], capture_output=True)
        done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode != 0:
        end = "\n".join(done.stderr.splitlines()[-10:])
        raise MissingError(f"{end}\napt-get could not install them. {message}  {install_command(packages)}")


def missing_qt(*, display: bool) -> list[str]:
    """Packages that the window lacks; without a display, those that drawing off-screen lacks."""
    libraries = {**GUI_LIBRARIES, **(DISPLAY_LIBRARIES if display else {})}
    return missing_packages(libraries) + ([] if has_font() else [FONT_PACKAGE])


def require_qt(*, display: bool) -> None:
    """See to what Qt needs."""
    see_to(missing_qt(display=display), "the window")


def missing_browser() -> list[str]:
    """Packages that a Chromium without a window lacks, beside what Qt needs."""
    return missing_packages(BROWSER_LIBRARIES)


def missing_compiler() -> list[str]:
    wanted = [os.environ.get("CC", "cc"), os.environ.get("CXX", "c++")]
    there = all(shutil.which(shlex.split(name)[0]) for name in wanted)
    return [] if there else [COMPILER_PACKAGE]


def missing_venv() -> list[str]:
    """Debian keeps the standard library's venv in a package of its own."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return [f"python{sys.version_info.major}.{sys.version_info.minor}-venv"]
    return []


def require_all(*, window: bool, display: bool) -> None:
    """See to everything in one go, so that a person without rights gets one command and not three."""
    qt = missing_qt(display=display) if window else []
    see_to([*missing_venv(), *missing_compiler(), *qt], "Tokenglass")
