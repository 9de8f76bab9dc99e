"""The images are built by the documented steps, and the compose file names what exists. No image is built here."""

import re
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
HOUSEKEEPING = re.compile(r"apt-get update|rm -rf .*/var/lib/apt/lists/\*")
"""Steps that only make an image smaller."""


def words(command):
    """Returns the words of a command, without sudo and without quotes."""
    return [word for word in shlex.split(command, comments=True) if word != "sudo"]


def documented_steps():
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words(step) for line in lines for step in re.split(r" && (?!echo)", line)]


@pytest.mark.parametrize("name", ["Dockerfile", "jetson.Dockerfile"])
def test_every_step_is_documented(name):
    text = (DOCKER / name).read_text().replace("\\\n", " ")
    steps = [
        step.strip() for run in re.findall(r"^RUN (.*)", text, re.MULTILINE) for step in re.split(r" && (?!echo)", run)
    ]
    steps = [step for step in steps if not HOUSEKEEPING.fullmatch(step)]
    assert len(steps) > 8
    assert [step for step in steps if words(step) not in documented_steps()] == []


def test_compose_file_uses_stages_and_arguments_that_exist():
    yaml = YAML(typ="safe")
    services = yaml.load(DOCKER / "compose.yaml")["services"]
    stages = re.findall(r"^FROM .* AS (\w+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert {service["build"]["target"] for service in services.values()} == set(stages)
    for service in services.values():
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert (service["network_mode"], service["ipc"]) == ("host", "host"), "DDS needs both"
    launch = (ROOT / "launch" / "penguin.launch.py").read_text()
    for argument in services["penguin"]["command"]:
        if ":=" in argument:
            assert f'("{argument.split(":=")[0]}", ' in launch
    assert set(yaml.load(DOCKER / "compose.gpu.yaml")["services"]) <= set(services)
