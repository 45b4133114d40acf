"""The chart for Kubernetes and what is rendered from it: valid, confined, and up to date."""

import json
import re
import subprocess

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from jsonschema import Draft7Validator

from codefend.service.metrics import Metrics
from codefend.service.settings import Settings
from tests.deploy import chart

# The oldest and the newest of what is supported today, and what lies between.
KUBERNETES = ["1.33", "1.35", "1.37"]
CUSTOM = {model.__name__: model for model in (ScaledObject, ServiceMonitor, PrometheusRule)}
FILES = sorted(chart.MANIFESTS.glob("*.yaml"))
MODEL_URL = {"upstream": {"url": "http://models:8000/v1"}}
needs_go = pytest.mark.skipif(
    not chart.HAS_GO,
    reason="needs Go, sprig and sigs.k8s.io/yaml, as Debian packs them (see tests/deploy/chart.py)",
)


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


@pytest.fixture(scope="module", params=FILES, ids=lambda file: file.stem)
def manifests(request):
    return documents(request.param.read_text())


def of(manifests, kind, name="codefend"):
    (found,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def guard_of(manifests):
    (container,) = of(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return container


def complaints(document, version):
    """What a cluster of that version would say of it."""
    model = CUSTOM.get(document["kind"])
    if model is None:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield str(error)
    elif (
        read := model.model_validate(document).model_dump(
            mode="json", by_alias=True, exclude_unset=True
        )
    ) != document:
        yield f"read as {read}: there are fields that it does not have"


# Against the schemas of Kubernetes, of KEDA and of Prometheus' operator.


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_are_valid(manifests, version):
    for document in manifests:
        assert list(complaints(document, version)) == []


def test_what_a_cluster_would_refuse_is_found():
    (scaled,) = [
        document
        for document in documents((chart.MANIFESTS / "vllm-autoscaled.yaml").read_text())
        if document["kind"] == "ScaledObject"
    ]
    assert list(complaints(scaled | {"spec": scaled["spec"] | {"maxReplicas": 2}}, "1.37"))
    with pytest.raises(ValueError, match="minReplicaCount"):
        list(complaints(scaled | {"spec": scaled["spec"] | {"minReplicaCount": "two"}}, "1.37"))
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}}
    assert list(complaints(account, "1.37")) == []
    assert list(complaints(account | {"automount": False}, "1.37"))


def test_every_rendered_file_is_known():
    assert {file.stem for file in FILES} == {*chart.RENDERED}


@needs_go
@pytest.mark.slow
@pytest.mark.parametrize("name", chart.RENDERED)
def test_manifests_are_what_the_chart_renders(name):
    assert (chart.MANIFESTS / f"{name}.yaml").read_text() == chart.manifest(name), "make manifests"


# The network policies, read as a cluster reads them.


def selects(selector, labels):
    assert set(selector) <= {"matchLabels"}, "the test reads no other selectors"
    return selector.get("matchLabels", {}).items() <= labels.items()


def admits(peers, policy_namespace, pod):
    """Whether one of the peers is this pod, given as namespace, its labels, and the pod's."""
    namespace, namespace_labels, labels = pod
    for peer in peers:
        if "ipBlock" in peer:
            continue
        in_namespace = (
            selects(peer["namespaceSelector"], namespace_labels)
            if "namespaceSelector" in peer
            else namespace == policy_namespace
        )
        if in_namespace and selects(peer.get("podSelector", {}), labels):
            return True
    return False


def may_pass(manifests, direction, pod, other, port):
    """Whether policies let `pod` send to `other` (Egress), or take from it (Ingress)."""
    namespace, _, labels = pod
    policies = [
        manifest["spec"]
        for manifest in manifests
        if manifest["kind"] == "NetworkPolicy"
        and namespace == "default"
        and direction in manifest["spec"]["policyTypes"]
        and selects(manifest["spec"]["podSelector"], labels)
    ]
    side = {"Ingress": "from", "Egress": "to"}[direction]
    return not policies or any(
        admits(rule[side], "default", other) and any(p["port"] in port for p in rule["ports"])
        for policy in policies
        for rule in policy.get(direction.lower(), [])
    )


