"""The CRDs on a real API server, and the tables of cases."""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from kernel_local.testing import KubernetesServer

CRDS = Path(__file__).parents[3] / "crds"
CASES = Path(__file__).parent / "cases"
GROUP, VERSION = "platform-kernel.io", "v1alpha1"


@dataclass(frozen=True)
class Refused:
    """What the server says to a person: pairs of field and message."""

    causes: tuple[tuple[str, str], ...]

    def says(self, field: str, fragment: str) -> bool:
        return any(where == field and fragment in message for where, message in self.causes)


class Server:
    """Creates and changes objects of ours on the server; refusals come back as values."""

    def __init__(self, api: client.CustomObjectsApi) -> None:
        self._api = api

    def dry_create(self, body: Mapping[str, Any]) -> dict[str, Any] | Refused:
        return self._ask(self._call("create", body), body=body, dry_run="All", field_validation="Strict")

    def dry_replace(self, stored: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any] | Refused:
        changed = {**body, "metadata": stored["metadata"]}
        call = self._call("replace", changed)
        return self._ask(call, name=stored["metadata"]["name"], body=changed, dry_run="All", field_validation="Strict")

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        created = self._ask(self._call("create", body), body=body)
        assert not isinstance(created, Refused), created
        return created

    def patch_status(self, body: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any] | Refused:
        # The generated client offers JSON patch first, and a dict then goes out as a list operation.
        merge = {"status": status}
        call = self._call("patch", body, "_status")
        return self._ask(call, name=body["metadata"]["name"], body=merge, _content_type="application/merge-patch+json")

    def delete(self, body: Mapping[str, Any]) -> None:
        self._ask(self._call("delete", body), name=body["metadata"]["name"])

    def _call(self, verb: str, body: Mapping[str, Any], suffix: str = "") -> Any:
        scope = "namespaced" if body["kind"] == "KernelModule" else "cluster"
        method = getattr(self._api, f"{verb}_{scope}_custom_object{suffix}")
        where = {"group": GROUP, "version": VERSION, "plural": f"{body['kind'].lower()}s"}
        if scope == "namespaced":
            where["namespace"] = body["metadata"]["namespace"]
        return lambda **arguments: method(**where, **arguments)

    @staticmethod
    def _ask(call: Any, **arguments: Any) -> dict[str, Any] | Refused:
        try:
            answer: dict[str, Any] = call(_request_timeout=30, **arguments)
            return answer
        except ApiException as error:
            if error.status != 422:
                raise
            details = json.loads(error.body or "{}")["details"]
            return Refused(tuple((cause["field"], cause["message"]) for cause in details["causes"]))


@pytest.fixture(scope="session")
def crds(kubernetes: KubernetesServer) -> KubernetesServer:
    """The API server with the CRDs established."""
    kubernetes.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    kubernetes.kubectl("wait", "--for=condition=Established", "-f", str(CRDS), "--timeout=30s")
    return kubernetes


@pytest.fixture(scope="session")
def server(crds: KubernetesServer) -> Iterator[Server]:
    with config.new_client_from_config(str(crds.kubeconfig)) as api:  # type: ignore[no-untyped-call]
        yield Server(client.CustomObjectsApi(api))


def load_cases(name: str) -> dict[str, Any]:
    cases: dict[str, Any] = yaml.safe_load((CASES / f"{name}.yaml").read_text())
    return cases


def with_case(body: Mapping[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    """``body`` with the case's ``set`` and ``remove`` applied; both are JSON pointers."""
    changed = copy.deepcopy(dict(body))
    for pointer, value in (case.get("set") or {}).items():
        parent, last = _walk(changed, pointer)
        if isinstance(parent, list) and last == len(parent):
            parent.append(value)
        else:
            parent[last] = value
    for pointer in case.get("remove") or ():
        parent, last = _walk(changed, pointer)
        del parent[last]
    return changed


def _walk(body: Any, pointer: str) -> tuple[Any, Any]:
    *path, last = pointer.removeprefix("/").split("/")
    for part in path:
        body = body[int(part)] if isinstance(body, list) else body.setdefault(part, {})
    return body, int(last) if isinstance(body, list) else last


def renamed(body: Mapping[str, Any]) -> dict[str, Any]:
    """``body`` under a name that no other test has."""
    changed = copy.deepcopy(dict(body))
    changed["metadata"]["name"] = f"t-{uuid4().hex[:12]}"
    return changed
