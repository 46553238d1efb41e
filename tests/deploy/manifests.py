"""The Kubernetes manifests as objects, and the environment of their containers with ConfigMaps and Secrets resolved.

Kustomizations are built as far as these manifests need it: resources, other kustomizations, and JSON patches.
"""

import json
import re
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.image import REPOSITORY

DIRECTORY = REPOSITORY / "deploy" / "kubernetes"
TLS_DIRECTORY = REPOSITORY / "deploy" / "kubernetes-tls"
SECRET_EXAMPLE = "secret.example.yaml"

Manifest = dict[str, Any]


def kustomization(directory: Path = DIRECTORY) -> Manifest:
    content: Manifest = yaml.safe_load((directory / "kustomization.yaml").read_text())
    return content


@cache
def manifests() -> Seq[Manifest]:
    return [*built(DIRECTORY), *yaml.safe_load_all((DIRECTORY / SECRET_EXAMPLE).read_text())]


@cache
def tls_manifests() -> Seq[Manifest]:
    return [*built(TLS_DIRECTORY), *yaml.safe_load_all((DIRECTORY / SECRET_EXAMPLE).read_text())]


def built(directory: Path) -> list[Manifest]:
    described = kustomization(directory)
    resources: list[Manifest] = []
    for path in (directory / name for name in described["resources"]):
        # JSON copies what YAML's anchors share, so that a patch changes one place only.
        resources += built(path) if path.is_dir() else json.loads(json.dumps([*yaml.safe_load_all(path.read_text())]))
    for patch in described.get("patches", []):
        operations = yaml.safe_load(patch["patch"] if "patch" in patch else (directory / patch["path"]).read_text())
        targets = [found for found in resources if _is_target(found, patch["target"])]
        assert targets, f"no manifest matches {patch['target']}"
        for target in targets:
            for operation in operations:
                _carry_out(operation, target)
    return resources


def _is_target(manifest: Manifest, target: dict[str, str]) -> bool:
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    return bool(re.fullmatch(target["kind"], kind) and re.fullmatch(target["name"], name))


def _carry_out(operation: Manifest, manifest: Manifest) -> None:
    """Apply an operation of JSON Patch. What is removed or replaced must exist."""
    *parents, last = operation["path"].removeprefix("/").split("/")
    place: Any = manifest
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    match operation["op"]:
        case "add" if last == "-":
            place.append(operation["value"])
        case "replace":
            assert last in place
            place[last] = operation["value"]
        case "remove":
            del place[last]
        case other:
            raise AssertionError(f"{other} is not supported here")


def of_kind(*kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests() if manifest["kind"] in kinds]


def named(kind: str, name: str, among: Seq[Manifest] | None = None) -> Manifest:
    alike = [each for each in among or manifests() if each["kind"] == kind]
    (found,) = [manifest for manifest in alike if manifest["metadata"]["name"] == name]
    return found


def workloads() -> list[Manifest]:
    return of_kind("Deployment", "StatefulSet")


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def containers(workload: Manifest) -> list[Manifest]:
    return [*pod(workload).get("initContainers", []), *pod(workload)["containers"]]


def environment(container: Manifest, among: Seq[Manifest] | None = None) -> dict[str, str]:
    """Return the container's environment in the first pod."""
    told: dict[str, str] = {}
    for name, value in _environment(container, among):
        # $(NAME) refers to an earlier variable.
        told[name] = re.sub(r"\$\((\w+)\)", lambda reference: told[reference[1]], value)
    return told


def _environment(container: Manifest, among: Seq[Manifest] | None) -> Iterator[tuple[str, str]]:
    for source in container.get("envFrom", []):
        if reference := source.get("configMapRef"):
            yield from named("ConfigMap", reference["name"], among)["data"].items()
        else:
            yield from named("Secret", source["secretRef"]["name"], among)["stringData"].items()
    for variable in container.get("env", []):
        yield variable["name"], variable.get("value") or _from_cluster(container, variable["valueFrom"])


def _from_cluster(container: Manifest, source: Manifest) -> str:
    """Return the value that the cluster fills in for a pod."""
    if "fieldRef" in source:
        return {"metadata.name": f"{container['name']}-0"}[source["fieldRef"]["fieldPath"]]
    kind, _, resource = source["resourceFieldRef"]["resource"].partition(".")
    value: str = container["resources"][kind][resource]
    return value
