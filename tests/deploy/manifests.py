"""The Kubernetes manifests as objects, and what a container of theirs is told, references to ConfigMaps and Secrets followed."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from tests.deploy.image import REPOSITORY

DIRECTORY = REPOSITORY / "deploy" / "kubernetes"
SECRET_EXAMPLE = "secret.example.yaml"

Manifest = dict[str, Any]


@cache
def kustomization() -> Manifest:
    content: Manifest = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())
    return content


@cache
def manifests() -> tuple[Manifest, ...]:
    names = [*kustomization()["resources"], SECRET_EXAMPLE]
    return tuple(document for name in names for document in yaml.safe_load_all((DIRECTORY / name).read_text()))


def of_kind(*kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests() if manifest["kind"] in kinds]


def named(kind: str, name: str) -> Manifest:
    (found,) = [manifest for manifest in of_kind(kind) if manifest["metadata"]["name"] == name]
    return found


def workloads() -> list[Manifest]:
    return of_kind("Deployment", "StatefulSet")


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def containers(workload: Manifest) -> list[Manifest]:
    return [*pod(workload).get("initContainers", []), *pod(workload)["containers"]]


def environment(container: Manifest) -> dict[str, str]:
    return dict(_environment(container))


def _environment(container: Manifest) -> Iterator[tuple[str, str]]:
    for source in container.get("envFrom", []):
        if reference := source.get("configMapRef"):
            yield from named("ConfigMap", reference["name"])["data"].items()
        else:
            yield from named("Secret", source["secretRef"]["name"])["stringData"].items()
    for variable in container.get("env", []):
        yield variable["name"], variable.get("value") or _from_cluster(container, variable["valueFrom"])


def _from_cluster(container: Manifest, source: Manifest) -> str:
    """What the cluster would fill in for a pod."""
    if "fieldRef" in source:
        return {"metadata.name": "worker-0"}[source["fieldRef"]["fieldPath"]]
    kind, _, resource = source["resourceFieldRef"]["resource"].partition(".")
    value: str = container["resources"][kind][resource]
    return value
