"""Tests of the Kubernetes manifests: they are valid and unprivileged, and leave the tiers enough time to end."""

import tomllib
from typing import Any

import kubernetes_validate
import pytest

from pagoda.rpc.cluster_tokens import ClusterTokens, Role
from tests.deploy.image import HOME, REPOSITORY, image
from tests.deploy.manifests import (
    DIRECTORY,
    SECRET_EXAMPLE,
    Manifest,
    containers,
    environment,
    kustomization,
    manifests,
    named,
    of_kind,
    pod,
    tls_manifests,
    workloads,
)

# The oldest version with all features that are used here, and a recent one.
VERSIONS = ("1.30", "1.34")
TIERS = ("gateway", "scheduler", "worker")
WORKLOADS = ("Deployment", "StatefulSet")


def names(found: list[Manifest]) -> list[str]:
    return [manifest["metadata"]["name"] for manifest in found]


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", manifests(), ids=name_of)
def test_valid(manifest: Manifest, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_valid_with_tls(version: str) -> None:
    for manifest in tls_manifests():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_kustomization_has_every_file() -> None:
    files = {file.name for file in DIRECTORY.glob("*.yaml")} - {"kustomization.yaml", SECRET_EXAMPLE}
    assert set(kustomization()["resources"]) == files


def test_with_tls_nobody_speaks_clear_text() -> None:
    for tier in TIERS:
        (workload,) = [each for each in tls_manifests() if each["kind"] in WORKLOADS and names([each]) == [tier]]
        (container,) = pod(workload)["containers"]
        told = environment(container, tls_manifests())
        assert f"PAGODA_{tier.upper()}_PLAINTEXT" not in told
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "tls"]
        assert {told[f"PAGODA_TLS_{name}"].rpartition("/")[0] for name in ("CERT", "KEY", "CA")} == {mount["mountPath"]}
        secrets = [volume["secret"]["secretName"] for volume in pod(workload)["volumes"] if volume["name"] == "tls"]
        assert secrets == [f"{tier}-tls"]
        assert all("grpc" not in container.get(f"{kind}Probe", {}) for kind in ("startup", "liveness", "readiness"))