def reaches(manifests, sender, receiver, *port):
    """Whether a connection is let out there and let in here; a port by number and by name."""
    return may_pass(manifests, "Egress", sender, receiver, port) and may_pass(
        manifests, "Ingress", receiver, sender, port
    )


def pods_of(manifests):
    def labels_of(name):
        deployment = of(manifests, "Deployment", name)
        return deployment["spec"]["template"]["metadata"]["labels"]

    here, there = {"kubernetes.io/metadata.name": "default"}, {"kubernetes.io/metadata.name": "x"}
    guard = labels_of("codefend")
    return {
        "guard": ("default", here, guard),
        "mllm": ("default", here, labels_of("codefend-mllm")),
        "client": ("default", here, {"app": "shop"}),
        "foreign": ("x", there, {"app": "shop"}),
        "impostor": ("x", there, guard),
        "prometheus": ("monitoring", {"kubernetes.io/metadata.name": "monitoring"}, {"app": "p"}),
        "dns": ("kube-system", {}, {"k8s-app": "kube-dns"}),
    }


@pytest.mark.parametrize("name", [name for name in chart.RENDERED if name != "embedded"])
def test_the_guard_alone_reaches_the_model(name):
    manifests = documents((chart.MANIFESTS / f"{name}.yaml").read_text())
    pods = pods_of(manifests)
    mllm = pods.pop("mllm")
    reaching = [each for each, pod in pods.items() if reaches(manifests, pod, mllm, 8000, "http")]
    assert reaching == ["guard"]
    assert not reaches(manifests, pods["guard"], mllm, 22)
    assert not reaches(manifests, mllm, pods["guard"], 8000, "http")
    assert reaches(manifests, mllm, pods["dns"], 53)


@pytest.mark.parametrize("name", chart.RENDERED)
def test_the_guard_is_asked_by_its_namespace_and_reaches_the_model_alone(name):
    manifests = documents((chart.MANIFESTS / f"{name}.yaml").read_text())
    pods = pods_of(manifests) if name != "embedded" else pods_of_embedded(manifests)
    guard = pods["guard"]
    asking = [each for each, pod in pods.items() if reaches(manifests, pod, guard, 8000, "http")]
    reading = [
        each for each, pod in pods.items() if reaches(manifests, pod, guard, 9100, "metrics")
    ]
    reached = [each for each, pod in pods.items() if reaches(manifests, guard, pod, 8000)]
    assert asking == ["client"]
    assert reading == ["prometheus"]
    assert reached == ([] if name == "embedded" else ["mllm"])
    assert reaches(manifests, guard, pods["dns"], 53)


def pods_of_embedded(manifests):
    deployment = of(manifests, "Deployment")
    fake = [*manifests, deployment | {"metadata": {"name": "codefend-mllm"}}]
    pods = pods_of(fake)
    del pods["mllm"]
    return pods


@needs_go
@pytest.mark.slow
def test_a_model_that_runs_already_is_reached_by_the_guard_alone():
    policy = {"protect": {"app": "vllm"}, "upstream": {"ports": [8000]}}
    manifests = documents(chart.render(MODEL_URL, {"networkPolicy": policy}))
    pods = pods_of_embedded(manifests)
    model = ("default", pods["guard"][1], {"app": "vllm"})
    reaching = [each for each, pod in pods.items() if reaches(manifests, pod, model, 8000)]
    assert reaching == ["guard"]


def test_what_a_model_downloads_comes_from_outside_the_cluster():
    manifests = documents((chart.MANIFESTS / "vllm.yaml").read_text())
    rules = of(manifests, "NetworkPolicy", "codefend-mllm")["spec"]["egress"]
    (block,) = [peer["ipBlock"] for rule in rules for peer in rule["to"] if "ipBlock" in peer]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= {*block["except"]}


# The guard's pods.


