"""The images are built by the documented steps, and the compose file names what exists. No image is built here."""

import os
import re
import shlex
import subprocess
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
    composed = yaml.load(DOCKER / "compose.yaml")
    services = composed["services"]
    stages = re.findall(r"^FROM .* AS (\w+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert {service["build"]["target"] for service in services.values()} == set(stages)
    for service in services.values():
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert (service["network_mode"], service["ipc"]) == ("host", "host"), "DDS needs both"
        assert set(service.get("depends_on", ())) <= set(services)
    (volume,) = services["penguin"]["volumes"]
    name, folder = volume.split(":")
    assert name in composed["volumes"]
    assert f"HF_HOME={folder}/" in (DOCKER / "Dockerfile").read_text(), "or each container downloads the model again"
    assert services["camera"]["devices"] == ["${VIDEO_DEVICE:-/dev/video0}:/dev/video0"]
    launch = (ROOT / "launch" / "penguin.launch.py").read_text()
    for argument in services["penguin"]["command"]:
        if ":=" in argument:
            assert f'("{argument.split(":=")[0]}", ' in launch
    assert set(yaml.load(DOCKER / "compose.gpu.yaml")["services"]) <= set(services)


def test_the_entrypoint_runs_its_command_in_the_three_environments(tmp_path):
    sources = {"/opt/ros/$ROS_DISTRO": "ros", "/ros2_ws/venv/bin": "venv", "/ros2_ws/install": "install"}
    script = (DOCKER / "entrypoint.sh").read_text()
    for folder, name in sources.items():
        script = script.replace(f"{folder}/", f"{tmp_path}/{name}/")
        (tmp_path / name).mkdir()
        for file in ("setup.bash", "activate"):
            (tmp_path / name / file).write_text(f"export SEEN=${{SEEN}}{name},")
    ran = subprocess.run(
        ["bash", "-c", script, "entrypoint", "printenv", "SEEN"],
        capture_output=True,
        text=True,
        env={"PATH": os.defpath},
    )
    assert (ran.stdout, ran.stderr) == ("ros,venv,install,\n", "")
    assert os.access(DOCKER / "entrypoint.sh", os.X_OK)
