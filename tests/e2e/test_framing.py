"""Requests as bytes: what RFC 9112 (HTTP/1.1) and RFC 9110 (HTTP) say about them, and what the server answers. Each row
of CASES has the bytes, the status that the named section asks for, and whether the connection may be used again: after
a request whose end is doubtful it may not, because the rest of its bytes would be read as another request."""
import json
import socket

from winnow_server import PATIENCE, Checks, Server

OK, CLOSE = True, False
H = b"Host: localhost\r\n"
BODY = b'{"content":"a"}'
N = str(len(BODY)).encode()


def post(headers, body=b"", path=b"/tokenize"):
    return b"POST " + path + b" HTTP/1.1\r\n" + headers + b"\r\n" + body


def get(target, headers=H, version=b"HTTP/1.1"):
    return b"GET " + target + b" " + version + b"\r\n" + headers + b"\r\n"


CHUNKED = H + b"Transfer-Encoding: chunked\r\n"
ONE_CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
# A request that must not be read as one: whoever smuggles it hopes for its answer.
SMUGGLED = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"

# (section, what, bytes, status, whether the connection lives on)
CASES = [
    # RFC 9112, 2.2 and 3: lines
    ("9112 3", "an ordinary request", get(b"/version"), 200, OK),
    ("9112 2.2", "one empty line before a request is skipped", b"\r\n" + get(b"/version"), 200, OK),
    ("9112 2.2", "bare LF after the first line", b"GET /version HTTP/1.1\n" + H + b"\r\n", 400, CLOSE),
    ("9112 2.2", "bare LF after a header", get(b"/version", b"Host: localhost\n"), 400, CLOSE),
    ("9112 2.2", "bare LF as the empty line", b"GET /version HTTP/1.1\r\n" + H + b"\n", 400, CLOSE),
    ("9112 2.2", "bare CR in a header", get(b"/version", H + b"X: a\rb\r\n"), 400, CLOSE),
    ("9112 3", "two spaces before the target", b"GET  /version HTTP/1.1\r\n" + H + b"\r\n", 400, CLOSE),
    ("9112 3", "two spaces before the version", b"GET /version  HTTP/1.1\r\n" + H + b"\r\n", 400, CLOSE),
    ("9112 3.2", "a space in the target", get(b"/ver sion"), 400, CLOSE),
    ("9112 2.3", "HTTP/1.0 needs no Host", get(b"/version", b"", b"HTTP/1.0"), 200, CLOSE),
    ("9110 5.6.2", "a method that is no token", b"G\xffT /version HTTP/1.1\r\n" + H + b"\r\n", 400, CLOSE),
    ("9110 15.5.6", "a method that the path does not take", b"BREW /version HTTP/1.1\r\n" + H + b"\r\n", 405, OK),
    ("9110 15.5.15", "a target of 9,000 bytes", get(b"/" + b"a" * 9000), 414, CLOSE),
    ("6585 5", "headers of 20,000 bytes", get(b"/version", H + b"X: " + b"a" * 20000 + b"\r\n"), 431, CLOSE),
    ("6585 5", "300 headers", get(b"/version", H + b"X: a\r\n" * 300), 431, CLOSE),
    # RFC 9112, 3.2: targets and hosts
    ("9112 3.2", "no Host", get(b"/version", b""), 400, CLOSE),
    ("9112 3.2", "two Hosts", get(b"/version", H + H), 400, CLOSE),
    ("9112 3.2", "two Hosts of which one is foreign", get(b"/version", H + b"Host: evil.example\r\n"), 400, CLOSE),
    ("9112 3.2", "a Host that is no host", get(b"/version", b"Host: local host\r\n"), 400, CLOSE),
    ("9110 7.4", "a foreign Host (a rebound name)", get(b"/version", b"Host: evil.example\r\n"), 403, OK),
    ("9112 3.2.2", "an absolute target", get(b"http://localhost/version"), 200, OK),
    ("9112 3.2.2", "an absolute target of https", get(b"https://localhost:1/version?x"), 200, OK),
    ("9112 3.2.2", "an absolute target's host counts, not the header", get(b"http://evil.example/version"), 403, OK),
    ("9112 3.2.2", "the header's host does not count then", get(b"http://localhost/version", b"Host: evil.example\r\n"), 200, OK),
    ("9110 4.2.4", "user information in the target", get(b"http://localhost@evil.example/version"), 400, CLOSE),
    ("9112 3.2", "a target of another scheme", get(b"ftp://localhost/version"), 400, CLOSE),
    ("9112 3.2", "a target without a slash", get(b"version"), 400, CLOSE),
    ("9110 4.2.5", "a fragment", get(b"/version#x"), 400, CLOSE),
    ("9112 3.2.3", "CONNECT to a server that is no proxy", b"CONNECT localhost:1 HTTP/1.1\r\n" + H + b"\r\n", 501, CLOSE),
    ("9112 3.2.4", "OPTIONS *", b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n", 204, OK),
    ("9112 3.2.4", "* with another method", get(b"*"), 400, CLOSE),
    ("3986 2.1", "an encoded letter", get(b"/%76ersion"), 200, OK),
    ("3986 2.4", "nothing is decoded twice", get(b"/%2576ersion"), 404, OK),
    ("3986 7.3", "an encoded NUL", get(b"/version%00x"), 400, OK),
    ("3986 7.3", "an encoded line break", get(b"/version%0d%0aX:%20y"), 400, OK),
    ("3986 2.2", "an encoded slash at the end is part of the name", get(b"/version%2f"), 404, OK),
    ("3986 3.4", "3,000 parameters", get(b"/health?" + b"&".join(b"a" for _ in range(3000))), 200, OK),
    # RFC 9112, 5: headers
    ("9112 5.1", "a space before the colon", get(b"/version", b"Host : localhost\r\n"), 400, CLOSE),
    ("9112 5.1", "Content-Length with a space before the colon", post(H + b"Content-Length : " + N + b"\r\n", BODY), 400, CLOSE),
    ("9112 5.2", "a folded line", get(b"/version", H + b"X: a\r\n b\r\n"), 400, CLOSE),
    ("9112 5.2", "a folded Transfer-Encoding", post(H + b"Transfer-Encoding:\r\n chunked\r\n", ONE_CHUNK), 400, CLOSE),
    ("9110 5.5", "a NUL in a header", get(b"/version", H + b"Authorization: Bearer a\0b\r\n"), 400, CLOSE),
    ("9110 5.5", "a NUL in a header's name", get(b"/version", H + b"X\0Y: a\r\n"), 400, CLOSE),
    ("9112 5", "a header without a colon", get(b"/version", H + b"X\r\n"), 400, CLOSE),
    # RFC 9112, 6: where a body ends
    ("9112 6.2", "a body of its Content-Length", post(H + b"Content-Length: " + N + b"\r\n", BODY), 200, OK),
    ("9112 6.3", "two Content-Lengths that differ", post(H + b"Content-Length: 0\r\nContent-Length: " + N + b"\r\n", BODY), 400, CLOSE),
    ("9112 6.3", "two equal Content-Lengths", post(H + (b"Content-Length: " + N + b"\r\n") * 2, BODY), 400, CLOSE),
    ("9112 6.3", "a list of Content-Lengths", post(H + b"Content-Length: " + N + b", " + N + b"\r\n", BODY), 400, CLOSE),
    ("9110 8.6", "Content-Length with a sign", post(H + b"Content-Length: +" + N + b"\r\n", BODY), 400, CLOSE),
    ("9110 8.6", "Content-Length in hexadecimal", post(H + b"Content-Length: 0xf\r\n", BODY), 400, CLOSE),
    ("9110 8.6", "an empty Content-Length", post(H + b"Content-Length:\r\n"), 400, CLOSE),
    ("9110 8.6", "a Content-Length above 2^64", post(H + b"Content-Length: 99999999999999999999999\r\n"), 413, CLOSE),
    ("9112 6.3", "Content-Length with Transfer-Encoding", post(H + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", ONE_CHUNK + SMUGGLED), 400, CLOSE),
    ("9112 6.3", "Transfer-Encoding with Content-Length", post(CHUNKED + b"Content-Length: 4\r\n", ONE_CHUNK + SMUGGLED), 400, CLOSE),
    ("9112 6.1", "Transfer-Encoding in HTTP/1.0", b"POST /tokenize HTTP/1.0\r\n" + CHUNKED + b"\r\n" + ONE_CHUNK, 400, CLOSE),
    ("9112 6.1", "an unknown transfer coding", post(H + b"Transfer-Encoding: gzip\r\n"), 501, CLOSE),
    ("9112 6.1", "an unknown coding before chunked", post(H + b"Transfer-Encoding: gzip, chunked\r\n", ONE_CHUNK), 501, CLOSE),
    ("9112 6.1", "identity is no coding any more", post(H + b"Transfer-Encoding: identity\r\n", BODY), 501, CLOSE),
    ("9112 6.1", "chunked twice", post(CHUNKED + b"Transfer-Encoding: chunked\r\n", ONE_CHUNK), 400, CLOSE),
    ("9112 6.1", "a coding with a control character", post(H + b"Transfer-Encoding: \x0bchunked\r\n", ONE_CHUNK), 400, CLOSE),
    # RFC 9112, 7: chunks. The connection is not used again after them (see server/http/transport_request.c).
    ("9112 7.1", "a chunked body", post(CHUNKED, ONE_CHUNK), 200, CLOSE),
    ("9112 7.1", "a size in capitals with zeros", post(CHUNKED, b"00F\r\n" + BODY + b"\r\n0\r\n\r\n"), 200, CLOSE),
    ("9112 7.1.1", "an extension is skipped", post(CHUNKED, b"f;a=b\r\n" + BODY + b"\r\n0\r\n\r\n"), 200, CLOSE),
    ("9112 7.1.2", "a trailer is skipped", post(CHUNKED, b"f\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n"), 200, CLOSE),
    ("9112 7.1", "a size with 0x", post(CHUNKED, b"0xf\r\n" + BODY + b"\r\n0\r\n\r\n"), 400, CLOSE),
    ("9112 7.1", "a size that is no number", post(CHUNKED, b"x\r\n" + BODY + b"\r\n0\r\n\r\n"), 400, CLOSE),
    ("9112 7.1", "a negative size", post(CHUNKED, b"-f\r\n" + BODY + b"\r\n0\r\n\r\n"), 400, CLOSE),
    ("9112 7.1", "a chunk longer than its size", post(CHUNKED, b"3\r\n" + BODY + b"\r\n0\r\n\r\n"), 400, CLOSE),
    ("9112 7.1", "a size above 2^64", post(CHUNKED, b"fffffffffffffffff\r\n" + BODY), 413, CLOSE),
]


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), 20 * PATIENCE)


def read_answer(s):
    """(status, headers, body) of one answer with Content-Length; None when the connection ends before it."""
    text = b""
    while b"\r\n\r\n" not in text:
        piece = s.recv(65536)
        if not piece:
            return None
        text += piece
    head, body = text.split(b"\r\n\r\n", 1)
    lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
    while len(body) < int(headers.get("content-length", 0)):
        piece = s.recv(65536)
        if not piece:
            break
        body += piece
    return int(lines[0].split(" ")[1]), headers, body


def ended(s):
    try:
        return s.recv(1) == b""
    except ConnectionError:
        return True


def is_our_error(answer):
    status, headers, body = answer
    if status < 400:
        return True
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError):
        return False
    return headers.get("content-type") == "application/json" and error["code"] and error["message"] and error["type"]


def check_cases(check, server):
    for section, what, request, status, lives in CASES:
        name = f"RFC {section}: {what}"
        s = connect(server)
        s.sendall(request)
        try:
            answer = read_answer(s)
        except (ConnectionError, TimeoutError):
            answer = None
        if check(name, answer and answer[0] == status, answer and answer[0]):
            check(name + ": the error has our shape", is_our_error(answer), answer)
            if lives:
                s.sendall(get(b"/version"))
                again = read_answer(s)
                check(name + ": the connection lives on", again and again[0] == 200, again)
            else:
                check(name + ": the connection ends", ended(s))
        s.close()


def main():
    check = Checks()
    with Server() as server:
        check_cases(check, server)
        if check.failed:
            print(server.log()[-2000:])
    check.end()


if __name__ == "__main__":
    main()
