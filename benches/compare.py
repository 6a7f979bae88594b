#!/usr/bin/env python3
"""Measures freshcreds beside its peers, in one run, and prints figures and ratios.

Everything happens in a network of its own, in which the name of ECR's API is loopback and its
certificate is one that was made a moment ago: no peer needs to be told of an endpoint, all of them
speak TLS to the same stand-in, and nothing leaves the machine. A figure is the median of runs that
were taken in turn, A B C A B C, so that whatever else the machine does hits all alike.

    benches/compare.py [--runs N] [--idle-seconds N] [--json FILE]
"""

import argparse
import base64
import contextlib
import http.server
import json
import os
import pathlib
import platform
import re
import resource
import selectors
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
FRESHCREDS = ROOT / "target/release/freshcreds"
LARGE_FILE = ROOT / "target/release/examples/large_file"
MANY_NAMESPACES = ROOT / "target/release/examples/many_namespaces"
KUBECTL = ROOT / "target/tools/bin/kubectl"
BARE_ENDPOINT = ROOT / "target/release/examples/bare_endpoint"
REGION = "eu-west-1"
API = f"api.ecr.{REGION}.amazonaws.com"
HOST = f"123456789012.dkr.ecr.{REGION}.amazonaws.com"
OTHER_REGIONS = ("eu-west-2", "us-east-1")
INSIDE = "FRESHCREDS_BENCH_INSIDE"
# As long as a real one.
PASSWORD_LENGTH = 2048


class Ecr(http.server.ThreadingHTTPServer):
    """ECR's GetAuthorizationToken; each call gets a token of its own."""

    daemon_threads = True

    def __init__(self, port, life, certificate=None):
        super().__init__(("127.0.0.1", port), EcrRequest)
        self.life = life
        self.calls = 0
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        """A client that hangs up is no news."""