def test_the_guard_is_confined(manifests):
    pod = of(manifests, "Deployment")["spec"]["template"]["spec"]
    guard = guard_of(manifests)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "CODEFEND_PORT would be a service's address"
    assert guard["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    written = {mount["mountPath"] for mount in guard["volumeMounts"] if not mount.get("readOnly")}
    assert written == {"/dev/shm", "/tmp"}


def test_probes_ask_what_the_service_answers(manifests):
    guard = guard_of(manifests)
    ports = {port["name"]: port["containerPort"] for port in guard["ports"]}
    for probe, path in (("startup", "/readyz"), ("readiness", "/readyz"), ("liveness", "/healthz")):
        assert guard[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "http"}
    assert ports == {"http": 8000, "metrics": 9100}
    dockerfile = (chart.ROOT / "Dockerfile").read_text()
    assert f"CODEFEND_PORT={ports['http']}" in dockerfile
    assert {"name": "CODEFEND_METRICS_PORT", "value": str(ports["metrics"])} in guard["env"]


def test_only_settings_that_exist_are_set(manifests):
    names = {variable["name"] for variable in guard_of(manifests)["env"]}
    assert names <= {f"CODEFEND_{name.upper()}" for name in Settings.model_fields}


def test_no_key_is_in_a_file(manifests):
    assert [m for m in manifests if m["kind"] == "Secret"] == []
    (keys,) = [v for v in guard_of(manifests)["env"] if v["name"] == "CODEFEND_API_KEYS"]
    assert keys["valueFrom"]["secretKeyRef"] == {"name": "codefend-keys", "key": "api-keys"}


def test_everything_selects_the_guards_pods(manifests):
    labels = of(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    metrics = of(manifests, "Service", "codefend-metrics")
    selectors = [
        of(manifests, "Service")["spec"]["selector"],
        metrics["spec"]["selector"],
        of(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    for monitor in (m for m in manifests if m["kind"] == "ServiceMonitor"):
        assert (
            monitor["spec"]["selector"]["matchLabels"].items()
            <= metrics["metadata"]["labels"].items()
        )
        assert monitor["spec"]["endpoints"][0]["port"] == metrics["spec"]["ports"][0]["name"]


def test_the_alerts_are_those_of_the_repository_and_ask_for_the_job():
    manifests = documents((chart.MANIFESTS / "vllm-autoscaled.yaml").read_text())
    text = (chart.ROOT / "deploy/observability/rules.yml").read_text()
    assert of(manifests, "PrometheusRule")["spec"] == yaml.safe_load(text), "make manifests"
    job_label = of(manifests, "ServiceMonitor")["spec"]["jobLabel"]
    job = of(manifests, "Service", "codefend-metrics")["metadata"]["labels"][job_label]
    assert {*re.findall(r'job="(\w+)"', text)} == {job}


@needs_go
@pytest.mark.slow
def test_the_dashboard_is_the_repositorys():
    manifests = documents(chart.render("values-vllm.yaml", {"dashboard": {"enabled": True}}))
    held = of(manifests, "ConfigMap", "codefend-dashboard")
    folder = chart.ROOT / "deploy/observability/grafana/dashboards"
    assert held["data"]["codefend.json"] == (folder / "codefend.json").read_text()
    assert held["metadata"]["labels"]["grafana_dashboard"] == "1"


@needs_go
@pytest.mark.slow
def test_weights_of_ones_own_are_mounted():
    values = {
        "extraVolumes": [{"name": "weights", "persistentVolumeClaim": {"claimName": "mine"}}],
        "extraVolumeMounts": [{"name": "weights", "mountPath": "/weights", "readOnly": True}],
    }
    assert problems(values) == []
    manifests = documents(chart.render("values-vllm.yaml", values))
    assert list(complaints(of(manifests, "Deployment"), "1.37")) == []
    assert values["extraVolumeMounts"][0] in guard_of(manifests)["volumeMounts"]


def test_replicas_follow_a_metric_that_exists():
    manifests = documents((chart.MANIFESTS / "vllm-autoscaled.yaml").read_text())
    scaled = of(manifests, "ScaledObject")["spec"]
    (query,) = [trigger["metadata"]["query"] for trigger in scaled["triggers"]]
    exposed = Metrics().exposition().decode()
    assert re.search(rf"^# TYPE {re.search(r'codefend_[a-z_]+', query)[0]} gauge$", exposed, re.M)
    assert 'service="codefend-metrics"' in query
    assert scaled["scaleTargetRef"]["name"] == of(manifests, "Deployment")["metadata"]["name"]
    assert "replicas" not in of(manifests, "Deployment")["spec"], "a rollout would undo the scaling"


def test_the_grace_outlasts_the_drain(manifests):
    pod = of(manifests, "Deployment")["spec"]["template"]["spec"]
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    drain_s = defaults["drain_timeout_s"] + defaults["drain_delay_s"]
    assert pod["terminationGracePeriodSeconds"] > drain_s


# Values: what is not understood is refused.


def problems(values):
    validator = Draft7Validator(json.loads(chart.SCHEMA.read_text()))
    return [error.json_path for error in validator.iter_errors(values)]


@pytest.mark.parametrize("file", sorted(chart.CHART.glob("values*.yaml")), ids=lambda f: f.name)
def test_shipped_values_are_valid(file):
    values = yaml.safe_load((chart.CHART / "values.yaml").read_text())
    laid = {
        name: values[name] | value if isinstance(value, dict) else value
        for name, value in yaml.safe_load(file.read_text()).items()
    }
    assert problems(values | laid) == []


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"setings": {}}, "$"),
        ({"settings": {"deadline": 60}}, "$.settings"),
        ({"settings": {"mode": False}}, "$.settings.mode"),  # YAML's bare off
        ({"settings": {"host": "127.0.0.1"}}, "$.settings"),
        ({"upstream": {"url": "vllm:8000"}}, "$.upstream.url"),
        ({"networkPolicy": {"clients": [{}]}}, "$.networkPolicy.clients[0]"),
        ({"networkPolicy": {"clients": []}}, "$.networkPolicy.clients"),
        ({"replicas": "2"}, "$.replicas"),
        ({"resources": {"limit": {}}}, "$.resources"),
    ],
)
def test_values_that_are_not_understood_are_refused(values, place):
    assert problems(values) == [place]


