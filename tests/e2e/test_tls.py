"""HTTPS by the server itself: certificates made with openssl, versions, a new certificate on SIGHUP while a stream goes
on, and what happens to clients that speak something else. SKIPPED where there is no openssl."""
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile

from winnow_server import BINARY, PATIENCE, ROOT, STORIES, Checks, Server, wait_for


class Certificate:
    """A self-signed certificate for localhost and its key, as files."""

    def __init__(self, folder, name):
        self.cert, self.key = os.path.join(folder, name + ".pem"), os.path.join(folder, name + ".key")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-keyout", self.key, "-out", self.cert, "-days", "2", "-subj", "/CN=" + name,
                        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)

    def trust(self):
        return ssl.create_default_context(cafile=self.cert)


class SecureServer(Server):
    """Server with https: the port is in another line, and urllib does not know its certificate."""

    def _port(self):
        def found():
            if self.process.poll() is not None:
                raise RuntimeError(self.log())
            return "https://127.0.0.1:" in self.log()
        wait_for(found)
        return int(self.log().split("https://127.0.0.1:")[1].split(" ")[0])

    def _ready(self):
        wait_for(lambda: "ready at https://" in self.log())


def ask(server, context, method="GET", path="/version", body=None):
    connection = http.client.HTTPSConnection("localhost", server.port, timeout=20 * PATIENCE, context=context)
    connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"} if body else {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


def fails(act):
    try:
        act()
        return False
    except (OSError, http.client.HTTPException):
        return True


def only(version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


def copy(certificate, cert, key):
    shutil.copy(certificate.cert, cert)
    shutil.copy(certificate.key, key)


def check_versions(check, server, first):
    check("a client that trusts the certificate", ask(server, first.trust())[0] == 200)
    status, text = ask(server, first.trust(), "POST", "/v1/completions", {"prompt": "Once", "max_tokens": 3})
    check("a completion", status == 200 and json.loads(text)["choices"][0]["text"], text)
    check("a large body", ask(server, first.trust(), "POST", "/tokenize", {"content": "a" * 300000})[0] in (200, 400))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        check(f"{version.name}", ask(server, only(version))[0] == 200)
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        check(f"{version.name} is refused", fails(lambda v=version: ask(server, only(v))))
    with socket.create_connection(("127.0.0.1", server.port), 20 * PATIENCE) as s:
        s.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        check("plain HTTP gets no answer of HTTP", not s.recv(100).startswith(b"HTTP/1.1 200"))
    with socket.create_connection(("127.0.0.1", server.port), 20 * PATIENCE) as s:
        with first.trust().wrap_socket(s, server_hostname="localhost") as secure:
            secure.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n")
            check("framing is as strict as without TLS", b" 400 " in secure.recv(4096))


def check_reload(check, server, first, second, cert, key):
    connection = http.client.HTTPSConnection("localhost", server.port, timeout=60 * PATIENCE, context=first.trust())
    connection.request("POST", "/v1/completions", json.dumps(
        {"prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": True, "kv_policy": {"name": "sink", "budget": 64}}),
        {"Content-Type": "application/json"})
    answer = connection.getresponse()
    begin = answer.readline()
    copy(second, cert, key)
    server.process.send_signal(signal.SIGHUP)
    check("the server says so", wait_for(lambda: "new connections get the certificate" in server.log()), server.log()[-300:])
    check("new connections get the new certificate", ask(server, second.trust())[0] == 200)
    check("and not the old one", fails(lambda: ask(server, first.trust())))
    text = begin + answer.read()
    check("the stream goes on to its end", text.endswith(b"data: [DONE]\n\n"), text[-100:])
    with open(key, "w") as f:
        f.write("no key")
    server.process.send_signal(signal.SIGHUP)
    check("a bad file is told", wait_for(lambda: "the certificate stays as it was" in server.log()), server.log()[-300:])
    check("and changes nothing", ask(server, second.trust())[0] == 200)
    copy(first, cert, key)
    for _ in range(20):
        server.process.send_signal(signal.SIGHUP)
    check("back again", wait_for(lambda: not fails(lambda: ask(server, first.trust()))))


def refused(*flags):
    result = subprocess.run([BINARY, "serve", STORIES, "--port", "0", *flags], capture_output=True, text=True, cwd=ROOT,
                            timeout=60 * PATIENCE)
    return result.returncode, result.stderr


def check_mistakes(check, first, second, folder):
    status, text = refused("--tls-cert", first.cert)
    check("a certificate without a key", status == 2 and "--tls-key is missing" in text, (status, text))
    status, text = refused("--tls-cert", first.cert, "--tls-key", second.key)
    check("the key of another certificate", status == 1 and "no certificate and key" in text, (status, text))
    status, text = refused("--tls-cert", folder + "/absent", "--tls-key", first.key)
    check("a file that is not there", status == 1 and folder + "/absent" in text, (status, text))


def check_slow(check, server, first):
    with socket.create_connection(("127.0.0.1", server.port), 20 * PATIENCE) as s:
        with first.trust().wrap_socket(s, server_hostname="localhost") as secure:
            secure.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
            text = secure.recv(4096)
            check("a body that does not come gets 408 through TLS", b" 408 " in text and b"request_read_timeout" in text, text)


    with socket.create_connection(("127.0.0.1", server.port), 20 * PATIENCE) as s:
        check("a handshake that does not come ends in silence", s.recv(100) == b"")
    check("and the server goes on", ask(server, first.trust())[0] == 200)


def main():
    check = Checks()
    if not shutil.which("openssl"):
        print("SKIPPED: TLS: there is no openssl")
        check.end()
    with tempfile.TemporaryDirectory() as folder:
        first, second = Certificate(folder, "first"), Certificate(folder, "second")
        cert, key = folder + "/cert.pem", folder + "/key.pem"
        copy(first, cert, key)
        with SecureServer("--tls-cert", cert, "--tls-key", key, "--http-timeout", "3") as server:
            check_versions(check, server, first)
            check_slow(check, server, first)
            check_reload(check, server, first, second, cert, key)
            check("it drains as without TLS", server.stop() == 0, server.log()[-300:])
        with SecureServer("--ssl-certfile", cert, "--ssl-keyfile", key) as server:
            check("vLLM's names", ask(server, first.trust())[0] == 200)
        with SecureServer("--ssl-cert-file", cert, "--ssl-key-file", key) as server:
            check("llama-server's names", ask(server, first.trust())[0] == 200)
        check_mistakes(check, first, second, folder)
    check.end()


if __name__ == "__main__":
    main()