class EcrRequest(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.calls += 1
        password = str(self.server.calls).rjust(PASSWORD_LENGTH, "x")
        token = base64.b64encode(f"AWS:{password}".encode()).decode()
        answer = {"authorizationToken": token, "expiresAt": time.time() + self.server.life}
        answer["proxyEndpoint"] = f"https://{HOST}"
        body = json.dumps({"authorizationData": [answer]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30, help="runs of each command (default 30)")
    parser.add_argument("--idle-seconds", type=int, default=120, help="how long to watch it idle")
    parser.add_argument("--json", type=pathlib.Path, help="where to write the raw figures")
    parser.add_argument("--crowd", metavar="ADDRESS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.crowd:
        be_a_crowd(arguments.crowd)
        return
    if INSIDE not in os.environ:
        enter_own_network()
    needs("wrk", "aws", "docker-credential-ecr-login", "/usr/bin/time", "openssl")
    if not FRESHCREDS.exists():
        sys.exit("target/release/freshcreds is missing: run `make bench`")
    with tempfile.TemporaryDirectory(prefix="freshcreds-bench-") as folder:
        measure(arguments, pathlib.Path(folder))


def enter_own_network():
    """Starts this program again where the network is its own."""
    needs("unshare", "ip")
    command = ["unshare", "--map-root-user", "--net", "--mount", sys.executable, *sys.argv]
    os.environ[INSIDE] = "1"
    os.execvp(command[0], command)


def needs(*programs):
    for program in programs:
        if not shutil.which(program):
            sys.exit(f"{program} is missing: run `tests/setup.sh --bench`")


def measure(arguments, folder):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    regions = (REGION, *OTHER_REGIONS)
    hosts = folder / "hosts"
    names = " ".join(f"api.ecr.{region}.amazonaws.com" for region in regions)
    hosts.write_text(f"127.0.0.1 localhost {names}\n")
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    certificate = make_certificate(folder, regions)
    Ecr(443, 12 * 3600, certificate)
    plain = Ecr(0, 12 * 3600)

    environment = {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": REGION,
        "SSL_CERT_FILE": str(certificate),
        "AWS_CA_BUNDLE": str(certificate),
    }
    over_http = {"AWS_ENDPOINT_URL_ECR": f"http://127.0.0.1:{plain.server_address[1]}"}
    # The others do not ask the registry either.
    once = [str(FRESHCREDS), "once", "--verify", "false", "--docker-config",
            str(folder / "config.json"), HOST]
    helper = ["docker-credential-ecr-login", "get"]
    commands = {
        "freshcreds once": (once, environment, ""),
        "freshcreds once, without TLS": (once, environment | over_http, ""),
        "docker-credential-ecr-login get, no cache": (
            helper, environment | {"AWS_ECR_DISABLE_CACHE": "1"}, HOST),
        "docker-credential-ecr-login get, warm cache": (helper, environment, HOST),
        "aws ecr get-login-password": (
            ["aws", "ecr", "get-login-password", "--region", REGION], environment, ""),
    }
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, "
          f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC; medians of {arguments.runs} runs\n")
    figures = compare(commands, arguments.runs, folder)
    ours = figures["freshcreds once"]
    print(f"{'':44} {'CPU':>9} {'wall':>9} {'peak RSS':>9}   CPU : ours")
    for name, figure in figures.items():
        print(f"{name:44} {figure['cpu'] * 1e3:6.1f} ms {figure['wall'] * 1e3:6.1f} ms "
              f"{figure['rss'] / 1024:5.1f} MiB   {figure['cpu'] / ours['cpu']:6.1f}")

    figures["idle"] = idle = watch_idle(environment, regions, folder, arguments.idle_seconds)
    figures["readyz"] = readyz = load_readyz(environment, folder)
    figures["crowd"] = crowd = load_readyz_in_a_crowd(environment, folder)
    figures["large"] = large = change_large_file(folder)
    figures["namespaces"] = namespaces = serve_many_namespaces()
    figures["identities"] = many = ask_by_many_identities(environment | over_http, plain, folder)
    size = FRESHCREDS.stat().st_size
    figures["size"] = size
    aws = figures["aws ecr get-login-password"]["cpu"] / ours["cpu"]
    print()
    target("once: CPU", ours["cpu"] * 1e3, "ms", 12)
    # Of memory and size, what the client of a cluster takes is a quarter and a third.
    target("once: peak RSS", ours["rss"] / 1024, "MiB", 13)
    target("once: awscli's CPU is so many times ours", aws, "", 50, at_least=True)
    target("idle: PSS", idle["pss"] / 1024, "MiB", 12)
    target("idle: wake-ups a minute", idle["wakeups"], "", 4)
    target("idle: CPU a minute", idle["cpu"] * 1e3, "ms", 1)
    target("program", size / 1e6, "MB", 13)
    target("28.8 MB file: one entry changed : bytes written", large["ratio"], "", 1.5)
    print(f"\nidle: RSS {idle['rss'] / 1024:.1f} MiB, over {arguments.idle_seconds} s; a wake-up is a "
          "voluntary context switch of any thread")
    target("/readyz: requests a second : hyper alone", readyz["ratio"], "", 0.8, at_least=True)
    target("/readyz: p99 of 16 connections", readyz["p99"], "ms", 1)
    target("/readyz: p99 beside renewals and a crowd", crowd["paced"]["p99"], "ms", 1)
    print(f"\n/readyz: {readyz['rate']:,.0f} requests a second from 16 connections, hyper alone "
          f"{readyz['bare']:,.0f} (medians of runs in turn; its p99 {readyz['bare_p99']:.2f} ms), while tokens "
          f"were renewed {readyz['renewals']} times")
    print(f"in a crowd: {crowd['rate']:,.0f} requests a second, while {REGISTRIES} registries were renewed "
          f"{crowd['renewals']} times and {SLOW_CLIENTS} slow clients came back {crowd['returns']} times; "
          f"hyper alone beside the same: {crowd['bare']:,.0f}; p99 {crowd['p99']:.2f} ms and "
          f"{crowd['bare_p99']:.2f} ms, at {crowd['paced']['rate']:,.0f} requests a second "
          f"{crowd['paced']['p99']:.2f} ms and {crowd['paced']['bare_p99']:.2f} ms")
    most, fewest = many[max(IDENTITIES)], many[min(IDENTITIES)]
    times = max(IDENTITIES) / min(IDENTITIES)
    print()
    target(f"{most['registries']} registries, {max(IDENTITIES)} identities: calls", most["calls"], "",
           max(IDENTITIES))
    target("CPU, beside what the same share of a fifth is", most["cpu"] / (fewest["cpu"] * times), "", 1.2)
    target("more memory than a fifth of it takes", (most["rss"] - fewest["rss"]) / 1024, "MiB", 20)
    for count, figure in many.items():
        print(f"{figure['registries']:5} registries of {count:2} identities, once: {figure['calls']} calls, "
              f"{figure['cpu'] * 1e3:.0f} ms CPU, {figure['wall'] * 1e3:.0f} ms, {figure['rss'] / 1024:.1f} MiB, "
              f"{figure['writes']} replacements of the file")
    tell_of_namespaces(namespaces)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def make_certificate(folder, regions):
    """A certificate for ECR's API that everyone here trusts; its key is in the same file."""
    path = folder / "certificate.pem"
    names = ",".join(f"DNS:api.ecr.{region}.amazonaws.com" for region in regions)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "1", "-subj", "/CN=bench", "-addext", f"subjectAltName={names}",
         "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", path, "-out", folder / "public"],
        check=True, capture_output=True)
    path.write_text((folder / "public").read_text() + path.read_text())
    return path


def compare(commands, runs, folder):
    """Runs the commands in turn, and gives each one's medians."""
    samples = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, (command, environment, text) in commands.items():
            # One that takes a second need not be run as often as one that takes a hundredth.
            is_slow = name.startswith("aws ") and turn > 5
            if not is_slow:
                samples[name].append(run(command, environment, text))
    figures = {}
    for name, (command, environment, text) in commands.items():
        # The first turn warmed everything up.
        taken = samples[name][1:]
        figures[name] = {key: statistics.median(one[key] for one in taken) for key in ("cpu", "wall")}
        peaks = (peak_memory(command, environment, text, folder) for _ in range(3))
        figures[name]["rss"] = statistics.median(peaks)
    return figures


def peak_memory(command, environment, text, folder):
    """In KiB, by a small program in between: what a process inherits of this one would hide its own."""
    report = folder / "rss"
    run(["/usr/bin/time", "--format", "%M", "--output", report, *command], environment, text)
    return int(report.read_text())


def run(command, environment, text):
    """CPU and wall time of a process."""
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True)
    started = time.perf_counter()
    process.stdin.write(text)
    process.stdin.close()
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        words = " ".join(map(str, command))
        sys.exit(f"{words} ended with {process.returncode}: {errors}")
    return {"cpu": usage.ru_utime + usage.ru_stime, "wall": wall}


