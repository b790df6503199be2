"""What docker/ says about metrics, against a running server: every metric that a dashboard, an alert, the autoscaler's
rule or the endpoint picker's configuration names exists, files parse, and probes name paths that answer. With promtool
and prometheus here, Prometheus also scrapes the server, and every expression is evaluated on what it scraped."""
import glob
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
import urllib.request

from winnow_server import PATIENCE, ROOT, Checks, Server, wait_for
from test_proxy import free_port

try:
    import yaml
except ImportError:
    yaml = None
DOCKER = os.path.join(ROOT, "docker")
NAME = r"\b(?:winnow_[a-z_]+|vllm:[a-z_]+|process_[a-z_]+)\b"


def read(*path):
    with open(os.path.join(DOCKER, *path)) as f:
        return f.read()


def drive(server):
    """One of everything that is counted, so that all series are there."""
    prompt = "Once upon a time there was a little girl named Lily. " * 5
    for policy in ("full", {"name": "sink", "budget": 32}, {"name": "snapkv", "budget": 48}):
        for _ in range(2):
            status, _, value = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 100, "temperature": 0,
                                                               "ignore_eos": True, "kv_policy": policy})
            assert status == 200, value
    server.post("/v1/completions", {"prompt": "x", "max_tokens": 3, "session_id": "one"})
    assert server.post("/v1/completions", {"prompt": "x", "kv_policy": "no such"})[0] == 400


def dashboard():
    return json.loads(read("grafana", "dashboards", "winnow.json"))


def expressions():
    """(title, expression) of every panel and annotation."""
    board = dashboard()
    found = [(a["name"], a["expr"]) for a in board["annotations"]["list"] if "expr" in a]
    for panel in board["panels"]:
        found += [(panel["title"], t["expr"]) for t in panel.get("targets", [])]
    return found


def alerts():
    """(name, expression) of every alert, without a YAML parser: an expression is one line, or the lines behind >-."""
    found, lines = [], read("prometheus", "alerts.yml").splitlines()
    for i, line in enumerate(lines):
        if line.strip().startswith("- alert:"):
            name = line.split(":", 1)[1].strip()
        if line.strip().startswith("expr:"):
            text = line.split("expr:", 1)[1].strip()
            if text == ">-":
                indent = len(line) - len(line.lstrip())
                text = ""
                for below in lines[i + 1:]:
                    if len(below) - len(below.lstrip()) <= indent:
                        break
                    text += " " + below.strip()
            found.append((name, text.strip()))
    return found


def adapter_query():
    """The autoscaler's query as the adapter asks it for the pods of one namespace."""
    text = re.search(r"metricsQuery: '(.*)'", read("kubernetes", "prometheus-adapter.yaml")).group(1)
    return text.replace("<<.GroupBy>>", "pod").replace("<<.Series>>", "winnow_requests_waiting") \
        .replace("<<.LabelMatchers>>", 'namespace="winnow"')


def check_names(check, plain, compatible):
    ours = set(re.findall(NAME, plain))
    theirs = set(re.findall(NAME, compatible))
    places = [("dashboard", e, ours) for _, e in expressions()] + [("alerts", e, ours) for _, e in alerts()]
    board = dashboard()
    places += [("variables", json.dumps(board["templating"]), ours)]
    for path in sorted(glob.glob(os.path.join(DOCKER, "kubernetes", "**", "*.yaml"), recursive=True)):
        with open(path) as f:
            # vLLM's names are there for those who read them, under the flag that this file names.
            places.append((os.path.relpath(path, ROOT), f.read(), theirs))
    n = 0
    for where, text, known in places:
        for name in re.findall(NAME, text):
            n += 1
            check(f"{where}: {name} is a metric", name in known)
    check("names were found", n > 60, n)
    used = set(re.findall(NAME, " ".join(e for _, e in expressions())))
    families = set(re.findall(r"^# TYPE (winnow_\S+)", plain, flags=re.M))
    shown = {re.sub(r"_(bucket|sum|count)$", "", u) for u in used}
    # Configuration, not load; and what the quantiles of its parts say already.
    check("the dashboard shows every metric", not families - shown - {"winnow_kv_cache_info", "winnow_connections_refused_total"},
          families - shown)
    for name in re.findall(r"vllm:\w+", read("kubernetes", "gateway", "vllm.yaml")):
        lines = [x for x in compatible.splitlines() if x.startswith(name + "{")]
        check(f"{name} has one sample, as endpoint pickers read it", len(lines) == 1, lines)
    info = re.search(r"^winnow_kv_cache_info\{(.*)\}", plain, flags=re.M).group(1)
    for label in re.findall(r"LabelName: (\w+)", read("kubernetes", "gateway", "winnow.yaml")):
        check(f"winnow_kv_cache_info has the label {label}", f'{label}="' in info, info)


