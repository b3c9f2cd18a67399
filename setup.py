"""What pyproject.toml cannot say: a file beside the packages, which is read when Python starts.

`realtime_shim_ws4redis.pth` holds a folder and no code. With it `import ws4redis` finds us without an import of ours
before it: see legacy_ws4redis/names.
"""

from pathlib import Path
from typing import Final

from setuptools import setup
from setuptools.command.build_py import build_py

PATH_FILE: Final = "realtime_shim_ws4redis.pth"


class BuildWithPathFile(build_py):
    """setuptools' own, and the file."""

    def run(self) -> None:
        """Build."""
        super().run()
        Path(self.build_lib, PATH_FILE).write_text("legacy_ws4redis/names\n")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Name what was built."""
        return [*super().get_outputs(include_bytecode), str(Path(self.build_lib, PATH_FILE))]


setup(cmdclass={"build_py": BuildWithPathFile})