def test_the_schema_knows_the_settings_of_today():
    assert chart.SCHEMA.read_text() == chart.schema(), "make docs"


@needs_go
@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "has no model of its own"),
        ({"mllm": {"enabled": True}} | MODEL_URL, "leave one of them out"),
        (MODEL_URL, "networkPolicy.upstream.to"),
    ],
)
def test_the_chart_says_what_contradicts_itself(values, said):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        chart.render(values)
    assert said in refused.value.stderr


@needs_go
@pytest.mark.slow
def test_settings_reach_the_service_as_they_were_written():
    settings = {"max_body_bytes": 20_000_000, "deadline_s": 7.5, "mode": "off", "detector": "none"}
    manifests = documents(chart.render("values-vllm.yaml", {"settings": settings}))
    found = {v["name"]: v.get("value") for v in guard_of(manifests)["env"]}
    assert found["CODEFEND_MAX_BODY_BYTES"] == "20000000"
    assert found["CODEFEND_DEADLINE_S"] == "7.5"
    assert found["CODEFEND_MODE"] == "off"
    Settings(max_body_bytes=int(found["CODEFEND_MAX_BODY_BYTES"]), mode=found["CODEFEND_MODE"])


@needs_go
@pytest.mark.slow
def test_whoever_installs_it_is_told_where_it_is_and_how_to_get_the_key():
    notes = chart.render("values-vllm.yaml", name="front", is_notes=True)
    assert "http://front-codefend.default.svc:80/v1" in notes
    assert "get secret front-codefend-keys -o jsonpath='{.data.api-keys}'" in notes
    assert "get secret" not in chart.render("values-vllm.yaml", chart.KEYS, is_notes=True)


@needs_go
@pytest.mark.slow
def test_a_release_makes_a_key_of_its_own():
    def key():
        manifests = documents(chart.render("values-vllm.yaml", name="front"))
        assert of(manifests, "Deployment", "front-codefend")
        return of(manifests, "Secret", "front-codefend-keys")["data"]["api-keys"]

    first, second = key(), key()
    assert first != second
    assert len(first) > 50
