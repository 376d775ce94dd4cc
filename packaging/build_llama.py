"""Build the llama-cpp-python wheel once, keep it, and install it.

    python packaging/build_llama.py [--times FILE]

The source package is fetched by pip (version and hash from requirements-llama.txt). llama.cpp is then built
straight with CMake and not through the package's own build, because only so can everything be left out that
the app doesn't use (common, mtmd, tools), and because its wheel holds each library three to six times,
where a second copy opened at run time has a backend registry of its own and finds no backend.

The wheel holds each library once: llama_cpp/lib/libllama.so, libggml.so, libggml-base.so, and beside them
the CPU backend as one plugin per kind of processor; the best one is chosen when the app starts. More CMake
flags can be given in CMAKE_ARGS (for CUDA: -DGGML_CUDA=ON); they are part of the key of the kept wheel.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import system

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENT = "requirements-llama.txt"

FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    # One file a library, found beside the one that needs it.
    "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    # Any processor: no -march=native, one CPU plugin per instruction set.
    "-DGGML_BACKEND_DL=ON",
    "-DGGML_NATIVE=OFF",
    "-DGGML_CPU_ALL_VARIANTS=ON",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_BUILD_COMMON=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
)
# CPU plugins that aren't built: processors from before 2013, which run with sse42, and two between-steps of
# AVX-512, which run with the step before. It saves a quarter of the build.
SKIPPED_VARIANTS = ("sandybridge", "ivybridge", "piledriver", "cannonlake", "cooperlake")
# Parts of the source that no target of ours needs.
SKIPPED_SOURCES = (
    "tools",
    "examples",
    "tests",
    "docs",
    "models",
    "benches",
    "gguf-py",
    "conversion",
    "common",
)
# Raised when the wheel's contents change without a change of version or flags.
RECIPE = 1
MEMORY_PER_JOB = 1 << 30


class BuildError(Exception):
    """The build can't go on; the text says why and what to do."""


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where finished wheels are kept, outside the project so that every clone shares them."""
    if chosen := environ.get("TOKENGLASS_BUILD_CACHE"):
        return Path(chosen).expanduser()
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tokenglass-build"


def requirement(root: Path = ROOT) -> tuple[str, str]:
    """Version and sha256 of the source package, as pinned."""
    text = (root / REQUIREMENT).read_text(encoding="utf-8")
    version = re.search(r"^llama-cpp-python==(\S+)", text, re.MULTILINE)
    digest = re.search(r"--hash=sha256:([0-9a-f]{64})", text)
    if version is None or digest is None:
        raise BuildError(f"{REQUIREMENT} names no version and hash of llama-cpp-python")
    return version[1], digest[1]


def compiler(environ: Mapping[str, str] = os.environ) -> str:
    """Name and major version of the C++ compiler, for example "g++ 12"."""
    command = shlex.split(environ.get("CXX", "c++"))
    try:
        done = subprocess.run(
            [*command, "-dumpversion"], capture_output=True, text=True, check=True, timeout=60
        )
        banner = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        raise BuildError(f"no working C++ compiler ({command[0]})") from None
    kind = "clang" if "clang" in banner.stdout else "g++"
    return f"{kind} {done.stdout.strip().split('.')[0]}"


def extra_flags(environ: Mapping[str, str] = os.environ) -> list[str]:
    return shlex.split(environ.get("CMAKE_ARGS", ""))


def build_key(version: str, digest: str, cxx: str, extra: list[str], machine: str, libc: str) -> str:
    """The name under which a wheel is kept: all that its contents depend on."""
    parts = [RECIPE, version, digest, cxx, list(FLAGS), list(SKIPPED_VARIANTS), extra, machine, libc]
    short = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    return f"llama-cpp-python-{version}-{machine}-{short}"


class Progress:
    """One line that is rewritten on a terminal, or a plain line every few seconds elsewhere."""

    def __init__(self, label: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.label = label
        self._clock = clock
        self._start = clock()
        self._shown = float("-inf")
        self._tty = sys.stdout.isatty()

    def line(self, done: int, total: int) -> str:
        elapsed = self._clock() - self._start
        text = f"{self.label}: {100 * done // max(total, 1):3d} % ({done}/{total}), {span(elapsed)}"
        # The first steps are small ones; an estimate from them would be far off.
        if total > done > total // 20:
            text += f", about {span(elapsed * (total - done) / done)} left"
        return text

    def show(self, done: int, total: int) -> None:
        now = self._clock()
        if now - self._shown < (0.2 if self._tty else 10.0) and done < total:
            return
        self._shown = now
        line = self.line(done, total)
        print(f"\r\033[K{line}" if self._tty else line, end="" if self._tty else "\n", flush=True)

    def end(self) -> None:
        if self._tty:
            print(flush=True)


def span(seconds: float) -> str:
    """A length of time in words: `47 s`, `3 min 05 s`."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def jobs() -> int:
    """Compilers at once: one a core, fewer where the memory is short."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores, memory // MEMORY_PER_JOB))


def fetch(version: str, digest: str, cache: Path, root: Path) -> Path:
    """The source package, from the cache or through pip."""
    target = cache / "source" / f"llama_cpp_python-{version}.tar.gz"
    if target.is_file() and file_digest(target) == digest:
        return target
    print(f"fetching the source of llama-cpp-python {version} (77 MB)", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        command += ["--no-binary", "llama-cpp-python", "--no-build-isolation"]
        command += ["--require-hashes", "--requirement", str(root / REQUIREMENT)]
        done = subprocess.run(command, capture_output=True, text=True)
        found = list(Path(folder).glob("*.tar.gz"))
        if done.returncode != 0 or not found:
            raise BuildError(f"the source package could not be fetched:\n{tail(done.stderr)}")
        found[0].replace(target)
    return target


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tail(text: str, lines: int = 40) -> str:
    return "\n".join(text.splitlines()[-lines:])


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack what is needed; returns the source's root."""

    def wanted(name: str) -> bool:
        parts = Path(name).parts[1:]
        if parts[:2] == ("vendor", "llama.cpp"):
            return len(parts) < 4 or parts[2] not in SKIPPED_SOURCES
        return parts[:1] == ("llama_cpp",) or len(parts) == 1

    with tarfile.open(archive) as tar:
        members = [
            member for member in tar.getmembers() if wanted(member.name) and "/.git" not in member.name
        ]
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, members, filter="data")
        else:  # a Python 3.11 before its fourth patch; the archive's hash was checked
            tar.extractall(folder, members)  # noqa: S202
    return next(path for path in folder.iterdir() if path.is_dir())


