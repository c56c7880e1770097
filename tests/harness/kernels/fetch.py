"""Fetches Debian's kernels, and packages of other architectures, with apt, from the archive of this machine's own apt.

apt runs with a source list, state and cache of its own, all in the cache folder, and without the machine's hooks:
nothing of the machine's configuration is changed, no root is needed. Signatures are checked against Debian's keyring.
"""

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.harness.kernels.machines import HERE, Machine

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Where Debian keeps which kernel, in the order of asking; every other version is looked for among the newest. Backports
# stand in for a suite whose index, on some mirror and for some architecture, is older than its signature.
SUITES = {
    "5.10": (("bullseye", "bullseye-security"),),
    "6.1": (("bookworm", "bookworm-security"),),
    "6.12": (("trixie", "trixie-security"), ("bookworm-backports",)),
}
NEWEST = (("sid",),)

APT_SECONDS = 300

CONFIGURATION = """\
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "2";
#clear APT::Update;
#clear DPkg;
"""


class Unavailable(Exception):
    """A kernel or a package could not be had; the text says why."""


def kernel(version: str, machine: Machine, cache: Path, refresh: bool = False) -> Path:
    """The image (vmlinuz) of the newest of Debian's kernels of a version ("6.1"). Raises Unavailable.

    It is fetched once and then taken from the folder `cache`, unless `refresh` asks for the archive's newest.
    """
    folder = cache / version
    wanted = f"vmlinuz-*-{machine.flavour}*"
    if refresh or not list(folder.glob(wanted)):
        _fetch(version, machine, folder)
    return max(folder.glob(wanted), key=lambda image: _numbers(image.name))


def tree(
    packages: tuple[str, ...], machine: Machine, cache: Path, refresh: bool = False, suite: str | None = None
) -> Path:
    """A folder with the files of Debian's packages for some machine, and of all they depend on, as they are in the
    packages: nothing is installed. They are of this machine's suite unless another is named. Raises Unavailable. It is
    kept as kernels are."""
    suites = (suite,) if suite else (_codename(), f"{_codename()}-security")
    digest = hashlib.sha256(" ".join(sorted(packages)).encode()).hexdigest()[:8]
    folder = cache / f"{suites[0]}-{machine.arch}-{digest}"
    found = folder / "tree"
    if refresh or not found.exists():
        apt = _Apt(folder / "apt", machine.arch, suites)
        apt.run("apt-get", "install", "--yes", "--download-only", "--no-install-recommends", *packages)
        shutil.rmtree(found, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for package in folder.glob("apt/cache/archives/*.deb"):
                _run("dpkg-deb", "--extract", str(package), f"{scratch}/tree")
                package.unlink()
            Path(scratch, "tree").rename(found)
    return found


def sources(packages: tuple[str, ...], suite: str, folder: Path) -> list[Path]:
    """The authors' sources, as tar archives in `folder`, of Debian's source packages in a suite. Raises Unavailable."""
    apt = _Apt(folder / "apt", HERE.arch, (suite,), kind="deb-src")
    apt.run("apt-get", "source", "--download-only", "--tar-only", *packages, cwd=str(folder))
    return [next(folder.glob(f"{package}_*.orig.tar.*[!c]")) for package in packages]


def _fetch(version: str, machine: Machine, folder: Path) -> None:
    """Fetches the image from the first place that has it."""
    reasons = []
    for suites in SUITES.get(version, NEWEST):
        try:
            return _fetch_from(suites, version, machine, folder)
        except Unavailable as error:
            reasons.append(f"{suites[0]}: {error}")
    raise Unavailable("; ".join(reasons))


def _fetch_from(suites: tuple[str, ...], version: str, machine: Machine, folder: Path) -> None:
    apt = _Apt(folder / f"apt-{suites[0]}-{machine.arch}", machine.arch, suites)
    names = apt.run("apt-cache", "pkgnames", "linux-").split()
    # 6.1 and older ship the unsigned image under a name of its own, 7.2 has the image in linux-binary-*.
    wanted = re.compile(rf"linux-(image|binary)-{re.escape(version)}[.+]\S*-{machine.flavour}(-unsigned)?")
    reason = f"the archive has no kernel {version} {machine.flavour}"
    for name in sorted(filter(wanted.fullmatch, names), key=_numbers, reverse=True):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            try:
                apt.run("apt-get", "download", name, cwd=scratch)
            except Unavailable as error:
                # A mirror may list a package that it does not hold (yet, or any more): an older one will do.
                reason = str(error)
                continue
            [package] = Path(scratch).glob("*.deb")
            _run("dpkg-deb", "--extract", str(package), f"{scratch}/root")
            # A package that merely depends on another holds no image.
            for image in Path(scratch, "root").rglob("vmlinuz*"):
                image.rename(folder / f"vmlinuz-{name}")
                return
    raise Unavailable(reason)


class _Apt:
    """apt with a world of its own in `folder`, which knows an architecture's packages of some of Debian's suites."""

    def __init__(self, folder: Path, arch: str, suites: tuple[str, ...], kind: str = "deb") -> None:
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text("".join(_source_line(kind, suite, arch) for suite in suites))
        self._configuration = folder / "apt.conf"
        self._configuration.write_text(CONFIGURATION.format(folder=folder, arch=arch))
        self.run("apt-get", "update", "--quiet", "--error-on=any")

    def run(self, command: str, *arguments: str, cwd: str | None = None) -> str:
        return _run(command, f"--config-file={self._configuration}", *arguments, cwd=cwd)


def _source_line(kind: str, suite: str, arch: str) -> str:
    archives = _archives()
    archive = archives.get("security" if suite.endswith("-security") else "main")
    if archive is None:
        raise Unavailable(f"this machine's apt knows no Debian archive that could hold {suite}")
    return f"{kind} [arch={arch} signed-by={KEYRING}] {archive} {suite} main\n"


def _codename() -> str:
    release = dict(re.findall(r"^(\w+)=\"?([^\"\n]*)", Path("/etc/os-release").read_text(), re.M))
    return release["VERSION_CODENAME"]


def _archives() -> dict[str, str]:
    """The addresses of the Debian archives in the machine's apt configuration: "main" and "security"."""
    codename = _codename()
    found = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages")
    releases = {release: address for address, release in map(str.split, found.splitlines())}
    kinds = {"main": codename, "security": f"{codename}-security"}
    return {kind: releases[release] for kind, release in kinds.items() if release in releases}


def _run(*command: str, cwd: str | None = None) -> str:
    try:
        return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=APT_SECONDS).stdout
    except FileNotFoundError as error:
        raise Unavailable(f"{error.filename} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[0]} did not end within {APT_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{command[0]} failed: {error.stderr.strip()}") from None


def _numbers(text: str) -> list[int]:
    """A version's numbers, for comparing: 6.1.0-9 is before 6.1.0-10."""
    return [int(number) for number in re.findall(r"\d+", text)]