@pytest.mark.parametrize(
    ("tier", "roles"),
    [("gateway", ["gateway"]), ("worker", ["worker"]), ("scheduler", ["gateway", "worker"])],
)
def test_no_pod_starts_without_its_own_tiers_token(tier: str, roles: list[str]) -> None:
    workload = next(found for found in workloads() if found["metadata"]["name"] == tier)
    (container,) = pod(workload)["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "tokens"]
    told = environment(container)[f"PAGODA_{tier.upper()}_CLUSTER_TOKEN_FILE"].split(",")
    assert mount["readOnly"] and told == [f"{mount['mountPath']}/{role}" for role in roles]
    (volume,) = [each["secret"] for each in pod(workload)["volumes"] if each["name"] == "tokens"]
    assert volume["secretName"] == "cluster-tokens" and "optional" not in volume
    assert volume["items"] == [{"key": role, "path": role} for role in roles]
    # The owning group is the pod's (fsGroup); no other user may read the file.
    assert volume["defaultMode"] == 0o440 and pod(workload)["securityContext"]["fsGroup"]
    assert all("tokens" not in str(other.get("volumeMounts")) for other in pod(workload).get("initContainers", []))
    tokens = ClusterTokens(text=" ".join(named("Secret", "cluster-tokens")["stringData"].values()))
    tokens.read()
    assert all(tokens.token_of(Role(role)) for role in roles)


def test_all_tiers_and_the_index_are_there() -> None:
    assert sorted(names(workloads())) == sorted([*TIERS, "valkey"])


@pytest.mark.parametrize("workload", workloads(), ids=name_of)
def test_unprivileged(workload: Manifest) -> None:
    spec = pod(workload)
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"]["memory"] and container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("workload", workloads(), ids=name_of)
def test_no_variables_come_from_the_names_of_services(workload: Manifest) -> None:
    """Kubernetes adds no service variables: a tier refuses unknown variables that begin like its settings."""
    assert pod(workload)["enableServiceLinks"] is False


@pytest.mark.parametrize("workload", workloads(), ids=name_of)
def test_selectors_select(workload: Manifest) -> None:
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"] == labels
    assert named("Service", workload["metadata"]["name"])["spec"]["selector"] == labels


@pytest.mark.parametrize("tier", TIERS)
def test_the_image_is_the_one_that_the_dockerfile_makes(tier: str) -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    workload = next(found for found in workloads() if found["metadata"]["name"] == tier)
    assert {container["image"] for container in containers(workload)} == {f"pagoda-{tier}:{version}"}
    (container,) = pod(workload)["containers"]
    assert "command" not in container and "args" not in container  # the image's own are used
    assert {"name": "home", "mountPath": HOME} in container["volumeMounts"]
    user, _, group = image(tier).user.partition(":")
    context = pod(workload)["securityContext"]
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == (user, group)


@pytest.mark.parametrize("tier", TIERS)
def test_there_is_time_to_drain(tier: str) -> None:
    workload = next(found for found in workloads() if found["metadata"]["name"] == tier)
    (container,) = pod(workload)["containers"]
    told = environment(container)
    drain_s = float(told[f"PAGODA_{tier.upper()}_DRAIN_GRACE_S"])
    delay_s = float(told.get(f"PAGODA_{tier.upper()}_DRAIN_DELAY_S", "0"))
    # Readiness ends at SIGTERM, which no hook may delay.
    assert "lifecycle" not in container
    assert pod(workload)["terminationGracePeriodSeconds"] >= delay_s + drain_s + 5


def test_gateways_are_left_in_peace_before_they_refuse() -> None:
    (container,) = pod(next(found for found in workloads() if found["metadata"]["name"] == "gateway"))["containers"]
    probe = container["readinessProbe"]
    # A proxy with its own check, as frequent as that of Kubernetes, has noticed by then.
    assert float(environment(container)["PAGODA_GATEWAY_DRAIN_DELAY_S"]) >= probe["periodSeconds"]


def test_probes() -> None:
    probes: dict[str, dict[str, Any]] = {}
    for workload in workloads():
        (container,) = pod(workload)["containers"]
        probes[workload["metadata"]["name"]] = {key: container.get(f"{key}Probe") for key in ("liveness", "readiness")}
    assert probes["gateway"]["liveness"]["httpGet"]["path"] == "/health"
    assert probes["gateway"]["readiness"]["httpGet"]["path"] == "/ready"
    # No service name: a scheduler is ready without workers, which may all be at another one.
    assert probes["scheduler"]["liveness"]["grpc"] == probes["scheduler"]["readiness"]["grpc"] == {"port": 50051}
    assert probes["worker"]["liveness"] is None
    command = probes["worker"]["readiness"]["exec"]["command"]
    assert command[:2] == image("worker").healthcheck[:2] and "pagoda.healthcheck" in command[2]


def test_ports_lead_where_somebody_listens() -> None:
    gateway, scheduler = image("gateway").environment, image("scheduler").environment
    listening = {
        "gateway": int(gateway["PAGODA_GATEWAY_PORT"]),
        "scheduler": int(scheduler["PAGODA_SCHEDULER_LISTEN"].rpartition(":")[2]),
        "valkey": 6379,
    }
    for workload in workloads():
        (container,) = pod(workload)["containers"]
        for port in container.get("ports", []):
            assert port["containerPort"] == listening[workload["metadata"]["name"]]
            (published,) = named("Service", workload["metadata"]["name"])["spec"]["ports"]
            assert (published["port"], published["targetPort"]) == (port["containerPort"], port["name"])


def test_addresses_name_services() -> None:
    services = {
        f"{service['metadata']['name']}:{port['port']}"
        for service in of_kind("Service")
        for port in service["spec"].get("ports", [])
    }
    told = {key: value for config in of_kind("ConfigMap") for key, value in config["data"].items()}
    assert told["PAGODA_SCHEDULER_PREFIX_INDEX"].removeprefix("redis://").removesuffix("/0") in services
    assert told["PAGODA_GATEWAY_PREFIX_INDEX"] == told["PAGODA_SCHEDULER_PREFIX_INDEX"]
    # The gateways share the stored responses.
    assert told["PAGODA_GATEWAY_RESPONSE_STORE"] == told["PAGODA_GATEWAY_PREFIX_INDEX"]
    assert told["PAGODA_GATEWAY_MODEL"] == told["PAGODA_WORKER_MODEL"]


def test_every_scheduler_is_listed_by_the_name_that_it_advertises() -> None:
    stateful = named("StatefulSet", "scheduler")
    service = named("Service", stateful["spec"]["serviceName"])
    # These resolve a pod's name in any state of the pod.
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    (port,), (container,) = service["spec"]["ports"], pod(stateful)["containers"]
    replicas, domain = range(stateful["spec"]["replicas"]), service["metadata"]["name"]
    addresses = [f"{stateful['metadata']['name']}-{number}.{domain}:{port['port']}" for number in replicas]
    assert len(addresses) == 2
    for tier in ("gateway", "worker"):
        assert named("ConfigMap", tier)["data"][f"PAGODA_{tier.upper()}_SCHEDULER"].split(",") == addresses
    assert environment(container)["PAGODA_SCHEDULER_ADVERTISE"] == addresses[0]


def test_policies_let_through_what_is_needed() -> None:
    allowed = {
        (policy["metadata"]["name"], port["port"])
        for policy in of_kind("NetworkPolicy")
        for rule in policy["spec"].get("ingress", [])
        for port in rule["ports"]
    }
    assert allowed == {("gateway", 8000), ("scheduler", 50051), ("valkey", 6379)}
    everyone = named("NetworkPolicy", "closed-unless-named")["spec"]
    assert everyone["podSelector"] == {} and "ingress" not in everyone


def test_disruption_budgets_leave_somebody_and_block_nobody() -> None:
    assert sorted(names(of_kind("PodDisruptionBudget"))) == ["gateway", "scheduler", "worker"]
    for budget in of_kind("PodDisruptionBudget"):
        workload = next(found for found in workloads() if found["metadata"]["name"] == budget["metadata"]["name"])
        replicas = workload["spec"]["replicas"]
        assert budget["spec"].get("minAvailable", replicas - budget["spec"].get("maxUnavailable", 0)) < replicas
