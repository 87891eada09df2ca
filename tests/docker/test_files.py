"""The files of docker/ agree with the code, with each other and with the schemas of the tools that read them."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from sightline.cli import app
from sightline.contracts.registry import JOBS, served_kinds
from sightline.services import WORKER_GRACE_SECONDS
from sightline.settings import Settings, unknown_variables
from tests.docker.files import DOCKER, KUBERNETES, ROOT, compose, instructions, manifests, merged, of_kind, stage
from workers import metrics
from workers.service import EXIT_GRACE

DOCKERFILES = sorted(DOCKER.rglob("Dockerfile"))
PORT = 9100


def parses(words: list[str]) -> None:
    """Whether the CLI takes a command line; an option or command that does not exist raises."""
    command: Any = typer.main.get_command(app)
    path = []
    while hasattr(command, "commands"):
        path.append(words[0])
        command = command.commands[words[0]]
        words = words[1:]
    command.make_context(" ".join(path), list(words))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: str(path.relative_to(DOCKER)))
def test_the_linter_finds_nothing_in_a_dockerfile(dockerfile: Path) -> None:
    program = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([program, dockerfile], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: str(path.relative_to(DOCKER)))
def test_an_image_is_pinned_and_runs_as_nobody_in_particular(dockerfile: Path) -> None:
    names = {rest.partition(" AS ")[2] for word, rest in instructions(dockerfile) if word == "FROM"}
    for word, rest in instructions(dockerfile):
        base = rest.partition(" AS ")[0]
        if word == "FROM" and base not in names:
            assert re.search(r":[\w.-]*\d", base), f"{base} is not pinned"
    last = [rest for word, rest in instructions(dockerfile) if word == "FROM"][-1]
    user = stage(dockerfile, last.partition(" AS ")[2] or last)["user"]
    assert int(user.split(":")[0]) > 0


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_image_starts_a_worker_and_asks_it_how_it_is(target: str) -> None:
    image = stage(DOCKER / "Dockerfile", target)
    assert image["entrypoint"] == ["sightline"]
    parses(image["command"])
    assert image["healthcheck"] == ["python", "-m", "workers.probe", "/livez"]
    assert image["expose"] == {PORT}
    ours = {name: value for name, value in image["env"].items() if name.startswith("SIGHTLINE_")}
    assert unknown_variables(ours) == []
    read = Settings.model_validate({name[10:].lower(): value for name, value in ours.items()})
    assert (read.metrics_host, read.metrics_port) == ("0.0.0.0", PORT)  # noqa: S104
    assert read.device == {"cpu": "cpu", "cuda": "auto"}[target]


def test_what_is_copied_is_there_and_gets_past_the_ignore_file() -> None:
    allowed = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    copied = [
        rest.split()[:-1]
        for word, rest in instructions(DOCKER / "Dockerfile")
        if word == "COPY" and "--from" not in rest
    ]
    for source in (name for names in copied for name in names):
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source
    # An editable install finds in the image what it finds in a checkout.
    assert {"migrations", "models", "workers", "sightline", "pyproject.toml"} <= {
        name for names in copied for name in names
    }


def test_compose_starts_commands_that_exist_with_settings_that_exist() -> None:
    services = compose()["services"]
    example = (DOCKER / "env.example").read_text()
    for variable in re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text()):
        assert f"{variable}=" in example or variable.endswith("_PORT"), variable
    for name, service in services.items():
        environment = {
            key: value for key, value in service.get("environment", {}).items() if key.startswith("SIGHTLINE_")
        }
        assert unknown_variables(environment) == [], name
        assert set(service.get("depends_on", {})) <= set(services)
        assert ":" in service["image"], name
        if service["image"].startswith("sightline:"):
            parses(service["command"])
            assert service["build"]["target"] == service["image"].removeprefix("sightline:")
            assert service["cap_drop"] == ["ALL"]
            assert service["read_only"]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DOCKER / source).is_dir() if source.startswith("./") else source in compose()["volumes"]


def test_nobody_is_killed_before_it_has_drained() -> None:
    worker = compose()["services"]["worker"]
    needed = WORKER_GRACE_SECONDS + EXIT_GRACE + 5
    assert (
        int(worker["stop_grace_period"].removesuffix("s"))
        >= int(worker["environment"]["SIGHTLINE_DRAIN_SECONDS"]) + needed
    )
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    settings = dict(pair.split("=") for pair in kustomization["configMapGenerator"][0]["literals"])
    assert unknown_variables(settings) == []
    for deployment in workers():
        seconds = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert seconds >= int(settings["SIGHTLINE_DRAIN_SECONDS"]) + needed


def workers() -> list[dict[str, Any]]:
    found = [one for one in of_kind("Deployment") if one["metadata"]["name"].startswith("worker-")]
    assert found
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kubernetes_takes_the_manifests() -> None:
    patch = yaml.safe_load((KUBERNETES / "gpu" / "worker.yaml").read_text())
    gpu = yaml.safe_load((KUBERNETES / "gpu" / "kustomization.yaml").read_text())
    (target,) = [entry["target"] for entry in gpu["patches"]]
    on_gpus = [
        merged(one, patch | {"metadata": one["metadata"]})
        for one in of_kind(target["kind"])
        if re.fullmatch(target["name"], one["metadata"]["name"])
    ]
    assert len(on_gpus) == len(workers())
    for one in on_gpus:
        (container,) = one["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["limits"].keys() == {"memory", "nvidia.com/gpu"}
        assert container["args"][0] == "worker"
        Settings.model_validate({entry["name"][10:].lower(): entry["value"] for entry in container["env"]})
    for one in [*manifests(), *on_gpus]:
        if not one["apiVersion"].startswith("keda.sh/"):  # not of Kubernetes' own schemas
            kubernetes_validate.validate(one, "1.34", strict=True)
    for path in (KUBERNETES / "kustomization.yaml", KUBERNETES / "gpu" / "kustomization.yaml"):
        for name in yaml.safe_load(path.read_text())["resources"]:
            assert (path.parent / name).exists()


def test_containers_run_commands_that_exist_and_are_probed_where_they_answer() -> None:
    for one in [*of_kind("Deployment"), *of_kind("Job")]:
        pod = one["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            if container["image"] == "sightline":
                parses(container["args"])
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounts <= {volume["name"] for volume in pod["volumes"]}
    for one in workers():
        (container,) = one["spec"]["template"]["spec"]["containers"]
        assert container["ports"] == [{"name": "metrics", "containerPort": PORT}]
        probes = {
            name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")
        }
        assert probes == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
        assert {container[name]["httpGet"]["port"] for name in probes} == {"metrics"}
        assert one["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(PORT)


def test_selectors_select_what_they_name() -> None:
    pods = [one["spec"]["template"]["metadata"]["labels"] for one in [*of_kind("Deployment"), *of_kind("Job")]]

    def selected(labels: dict[str, str]) -> int:
        return sum(labels.items() <= pod.items() for pod in pods)

    for one in of_kind("Deployment"):
        assert selected(one["spec"]["selector"]["matchLabels"]) == 1
    for one in of_kind("PodDisruptionBudget"):
        assert selected(one["spec"]["selector"]["matchLabels"]) == 1
    for one in of_kind("NetworkPolicy"):
        assert selected(one["spec"]["podSelector"].get("matchLabels", {})) >= 1, one["metadata"]["name"]
    deployments = {one["metadata"]["name"] for one in of_kind("Deployment")}
    assert {one["spec"]["scaleTargetRef"]["name"] for one in of_kind("ScaledObject")} == {
        name for name in deployments if name.startswith("worker-")
    }
    assert {one["metadata"]["name"] for one in of_kind("PodDisruptionBudget")} == deployments


def test_each_worker_serves_the_queue_by_which_it_is_scaled() -> None:
    assert {f"worker-{kind}" for kind in served_kinds(JOBS)} == {one["metadata"]["name"] for one in workers()}
    served = {one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0]["args"][2] for one in workers()}
    for one in of_kind("ScaledObject"):
        for trigger in one["spec"]["triggers"]:
            assert f"queue = '{served[one['metadata']['name']]}'" in trigger["metadata"]["query"]


def test_secrets_have_examples_and_stay_out_of_git() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    names = [
        path.split("=")[-1]
        for one in kustomization["secretGenerator"]
        for path in one.get("envs", []) + one.get("files", [])
    ]
    for name in names:
        example = KUBERNETES / f"{name}.example"
        if name.endswith(".env"):
            pairs = dict(line.split("=", 1) for line in example.read_text().splitlines() if not line.startswith("#"))
            assert unknown_variables(pairs) == []
            Settings.model_validate({key[10:].lower(): value for key, value in pairs.items()})
        if shutil.which("git") and (ROOT / ".git").exists():
            ignored = subprocess.run(["git", "check-ignore", "-q", KUBERNETES / name], cwd=ROOT, check=False)
            assert ignored.returncode == 0, f"{name} would be committed"
        assert example.exists()


def test_alerts_speak_of_metrics_that_workers_serve() -> None:
    served = {
        name
        for family in metrics.REGISTRY.collect()
        for name in (family.name, f"{family.name}_total", f"{family.name}_bucket", f"{family.name}_count")
    }
    rules = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    for rule in rules:
        named = set(re.findall(r"sightline_\w+", rule["expr"]))
        assert named
        assert named <= served, rule["alert"]
    operate = (ROOT / "docs" / "operate.md").read_text()
    for rule in rules:
        assert f"`{rule['alert']}`" in operate, f"docs/operate.md does not say what to do about {rule['alert']}"


def test_prometheus_scrapes_every_worker_of_compose() -> None:
    jobs = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    scraped = {name: config["port"] for job in jobs for config in job["dns_sd_configs"] for name in config["names"]}
    assert scraped == dict.fromkeys((name for name in compose()["services"] if name.startswith("worker")), PORT)
