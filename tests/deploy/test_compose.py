"""Tests of compose.yaml: it is valid, closed to the network, and starts services in a possible order."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.compose import KEY, TWO_SCHEDULERS, compose_config, resolved_compose
from tests.deploy.image import HOME, REPOSITORY, image
from worker.settings import WorkerSettings

TIERS = ("gateway", "scheduler", "worker")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return resolved_compose()


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


@pytest.mark.parametrize("variables", [{}, {"PAGODA_GATEWAY_API_KEY": ""}])
def test_without_a_key_it_says_what_to_do(variables: dict[str, str]) -> None:
    refused = compose_config(**variables)
    assert refused.returncode != 0
    assert "PAGODA_GATEWAY_API_KEY" in refused.stderr and ".env.example" in refused.stderr


def test_the_example_names_each_variable_and_only_those() -> None:
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    named = {line.lstrip("#").partition("=")[0] for line in lines if "=" in line and not line.startswith("# ")}
    text = (REPOSITORY / "compose.yaml").read_text()
    used = {part.partition(":")[0].partition("}")[0] for part in text.split("${")[1:]}
    assert named == used


def test_all_that_was_asked_for_is_there(services: dict[str, Any]) -> None:
    watching = {"otel-collector", "jaeger", "prometheus", "grafana"}
    assert set(services) == {"cluster-tokens", "model", *TIERS, "valkey", *watching}


def test_a_second_scheduler_is_one_file_more(services: dict[str, Any]) -> None:
    with_two = resolved_compose(TWO_SCHEDULERS)["services"]
    assert set(with_two) == {*services, "scheduler-2"}
    addresses = [
        with_two[name]["environment"].pop("PAGODA_SCHEDULER_ADVERTISE") for name in ("scheduler", "scheduler-2")
    ]
    assert addresses == ["scheduler:50051", "scheduler-2:50051"]
    # Everything else is equal.
    assert with_two["scheduler-2"] == with_two["scheduler"] == services["scheduler"]
    for tier in ("gateway", "worker"):
        assert with_two[tier]["environment"][f"PAGODA_{tier.upper()}_SCHEDULER"].split(",") == addresses
        assert with_two[tier]["depends_on"]["scheduler-2"]["condition"] == "service_healthy"
    index = with_two["gateway"]["environment"]["PAGODA_GATEWAY_PREFIX_INDEX"]
    assert index == with_two["scheduler"]["environment"]["PAGODA_SCHEDULER_PREFIX_INDEX"]
    # A gateway that restarts still has the stored responses.
    assert with_two["gateway"]["environment"]["PAGODA_GATEWAY_RESPONSE_STORE"] == index


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"gateway", "jaeger", "prometheus", "grafana"}
    assert all(port["host_ip"] == "127.0.0.1" for ports in published.values() for port in ports)


def test_the_tiers_run_without_privileges(services: dict[str, Any]) -> None:
    for name in ("cluster-tokens", "model", *TIERS):
        service = services[name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["init"]
        assert "user" not in service  # the image's user, which is not root


def test_the_model_is_fetched_before_anyone_needs_it(services: dict[str, Any]) -> None:
    assert services["model"]["entrypoint"] == ["pagoda", "pull"]
    for name in ("model", "gateway", "worker"):
        assert mounts(services[name])[HOME] == ("models", False)
    for name in ("gateway", "worker"):
        assert services[name]["depends_on"]["model"]["condition"] == "service_completed_successfully"
        assert services[name]["environment"][f"PAGODA_{name.upper()}_MODEL"] == services["model"]["command"][0]


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Return the mounts by path: the volume, and True if it is read-only."""
    return {mount["target"]: (mount["source"], mount.get("read_only", False)) for mount in service["volumes"]}


def test_code_that_the_worker_compiled_is_in_no_volume_of_the_gateway(services: dict[str, Any]) -> None:
    ours, theirs = mounts(services["worker"]), mounts(services["gateway"])
    assert ours[f"{HOME}/state"] == ("worker-state", False)
    assert "worker-state" not in str(theirs) and "worker-state" not in str(services["model"])
    assert WorkerSettings(home=Path(HOME)).native_directory == Path(HOME, "state", "kernels")


def test_each_tier_has_its_own_token_and_only_the_scheduler_both(services: dict[str, Any]) -> None:
    maker = services["cluster-tokens"]
    made = dict(word.split("=") for word in maker["command"])
    assert maker["entrypoint"] == ["pagoda", "cluster-token"] and set(made) == {"gateway", "worker"}
    for tier, roles in {"gateway": ["gateway"], "worker": ["worker"], "scheduler": ["gateway", "worker"]}.items():
        told = services[tier]["environment"][f"PAGODA_{tier.upper()}_CLUSTER_TOKEN_FILE"]
        assert told.split(",") == [made[role] for role in roles]
        found = {place: mount for place, mount in mounts(services[tier]).items() if "token" in place}
        places = [str(Path(made[role]).parent) for role in roles]
        assert found == {place: (f"{role}-token", True) for place, role in zip(places, roles, strict=True)}
        assert all(mounts(maker)[place] == (f"{role}-token", False) for place, role in zip(places, roles, strict=True))
        # A new volume gets the owner of the image's directory.
        assert all(place in " ".join(image("runtime").steps) for place in places)
    assert services["scheduler"]["depends_on"]["cluster-tokens"]["condition"] == "service_completed_successfully"
    assert all("scheduler" in services[tier]["depends_on"] for tier in ("gateway", "worker"))


def test_who_waits_for_health_waits_for_someone_who_tells_it(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_healthy":
                assert name in TIERS or services[name]["healthcheck"]["test"]


def test_the_key_is_where_it_is_needed_and_nowhere_else(services: dict[str, Any]) -> None:
    holders = {name for name, service in services.items() if KEY in str(service)}
    assert holders == {"gateway"}
    assert [secret["source"] for secret in services["prometheus"]["secrets"]] == ["gateway_api_key"]
    # Docker Compose cannot put a secret from the environment into a container whose files are read-only.
    assert "read_only" not in services["prometheus"]


def test_mounted_files_exist_and_data_is_kept_in_named_volumes(compose: dict[str, Any]) -> None:
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    for mount in mounts:
        if mount["type"] == "bind":
            assert Path(mount["source"]).exists() and mount["read_only"]
        else:
            assert mount["source"] in compose["volumes"]


def test_images_have_the_version_of_the_project(services: dict[str, Any]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for tier in TIERS:
        assert services[tier]["image"] == f"pagoda-{tier}:{project['version']}"
    others = [service["image"] for name, service in services.items() if name not in ("cluster-tokens", "model", *TIERS)]
    assert all(":" in image and not image.endswith(":latest") for image in others)
