"""The application's own checks, against whatever address it is given. What it saw is on stdout, for comparing two runs."""

import asyncio
import hashlib
import json
import sys

import httpx
import websockets

BASE = sys.argv[1]
seen: dict[str, object] = {}


def see(name: str, value: object, expected: object = None) -> None:
    seen[name] = value
    assert expected is None or value == expected, f"{name}: {value!r} instead of {expected!r}"


def rest(http: httpx.Client) -> None:
    item = {"name": "茶", "price": 2.5}
    see("missing", http.get("/items/7").status_code, 404)
    see("put", [(r := http.put("/items/7", json=item)).status_code, r.json()], [201, item])
    see("get", [(r := http.get("/items/7")).json(), r.headers["content-type"], r.headers["server"]])
    see("invalid", http.put("/items/8", json={"name": 1}).status_code, 422)
    see("delete", [(r := http.delete("/items/7")).status_code, r.content, r.headers.get("content-length")], [204, b"", None])
    see("not allowed", http.post("/items/7").status_code, 405)
    r = http.patch("/echo/a%2Fb/%E8%8C%B6?x=%2F&y=a+b", content="hello", headers=[("x-many", "1"), ("x-many", "2"), ("x-long", "x" * 4000)])
    told = r.json()
    see("origin", told.pop("origin") == BASE + "/", True)
    see("echo", told)
    see("failure", [(r := httpx.get(BASE + "/fail")).status_code, r.text], [500, "Internal Server Error"])


def semantics(http: httpx.Client) -> None:
    head = http.head("/file")
    see("head", [head.status_code, head.headers["content-length"], head.content], [200, "16384", b""])
    etag = head.headers["etag"]
    see("range", [(r := http.get("/file", headers={"range": "bytes=250-259"})).status_code, r.content, r.headers["content-range"]])
    see("ranges", http.get("/file", headers={"range": "bytes=99999-"}).status_code, 416)
    see("if-range", http.get("/file", headers={"range": "bytes=0-1", "if-range": etag}).status_code, 206)
    see("redirect", [(r := http.get("/redirect")).status_code, r.headers["location"]], [307, "/echo/there"])
    see("followed", http.get("/redirect", follow_redirects=True).json()["path"], "/echo/there")
    see("cookies", http.get("/login").headers.get_list("set-cookie"))
    see("session", http.get("/session").json(), {"session": "s-1", "theme": "dark"})
    see("gzip", [(r := http.get("/long")).headers["content-encoding"], len(r.text)], ["gzip", 5000])
    see("identity", http.get("/long", headers={"accept-encoding": "identity"}).headers.get("content-length"), "5000")
    cors = {"origin": "https://shop.example", "access-control-request-method": "PUT"}
    see("cors", [(r := http.options("/items/1", headers=cors)).status_code, r.headers["access-control-allow-origin"]])
    r = http.get("/pieces")
    see("chunked", [r.headers.get("transfer-encoding"), r.text.count(",")], ["chunked", 1000])


def bodies(http: httpx.Client) -> None:
    content = bytes(range(256)) * (32 << 10)
    digest = hashlib.sha256(content).hexdigest()
    expected = {"name": "发票.bin", "size": len(content), "sha256": digest}
    see("upload", http.post("/upload", files={"file": ("发票.bin", content)}).json(), expected)
    chunks = (content[at : at + 100_000] for at in range(0, len(content), 100_000))
    see("stream", http.post("/stream", content=chunks).json(), {"size": len(content), "sha256": digest, "chunked": "chunked"})
    digest, size = hashlib.sha256(), 0
    with http.stream("GET", "/download") as r:
        for chunk in r.iter_raw():
            digest.update(chunk)
            size += len(chunk)
    see("download", [size, digest.hexdigest()])


def events(http: httpx.Client) -> None:
    """Each event comes only after the one before it was seen, so nothing on the way may collect them."""
    came = []
    with httpx.Client(base_url=BASE, timeout=10) as other, http.stream("GET", "/events") as r:
        see("events' type", r.headers["content-type"])
        for line in r.iter_lines():
            if line.startswith("data: "):
                came.append(line)
                other.post("/tick")
    see("events", came, [f"data: {n}" for n in range(5)])


async def socket() -> None:
    url = BASE.replace("http", "ws", 1) + "/socket"
    async with websockets.connect(url, subprotocols=["chat"], proxy=None, max_size=None) as ws:
        see("subprotocol", ws.subprotocol, "chat")
        for message in ["你好", b"\x00\xff", "x" * 1_000_000, bytes(3_000_000)]:
            await ws.send(message)
            assert await ws.recv() == message
        await asyncio.wait_for(await ws.ping(), 10)
        await asyncio.gather(*(ws.send(str(n)) for n in range(100)))
        see("order", [await ws.recv() for _ in range(100)], [str(n) for n in range(100)])
        await ws.send("bye")
        try:
            await ws.recv()
        except websockets.ConnectionClosed as closed:
            see("close", [closed.rcvd.code, closed.rcvd.reason], [4001, "as you wish"])
    try:
        await websockets.connect(BASE.replace("http", "ws", 1) + "/nowhere", proxy=None)
    except websockets.InvalidStatus as refused:
        see("no socket", refused.response.status_code)


with httpx.Client(base_url=BASE, timeout=10) as http:
    for part in [rest, semantics, bodies, events]:
        part(http)
asyncio.run(socket())
json.dump(seen, sys.stdout, default=lambda b: b.hex(), indent=1, sort_keys=True)
