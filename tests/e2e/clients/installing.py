"""The clients, and their packages from the package indexes, each in an environment of its own."""

import shutil
import subprocess
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.package.building import clean_environment, run

PROGRAMS = Path(__file__).parent / "programs"
INSTALL_S = 300
RUN_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client, and the program that uses it."""

    name: str
    program: str
    packages: tuple[str, ...]

    @property
    def is_javascript(self) -> bool:
        return self.program.endswith(".mjs")

    def install(self, directory: Path) -> list[str]:
        """Install the packages into the directory, and return the command of the program."""
        if self.is_javascript:
            shutil.copy(PROGRAMS / self.program, directory)
            install = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--loglevel=error"]
            run([*install, *self.packages], directory=directory, timeout_s=INSTALL_S)
            return ["node", str(directory / self.program)]
        venv.create(directory / "venv", symlinks=True, with_pip=True)
        python = str(directory / "venv" / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        run([*install, *self.packages], timeout_s=INSTALL_S)
        return [python, str(PROGRAMS / self.program)]


def run_program(command: list[str], directory: Path, variables: Mapping[str, str]) -> str:
    """Run a client's program, whose checks must all pass, and return its output."""
    ended = subprocess.run(
        command,
        cwd=directory,
        env={**clean_environment(directory), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert ended.returncode == 0 and "passed " in ended.stdout, ended.stdout
    return ended.stdout


CLIENTS = (
    Client(
        name="langchain",
        program="use_langchain.py",
        packages=("langchain-core==1.8.3", "langchain-openai==1.7.4", "langchain-ollama==1.1.0"),
    ),
    Client(name="pydantic-ai", program="use_pydantic_ai.py", packages=("pydantic-ai-slim[openai]==2.68.0",)),
    Client(name="instructor", program="use_instructor.py", packages=("instructor==1.17.0",)),
    Client(name="litellm", program="use_litellm.py", packages=("litellm==1.110.2",)),
    Client(name="openai-agents", program="use_openai_agents.py", packages=("openai-agents==0.24.0",)),
    Client(
        name="ai-sdk",
        program="use_ai_sdk.mjs",
        packages=(
            "ai@7.0.173",
            "@ai-sdk/anthropic@4.0.105",
            "@ai-sdk/openai@4.0.118",
            "@ai-sdk/openai-compatible@3.0.92",
            "ollama-ai-provider-v2@4.0.1",
            "zod@4.6.7",
        ),
    ),
)