def ask_by_many_identities(environment, server, folder):
    """What it costs to keep registries of many accounts, each asked by an identity of its own."""
    figures = {}
    for count in IDENTITIES:
        profiles, settings = folder / f"profiles-{count}", folder / f"identities-{count}.toml"
        config = folder / f"identities-{count}.json"
        profiles.write_text("".join(
            f"[p{one}]\naws_access_key_id = k{one}\naws_secret_access_key = s{one}\n" for one in range(count)))
        hosts = {one: [f"{one:06}{host:06}.dkr.ecr.{REGION}.amazonaws.com" for host in range(REGISTRIES_EACH)]
                 for one in range(count)}
        settings.write_text("".join(
            f"[aws.i{one}]\nprofile = \"p{one}\"\n[[registry]]\nhosts = {json.dumps(hosts[one])}\n"
            f"identity = \"i{one}\"\n" for one in range(count)))
        command = [str(FRESHCREDS), "once", "--verify", "false", "--state", "off", "--log-format", "json",
                   "--config", str(settings), "--docker-config", str(config)]
        environment = environment | {"AWS_SHARED_CREDENTIALS_FILE": str(profiles)}
        samples = []
        for _ in range(5):
            config.unlink(missing_ok=True)
            server.calls = 0
            samples.append(run(command, environment, ""))
        calls = server.calls
        config.unlink()
        log = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stderr
        written = len(json.loads(config.read_text())["auths"])
        if written != count * REGISTRIES_EACH:
            sys.exit(f"{written} entries were written for {count} identities")
        figures[count] = {key: statistics.median(one[key] for one in samples) for key in ("cpu", "wall")}
        figures[count] |= {
            "registries": written, "calls": calls, "writes": log.count('"credentials written"'),
            "rss": peak_memory(command, environment, "", folder)}
    return figures