def check_dashboard(check):
    panels = dashboard()["panels"]
    ids = [p["id"] for p in panels]
    check("panels have ids of their own", len(ids) == len(set(ids)), ids)
    taken = {}
    for panel in panels:
        g = panel["gridPos"]
        check(f"{panel['title']} lies in the grid", g["x"] + g["w"] <= 24, g)
        for x in range(g["x"], g["x"] + g["w"]):
            for y in range(g["y"], g["y"] + g["h"]):
                over = taken.setdefault((x, y), panel["title"])
                if over != panel["title"]:
                    check(f"{panel['title']} lies on no other panel", False, over)
        for target in panel.get("targets", []):
            check(f"{panel['title']}: filtered by the variables", '$job"' in target["expr"] and '$instance"' in target["expr"],
                  target["expr"])


def check_manifests(check, server):
    """What the manifests say about winnow, and that they fit together."""
    documents = {}
    for path in sorted(glob.glob(os.path.join(DOCKER, "**", "*.y*ml"), recursive=True)):
        with open(path) as f:
            try:
                parsed = list(yaml.safe_load_all(f))
            except yaml.YAMLError as wrong:
                check(f"{path} parses", False, wrong)
                continue
        check(f"{os.path.relpath(path, ROOT)} parses", all(parsed))
        for d in parsed:
            documents[(d.get("kind"), d.get("metadata", {}).get("name"))] = d
    deployment = documents["Deployment", "winnow"]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    for kind, selector in (("Deployment", ["selector", "matchLabels"]), ("Service", ["selector"]), ("InferencePool", ["selector", "matchLabels"]),
                           ("PodDisruptionBudget", ["selector", "matchLabels"]), ("NetworkPolicy", ["podSelector", "matchLabels"]),
                           ("PodMonitor", ["selector", "matchLabels"])):
        value = documents[kind, "winnow"]["spec"]
        for key in selector:
            value = value[key]
        check(f"{kind} selects the pods", value.items() <= labels, value)
    container = pod["spec"]["containers"][0]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        path = container[probe]["httpGet"]["path"]
        check(f"{probe}: {path} answers", server.get(path)["status"] == "ok")
    config = json.loads(read("kubernetes", "winnow.json"))
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    check("pods are given the time to drain", pod["spec"]["terminationGracePeriodSeconds"] > wait + config["shutdown_timeout"])
    check("the config is where the arguments say", container["args"][-1].startswith(container["volumeMounts"][0]["mountPath"]))
    target = documents["HorizontalPodAutoscaler", "winnow"]["spec"]
    metric = target["metrics"][0]["pods"]["metric"]["name"]
    check("the autoscaler scales the deployment", target["scaleTargetRef"]["name"] == deployment["metadata"]["name"])
    check("by the metric of the adapter's rule", metric in read("kubernetes", "prometheus-adapter.yaml"), metric)
    for folder in ("", "gateway"):
        file = os.path.join("kubernetes", folder, "kustomization.yaml")
        listed = set(yaml.safe_load(read(file))["resources"])
        missing = [r for r in listed if not os.path.exists(os.path.join(DOCKER, "kubernetes", folder, r))]
        check(f"{file}: resources exist", not missing, missing)


