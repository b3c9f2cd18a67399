"""Debian packages that the tests need and pip cannot bring: installed where that is allowed, named where it is not."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PACKAGES: Final[Mapping[str, Path]] = {"chromium": Path("/usr/bin/chromium"), "nginx": Path("/usr/sbin/nginx")}
TIMEOUT: Final = 300.0  # seconds for one command


def install(packages: Mapping[str, Path] = PACKAGES) -> list[str]:
    """Install what is missing, as root on Debian; elsewhere the tests that need it skip themselves, and say so.

    Args:
        packages: by name, the program that each one brings.

    Returns:
        What is missing all the same.
    """
    missing = [package for package, program in packages.items() if not program.exists()]
    if missing and _may_install():
        print(f"tests: installing {', '.join(missing)}", flush=True)
        if _run("apt-get", "update", "-qq"):
            _run("apt-get", "install", "-qq", "--no-install-recommends", *missing)
        missing = [package for package in missing if not packages[package].exists()]
    for package in missing:
        print(f"tests: {package} is missing, and what needs it is SKIPPED: apt-get install {package}", flush=True)
    return missing


def _may_install() -> bool:
    try:
        is_debian = (
            platform.freedesktop_os_release()["ID"] == "debian"
        )  # Ubuntu's package is another program's installer
    except OSError:
        return False
    return is_debian and os.geteuid() == 0 and shutil.which("apt-get") is not None


def _run(*command: str) -> bool:
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    except subprocess.TimeoutExpired:
        print(f"tests: {' '.join(command)} took over {TIMEOUT:g} s", flush=True)
        return False
    if done.returncode:
        print(f"tests: {' '.join(command)} failed:\n{done.stdout[-2000:]}", flush=True)
    return done.returncode == 0
