"""deploy/kubernetes, without a cluster: its parts fit each other, the settings, the ports and the image."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from models.metrics import METRICS
from models.settings import Settings, load_settings
from tests.support.compose import ROOT, instructions

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ROOT / "deploy" / "kubernetes"
APART = {"kustomization.yaml", "secrets.example.yaml", "autoscale.yaml"}
"""Files that `kubectl apply --kustomize` does not apply."""
PORTS = {name: Settings.model_fields[name].default for name in ("port", "admin_port")}


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one is not None]


EVERYTHING = [one for path in sorted(FOLDER.glob("*.yaml")) for one in documents(path) if "metadata" in one]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in EVERYTHING if one["kind"] == kind}


WORKLOADS = {**of_kind("Deployment"), **of_kind("Job")}


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = WORKLOADS[name]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    (one,) = pod(name)["containers"]
    found: dict[str, Any] = one
    return found


def environment(name: str) -> dict[str, str]:
    """Return what a container sees, with later sources over earlier ones, as Kubernetes has it."""
    found: dict[str, str] = {}
    maps, secrets = of_kind("ConfigMap"), of_kind("Secret")
    for source in container(name)["envFrom"]:
        if "configMapRef" in source:
            found |= maps[source["configMapRef"]["name"]]["data"]
        else:
            found |= secrets[source["secretRef"]["name"]]["stringData"]
    for one in container(name).get("env", []):
        if "value" in one:
            found[one["name"]] = one["value"]
        else:
            reference = one["valueFrom"]["secretKeyRef"]
            found[one["name"]] = secrets[reference["name"]]["stringData"][reference["key"]]
    return found


def test_every_file_is_applied_or_is_apart_on_purpose() -> None:
    (kustomization,) = documents(FOLDER / "kustomization.yaml")
    there = {path.name for path in FOLDER.iterdir()}
    assert set(kustomization["resources"]) | APART == there
    assert set(WORKLOADS) == {"usher-api", "usher-worker", "usher-migrate"}
    assert {image["name"] for image in kustomization["images"]} == {container(name)["image"] for name in WORKLOADS}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_container_is_given_settings_that_exist_and_fit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment(name)
    known = {f"USHER_{field.upper()}" for field in Settings.model_fields}
    assert set(given) <= known
    for variable, value in given.items():
        assert isinstance(value, str), f"{variable} would be refused: Kubernetes takes text only"
        monkeypatch.setenv(variable, value)
    settings = load_settings()
    assert (settings.host, settings.admin_host) == ("0.0.0.0", "0.0.0.0")  # noqa: S104  compared, not bound
    owner = "usher:change-me@" in settings.database_url.get_secret_value()
    assert owner == (name == "usher-migrate"), "only the migration has the login of the owner"


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_container_has_no_right_it_does_not_need(name: str) -> None:
    one = dict(instructions())
    number = int(one["USER"].split(":")[0])
    assert pod(name)["securityContext"]["runAsUser"] == number
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert pod(name)["automountServiceAccountToken"] is False
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container(name)["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_file_of_a_setting_is_on_a_volume_that_is_there(name: str) -> None:
    volumes = {one["name"]: one for one in pod(name).get("volumes", [])}
    mounts = {one["mountPath"]: one["name"] for one in container(name).get("volumeMounts", [])}
    assert set(mounts.values()) == set(volumes)
    assert "/tmp" in mounts  # noqa: S108  a path in the container
    own = {one["name"] for one in container(name).get("env", [])}
    for variable, value in environment(name).items():
        if value.startswith("/") and (variable in own or name != "usher-migrate"):
            folder = value if variable.endswith("_DIR") else value.rpartition("/")[0]
            assert folder in mounts, variable
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in of_kind("PersistentVolumeClaim")
        if "secret" in volume:
            keys = of_kind("Secret")[volume["secret"]["secretName"]]["stringData"]
            assert set(keys) == {"audit.key", "audit.key.pub"}
    assert ("key" in volumes) == (name == "usher-worker"), "only what seals has the key"


def test_ports_probes_and_services_agree() -> None:
    named = {
        name: {one["name"]: one["containerPort"] for one in container(name)["ports"]}
        for name in ("usher-api", "usher-worker")
    }
    assert named["usher-api"] == {"public": PORTS["port"], "internal": PORTS["admin_port"]}
    assert named["usher-worker"] == {"internal": int(environment("usher-worker")["USHER_WORKER_ADMIN_PORT"])}
    for name, ports in named.items():
        one = container(name)
        probes = {probe: one[probe]["httpGet"] for probe in one if probe.endswith("Probe")}
        assert {probe["port"] for probe in probes.values()} == {"internal"}
        assert probes["livenessProbe"]["path"] == probes["startupProbe"]["path"] == "/livez"
        notes = WORKLOADS[name]["spec"]["template"]["metadata"]["annotations"]
        assert (notes["prometheus.io/port"], notes["prometheus.io/path"]) == (str(ports["internal"]), "/metrics")
    assert container("usher-api")["readinessProbe"]["httpGet"]["path"] == "/readyz"
    for service in of_kind("Service").values():
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP", "nothing is published by itself"
        (port,) = service["spec"]["ports"]
        assert port["targetPort"] in named["usher-api"]
    assert {one["spec"]["ports"][0]["targetPort"] for one in of_kind("Service").values()} == {"public", "internal"}


def test_selectors_find_the_pods_that_they_mean() -> None:
    labels = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in WORKLOADS.items()}
    assert len({tuple(one.items()) for one in labels.values()}) == len(labels)
    for name, one in of_kind("Deployment").items():
        assert one["spec"]["selector"]["matchLabels"] == labels[name]
        assert one["spec"]["replicas"] >= 2
        assert of_kind("PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"] == labels[name]
        assert of_kind("PodDisruptionBudget")[name]["spec"]["minAvailable"] < one["spec"]["replicas"]
    for one in of_kind("Service").values():
        assert one["spec"]["selector"] == labels["usher-api"]


@pytest.mark.parametrize("name", ["usher-api", "usher-worker"])
def test_a_stopping_pod_has_the_time_that_its_process_takes(name: str) -> None:
    stop = container(name).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert (name == "usher-api") == bool(stop), "an api is asked until every node knows better"
    shutdown = Settings.model_fields["shutdown_seconds"].default
    assert pod(name)["terminationGracePeriodSeconds"] >= stop + shutdown + 10


def test_what_scales_is_there_and_so_is_what_it_scales_by() -> None:
    scaled = {**of_kind("HorizontalPodAutoscaler"), **of_kind("ScaledObject")}
    assert {one["spec"]["scaleTargetRef"]["name"] for one in scaled.values()} == set(of_kind("Deployment"))
    (trigger,) = of_kind("ScaledObject")["usher-worker"]["spec"]["triggers"]
    metric, labels = re.findall(r"(usher_\w+)\{(.*?)\}", trigger["metadata"]["query"])[0]
    assert set(re.findall(r"(\w+)=", labels)) == set(METRICS[metric].labels)