def check_config_file(check):
    """docker/kubernetes/winnow.json is read by the program; only the demo model may not be here."""
    config = json.loads(read("kubernetes", "winnow.json"))
    del config["head_profile"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(config, f)
        f.flush()
        with Server("--config", f.name) as server:
            check("the config map's settings are settings", server.get("/readyz")["status"] == "ok")


class Prometheus:
    """prometheus with the shipped files; only target, intervals and port differ."""

    def __init__(self, server):
        self.folder = tempfile.TemporaryDirectory()
        text = read("prometheus", "prometheus.yml")
        text, n = re.subn(r'"winnow:8080"', f'"127.0.0.1:{server.port}"', text)
        assert n == 1, "one target"
        text = re.sub(r"(scrape|evaluation)_interval: \w+", r"\1_interval: 500ms", text)
        with open(os.path.join(self.folder.name, "prometheus.yml"), "w") as f:
            f.write(text)
        shutil.copy(os.path.join(DOCKER, "prometheus", "alerts.yml"), self.folder.name)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api/v1/"
        self.log = open(os.path.join(self.folder.name, "log"), "w+b")
        self.process = subprocess.Popen(
            ["prometheus", "--config.file=" + os.path.join(self.folder.name, "prometheus.yml"),
             "--storage.tsdb.path=" + os.path.join(self.folder.name, "data"), f"--web.listen-address=127.0.0.1:{port}"],
            stdout=self.log, stderr=self.log)

    def get(self, path, **parameters):
        url = self.url + path + "?" + urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(url, timeout=30 * PATIENCE) as r:
                return json.load(r)
        except urllib.error.HTTPError as wrong:
            text = wrong.read().decode("utf-8", "replace")
            return json.loads(text) if text.startswith("{") else {"status": text, "data": {}}
        except OSError as wrong:
            return {"status": str(wrong), "data": {}}

    def query(self, expression):
        answer = self.get("query", query=expression)
        return answer["data"]["result"] if answer["status"] == "success" else answer

    def number(self, expression):
        """The value of the only series, or None."""
        result = self.query(expression)
        return float(result[0]["value"][1]) if isinstance(result, list) and len(result) == 1 else None

    def rules(self):
        return self.get("rules")["data"]["groups"][0]["rules"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()


def check_promtool(check, plain):
    def tool(name, *arguments, text=None):
        result = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True)
        check(name, result.returncode == 0, result.stdout + result.stderr)
        return result
    tool("promtool check config", "check", "config", os.path.join(DOCKER, "prometheus", "prometheus.yml"))
    tool("promtool check rules", "check", "rules", os.path.join(DOCKER, "prometheus", "alerts.yml"))
    tool("promtool test rules", "test", "rules", os.path.join(DOCKER, "prometheus", "alerts_test.yml"))
    result = tool("promtool check metrics", "check", "metrics", text=plain)
    check("promtool check metrics says nothing", not (result.stdout + result.stderr).strip(), result.stdout + result.stderr)


def keep_busy(server, stop):
    while not stop.is_set():
        drive(server)


def check_scrape(check, server):
    board = dashboard()
    stop = threading.Event()
    load = threading.Thread(target=keep_busy, args=(server, stop))
    load.start()
    try:
        with Prometheus(server) as prometheus:
            up = wait_for(lambda: prometheus.number('up{job="winnow"}') == 1, 60)
            check("prometheus scrapes winnow", up, prometheus.query("up"))
            wait_for(lambda: (prometheus.number('count_over_time(up{job="winnow"}[30s])') or 0) > 6, 60)
            for title, expression in expressions():
                text = expression.replace("$__rate_interval", "10s").replace("$job", ".*").replace("$instance", "127.0.0.1:.*")
                result = prometheus.query(text)
                # An annotation is empty as long as nothing happens.
                check(f"{title}: {text}", isinstance(result, list) and (result or "changes(" in text), result)
            for variable in board["templating"]["list"]:
                if variable["type"] != "query":
                    continue
                match, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
                values = prometheus.get(f"label/{label}/values", **{"match[]": match.replace("$job", "winnow")})
                check(f"variable {variable['name']} has values", values.get("data"), values)
            for name, expression in alerts():
                check(f"{name}: {expression}", isinstance(prometheus.query(expression), list), prometheus.query(expression))
            # Without the operator the scrape has no namespace, so that the answer is empty and not wrong.
            check("the autoscaler's query", isinstance(prometheus.query(adapter_query()), list), adapter_query())
            bare = adapter_query().replace('{namespace="winnow"}', "")
            check("and it finds the queue", len(prometheus.query(bare)) == 1, prometheus.query(bare))
            wait_for(lambda: all(r["health"] == "ok" for r in prometheus.rules()), 20)
            rules = prometheus.rules()
            check("every alert is evaluated", len(rules) == len(alerts()) and all(r["health"] == "ok" for r in rules),
                  [(r["name"], r["health"], r.get("lastError")) for r in rules])
            check("a healthy server alarms nobody", not [r["name"] for r in rules if r["state"] == "firing"], rules)
            stop.set()
            load.join()
            server.stop()

            def pending():
                return [r["state"] for r in prometheus.rules() if r["name"] == "WinnowDown"] == ["pending"]
            check("a server that is gone will alarm", wait_for(pending), prometheus.query("up"))
    finally:
        stop.set()
        load.join()


def main():
    check = Checks()
    with Server("--metrics-compat", "vllm") as server:
        drive(server)
        compatible = server.get("/metrics")
    check_config_file(check)
    with Server() as server:
        drive(server)
        plain = server.get("/metrics")
        check_names(check, plain, compatible)
        check_dashboard(check)
        if yaml:
            check_manifests(check, server)
        else:
            print("SKIPPED: YAML files of docker/: this python3 has no yaml")
        if shutil.which("promtool"):
            check_promtool(check, plain)
        else:
            print("SKIPPED: promtool check: there is no promtool")
        if shutil.which("prometheus"):
            check_scrape(check, server)
        else:
            print("SKIPPED: expressions on scraped metrics: there is no prometheus")
    check.end()


if __name__ == "__main__":
    main()