def serve_many_namespaces():
    """Thousands of namespaces of a stand-in for an API server, beside what scripts do."""
    command = [MANY_NAMESPACES, FRESHCREDS, KUBECTL]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def tell_of_namespaces(figures):
    first, rotation, steady = (figures[key] for key in ("first", "rotation", "steady"))
    peer, count, memory = figures["kubectl"], figures["namespaces"], figures["memory"]
    print()
    target(f"{count} namespaces: calls for a rotation, each", rotation["calls"] / count, "", 1.05)
    target("calls in a minute at rest", steady["calls"], "", 0)
    target("peak RSS", memory["peak_kib"] / 1024, "MiB", 24)
    target("kubectl apply takes so many times as long for one", figures["ratio"], "", 2, at_least=True)
    print(f"{count} namespaces: first pass {first['seconds']:.2f} s, {first['calls']} calls; rotation "
          f"{rotation['seconds']:.2f} s, {rotation['calls']} calls, {rotation['cpu']:.2f} s CPU; at rest "
          f"{steady['cpu_ms']:.1f} ms CPU and {steady['wakeups']} wake-ups in {steady['seconds']:.0f} s, PSS "
          f"{memory['pss_kib'] / 1024:.1f} MiB; kubectl apply {peer['ms_each']:.2f} ms each "
          f"({peer['namespaces']} at once)")


def change_large_file(folder):
    """What it costs to change one entry among 10,000, beside writing those bytes durably."""
    answer = subprocess.run([LARGE_FILE, folder], check=True, capture_output=True, text=True)
    return json.loads(answer.stdout)


class Daemon:
    """A running `freshcreds run`."""

    def __init__(self, environment, folder, *hosts):
        command = [FRESHCREDS, "run", "--listen", "127.0.0.1:0", "--log-format", "json",
                   "--docker-config", folder / "daemon.json", *hosts]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.address = None
        for line in self.process.stderr:
            fields = json.loads(line)["fields"]
            if fields["message"] == "listening":
                self.address = fields["address"]
                break
        # Nobody reads it, and a full pipe would hold it up.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(10):
            sys.exit("the daemon did not end in order")


def watch_idle(environment, regions, folder, seconds):
    hosts = [HOST.replace(REGION, region) for region in regions]
    with Daemon(environment, folder, *hosts) as daemon:
        process = pathlib.Path(f"/proc/{daemon.process.pid}")
        time.sleep(5)
        before = wakeups(process), cpu_seconds(process)
        time.sleep(seconds)
        after = wakeups(process), cpu_seconds(process)
        rollup = (process / "smaps_rollup").read_text()
    minutes = seconds / 60
    return {
        "pss": int(re.search(r"^Pss: +(\d+)", rollup, re.M)[1]),
        "rss": int(re.search(r"^Rss: +(\d+)", rollup, re.M)[1]),
        "wakeups": (after[0] - before[0]) / minutes,
        "cpu": (after[1] - before[1]) / minutes,
    }


def wakeups(process):
    """Voluntary context switches; those of a thread that has ended are not to be had, but its end
    wakes the one that stays."""
    counts = [re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M)
              for task in (process / "task").iterdir()]
    return sum(int(count[1]) for count in counts)


def cpu_seconds(process):
    """Of the whole process, ended threads included, in the kernel's own grain: nanoseconds for the
    threads there are, clock ticks where that says more."""
    exact = sum(int((task / "schedstat").read_text().split()[0]) / 1e9
                for task in (process / "task").iterdir())
    fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
    ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return max(exact, ticks)


def load_readyz(environment, folder):
    """What the endpoint answers in a second, beside hyper alone, in turn."""
    ecr = Ecr(0, 4)
    endpoint = {"AWS_ENDPOINT_URL_ECR": f"http://127.0.0.1:{ecr.server_address[1]}"}
    # Else it would go on with the token of the daemon before, which lives for hours.
    (folder / "daemon.json").unlink(missing_ok=True)
    with Daemon(environment | endpoint, folder, HOST) as daemon, bare_endpoint() as bare:
        wait_for_ready(daemon.address)
        before = ecr.calls
        loads = [(load(bare), load(daemon.address)) for _ in range(5)]
        renewals = ecr.calls - before
    return summary(loads) | {"renewals": renewals}