def drop_variants(source: Path) -> None:
    """Take SKIPPED_VARIANTS out of llama.cpp's list of CPU plugins."""
    listing = source / "vendor" / "llama.cpp" / "ggml" / "src" / "CMakeLists.txt"
    text = listing.read_text(encoding="utf-8")
    for name in SKIPPED_VARIANTS:
        text, found = re.subn(
            rf"^\s*ggml_add_cpu_backend_variant\({name}\b.*\n", "", text, flags=re.MULTILINE
        )
        if not found:
            raise BuildError(f"llama.cpp's list of CPU variants has no {name} any more; see SKIPPED_VARIANTS")
    listing.write_text(text, encoding="utf-8")


def run_logged(command: list[str], log: Path, progress: Progress | None = None) -> None:
    """Run a build step with its output in `log`; raises BuildError with the end of it."""
    last: deque[str] = deque(maxlen=40)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                last.append(line)
                if progress is not None and (step := re.match(r"\[(\d+)/(\d+)\]", line)):
                    progress.show(int(step[1]), int(step[2]))
        code = process.returncode
    if progress is not None:
        progress.end()
    if code != 0:
        raise BuildError(
            f"{''.join(last)}\nbuilding llama.cpp failed (exit code {code}); the whole log: {log}"
        )


def compile_libraries(source: Path, folder: Path, extra: list[str], log: Path) -> list[Path]:
    """Configure and build; returns the shared libraries, plugins included."""
    tools = Path(sys.executable).parent
    cmake, ninja = tools / "cmake", tools / "ninja"
    configure = [str(cmake), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    configure += ["-S", str(source / "vendor" / "llama.cpp"), "-B", str(folder), *FLAGS, *extra]
    run_logged(configure, log)
    run_logged([str(ninja), "-C", str(folder), f"-j{jobs()}"], log, Progress("building llama.cpp"))
    return sorted((folder / "bin").glob("*.so"))


def wheel_files(source: Path, libraries: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of everything in the wheel but its dist-info."""
    package = source / "llama_cpp"
    for path in sorted(package.rglob("*")):
        if path.is_file() and (path.suffix in {".py", ".pyi"} or path.name == "py.typed"):
            yield f"llama_cpp/{path.relative_to(package).as_posix()}", path.read_bytes()
    for library in libraries:
        yield f"llama_cpp/lib/{library.name}", library.read_bytes()


def pack(source: Path, libraries: list[Path], version: str, folder: Path) -> Path:
    """Write the wheel."""
    tag = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
    info = f"llama_cpp_python-{version}.dist-info"
    path = folder / f"llama_cpp_python-{version}-{tag}.whl"
    files = dict(wheel_files(source, libraries))
    files[f"{info}/METADATA"] = (source / "PKG-INFO").read_bytes()
    wheel = f"Wheel-Version: 1.0\nGenerator: tokenglass\nRoot-Is-Purelib: false\nTag: {tag}\n"
    files[f"{info}/WHEEL"] = wheel.encode()
    for name, origin in (("llama-cpp-python", "LICENSE.md"), ("llama.cpp", "vendor/llama.cpp/LICENSE")):
        files[f"{info}/licenses/{name}"] = (source / origin).read_bytes()
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if name.endswith(".so") else 0o644) << 16
            archive.writestr(entry, content)
    return path


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Only one build at a time in one cache; a second one waits and finds the wheel done."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another build of llama.cpp is running; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def provide(root: Path = ROOT, times: dict[str, float] | None = None) -> Path:
    """The finished wheel, built if the cache has none. `times` gets the seconds of each step."""
    times = {} if times is None else times
    version, digest = requirement(root)
    system.see_to(system.missing_compiler(), "building llama.cpp")
    extra = extra_flags()
    libc = "-".join(platform.libc_ver())
    key = build_key(version, digest, compiler(), extra, platform.machine(), libc)
    cache = cache_dir()
    kept = cache / key
    with locked(cache):
        if wheels := sorted(kept.glob("*.whl")):
            return wheels[0]
        log = root / "build" / "llama.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text("", encoding="utf-8")
        start = time.monotonic()
        archive = fetch(version, digest, cache, root)
        times["llama.cpp source"] = time.monotonic() - start
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=cache, prefix="work-") as name:
            work = Path(name)
            source = unpack(archive, work / "source")
            if platform.machine() in {"x86_64", "AMD64"}:
                drop_variants(source)
            libraries = compile_libraries(source, work / "build", extra, log)
            (work / "wheel").mkdir()
            pack(source, libraries, version, work / "wheel")
            shutil.rmtree(kept, ignore_errors=True)
            (work / "wheel").replace(kept)
        times["llama.cpp build"] = time.monotonic() - start
    return next(kept.glob("*.whl"))


CHECK = """
import ctypes, pathlib, llama_cpp
from llama_cpp import llama_cpp as low
folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
low._lib.ggml_backend_load_all_from_path(str(folder).encode())
low._lib.ggml_backend_dev_count.restype = ctypes.c_size_t
count = low._lib.ggml_backend_dev_count()
raise SystemExit(0 if count else "no backend could be loaded")
"""


def install(wheel: Path) -> None:
    """Put the wheel into this Python's environment and see that a backend loads."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
    ]
    command += [str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"the wheel could not be installed:\n{tail(done.stderr)}")
    check = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, timeout=120)
    if check.returncode != 0:
        raise BuildError(f"the built llama.cpp doesn't load:\n{tail(check.stderr)}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Build, keep and install llama-cpp-python.")
    parser.add_argument("--times", type=Path, help="write the seconds of each step to this file, as JSON")
    options = parser.parse_args()
    times: dict[str, float] = {}
    try:
        wheel = provide(times=times)
        start = time.monotonic()
        install(wheel)
        times["llama.cpp install"] = time.monotonic() - start
    except (BuildError, system.MissingError) as error:
        print(f"build_llama: {error}", file=sys.stderr)
        return 1
    if options.times:
        options.times.write_text(json.dumps(times), encoding="utf-8")
    print(f"llama-cpp-python from {wheel}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