def load_readyz_in_a_crowd(environment, folder):
    """The same while a thousand registries are renewed every two seconds, and thousands of clients say
    a byte now and then."""
    ecr = Ecr(0, 4)
    endpoint = {"AWS_ENDPOINT_URL_ECR": f"http://127.0.0.1:{ecr.server_address[1]}"}
    (folder / "daemon.json").unlink(missing_ok=True)
    settings = folder / "thousand.toml"
    settings.write_text("".join(
        f'[[registry]]\nhost = "r{number}.example.com"\nkind = "ecr"\nregion = "{REGION}"\n'
        for number in range(REGISTRIES)))
    with Daemon(environment | endpoint, folder, "--config", settings) as daemon, bare_endpoint() as bare:
        wait_for_ready(daemon.address)
        with Crowd(daemon.address) as crowd:
            before = ecr.calls
            loads = [(load(bare), load(daemon.address)) for _ in range(3)]
            # As fast as it goes, 16 connections fill a core by themselves, and how long an answer takes
            # is how long it waits for the other one.
            pace = folder / "pace.lua"
            pace.write_text(f"function delay() return {PAUSE_MILLISECONDS} end\n")
            paced = [(load(bare, "-s", pace), load(daemon.address, "-s", pace)) for _ in range(3)]
            renewals = ecr.calls - before
    return summary(loads) | {"renewals": renewals, "returns": crowd.returns, "paced": summary(paced)}


def summary(loads):
    bare, ours = ([pair[side] for pair in loads] for side in (0, 1))
    median = lambda runs, key: statistics.median(run[key] for run in runs)
    return {
        "rate": median(ours, "rate"), "p99": median(ours, "p99"),
        "bare": median(bare, "rate"), "bare_p99": median(bare, "p99"),
        "ratio": statistics.median(our["rate"] / its["rate"] for its, our in loads),
    }


@contextlib.contextmanager
def bare_endpoint():
    """hyper alone."""
    process = subprocess.Popen([BARE_ENDPOINT], stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().strip()
    process.kill()
    process.wait()


def load(address, *options):
    """Asks /readyz from 16 connections, as fast as it is answered if no option says otherwise."""
    command = ["wrk", "-t1", "-c16", "-d5s", "--latency", *options, f"http://{address}/readyz"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in output:
        sys.exit(f"/readyz was not ready under load:\n{output}")
    number, unit = re.search(r"99% +([\d.]+)(us|ms|s)", output).groups()
    return {"rate": float(re.search(r"Requests/sec: +([\d.]+)", output)[1]),
            "p99": float(number) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]}


class Crowd:
    """Clients that begin a request and never end it, and come back when they are hung up on, a few
    hundred a second, in a process of their own."""

    def __init__(self, address):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--crowd", address], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        self.returns = 0

    def __enter__(self):
        # Says so when all have come.
        self.process.stdout.readline()
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.returns = int(self.process.stdout.readline())
        self.process.wait()


def be_a_crowd(address):
    host, port = address.rsplit(":", 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)

    def come():
        client = socket.create_connection((host, int(port)))
        client.setblocking(False)
        client.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nX: ")
        selector.register(client, selectors.EVENT_READ)

    for _ in range(SLOW_CLIENTS):
        come()
    print("all are here", flush=True)
    away = returns = 0
    while True:
        time.sleep(0.01)
        for key, _ in selector.select(0):
            if key.fileobj is sys.stdin:
                print(returns, flush=True)
                return
            # Who was hung up on can be read, and there is nothing to read.
            selector.unregister(key.fileobj)
            key.fileobj.close()
            away += 1
        for _ in range(min(away, RETURNS_AT_ONCE)):
            come()
            away -= 1
            returns += 1


REGISTRIES = 1000
IDENTITIES = (10, 25, 50)
REGISTRIES_EACH = 20
SLOW_CLIENTS = 5000
RETURNS_AT_ONCE = 5
PAUSE_MILLISECONDS = 2


def wait_for_ready(address):
    host, port = address.rsplit(":", 1)
    for _ in range(100):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if b" 200 " in connection.recv(64):
                return
        time.sleep(0.01)
    sys.exit("the daemon does not become ready")


def target(name, value, unit, limit, at_least=False):
    holds = value >= limit if at_least else value <= limit
    bound = "at least" if at_least else "at most"
    print(f"{name:44} {value:8.2f} {unit:4} {bound} {limit:<4} {'ok' if holds else 'MISSED'}")


if __name__ == "__main__":
    main()
